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
from .geometry import CropBox, crop_planes, plane_cuts
from .tone import Transfer, to_sdr

_AREA = Interpolation.AREA | Interpolation.BITEXACT
_SMALL_SIZE, _DOUBLE_SIZE, _CHROMA_SIZE = (320, 240), (640, 480), (80, 60)
_READ_PER_PIXEL = {_SMALL_SIZE: 6, _CHROMA_SIZE: 10}
"""Of larger pictures so many pixels are read for each of the result, if each has a row or more."""


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


class _Own(NamedTuple):
    """Where decoded pictures of one format are measured, and whether converted and shrunk first."""

    cuts: list[tuple[slice, slice]]
    is_converted: bool
    is_shrunk: bool


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
        self._width, self._height = self._size = width, height
        self._convert, self._scale, self._shrink = (VideoReformatter() for _ in range(3))
        self._deepen, self._flatten = VideoReformatter(), VideoReformatter()
        self._shrink_luma, self._shrink_chroma = VideoReformatter(), VideoReformatter()
        self._aspect = Fraction(width, height)
        self._box_of: dict[tuple[int, int], CropBox] = {}
        self._own_of: dict[tuple[PictureFormat, int], _Own | None] = {}

    def scale_ratio(self, stored_width: int, stored_height: int) -> float:
        """Output pixels per source pixel along a side, the geometric mean of both sides."""
        box = self._box(stored_width, stored_height)
        return float(np.sqrt(self._width * self._height / (box.width * box.height)))

    def scale(self, decoded: DecodedFrame) -> VideoFrame:
        """Return the written picture: yuv420p, limited range, with tags that say what it is.

        HDR and BT.2020 pictures become SDR ones in BT.709 (`pipeline.tone`), after the scaling;
        others keep their matrix, primaries and transfer.
        """
        mapping = tone_of(decoded.frame)
        frame = self._cropped(decoded.frame, "yuv420p" if mapping is None else "yuv420p10le")
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

    def small(
        self, decoded: DecodedFrame, written: VideoFrame | None = None
    ) -> list[NDArray[np.uint8]]:
        """The planes that all measures look at; the same with or without the written picture.

        Taken from the decoded picture where that is larger than what is written, or as large:
        passes that only measure then need no written one.

        Args:
            decoded: The frame.
            written: What `scale` makes of it, if that is at hand.

        Returns:
            Y, Cb and Cr, uint8: a 640x480 picture as it is, any other shrunk to 320x240, its chroma
            to half or a quarter of that.
        """
        frame, rotation = decoded.frame, decoded.rotation
        kind = picture_format(frame), rotation
        if kind not in self._own_of:
            self._own_of[kind] = self._own(frame, is_lying=bool(rotation % 180))
        own = self._own_of[kind]
        if own is None:
            return self._small_of(self.scale(decoded) if written is None else written)
        if own.is_converted:
            frame = _to_limited(frame, self._convert, "yuv420p")
        planes = _planes_of(frame, own)
        if own.is_shrunk:
            planes = self._shrunk(planes, is_lying=bool(rotation % 180))
        turns = rotation // 90
        return [np.ascontiguousarray(np.rot90(p, turns)) for p in planes] if turns else planes

    def _own(self, frame: VideoFrame, *, is_lying: bool) -> _Own | None:
        """How pictures like this one are measured from themselves; None: from the written one."""
        box = self._box(frame.width, frame.height)
        shown = (box.height, box.width) if is_lying else (box.width, box.height)
        is_enlarged = shown[0] < self._width or shown[1] < self._height
        if is_enlarged or self._size != _DOUBLE_SIZE or tone_of(frame) is not None:
            return None
        is_converted = frame.format.name != "yuv420p" or frame.color_range == ColorRange.JPEG
        return _Own(plane_cuts(box), is_converted, is_shrunk=shown != _DOUBLE_SIZE)

    def _small_of(self, written: VideoFrame) -> list[NDArray[np.uint8]]:
        """A written picture of 640x480 or 320x240 as it is, any other shrunk to 320x240."""
        if self._size not in (_DOUBLE_SIZE, _SMALL_SIZE):
            written = self._shrink.reformat(
                written, *_SMALL_SIZE, "yuv420p", interpolation=_AREA, threads=1
            )
        return _planes(written)

    def _shrunk(
        self, planes: Sequence[NDArray[np.uint8]], *, is_lying: bool
    ) -> list[NDArray[np.uint8]]:
        """Means over areas, luma 320x240 and chroma 80x60, or 240x320 and 60x80."""
        luma, *chroma = planes
        width, height = _SMALL_SIZE[::-1] if is_lying else _SMALL_SIZE
        rows = _rows_read(luma, height, _READ_PER_PIXEL[_SMALL_SIZE] * width)
        small = _area_means(np.ascontiguousarray(rows), width, height, self._shrink_luma)
        width, height = _CHROMA_SIZE[::-1] if is_lying else _CHROMA_SIZE
        read_per_row = _READ_PER_PIXEL[_CHROMA_SIZE] * width
        both = np.concatenate([_rows_read(plane, height, read_per_row) for plane in chroma])
        two = _area_means(both, width, 2 * height, self._shrink_chroma)
        return [small, two[:height], two[height:]]

    def _box(self, width: int, height: int) -> CropBox:
        """The part of a stored picture of this size that is written."""
        box = self._box_of.get((width, height))
        if box is None:
            box = self._facts.crop_box(width, height, self._aspect)
            self._box_of[width, height] = box
        return box

    def _cropped(self, source: VideoFrame, pix_fmt: str) -> VideoFrame:
        """The centre of a picture in 4:2:0 limited range, without copying it."""
        frame = _to_limited(source, self._convert, pix_fmt)
        box = self._box(frame.width, frame.height)
        if (box.width, box.height) == (frame.width, frame.height):
            return frame
        planes = tuple(crop_planes(_planes(frame), box))
        return _copy_tags(frame, VideoFrame.from_dlpack(planes, pix_fmt, box.width, box.height))


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
    """View the planes of a gray, yuv420p or yuv420p10le frame without copying."""
    kind = np.uint16 if frame.format.name == "yuv420p10le" else np.uint8
    planes = frame.planes
    rows = [np.frombuffer(memoryview(p), kind).reshape(p.height, -1) for p in planes]
    return [row[:, : plane.width] for row, plane in zip(rows, planes, strict=True)]


def _planes_of(frame: VideoFrame, own: _Own) -> list[NDArray[np.uint8]]:
    """View what is measured of a yuv420p frame's planes without copying.

    Where all of it is read, the largest luma is looked for first: its loads wait for the memory
    together, which the loads of a scaler do not, and take a quarter off the time of both.
    """
    planes = frame.planes
    pixels = [np.frombuffer(memoryview(plane), np.uint8) for plane in planes]
    if not own.is_shrunk:
        pixels[0].max()
    return [
        flat.reshape(plane.height, -1)[cut]
        for flat, plane, cut in zip(pixels, planes, own.cuts, strict=True)
    ]


def _rows_read(plane: NDArray[np.uint8], num_rows: int, read_per_row: int) -> NDArray[np.uint8]:
    """View evenly spaced rows of a picture, at least three for two of the `num_rows` of the result.

    Of pictures so large that more than `read_per_row` pixels would be read for each of them: fewer
    rows, but one for each or more. To read fewer is what saves time: memory is slower than the
    arithmetic.
    """
    height = plane.shape[0]
    step = max(2 * height // (3 * num_rows), -(-plane.size // (read_per_row * num_rows)))
    step = min(step, max(1, height // num_rows))
    return plane[step // 2 :: step]


def _area_means(
    rows: NDArray[np.uint8], width: int, height: int, reformatter: VideoReformatter
) -> NDArray[np.uint8]:
    """Shrink rows that lie side by side to a size; a scaler that jumps through memory is slower."""
    grey = VideoFrame.from_dlpack((rows,), "gray", rows.shape[1], rows.shape[0])
    shrunk = reformatter.reformat(grey, width, height, "gray", interpolation=_AREA, threads=1)
    (pixels,) = _planes(shrunk)
    return pixels


def _from_planes(planes: Sequence[NDArray[Any]]) -> VideoFrame:
    """Copy planes of any stride into a new yuv420p frame."""
    height, width = planes[0].shape
    frame = VideoFrame(width, height, "yuv420p")
    for target, plane in zip(_planes(frame), planes, strict=True):
        target[:] = plane
    return frame
