"""One frame reduced to what the cut detector and the measures share, so that it is computed once.

Input is the written picture, or a 320x240 picture of the same view: luma and half-size chroma,
uint8 in limited range (luma 16 is black, 235 is white). Sums are integers, so results are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 240, 320
CELL_PX = 4
BLOCK_PX = 8

_ROWS, _COLUMNS = HEIGHT_PX // CELL_PX, WIDTH_PX // CELL_PX
_BYTE, _LOW_BYTE = np.uint16(8), np.uint16(0xFF)
_EVEN_BYTES = np.uint32(0x00FF00FF)
_LOW_HALF = np.uint32(0xFFFF)
_ONES = np.ones(WIDTH_PX, np.float32)
_TO_LEVELS = np.repeat([0.25 / HEIGHT_PX, 0.25 / WIDTH_PX], [WIDTH_PX, HEIGHT_PX])


class Reduced(Protocol):
    """What outlives a frame's turn: the means over cells and blocks."""

    @property
    def cells(self) -> NDArray[np.int16]:
        """As in `SmallPicture`."""

    @property
    def blocks(self) -> NDArray[np.float32]:
        """As in `SmallPicture`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPicture:
    """A small picture and the sums its users need.

    Attributes:
        luma: uint16 (240, 320) in quarters of a level (0 to 1020).
        cells: int16 (3, 60, 80): means over 4x4 pixels of luma, and over the same area of each
            chroma plane.
        blocks: float32 (30, 40): means over 8x8 pixels of luma.
        profile: float64 (560,), mean luma of each of the 320 columns, then of the 240 rows.
    """

    luma: NDArray[np.uint16]
    cells: NDArray[np.int16]
    blocks: NDArray[np.float32]
    profile: NDArray[np.float64]


def reduce_picture(
    luma: NDArray[np.uint8], chroma: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
) -> SmallPicture:
    """Reduce one picture; about 0.1 ms.

    Args:
        luma: uint8 (480, 640) or (240, 320); pixels of a row side by side in memory.
        chroma: Cb then Cr, uint8, half as wide and high as `luma`.
    """
    quarters = _mean_of_four(luma) if luma.shape[0] > HEIGHT_PX else _in_quarters(luma)
    rows_of_cells = quarters[0::4] + quarters[1::4]
    rows_of_cells += quarters[2::4]
    rows_of_cells += quarters[3::4]
    sums = rows_of_cells[:, 0::4] + rows_of_cells[:, 1::4]
    sums += rows_of_cells[:, 2::4]
    sums += rows_of_cells[:, 3::4]
    cells = np.empty((3, _ROWS, _COLUMNS), np.int16)
    np.right_shift(sums, 6, out=cells[0], casting="unsafe")
    _chroma_cells(chroma, cells[1:])
    as_floats = sums.astype(np.float32)
    rows_of_blocks = as_floats[0::2] + as_floats[1::2]
    blocks = rows_of_blocks[:, 0::2] + rows_of_blocks[:, 1::2]
    blocks *= np.float32(1 / 256)
    profile = np.empty(WIDTH_PX + HEIGHT_PX)
    profile[:WIDTH_PX] = _ONES[:_ROWS] @ rows_of_cells.astype(np.float32)
    profile[WIDTH_PX:] = quarters.astype(np.float32) @ _ONES
    profile *= _TO_LEVELS
    return SmallPicture(luma=quarters, cells=cells, blocks=blocks, profile=profile)


def _in_quarters(luma: NDArray[np.uint8]) -> NDArray[np.uint16]:
    quarters = luma.astype(np.uint16)
    quarters <<= 2
    return quarters


def _mean_of_four(luma: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Sums over 2x2 pixels, which are quarters of their means; two pixels are read as one word."""
    words = luma.view(np.uint16)
    above, below = words[0::2], words[1::2]
    quarters: NDArray[np.uint16] = above & _LOW_BYTE
    part = above >> _BYTE
    quarters += part
    np.bitwise_and(below, _LOW_BYTE, out=part)
    quarters += part
    np.right_shift(below, _BYTE, out=part)
    quarters += part
    return quarters


def _chroma_cells(
    chroma: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], cells: NDArray[np.int16]
) -> None:
    """Fill int16 (2, 60, 80) with the means of both planes, from one row of each cell."""
    if chroma[0].shape[0] == 2 * _ROWS:
        words = np.stack([plane[0::2].view(np.uint16) for plane in chroma])
        np.right_shift((words & 0xFF) + (words >> 8), 1, out=cells, casting="unsafe")
        return
    fours = np.empty((2, _ROWS, _COLUMNS), np.uint32)
    for place, plane in enumerate(chroma):
        fours[place] = plane.view(np.uint32)[1::4]
    odd = fours >> 8
    odd &= _EVEN_BYTES
    fours &= _EVEN_BYTES
    fours += odd
    high = fours >> 16
    fours &= _LOW_HALF
    fours += high
    np.right_shift(fours, 2, out=cells, casting="unsafe")
