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
_EVEN_BYTES = np.uint32(0x00FF00FF)
_LOW_HALF = np.uint32(0xFFFF)
_ONES = np.ones(WIDTH_PX, np.float32)
_TO_LEVELS = np.repeat([0.5 / HEIGHT_PX, 0.5 / WIDTH_PX], [WIDTH_PX, HEIGHT_PX])


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
        luma: uint16 (240, 320) in halves of a level (0 to 510).
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

    Of a 640x480 picture every second row of luma is read and every fourth of chroma: reading all
    costs more than anything else here, and the means hardly differ.

    Args:
        luma: uint8 (480, 640) or (240, 320); pixels of a row side by side in memory.
        chroma: Cb then Cr, uint8, half as wide and high as `luma`.
    """
    halves = _pairs(luma[0::2]) if luma.shape[0] > HEIGHT_PX else _doubled(luma)
    rows_of_cells = halves[0::4] + halves[1::4]
    rows_of_cells += halves[2::4]
    rows_of_cells += halves[3::4]
    sums = rows_of_cells[:, 0::4] + rows_of_cells[:, 1::4]
    sums += rows_of_cells[:, 2::4]
    sums += rows_of_cells[:, 3::4]
    cells = np.empty((3, _ROWS, _COLUMNS), np.int16)
    np.right_shift(sums, 5, out=cells[0], casting="unsafe")
    _chroma_cells(chroma, cells[1:])
    rows_of_blocks = sums[0::2] + sums[1::2]
    blocks = (rows_of_blocks[:, 0::2] + rows_of_blocks[:, 1::2]).astype(np.float32)
    blocks *= np.float32(1 / 128)
    return SmallPicture(
        luma=halves, cells=cells, blocks=blocks, profile=_profile(halves, rows_of_cells)
    )


def _pairs(luma: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Sums over two pixels of a row, which are halves of their means."""
    words = luma.view(np.uint16)
    halves: NDArray[np.uint16] = words & np.uint16(0xFF)
    halves += words >> np.uint16(8)
    return halves


def _doubled(luma: NDArray[np.uint8]) -> NDArray[np.uint16]:
    halves = luma.astype(np.uint16)
    halves += halves
    return halves


def _profile(halves: NDArray[np.uint16], rows_of_cells: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Means of columns and rows; in float32 these sums are exact, and the fastest."""
    profile = np.empty(WIDTH_PX + HEIGHT_PX)
    profile[:WIDTH_PX] = _ONES[:_ROWS] @ rows_of_cells.astype(np.float32)
    profile[WIDTH_PX:] = halves.astype(np.float32) @ _ONES
    profile *= _TO_LEVELS
    return profile


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
