"""Synthetic videos whose every frame carries its number, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .video import write_video

NUM_BARCODE_BITS = 16
_BARCODE_ROWS, _BARCODE_COLUMNS = 3, 8
_BARCODE_TOP, _BARCODE_BOTTOM = 0.70, 0.94
_BARCODE_LEFT, _BARCODE_RIGHT = 0.10, 0.90


def make_video(
    path: Path | str,
    *,
    num_frames: int = 60,
    width: int = 320,
    height: int = 240,
    fps: float | Fraction = 30,
    kind: str = "pan",
    codec: str = "libx264",
    barcode: bool | None = None,
    gop: int = 12,
    crf: int = 18,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sample_aspect: Fraction = Fraction(1),
    rotation: int = 0,
    seed: int = 0,
) -> Path:
    """Write a synthetic video and return its path.

    Args:
        kind: `pan` (a texture moving 2 pixels a frame), `cuts` (a pan over a new texture each
            second), `noise`, `static` (a still texture under faint noise), `frozen` (one picture
            repeated), `black`.
        barcode: Draw the frame number into each picture; default: for `pan`, `cuts` and `noise`.
        width, height: Size as displayed when `rotation` is a multiple of 180; the file of a
            video turned by 90 or 270 degrees stores the sides swapped.
        rotation: Degrees counter-clockwise by which a player must turn the stored pictures
            (a display matrix; mp4 and mov only).

    The other arguments are those of `pipeline.video.write_video`.
    """
    path = Path(path)
    if barcode is None:
        barcode = kind in ("pan", "cuts", "noise")
    aspect = 1 / sample_aspect if rotation % 180 else sample_aspect
    pictures = _pictures(kind, num_frames, width, height, round(float(fps)), seed)

    def stored() -> Iterator[NDArray[np.uint8]]:
        for number, picture in enumerate(pictures):
            if barcode:
                picture = draw_barcode(picture, number, sample_aspect=aspect)
            yield np.ascontiguousarray(np.rot90(picture, -rotation // 90))

    write_video(
        path, stored(), fps, crf=crf, codec=codec, gop=gop, pix_fmt=pix_fmt, options=options,
        ticks=ticks, time_base=time_base, sample_aspect=sample_aspect,
    )  # fmt: skip
    if rotation:
        path.write_bytes(set_mp4_rotation(path.read_bytes(), rotation))
    return path


def draw_barcode(
    picture: NDArray[np.uint8], number: int, *, sample_aspect: Fraction = Fraction(1)
) -> NDArray[np.uint8]:
    """Return a copy of an RGB picture with a frame number drawn as black and white blocks.

    The blocks lie inside the centre 4:3 of the displayed picture, so they survive cropping.
    """
    if not 0 <= number < 1 << NUM_BARCODE_BITS:
        raise ValueError(f"a barcode holds 0 .. {(1 << NUM_BARCODE_BITS) - 1}, not {number}")
    picture = picture.copy()
    for bit, (rows, columns) in zip(_bits(number), _blocks(picture, sample_aspect), strict=True):
        picture[rows, columns] = 255 if bit else 0
    return picture


def read_barcode(picture: NDArray[np.uint8], *, sample_aspect: Fraction = Fraction(1)) -> int:
    """Read the frame number from an RGB or luma picture of any size.

    Raises:
        ValueError: When a block is neither dark nor bright or the check byte is wrong.
    """
    luma = picture if picture.ndim == 2 else picture.mean(axis=2)
    bits = []
    for rows, columns in _blocks(picture, sample_aspect):
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        level = float(
            luma[
                rows.start + tall // 4 : max(rows.stop - tall // 4, rows.start + 1),
                columns.start + wide // 4 : max(columns.stop - wide // 4, columns.start + 1),
            ].mean()
        )
        if 90 < level < 165:
            raise ValueError(f"no readable barcode: a block has brightness {level:.0f}")
        bits.append(level > 128)
    number = sum(1 << place for place, bit in enumerate(bits[:NUM_BARCODE_BITS]) if bit)
    if bits != _bits(number):
        raise ValueError(f"no readable barcode: the check byte does not fit number {number}")
    return number


def _bits(number: int) -> list[bool]:
    check = (number ^ (number >> 8) ^ 0xA5) & 0xFF
    return [bool((number | check << NUM_BARCODE_BITS) >> place & 1) for place in range(24)]


def _blocks(picture: NDArray[np.uint8], sample_aspect: Fraction) -> list[tuple[slice, slice]]:
    height, width = picture.shape[:2]
    box_width = min(width, height * 4 / 3 / float(sample_aspect))
    box_height = min(height, width * 3 / 4 * float(sample_aspect))
    left = (width - box_width) / 2 + _BARCODE_LEFT * box_width
    top = (height - box_height) / 2 + _BARCODE_TOP * box_height
    step_x = (_BARCODE_RIGHT - _BARCODE_LEFT) * box_width / _BARCODE_COLUMNS
    step_y = (_BARCODE_BOTTOM - _BARCODE_TOP) * box_height / _BARCODE_ROWS
    return [
        (
            slice(round(top + row * step_y), round(top + (row + 1) * step_y)),
            slice(round(left + column * step_x), round(left + (column + 1) * step_x)),
        )
        for row in range(_BARCODE_ROWS)
        for column in range(_BARCODE_COLUMNS)
    ]


def _pictures(
    kind: str, num_frames: int, width: int, height: int, fps: int, seed: int
) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    if kind == "black":
        yield from (np.zeros((height, width, 3), np.uint8) for _ in range(num_frames))
        return
    if kind not in ("pan", "cuts", "noise", "static", "frozen"):
        raise ValueError(f"unknown kind of test video: {kind!r}")
    texture = _texture(rng, width, height)
    for number in range(num_frames):
        if kind == "noise":
            yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        elif kind == "frozen":
            yield texture
        elif kind == "static":
            noise = rng.integers(-2, 3, (height, width, 1), dtype=np.int16)
            yield np.clip(texture + noise, 0, 255).astype(np.uint8)
        else:
            if kind == "cuts" and number and number % max(fps, 1) == 0:
                texture = _texture(rng, width, height)
            yield np.roll(texture, (number // 2, 2 * number), axis=(0, 1))


def _texture(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw soft coloured blocks of several sizes, different for each call."""
    picture = np.full((height, width, 3), rng.uniform(90, 160), np.float32)
    for cell in (64, 24, 8):
        rows, columns = -(-height // cell), -(-width // cell)
        blocks = rng.normal(0, 28 if cell > 8 else 12, (rows, columns, 3))
        picture += np.kron(blocks, np.ones((cell, cell, 1)))[:height, :width]
    return np.clip(picture, 20, 235).astype(np.uint8)


def set_mp4_rotation(data: bytes, degrees: int) -> bytes:
    """Return an mp4 file with a display matrix that turns its video counter-clockwise."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees % 360]
    matrix = b"".join(
        value.to_bytes(4, "big", signed=True)
        for value in (cos << 16, -sin << 16, 0, sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    )
    header = data.index(b"tkhd") + 4
    start = header + (52 if data[header] == 1 else 40)
    return data[:start] + matrix + data[start + 36 :]
