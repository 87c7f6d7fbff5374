"""Compaction changes no row; a vacuum names what it loses, and what is lost is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from dataset_helpers import contents, finished_unit, planned_unit, toy_dataset, video_row

from manifests import Dataset, table_history, tables
from manifests.compaction import compact, versions_at_stake
from manifests.decide import decide
from manifests.errors import DatasetError
from manifests.recipe import Recipe
from manifests.table_history import lost_versions, spans, vacuum
from manifests.validate import validate

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five more units and a score in four pieces: tables of many small files."""
    made = toy_dataset(tmp_path / "d", num_videos=2)
    with made.writer("test") as writer:
        for number in range(2, 7):
            video = video_row(f"more {number}")
            unit = planned_unit(number, [video])
            writer.append_videos([video])
            writer.append_plan([unit])
            writer.commit_units([finished_unit(made.path, unit)])
    ids = made.table("clips").column("clip_id").to_pylist()
    for start in range(4):
        some = ids[start::4]
        table = pa.table({"clip_id": some, "x": [0.5] * len(some), "l": [[start]] * len(some)})
        made.append_score("mine", table, metadata={"model": "m"})
    decide(made, Recipe(name="all"))
    decide(made, Recipe(name="again"))
    return Dataset.open(made.path)


def files_of(path: Path, name: str) -> set[str]:
    return {file.name for file in (path / "catalog" / name).glob("*.parquet")}


def test_no_row_changes_and_older_versions_stay(dataset: Dataset) -> None:
    before = contents(dataset)
    scores = sorted(map(repr, dataset.table("scores/mine").to_pylist()))
    recipe, older = dataset.metadata("decisions"), dict(dataset.versions)
    done = {table.name: table for table in compact(dataset, command="test")}
    now = Dataset.open(dataset.path)
    assert contents(now) == before
    assert sorted(map(repr, now.table("scores/mine").to_pylist())) == scores
    assert now.metadata("decisions") == recipe
    assert validate(now) == []
    assert now.clips.filter("mine.x = 0.5 AND verdict = 'keep'").count("*").fetchall() == [(14,)]
    by_text = now.sql("SELECT count(*) AS n FROM clips WHERE source = 'toy' AND gate = 'black'")
    assert by_text.column("n").to_pylist() == [7]
    clips = done["clips"]
    assert (clips.num_files_before, clips.num_files_after, clips.versions_lost) == (6, 1, ())
    assert done["scores/mine"].num_files_after == 1
    assert done["decisions"].num_files_before == done["decisions"].num_files_after == 1
    assert contents(Dataset.open(dataset.path, versions=older)) == before
    again = compact(now, command="test")
    assert all(table.num_files_before == table.num_files_after for table in again)
    assert Dataset.open(dataset.path).versions == now.versions


def test_a_vacuum_loses_just_what_it_named(dataset: Dataset) -> None:
    path, older = dataset.path, dict(dataset.versions)
    named = versions_at_stake(dataset)
    assert named["clips"] == tuple(range(1, 7))
    assert named["scores/mine"] == (1, 2, 3, 4)
    before = contents(dataset)
    done = compact(dataset, command="test", vacuum=True)
    assert {table.name: table.versions_lost for table in done if table.versions_lost} == named
    assert contents(Dataset.open(path)) == before
    assert len(files_of(path, "clips")) == 1
    with pytest.raises(DatasetError) as raised:
        Dataset.open(path, versions=older)
    assert "is not there (any more)" in raised.value.message
    assert str(raised.value.hint).startswith("Open the dataset without pinned versions")
    with pytest.raises(DatasetError, match=r"Version 3 of the table clips is not there \(any more"):
        Dataset.open(path, versions={"clips": 3})
    assert Dataset.open(path, versions={"clips": 0}).table("clips").num_rows == 0
    assert versions_at_stake(Dataset.open(path)) == {}


def test_a_vacuum_alone_keeps_every_version_that_needs_only_live_files(dataset: Dataset) -> None:
    clips = dataset.path / "catalog" / "clips"
    assert vacuum(clips).num_files == 0
    decisions = dataset.path / "catalog" / "decisions"
    assert lost_versions(decisions) == (1,)
    assert vacuum(decisions).versions == (1,)
    assert Dataset.open(dataset.path).metadata("decisions")["recipe"] == "again"


def test_files_that_somebody_may_be_about_to_commit_are_spared(dataset: Dataset) -> None:
    folder = dataset.path / "catalog" / "decisions"
    (folder / "part-new.parquet").write_bytes(b"not committed yet")
    vacuum(folder, grace_s=3600)
    assert (folder / "part-new.parquet").exists()
    assert len(files_of(dataset.path, "decisions")) == 2
    vacuum(folder)
    assert not (folder / "part-new.parquet").exists()


def test_the_command_asks_before_a_vacuum(dataset: Dataset, cli: Cli) -> None:
    path = dataset.path
    asked = cli("manifest", "compact", path, "--vacuum")
    assert asked.exit_code == 2
    assert "Nothing was done: a vacuum of" in asked.stderr
    assert "clips 1-6; decisions 1; plan 1-6" in asked.stderr
    assert Dataset.open(path).versions == dataset.versions
    shown = json.loads(cli("manifest", "compact", path, "--dry-run", "--json").stdout)
    assert shown["versions_at_stake"]["decisions"] == [1]
    done = cli("manifest", "compact", path, "--vacuum", "--yes")
    assert done.exit_code == 0
    assert "clips: 6 files, now 1; 6 old ones removed, versions 1-6 are lost" in done.stdout
    again = cli("manifest", "compact", path, "--vacuum")
    assert again.exit_code == 0, "there is nothing to lose any more"
    found = json.loads(cli("manifest", "compact", path, "--json").stdout)
    assert {table["num_files_after"] for table in found["tables"]} == {1}
    assert cli("manifest", "compact", path, "--quiet").stdout == ""


def test_columns_of_text_can_be_searched_after_rows_were_deleted(dataset: Dataset) -> None:
    kept = "SELECT clip_id FROM decisions WHERE verdict = 'keep' ORDER BY 1"
    first, *others = dataset.sql(kept).column("clip_id").to_pylist()
    tables.delete(tables.open_table(dataset.path / "catalog" / "decisions"), "clip_id", [first])
    assert Dataset.open(dataset.path).sql(kept).column("clip_id").to_pylist() == others


def test_only_one_writer(dataset: Dataset, cli: Cli) -> None:
    with dataset.writer("egodojo curate x"):
        refused = cli("manifest", "compact", dataset.path)
    assert refused.exit_code == 1
    assert "is being written by `egodojo curate x`" in refused.stderr


def test_numbers_in_words() -> None:
    assert spans([7, 1, 2, 3]) == "1-3, 7"
    assert spans([]) == ""


@pytest.mark.parametrize("seed", range(20))
def test_versions_without_some_file_are_those_of_a_plain_count(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    lives: list[tuple[str, int, int | None]] = []
    for number in range(draw.randrange(1, 12)):
        added = draw.randrange(10)
        removed = draw.choice([None, *range(added + 1, 11)])
        lives.append((str(number), added, removed))
        if draw.random() < 0.7:
            (tmp_path / f"{number}.parquet").touch()
    named = [(f"{name}.parquet", added, removed) for name, added, removed in lives]
    doomed = {name for name, _, _ in named if draw.random() < 0.6}
    want = []
    for version in range(10):
        used = [n for n, a, r in named if a <= version < (10 if r is None else r)]
        is_whole = all((tmp_path / name).exists() for name in used)
        if is_whole and doomed & set(used):
            want.append(version)
    assert table_history._lost(tmp_path, named, doomed, 10) == tuple(want)
