"""One frame reduced to what the cut detector and the measures share, so that it is computed once.

Input is the written picture, or a 320x240 picture of the same view: luma and half-size chroma,
uint8 in limited range (luma 16 is black, 235 is white). OpenCV halves pictures; a table of sums
over everything above and to the left of each pixel then gives the mean of any rectangle exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 240, 320
CELL_PX = 4
BLOCK_PX = 8

_CELL_SHAPE = HEIGHT_PX // CELL_PX, WIDTH_PX // CELL_PX
_BLOCK_SHAPE = HEIGHT_PX // BLOCK_PX, WIDTH_PX // BLOCK_PX
_PER_BLOCK = np.float32(1 / BLOCK_PX**2)
_TO_LEVELS = np.repeat([1 / HEIGHT_PX, 1 / WIDTH_PX], [WIDTH_PX, HEIGHT_PX])

cv2.setNumThreads(1)  # work is spread over processes; threads for small pictures only cost

Planes = Sequence[NDArray[np.uint8]]
"""Y, Cb and Cr of one picture."""


class Reduced(Protocol):
    """What outlives a frame's turn: the means over cells and blocks."""

    @property
    def cells(self) -> NDArray[np.uint8]:
        """As in `SmallPicture`."""

    @property
    def blocks(self) -> NDArray[np.float32]:
        """As in `SmallPicture`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPicture:
    """A small picture and the sums its users need.

    Attributes:
        given: The luma it was reduced from, uint8 (480, 640) or (240, 320).
        luma: uint8 (240, 320).
        sums: int32 (241, 321): the sum of all luma above and to the left of each pixel's corner.
        cells: uint8 (3, 60, 80): means over 4x4 pixels of luma, and over the same area of each
            chroma plane.
        blocks: float32 (30, 40): means over 8x8 pixels of luma.
        profile: float64 (560,), mean luma of each of the 320 columns, then of the 240 rows.
    """

    given: NDArray[np.uint8]
    luma: NDArray[np.uint8]
    sums: NDArray[np.int32]
    cells: NDArray[np.uint8]
    blocks: NDArray[np.float32]
    profile: NDArray[np.float64]


class PictureReducer:
    """Reduces the pictures of one part, some at a time; about 0.1 ms each.

    The tables of sums are used again: a picture's `sums` hold until the next call. Each picture
    becomes what it would become alone.
    """

    def __init__(self) -> None:
        self._tables: list[NDArray[np.int32]] = []

    def reduce(self, pictures: Sequence[Planes]) -> list[SmallPicture]:
        """Reduce some pictures.

        Args:
            pictures: Y, Cb and Cr of each: luma uint8 (480, 640) or (240, 320), chroma half as
                wide and high; pixels of a row side by side in memory.
        """
        count = len(pictures)
        while len(self._tables) < count:
            self._tables.append(np.empty((HEIGHT_PX + 1, WIDTH_PX + 1), np.int32))
        cells = np.empty((count, 3, *_CELL_SHAPE), np.uint8)
        corners = np.empty((count, _BLOCK_SHAPE[0] + 1, _BLOCK_SHAPE[1] + 1), np.int32)
        below = np.empty((count, WIDTH_PX + 1), np.int32)
        beside = np.empty((count, HEIGHT_PX + 1), np.int32)
        lumas = []
        for index, (given, *chroma) in enumerate(pictures):
            luma = _halved(given) if given.shape[0] > HEIGHT_PX else given
            sums = self._tables[index]
            cv2.integral(luma, sums)
            corners[index] = sums[::BLOCK_PX, ::BLOCK_PX]
            below[index], beside[index] = sums[-1], sums[:, -1]
            for plane, target in zip((luma, *chroma), cells[index], strict=True):
                _shrink(plane, target)
            lumas.append(luma)
        profiles = np.empty((count, WIDTH_PX + HEIGHT_PX))
        np.subtract(below[:, 1:], below[:, :-1], out=profiles[:, :WIDTH_PX])
        np.subtract(beside[:, 1:], beside[:, :-1], out=profiles[:, WIDTH_PX:])
        profiles *= _TO_LEVELS
        blocks = block_means(corners)
        return [
            SmallPicture(
                given=pictures[index][0],
                luma=lumas[index],
                sums=self._tables[index],
                cells=cells[index],
                blocks=blocks[index],
                profile=profiles[index],
            )
            for index in range(count)
        ]


def reduce_picture(luma: NDArray[np.uint8], chroma: Planes | NDArray[np.uint8]) -> SmallPicture:
    """Reduce one picture by itself; its sums are its own."""
    return PictureReducer().reduce([(luma, *chroma)])[0]


def block_means(corners: NDArray[np.int32]) -> NDArray[np.float32]:
    """Means over blocks, from the entries of `SmallPicture.sums` at their corners, or at any
    corners 8 pixels apart: (..., rows + 1, columns + 1) gives float32 (..., rows, columns).
    """
    strips = corners[..., 1:, :] - corners[..., :-1, :]
    means = (strips[..., 1:] - strips[..., :-1]).astype(np.float32)
    means *= _PER_BLOCK
    return means


Numbers = NDArray[np.uint8] | NDArray[np.float32]


def total_change(before: Numbers, after: Numbers) -> float:
    """Sum of the absolute differences of two arrays of two dimensions."""
    return cv2.norm(before, after, cv2.NORM_L1)


def total_size(values: NDArray[np.int16]) -> float:
    """Sum of the absolute values of a two-dimensional array."""
    return cv2.norm(values, cv2.NORM_L1)


def deviation(values: NDArray[np.uint8]) -> float:
    """Standard deviation of a two-dimensional array."""
    return float(cv2.meanStdDev(values)[1][0, 0])


def _shrink(plane: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Fill a picture with the means of a larger one, whose sides are 2, 4 or 8 times as long."""
    while plane.shape[0] > 2 * target.shape[0]:
        plane = _halved(plane)
    cv2.resize(plane, target.shape[::-1], target, interpolation=cv2.INTER_AREA)


def _halved(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means over 2x2 pixels, halves rounded up."""
    height, width = plane.shape
    halved = cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return halved  # type: ignore[return-value]
