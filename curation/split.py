"""Shots and spans cut into pieces: each piece is one candidate clip.

Pieces never overlap and cover the part exactly; every edge is decided as frames stream by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from .sidecars import Span

TOO_SHORT = "too_short"
NO_SPAN = "no_span"
TRANSITION = "transition"
IDLE = "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A piece begins at a frame.

    Attributes:
        ended_at: Why the piece before it ended: `cut`, `transition`, `idle`, `span` or `length`;
            None at the first frame.
        shot_index: Shot of the new piece, counted within the part.
        span_index: Span of the new piece; None outside every span or without spans.
        aside: What keeps the new piece from being a clip: `transition`, `idle`, or None.
    """

    ended_at: str | None
    shot_index: int
    span_index: int | None
    aside: str | None = None


class PieceSplitter:
    """Decides frame by frame where pieces begin.

    A piece ends where the shot ends (`cut`), where a gradual transition or an idle stretch begins
    or ends (`transition`, `idle`), where its span begins or ends (`span`), or at the first frame at
    or after each multiple of `clip_len_s` since the last of these (`length`). A transition belongs
    to the shot before it. The part's own end is the caller's to report.

    Args:
        time_base: Seconds per tick.
        first_tick: Tick of the file's first displayed frame; span times count from there.
        clip_len_s: Length of a piece.
        spans: Sorted, without overlap (`sidecars.resolve_spans`); None when the video has none.
    """

    def __init__(
        self,
        *,
        time_base: Fraction,
        first_tick: int,
        clip_len_s: float,
        spans: Sequence[Span] | None = None,
    ) -> None:
        self._time_base = time_base
        self._first_tick = first_tick
        length_ticks = Fraction(str(clip_len_s)) / time_base
        self._lengths, self._ticks = length_ticks.denominator, length_ticks.numerator
        self._spans = spans
        self._span_at = 0
        self._shot_index = 0
        self._span_index: int | None = None
        self._aside: str | None = None
        self._segment_tick: int | None = None
        self._pieces_done = 0

    def add(self, tick: int, *, is_cut: bool, aside: str | None = None) -> Edge | None:
        """Take the next frame; the edge in front of it, if there is one."""
        span_index = self._span_of(tick)
        ended_at = self._ended_at(span_index, aside, is_cut=is_cut)
        if ended_at is not None and (is_cut or (self._aside == TRANSITION and aside != TRANSITION)):
            self._shot_index += 1
        if ended_at is not None or self._segment_tick is None:
            self._segment_tick, self._pieces_done = tick, 0
            self._span_index, self._aside = span_index, aside
            return self._edge(ended_at)
        num_lengths = (tick - self._segment_tick) * self._lengths // self._ticks
        if num_lengths > self._pieces_done:
            self._pieces_done = num_lengths
            return self._edge("length")
        return None

    def _ended_at(self, span_index: int | None, aside: str | None, *, is_cut: bool) -> str | None:
        """Why what went before ends here; None where it goes on or nothing went before."""
        if self._segment_tick is None:
            return None
        if is_cut:
            return "cut"
        if aside != self._aside:
            return TRANSITION if TRANSITION in (aside, self._aside) else IDLE
        return "span" if span_index != self._span_index else None

    def _edge(self, ended_at: str | None) -> Edge:
        return Edge(
            ended_at=ended_at,
            shot_index=self._shot_index,
            span_index=self._span_index,
            aside=self._aside,
        )

    def _span_of(self, tick: int) -> int | None:
        if not self._spans:
            return None
        time_s = float((tick - self._first_tick) * self._time_base)
        while self._span_at < len(self._spans) and self._spans[self._span_at].end_s <= time_s:
            self._span_at += 1
        if self._span_at == len(self._spans) or self._spans[self._span_at].start_s > time_s:
            return None
        return self._span_at


def is_too_short(
    num_frames: int, duration_s: float, *, min_frames: int, min_duration_s: float
) -> bool:
    """Whether a piece is too short to be a clip; a hair of rounding does not decide."""
    return num_frames < min_frames or duration_s < min_duration_s - 1e-6
