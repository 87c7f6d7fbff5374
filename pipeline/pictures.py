"""Decoded frames made into the pictures that are written: cropped, scaled, upright, one format.

Colours: what is written is always 8-bit 4:2:0 in limited range, and its tags say what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from .frames import DecodedFrame
from .geometry import crop_planes
from .packets import VideoProbe

_AREA = Interpolation.AREA | Interpolation.BITEXACT
_SMALL_SIZE, _DOUBLE_SIZE = (320, 240), (640, 480)


class FrameScaler:
    """Turns decoded frames into the pictures that are written: cropped, scaled and upright.

    The centre of the displayed picture is cut to the aspect of the output, on even stored pixels,
    and scaled by area in 8-bit 4:2:0 limited range, to which other formats are converted first.

    Args:
        facts: The probe of the video.
        width, height: Output size in pixels, even.
    """

    def __init__(self, facts: VideoProbe, width: int, height: int) -> None:
        self._facts = facts
        self._width, self._height = width, height
        self._convert, self._scale, self._shrink = (VideoReformatter() for _ in range(3))
        self._aspect = Fraction(width, height)
        self.box = facts.crop_box(facts.stored_width, facts.stored_height, self._aspect)
        self._box_of = {(facts.stored_width, facts.stored_height): self.box}

    @property
    def scale_ratio(self) -> float:
        """Output pixels per source pixel along a side, the geometric mean of both sides."""
        area = self.box.width * self.box.height
        return float(np.sqrt(self._width * self._height / area))

    def scale(self, decoded: DecodedFrame) -> VideoFrame:
        """Return the written picture: a yuv420p frame with the source's colour tags."""
        frame = self._cropped(decoded.frame)
        size = (self._width, self._height)
        if decoded.rotation % 180:
            size = (self._height, self._width)
        scaled = self._scale.reformat(frame, *size, "yuv420p", interpolation=_AREA, threads=1)
        if decoded.rotation:
            turns = decoded.rotation // 90
            scaled = _from_planes([np.rot90(plane, turns) for plane in _planes(scaled)])
        return _copy_tags(frame, scaled)

    def small(self, frame: VideoFrame) -> list[NDArray[np.uint8]]:
        """The planes that all measures look at, from a written picture; 0.01 ms for 640x480.

        Returns:
            Y, Cb and Cr, uint8: a 640x480 picture as it is, any other shrunk to 320x240.
        """
        if (frame.width, frame.height) != _DOUBLE_SIZE:
            frame = self._shrink.reformat(
                frame, *_SMALL_SIZE, "yuv420p", interpolation=_AREA, threads=1
            )
        return _planes(frame)

    def small_at_once(self, decoded: DecodedFrame) -> list[NDArray[np.uint8]]:
        """What `small` gives, without making the written picture: for passes that only measure."""
        is_lying = bool(decoded.rotation % 180)
        frame = self._cropped(decoded.frame)
        double, single = (size[::-1] if is_lying else size for size in (_DOUBLE_SIZE, _SMALL_SIZE))
        if (frame.width, frame.height) != double:
            frame = self._shrink.reformat(frame, *single, "yuv420p", interpolation=_AREA, threads=1)
        planes = _planes(frame)
        if not decoded.rotation:
            return planes
        turns = decoded.rotation // 90
        return [np.ascontiguousarray(np.rot90(plane, turns)) for plane in planes]

    def _cropped(self, source: VideoFrame) -> VideoFrame:
        """The centre of a picture in 8-bit 4:2:0 limited range, without copying it."""
        frame = _to_limited_420(source, self._convert)
        size = (frame.width, frame.height)
        box = self._box_of.get(size)
        if box is None:
            box = self._box_of[size] = self._facts.crop_box(*size, self._aspect)
        if (box.width, box.height) == size:
            return frame
        planes = tuple(crop_planes(_planes(frame), box))
        return _copy_tags(frame, VideoFrame.from_dlpack(planes, "yuv420p", box.width, box.height))


def _to_limited_420(frame: VideoFrame, reformatter: VideoReformatter) -> VideoFrame:
    """Convert to 8-bit 4:2:0 limited range, keeping the colour matrix; RGB becomes BT.601."""
    if frame.format.name == "yuv420p" and frame.color_range != ColorRange.JPEG:
        return frame
    is_rgb = frame.format.is_rgb or frame.format.name == "pal8"
    converted = reformatter.reformat(
        frame,
        frame.width,
        frame.height,
        "yuv420p",
        dst_colorspace=Colorspace.ITU601 if is_rgb else None,
        dst_color_range=ColorRange.MPEG,
        interpolation=_AREA,
        threads=1,
    )
    _copy_tags(frame, converted)
    if is_rgb:
        converted.colorspace = Colorspace.ITU601
    return converted


def _copy_tags(source: VideoFrame, target: VideoFrame) -> VideoFrame:
    target.colorspace, target.color_range = source.colorspace, ColorRange.MPEG
    target.color_primaries, target.color_trc = source.color_primaries, source.color_trc
    return target


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """View the planes of a yuv420p frame without copying."""
    planes = frame.planes
    rows = [np.frombuffer(memoryview(p), np.uint8).reshape(p.height, -1) for p in planes]
    return [row[:, : plane.width] for row, plane in zip(rows, planes, strict=True)]


def _from_planes(planes: Sequence[NDArray[np.uint8]]) -> VideoFrame:
    """Copy planes of any stride into a new yuv420p frame."""
    height, width = planes[0].shape
    frame = VideoFrame(width, height, "yuv420p")
    for target, plane in zip(_planes(frame), planes, strict=True):
        target[:] = plane
    return frame
