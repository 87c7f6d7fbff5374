"""Every digest and every reference: what is bent is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_helpers import toy_dataset

from manifests import Dataset, schema, tables
from manifests.decide import decide
from manifests.latents import LatentWriter, latent_dir
from manifests.recipe import Recipe
from manifests.validate import validate

Cli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = toy_dataset(tmp_path_factory.mktemp("sound") / "d", num_videos=2)
    decide(dataset, Recipe(name="all"))
    rows = dataset.sql("SELECT * FROM clips WHERE gate IS NULL ORDER BY clip_id").to_pylist()
    dataset.append_score(
        "hands", pa.table({"clip_id": [row["clip_id"] for row in rows]}), metadata={}
    )
    for number in (0, 1):
        writer = LatentWriter(latent_dir(dataset.path, "lam-00ff00ff", 4), number, {})
        for row in rows:
            if row["shard"] == f"clips-{number:06d}":
                writer.add(row["clip_id"], np.zeros((56, 32), np.float16))
        writer.finish()
    assert validate(Dataset.open(dataset.path)) == []
    return dataset.path


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "d"
    shutil.copytree(sound, copy)
    return copy


def kinds(path: Path) -> set[str]:
    return {problem.kind for problem in validate(Dataset.open(path))}


def rewrite(path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Bend the first row (by digest) of a table behind the writer's back."""
    table = tables.open_table(path / "catalog" / name)
    rows = tables.dataset_of(table).to_table().to_pylist()
    rows.sort(key=repr)
    change(rows[0])
    tables.replace(table, pa.Table.from_pylist(rows, schema=schema.TABLES[name]))


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("videos", {"state": "fine"}, {"video_state", "plan_video"}),
        ("videos", {"uri": "/footage/elsewhere.mp4"}, {"plan_video"}),
        ("plan", {"number": 7}, {"unit_plan"}),
        ("plan", {"unit_id": "00"}, {"unit_plan"}),
        ("units", {"state": "fine"}, {"unit_state"}),
        ("units", {"num_clips": 1}, {"unit_counts"}),
        ("units", {"shard": None}, {"unit_shard", "clip_shard", "shard_unknown"}),
        ("units", {"shard_bytes": 3}, {"shard_size"}),
        ("units", {"shard_sha256": "00"}, {"shard_digest"}),
        ("units", {"parts": []}, {"unit_plan", "clip_unit"}),
        ("decisions", {"verdict": "maybe"}, {"decision"}),
        ("decisions", {"clip_id": "00"}, {"decision"}),
    ],
)
def test_bent_rows_are_found(
    damaged: Path, name: str, change: dict[str, Any], wanted: set[str]
) -> None:
    rewrite(damaged, name, lambda row: row.update(change))
    assert kinds(damaged) == wanted


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"end_tick": 90}, {"clip_id", "clip_span"}),
        ({"video_id": "ab"}, {"clip_id", "clip_unit"}),
        ({"shard": "clips-000009"}, {"clip_shard", "latents"}),
        ({"num_frames": 59}, {"latents"}),
        ({"gate": "black"}, {"unit_counts", "clip_shard", "decision", "index_clip", "latents"}),
    ],
)
def test_a_bent_clip_is_found(damaged: Path, change: dict[str, Any], wanted: set[str]) -> None:
    table = tables.open_table(damaged / "catalog/clips")
    rows = tables.dataset_of(table).to_table().to_pylist()
    bent = next(row for row in rows if row["start_tick"] == 0 and row["gate"] is None)
    bent.update(change)
    tables.replace(table, pa.Table.from_pylist(rows, schema=schema.CLIPS))
    assert kinds(damaged) == wanted


@pytest.mark.parametrize("name", ["videos", "plan", "units", "clips", "decisions"])
def test_a_row_that_is_there_twice_is_found(damaged: Path, name: str) -> None:
    table = tables.open_table(damaged / "catalog" / name)
    row = tables.dataset_of(table).to_table().slice(0, 1)
    tables.append(table, row.cast(schema.TABLES[name]))
    expected = {"videos": "video_twice", "plan": "plan_twice", "units": "unit_twice"}
    found = kinds(damaged)
    assert expected.get(name, {"clips": "clip_twice"}.get(name, "decision")) in found


def test_damaged_bytes_are_found(damaged: Path) -> None:
    tar = damaged / "shards/clips-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    (damaged / "shards/clips-000001.tar").unlink()
    shutil.copy(tar, damaged / "shards/clips-000005.tar")
    assert kinds(damaged) == {"shard_digest", "shard_missing", "shard_unknown"}


def test_a_damaged_index_is_found(damaged: Path) -> None:
    shards = damaged / "shards"
    shutil.copy(shards / "clips-000000.idx.parquet", shards / "clips-000001.idx.parquet")
    assert kinds(damaged) == {"index_clip"}
    (shards / "clips-000001.idx.parquet").write_bytes(b"nothing")
    assert kinds(damaged) == {"index_unreadable"}


@pytest.mark.parametrize("column", ["gop_crc32", "members"])
def test_a_wrong_checksum_in_an_index_is_found(damaged: Path, column: str) -> None:
    import pyarrow.parquet as pq

    path = damaged / "shards/clips-000000.idx.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    if column == "members":
        rows[0]["members"][1]["crc32"] ^= 1
    else:
        rows[0]["gop_crc32"][-1] ^= 1
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert kinds(damaged) == {"index_checksum"}


def test_damaged_latents_are_found(damaged: Path) -> None:
    folder = latent_dir(damaged, "lam-00ff00ff", 4)
    data = folder / "clips-000000.f16"
    data.write_bytes(data.read_bytes()[:-64])
    again = LatentWriter(folder, 1, {})
    clip_id = Dataset.open(damaged).sql(
        "SELECT clip_id FROM clips WHERE shard = 'clips-000001' LIMIT 1"
    )
    again.add(clip_id.column("clip_id")[0].as_py(), np.zeros((56, 32), np.float16))
    again.finish()
    found = [problem.detail for problem in validate(Dataset.open(damaged))]
    assert len(found) == 2
    assert any("has 7104 bytes for 112 rows" in detail for detail in found)
    assert any("has latents twice" in detail for detail in found)


def test_scores_of_unknown_clips_are_found(damaged: Path) -> None:
    table = pa.table({"clip_id": ["00"]})
    Dataset.open(damaged).append_score("hands", table, metadata={})
    assert kinds(damaged) == {"score_hands"}


def test_the_command_lists_problems_and_exits_1(damaged: Path, cli: Cli) -> None:
    fine = cli("manifest", "validate", damaged)
    assert (fine.exit_code, fine.stdout.strip()) == (0, f"{damaged} is valid.")
    (damaged / "shards/clips-000001.tar").unlink()
    bad = cli("manifest", "validate", damaged)
    assert bad.exit_code == 1
    assert "shard_missing  clips-000001.tar" in bad.stdout
    assert "1 problems in" in bad.stdout


def test_latents_that_cannot_be_read_are_a_problem_not_an_exception(damaged: Path) -> None:
    folder = latent_dir(damaged, "lam-00ff00ff", 4)
    (folder / "clips-000000.rows.parquet").write_bytes(b"no parquet")
    for name, text in (("step-x", "{}"), ("step-2", "{"), ("step-3", "[]")):
        other = folder.with_name(name)
        other.mkdir()
        (other / "meta.json").write_text(text)
    found = [problem for problem in validate(Dataset.open(damaged)) if problem.kind == "latents"]
    assert len(found) == 4
    assert all("cannot be read" in problem.detail for problem in found)


def test_the_catalogue_is_not_read_again_for_each_shard(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[str] = []
    query = Dataset.sql
    monkeypatch.setattr(
        Dataset, "sql", lambda self, text: queries.append(text) or query(self, text)
    )
    asked = []
    for num_videos in (1, 6):
        dataset = toy_dataset(tmp_path / f"{num_videos}", num_videos=num_videos)
        queries.clear()
        assert validate(dataset) == []
        asked.append(len(queries))
    assert asked[0] == asked[1]
