"""What a video's container says about its pictures: the packet table and the header's facts.

All times are ticks of the stream's own time base; durations and edges come from the packets, never
from the header.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .geometry import CropBox, crop_box, displayed_size

INDEXED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
"""Containers that list their keyframes; only these are cut into several units of work."""

_MAX_JITTER = 0.05  # share of an interval that rounding and sloppy muxers may add to a fixed rate


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketTable:
    """One row per packet of a video stream, in decoding order.

    Attributes:
        pts: int64, display time; a missing one is replaced by the decoding time.
        dts: int64, decoding time.
        duration: int64, 0 where the container gives none.
        size: int64, bytes.
        pos: int64, byte position in the file, -1 where unknown.
        is_key: bool, decoding can start here.
        is_discarded: bool, decoded but hidden by an edit list.
        num_without_pts: How many packets had no display time of their own.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    size: NDArray[np.int64]
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
    """Collects packets in decoding order, eight bytes a fact, and makes their table."""

    _rows: array[int] = field(default_factory=lambda: array("q"))
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
        pts = dts if pts is None else pts
        duration = duration or 0
        self._next_dts = dts + duration
        pos = -1 if pos is None else pos
        self._rows.extend((pts, dts, duration, size, pos, is_key, is_discarded))

    def table(self) -> PacketTable:
        """Return what was collected."""
        rows = np.array(self._rows, np.int64).reshape(-1, 7)
        pts, dts, duration, size, pos, is_key, is_discarded = rows.T.copy()
        return PacketTable(
            pts=pts,
            dts=dts,
            duration=duration,
            size=size,
            pos=pos,
            is_key=is_key.astype(np.bool_),
            is_discarded=is_discarded.astype(np.bool_),
            num_without_pts=self._num_without_pts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoProbe:
    """Everything known about a readable video after one demux and one decoded frame.

    The fields up to `has_b_frames` are columns of the table `videos`, in its names and units.

    Attributes:
        container: FFmpeg's short name of the container.
        codec: Codec of the stream read: the first video stream that is no cover picture.
        width, height: As displayed: sample aspect and rotation applied.
        rotation: Degrees (0, 90, 180, 270) by which the stored picture is turned
            counter-clockwise to be shown.
        fps: Mean rate of the shown frames.
        time_base: Seconds per tick, as "num/den".
        start_tick: Tick of the first frame that can be shown.
        num_frames_declared: Header count less discarded packets, else packets shown.
        sample_aspect: Width of a stored pixel over its height, as "num/den".
        has_b_frames: Whether frames are decoded in another order than they are shown.
        stored_width, stored_height: Size of the stored picture.
        nominal_duration: Ticks a frame lasts when nothing else says so.
        demux_error: Why reading stopped before the end of the file; empty when it did not.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    fps: float
    is_variable_rate: bool
    time_base: str
    start_tick: int
    num_packets: int
    num_frames_declared: int
    duration_s: float
    sample_aspect: str
    max_gop_frames: int
    has_b_frames: bool
    stored_width: int
    stored_height: int
    nominal_duration: int
    demux_error: str
    packets: PacketTable

    @property
    def has_index(self) -> bool:
        """Whether the container can be entered in the middle, so that the video may be split."""
        return has_index(self.container) and not self.packets.num_without_pts

    def columns(self) -> dict[str, object]:
        """Return the facts as a row of the table `videos` names them."""
        return {name: getattr(self, name) for name in VIDEO_COLUMNS}

    def crop_box(self, width: int, height: int, aspect: Fraction) -> CropBox:
        """Find the centre of a display aspect in a stored picture, usually of the stored size."""
        return crop_box(
            width,
            height,
            sample_aspect=Fraction(self.sample_aspect),
            rotation=self.rotation,
            aspect=aspect,
        )

    def num_frames_expected(self, start_tick: int | None, end_tick: int | None) -> int:
        """Count the frames a part should give; the parts of a video sum to its declared count.

        Frames that the header promises and no packet holds belong to the last part.
        """
        counted = self.packets.count(start_tick, end_tick)
        if end_tick is not None:
            return counted
        missing = self.num_frames_declared - int((~self.packets.is_discarded).sum())
        return counted + max(0, missing)


def describe(
    packets: PacketTable,
    *,
    container: str,
    codec: str,
    pix_fmt: str,
    stored_size: tuple[int, int],
    sample_aspect: Fraction,
    rotation: float,
    time_base: Fraction,
    first_pts: int | None,
    rate_from_header: Fraction,
    num_frames_from_header: int,
    demux_error: str,
) -> VideoProbe:
    """Derive the facts of a video from its packets, its header and its first decoded frame.

    Args:
        rotation: Degrees counter-clockwise, as the decoder says; rounded to quarter turns.
        first_pts: Display time of the first decoded frame.
        rate_from_header: Used only when fewer than two frames are shown.
        num_frames_from_header: 0 when the header does not count them.
    """
    turn = round(rotation / 90) * 90 % 360
    width, height = displayed_size(*stored_size, sample_aspect=sample_aspect, rotation=turn)
    nominal = packets.median_interval or max(1, round(1 / (rate_from_header * time_base)))
    ticks = np.unique(packets.pts if packets.is_discarded.all() else packets.shown_ticks)
    span, hidden = int(ticks[-1] - ticks[0]), int(packets.is_discarded.sum())
    start = int(ticks[0]) if first_pts is None else first_pts
    fps = (len(ticks) - 1) / (span * time_base) if span else 1 / (nominal * time_base)
    return VideoProbe(
        container=container,
        codec=codec,
        pix_fmt=pix_fmt,
        width=width,
        height=height,
        rotation=turn,
        fps=float(fps),
        is_variable_rate=packets.is_variable_rate,
        time_base=f"{time_base.numerator}/{time_base.denominator}",
        start_tick=start,
        num_packets=len(packets),
        num_frames_declared=(num_frames_from_header or len(packets)) - hidden,
        duration_s=float(max(0, packets.end_tick(nominal) - start) * time_base),
        sample_aspect=f"{sample_aspect.numerator}/{sample_aspect.denominator}",
        max_gop_frames=packets.max_gop_frames,
        has_b_frames=bool((np.diff(packets.pts) < 0).any()),
        stored_width=stored_size[0],
        stored_height=stored_size[1],
        nominal_duration=nominal,
        demux_error=demux_error,
        packets=packets,
    )


VIDEO_COLUMNS = (
    "container", "codec", "pix_fmt", "width", "height", "rotation", "fps", "is_variable_rate",
    "time_base", "start_tick", "num_packets", "num_frames_declared", "duration_s", "sample_aspect",
    "max_gop_frames", "has_b_frames",
)  # fmt: skip
"""Columns of `videos` that a probe fills."""


def has_index(container: str) -> bool:
    """Whether a container, by FFmpeg's name for it, lists its keyframes."""
    return not INDEXED_CONTAINERS.isdisjoint(container.split(","))
