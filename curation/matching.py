"""Compare two fingerprints at every shift in time: same pictures, and the same changes in them.

Pictures alone do not tell two takes before one fixed camera apart, so what changes over the common
time must agree as well; a clip in which nothing changes is like no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fingerprint import NUM_FIELDS

MIN_STEPS = 4
"""A clip shorter than four quarter seconds is not compared."""

MIN_COMMON_RATIO = 0.8
"""Share of the shorter clip's time that both must show."""

MIN_CONTRAST_LUMA = 4.0
"""Standard deviation over the fields, root mean square over the steps, of a clip with texture."""

MIN_CHANGE_LUMA = 1.5
"""Root mean square change of a field over the common time, from its mean, of a clip that moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two clips over their best common time.

    Attributes:
        distance: 0 (equal) to 2: 1 - the lesser of the correlations of pictures and of changes.
        shift: Steps by which the second begins later than the first.
        num_common: Steps both show.
    """

    distance: float
    shift: int
    num_common: int


def smoothed(steps: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Steps averaged 1 2 1 over time, spatial mean taken out, times 4 x 48: whole numbers.

    Whole numbers in float64 keep every sum exact, so results do not depend on the machine.
    """
    plain = steps.astype(np.float64)
    padded = np.concatenate([plain[:1], plain, plain[-1:]])
    blurred = padded[:-2] + 2 * plain + padded[2:]
    levels: NDArray[np.float64] = NUM_FIELDS * blurred - blurred.sum(axis=1, keepdims=True)
    return levels


SCALE = 4.0 * NUM_FIELDS
"""What `smoothed` multiplies luma levels by."""


def has_texture(levels: NDArray[np.float64]) -> bool:
    """Whether a clip's smoothed steps show something and change: only such clips are compared."""
    if len(levels) < MIN_STEPS:
        return False
    contrast = np.sqrt(np.mean(levels * levels)) / SCALE
    return bool(contrast >= MIN_CONTRAST_LUMA and _change(levels) >= MIN_CHANGE_LUMA)


def _change(levels: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((levels - levels.mean(axis=0)) ** 2))) / SCALE


def best_match(first: NDArray[np.float64], second: NDArray[np.float64]) -> Match | None:
    """The shift at which two clips agree best; None when neither moves over any common time.

    Args:
        first: From `smoothed`, (steps, 48).
        second: Likewise.
    """
    least = max(MIN_STEPS, int(np.ceil(MIN_COMMON_RATIO * min(len(first), len(second)))))
    shifts = np.arange(least - len(second), len(first) - least + 1)
    starts = np.maximum(shifts, 0)
    stops = np.minimum(shifts + len(second), len(first))
    counts = (stops - starts).astype(np.float64)
    products = _diagonal_sums(first @ second.T, shifts)
    squares_1, sums_1 = _windows(first, starts, stops)
    squares_2, sums_2 = _windows(second, starts - shifts, stops - shifts)
    picture = products / np.sqrt(np.maximum(squares_1 * squares_2, 1.0))
    energy_1 = squares_1 - (sums_1 * sums_1).sum(axis=1) / counts
    energy_2 = squares_2 - (sums_2 * sums_2).sum(axis=1) / counts
    common = products - (sums_1 * sums_2).sum(axis=1) / counts
    change = common / np.sqrt(np.maximum(energy_1 * energy_2, 1.0))
    floor = (MIN_CHANGE_LUMA * SCALE) ** 2 * NUM_FIELDS * counts
    moves = (energy_1 >= floor) & (energy_2 >= floor)
    if not moves.any():
        return None
    distances = np.where(moves, 1.0 - np.minimum(picture, change), np.inf)
    best = int(np.argmin(distances))
    return Match(
        distance=max(0.0, float(distances[best])),
        shift=int(shifts[best]),
        num_common=int(counts[best]),
    )


def _diagonal_sums(grid: NDArray[np.float64], shifts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums along the diagonals first[i], second[i - shift].

    Rows from the last to the first, each followed by one zero per row, and then read one place
    shorter than they were written: what was a diagonal is a column.
    """
    rows, columns = grid.shape
    padded = np.zeros((rows, columns + rows))
    padded[:, :columns] = grid[::-1]
    width = columns + rows - 1
    sums = padded.ravel()[: rows * width].reshape(rows, width).sum(axis=0)
    chosen: NDArray[np.float64] = sums[rows - 1 - shifts]
    return chosen


def _windows(
    levels: NDArray[np.float64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of squares, and sum per field, over each span of steps."""
    sums = np.concatenate([np.zeros((1, levels.shape[1])), np.cumsum(levels, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum((levels * levels).sum(axis=1))])
    return squares[stops] - squares[starts], sums[stops] - sums[starts]
