"""Measures of a clip, taken frame by frame in the decode pass: light, sharpness, motion, stillness.

Camera motion is a translation found by matching the means of rows and columns (one method for all
codecs, as good as optical flow on re-filmed photographs); what is left after that shift is residual
motion. Rotation and parallax count as residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .small import HEIGHT_PX, WIDTH_PX, SmallPicture

DARK_LUMA = 38
"""10 % of the way from black to white."""

BRIGHT_LUMA = 228
"""97 % of the way from black to white."""

BLACK_PIXEL_LUMA = 24
BLACK_FRAME_RATIO = 0.98
MAX_SHIFT_PX = 40
"""Largest shift between two frames that is looked for, in pixels of the small picture."""

MIN_GAIN = 0.02
"""A shift must lower the squared difference by this much, absolutely and as a share, to count."""

STEP_S = 0.5
"""Stillness compares pictures this far apart."""

CHANGED_LUMA = 4.0
"""A block changed when its mean moved by more; camera noise of 5 levels moves it by 0.6."""

STILL_RATIO = 0.002
"""A half second is still when at most this share of blocks changed: 2 of 1200."""

FROZEN_LUMA = 1.5
"""A picture stands while no block's mean is further from where it was when it began to stand."""

SHAKE_WINDOW_S = 0.5


@dataclass(slots=True)
class _Series:
    """Per-frame numbers of one clip; a clip is bounded, so they are."""

    brightness: list[float] = field(default_factory=list)
    contrast: list[float] = field(default_factory=list)
    underexposed: list[float] = field(default_factory=list)
    overexposed: list[float] = field(default_factory=list)
    is_black: list[bool] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    velocity_x: list[float] = field(default_factory=list)
    velocity_y: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    changing: list[float] = field(default_factory=list)


class ClipMeasures:
    """Collects the measures of one clip; feed its frames in order, then ask for the row.

    >>> ClipMeasures().row(end_s=1.0)["brightness_mean_luma"] is None
    True
    """

    def __init__(self) -> None:
        self._series = _Series()
        self._previous: SmallPicture | None = None
        self._previous_blocks: NDArray[np.float32] | None = None
        self._previous_s = 0.0
        self._step_blocks: NDArray[np.float32] | None = None
        self._step_s = 0.0
        self._frozen_blocks: NDArray[np.float32] | None = None
        self._frozen_since_s = 0.0
        self._longest_frozen_s = 0.0

    def add(self, picture: SmallPicture, time_s: float) -> None:
        """Take the next frame of the clip, shown from `time_s` on."""
        self._add_light(picture)
        blocks = block_means(picture.cells[0])
        if self._previous is not None and self._previous_s < time_s:
            self._add_motion(picture, blocks, time_s - self._previous_s)
        self._add_stillness(blocks, time_s)
        self._previous, self._previous_blocks, self._previous_s = picture, blocks, time_s

    def row(self, *, end_s: float) -> dict[str, float | None]:
        """The measures over all frames taken; None where there is nothing to measure.

        Args:
            end_s: Where the last frame's showing ends, on the clock of `add`.
        """
        series = self._series
        speed = np.hypot(series.velocity_x, series.velocity_y)
        duration_s = end_s - self._first_s if series.brightness else 0.0
        frozen_s = max(self._longest_frozen_s, end_s - self._frozen_since_s)
        return {
            "brightness_mean_luma": _mean(series.brightness),
            "contrast_luma": _mean(series.contrast),
            "underexposed_ratio": _mean(series.underexposed),
            "overexposed_ratio": _mean(series.overexposed),
            "black_frames_ratio": _mean(series.is_black),
            "sharpness_luma": _mean(series.sharpness),
            "camera_motion_width_per_s": _mean(speed),
            "camera_motion_p95_width_per_s": _percentile_95(speed),
            "camera_shake_width_per_s": self._shake(duration_s),
            "residual_motion_luma": _mean(series.residual),
            "residual_motion_p95_luma": _percentile_95(series.residual),
            "changing_blocks_ratio": _mean(series.changing),
            "changing_blocks_p95_ratio": _percentile_95(series.changing),
            "still_ratio": _mean([share <= STILL_RATIO for share in series.changing]),
            "longest_frozen_s": frozen_s if duration_s > 0 else None,
            "frozen_ratio": min(1.0, frozen_s / duration_s) if duration_s > 0 else None,
        }

    def _add_light(self, picture: SmallPicture) -> None:
        series, thin = self._series, picture.luma[::2]
        cells = picture.cells[0].astype(np.float64).ravel()
        mean = _sum(cells) / cells.size
        cells -= mean
        series.brightness.append(mean)
        series.contrast.append(math.sqrt(_sum(cells * cells) / cells.size))
        series.underexposed.append(np.count_nonzero(thin < DARK_LUMA) / thin.size)
        series.overexposed.append(np.count_nonzero(thin > BRIGHT_LUMA) / thin.size)
        num_black = np.count_nonzero(thin < BLACK_PIXEL_LUMA)
        series.is_black.append(bool(num_black >= BLACK_FRAME_RATIO * thin.size))
        series.sharpness.append(sharpness(picture.luma))

    def _add_motion(
        self, picture: SmallPicture, blocks: NDArray[np.float32], interval_s: float
    ) -> None:
        assert self._previous is not None
        assert self._previous_blocks is not None
        shift_x = match_shift(self._previous.column_means, picture.column_means)
        shift_y = match_shift(self._previous.row_means, picture.row_means)
        self._series.velocity_x.append(shift_x / WIDTH_PX / interval_s)
        self._series.velocity_y.append(shift_y / WIDTH_PX / interval_s)
        move = round(shift_x), round(shift_y)
        if move == (0, 0):
            change = mean_change(self._previous_blocks, blocks)
        else:
            change = residual_change(self._previous.luma, blocks, *move)
        self._series.residual.append(change)

    def _add_stillness(self, blocks: NDArray[np.float32], time_s: float) -> None:
        if self._step_blocks is None or self._frozen_blocks is None:
            self._first_s = self._step_s = self._frozen_since_s = time_s
            self._step_blocks = self._frozen_blocks = blocks
            return
        if time_s - self._step_s >= STEP_S - 1e-6:
            changed = np.abs(blocks - self._step_blocks) > CHANGED_LUMA
            self._series.changing.append(np.count_nonzero(changed) / changed.size)
            self._step_blocks, self._step_s = blocks, time_s
        if float(np.abs(blocks - self._frozen_blocks).max()) > FROZEN_LUMA:
            stood_s = time_s - self._frozen_since_s
            self._longest_frozen_s = max(self._longest_frozen_s, stood_s)
            self._frozen_blocks, self._frozen_since_s = blocks, time_s

    def _shake(self, duration_s: float) -> float | None:
        count = len(self._series.velocity_x)
        if count < 2 or duration_s <= 0:
            return None
        half = max(1, round(SHAKE_WINDOW_S * count / duration_s / 2))
        velocities = np.stack([self._series.velocity_x, self._series.velocity_y])
        deviation = velocities - np.stack([_smooth(row, half) for row in velocities])
        return float(np.hypot(*deviation).mean())


def block_means(cells: NDArray[np.int16]) -> NDArray[np.float32]:
    """Means over 8x8 pixels, float32 (30, 40), from 4x4 cells (60, 80)."""
    rows = cells[0::2] + cells[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]).astype(np.float32) * np.float32(0.25)


def sharpness(luma: NDArray[np.uint8]) -> float:
    """Mean absolute second difference along rows and columns, at every eighth row, in levels."""
    above, row, below = (luma[offset::8].astype(np.int16) for offset in range(3))
    twice = row + row
    down = np.abs(twice - above - below)
    across = np.abs(twice[:, 1:-1] - row[:, :-2] - row[:, 2:])
    return _sum(down) / (2 * int(down.size)) + _sum(across) / (2 * int(across.size))


def match_shift(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Shift of a profile in pixels, positive to the right or down, to a fraction of a pixel.

    Least mean squared difference over all whole shifts up to `MAX_SHIFT_PX`, then a parabola. The
    profiles' own means are taken out, so a change of exposure is no motion; a profile without
    structure has shift 0.
    """
    size = len(before) - 2 * MAX_SHIFT_PX
    core = after[MAX_SHIFT_PX:-MAX_SHIFT_PX]
    core = core - _sum(core) / size
    sums, squares = np.cumsum(before), np.cumsum(before * before)
    window_sums, window_squares = sums[size - 1 :].copy(), squares[size - 1 :].copy()
    window_sums[1:] -= sums[:-size]
    window_squares[1:] -= squares[:-size]
    costs = window_squares - window_sums * window_sums / size
    costs += _sum(core * core) - 2 * np.correlate(before, core, "valid")
    costs /= size
    best = int(costs.argmin())
    if costs[MAX_SHIFT_PX] - costs[best] < MIN_GAIN + MIN_GAIN * costs[MAX_SHIFT_PX]:
        best = MAX_SHIFT_PX
    fraction = 0.0
    if 0 < best < len(costs) - 1:
        left, middle, right = (float(cost) for cost in costs[best - 1 : best + 2])
        bend = left - 2 * middle + right
        if bend > 1e-9 and middle <= min(left, right):
            fraction = (left - right) / (2 * bend)
    return MAX_SHIFT_PX - best - fraction


def residual_change(
    before: NDArray[np.uint8], blocks_after: NDArray[np.float32], move_x: int, move_y: int
) -> float:
    """Mean absolute change of 8x8 block means once `before` is moved by a whole-pixel shift.

    Args:
        before: uint8 (240, 320).
        blocks_after: float32 (30, 40), block means of the later picture.
        move_x: Pixels to the right; positive for a picture that moved right.
        move_y: Pixels down.
    """
    rows, source_rows = _overlap(move_y, HEIGHT_PX)
    columns, source_columns = _overlap(move_x, WIDTH_PX)
    moved = before[source_rows, source_columns]
    sums = moved.reshape(moved.shape[0] // 8, 8, moved.shape[1]).sum(axis=1, dtype=np.uint16)
    halves = sums[:, 0::2] + sums[:, 1::2]
    quarters = halves[:, 0::2] + halves[:, 1::2]
    blocks = (quarters[:, 0::2] + quarters[:, 1::2]).astype(np.float32) / 64
    return mean_change(blocks, blocks_after[rows, columns])


def mean_change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Mean absolute difference of two arrays of block means, in luma levels."""
    return _sum(np.abs(after - before)) / after.size


def _overlap(move: int, size: int) -> tuple[slice, slice]:
    """Whole blocks of the later picture that the moved one covers, and their pixels before it."""
    first = -(-max(0, move) // 8)
    last = (size + min(0, move)) // 8
    return slice(first, last), slice(8 * first - move, 8 * last - move)


def _smooth(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Moving average over 2 half + 1 values, shorter at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    means: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return means


def _sum(values: NDArray[Any]) -> float:
    return float(np.add.reduce(values, axis=None, dtype=np.float64))


def _mean(values: list[float] | list[bool] | NDArray[np.float64]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _percentile_95(values: list[float] | NDArray[np.float64]) -> float | None:
    if not len(values):
        return None
    return float(np.sort(values)[math.ceil(0.95 * len(values)) - 1])
