"""Gradual transitions between shots, dissolves and fades, found by a slow, coarse baseline.

While one shot dissolves into another, every picture is a mixture of the first and the last one: it
lies on the straight line between them. A camera that turns passes through pictures that are not on
that line; a change of exposure ends in a picture of the same structure.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_S = 10
"""Pictures a second that are compared; faster video is thinned."""

MAX_TRANSITION_S = 1.7
"""Longest stretch looked at; with its two ends that is a transition of 1.5 s."""

SETTLE_S = 0.35
"""No better end may follow for so long before a transition is taken as it is."""

MERGE_S = 0.5
"""A transition that begins so soon after another one continues it: a fade out and in again."""

MIN_DIFFERENCE = 12.0
"""Smallest root mean square difference between the ends, in levels of Y, Cb and Cr."""

MIN_DISSIMILARITY = 0.7
"""Squared difference of the ends over the sum of their contrasts: unrelated pictures have 1."""

MAX_CORRELATION = 0.4
"""Ends of the same structure are one shot in another light."""

FLAT = 4.0
"""Smallest contrast, in levels, at which structure is compared: black is like nothing."""

MAX_MISFIT = 0.38
"""Largest departure from a straight, steady way between the ends, over their distance."""

UNEVEN_WEIGHT = 2.0
"""An uneven pace says more than a distance from the line: footage that moves has that too."""

MIN_LEFT = 0.8
"""What is left of the change when pictures are shifted onto each other; less is a moving camera."""

MAX_SHIFT = (12, 20)
"""Rows and columns of cells that pictures are shifted by at most."""

MIN_SCORE = 0.5
"""Smaller scores are not worked out and given as 0."""

_COARSE = (15, 20)
_NUM_VALUES = 3 * _COARSE[0] * _COARSE[1]
_MIN_INNER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    start_s: float
    end_s: float
    score: float
    quality: float


class TransitionDetector:
    """Finds gradual transitions in the pictures of one shot after another.

    Feed every frame; most only move the clock. `score` is what the last frame's windows gave: from
    1 on they are a transition. Memory is `MAX_TRANSITION_S` of coarse pictures.

    >>> TransitionDetector().finish() is None
    True
    """

    def __init__(self) -> None:
        self._capacity = math.ceil(MAX_TRANSITION_S * SAMPLES_PER_S) + 1
        self._pictures = np.zeros((self._capacity, _NUM_VALUES), np.float32)
        self._gram = np.zeros((self._capacity, self._capacity))
        self._means = np.zeros((self._capacity, 3))
        self._times = np.zeros(self._capacity)
        self._lumas: deque[NDArray[np.int16]] = deque(maxlen=self._capacity)
        self._held = 0
        self._slot: int | None = None
        self._best: _Window | None = None
        self._last_end_s = -math.inf
        self.score = 0.0
        self.middle_s = 0.0

    def add(
        self, cells: NDArray[np.int16], time_s: float, *, is_cut: bool = False
    ) -> tuple[float, float] | None:
        """Take the next frame; start and end in seconds when a transition is known to have ended.

        Both are pure pictures: the frames in between are mixed.

        Args:
            cells: int16 (3, 60, 80), the frame's cells.
            time_s: When it is shown, counted from the file's first frame.
            is_cut: A shot begins with it; nothing reaches across.
        """
        self.score = 0.0
        found = None
        if is_cut:
            found, self._held = self.finish(), 0
            self._lumas.clear()
        slot = int(time_s * SAMPLES_PER_S + 0.25)
        if slot == self._slot and not is_cut:
            return found
        self._slot = slot
        self._hold(coarse(cells), time_s)
        self._lumas.append(cells[0])
        window = self._best_window()
        if window is not None:
            self.score = window.score
            self.middle_s = (window.start_s + window.end_s) / 2
            if window.score >= 1 and (self._best is None or window.quality > self._best.quality):
                self._best = window
        if self._best is not None and time_s - self._best.end_s >= SETTLE_S - 1e-6:
            return self.finish()
        return found

    def finish(self) -> tuple[float, float] | None:
        """The transition that waited for a better end, if there is one."""
        best, self._best = self._best, None
        if best is None:
            return None
        start_s = best.start_s
        if start_s - self._last_end_s <= MERGE_S:
            start_s = min(start_s, self._last_end_s)
        self._last_end_s = best.end_s
        return start_s, best.end_s

    def _hold(self, picture: NDArray[np.float32], time_s: float) -> None:
        if self._held == self._capacity:
            self._pictures[:-1] = self._pictures[1:]
            self._gram[:-1, :-1] = self._gram[1:, 1:]
            self._means[:-1] = self._means[1:]
            self._times[:-1] = self._times[1:]
            self._held -= 1
        at = self._held
        self._held += 1
        self._pictures[at] = picture
        self._times[at] = time_s
        products = self._pictures[: at + 1] @ picture
        self._gram[at, : at + 1] = products
        self._gram[: at + 1, at] = products
        self._means[at] = np.add.reduce(picture.reshape(3, -1), axis=1) * (3 / _NUM_VALUES)

    def _best_window(self) -> _Window | None:
        """Of all stretches that end with the newest picture, the one most like a transition."""
        last = self._held - 1
        num_starts = last - _MIN_INNER
        if num_starts < 1:
            return None
        first = int(np.searchsorted(self._times[:num_starts], self._last_end_s - 1e-6))
        if first >= num_starts:
            return None
        held = slice(first, last + 1)
        gram, times, means = self._gram[held, held], self._times[held], self._means[held]
        num_starts -= first
        own = gram.diagonal()
        square = np.maximum(own[:num_starts] + own[-1] - 2 * gram[:num_starts, -1], 1e-6)
        clear = self._clearness(own, square, means, num_starts)
        if float(clear.max()) < MIN_SCORE:
            return None
        misfit = _misfit(gram, own, square, times)
        scores = np.minimum(clear, MAX_MISFIT / np.maximum(misfit, 1e-3))
        quality = np.minimum(clear, 1 / MIN_DISSIMILARITY) * MIN_DISSIMILARITY - misfit
        at = int(np.argmax(np.where(scores >= 1, quality, scores - 10)))
        score = float(scores[at])
        if score >= 1:
            inner = [first + at + round(third * (last - first - at) / 3) for third in range(4)]
            left = left_after_shift([self._lumas[index] for index in inner])
            score *= min(1.0, left / MIN_LEFT)
        return _Window(
            start_s=float(times[at]),
            end_s=float(times[-1]),
            score=score,
            quality=float(quality[at]),
        )

    def _clearness(
        self,
        own: NDArray[np.float64],
        square: NDArray[np.float64],
        means: NDArray[np.float64],
        num_starts: int,
    ) -> NDArray[np.float64]:
        """How far the two ends of each stretch are apart; 1 is enough for a transition."""
        per_mean = _NUM_VALUES / 3
        contrast = own - (means * means).sum(axis=1) * per_mean
        change = means[:num_starts] - means[-1]
        centred = square - (change * change).sum(axis=1) * per_mean
        before, after = np.maximum(contrast[:num_starts], 1.0), max(float(contrast[-1]), 1.0)
        unlike = centred / (before + after)
        related = (before + after - centred) / (2 * np.sqrt(before * after))
        related[np.minimum(before, after) < FLAT * FLAT * _NUM_VALUES] = 0.0
        level = np.sqrt(square * (1 / _NUM_VALUES))
        clear: NDArray[np.float64] = np.minimum.reduce([
            level / MIN_DIFFERENCE,
            unlike / MIN_DISSIMILARITY,
            (1 - related) / (1 - MAX_CORRELATION),
        ])  # fmt: skip
        return clear


def _misfit(
    gram: NDArray[np.float64],
    own: NDArray[np.float64],
    square: NDArray[np.float64],
    times: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How far the pictures between are from where a steady mixture would be, for each start.

    With start A, end B and a picture I between them, `share` is how far I has come on the line
    from A to B and `away` its squared distance from A, both in units of the distance A to B. All
    of it follows from the products of pictures with each other.
    """
    num_starts, last = len(square), len(own) - 1
    rows = gram[:num_starts, :last]
    base = (own[:num_starts] - gram[:num_starts, last])[:, None]
    scale = (1 / square)[:, None]
    share = (gram[None, last, :last] - rows + base) * scale
    away = (own[None, :last] - 2 * rows + own[:num_starts, None]) * scale
    begin = times[:num_starts, None]
    steady = (times[None, :last] - begin) / (times[last] - begin)
    off = share - steady
    error = (away - share * share) + UNEVEN_WEIGHT**2 * off * off
    inner = steady > 1e-9
    total = np.add.reduce(error * inner, axis=1) / np.add.reduce(inner, axis=1)
    return np.asarray(np.sqrt(np.maximum(total, 0.0)), np.float64)


def left_after_shift(lumas: Sequence[NDArray[np.int16]]) -> float:
    """Share of the change between consecutive pictures that no shift of the picture explains.

    Shifts are found from the means of rows and columns; about 1 for a dissolve, less for a pan.
    """
    plain = shifted = 0.0
    for before, after in pairwise(lumas):
        rows = _best_shift(before.mean(axis=1), after.mean(axis=1), MAX_SHIFT[0])
        columns = _best_shift(before.mean(axis=0), after.mean(axis=0), MAX_SHIFT[1])
        there = float(np.abs(after - before).mean())
        moved = [
            float(np.abs(_overlap(after, *shift) - _overlap(before, *(-s for s in shift))).mean())
            for shift in ((rows, 0), (0, columns), (rows, columns))
        ]
        plain += there
        shifted += min(there, *moved)
    return shifted / max(plain, 1e-6)


def _best_shift(before: NDArray[np.float64], after: NDArray[np.float64], limit: int) -> int:
    """By how many places a profile moved on, from least squared difference."""
    costs = []
    for shift in range(-limit, limit + 1):
        ahead = after[max(0, shift) : len(after) + min(0, shift)]
        behind = before[max(0, -shift) : len(before) + min(0, -shift)]
        difference = (ahead - ahead.mean()) - (behind - behind.mean())
        costs.append(float(difference @ difference) / len(difference))
    return int(np.argmin(costs)) - limit


def _overlap(picture: NDArray[np.int16], rows: int, columns: int) -> NDArray[np.int16]:
    height, width = picture.shape
    return picture[max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]


def coarse(cells: NDArray[np.int16]) -> NDArray[np.float32]:
    """Means over 4x4 cells of a (3, 60, 80) cell picture, flat, float32 (900,)."""
    rows = cells[:, 0::4] + cells[:, 1::4] + cells[:, 2::4] + cells[:, 3::4]
    sums = rows[:, :, 0::4] + rows[:, :, 1::4] + rows[:, :, 2::4] + rows[:, :, 3::4]
    means: NDArray[np.float32] = sums.astype(np.float32) * np.float32(1 / 16)
    return means.ravel()
