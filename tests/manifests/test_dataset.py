"""A dataset folder: create, open, pin, write, refuse."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from dataset_helpers import (
    SETTINGS,
    clip_row,
    contents,
    finished_unit,
    planned_unit,
    toy_dataset,
    unit_row,
    video_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import Dataset, DatasetSettings, schema, tables
from manifests.dataset import EncodeSettings
from manifests.errors import ConfigError, DatasetError, StorageError
from manifests.recipe import Rule
from manifests.validate import validate


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return toy_dataset(tmp_path_factory.mktemp("datasets") / "toy")


def test_a_new_dataset_has_every_table_empty_with_its_full_schema(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    for name, wanted in schema.TABLES.items():
        table = dataset.table(name)
        assert table.num_rows == 0
        assert table.schema.names == wanted.names
    assert dataset.clips.fetchall() == []
    assert dataset.files.fetchall() == []
    assert validate(dataset) == []
    assert Dataset.open(tmp_path / "d").settings == SETTINGS


def test_tables_keep_their_history(toy: Dataset) -> None:
    for name in schema.TABLES:
        table = tables.open_table(toy.path / "catalog" / name)
        assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"


def test_settings_digest_covers_everything_but_the_name() -> None:
    base = DatasetSettings(name="a")
    assert base.digest == DatasetSettings(name="b").digest
    others = [
        DatasetSettings(name="a", clip_len_s=10.0),
        DatasetSettings(name="a", encode=EncodeSettings(crf=23)),
        DatasetSettings(name="a", gates=(Rule(name="black", keep_when="true"),)),
        DatasetSettings(name="a", gates=(Rule(name="black", keep_when="true", on_missing="keep"),)),
    ]
    assert len({base.digest, *(s.digest for s in others)}) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EncodeSettings(width=321), "encode.width is 321, must be an even number"),
        (lambda: EncodeSettings(crf=60), r"encode.crf is 60, must lie in 0\.\.51"),
        (lambda: EncodeSettings(gop=0), "encode.gop is 0"),
        (lambda: EncodeSettings(max_fps=0.0), "encode.max_fps is 0.0"),
        (lambda: EncodeSettings(preset="veryfsat"), "encode.preset is 'veryfsat', which x264"),
        (lambda: EncodeSettings(max_fps=float("nan")), "encode.max_fps is nan"),
        (lambda: DatasetSettings(name="a", unit_len_s=float("nan")), "unit_len_s is nan"),
        (lambda: DatasetSettings(name="a", clip_len_s=0.0), "clip_len_s is 0.0"),
        (lambda: DatasetSettings(name="a", min_frames=0), "min_frames must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=words):
        make()


def test_another_setting_on_an_existing_dataset_is_refused_with_a_hint(toy: Dataset) -> None:
    assert Dataset.open_or_create(toy.path, SETTINGS).versions == toy.versions
    other = DatasetSettings(name="toy", gates=SETTINGS.gates, encode=EncodeSettings(crf=30))
    with pytest.raises(ConfigError, match=r"was made with encode = .*crf: 20") as caught:
        Dataset.open_or_create(toy.path, other)
    assert "egodojo decide" in str(caught.value.hint)


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path, toy: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"is not a dataset: it has no dataset\.yaml"):
        Dataset.open(tmp_path)
    with pytest.raises(DatasetError, match="is a dataset already"):
        Dataset.create(toy.path, SETTINGS)
    (tmp_path / "holiday.mp4").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"not empty and not a dataset: it holds .holiday\.mp4"):
        Dataset.create(tmp_path, SETTINGS)
    with pytest.raises(DatasetError, match="is a file, not a folder"):
        Dataset.create(tmp_path / "holiday.mp4", SETTINGS)
    with pytest.raises(DatasetError, match="lost a slash"):
        Dataset.open(Path("s3://bucket/data"))


@pytest.mark.parametrize("name", ["50%", "a[1", "b]", "a^b", "a|b", "a\\b", "a\tb", "a\udcff"])
def test_characters_that_tables_cannot_handle_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"contains '.{1,6}', which its tables cannot handle"):
        Dataset.create(tmp_path / name, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_an_edited_or_newer_dataset_yaml_is_refused(tmp_path: Path) -> None:
    file = Dataset.create(tmp_path / "d", SETTINGS).path / "dataset.yaml"
    text = file.read_text()
    file.write_text(text.replace("crf: 20", "crf: 21"))
    with pytest.raises(DatasetError, match="was changed after it was written"):
        Dataset.open(tmp_path / "d")
    file.write_text(text.replace("format_version: 1", "format_version: 2"))
    with pytest.raises(DatasetError, match="format version 2; this egodojo reads 1"):
        Dataset.open(tmp_path / "d")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    (dataset.path / "catalog/plan").rename(dataset.path / "catalog/elsewhere")
    with pytest.raises(DatasetError, match="The table plan is missing"):
        Dataset.open(tmp_path / "d")


def test_pinned_versions_stay_while_the_dataset_grows(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d")
    pins = dataset.versions
    more = video_row("more")
    unit = planned_unit(3, [more])
    with dataset.writer("grow") as writer:
        writer.append_videos([more])
        writer.append_plan([unit])
        writer.commit_units([finished_unit(dataset.path, unit)])
    pinned = Dataset.open(tmp_path / "d", versions=pins)
    assert pinned.versions == pins
    assert pinned.table("clips").num_rows == 9
    assert dataset.table("clips").num_rows == 12
    assert Dataset.open(tmp_path / "d").versions == dataset.versions
    with pytest.raises(DatasetError, match="opened at given versions, which are read-only"):
        pinned.replace_decisions(pa.table({}), metadata={})
    with (
        pytest.raises(DatasetError, match="read-only"),
        pinned.writer("grow"),
    ):
        pass


def test_a_lost_version_is_refused(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d")
    with pytest.raises(DatasetError, match="Version 77 of the table clips is not there"):
        Dataset.open(tmp_path / "d", versions={"clips": 77})
    opened = tables.open_table(dataset.path / "catalog/clips")
    for file in tables.live_files(opened):
        Path(file).unlink()
    with pytest.raises(DatasetError, match="Version 1 of the table clips is not there"):
        Dataset.open(tmp_path / "d", versions={"clips": 1})


def test_queries_see_views_and_errors_pass_on_duckdbs_words(toy: Dataset) -> None:
    states = toy.sql("SELECT state, count(*) AS n FROM files GROUP BY 1").to_pylist()
    assert states == [{"state": "processed", "n": 3}]
    with pytest.raises(DatasetError, match=r'The query failed: .*"durationn" not found') as caught:
        toy.sql("SELECT durationn FROM clips")
    assert "videos, plan, units, clips" in str(caught.value.hint)
    with pytest.raises(DatasetError, match="has no table 'clip'") as caught:
        toy.table("clip")
    assert caught.value.hint == "Did you mean 'clips'?"


def test_a_clip_is_found_by_id(toy: Dataset) -> None:
    row = toy.table("clips").to_pylist()[0]
    clip = toy.clip(row["clip_id"])
    assert clip.row() == row
    assert clip.verdict is None
    with pytest.raises(DatasetError, match="has no clip 'nope'"):
        toy.clip("nope")


def test_queries_see_no_python_variables(toy: Dataset) -> None:
    local = pa.table({"x": [1]})
    assert local.num_rows == 1
    with pytest.raises(DatasetError, match="local"):
        toy.sql("SELECT * FROM local")


def test_a_unit_is_committed_once_and_only_as_planned(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    video = video_row("new")
    unit = planned_unit(1, [video])
    first = planned_unit(0, [video_row("v0")])
    clip = clip_row(unit, unit.parts[0])
    before = contents(dataset)
    with dataset.writer("test") as writer:
        for units, words in (
            ([(unit_row(unit, []), [])], "is not in the plan"),
            ([finished_unit(dataset.path, first)], "is finished already"),
        ):
            with pytest.raises(DatasetError, match=words):
                writer.commit_units(units)
        with pytest.raises(DatasetError, match="is planned already"):
            writer.append_plan([first])
        assert contents(dataset) == before
        writer.append_plan([unit])
        assert list(dataset.pending_units()) == [unit]
        for bad, words in (
            ((unit_row(unit, []), [clip]), "counts 0 written and 0 gated clips, its rows 1 and 0"),
            ((unit_row(unit, [clip]), [{**clip, "shard": None}]), "does not fit unit 1"),
            ((unit_row(unit, [clip]), [{**clip, "unit_id": "x"}]), "does not fit unit 1"),
            ((unit_row(unit, [clip], state="fine"), [clip]), "state 'fine' is unknown"),
            ((unit_row(unit, [clip]), [{**clip, "fps": float("nan")}]), "fps is nan"),
        ):
            with pytest.raises(DatasetError, match=words):
                writer.commit_units([bad])
        good = (unit_row(unit, [clip]), [clip])
        with pytest.raises(DatasetError, match="is finished already"):
            writer.commit_units([good, good])
        writer.commit_units([good])
    assert list(dataset.pending_units()) == []


def test_nothing_is_written_after_a_failed_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    with dataset.writer("test") as writer:
        with monkeypatch.context() as patch:
            patch.setattr(tables, "append", fail)
            with pytest.raises(OSError, match="disk full"):
                writer.append_videos([video_row("a")])
        with pytest.raises(DatasetError, match=r"An earlier write to .* failed"):
            writer.append_videos([video_row("a")])
    with dataset.writer("again") as writer:
        writer.append_videos([video_row("a")])
    assert dataset.table("videos").num_rows == 2


def test_leftovers_of_other_tokens_are_removed(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    leftover = dataset.path / "shards" / "clips-000009.tar.tmp-00ff00ff00ff00ff"
    leftover.write_bytes(b"half")
    with dataset.writer("test") as writer:
        assert not leftover.exists()
        mine = leftover.with_name(f"clips-000009.tar.tmp-{writer.token}")
        mine.write_bytes(b"half")
        writer.recover()
        assert mine.exists()
    assert (dataset.path / "shards" / "clips-000000.tar").exists()


@settings(max_examples=4, deadline=None)
@given(
    st.text(st.sampled_from(" #'\"äß日é;&?=+~!@$(),{}`*:<>\u3000\u00a0"), min_size=1, max_size=12)
)
def test_any_other_path_works(name: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        dataset = toy_dataset(Path(parent) / f"x{name}" / f"{name}y", num_videos=1)
        opened = Dataset.open(dataset.path, versions=dataset.versions)
        assert contents(opened) == contents(dataset)
        assert opened.sql("SELECT count(*) AS n FROM clips").to_pylist() == [{"n": 3}]
        assert validate(opened) == []


@settings(max_examples=4, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_any_uri_and_text_is_kept_as_it_is(word: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        dataset = Dataset.create(Path(parent) / "d", SETTINGS)
        row = video_row("v", uri=f"/footage/{word}.mp4", text=word)
        with dataset.writer("test") as writer:
            writer.append_videos([row])
        assert Dataset.open(dataset.path).table("videos").to_pylist() == [row]
        assert dataset.files.fetchall()[0][0] == row["uri"]


def test_scores_are_structs_of_their_name(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    ids = sorted(row["clip_id"] for row in dataset.table("clips").to_pylist())
    made = {"model": "hands-v1", "model_digest": "00ff"}
    dataset.append_score("hands", pa.table({"clip_id": ids[:1], "ratio": [0.5]}), metadata=made)
    dataset.append_score(
        "hands", pa.table({"clip_id": ids[1:2], "ratio": [0.7], "side": ["left"]}), metadata=made
    )
    reopened = Dataset.open(dataset.path)
    query = "SELECT hands.ratio, hands.side FROM clips ORDER BY clip_id"
    wanted = [(0.5, None), (0.7, "left"), (None, None)]
    for opened in (dataset, reopened):
        assert [tuple(row.values()) for row in opened.sql(query).to_pylist()] == wanted
    joined = "SELECT hands.ratio FROM clips JOIN hands USING (clip_id) WHERE hands.ratio > 0.6"
    assert reopened.sql(joined).num_rows == 1
    assert reopened.scores == ["hands"]
    assert reopened.metadata("scores/hands") == made
    assert reopened.versions["scores/hands"] == 2
    dataset.append_score(
        "hands", pa.table({"clip_id": ids, "ratio": [0.1] * 3}), metadata=made, replace=True
    )
    assert dataset.table("scores/hands").num_rows == 3
    assert validate(dataset) == []


def test_scores_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    good = pa.table({"clip_id": ["a"], "ratio": [0.5]})
    dataset.append_score("hands", good, metadata={})
    cases = [
        ("files", good, DatasetError, "cannot be called 'files'"),
        ("Hands", good, DatasetError, "cannot be called 'Hands'"),
        ("fps", good, DatasetError, "cannot be called 'fps'"),
        ("hands", good, DatasetError, "clip a would have two rows"),
        (
            "hands",
            pa.table({"clip_id": ["b"], "ratio": ["x"]}),
            ConfigError,
            "ratio has the type double there and string here",
        ),
    ]
    for name, table, error, words in cases:
        with pytest.raises(error, match=words):
            dataset.append_score(name, table, metadata={})
    assert dataset.table("scores/hands").num_rows == 1


def test_two_datasets_do_not_see_each_other(tmp_path: Path, toy: Dataset) -> None:
    other = toy_dataset(tmp_path / "other", num_videos=1)
    counts = [opened.relation("clips", verdict="all") for opened in (toy, other)]
    assert [relation.count("*").fetchall()[0][0] for relation in counts] == [9, 3]


def test_of_two_decisions_at_once_the_later_one_stands_alone(toy: Dataset) -> None:
    first, second = Dataset.open(toy.path), Dataset.open(toy.path)
    ids = toy.table("clips").column("clip_id").to_pylist()

    def decided(verdict: str) -> pa.Table:
        rows = [{"clip_id": i, "verdict": verdict, "reason": None} for i in ids]
        return pa.Table.from_pylist(rows, schema=schema.DECISIONS)

    first.replace_decisions(decided("keep"), metadata={"recipe": "first"})
    second.replace_decisions(decided("drop"), metadata={"recipe": "second"})
    newest = Dataset.open(toy.path)
    assert newest.table("decisions").column("verdict").to_pylist() == ["drop"] * len(ids)
    assert newest.metadata("decisions") == {"recipe": "second"}
    assert newest.versions["decisions"] == 2


def test_of_two_scores_at_once_none_is_lost_and_none_doubled(tmp_path: Path) -> None:
    path = Dataset.create(tmp_path / "d", SETTINGS).path
    start = threading.Barrier(4)
    refused = []

    def score(number: int) -> None:
        dataset = Dataset.open(path)
        start.wait()
        for clip_id in (f"own{number}", "shared"):
            try:
                dataset.append_score("hands", pa.table({"clip_id": [clip_id]}), metadata={})
            except DatasetError as error:
                refused.append(error.message)

    threads = [threading.Thread(target=score, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["Table scores/hands: clip shared would have two rows."] * 3
    ids = Dataset.open(path).table("scores/hands").column("clip_id").to_pylist()
    assert sorted(ids) == ["own0", "own1", "own2", "own3", "shared"]


def test_a_view_or_verdict_that_is_none_is_refused(toy: Dataset) -> None:
    with pytest.raises(DatasetError, match="has no view 'clipz'") as caught:
        toy.relation("clipz")
    assert caught.value.hint == "Did you mean 'clips'?"
    with pytest.raises(DatasetError, match="has no verdict 'kept'"):
        toy.relation("clips", verdict="kept")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"clip": 1}, "There is no table 'clip' to open at version 1"),
        ({"clips": -1}, "The version of table clips is -1"),
        ({"clips": "1"}, "The version of table clips is '1'"),
    ],
)
def test_impossible_pins_are_refused(toy: Dataset, versions: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Dataset.open(toy.path, versions=versions)


@pytest.mark.parametrize("name", ["clips", "videos"])
def test_a_lost_file_of_a_table_is_one_sentence(tmp_path: Path, name: str) -> None:
    dataset = toy_dataset(tmp_path / "d")
    for file in (dataset.path / "catalog" / name).glob("*.parquet"):
        file.unlink()
    again = Dataset.open(dataset.path)
    with pytest.raises(DatasetError, match=r"A table of .* cannot be read"):
        again.table(name)
    with pytest.raises(DatasetError, match=r"A table of .* cannot be read"):
        again.sql("SELECT 1")


def test_a_damaged_dataset_yaml_is_an_error_of_the_dataset(tmp_path: Path) -> None:
    file = Dataset.create(tmp_path / "d", SETTINGS).path / "dataset.yaml"
    for content in (b"\xff\xfe", b"a: [", b"name: x\nformat_version: 1\nsettings: [1]\n"):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"dataset\.yaml") as caught:
            Dataset.open(tmp_path / "d")
        assert caught.value.hint == "Put the original file back."
        assert caught.value.exit_code == 1


def test_a_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Cannot write the table videos"):
        Dataset.create(tmp_path / "file" / "d", SETTINGS)
    dataset = toy_dataset(tmp_path / "d")
    rows = dataset.table("decisions")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StorageError, match="decisions may not be written to"):
        dataset.replace_decisions(rows, metadata={})
    monkeypatch.undo()
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(StorageError, match=r"Cannot write the table decisions .*No space left"):
        dataset.replace_decisions(rows, metadata={})
