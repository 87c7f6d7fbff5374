"""Giving decoded frames their time and length, choosing those of one part, and saying how it went.

Works on whatever a decoder yields, in display order; needs no decoder itself.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import VideoError

from .damage import DamageLog
from .facts import PartReading, VideoFacts, VideoProbe

LEFT_OUT = "{n} frame{s} not later than the one before, left out"
NO_TIME = "{n} frame{s} had no time and took the median interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedFrame:
    """One displayed frame.

    Attributes:
        tick: Display time in the stream's time base.
        duration: Ticks until the next displayed frame, also across a part's end.
        frame: The stored picture, an `av.VideoFrame`.
        rotation: Degrees (0, 90, 180, 270) to turn it counter-clockwise for display.
    """

    tick: int
    duration: int
    frame: Any
    rotation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeReport:
    """How a part's decoding went; complete once its frames are all taken.

    Attributes:
        problems: One sentence per kind of trouble; empty when there was none.
    """

    num_frames_expected: int
    num_frames_decoded: int
    problems: tuple[str, ...]


class FrameStream(Iterator[DecodedFrame]):
    """An iterator of the frames of one part that can say how it went.

    Args:
        source: Frames with `pts` and `duration`, in display order.
        troubles: Sentences with `{n}` and `{s}` and how often each applied; the source adds too.
        name: The file, for messages.
        facts: What the container says.
        reading: The part and how many frames it should give.
        damage: What was lost, for whoever wants to know it of a stretch; the source adds packets.
    """

    def __init__(
        self,
        source: Generator[Any, None, None],
        troubles: Counter[str],
        *,
        name: str,
        facts: VideoFacts,
        reading: PartReading,
        damage: DamageLog | None = None,
    ) -> None:
        self._name, self._facts = name, facts
        self._start, self._end = reading.start_tick, reading.end_tick
        self._troubles = troubles
        self._num_expected = reading.num_frames
        self.damage = damage or DamageLog()
        self._num_decoded = 0
        self._frames = self._select(source)

    def __next__(self) -> DecodedFrame:
        frame = next(self._frames)
        self._num_decoded += 1
        return frame

    def close(self) -> None:
        """Let go of the file before the frames are all taken."""
        self._frames.close()

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what went wrong so far, with counts."""
        return tuple(
            text.replace("{n}", str(n)).replace("{s}", "" if n == 1 else "s")
            for text, n in self._troubles.items()
        )

    @property
    def report(self) -> DecodeReport:
        """Counts and problems so far."""
        return DecodeReport(
            num_frames_expected=self._num_expected,
            num_frames_decoded=self._num_decoded,
            problems=self.problems,
        )

    def _select(self, source: Generator[Any, None, None]) -> Generator[DecodedFrame, None, None]:
        """Give each frame its time and length, and keep those inside the span."""
        facts, previous, pending = self._facts, None, None
        with contextlib.closing(source):
            for frame in source:
                tick = frame.pts
                if tick is None:
                    step = facts.nominal_duration
                    tick = facts.start_tick if previous is None else previous + step
                    self._troubles[NO_TIME] += 1
                if previous is not None and tick <= previous:
                    self._troubles[LEFT_OUT] += 1
                    continue
                if pending is not None:
                    yield self._timed(pending, previous, tick - previous)
                previous = tick
                pending = frame if self._start is None or tick >= self._start else None
                if self._end is not None and tick >= self._end:
                    pending = None
                    break
        if pending is not None:
            yield self._timed(pending, previous, pending.duration or facts.nominal_duration)
        if self._num_expected and not self._num_decoded:
            raise VideoError(
                f"none of {self._num_expected} expected frames of {self._name} could be decoded"
                f"{self._span()}",
                reason="undecodable",
            )

    def _timed(self, frame: Any, tick: int | None, duration: int) -> DecodedFrame:
        assert tick is not None
        self.damage.frame(tick, duration, is_corrupt=getattr(frame, "is_corrupt", False))
        return DecodedFrame(
            tick=tick, duration=duration, frame=frame, rotation=self._facts.rotation
        )

    def _span(self) -> str:
        if self._start is None and self._end is None:
            return ""
        return f" between ticks {self._start} and {self._end} (None is an open side)"


def check_for_decord(path: Path | str, facts: VideoProbe, *, num_frames: int | None = None) -> None:
    """Refuse videos that decord decodes wrongly, or sees another number of frames in."""
    shown = len(facts.packets.shown_ticks)
    why = ""
    if facts.codec == "av1":
        why = "it has no AV1 decoder"
    elif facts.packets.is_discarded.any():
        why = "it ignores edit lists"
    elif num_frames not in (None, shown):
        why = f"it sees {num_frames} frames where the container shows {shown}"
    if why:
        raise VideoError(
            f"decord would decode {path} wrongly: {why}",
            reason="decord_refused",
            hint="Use the default backend, pyav.",
        )
