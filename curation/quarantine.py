"""Units that killed their worker or ran past their limit: which parts did it, and the rest of them.

Each part is tried in a process of its own, as many at a time as units are worked on. What dies
there is tried once more alone, since memory may have been short for so many; what dies again, or
runs past its limit, is recorded as quarantined, and its unit is worked on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from manifests.records import WORKER_DIED_STAGE, UnitProblem
from pipeline.outcome import Outcome
from pipeline.runner import run_isolated

from .task import UnitResult, UnitTask

Outcomes = Generator[Outcome[UnitTask], None, None]

LOST = ("died", "timeout")
"""Kinds of outcome after which nothing is known but that there is no answer."""


def taken_apart(
    tasks: Sequence[UnitTask],
    *,
    work: Callable[[UnitTask], UnitResult],
    attempt: Callable[[Iterable[UnitTask]], Outcomes],
    limit_s: Callable[[UnitTask], float],
) -> Outcomes:
    """One outcome per unit, none of them lost.

    Args:
        tasks: Units that gave no answer.
        work: The work function.
        attempt: Attempts tasks once each, some at a time, each in a process that may die.
        limit_s: Time limit of an attempt.
    """
    dead: dict[int, dict[int, UnitProblem]] = {task.unit.number: {} for task in tasks}

    def answers(tried: Iterable[UnitTask]) -> Iterator[Outcome[UnitTask]]:
        died = []
        with closing(attempt(tried)) as outcomes:
            for outcome in outcomes:
                if outcome.kind == "died":
                    died.append(outcome.unit)  # until the others have ended
                else:
                    yield outcome
        for task in died:
            yield run_isolated(work, task, limit_s(task))

    for outcome in answers(_trials(tasks)):
        if outcome.kind in LOST:
            (position,) = _alive(outcome.unit)
            problem = _dead(outcome.unit, position, outcome.error)
            dead[outcome.unit.unit.number][position] = problem
    remaining = [replace(task, dead_parts=dead[task.unit.number]) for task in tasks]
    for outcome in answers(task for task in remaining if _alive(task)):
        if outcome.kind in LOST:  # together its parts do what none does alone
            parts = range(len(outcome.unit.unit.parts))
            problems = {part: _dead(outcome.unit, part, outcome.error) for part in parts}
            remaining.append(replace(outcome.unit, dead_parts=problems))
        else:
            yield outcome
    for task in remaining:
        if not _alive(task):
            yield Outcome(unit=task, result=work(task))


def _trials(tasks: Sequence[UnitTask]) -> Iterator[UnitTask]:
    """Every part of every unit as a task that leaves out the other parts and writes nothing."""
    for task in tasks:
        for position, part in enumerate(task.unit.parts):
            others = {n: _dead(task, n, "not tried") for n in _alive(task) if n != position}
            videos = {part.uri: task.videos[part.uri]}
            yield replace(task, videos=videos, dead_parts=others, writes_shard=False)


def _alive(task: UnitTask) -> list[int]:
    """Positions of the parts that are worked on."""
    return [place for place in range(len(task.unit.parts)) if place not in task.dead_parts]


def _dead(task: UnitTask, position: int, error: str | None) -> UnitProblem:
    return UnitProblem(
        video_id=task.unit.parts[position].video_id,
        stage=WORKER_DIED_STAGE,
        error=error or "its process died",
    )
