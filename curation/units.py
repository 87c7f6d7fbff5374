"""Runs the units of the plan that have no result yet, and commits each as it finishes.

A unit that killed its worker or ran past its limit twice is taken apart: each part is tried in a
process of its own, those that kill it are recorded as quarantined, the others are written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from manifests.dataset import Dataset
from manifests.embodiment import load_embodiment
from manifests.errors import ConfigError, EgodojoError
from manifests.records import NOTE_STAGES, WORKER_DIED_STAGE, PlannedUnit, UnitProblem
from manifests.writer import Writer
from pipeline.outcome import Outcome
from pipeline.progress import Progress
from pipeline.runner import Engine, run_isolated, run_units

from .config import CurateConfig
from .planning import by_declared_pixels
from .task import UnitResult, UnitTask
from .work import curate_unit

log = logging.getLogger(__name__)

Work = Callable[[UnitTask], UnitResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRun:
    """Where and how units are run."""

    dataset: Dataset
    writer: Writer
    config: CurateConfig
    engine: Engine
    action_names: Mapping[str, tuple[str, ...]]
    quiet: bool = False
    work: Work = curate_unit


def finish_units(run: UnitRun) -> int:
    """Work on every pending unit; how many were committed.

    Raises:
        EgodojoError: Units could not be finished for a reason that lies outside the videos (a
            full disk, for instance); all others are committed, a rerun tries these again.
    """
    videos = {row["uri"]: row for row in run.dataset.table("videos").to_pylist()}
    pending = by_declared_pixels(run.dataset.pending_units(), videos)
    tasks = (make_task(run, unit, videos) for unit in pending)
    doomed: list[Outcome[UnitTask]] = []
    raised: list[Outcome[UnitTask]] = []
    if not pending:
        return 0
    with Progress(len(pending), "units", quiet=run.quiet) as progress:
        for outcome in run_units(
            run.work,
            tasks,
            engine=run.engine,
            slots=run.config.slots,
            attempts=run.config.attempts,
            timeout_s=run.config.timeout_s,
            num_cpus=run.config.cpus_per_unit,
        ):
            if outcome.kind in ("died", "timeout"):
                doomed.append(outcome)
                continue
            _settle(run, outcome, raised)
            progress.advance(note=f"{len(raised)} not finished" if raised else None)
        for outcome in doomed:
            log.warning("unit %d: %s; trying its parts", outcome.unit.unit.number, outcome.error)
            task = quarantine(outcome.unit, timeout_s=run.config.timeout_s, work=run.work)
            _settle(run, task, raised)
            progress.advance()
    if raised:
        numbers = ", ".join(str(outcome.unit.unit.number) for outcome in raised[:5])
        raise EgodojoError(
            f"{len(raised)} of {len(pending)} units could not be finished (unit {numbers}): "
            f"{raised[0].error}",
            hint="The others are committed. Remove the cause and rerun the same command.",
        )
    return len(pending)


def make_task(run: UnitRun, unit: PlannedUnit, videos: Mapping[str, dict[str, Any]]) -> UnitTask:
    """All that a worker needs for one unit; `videos` are rows by URI."""
    return UnitTask(
        unit=unit,
        shards_dir=str(run.dataset.path / "shards"),
        token=run.writer.token,
        settings=run.dataset.settings,
        videos={part.uri: videos[part.uri] for part in unit.parts},
        action_names=run.action_names,
    )


def quarantine(task: UnitTask, *, timeout_s: float, work: Work = curate_unit) -> Outcome[UnitTask]:
    """Find the parts of a unit that kill their process; the unit's outcome without them."""
    positions = range(len(task.unit.parts))
    dead: dict[int, UnitProblem] = {}
    for position in positions:
        others = {other: _dead(task, other, "not tried") for other in positions}
        del others[position]
        trial = replace(task, dead_parts=others, writes_shard=False)
        outcome = run_isolated(work, trial, timeout_s)
        if outcome.kind in ("died", "timeout"):
            dead[position] = _dead(task, position, outcome.error)
    if len(dead) < len(positions):
        whole = run_isolated(work, replace(task, dead_parts=dead), timeout_s)
        if whole.kind in ("ok", "raised"):
            return replace(whole, unit=task)
        dead = {position: _dead(task, position, whole.error) for position in positions}
    return Outcome(unit=task, result=work(replace(task, dead_parts=dead)))


def action_columns(videos: list[dict[str, Any]], given: str | None) -> dict[str, tuple[str, ...]]:
    """Action columns of every embodiment in `videos`; `given` may be a YAML file of one's own."""
    names = {str(row["embodiment"]) for row in videos}
    columns: dict[str, tuple[str, ...]] = {}
    if given is not None:
        body = load_embodiment(given)
        columns[body.name] = body.action_names
    for name in sorted(names - set(columns)):
        try:
            columns[name] = load_embodiment(name).action_names
        except ConfigError:
            log.info("no action columns are known for the embodiment %r", name)
    return columns


def _settle(
    run: UnitRun,
    outcome: Outcome[UnitTask],
    raised: list[Outcome[UnitTask]],
) -> None:
    number = outcome.unit.unit.number
    if outcome.result is None:
        log.error("unit %d: %s", number, outcome.error)
        log.info("unit %d: raised by\n%s", number, outcome.traceback)
        raised.append(outcome)
        return
    for problem in outcome.result.unit["problems"]:
        level = logging.INFO if problem["stage"] in NOTE_STAGES else logging.WARNING
        log.log(level, "unit %d: %s: %s", number, problem["stage"], problem["error"])
    for text in outcome.result.tracebacks:
        log.info("unit %d: a part failed\n%s", number, text)
    run.writer.commit_units([(outcome.result.unit, outcome.result.clips)])
    log.info("unit %d: %d clips in %.1f s", number, len(outcome.result.clips), outcome.seconds)


def _dead(task: UnitTask, position: int, error: str | None) -> UnitProblem:
    return UnitProblem(
        video_id=task.unit.parts[position].video_id,
        stage=WORKER_DIED_STAGE,
        error=error or "its process died",
    )
