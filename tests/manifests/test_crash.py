"""A kill between any two writes leaves a dataset that opens, validates and can be finished."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dataset_helpers import (
    SETTINGS,
    Row,
    contents,
    finished_unit,
    planned_unit,
    video_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import Dataset, storage, tables
from manifests.decide import decide
from manifests.recipe import Recipe, Rule
from manifests.validate import validate

WRITES = (
    (tables, "create"),
    (tables, "append"),
    (tables, "replace"),
    (tables, "delete"),
    (storage, "write_new"),
    (storage, "write_atomic"),
)
RECIPE = Recipe(name="toy", keep=(Rule(name="dark", keep_when="brightness_mean_luma > 40"),))
VIDEOS = [video_row(name) for name in "abcd"]


class Killed(BaseException):
    """The process is gone here."""


@contextmanager
def killed_before(number: int) -> Iterator[Callable[[], int]]:
    """Let `number` writes happen and die before the next; yields how many were asked for."""
    count = 0
    with pytest.MonkeyPatch.context() as patch:
        for module, name in WRITES:
            patch.setattr(module, name, counted(getattr(module, name), lambda: step()))

        def step() -> None:
            nonlocal count
            if count == number:
                raise Killed
            count += 1

        yield lambda: count


def counted(write: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        step()
        return write(*args, **kwargs)

    return wrapped


def whole_run(path: Path) -> Dataset:
    """What a driver does, from any state: look, then do what is missing."""
    dataset = Dataset.open_or_create(path, SETTINGS)
    with dataset.writer("whole run") as writer:
        known = set(dataset.table("videos").column("uri").to_pylist())
        new = [video for video in VIDEOS if video["uri"] not in known]
        for batch in (new[:2], new[2:]):
            writer.append_videos(batch)
        planned = dataset.table("plan").column("unit_id").to_pylist()
        if not planned:
            halves: list[list[Row]] = [VIDEOS[:2], VIDEOS[2:]]
            writer.append_plan([planned_unit(index, half) for index, half in enumerate(halves)])
        for unit in dataset.pending_units():
            writer.commit_units([finished_unit(dataset.path, unit)])
    decide(dataset, RECIPE)
    return dataset


def state(dataset: Dataset) -> tuple[dict[str, list[str]], dict[str, bytes]]:
    shards = {path.name: path.read_bytes() for path in (dataset.path / "shards").iterdir()}
    return contents(dataset), shards


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    with killed_before(-1) as count:
        dataset = whole_run(tmp_path_factory.mktemp("whole") / "d")
    assert validate(dataset) == []
    assert dataset.clips.count("*").fetchall() == [(8,)]
    return state(dataset), count()


def check_what_is_there(path: Path) -> None:
    if (path / "dataset.yaml").exists():
        dataset = Dataset.open(path)
        assert validate(dataset) == []
        committed = set(dataset.table("units").column("unit_id").to_pylist())
        assert set(dataset.table("clips").column("unit_id").to_pylist()) <= committed
        total = dataset.sql("SELECT count(*) AS n FROM files").column("n")[0].as_py()
        assert total == dataset.table("videos").num_rows


def test_a_kill_before_any_write_is_made_good(
    tmp_path: Path, uninterrupted: tuple[Any, int]
) -> None:
    wanted, num_writes = uninterrupted
    assert num_writes >= 14
    for number in range(num_writes):
        path = tmp_path / f"killed {number}"
        with pytest.raises(Killed), killed_before(number):
            whole_run(path)
        check_what_is_there(path)
        assert state(whole_run(path)) == wanted, f"killed before write {number}"


@settings(max_examples=4, deadline=None)
@given(kills=st.lists(st.integers(0, 8), min_size=2, max_size=4))
def test_a_run_killed_again_and_again_comes_to_the_same_end(
    kills: list[int], uninterrupted: tuple[Any, int]
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "d"
        for number in kills:
            try:
                with killed_before(number):
                    whole_run(path)
            except Killed:
                check_what_is_there(path)
        assert state(whole_run(path)) == uninterrupted[0]


def test_clips_without_a_unit_do_not_count_and_are_removed(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    unit = planned_unit(0, [VIDEOS[0]])
    _, clips = finished_unit(dataset.path, unit)
    with dataset.writer("test") as writer:
        writer.append_videos([VIDEOS[0]])
        writer.append_plan([unit])
    orphans = tables.open_table(dataset.path / "catalog/clips")
    from manifests.rows import checked_table
    from manifests.schema import CLIPS

    tables.append(orphans, checked_table(clips, CLIPS, table="clips"))
    opened = Dataset.open(dataset.path)
    assert opened.table("clips").num_rows == 0
    assert opened.relation("clips", verdict="all").fetchall() == []
    assert opened.files.project("state").fetchall() == [("pending",)]
    assert validate(opened) == []
    with opened.writer("resume"):
        pass
    left = tables.dataset_of(tables.open_table(dataset.path / "catalog/clips"))
    assert left.count_rows() == 0
