"""Decoded frames made into the pictures that are written: cropped, scaled, upright, one format.

Colours: what is written is always SDR, 8-bit 4:2:0 in limited range, and its tags say what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from numpy.typing import NDArray

from .facts import VideoFacts
from .frames import DecodedFrame
from .geometry import crop_planes
from .tone import Transfer, to_sdr

_AREA = Interpolation.AREA | Interpolation.BITEXACT
_SMALL_WIDTH_PX, _SMALL_HEIGHT_PX = 320, 240


class PictureFormat(NamedTuple):
    """What makes pictures of one stream alike; it may change in the midst of one."""

    width: int
    height: int
    pix_fmt: str
    colours: tuple[int, ...]

    @property
    def is_hdr(self) -> bool:
        """Whether light is encoded by PQ or HLG."""
        return self.colours[-1] in _HDR_TRANSFERS


def picture_format(frame: VideoFrame) -> PictureFormat:
    """Stored size, pixel format and colour tags of a decoded frame."""
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    return PictureFormat(frame.width, frame.height, frame.format.name, tags)


class FrameScaler:
    """Turns decoded frames into the pictures that are written: cropped, scaled and upright.

    The centre of the displayed picture is cut to the aspect of the output, on even stored pixels,
    and scaled by area in 8-bit 4:2:0 limited range, to which other formats are converted first.

    Args:
        facts: The probe of the video.
        width, height: Output size in pixels, even.
    """

    def __init__(self, facts: VideoFacts, width: int, height: int) -> None:
        self._facts = facts
        self._width, self._height = width, height
        self._convert, self._scale, self._shrink = (VideoReformatter() for _ in range(3))
        self._deepen, self._flatten = VideoReformatter(), VideoReformatter()
        self._aspect = Fraction(width, height)

    def scale_ratio(self, stored_width: int, stored_height: int) -> float:
        """Output pixels per source pixel along a side, the geometric mean of both sides."""
        box = self._facts.crop_box(stored_width, stored_height, self._aspect)
        return float(np.sqrt(self._width * self._height / (box.width * box.height)))

    def scale(self, decoded: DecodedFrame) -> VideoFrame:
        """Return the written picture: yuv420p, limited range, with tags that say what it is.

        HDR and BT.2020 pictures become SDR ones in BT.709 (`pipeline.tone`), after the scaling;
        others keep their matrix, primaries and transfer.
        """
        mapping = tone_of(decoded.frame)
        pix_fmt = "yuv420p" if mapping is None else "yuv420p10le"
        frame = _to_limited(decoded.frame, self._convert, pix_fmt)
        box = self._facts.crop_box(frame.width, frame.height, self._aspect)
        if (box.width, box.height) != (frame.width, frame.height):
            planes = tuple(crop_planes(_planes(frame), box))
            cropped = VideoFrame.from_dlpack(planes, pix_fmt, box.width, box.height)
            frame = _copy_tags(frame, cropped)
        size = (self._width, self._height)
        if decoded.rotation % 180:
            size = (self._height, self._width)
        if mapping is not None:
            frame = self._toned(frame, size, mapping)
        scaled = self._scale.reformat(frame, *size, "yuv420p", interpolation=_AREA, threads=1)
        if decoded.rotation:
            turns = decoded.rotation // 90
            scaled = _from_planes([np.rot90(plane, turns) for plane in _planes(scaled)])
        return _copy_tags(frame, scaled)

    def _toned(self, frame: VideoFrame, size: tuple[int, int], mapping: Tone) -> VideoFrame:
        """Scale a 10-bit picture and make it an SDR one in BT.709."""
        deep = self._deepen.reformat(frame, *size, "gbrp16le", interpolation=_AREA, threads=1)
        codes = cast("NDArray[np.uint16]", deep.to_ndarray())
        rgb = to_sdr(codes, mapping.transfer, is_wide=mapping.is_wide)
        shown = VideoFrame.from_ndarray(rgb, format="rgb24")
        toned = self._flatten.reformat(
            shown,
            *size,
            "yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_AREA,
            threads=1,
        )
        toned.colorspace, toned.color_range = Colorspace.ITU709, ColorRange.MPEG
        toned.color_primaries, toned.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return toned

    def small(self, frame: VideoFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Shrink a written picture to the one all measures look at; about 0.2 ms.

        Returns:
            Luma, uint8 (240, 320), and chroma Cb and Cr, uint8 (2, 120, 160).
        """
        reduced = self._shrink.reformat(
            frame, _SMALL_WIDTH_PX, _SMALL_HEIGHT_PX, "yuv420p", interpolation=_AREA, threads=1
        )
        luma, cb, cr = _planes(reduced)
        return np.ascontiguousarray(luma), np.stack([cb, cr])


class Tone(NamedTuple):
    """How the light of a picture is encoded that must become an SDR one in BT.709."""

    transfer: Transfer
    is_wide: bool


_HDR_TRANSFERS: dict[int, Transfer] = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}


def tone_of(frame: VideoFrame) -> Tone | None:
    """Whether a picture is HDR, or has primaries an ordinary display has not; None: neither."""
    transfer = _HDR_TRANSFERS.get(frame.color_trc, "sdr")
    is_wide = frame.color_primaries == ColorPrimaries.BT2020
    if transfer == "sdr" and not is_wide:
        return None
    return Tone(transfer, is_wide)


def _to_limited(frame: VideoFrame, reformatter: VideoReformatter, pix_fmt: str) -> VideoFrame:
    """Convert to 4:2:0 in limited range, keeping the colour matrix; RGB becomes BT.601."""
    if frame.format.name == pix_fmt and frame.color_range != ColorRange.JPEG:
        return frame
    is_rgb = frame.format.is_rgb or frame.format.name == "pal8"
    converted = reformatter.reformat(
        frame,
        frame.width,
        frame.height,
        pix_fmt,
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


def _planes(frame: VideoFrame) -> list[NDArray[Any]]:
    """View the planes of a yuv420p or yuv420p10le frame without copying."""
    kind = np.uint8 if frame.format.name == "yuv420p" else np.uint16
    rows = [np.frombuffer(memoryview(p), kind).reshape(p.height, -1) for p in frame.planes]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]


def _from_planes(planes: Sequence[NDArray[Any]]) -> VideoFrame:
    """Copy planes of any stride into a new yuv420p frame."""
    height, width = planes[0].shape
    frame = VideoFrame(width, height, "yuv420p")
    for target, plane in zip(_planes(frame), planes, strict=True):
        target[:] = plane
    return frame
