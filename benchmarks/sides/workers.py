"""How busy each worker was, from the `units.jsonl` of a run's record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_units(dataset: Path) -> list[dict[str, Any]]:
    """The lines of a dataset's only run."""
    (path,) = (dataset / "runs").glob("*/units.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def busy_ratios(units: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the time from its first unit's start to its last unit's start that it worked.

    A worker's start-up, before its first unit, and its last unit count for nothing: then others
    may have nothing left to do. Workers of a single unit are left out.
    """
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for unit in units:
        span = unit["started_at"], unit["started_at"] + unit["seconds"]
        by_worker.setdefault(unit["worker"], []).append(span)
    ratios = {}
    for worker, spans in by_worker.items():
        spans.sort()
        whole = spans[-1][0] - spans[0][0]
        if len(spans) > 1 and whole > 0:
            ratios[worker] = round(sum(end - start for start, end in spans[:-1]) / whole, 4)
    return ratios
