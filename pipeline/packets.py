"""The packet table of a video: what its container says about every packet, in decoding order.

All times are ticks of the stream's own time base.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_MAX_JITTER = 0.05  # share of an interval that rounding and sloppy muxers may add to a fixed rate


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketTable:
    """One row per packet of a video stream, in decoding order.

    Attributes:
        pts: int64, display time; a missing one is replaced by the decoding time.
        dts: int64, decoding time.
        duration: int64, 0 where the container gives none.
        size: int32, bytes.
        pos: int64, byte position in the file, -1 where unknown.
        is_key: bool, decoding can start here.
        is_discarded: bool, decoded but hidden by an edit list.
        num_without_pts: How many packets had no display time of their own.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    size: NDArray[np.int32]
    pos: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    is_discarded: NDArray[np.bool_]
    num_without_pts: int = 0

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def shown_ticks(self) -> NDArray[np.int64]:
        """Display times of the packets that are shown, in display order."""
        ticks: NDArray[np.int64] = np.sort(self.pts[~self.is_discarded])
        return ticks

    @property
    def median_interval(self) -> int:
        """Median ticks between shown frames; 0 when fewer than two are shown."""
        steps = np.diff(np.unique(self.pts[~self.is_discarded]))
        return max(1, round(float(np.median(steps)))) if len(steps) else 0

    @property
    def max_gop_frames(self) -> int:
        """The longest run of packets from one keyframe to the next, at least the leading run."""
        edges = np.concatenate([[0], np.flatnonzero(self.is_key), [len(self)]])
        return int(np.diff(edges).max())

    @property
    def is_variable_rate(self) -> bool:
        """Whether shown frames are spaced unevenly, beyond the rounding of ticks."""
        steps = np.diff(np.unique(self.pts[~self.is_discarded]))
        if not len(steps):
            return False
        middle = self.median_interval
        return bool(np.abs(steps - middle).max() > max(1.0, _MAX_JITTER * middle))

    def end_tick(self, nominal_duration: int) -> int:
        """Return the tick at which the last shown frame ends."""
        rows = np.flatnonzero(~self.is_discarded)
        if not len(rows):
            return 0
        last = rows[np.argmax(self.pts[rows])]
        return int(self.pts[last]) + (int(self.duration[last]) or nominal_duration)

    def count(self, start_tick: int | None, end_tick: int | None) -> int:
        """Count the shown packets of the half-open span; None leaves a side open."""
        ticks = self.shown_ticks
        first = 0 if start_tick is None else int(np.searchsorted(ticks, start_tick))
        last = len(ticks) if end_tick is None else int(np.searchsorted(ticks, end_tick))
        return last - first

    def keyframe_before(self, tick: int) -> int:
        """Return the row of the last keyframe shown at or before a tick; 0 when there is none."""
        rows = np.flatnonzero(self.is_key & (self.pts <= tick))
        return int(rows[np.argmax(self.pts[rows])]) if len(rows) else 0

    def seek_stamps(self, key: int) -> tuple[int, ...]:
        """List times that may lead a container to a keyframe, to be tried in order.

        Containers count in decoding or display time; mov steps back a group when the time asked
        for lies within the keyframe's reordering delay, so the latest one comes last.
        """
        later = np.flatnonzero(self.is_key[key + 1 :])
        latest = self.dts[key + 1 + later[0]] - 1 if len(later) else self.pts.max()
        return int(self.dts[key]), int(self.pts[key]), int(latest)

    def edges(self, length_s: float, time_base: Fraction) -> list[int]:
        """List the first shown tick at or after each multiple of a length, where frames remain.

        Lengths count from the first shown frame. A video shorter than `length_s` has no edges.
        """
        ticks = self.shown_ticks
        edges: list[int] = []
        multiple = 1
        while len(ticks):
            wanted = int(ticks[0]) + Fraction(length_s) * multiple / time_base
            place = int(np.searchsorted(ticks, np.ceil(float(wanted))))
            if place >= len(ticks):
                break
            if not edges or int(ticks[place]) > edges[-1]:
                edges.append(int(ticks[place]))
            multiple += 1
        return edges


@dataclass(slots=True)
class PacketLog:
    """Collects packets in decoding order, 38 bytes each, and makes their table."""

    _pts: array[int] = field(default_factory=lambda: array("q"))
    _dts: array[int] = field(default_factory=lambda: array("q"))
    _duration: array[int] = field(default_factory=lambda: array("q"))
    _size: array[int] = field(default_factory=lambda: array("i"))
    _pos: array[int] = field(default_factory=lambda: array("q"))
    _is_key: bytearray = field(default_factory=bytearray)
    _is_discarded: bytearray = field(default_factory=bytearray)
    _next_dts: int = 0
    _num_without_pts: int = 0

    def add(
        self,
        *,
        pts: int | None,
        dts: int | None,
        duration: int | None,
        size: int,
        pos: int | None,
        is_key: bool,
        is_discarded: bool,
    ) -> None:
        """Append one packet as the container gives it; None marks what it does not say."""
        self._num_without_pts += pts is None
        dts = self._next_dts if dts is None else dts
        duration = duration or 0
        self._next_dts = dts + duration
        self._pts.append(dts if pts is None else pts)
        self._dts.append(dts)
        self._duration.append(duration)
        self._size.append(size)
        self._pos.append(-1 if pos is None else pos)
        self._is_key.append(is_key)
        self._is_discarded.append(is_discarded)

    def table(self) -> PacketTable:
        """Return what was collected, without copying it; no packet may be added after that."""
        return PacketTable(
            pts=np.frombuffer(self._pts, np.int64),
            dts=np.frombuffer(self._dts, np.int64),
            duration=np.frombuffer(self._duration, np.int64),
            size=np.frombuffer(self._size, np.int32),
            pos=np.frombuffer(self._pos, np.int64),
            is_key=np.frombuffer(self._is_key, np.bool_),
            is_discarded=np.frombuffer(self._is_discarded, np.bool_),
            num_without_pts=self._num_without_pts,
        )
