"""The records a dataset is made of, and the digests that name them: the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .config import canonical_json

VIDEO_ID_DIGITS = 32
CLIP_ID_DIGITS = 24
UNIT_ID_DIGITS = 24

WORKER_DIED_STAGE = "worker_died"
"""Stage of a problem whose part killed its process: the file is `quarantined`."""

DELETED_STAGE = "deleted"
"""Stage of a problem that says how many clips of a video `manifest delete` took away."""

NOTE_STAGES = ("damaged", "timestamps", "caption", DELETED_STAGE)
"""Stages that state a fact about the file: frames missing, ticks out of order, a caption that
cannot be read (its clips have no text), clips deleted. Every other stage is a failure of ours and
makes the file `failed`."""

UNIT_STATES = ("done", "failed", "quarantined")
ENDS_AT = ("cut", "length", "span", "unit", "end")

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A half-open span of one video, in its own ticks; None = open on that side."""

    uri: str
    video_id: str
    start_tick: int | None = None
    end_tick: int | None = None

    def __post_init__(self) -> None:
        start, end = self.start_tick, self.end_tick
        if start is not None and end is not None and start >= end:
            raise ValueError(f"part of {self.uri}: start_tick {start} is not before end {end}")

    def row(self) -> dict[str, Any]:
        """The struct stored in `plan.parts` and `units.parts`."""
        return {name: getattr(self, name) for name in ("uri", "video_id", "start_tick", "end_tick")}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUnit:
    """One unit of work: a row of the `plan` table."""

    number: int
    unit_id: str
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.number < 0 or not self.parts:
            raise ValueError(f"unit {self.number} needs a number >= 0 and at least one part")

    @property
    def shard(self) -> str:
        """Name of the shard this unit writes, without suffix: `clips-000000`."""
        return shard_name(self.number)

    def row(self) -> dict[str, Any]:
        """The row of the `plan` table."""
        return {
            "number": self.number,
            "unit_id": self.unit_id,
            "parts": [part.row() for part in self.parts],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> PlannedUnit:
        """The unit of a `plan` row."""
        parts = tuple(Part(**part) for part in row["parts"])
        return cls(number=row["number"], unit_id=row["unit_id"], parts=parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitProblem:
    """What went wrong, or was found damaged, in one part of a unit.

    `stage` is `worker_died` (quarantined), one of `NOTE_STAGES` (a fact about the file) or the
    name of the step that failed. The frame counts are of the part; None = not known.
    """

    video_id: str
    stage: str
    error: str
    num_frames_expected: int | None = None
    num_frames_decoded: int | None = None

    @property
    def is_note(self) -> bool:
        """Whether this only states a fact about the file."""
        return self.stage in NOTE_STAGES

    def row(self) -> dict[str, Any]:
        """The struct stored in `units.problems`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One candidate clip: a row of `clips`, with its measures and, when read, its verdict.

    Ticks and seconds are half-open spans; seconds count from the file's first displayed frame.
    `gate` is None when bytes were written, else why they were not (then `shard` is None).
    """

    clip_id: str
    video_id: str
    uri: str
    source: str
    embodiment: str
    start_tick: int
    end_tick: int
    time_base: str
    start_s: float
    end_s: float
    num_frames: int
    fps: float
    shot_index: int
    ends_at: str
    text: str | None = None
    gate: str | None = None
    unit_id: str
    shard: str | None = None
    scale_ratio: float
    measures: Mapping[str, Any] = field(default_factory=dict)
    verdict: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.start_tick >= self.end_tick:
            raise ValueError(f"clip {self.clip_id}: start_tick is not before end_tick")
        if self.ends_at not in ENDS_AT:
            raise ValueError(f"clip {self.clip_id}: ends_at {self.ends_at!r} is not in {ENDS_AT}")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    def row(self) -> dict[str, Any]:
        """The row of the `clips` table: facts and measures, no verdict."""
        facts = {name: getattr(self, name) for name in _CLIP_FACTS}
        return {**facts, **self.measures}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Clip:
        """The clip of a row; keys that are no field become measures."""
        known = {name: row[name] for name in (*_CLIP_FACTS, "verdict", "reason") if name in row}
        return cls(**known, measures={k: v for k, v in row.items() if k not in known})


_CLIP_FACTS = tuple(f.name for f in fields(Clip) if f.name not in {"measures", "verdict", "reason"})


def shard_name(number: int) -> str:
    """Name of the shard of unit `number`, without suffix."""
    return f"clips-{number:06d}"


def shard_number(shard: str) -> int:
    """Number in a shard's name."""
    return int(shard.rpartition("-")[2])


def video_id_of(path: Path | str) -> str:
    """First 32 hex digits of the SHA-256 of a file's bytes, read in 1 MiB pieces."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()[:VIDEO_ID_DIGITS]


def clip_id_of(video_id: str, start_tick: int, end_tick: int, time_base: str) -> str:
    """Id of a span of a video: 24 hex digits of `video_id:start_tick:end_tick:num/den`."""
    text = f"{video_id}:{start_tick}:{end_tick}:{time_base}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:CLIP_ID_DIGITS]


def unit_id_of(parts: Sequence[Part], settings_digest: str, sidecar_digests: Sequence[str]) -> str:
    """Id of a unit: 24 hex digits over its parts, the dataset's settings and its sidecars."""
    content = [[part.row() for part in parts], settings_digest, list(sidecar_digests)]
    text = canonical_json(content)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:UNIT_ID_DIGITS]
