"""How a picture differs from the one before it: camera shift, and what is left without it.

Camera motion is a translation found by matching the means of rows and columns (one method for all
codecs, as good as optical flow on re-filmed photographs); what is left after that shift is residual
motion. Rotation and parallax count as residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .small import BLOCK_PX, HEIGHT_PX, WIDTH_PX, SmallPicture, block_means, total_change

MAX_SHIFT_PX = 40
"""Largest shift between two frames that is looked for, in pixels of the small picture."""

MIN_GAIN = 0.02
"""A shift must lower the squared difference by this much, absolutely and as a share, to count."""

_EDGE_PX = 2 * MAX_SHIFT_PX
_LAGS = _EDGE_PX + 1
_AXES = ((0, WIDTH_PX - _EDGE_PX), (WIDTH_PX, HEIGHT_PX - _EDGE_PX))
"""Where the columns and the rows begin in a profile, and how many of them are matched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How a picture differs from the one before it.

    Attributes:
        x, y: Shift to the right and down, in pixels of the small picture.
        residual_luma: Mean change of blocks once that shift is taken out.
        largest_luma: Largest change of a block, the shift included.
    """

    x: float
    y: float
    residual_luma: float
    largest_luma: float


def motions_of(pictures: Sequence[SmallPicture]) -> list[Motion]:
    """The motion of each picture but the first against the one before it; about 0.03 ms each."""
    if len(pictures) < 2:
        return []
    count = len(pictures)
    profiles = np.concatenate([picture.profile for picture in pictures]).reshape(count, -1)
    blocks = np.concatenate([picture.blocks for picture in pictures]).reshape(count, -1)
    change = np.abs(blocks[1:] - blocks[:-1])
    largest = change.max(axis=1).tolist()
    unmoved = (np.add.reduce(change, axis=1) / np.float32(change.shape[1])).tolist()
    found = []
    for index, (x, y) in enumerate(match_shifts(profiles[:-1], profiles[1:]).tolist()):
        move, residual = (round(x), round(y)), unmoved[index]
        if move != (0, 0):
            residual = residual_change(pictures[index].luma, pictures[index + 1].blocks, *move)
        found.append(Motion(x=x, y=y, residual_luma=residual, largest_luma=largest[index]))
    return found


def match_shifts(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shifts of pictures in pixels, to the right and down, to a fraction of a pixel.

    For the means of columns and of rows: least mean squared difference over all whole shifts up to
    `MAX_SHIFT_PX`, then a parabola. The profiles' own means are taken out, so a change of exposure
    is no motion; a profile without structure has shift 0.

    Args:
        before, after: Profiles, (pictures, 560) each.

    Returns:
        (pictures, 2).
    """
    count, length = before.shape
    sums = np.zeros((2, count, length + 1))
    np.cumsum(before, axis=1, out=sums[0, :, 1:])
    np.cumsum(before * before, axis=1, out=sums[1, :, 1:])
    costs = np.empty((count, len(_AXES), _LAGS))
    for axis, (start, size) in enumerate(_AXES):
        stop = start + size
        totals, squares = sums[:, :, stop : stop + _LAGS] - sums[:, :, start : start + _LAGS]
        core = after[:, start + MAX_SHIFT_PX : stop + MAX_SHIFT_PX]
        core = core - np.add.reduce(core, axis=1, keepdims=True) / size
        squares += np.add.reduce(core * core, axis=1, keepdims=True)
        core *= 2
        windows = sliding_window_view(before[:, start : stop + _EDGE_PX], size, axis=1)
        squares -= np.vecdot(windows, core[:, None])
        totals *= totals
        totals /= size
        np.subtract(squares, totals, out=costs[:, axis])
        costs[:, axis] /= size
    return _lowest(costs.reshape(-1, _LAGS)).reshape(count, len(_AXES))


def _lowest(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shift of least cost in each row; costs go from the largest shift to the smallest."""
    rows = np.arange(len(costs))
    best = costs.argmin(axis=1)
    unmoved = costs[:, MAX_SHIFT_PX]
    best[unmoved - costs[rows, best] < MIN_GAIN + MIN_GAIN * unmoved] = MAX_SHIFT_PX
    inner = np.clip(best, 1, _LAGS - 2)
    left, middle, right = (costs[rows, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    is_valley = (inner == best) & (bend > 1e-9) & (middle <= np.minimum(left, right))
    fraction = np.where(is_valley, (left - right) / (2 * np.where(is_valley, bend, 1.0)), 0.0)
    return np.asarray(MAX_SHIFT_PX - best - fraction, np.float64)


def residual_change(
    before: NDArray[np.uint8], after: NDArray[np.float32], move_x: int, move_y: int
) -> float:
    """Mean absolute change of 8x8 block means, in luma levels, once `before` is moved.

    Args:
        before: The earlier picture, uint8 (240, 320).
        after: Block means of the later one, float32 (30, 40).
        move_x: Pixels to the right; positive for a picture that moved right.
        move_y: Pixels down.
    """
    rows, pixel_rows = _overlap(move_y, HEIGHT_PX)
    columns, pixel_columns = _overlap(move_x, WIDTH_PX)
    moved = block_means(before[pixel_rows, pixel_columns])
    return total_change(moved, after[rows, columns]) / moved.size


def _overlap(move: int, size: int) -> tuple[slice, slice]:
    """Whole blocks of the later picture that the moved one covers, and their pixels before it."""
    first = -(-max(0, move) // BLOCK_PX)
    last = (size + min(0, move)) // BLOCK_PX
    return slice(first, last), slice(BLOCK_PX * first - move, BLOCK_PX * last - move)
