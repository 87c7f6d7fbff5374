"""Units that killed their worker or ran past their limit: which parts did it, and the rest of them.

Each part is tried by itself, as many at a time as units are worked on. A part whose process dies,
or runs past its limit, is recorded as quarantined, and its unit is worked on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace

from manifests.records import WORKER_DIED_STAGE, UnitProblem
from pipeline.outcome import Outcome

from .task import UnitTask

Outcomes = Generator[Outcome[UnitTask], None, None]

LOST = ("died", "timeout")
"""Kinds of outcome after which nothing is known but that there is no answer."""


def taken_apart(
    tasks: Sequence[UnitTask], attempt: Callable[[Iterable[UnitTask]], Outcomes]
) -> Outcomes:
    """One outcome per unit that gave no answer.

    Args:
        tasks: The units.
        attempt: One outcome per task, in any order; what is lost then is the task's own fault.
    """
    dead: dict[int, dict[int, UnitProblem]] = {task.unit.number: {} for task in tasks}
    for outcome in attempt(_trials(tasks)):
        if outcome.kind in LOST:
            (position,) = _alive(outcome.unit)
            problem = _dead(outcome.unit, position, outcome.error)
            dead[outcome.unit.unit.number][position] = problem
    hopeless = []
    for outcome in attempt(replace(task, dead_parts=dead[task.unit.number]) for task in tasks):
        if outcome.kind in LOST:  # together its parts do what none does alone
            parts = range(len(outcome.unit.unit.parts))
            problems = {part: _dead(outcome.unit, part, outcome.error) for part in parts}
            hopeless.append(replace(outcome.unit, dead_parts=problems))
        else:
            yield outcome
    yield from attempt(hopeless)


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
