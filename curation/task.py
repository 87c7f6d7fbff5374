"""What crosses the process border of a unit of work: a task in, rows out; never pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.records import PlannedUnit, UnitProblem
from manifests.settings import DatasetSettings
from pipeline.hardware import Decode


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTask:
    """One unit and all that its result depends on.

    Attributes:
        unit: What to do.
        shards_dir: Folder the shard is written to.
        token: Names temporary files.
        settings: Of the dataset.
        videos: Row of `videos` of every URI in the unit.
        action_names: Action columns per embodiment; a body without an entry records none.
        dead_parts: Parts that killed their process, by position; they are not touched.
        writes_shard: False for a trial that only finds out whether the parts can be worked on.
        decode: What decodes.
    """

    unit: PlannedUnit
    shards_dir: str
    token: str
    settings: DatasetSettings
    videos: Mapping[str, Mapping[str, Any]]
    action_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dead_parts: Mapping[int, UnitProblem] = field(default_factory=dict)
    writes_shard: bool = True
    decode: Decode = "software"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitResult:
    """Rows for one commit: `units` gets one, `clips` the others."""

    unit: dict[str, Any]
    clips: tuple[dict[str, Any], ...]
    tracebacks: tuple[str, ...] = ()
