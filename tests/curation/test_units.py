"""Units that raise, die or lose a part: what is committed, what stays pending, what is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from footage import SMALL
from ray import cloudpickle

from curation import units
from curation.config import CurateConfig
from curation.curate import CurateRequest, prepare
from curation.ingest import ProbeTask, probe_inputs
from curation.planning import VideoRows, places_to_plan, plan_units
from curation.task import UnitResult, UnitTask
from curation.units import UnitRun, finish_units, make_task, time_limit_s
from curation.work import curate_unit
from manifests import tables
from manifests.dataset import Dataset
from manifests.errors import EgodojoError
from manifests.rows import rows_of
from manifests.validate import validate
from manifests.writer import Writer
from pipeline.outcome import Outcome
from pipeline.testing import make_video


def deadly(task: UnitTask) -> UnitResult:
    """Dies on every part of a file called deadly.mp4."""
    for position, part in enumerate(task.unit.parts):
        if position not in task.dead_parts and part.uri.endswith("deadly.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
    return curate_unit(task)


def deadly_together(task: UnitTask) -> UnitResult:
    """Dies on two parts, not on one."""
    if len(task.unit.parts) - len(task.dead_parts) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return curate_unit(task)


def dying(work: Any, tasks: Iterable[UnitTask], **options: Any) -> Iterator[Outcome[UnitTask]]:
    """In the place of `run_units`: every process dies."""
    yield from (Outcome(unit=task, kind="died", error="its process died") for task in tasks)


def very_full_disk(task: UnitTask) -> UnitResult:
    """Can write no shard but that of the first unit."""
    if task.unit.number > 0:
        raise OSError(28, "No space left on device")
    return curate_unit(task)


def full_disk(task: UnitTask) -> UnitResult:
    """Cannot write the shard of the second unit."""
    if task.unit.number == 1:
        raise OSError(28, "No space left on device")
    return curate_unit(task)


def planned(tmp_path: Path, names: list[str], *, unit_len_s: float) -> tuple[Dataset, Any]:
    """A dataset whose videos are probed and planned, and the writer's context."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        make_video(folder / name, num_frames=20, seed=seed, **SMALL)
    request = CurateRequest(
        inputs=(str(folder),),
        out=tmp_path / "ds",
        sets=(f"unit_len_s={unit_len_s}", "encode.width=160", "encode.height=120"),
    )
    prepared = prepare(request)
    dataset = Dataset.create(request.out, prepared.settings)
    return dataset, prepared


def fill_plan(dataset: Dataset, writer: Writer, uris: tuple[str, ...]) -> None:
    writer.append_videos(probe_inputs(ProbeTask(uris=uris, source="s", embodiment="unknown")))
    videos = dataset.table("videos")
    places = places_to_plan(videos, pa.array([], pa.string()))
    writer.append_plan(
        plan_units(
            rows_of(videos, places),
            unit_len_s=dataset.settings.unit_len_s,
            first_number=0,
            settings_digest=dataset.settings.digest,
            edges_of=lambda row: [],
            digests_of=lambda row: [],
        )
    )


def unit_run(dataset: Dataset, writer: Writer, **options: Any) -> UnitRun:
    return UnitRun(
        dataset=dataset,
        writer=writer,
        config=CurateConfig(),
        engine="inline",
        action_names={},
        quiet=True,
        **options,
    )


def only_task(dataset: Dataset, writer: Writer) -> UnitTask:
    videos = {row["uri"]: row for row in dataset.table("videos").to_pylist()}
    (unit,) = dataset.pending_units()
    return make_task(unit_run(dataset, writer), unit, videos)


def file_states(dataset: Dataset) -> dict[str, tuple[str, str | None]]:
    dataset.refresh()
    rows = dataset.sql("SELECT uri, state, reason FROM files").to_pylist()
    return {Path(row["uri"]).name: (row["state"], row["reason"]) for row in rows}


Finish = Callable[..., Dataset]


@pytest.fixture
def finish_lost_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finish:
    """Finishes a unit of some files that dies wherever other units are worked on too."""

    def finish(*names: str, **changes: Any) -> Dataset:
        dataset, prepared = planned(tmp_path, list(names), unit_len_s=60)
        monkeypatch.setattr(units, "run_units", dying)
        with dataset.writer("test") as writer:
            fill_plan(dataset, writer, prepared.inputs.uris)
            assert finish_units(replace(unit_run(dataset, writer), **changes)) == 1
        assert validate(dataset) == []
        return dataset

    return finish


def test_the_part_that_kills_its_process_is_quarantined_and_the_others_are_written(
    finish_lost_unit: Finish,
) -> None:
    dataset = finish_lost_unit("deadly.mp4", "good.mp4", work=deadly)
    assert file_states(dataset) == {
        "deadly.mp4": ("quarantined", "worker_died"),
        "good.mp4": ("processed", None),
    }
    (unit,) = dataset.table("units").to_pylist()
    assert unit["state"] == "done"
    assert "SIGKILL" in unit["problems"][0]["error"]


def test_a_unit_of_which_no_part_survives_is_quarantined(finish_lost_unit: Finish) -> None:
    dataset = finish_lost_unit("deadly.mp4", work=deadly)
    (unit,) = dataset.table("units").to_pylist()
    assert unit["state"] == "quarantined"
    assert file_states(dataset) == {"deadly.mp4": ("quarantined", "worker_died")}
    assert list((dataset.path / "shards").iterdir()) == []


def test_a_part_that_dies_only_beside_others_is_not_quarantined(finish_lost_unit: Finish) -> None:
    """Memory may be short for so many at a time: what died is tried once more alone."""
    dataset = finish_lost_unit("a.mp4", "b.mp4", engine="ray")
    assert file_states(dataset) == {"a.mp4": ("processed", None), "b.mp4": ("processed", None)}


def test_parts_that_die_only_together_are_quarantined_together(finish_lost_unit: Finish) -> None:
    dataset = finish_lost_unit("a.mp4", "b.mp4", work=deadly_together)
    states = file_states(dataset)
    assert states == dict.fromkeys(("a.mp4", "b.mp4"), ("quarantined", "worker_died"))
    (unit,) = dataset.table("units").to_pylist()
    assert "SIGKILL" in unit["problems"][1]["error"]


@pytest.fixture
def known_to_workers() -> Iterator[None]:
    """Functions of this file travel to Ray's workers as code: they cannot import it."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    yield
    cloudpickle.unregister_pickle_by_value(module)  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("ray_session", "known_to_workers")
def test_on_ray_the_parts_of_all_lost_units_are_tried_together(tmp_path: Path) -> None:
    names = ["a.mp4", "b/deadly.mp4", "c.mp4", "d/deadly.mp4"]
    dataset, prepared = planned(tmp_path, names, unit_len_s=3)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        assert [len(unit.parts) for unit in dataset.pending_units()] == [2, 2]
        run = replace(unit_run(dataset, writer, work=deadly), engine="ray")
        assert finish_units(run) == 2
    assert [unit["state"] for unit in dataset.table("units").to_pylist()] == ["done", "done"]
    assert file_states(dataset) == {
        "a.mp4": ("processed", None),
        "c.mp4": ("processed", None),
        "deadly.mp4": ("quarantined", "worker_died"),
    }
    assert validate(dataset) == []


def test_a_unit_that_cannot_be_written_stays_pending_and_a_rerun_finishes_it(
    tmp_path: Path,
) -> None:
    dataset, prepared = planned(tmp_path, ["a.mp4", "b.mp4", "c.mp4"], unit_len_s=1)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        with pytest.raises(EgodojoError, match=r"1 of 3 units could not be finished \(unit 1\)"):
            finish_units(unit_run(dataset, writer, work=full_disk))
        assert [unit.number for unit in dataset.pending_units()] == [1]
        assert finish_units(unit_run(dataset, writer)) == 1
        assert finish_units(unit_run(dataset, writer)) == 0
    assert validate(dataset) == []


def test_a_trial_writes_nothing(tmp_path: Path) -> None:
    dataset, prepared = planned(tmp_path, ["a.mp4"], unit_len_s=60)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        task = only_task(dataset, writer)
    result = curate_unit(replace(task, writes_shard=False))
    assert result.unit["num_clips"] == 1
    assert list((tmp_path / "ds" / "shards").iterdir()) == []
    assert curate_unit(task) == curate_unit(task)


def test_a_file_that_changed_or_vanished_after_the_plan_fails_alone(tmp_path: Path) -> None:
    dataset, prepared = planned(tmp_path, ["a.mp4", "b.mp4", "c.mp4"], unit_len_s=60)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        with open(prepared.inputs.uris[0], "ab") as file:
            file.write(b"more")
        os.unlink(prepared.inputs.uris[1])
        finish_units(unit_run(dataset, writer))
    assert file_states(dataset) == {
        "a.mp4": ("failed", "changed"),
        "b.mp4": ("failed", "open"),
        "c.mp4": ("processed", None),
    }


def test_no_more_units_are_begun_when_none_can_be_written(tmp_path: Path) -> None:
    names = [f"{letter}.mp4" for letter in "abcdefg"]
    dataset, prepared = planned(tmp_path, names, unit_len_s=1)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        with pytest.raises(EgodojoError, match=r"3 of 7 units .*No space left.* 3 more were not"):
            finish_units(unit_run(dataset, writer, work=very_full_disk))
    assert len(dataset.pending_units()) == 6


def test_what_a_lost_attempt_left_is_removed(tmp_path: Path) -> None:
    dataset, prepared = planned(tmp_path, ["a.mp4", "b.mp4"], unit_len_s=1)
    shards = tmp_path / "ds" / "shards"
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        mine = shards / f"clips-000000.tar.tmp-{writer.token}0123abcd"
        mine.write_bytes(b"half")
        assert finish_units(unit_run(dataset, writer)) == 2
        assert not mine.exists()
    wanted = {file.name for file in shards.iterdir()}
    for name in ("clips-000007.tar", "clips-000007.idx.parquet", "clips-000001.tar.tmp-0123abcd"):
        (shards / name).write_bytes(b"left by a driver that was killed")
    (shards / "notes.txt").write_text("not ours")
    with dataset.writer("test"):
        pass
    assert {file.name for file in shards.iterdir()} == {*wanted, "notes.txt"}


def test_a_long_file_that_cannot_be_cut_is_given_its_time(tmp_path: Path) -> None:
    dataset, prepared = planned(tmp_path, ["a.mp4", "b.ts"], unit_len_s=0.5)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        run = unit_run(dataset, writer)
        videos = VideoRows(dataset.table("videos"))
        tasks = [make_task(run, unit, videos) for unit in dataset.pending_units()]
    (long,) = (task for task in tasks if task.unit.parts[0].uri == prepared.inputs.uris[1])
    seconds = videos[prepared.inputs.uris[1]]["duration_s"]
    assert seconds > 1
    assert time_limit_s(run, long) == pytest.approx(run.config.timeout_s * seconds / 0.5)
    part = replace(long.unit.parts[0], end_tick=1)
    for other in (
        replace(long, videos={part.uri: {**long.videos[part.uri], "duration_s": 0.4}}),
        replace(long, unit=replace(long.unit, parts=(part,))),
        replace(long, unit=replace(long.unit, parts=(*long.unit.parts, *long.unit.parts))),
    ):
        assert time_limit_s(run, other) == run.config.timeout_s


def test_files_of_tables_are_merged_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_files() -> dict[str, int]:
        opened = {name: tables.open_table(catalog / name) for name in ("clips", "units")}
        return {name: len(tables.live_files(table)) for name, table in opened.items()}

    monkeypatch.setattr("manifests.writer.MERGE_EVERY", 2)
    catalog = tmp_path / "ds" / "catalog"
    dataset, prepared = planned(tmp_path, [f"{n}.mp4" for n in "abcde"], unit_len_s=1)
    with dataset.writer("test") as writer:
        fill_plan(dataset, writer, prepared.inputs.uris)
        assert finish_units(unit_run(dataset, writer)) == 5
        assert num_files() == {"clips": 2, "units": 2}
        writer.tidy()
        assert num_files() == {"clips": 2, "units": 2}  # so few are left alone
        monkeypatch.setattr("manifests.writer.MANY_FILES", 2)
        writer.tidy()
        assert num_files() == {"clips": 1, "units": 1}
        assert dataset.table("clips").num_rows == 5
    assert validate(Dataset.open(tmp_path / "ds")) == []
