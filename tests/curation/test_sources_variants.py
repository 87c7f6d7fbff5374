"""What published folders are like besides the textbook: depth maps, gaps, other shapes, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_sources import clips, run

from curation.curate import CurateRequest, prepare
from curation.ingest import find_inputs, probe_input
from curation.sidecars import Actions, Span
from curation.sources.egodex import read_poses, read_text
from curation.sources.lerobot import LeRobotFolder, open_lerobot
from curation.sources.record import record_digests
from curation.sources.reference import SourceRef
from curation.sources.rows import read_lerobot
from manifests.errors import ConfigError, SampleError

DEPTH = {"dtype": "video", "shape": [120, 160, 1], "info": {"video.is_depth_map": True}}
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def folder_of(root: Path, change: Callable[[dict[str, Any]], object]) -> LeRobotFolder:
    """A dataset that is no more than its `meta/info.json`."""
    told = layouts.info("v3.0", cameras=[layouts.WRIST, layouts.TOP])
    change(told)
    layouts.write_json(root / "meta/info.json", told)
    return open_lerobot(str(root))


def read(root: Path, names: list[str] = layouts.NAMES) -> tuple[tuple[Span, ...], Actions | None]:
    """Spans and actions of the one video of the top camera."""
    (uri,) = open_lerobot(str(root)).videos(layouts.TOP)
    ref = SourceRef(layout="lerobot", path=str(root), camera=layouts.TOP)
    return read_lerobot(ref, uri, names)


def change_rows(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Rewrite a Parquet file."""
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write_v3(tmp_path_factory.mktemp("made") / "packed")


@pytest.fixture
def packed(made: Path, tmp_path: Path) -> Path:
    """A copy of its tables, with links to its videos as the Hugging Face cache has them."""
    for path in (path for path in made.rglob("*") if path.is_file()):
        copy = tmp_path / path.relative_to(made)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path) if path.suffix == ".mp4" else copy.write_bytes(path.read_bytes())
    return tmp_path


def test_depth_maps_are_taken_only_when_asked_for_by_key(tmp_path: Path) -> None:
    keys = ["observation.images.head_map", "observation.images.depth.wrist"]

    def change(told: dict[str, Any]) -> None:
        named_so = {"dtype": "video", "shape": [120, 160, 3]}
        told["features"] = {keys[0]: DEPTH, keys[1]: named_so, **told["features"]}

    folder = folder_of(tmp_path, change)
    assert folder.choose_cameras(()) == (layouts.TOP,)
    assert folder.choose_cameras(["wrist"]) == (layouts.WRIST,)
    assert folder.choose_cameras([keys[1], "head_map"]) == (keys[1], keys[0])


def test_cameras_that_modality_names_come_first_and_by_that_name(tmp_path: Path) -> None:
    shown = {"front": {"original_key": layouts.WRIST}}
    layouts.write_json(tmp_path / "meta/modality.json", {"video": shown})
    folder = folder_of(tmp_path, lambda told: None)
    assert folder.choose_cameras(()) == (layouts.WRIST,)
    assert folder.choose_cameras(["front", "top"]) == (layouts.WRIST, layouts.TOP)


@pytest.mark.parametrize(
    "change",
    [
        {"names": {"gripper": 2, "shoulder": 0, "elbow": 1}},
        {"names": {"motors": layouts.NAMES}},
        {"names": [layouts.NAMES], "shape": [1, 3]},
        {"names": None, "shape": 3},
    ],
)
def test_however_a_vectors_elements_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, lambda told: told["features"]["action"].update(change))
    columns = folder.columns(layouts.NAMES)
    assert [(column.key, column.index) for column in columns] == [("action", n) for n in range(3)]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"fps": "fast"}, "could not convert string to float: 'fast'"),
        ({"fps": -3}, "fps is -3"),
        ({"features": {"action": {"shape": ["a"]}}}, "invalid literal for int"),
        ({"features": {"action": 7}}, "'int' object is not iterable"),
    ],
)
def test_an_info_that_is_not_as_published(
    tmp_path: Path, change: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ConfigError, match="is not built as LeRobot writes it") as caught:
        folder_of(tmp_path, lambda told: told.update(change))
    assert cause in caught.value.message


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("modality.json", '{"action": {"neck": {"start": 2}}}', "'end' is missing"),
        ("episodes.jsonl", '{"length": 3}\n', "'episode_index' is missing"),
        ("episodes.jsonl", "[1]\n", "must be integers or slices"),
    ],
)
def test_tables_that_are_not_as_published(tmp_path: Path, name: str, text: str, cause: str) -> None:
    told = layouts.info("v2.1", cameras=[layouts.TOP])
    layouts.write_json(tmp_path / "meta/info.json", told)
    (tmp_path / "meta" / name).write_text(text)
    with pytest.raises(ConfigError, match="is not built as LeRobot writes it") as caught:
        open_lerobot(str(tmp_path)).videos(layouts.TOP)
    assert cause in caught.value.message


def test_episodes_without_rows_or_without_this_camera_are_left_out(packed: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        empty = {**rows[0], "episode_index": 7, "length": 0, "tasks": []}
        unseen = {**rows[0], "episode_index": 8}
        unseen |= {key: None for key in rows[0] if key.startswith(f"videos/{layouts.TOP}/")}
        rows[1:1] = [empty, unseen]

    change_rows(packed / EPISODES, change)
    spans, found = read(packed)
    assert [span.text for span in spans] == layouts.TASKS
    assert found is not None
    np.testing.assert_array_equal(found.values, layouts.actions_of(0, 70))


def test_rows_and_pictures_are_packed_in_files_of_their_own(packed: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        prefix = f"videos/{layouts.TOP}/"
        rows[1] |= {f"{prefix}file_index": 1, f"{prefix}from_timestamp": 0.0}
        rows.reverse()

    change_rows(packed / EPISODES, change)
    videos = open_lerobot(str(packed)).videos(layouts.TOP)
    ref = SourceRef(layout="lerobot", path=str(packed), camera=layouts.TOP)
    for uri, first, count, task in zip(sorted(videos), (0, 40), (40, 30), range(2), strict=True):
        (span,), found = read_lerobot(ref, uri, layouts.NAMES)
        assert span.text == layouts.TASKS[task]
        assert span.end_s == pytest.approx((count - 0.5) / layouts.FPS)
        assert found is not None
        np.testing.assert_array_equal(found.values, layouts.actions_of(first, count))


def test_texts_need_no_table_of_tasks_and_may_be_missing(packed: Path) -> None:
    (packed / "meta/tasks.parquet").unlink()
    assert [span.text for span in read(packed)[0]] == layouts.TASKS
    change_rows(packed / EPISODES, lambda rows: rows[0].update(tasks=None))
    folder = LeRobotFolder(str(packed))
    (episodes,) = folder.videos(layouts.TOP).values()
    assert [episode.tasks for episode in episodes] == [(), (layouts.TASKS[1],)]
    path = packed / EPISODES
    pq.write_table(pq.read_table(path).drop(["tasks"]), path)
    assert [span.text for span in read_without_cache(packed)] == [None, None]


def read_without_cache(root: Path) -> tuple[Span, ...]:
    (root / "meta/info.json").touch()
    return read(root)[0]


def test_one_text_may_stand_for_the_list_of_tasks(tmp_path: Path) -> None:
    told = layouts.info("v2.1", cameras=[layouts.TOP])
    layouts.write_json(tmp_path / "meta/info.json", told)
    line = {"episode_index": 0, "tasks": "fold the towel", "length": 30}
    layouts.write_json(tmp_path / "meta/episodes.jsonl", line)
    ((episode,),) = open_lerobot(str(tmp_path)).videos(layouts.TOP).values()
    assert episode.tasks == ("fold the towel",)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ([[0.0]] + [[1.0, 2.0]] + [[0.0] * 3] * 67 + [[0.0] * 6], "differ in length"),
        ([None] + [[0.0] * 3] * 69, "differ in length"),
        (["x"] * 70, "are string, no numbers"),
        ([{"a": 1.0}] * 70, "are struct<a: double>, no numbers"),
    ],
)
def test_vectors_that_are_none_are_refused_not_shifted(
    packed: Path, values: list[Any], cause: str
) -> None:
    path = packed / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "action", pa.array(values)), path)
    with pytest.raises(SampleError, match=cause) as caught:
        read(packed)
    assert caught.value.reason == "actions"


def test_vectors_of_double_and_fixed_length_are_read_too(packed: Path) -> None:
    path = packed / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    doubles = pa.array(layouts.actions_of(0, 70).astype(np.float64).ravel())
    column = pa.FixedSizeListArray.from_arrays(doubles, 3)
    pq.write_table(table.set_column(0, "action", column).drop(["observation.state"]), path)
    found = read(packed)[1]
    assert found is not None
    np.testing.assert_array_equal(found.values, layouts.actions_of(0, 70))


def test_videos_elsewhere_than_in_videos_are_counted(packed: Path) -> None:
    told = json.loads((packed / "meta/info.json").read_text())
    told["video_path"] = "media/{video_key}/{chunk_index}-{file_index}.mp4"
    (packed / "videos").rename(packed / "media")
    for path in packed.rglob("file-000.mp4"):
        path.rename(path.parents[1] / "0-0.mp4")
    layouts.write_json(packed / "meta/info.json", told)
    (listing,) = find_inputs([str(packed)]).listings
    assert (len(listing.refs), listing.num_other) == (1, 1)


def damaged_takes(root: Path) -> list[Path]:
    """Takes 0 to 3: cut off, empty, with damaged groups, whole; a fifth video has no poses."""
    folder = layouts.write_egodex(root) / "fold_towel"
    whole = (folder / "0.hdf5").read_bytes()
    contents = [whole[: len(whole) // 2], b"", whole.replace(b"SNOD", b"____"), whole]
    for number, content in enumerate(contents):
        (folder / f"{number}.hdf5").write_bytes(content)
    for number in range(2, 5):
        (folder / f"{number}.mp4").write_bytes((folder / "0.mp4").read_bytes())
    return [folder / f"{number}.hdf5" for number in range(len(contents))]


def test_takes_with_damaged_poses_are_takes_and_say_what_is_wrong(tmp_path: Path) -> None:
    takes = damaged_takes(tmp_path / "ego")
    found = find_inputs([str(tmp_path / "ego")])
    (listing,) = found.listings
    assert sorted(ref.path for ref in listing.refs.values()) == [str(path) for path in takes]
    assert (listing.num_alone, len(found.uris)) == (1, 5)
    for path in takes[:3]:
        with pytest.raises(SampleError, match="cannot be read as HDF5") as caught:
            read_poses(path, ["leftHand_x"])
        assert caught.value.reason == "poses"
    assert read_text(takes[3]) == "folds the towel"


def test_poses_enter_the_digest_as_bytes_and_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = damaged_takes(tmp_path / "ego")[2]
    video = {
        "uri": str(take.with_suffix(".mp4")),
        "text": None,
        "sidecar": SourceRef(layout="egodex", path=str(take)).to_text(),
    }
    monkeypatch.setattr(h5py, "File", None)
    before = record_digests(video, take.with_suffix(".mp4"), ["leftHand_x"])
    take.write_bytes(take.read_bytes()[:-1])
    after = record_digests(video, take.with_suffix(".mp4"), ["leftHand_x"])
    assert len(before) == len(after) == 1
    assert before != after


def test_a_text_that_cannot_be_read_leaves_a_note(tmp_path: Path) -> None:
    take = damaged_takes(tmp_path / "ego")[0]
    ref = SourceRef(layout="egodex", path=str(take))
    row = probe_input(str(take.with_suffix(".mp4")), source="s", embodiment="human", reference=ref)
    assert (row["state"], row["text"]) == ("readable", None)
    assert "cannot be read as HDF5" in row["detail"]


def test_sidecars_beside_a_link_belong_to_the_video_behind_it(tmp_path: Path) -> None:
    blobs, seen = tmp_path / "blobs", tmp_path / "seen"
    blobs.mkdir()
    seen.mkdir()
    layouts.make_video(blobs / "made.mp4", num_frames=30, **layouts.SMALL)
    (blobs / "made.mp4").rename(blobs / "a1b2")
    for name in ("b", "a"):
        (seen / f"{name}.mp4").symlink_to(blobs / "a1b2")
        (seen / f"{name}.txt").write_text(f"text of {name}")
    dataset = run(seen, tmp_path / "out", "human")
    (row,) = clips(dataset)
    assert (row["uri"], row["text"]) == (str(blobs / "a1b2"), "text of a")
    before = dataset.sql("SELECT unit_id FROM plan").to_pylist()
    (seen / "a.spans.csv").write_text("start_s,end_s,text\n0,0.5,x\n")
    spans = run(seen, tmp_path / "spans", "human")
    gates = spans.sql("SELECT text, gate FROM clips ORDER BY start_s").to_pylist()
    assert [row["gate"] for row in gates] == ["too_short", "no_span"]
    assert gates[0]["text"] == "x"
    assert spans.sql("SELECT unit_id FROM plan").to_pylist() != before
    layouts.write_table(seen / "a.actions.parquet", pa.table({"time_s": [0.0]}))
    with pytest.raises(ConfigError, match=r"a\.actions\.parquet holds recorded actions"):
        prepare(CurateRequest(inputs=(str(seen),), out=tmp_path / "other"))
    (blobs / "a1b2.txt").write_text("beside the file itself")
    assert find_inputs([str(seen)]).refs == {}
