"""Runs the units of the plan that have no result yet, and commits each as it finishes.

Units that killed their worker or ran past their limit twice are taken apart when all others are
done (`curation.quarantine`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from manifests.dataset import Dataset
from manifests.embodiment import load_embodiment
from manifests.errors import ConfigError, EgodojoError
from manifests.planned import PlannedUnits
from manifests.records import NOTE_STAGES, PlannedUnit
from manifests.writer import Writer
from pipeline.outcome import Outcome
from pipeline.progress import Progress
from pipeline.runner import Engine, run_isolated, run_units

from .config import CurateConfig
from .planning import VideoRows, by_declared_pixels
from .quarantine import LOST, Outcomes, taken_apart
from .task import UnitResult, UnitTask
from .work import curate_unit

log = logging.getLogger(__name__)

Work = Callable[[UnitTask], UnitResult]
GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRun:
    """Where and how units are run.

    Attributes:
        note: Is told of every unit that ended: its number, worker, start, seconds and clips.
    """

    dataset: Dataset
    writer: Writer
    config: CurateConfig
    engine: Engine
    action_names: Mapping[str, tuple[str, ...]]
    quiet: bool = False
    work: Work = curate_unit
    note: Callable[[dict[str, Any]], None] | None = None


def finish_units(run: UnitRun) -> int:
    """Work on every pending unit; how many were committed.

    Raises:
        EgodojoError: Units could not be finished for a reason that lies outside the videos (a
            full disk, for instance); all others are committed, a rerun tries these again. After
            `GIVE_UP_AFTER` of them in a row no further unit is begun.
    """
    videos = VideoRows(run.dataset.table("videos"))
    pending = by_declared_pixels(run.dataset.pending_units(), videos)
    if not len(pending):
        return 0
    progress = _Units(run=run, videos=videos, num_pending=len(pending))
    try:
        with Progress(len(pending), "units", quiet=run.quiet) as bar:
            progress.work(pending, bar)
    finally:
        run.writer.remove_leftovers()
    progress.check()
    return len(pending)


@dataclass(slots=True, kw_only=True)
class _Units:
    """The units of one run on their way to the tables."""

    run: UnitRun
    videos: VideoRows
    num_pending: int
    num_begun: int = 0
    num_raised_in_a_row: int = 0
    raised: list[tuple[int, str]] = field(default_factory=list)

    def work(self, pending: PlannedUnits, bar: Progress) -> None:
        # closing: when a commit fails, attempts end before Ray does
        with closing(self._outcomes(pending)) as outcomes:
            for outcome in outcomes:
                self._settle(outcome)
                bar.advance(note=f"{len(self.raised)} not finished" if self.raised else None)

    def check(self) -> None:
        """Raise when units are left."""
        if not self.raised:
            return
        numbers = ", ".join(str(number) for number, _ in self.raised[:5])
        num_left = self.num_pending - self.num_begun
        left = f" {num_left} more were not begun." if num_left else ""
        raise EgodojoError(
            f"{len(self.raised)} of {self.num_pending} units could not be finished "
            f"(unit {numbers}): {self.raised[0][1]}{left}",
            hint="The others are committed. Remove the cause and rerun the same command.",
        )

    def _tasks(self, pending: PlannedUnits) -> Iterator[UnitTask]:
        for unit in pending:
            if self.num_raised_in_a_row >= GIVE_UP_AFTER:
                return
            self.num_begun += 1
            yield make_task(self.run, unit, self.videos)

    def _outcomes(self, pending: PlannedUnits) -> Outcomes:
        """One per unit; at the end those of units that had to be taken apart."""
        lost: list[UnitTask] = []
        with closing(self._attempt(self._tasks(pending), self.run.config.attempts)) as outcomes:
            for outcome in outcomes:
                if outcome.kind in LOST:
                    number = outcome.unit.unit.number
                    log.warning("unit %d: %s; its parts are tried later", number, outcome.error)
                    lost.append(outcome.unit)
                else:
                    yield outcome
        if lost:
            yield from taken_apart(lost, self._attempt_once)

    def _attempt(self, tasks: Iterable[UnitTask], attempts: int) -> Outcomes:
        config = self.run.config
        return run_units(
            self.run.work,
            tasks,
            engine=self.run.engine,
            slots=config.slots,
            attempts=attempts,
            timeout_s=partial(time_limit_s, self.run),
            num_cpus=config.cpus_per_unit,
            num_gpus=config.gpus_per_unit if config.decode == "cuda" else 0.0,
        )

    def _attempt_once(self, tasks: Iterable[UnitTask]) -> Outcomes:
        """Never in this process, which would die with the task.

        What dies beside others is tried again alone: memory may have been short for so many.
        """
        died: list[UnitTask] = []
        if self.run.engine != "inline":
            with closing(self._attempt(tasks, 1)) as outcomes:
                for outcome in outcomes:
                    if outcome.kind == "died":
                        died.append(outcome.unit)  # until the others have ended
                    else:
                        yield outcome
            tasks = died
        for task in tasks:
            yield run_isolated(self.run.work, task, time_limit_s(self.run, task))

    def _settle(self, outcome: Outcome[UnitTask]) -> None:
        number = outcome.unit.unit.number
        if self.run.note is not None:
            self.run.note(_timing(outcome))
        if outcome.result is None:
            log.error("unit %d: %s", number, outcome.error)
            log.info("unit %d: raised by\n%s", number, outcome.traceback)
            self.raised.append((number, outcome.error or "it gave no result"))
            self.num_raised_in_a_row += 1
            return
        self.num_raised_in_a_row = 0
        for problem in outcome.result.unit["problems"]:
            level = logging.INFO if problem["stage"] in NOTE_STAGES else logging.WARNING
            log.log(level, "unit %d: %s: %s", number, problem["stage"], problem["error"])
        for text in outcome.result.tracebacks:
            log.info("unit %d: a part failed\n%s", number, text)
        self.run.writer.commit_units([(outcome.result.unit, outcome.result.clips)])
        log.info("unit %d: %d clips in %.1f s", number, len(outcome.result.clips), outcome.seconds)


def time_limit_s(run: UnitRun, task: UnitTask) -> float:
    """The limit of an attempt: `timeout_s` for `unit_len_s` of video, more for a longer unit.

    Only a file without an index makes one: it cannot be cut, and four hours of it take their time.
    """
    whole_s = 0.0
    first, *others = task.unit.parts
    if not others and (first.start_tick, first.end_tick) == (None, None):
        whole_s = float(task.videos[first.uri]["duration_s"] or 0.0)
    return run.config.timeout_s * max(1.0, whole_s / run.dataset.settings.unit_len_s)


def make_task(run: UnitRun, unit: PlannedUnit, videos: Mapping[str, dict[str, Any]]) -> UnitTask:
    """All that a worker needs for one unit; `videos` are rows by URI."""
    return UnitTask(
        unit=unit,
        shards_dir=str(run.dataset.path / "shards"),
        token=run.writer.token,
        settings=run.dataset.settings,
        videos={part.uri: videos[part.uri] for part in unit.parts},
        action_names=run.action_names,
        decode=run.config.decode,
    )


def action_columns(names: Collection[str], given: str | None) -> dict[str, tuple[str, ...]]:
    """Action columns of the embodiments named; `given` may be a YAML file of one's own."""
    columns: dict[str, tuple[str, ...]] = {}
    if given is not None:
        body = load_embodiment(given)
        columns[body.name] = body.action_names
    for name in sorted(set(names) - set(columns)):
        try:
            columns[name] = load_embodiment(name).action_names
        except ConfigError:
            log.info("no action columns are known for the embodiment %r", name)
    return columns


def _timing(outcome: Outcome[UnitTask]) -> dict[str, Any]:
    """One line of the run record's `units.jsonl`."""
    return {
        "number": outcome.unit.unit.number,
        "worker": outcome.worker,
        "started_at": round(outcome.started_at, 3),
        "seconds": round(outcome.seconds, 3),
        "attempts": outcome.attempts,
        "num_clips": 0 if outcome.result is None else len(outcome.result.clips),
    }
