"""One frame reduced to what the cut detector and the measures share, so that it is computed once.

Input is the small picture of the written frame: luma 240x320 and chroma 2x120x160, uint8 in
limited range (luma 16 is black, 235 is white).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 240, 320
CELL_PX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPicture:
    """A small picture and the sums both users need.

    Attributes:
        luma: uint8 (240, 320).
        cells: int16 (3, 60, 80): means over 4x4 pixels of luma, and of each chroma plane.
        row_means: float64 (240,), mean luma of each row.
        column_means: float64 (320,), mean luma of each column.
    """

    luma: NDArray[np.uint8]
    cells: NDArray[np.int16]
    row_means: NDArray[np.float64]
    column_means: NDArray[np.float64]


def reduce_picture(luma: NDArray[np.uint8], chroma: NDArray[np.uint8]) -> SmallPicture:
    """Reduce one small picture; about 0.1 ms.

    Args:
        luma: uint8 (240, 320).
        chroma: uint8 (2, 120, 160), Cb then Cr.
    """
    grouped = luma.reshape(HEIGHT_PX // CELL_PX, CELL_PX, WIDTH_PX)
    rows_of_cells = np.add.reduce(grouped, axis=1, dtype=np.uint16)
    cells = np.empty((3, HEIGHT_PX // CELL_PX, WIDTH_PX // CELL_PX), np.int16)
    quarters = [rows_of_cells[:, offset::CELL_PX] for offset in range(CELL_PX)]
    cells[0] = (quarters[0] + quarters[1] + quarters[2] + quarters[3]) >> 4
    pairs = chroma[:, 0::2].astype(np.uint16) + chroma[:, 1::2]
    cells[1:] = (pairs[:, :, 0::2] + pairs[:, :, 1::2]) >> 2
    return SmallPicture(
        luma=luma,
        cells=cells,
        row_means=np.add.reduce(luma, axis=1, dtype=np.uint32) / WIDTH_PX,
        column_means=np.add.reduce(rows_of_cells, axis=0, dtype=np.uint16) / HEIGHT_PX,
    )
