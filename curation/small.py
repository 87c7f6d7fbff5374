"""One frame reduced to what the cut detector and the measures share, so that it is computed once.

Input is a 640x480 or 320x240 picture of what is written: luma and chroma, uint8 in limited range
(luma 16 is black, 235 is white). OpenCV halves pictures; a table of sums over everything above and
to the left of each pixel then gives the mean of any rectangle exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 240, 320
CELL_PX = 4
BLOCK_PX = 8

LOOK_S = 0.1
"""Contrast, exposure and sharpness change slowly: pictures this far apart are looked at."""

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
    """A small picture and what its users need of it.

    Attributes:
        luma: uint8 (240, 320).
        cells: uint8 (3, 60, 80): means over 4x4 pixels of luma, and over the same area of each
            chroma plane.
        blocks: float32 (30, 40): means over 8x8 pixels of luma.
        profile: float64 (560,), mean luma of each of the 320 columns, then of the 240 rows.
        lines: Of a picture that is looked at, the first rows of each block as they were given:
            uint8 (30, 6, 640) or (30, 3, 320); else None.
    """

    luma: NDArray[np.uint8]
    cells: NDArray[np.uint8]
    blocks: NDArray[np.float32]
    profile: NDArray[np.float64]
    lines: NDArray[np.uint8] | None


class _Waiting(NamedTuple):
    """What is kept of a picture until `take`: two pictures, entries of its sums, and lines."""

    luma: NDArray[np.uint8]
    cells: NDArray[np.uint8]
    corners: NDArray[np.int32]
    below: NDArray[np.int32]
    beside: NDArray[np.int32]
    lines: NDArray[np.uint8] | None


class PictureReducer:
    """Reduces the pictures of one part: each one when it comes, while it is in the cache.

    What remains of a few pictures is worked out together, which costs less; how they are grouped
    makes no difference. About 0.08 ms each.

    >>> reducer = PictureReducer()
    >>> reducer.take()
    []
    """

    def __init__(self) -> None:
        self._sums = np.empty((HEIGHT_PX + 1, WIDTH_PX + 1), np.int32)
        self._look_s = -math.inf
        self._waiting: list[_Waiting] = []

    def add(self, planes: Planes, time_s: float) -> None:
        """Reduce the next picture, shown from `time_s` on.

        Args:
            planes: Y, Cb and Cr: luma uint8 (480, 640) or (240, 320), chroma (240, 320),
                (120, 160) or (60, 80); pixels of a row side by side in memory.
        """
        given, luma, cells = planes[0], *cells_of(planes)
        sums = self._sums
        cv2.integral(luma, sums)
        lines = None
        if time_s >= self._look_s:
            self._look_s = time_s + LOOK_S - 1e-6
            lines = _lines(given)
        corners = sums[::BLOCK_PX, ::BLOCK_PX].copy()
        below, beside = sums[-1].copy(), sums[:, -1].copy()
        self._waiting.append(_Waiting(luma, cells, corners, below, beside, lines))

    def take(self) -> list[SmallPicture]:
        """The pictures added since the last call."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        blocks = _between(np.stack([each.corners for each in waiting]))
        below = np.stack([each.below for each in waiting])
        beside = np.stack([each.beside for each in waiting])
        profiles = np.empty((len(waiting), WIDTH_PX + HEIGHT_PX))
        np.subtract(below[:, 1:], below[:, :-1], out=profiles[:, :WIDTH_PX])
        np.subtract(beside[:, 1:], beside[:, :-1], out=profiles[:, WIDTH_PX:])
        profiles *= _TO_LEVELS
        return [
            SmallPicture(
                luma=each.luma,
                cells=each.cells,
                blocks=blocks[index],
                profile=profiles[index],
                lines=each.lines,
            )
            for index, each in enumerate(waiting)
        ]


def reduce_picture(luma: NDArray[np.uint8], chroma: Planes | NDArray[np.uint8]) -> SmallPicture:
    """Reduce one picture that is looked at."""
    reducer = PictureReducer()
    reducer.add((luma, *chroma), 0.0)
    (picture,) = reducer.take()
    return picture


def cells_of(planes: Planes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Luma of 320x240 pixels and the cells, as in `SmallPicture`: all that cuts look at."""
    luma, *chroma = planes
    if luma.shape[0] > HEIGHT_PX:
        luma = _halved(luma)
    cells = np.empty((3, *_CELL_SHAPE), np.uint8)
    for plane, target in zip((luma, *chroma), cells, strict=True):
        _shrink(plane, target)
    return luma, cells


def block_means(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over 8x8 pixels of a picture of whole blocks: float32 (rows, columns) of blocks."""
    return _between(cv2.integral(luma)[::BLOCK_PX, ::BLOCK_PX])


Numbers = NDArray[np.uint8] | NDArray[np.float32]


def shared(
    before: NDArray[Any], after: NDArray[Any], rows: int, columns: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What two pictures both show when the later one moved so far down and to the right."""
    return _shifted(before, -rows, -columns), _shifted(after, rows, columns)


def line_means(picture: NDArray[np.uint8], axis: int) -> NDArray[np.float64]:
    """Means of the columns of a picture (axis 0), or of its rows (axis 1)."""
    sums = cv2.reduce(picture, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    means: NDArray[np.float64] = sums.ravel() / picture.shape[axis]
    return means


def coarse_means(cells: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over 4x4 cells of a (3, 60, 80) cell picture, flat, float32 (900,); exact."""
    rows, columns = cells.shape[1:]
    planes = cells.reshape(-1, columns).astype(np.float32)
    size = columns // 4, len(cells) * rows // 4
    return cv2.resize(planes, size, interpolation=cv2.INTER_AREA).ravel()  # type: ignore[return-value]


def total_change(before: Numbers, after: Numbers) -> float:
    """Sum of the absolute differences of two arrays of two dimensions."""
    return cv2.norm(before, after, cv2.NORM_L1)


def total_size(values: NDArray[np.int16]) -> float:
    """Sum of the absolute values of a two-dimensional array."""
    return cv2.norm(values, cv2.NORM_L1)


def deviation(values: NDArray[np.uint8]) -> float:
    """Standard deviation of a two-dimensional array."""
    return float(cv2.meanStdDev(values)[1][0, 0])


def _shifted(picture: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    height, width = picture.shape
    return picture[max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]


def _between(corners: NDArray[Any]) -> NDArray[np.float32]:
    """Means over blocks from the table of sums at their corners, int32 (..., rows, columns)."""
    strips = corners[..., 1:, :] - corners[..., :-1, :]
    means: NDArray[np.float32] = (strips[..., 1:] - strips[..., :-1]).astype(np.float32)
    means *= _PER_BLOCK
    return means


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


def _lines(given: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of the rows that three rows at the top of each block come from."""
    scale = int(given.shape[0]) // HEIGHT_PX
    rows = given.reshape(_BLOCK_SHAPE[0], scale * BLOCK_PX, given.shape[1])
    return np.ascontiguousarray(rows[:, : 3 * scale])
