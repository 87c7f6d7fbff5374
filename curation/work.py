"""The work function: one unit of the plan in, one shard and its rows out, in one decode pass.

Pure: the same unit gives the same bytes in any process, so it may run twice. A video that fails
is recorded and the rest of its unit goes on without it.
"""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Mapping
from functools import partial
from typing import Any

from manifests.records import WORKER_DIED_STAGE, UnitProblem
from manifests.storage import location
from pipeline.flaky import patiently
from pipeline.hardware import decoding_device

from .part import PartWorker, Sink, StageError
from .task import UnitResult, UnitTask
from .triage import work_on_part


def curate_unit(task: UnitTask) -> UnitResult:
    """Work on a unit: decode, cut, measure and encode each part; write the shard; return the rows.

    When a part fails, what was written so far is thrown away and the unit starts again without
    it: a shard holds the clips of whole parts only. So it does, after a while, when a video's
    storage fails.

    Raises:
        UsageError: A GPU is to decode, and there is none.
        StorageError, OSError: The shard cannot be written, for instance on a full disk, or the
            storage of a video fails for long. The unit stays pending.
    """
    device = decoding_device(task.decode)
    problems = dict(task.dead_parts)
    tracebacks: list[str] = []
    while True:
        result = patiently(lambda: _attempt(task, problems, tracebacks, device))
        if result is not None:
            return result


def _attempt(
    task: UnitTask,
    problems: dict[int, UnitProblem],
    tracebacks: list[str],
    device: str | None,
) -> UnitResult | None:
    """One pass over the parts that have not failed; None when another one did."""
    rows: list[dict[str, Any]] = []
    notes: list[UnitProblem] = []
    sink = _sink(task)
    try:
        for index, part in enumerate(task.unit.parts):
            if index in problems:
                continue
            video = task.videos[part.uri]
            make = partial(
                PartWorker,
                part=part,
                video=video,
                settings=task.settings,
                action_names=task.action_names.get(video["embodiment"], ()),
                unit_id=task.unit.unit_id,
                sink=sink,
                device=device,
            )
            try:
                worker, found = work_on_part(make, part=part, video=video, settings=task.settings)
                rows += found
            except StageError as error:
                problems[index] = error.problem
                tracebacks.append("".join(traceback.format_exception(error.__cause__ or error)))
                return None
            notes += worker.notes
        shard = sink.finish()
    finally:
        sink.close()
    unit = _unit_row(task, rows, [*problems.values(), *notes], shard, num_failed=len(problems))
    return UnitResult(unit=unit, clips=tuple(rows), tracebacks=tuple(tracebacks))


def _unit_row(
    task: UnitTask,
    rows: list[dict[str, Any]],
    problems: list[UnitProblem],
    shard: Mapping[str, Any],
    *,
    num_failed: int,
) -> dict[str, Any]:
    num_gated = sum(row["gate"] is not None for row in rows)
    state = "done"
    if num_failed == len(task.unit.parts):
        died = any(problem.stage == WORKER_DIED_STAGE for problem in problems)
        state = "quarantined" if died else "failed"
    return {
        "number": task.unit.number,
        "unit_id": task.unit.unit_id,
        "state": state,
        "parts": [part.row() for part in task.unit.parts],
        "problems": [problem.row() for problem in problems],
        "num_clips": len(rows) - num_gated,
        "num_gated": num_gated,
        **shard,
    }


def _sink(task: UnitTask) -> Sink:
    path = location(task.shards_dir) / f"{task.unit.shard}.tar" if task.writes_shard else None
    # A lost attempt may still be writing somewhere: no two may share a temporary file.
    token = f"{task.token}{secrets.token_hex(4)}"
    return Sink(path, name=task.unit.shard, token=token)
