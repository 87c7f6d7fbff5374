"""Written as LeRobotDataset v3 and read again: the same frames, actions and tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import numpy as np
import pyarrow.parquet as pq
import pytest
from test_sources import actions, clips, run

from curation.lerobot_export import CAMERA
from curation.lerobot_stats import stats_of
from manifests.dataset import Dataset
from manifests.processes import boot_id
from pipeline.clips import ClipReader
from pipeline.testing import make_video, read_barcode
from pipeline.video import probe

Cli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """A v3 folder as a dataset, and the body it was read with."""
    folder = tmp_path_factory.mktemp("packed")
    body = layouts.write_body(folder, [*layouts.NAMES, "observation.state.elbow"])
    return run(layouts.write_v3(folder / "source"), folder / "data", body), body


@pytest.fixture(scope="module")
def exported(packed: tuple[Dataset, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from curation.lerobot_export import export_lerobot
    from curation.lerobot_plan import plan_export

    out = tmp_path_factory.mktemp("exported") / "robot"
    export_lerobot(packed[0], plan_export(packed[0]), out, quiet=True)
    return out


def test_the_folder_is_what_v3_publishes(packed: tuple[Dataset, Path], exported: Path) -> None:
    told = json.loads((exported / "meta/info.json").read_text())
    assert (told["codebase_version"], told["fps"], told["robot_type"]) == ("v3.0", 30, "toy_arm")
    assert (told["total_episodes"], told["total_frames"], told["total_tasks"]) == (2, 70, 2)
    assert told["features"]["action"]["names"] == layouts.NAMES
    assert told["features"]["observation.state"]["names"] == ["elbow"]
    assert told["features"][CAMERA]["shape"] == [120, 160, 3]
    rows = pq.read_table(exported / "data/chunk-000/file-000.parquet")
    assert set(rows.column_names) == set(told["features"]) - {CAMERA}
    assert rows.column("index").to_pylist() == list(range(70))
    assert rows.column("observation.state").to_pylist()[1] == -1.25
    assert rows.schema.field("action").type.list_size == 3
    np.testing.assert_allclose(rows.column("timestamp").to_numpy()[40:43], [0, 1 / 30, 2 / 30])
    (first, second) = pq.read_table(
        exported / "meta/episodes/chunk-000/file-000.parquet"
    ).to_pylist()
    assert (first["length"], second["dataset_from_index"], second["dataset_to_index"]) == (
        40,
        40,
        70,
    )
    assert (first["tasks"], second["tasks"]) == ([layouts.TASKS[0]], [layouts.TASKS[1]])
    assert second[f"videos/{CAMERA}/file_index"] == 1
    assert second[f"videos/{CAMERA}/to_timestamp"] == 1.0
    assert second["stats/action/max"] == layouts.actions_of(40, 30).max(axis=0).tolist()
    for number, clip in enumerate(clips(packed[0])):
        data = ClipReader(packed[0].path).member(clip["shard"], clip["clip_id"], "mp4")
        assert (exported / f"videos/{CAMERA}/chunk-000/file-{number:03d}.mp4").read_bytes() == data


def test_tasks_are_the_index_of_a_data_frame(exported: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(exported / "meta/tasks.parquet")
    assert tasks.index.tolist() == layouts.TASKS
    assert tasks["task_index"].tolist() == [0, 1]


def test_statistics_are_those_of_all_rows(exported: Path) -> None:
    found = json.loads((exported / "meta/stats.json").read_text())
    rows = layouts.actions_of(0, 70).astype(np.float64)
    np.testing.assert_allclose(found["action"]["mean"], rows.mean(axis=0))
    np.testing.assert_allclose(found["action"]["std"], rows.std(axis=0))
    assert found["action"]["count"] == [70]
    assert found["index"]["max"] == [69.0]
    assert np.shape(found[CAMERA]["mean"]) == (3, 1, 1)
    assert found[CAMERA]["count"] == [16]
    assert 0 < found[CAMERA]["mean"][0][0][0] < 1


def test_merged_statistics_do_not_depend_on_how_rows_were_split() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (50, 2))
    whole = stats_of(rows).to_json()
    parts = stats_of(rows[:7]).merged(stats_of(rows[7:30])).merged(stats_of(rows[30:])).to_json()
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value)


def test_read_again_it_is_the_same(
    packed: tuple[Dataset, Path], exported: Path, tmp_path: Path
) -> None:
    before, body = packed
    after = run(exported, tmp_path / "again", body)
    pairs = list(zip(clips(before), clips(after), strict=True))
    assert len(pairs) == 2
    for old, new in pairs:
        assert (new["num_frames"], new["text"]) == (old["num_frames"], old["text"])
        np.testing.assert_array_equal(actions(after, new), actions(before, old))
        frames = [
            ClipReader(d.path).frames(c["shard"], c["clip_id"], [0, c["num_frames"] - 1])
            for d, c in ((before, old), (after, new))
        ]
        assert [read_barcode(f) for f in frames[0]] == [read_barcode(f) for f in frames[1]]
        assert probe(Path(new["uri"])).columns()["num_packets"] == old["num_frames"]


def test_the_command_writes_a_subset_and_says_what(
    cli: Cli, packed: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dataset, out = packed[0].path, tmp_path / "some"
    asked = ("manifest", "export", dataset, "--out", out, "--where", "text LIKE 'fold%'")
    dry = cli(*asked, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert "1 episodes, 30 frames at 30/s, 1 tasks, 4 action columns" in dry.stdout
    assert not out.exists()
    done = cli(*asked, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["num_episodes"], told["is_written"]) == (1, True)
    assert (out / "meta/info.json").is_file()
    again = cli(*asked)
    assert again.exit_code == 2
    assert "exists already; nothing was written" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some"]


@pytest.mark.parametrize(
    ("where", "code", "cause"),
    [
        ("num_frames > 900", 2, "No kept clip of "),
        ("no_such_column = 1", 1, "The query failed"),
    ],
)
def test_a_subset_that_cannot_be_written_is_refused(
    cli: Cli, packed: tuple[Dataset, Path], tmp_path: Path, where: str, code: int, cause: str
) -> None:
    asked = ("manifest", "export", packed[0].path, "--out", tmp_path / "x", "--where", where)
    done = cli(*asked)
    assert done.exit_code == code
    assert cause in done.stderr
    assert not (tmp_path / "x").exists()


def test_rates_and_columns_must_be_the_same_for_all(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    kinds: list[dict[str, Any]] = [{"fps": 30}, {"fps": 15}, {"fps": 30}]
    for number, kind in enumerate(kinds):
        options = {**layouts.SMALL, **kind}
        make_video(folder / f"{number}.mp4", num_frames=40, seed=number, **options)
    layouts.write_table(
        folder / "0.actions.parquet",
        layouts.pa.table({"time_s": np.arange(40) / 30, "shoulder": np.arange(40.0)}),
    )
    body = layouts.write_body(tmp_path, ["shoulder"])
    dataset = run(folder, tmp_path / "data", body)
    done = cli("manifest", "export", dataset.path, "--out", tmp_path / "x")
    assert (done.exit_code, "several frame rates (15: 1, 30: 2)" in done.stderr) == (2, True)
    rate = ("--where", "abs(fps - 30) < 0.1")
    done = cli("manifest", "export", dataset.path, "--out", tmp_path / "x", *rate)
    assert (done.exit_code, "differ in their action columns" in done.stderr) == (2, True)
    uri = str(folder / "0.mp4")
    assert f"Take the most frequent: --where \"uri IN ('{uri}')\"" in done.stderr


def test_what_lies_beside_the_folder_stays(
    cli: Cli, packed: tuple[Dataset, Path], tmp_path: Path
) -> None:
    mine = tmp_path / "some.tmp/notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    left = tmp_path / f".some.{boot_id()[:8]}-1-0.unfinished/data"
    left.mkdir(parents=True)
    done = cli("manifest", "export", packed[0].path, "--out", tmp_path / "some")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some", "some.tmp"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "cause"),
    [
        ("s3://bucket/robot", "LeRobot folders are written to a disk"),
        ("{tmp}/file/robot", "a file is in its way"),
    ],
)
def test_places_that_cannot_be_written(
    cli: Cli, packed: tuple[Dataset, Path], tmp_path: Path, out: str, cause: str
) -> None:
    (tmp_path / "file").write_text("")
    done = cli("manifest", "export", packed[0].path, "--out", out.format(tmp=tmp_path))
    assert (done.exit_code, cause in done.stderr) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_clip_of_variable_rate_is_refused_and_nothing_is_left(cli: Cli, tmp_path: Path) -> None:
    ticks = [0]
    for number in range(44):
        ticks.append(ticks[-1] + (10 if number % 2 else 57))
    make_video(tmp_path / "a.mp4", num_frames=45, ticks=ticks, time_base=Fraction(1, 1000),
               **layouts.SMALL)  # fmt: skip
    dataset = run(tmp_path / "a.mp4", tmp_path / "data", "human")
    done = cli("manifest", "export", dataset.path, "--out", tmp_path / "x")
    assert done.exit_code == 2
    assert "1 of 1 clips do not run at" in done.stderr
    (clip_id,) = dataset.sql("SELECT clip_id FROM kept").column(0).to_pylist()
    assert f"--where \"clip_id NOT IN ('{clip_id}')\"" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "data"]
