"""Files that may lie beside a video: a caption, spans with texts, and the robot's actions.

Sidecar times are file times: seconds since the file's first displayed frame.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import SampleError

SPAN_SUFFIXES = (".spans.csv", ".spans.json", ".spans.parquet")
ACTIONS_SUFFIX = ".actions.parquet"
CAPTION_SUFFIX = ".txt"
TIME_COLUMN = "time_s"
TIME_TOLERANCE_S = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of a file with its text: `[start_s, end_s)`."""

    start_s: float
    end_s: float
    text: str | None = None

    def __post_init__(self) -> None:
        """Refuse a span that is no stretch of time."""
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s)):
            raise ValueError(f"a span's times must be finite, not {self.start_s} to {self.end_s}")
        if self.end_s <= self.start_s:
            raise ValueError(f"a span must end after it starts, not {self.start_s} to {self.end_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecars:
    """Where a video's sidecars lie; None where there is none."""

    caption: Path | None
    spans: Path | None
    actions: Path | None

    def digests(self) -> list[str]:
        """SHA-256 of each sidecar that is there, in the order caption, spans, actions."""
        found = (self.caption, self.spans, self.actions)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path is not None]


def find_sidecars(video: Path) -> Sidecars:
    """Look for the sidecars of a video by its stem.

    Raises:
        SampleError: Two span files lie beside the video (`spans`).
    """
    spans = [path for suffix in SPAN_SUFFIXES if _is_there(path := _beside(video, suffix))]
    if len(spans) > 1:
        names = " and ".join(path.name for path in spans)
        raise SampleError(
            f"{video} has two span files beside it, {names}.",
            reason="spans",
            hint="Keep one of them.",
        )
    caption, actions = _beside(video, CAPTION_SUFFIX), _beside(video, ACTIONS_SUFFIX)
    return Sidecars(
        caption=caption if _is_there(caption) else None,
        spans=spans[0] if spans else None,
        actions=actions if _is_there(actions) else None,
    )


def read_caption(video: Path) -> str | None:
    """The caption beside a video, stripped; None when there is none or it is empty."""
    path = _beside(video, CAPTION_SUFFIX)
    if not _is_there(path):
        return None
    return path.read_text(encoding="utf-8-sig", errors="replace").strip() or None


def read_spans(path: Path) -> tuple[Span, ...]:
    """Read a spans file (columns `start_s`, `end_s`, optional `text`) and resolve overlaps.

    Raises:
        SampleError: The file cannot be read as spans (`spans`).
    """
    try:
        return resolve_spans(_span(row) for row in _span_rows(path))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
        cause = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
        raise SampleError(
            f"{path} is no list of spans: {cause}.",
            reason="spans",
            hint="It needs start_s, end_s (seconds) and text.",
        ) from error


def resolve_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Sort spans, join equal ones, and let a later one begin where an earlier one ends.

    Equal spans become one with the texts joined by newline, in file order. A span that lies
    wholly inside earlier ones vanishes.
    """
    texts: dict[tuple[float, float], list[str]] = {}
    for span in spans:
        texts.setdefault((span.start_s, span.end_s), []).extend([span.text] if span.text else [])
    resolved: list[Span] = []
    for (start_s, end_s), lines in sorted(texts.items()):
        begin_s = max(start_s, resolved[-1].end_s) if resolved else start_s
        if begin_s < end_s:
            text = "\n".join(lines) or None
            resolved.append(Span(start_s=begin_s, end_s=end_s, text=text))
    return tuple(resolved)


def in_spans(spans: Sequence[Span], times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which times lie in one of the resolved spans."""
    if not spans:
        return np.zeros(len(times_s), bool)
    starts = np.array([span.start_s for span in spans])
    ends = np.array([span.end_s for span in spans])
    at = np.searchsorted(starts, times_s, side="right") - 1
    return np.asarray((at >= 0) & (times_s < ends[at.clip(0)]), bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """A robot's recorded actions: one row per time.

    Attributes:
        path: The file they came from.
        times_s: float64 (rows,), ascending.
        values: float32 (rows, columns), columns in the embodiment's order.
        interval_s: Median time between rows; 0 with a single row.
    """

    path: Path
    times_s: NDArray[np.float64]
    values: NDArray[np.float32]
    interval_s: float

    def at(self, times_s: NDArray[np.float64], *, frame_interval_s: float) -> NDArray[np.float32]:
        """Rows nearest to the given file times: float32 (times, columns).

        Raises:
            SampleError: A frame is further from its nearest row than half the larger of frame
                interval and row interval, plus 1 ms (`actions`).
        """
        later = np.searchsorted(self.times_s, times_s).clip(1, max(1, len(self.times_s) - 1))
        before = later - 1
        later = later.clip(0, len(self.times_s) - 1)
        is_later = self.times_s[later] - times_s < times_s - self.times_s[before]
        nearest = np.where(is_later, later, before)
        off_s = np.abs(self.times_s[nearest] - times_s)
        limit_s = max(frame_interval_s, self.interval_s) / 2 + TIME_TOLERANCE_S
        if len(off_s) and off_s.max() > limit_s:
            worst = int(off_s.argmax())
            raise SampleError(
                f"{self.path}: the frame at {times_s[worst]:.3f} s is {off_s[worst]:.3f} s from "
                f"the nearest row; at most {limit_s:.3f} s is allowed.",
                reason="actions",
                hint="time_s must count from the video's first displayed frame.",
            )
        return self.values[nearest]


def read_actions(path: Path, columns: Sequence[str]) -> Actions:
    """Read `time_s` and the named columns of an actions file.

    Raises:
        SampleError: Unreadable, a column missing, times not ascending, or no number (`actions`).
    """
    try:
        table = pq.read_table(path)
        missing = [name for name in (TIME_COLUMN, *columns) if name not in table.column_names]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        times_s = table.column(TIME_COLUMN).to_numpy().astype(np.float64)
        arrays = [table.column(name).to_numpy().astype(np.float32) for name in columns]
        values = np.stack(arrays, axis=1) if arrays else np.empty((len(times_s), 0), np.float32)
        return checked_actions(path, times_s, values)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise SampleError(
            f"{path} is no actions file for this embodiment: {error}.",
            reason="actions",
            hint="It needs time_s and one float column per name in the embodiment's YAML.",
        ) from error


def checked_actions(
    path: Path, times_s: NDArray[np.float64], values: NDArray[np.float32]
) -> Actions:
    """Actions from their rows, when times ascend and every value is a number.

    Raises:
        ValueError: They do not.
    """
    if not len(times_s):
        raise ValueError("it has no rows")
    if not np.isfinite(times_s).all() or not np.isfinite(values).all():
        raise ValueError("it holds values that are no finite numbers")
    if (np.diff(times_s) <= 0).any():
        raise ValueError("time_s does not ascend")
    interval_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    return Actions(path=path, times_s=times_s, values=values, interval_s=interval_s)


def _beside(video: Path, suffix: str) -> Path:
    return video.with_name(video.stem + suffix)


def _is_there(path: Path) -> bool:
    """Whether a sidecar is there; not when its name would be longer than a name may be."""
    return os.path.isfile(path)


def _span(row: Mapping[str, Any]) -> Span:
    text = row.get("text")
    return Span(
        start_s=float(row["start_s"]),
        end_s=float(row["end_s"]),
        text=str(text).strip() or None if text is not None else None,
    )


def _span_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise ValueError("it must be a list of objects")
        return data
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))
