"""Published layouts as sources: episodes, actions frame by frame, texts, cameras, refusals."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import layouts
import numpy as np
import pyarrow.parquet as pq
import pytest
from footage import dataset_contents

from curation.curate import CurateRequest, curate, prepare
from curation.ingest import find_inputs
from curation.sources.lerobot import open_lerobot
from curation.sources.record import record_digests
from manifests import schema, tables
from manifests.dataset import Dataset
from manifests.errors import ConfigError
from manifests.settings import DatasetSettings
from manifests.validate import validate
from pipeline.clips import ClipReader

Cli = Callable[..., SimpleNamespace]
SETS = ("encode.width=160", "encode.height=120")


def run(
    inputs: Path, out: Path, body: Path | str, sets: tuple[str, ...] = (), **more: Any
) -> Dataset:
    """Curate inline; the dataset, found valid."""
    request = CurateRequest(
        inputs=(str(inputs),),
        out=out,
        recipe="permissive",
        embodiment=str(body),
        sets=(*SETS, *sets),
        engine="inline",
        quiet=True,
        **more,
    )
    with pytest.MonkeyPatch.context() as patched:  # the page has tests of its own
        patched.setattr("curation.preview.write_preview", lambda dataset: dataset.path)
        curate(prepare(request)).check()
    dataset = Dataset.open(out)
    assert validate(dataset) == []
    return dataset


def clips(dataset: Dataset) -> list[dict[str, Any]]:
    query = "SELECT * FROM clips WHERE gate IS NULL ORDER BY uri, start_s"
    return dataset.sql(query).to_pylist()


def actions(dataset: Dataset, row: dict[str, Any]) -> np.ndarray:
    data = ClipReader(dataset.path).member(row["shard"], row["clip_id"], "actions.npy")
    return np.load(io.BytesIO(data))


def test_v3_episodes_packed_in_one_file_become_clips_with_their_own_rows(tmp_path: Path) -> None:
    root = layouts.write_v3(tmp_path / "packed")
    dataset = run(root, tmp_path / "out", layouts.write_body(tmp_path))
    found = clips(dataset)
    assert [row["num_frames"] for row in found] == [40, 30]
    assert [row["text"] for row in found] == layouts.TASKS
    assert [row["ends_at"] for row in found] == ["span", "end"]
    assert {row["embodiment"] for row in found} == {"toy_arm"}
    np.testing.assert_array_equal(actions(dataset, found[0]), layouts.actions_of(0, 40))
    np.testing.assert_array_equal(actions(dataset, found[1]), layouts.actions_of(40, 30))


def test_an_episode_that_is_not_listed_leaves_no_clip(tmp_path: Path) -> None:
    root = layouts.write_v3(tmp_path / "packed")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    dataset = run(root, tmp_path / "out", layouts.write_body(tmp_path))
    rows = dataset.sql("SELECT gate, num_frames FROM clips ORDER BY start_s").to_pylist()
    assert [tuple(row.values()) for row in rows] == [("no_span", 40), (None, 30)]
    np.testing.assert_array_equal(actions(dataset, clips(dataset)[0]), layouts.actions_of(40, 30))


def test_v21_files_are_episodes_and_state_columns_can_be_asked_for(tmp_path: Path) -> None:
    root = layouts.write_v21(tmp_path / "old")
    body = layouts.write_body(tmp_path, ["gripper", "observation.state.elbow"])
    dataset = run(root, tmp_path / "out", body)
    found = clips(dataset)
    assert [(row["num_frames"], row["text"]) for row in found] == [
        (40, layouts.TASKS[0]),
        (30, layouts.TASKS[1]),
    ]
    rows = layouts.actions_of(40, 30)
    np.testing.assert_array_equal(actions(dataset, found[1])[:, 0], rows[:, 2])
    np.testing.assert_array_equal(actions(dataset, found[1])[:, 1], -rows[:, 1])


def test_gr1_parts_name_the_columns_and_its_annotation_the_task(tmp_path: Path) -> None:
    root = layouts.write_gr1(tmp_path / "teleop")
    body = layouts.write_body(tmp_path, ["waist_0", "waist_1", "left_arm_1"])
    dataset = run(root, tmp_path / "out", body)
    found = clips(dataset)
    assert [row["text"] for row in found] == layouts.TASKS[::-1]
    wanted = layouts.actions_of(0, 40, 6)[:, [4, 5, 1]]
    np.testing.assert_array_equal(actions(dataset, found[0]), wanted)
    (listing,) = find_inputs([str(root)]).listings
    assert (listing.layout, listing.cameras) == ("gr1", ("observation.images.ego_view",))


def test_egodex_gives_hands_seen_from_the_camera_and_the_text_of_this_take(tmp_path: Path) -> None:
    root = layouts.write_egodex(tmp_path / "ego")
    names = ["leftHand_x", "leftHand_y", "leftHand_r1", "leftHand_r5", "confidence_leftHand"]
    dataset = run(root, tmp_path / "out", layouts.write_body(tmp_path, names))
    found = clips(dataset)
    assert [row["text"] for row in found] == ["folds the towel", "unfolds the towel"]
    camera, hand = layouts.poses(40)["camera"], layouts.poses(40)["leftHand"]
    seen = np.linalg.inv(camera.astype(np.float64)) @ hand
    wanted = [seen[:, 0, 3], seen[:, 1, 3], seen[:, 0, 0], seen[:, 1, 1], np.linspace(0, 1, 40)]
    got = actions(dataset, found[0])
    assert got.shape == (40, 5)
    np.testing.assert_allclose(got, np.stack(wanted, axis=1), atol=1e-6)


def test_the_shipped_hands_are_columns_that_egodex_has() -> None:
    from curation.sources.egodex import _COLUMN
    from manifests.embodiment import load_embodiment

    names = load_embodiment("human_hands").action_names
    assert len(names) == 48
    joints = {match["joint"] for name in names if (match := _COLUMN.fullmatch(name))}
    assert len(joints) == 12


def test_text_beside_plain_videos_is_still_a_source(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    layouts.make_video(folder / "a.mp4", num_frames=40, **layouts.SMALL)
    (folder / "a.txt").write_text("wipes a table")
    dataset = run(folder, tmp_path / "out", "human")
    assert [row["text"] for row in clips(dataset)] == ["wipes a table"]
    assert dataset.sql("SELECT sidecar FROM videos").column(0).to_pylist() == [None]


def test_the_first_egocentric_camera_is_taken_and_the_others_are_counted(
    cli: Cli, tmp_path: Path
) -> None:
    root = layouts.write_v3(tmp_path / "packed")
    body = layouts.write_body(tmp_path)
    done = cli("curate", root, "--out", tmp_path / "d", "--embodiment", body, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert f"camera {layouts.TOP}; 1 videos not taken ({layouts.WRIST})" in done.stdout
    both = find_inputs([str(root)], cameras=["wrist", layouts.TOP])
    assert len(both.uris) == 2
    assert both.listings[0].num_other == 0


def test_a_layout_is_told_by_its_files_never_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "lerobot gr1 egodex"
    folder.mkdir()
    layouts.make_video(folder / "a.mp4", num_frames=20, **layouts.SMALL)
    assert find_inputs([str(tmp_path)]).listings == ()
    layouts.write_v21(tmp_path / "x" / "y")
    found = find_inputs([str(tmp_path)])
    assert [listing.layout for listing in found.listings] == ["lerobot"]
    assert len(found.uris) == 3
    assert len(find_inputs([str(tmp_path)], layout="folder").uris) == 5
    assert len(find_inputs([str(tmp_path)], layout="lerobot").uris) == 2


def test_a_video_that_the_tables_name_may_be_missing(tmp_path: Path) -> None:
    root = layouts.write_v21(tmp_path / "old")
    (root / f"videos/chunk-000/{layouts.TOP}/episode_000001.mp4").unlink()
    (listing,) = find_inputs([str(root)]).listings
    assert (len(listing.refs), listing.num_missing, listing.num_other) == (1, 1, 2)


def test_what_belongs_to_a_video_enters_the_units_id(tmp_path: Path) -> None:
    root = layouts.write_v3(tmp_path / "packed")
    inputs = find_inputs([str(root)])
    (uri,) = inputs.uris
    video = {"uri": uri, "text": None, "sidecar": inputs.refs[uri].to_text()}
    before = record_digests(video, Path(uri), layouts.NAMES)
    assert record_digests(video, Path(uri), layouts.NAMES) == before
    assert record_digests(video, Path(uri), layouts.NAMES[:2]) != before
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    moved = table.column("action").to_pylist()
    moved[69][0] += 1
    field = table.schema.field("action")
    changed = table.set_column(0, field, layouts.pa.array(moved, field.type))
    pq.write_table(changed, path)
    assert record_digests(video, Path(uri), layouts.NAMES) != before


def test_a_rerun_changes_nothing_and_finds_the_layout_again(tmp_path: Path) -> None:
    root = layouts.write_v3(tmp_path / "packed")
    body = layouts.write_body(tmp_path)
    run(root, tmp_path / "out", body)
    before = dataset_contents(tmp_path / "out")
    run(root, tmp_path / "out", body)
    assert dataset_contents(tmp_path / "out") == before


def test_unnamed_vectors_of_the_right_width_are_taken_in_order(tmp_path: Path) -> None:
    root = layouts.write_v21(tmp_path / "old")
    told = json.loads((root / "meta/info.json").read_text())
    told["features"]["action"]["names"] = None
    layouts.write_json(root / "meta/info.json", told)
    folder = open_lerobot(str(root))
    assert [column.index for column in folder.columns(["a", "b", "c"])] == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "options", "cause"),
    [
        ({}, {"embodiment": None}, "recorded actions .robot_type toy., but no embodiment"),
        ({}, {"embodiment": "gr1"}, "records no column left_arm_0, .* which the embodiment asks"),
        ({}, {"cameras": ("front",)}, "has no camera 'front'"),
        ({}, {"layout": "gr1"}, "No gr1 folder was found"),
        ({}, {"layout": "rlds"}, "There is no layout 'rlds'"),
        ({}, {"layout": "folder", "cameras": ("top",)}, "no input has named cameras"),
        ({"codebase_version": "v1.6"}, {}, "says codebase_version v1.6"),
        ({"video_path": "../{video_key}.mp4"}, {}, "video_path leads out of the folder"),
        ({"fps": None}, {}, "lacks features or fps"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], cause: str
) -> None:
    root = layouts.write_v3(tmp_path / "packed", **change)
    asked = {"embodiment": str(layouts.write_body(tmp_path)), **options}
    request = CurateRequest(inputs=(str(root),), out=tmp_path / "out", **asked)
    with pytest.raises(ConfigError, match=cause):
        prepare(request)
    assert not (tmp_path / "out").exists()


def test_poses_without_an_embodiment_are_refused(tmp_path: Path) -> None:
    root = layouts.write_egodex(tmp_path / "ego")
    with pytest.raises(ConfigError, match="holds poses, but no embodiment") as caught:
        prepare(CurateRequest(inputs=(str(root),), out=tmp_path / "out"))
    assert "--embodiment human_hands" in str(caught.value.hint)


def test_rows_that_do_not_fit_their_video_fail_that_video_alone(tmp_path: Path) -> None:
    root = layouts.write_v21(tmp_path / "old")
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 20), path)
    dataset = run(root, tmp_path / "out", layouts.write_body(tmp_path))
    states = dataset.sql("SELECT state, reason, detail FROM files ORDER BY uri").to_pylist()
    assert [row["state"] for row in states] == ["processed", "failed"]
    assert states[1]["reason"] == "actions"
    assert "episode 1 has 20 rows, 30 declared" in states[1]["detail"]


def test_an_episode_cut_by_a_units_edge_keeps_its_rows(tmp_path: Path) -> None:
    root = layouts.write_v3(tmp_path / "packed", (70, 50))
    body = layouts.write_body(tmp_path)
    dataset = run(root, tmp_path / "out", body, sets=("unit_len_s=1",))
    found = clips(dataset)
    assert len(dataset.table("units")) == 4
    assert sum(row["num_frames"] for row in found) >= 90
    for row in found:
        first = round(row["start_s"] * layouts.FPS)
        wanted = layouts.actions_of(first, row["num_frames"])
        np.testing.assert_array_equal(actions(dataset, row), wanted)
        assert row["text"] == layouts.TASKS[int(first >= 70)]


def test_poses_need_h5py_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layouts.write_egodex(tmp_path / "ego")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match="h5py is not installed") as caught:
        find_inputs([str(root)])
    assert "egodojo[hdf5]" in str(caught.value.hint)
    assert len(find_inputs([str(root)], layout="folder").uris) == 2


def test_poses_that_lack_a_joint_fail_their_video_alone(tmp_path: Path) -> None:
    root = layouts.write_egodex(tmp_path / "ego")
    with h5py.File(root / "fold_towel/1.hdf5", "a") as file:
        del file["transforms/leftHand"]
    dataset = run(root, tmp_path / "out", layouts.write_body(tmp_path, ["leftHand_x"]))
    states = dataset.sql("SELECT state, detail FROM files ORDER BY uri").to_pylist()
    assert [row["state"] for row in states] == ["processed", "failed"]
    assert "has no transforms/leftHand" in states[1]["detail"]


def test_other_hdf5_files_beside_videos_are_not_taken_for_poses(tmp_path: Path) -> None:
    layouts.make_video(tmp_path / "a.mp4", num_frames=20, **layouts.SMALL)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((20, 7))
    found = find_inputs([str(tmp_path)])
    assert (len(found.uris), found.listings) == (1, ())


def test_a_dataset_from_before_layouts_takes_new_videos(tmp_path: Path) -> None:
    settings = DatasetSettings(name="old", gates=())
    column = schema.VIDEOS.get_field_index("sidecar")
    dataset = Dataset.create(tmp_path / "old", settings)
    tables.replace(
        tables.open_table(tmp_path / "old/catalog/videos"),
        schema.VIDEOS.remove(column).empty_table(),
    )
    dataset = Dataset.open(tmp_path / "old")
    assert dataset.sql("SELECT sidecar FROM videos").num_rows == 0
    row = {
        **dict.fromkeys(schema.VIDEOS.names),
        "uri": "/a.mp4",
        "source": "s",
        "embodiment": "human",
        "num_bytes": 1,
        "state": "readable",
        "sidecar": "{}",
    }
    with dataset.writer("test") as writer:
        writer.append_videos([row])
    reopened = Dataset.open(tmp_path / "old")
    assert reopened.sql("SELECT sidecar FROM videos").column(0).to_pylist() == ["{}"]
