"""The laws of a mixture, tried on a plan: exact ratio, no repeats, same answers one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DatasetError
from .order import Int64Array
from .plan import MixturePlan, Samples

MAX_SAMPLES = 100_000


def check_plan(plan: MixturePlan, *, max_samples: int = MAX_SAMPLES) -> dict[str, Any]:
    """Tries a plan's laws on its first samples.

    Returns:
        {"checked": {"samples", "cycles", "shards"}}.

    Raises:
        DatasetError: A law does not hold: the file was damaged or made by another program.
    """
    cycles = max(1, max_samples // plan.cycle.length)
    samples = plan.samples(0, cycles * plan.cycle.length)
    table = samples.source.reshape(cycles, plan.cycle.length)
    for number, source in enumerate(plan.sources):
        if not ((table == number).sum(axis=1) == source.weight).all():
            raise _broken(plan, f"a cycle does not hold {source.weight} samples of {source.name}")
        if _repeats(plan, samples, number):
            raise _broken(plan, f"a unit of {source.name} comes twice inside an epoch")
    _check_windows(plan, samples)
    shards = sum(len(source.shards) for source in plan.sources)
    return {"checked": {"samples": len(samples.index), "cycles": cycles, "shards": shards}}


def _repeats(plan: MixturePlan, samples: Samples, number: int) -> bool:
    chosen = samples.source == number
    start: Int64Array = samples.first_frame[chosen]
    if plan.header.unit == "clip":
        start = np.zeros_like(start)
    keys = np.stack([samples.epoch[chosen], samples.row[chosen], start])
    ordered = keys[:, np.lexsort(keys)]
    return bool((ordered[:, 1:] == ordered[:, :-1]).all(axis=0).any())


def _check_windows(plan: MixturePlan, samples: Samples) -> None:
    num_frames = plan.columns["num_frames"][samples.row].astype(np.int64)
    last = samples.first_frame + (plan.header.num_frames - 1) * samples.stride
    if np.any(samples.first_frame < 0) or np.any(last >= num_frames):
        raise _broken(plan, "a window leaves its clip")


def _broken(plan: MixturePlan, what: str) -> DatasetError:
    return DatasetError(
        f"The plan {plan.path or '(not saved)'} is damaged: {what}.",
        hint="Write it again: egodojo mixture plan MIXTURE.yaml --out PLAN",
    )
