"""The facts of a video, and how each part of it is read: what work needs, without a packet table.

Durations and edges come from the packets, never from the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .geometry import CropBox, crop_box, displayed_size
from .packets import PacketTable

INDEXED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
"""Containers that list their keyframes; only these are cut into several units of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReading:
    """How one part of a video is entered, and what it should give.

    Attributes:
        start_tick, end_tick: The half-open span; None leaves a side open.
        num_frames: Frames it should give.
        key_pts, key_size: Time and bytes of the keyframe it is entered at; None: at the file's
            start.
        seek_ticks: Times that may lead the container to that keyframe, to be tried in order.
    """

    start_tick: int | None
    end_tick: int | None
    num_frames: int
    key_pts: int | None = None
    key_size: int | None = None
    seek_ticks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """What reading any part of a video needs to know about the whole.

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

    def displayed_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size at which a stored picture is shown."""
        return displayed_size(
            width, height, sample_aspect=Fraction(self.sample_aspect), rotation=self.rotation
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoProbe(VideoFacts):
    """Everything known about a readable video after one demux and one decoded frame."""

    packets: PacketTable

    @property
    def has_index(self) -> bool:
        """Whether the container can be entered in the middle, so that the video may be split."""
        return has_index(self.container) and not self.packets.num_without_pts

    def reading(self, start_tick: int | None, end_tick: int | None) -> PartReading:
        """Find the keyframe at which a part is entered, and count its frames."""
        packets, key = self.packets, 0
        if start_tick is not None and self.has_index:
            key = packets.keyframe_before(start_tick)
        return PartReading(
            start_tick=start_tick,
            end_tick=end_tick,
            num_frames=self.num_frames_expected(start_tick, end_tick),
            key_pts=int(packets.pts[key]) if key else None,
            key_size=int(packets.size[key]) if key else None,
            seek_ticks=packets.seek_stamps(key) if key else (),
        )

    def edges(self, length_s: float) -> list[int]:
        """List the ticks at which a video is cut into parts of a length; none without an index."""
        return self.packets.edges(length_s, Fraction(self.time_base)) if self.has_index else []

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
