"""Compare two fingerprints at every shift in time: same pictures, and the same changes in them.

Pictures alone do not tell two takes before one fixed camera apart, so what changes over the common
time must agree as well; a clip in which nothing changes is like no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fingerprint import FIELD_COLUMNS, FIELD_ROWS, NUM_FIELDS
from .prints import Fingerprints

MIN_STEPS = 4
"""A clip shorter than four quarter seconds is not compared."""

MIN_COMMON_RATIO = 0.8
"""Share of the shorter clip's time that both must show."""

MIN_CONTRAST_LUMA = 4.0
"""Standard deviation over the fields, root mean square over the steps, of a clip with texture."""

MIN_CHANGE_LUMA = 1.5
"""Root mean square change of a field over the common time, from its mean, of a clip that moves."""


NUM_ROUGH_STEPS = 12
"""So many steps, spread over what two clips have in common, are looked at before all are."""

MAX_ROUGH_DISTANCE = 0.3
"""Clips further apart there are not alike: few steps, not smoothed, are further apart than all."""


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
    least = int(_least_common(np.array(min(len(first), len(second)))))
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


class Places(NamedTuple):
    """Steps, int64 (places,), and the clip that each belongs to."""

    steps: NDArray[np.int64]
    clips: NDArray[np.int64]


def roughly_alike(
    prints: Fingerprints, first: Places, second: Places, *, is_mirrored: bool = False
) -> NDArray[np.bool_]:
    """Whether pairs of clips agree when they are laid upon each other so that the places meet.

    As `best_match`, at one shift and by `NUM_ROUGH_STEPS` steps: whole numbers throughout, the same
    whichever clip is the first. A few microseconds a pair.

    Args:
        prints: Fingerprints of all clips.
        first: Places in one clip of each pair.
        second: The same moments in the other one.
        is_mirrored: Exchange left and right of one.
    """
    starts_1, starts_2 = prints.starts[first.clips], prints.starts[second.clips]
    lengths_1 = prints.starts[first.clips + 1] - starts_1
    lengths_2 = prints.starts[second.clips + 1] - starts_2
    shifts = (first.steps - starts_1) - (second.steps - starts_2)
    begins = np.maximum(shifts, 0)
    num_common = np.minimum(shifts + lengths_2, lengths_1) - begins
    agree: NDArray[np.bool_] = num_common >= _least_common(np.minimum(lengths_1, lengths_2))
    rest = np.flatnonzero(agree)
    parts = np.arange(1, 2 * NUM_ROUGH_STEPS, 2)
    looked_at = begins[rest, None] + parts * num_common[rest, None] // (2 * NUM_ROUGH_STEPS)
    one = prints.steps[starts_1[rest, None] + looked_at]
    two = prints.steps[(starts_2 - shifts)[rest, None] + looked_at]
    if is_mirrored:
        fields = two.reshape(len(rest), NUM_ROUGH_STEPS, FIELD_ROWS, FIELD_COLUMNS)
        two = fields[..., ::-1].reshape(one.shape)
    agree[rest] = _likeness(one, two) >= 1.0 - MAX_ROUGH_DISTANCE
    return agree


def _least_common(shorter: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps that two clips must have in common, by the length of the shorter one."""
    least: NDArray[np.int64] = np.ceil(MIN_COMMON_RATIO * shorter).astype(np.int64)
    return least.clip(MIN_STEPS)


def _likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The lesser of the correlations of pictures and of changes, of pairs of (steps, 48).

    Every sum is of whole numbers that float32, then float64, hold exactly.
    """
    one, two = _Moments.of(first), _Moments.of(second)
    picture, change = one.products(two)
    pictures = one.products(one)[0] * two.products(two)[0]
    changes = one.products(one)[1] * two.products(two)[1]
    likeness: NDArray[np.float64] = np.minimum(
        picture / np.sqrt(np.maximum(pictures, 1.0)), change / np.sqrt(np.maximum(changes, 1.0))
    )
    return likeness


class _Moments(NamedTuple):
    """Steps, (pairs, steps, 48), and their sums over the fields, over time, and over both."""

    levels: NDArray[np.float32]
    of_step: NDArray[np.float64]
    of_field: NDArray[np.float64]
    of_all: NDArray[np.float64]

    @classmethod
    def of(cls, steps: NDArray[np.uint8]) -> _Moments:
        levels = steps.astype(np.float32)
        of_step = levels.sum(axis=2).astype(np.float64)
        return cls(levels, of_step, levels.sum(axis=1).astype(np.float64), of_step.sum(axis=1))

    def products(self, other: _Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums over steps and fields of the product of both, spatial means taken out.

        The second is that of what is left when each field's mean over time is taken out as well,
        times the number of steps.
        """
        dots = np.vecdot(self.levels, other.levels).astype(np.float64).sum(axis=1)
        picture = NUM_FIELDS * dots - (self.of_step * other.of_step).sum(axis=1)
        means = (
            NUM_FIELDS * (self.of_field * other.of_field).sum(axis=1) - self.of_all * other.of_all
        )
        return picture, self.levels.shape[1] * picture - means


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
