"""How a picture differs from the one before it: camera shift, and what is left without it.

Camera motion is a translation found by matching the means of rows and columns (one method for all
codecs, as good as optical flow on re-filmed photographs); what is left after that shift is residual
motion. Rotation and parallax count as residual. Means of columns change when rows come and go:
where that may have misled, columns are matched again without those rows, and rows likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .small import (
    BLOCK_PX,
    HEIGHT_PX,
    WIDTH_PX,
    SmallPicture,
    block_means,
    line_means,
    shared,
    total_change,
)

MAX_SHIFT_PX = 40
"""Largest shift between two frames that is looked for, in pixels of the small picture."""

MIN_GAIN = 0.02
"""A shift must lower the squared difference by this much, absolutely and as a share, to count."""

POOR_MATCH, MIN_CROSS_SHIFT_PX = 0.1, 1.5
"""A shift that leaves more than this share of the squared difference is looked for again, if the
other axis is matched better and has moved by so much."""

_EDGE_PX = 2 * MAX_SHIFT_PX
_LAGS = _EDGE_PX + 1
_AXES = (slice(0, WIDTH_PX), slice(WIDTH_PX, WIDTH_PX + HEIGHT_PX))
"""Where the means of columns and of rows stand in a profile."""


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
    for index, (x, y) in enumerate(_shifts_of(pictures, profiles).tolist()):
        move, residual = (round(x), round(y)), unmoved[index]
        if move != (0, 0):
            residual = residual_change(pictures[index].luma, pictures[index + 1].blocks, *move)
        found.append(Motion(x=x, y=y, residual_luma=residual, largest_luma=largest[index]))
    return found


def _shifts_of(
    pictures: Sequence[SmallPicture], profiles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shifts of each picture but the first in pixels, to the right and down: (pictures - 1, 2)."""
    found = [match(profiles[:-1, axis], profiles[1:, axis]) for axis in _AXES]
    shifts, left = (np.stack(values, axis=1) for values in zip(*found, strict=True))
    moves = np.rint(shifts).astype(int)
    is_poor = (left > POOR_MATCH) & (left >= left[:, ::-1])
    is_poor &= np.abs(shifts[:, ::-1]) >= MIN_CROSS_SHIFT_PX
    for axis in range(len(_AXES)):
        again = np.flatnonzero(is_poor[:, axis]).tolist()
        if again:
            pairs = [
                _in_both(pictures[at].luma, pictures[at + 1].luma, moves[at, 1 - axis], axis)
                for at in again
            ]
            before, after = (np.stack(means) for means in zip(*pairs, strict=True))
            shifts[again, axis], _ = match(before, after)
    return shifts


def _in_both(
    before: NDArray[np.uint8], after: NDArray[np.uint8], move: int, axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of columns over the rows that two pictures share, or of rows over the columns.

    Args:
        before, after: The pictures, uint8 (240, 320).
        move: By how many pixels the rows, or the columns, have moved.
        axis: 0 for the means of columns, 1 for those of rows.
    """
    before, after = shared(before, after, *((move, 0) if axis == 0 else (0, move)))
    return line_means(before, axis), line_means(after, axis)


def match(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shifts of pictures along one axis in pixels, to a fraction of one.

    Least mean squared difference over all whole shifts up to `MAX_SHIFT_PX`, then a parabola. The
    means' own mean is taken out, so a change of exposure is no motion; a picture without structure
    has shift 0.

    Args:
        before, after: Means of columns or of rows: (pictures, places) each.

    Returns:
        The shifts, to the right or down, and the share of the squared difference that is left:
        (pictures,) each.
    """
    count, length = before.shape
    size = length - _EDGE_PX
    sums = np.zeros((2, count, length + 1))
    np.cumsum(before, axis=1, out=sums[0, :, 1:])
    np.cumsum(before * before, axis=1, out=sums[1, :, 1:])
    totals, costs = sums[:, :, size:] - sums[:, :, :_LAGS]
    core = after[:, MAX_SHIFT_PX : MAX_SHIFT_PX + size]
    core = core - np.add.reduce(core, axis=1, keepdims=True) / size
    costs += np.add.reduce(core * core, axis=1, keepdims=True)
    core *= 2
    costs -= np.vecdot(sliding_window_view(before, size, axis=1), core[:, None])
    totals *= totals
    totals /= size
    costs -= totals
    costs /= size
    return _lowest(costs)


def _lowest(costs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shift of least cost in each row, and its share of the cost without any.

    Costs go from the largest shift to the smallest.
    """
    rows = np.arange(len(costs))
    best = costs.argmin(axis=1)
    unmoved = costs[:, MAX_SHIFT_PX]
    left = costs[rows, best] / np.maximum(unmoved, 1e-9)
    best[unmoved - costs[rows, best] < MIN_GAIN + MIN_GAIN * unmoved] = MAX_SHIFT_PX
    inner = np.clip(best, 1, _LAGS - 2)
    below, middle, above = (costs[rows, inner + step] for step in (-1, 0, 1))
    bend = below - 2 * middle + above
    is_valley = (inner == best) & (bend > 1e-9) & (middle <= np.minimum(below, above))
    fraction = np.where(is_valley, (below - above) / (2 * np.where(is_valley, bend, 1.0)), 0.0)
    return MAX_SHIFT_PX - best - fraction, left


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
