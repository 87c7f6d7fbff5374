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

from .small import coarse_means, shared

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
_PER_MEAN = _NUM_VALUES / 3
_FLAT_SQUARE = FLAT * FLAT * _NUM_VALUES
_MIN_SQUARE = (MIN_SCORE * MIN_DIFFERENCE) ** 2 * _NUM_VALUES
_MIN_INNER = 2
_ROOM = 4
"""Pictures are appended; only when so many times those held are full, the held ones move."""


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
        size = _ROOM * self._capacity
        self._pictures = np.zeros((size, _NUM_VALUES), np.float32)
        self._gram = np.zeros((size, size))
        self._means = np.zeros((size, 3))
        self._contrast = np.zeros(size)
        self._times = np.zeros(size)
        self._lumas: deque[NDArray[np.uint8]] = deque(maxlen=self._capacity)
        self._first = self._end = 0
        self._slot: int | None = None
        self._best: _Window | None = None
        self._last_end_s = -math.inf
        self.score = 0.0
        self.middle_s = 0.0

    def add(
        self, cells: NDArray[np.uint8], time_s: float, *, is_cut: bool = False
    ) -> tuple[float, float] | None:
        """Take the next frame; start and end in seconds when a transition is known to have ended.

        Both are pure pictures: the frames in between are mixed.

        Args:
            cells: uint8 (3, 60, 80), the frame's cells.
            time_s: When it is shown, counted from the file's first frame.
            is_cut: A shot begins with it; nothing reaches across.
        """
        self.score = 0.0
        found = None
        if is_cut:
            found, self._first, self._end = self.finish(), 0, 0
            self._lumas.clear()
        slot = int(time_s * SAMPLES_PER_S + 0.25)
        if slot == self._slot and not is_cut:
            return found
        self._slot = slot
        self._hold(coarse_means(cells), time_s)
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
        if self._end == len(self._times):
            self._move_to_front()
        at = self._end
        self._end += 1
        self._first = max(self._first, self._end - self._capacity)
        held = slice(self._first, self._end)
        self._pictures[at] = picture
        self._times[at] = time_s
        products = self._pictures[held] @ picture
        self._gram[at, held] = self._gram[held, at] = products
        means = np.add.reduce(picture.reshape(3, -1), axis=1) / _PER_MEAN
        self._means[at] = means
        self._contrast[at] = max(products[-1] - np.dot(means, means) * _PER_MEAN, 1.0)

    def _move_to_front(self) -> None:
        held, count = slice(self._first, self._end), self._end - self._first
        for array in (self._pictures, self._means, self._contrast, self._times):
            array[:count] = array[held]
        self._gram[:count, :count] = self._gram[held, held]
        self._first, self._end = 0, count

    def _best_window(self) -> _Window | None:
        """Of all stretches that end with the newest picture, the one most like a transition."""
        first, last = self._first, self._end - 1
        stop = last - _MIN_INNER
        if stop > first and self._times[first] < self._last_end_s - 1e-6:
            first += int(np.searchsorted(self._times[first:stop], self._last_end_s - 1e-6))
        if stop <= first:
            return None
        gram = self._gram[first : last + 1, first : last + 1]
        own, num_starts = gram.diagonal(), stop - first
        square = own[:num_starts] + own[-1] - 2 * gram[:num_starts, -1]
        if square.max() < _MIN_SQUARE:
            return None
        square = np.maximum(square, 1e-6)
        clear = self._clearness(slice(first, stop), last, square)
        if clear.max() < MIN_SCORE:
            return None
        times = self._times[first : last + 1]
        misfit = _misfit(gram, own, square, times)
        scores = np.minimum(clear, MAX_MISFIT / np.maximum(misfit, 1e-3))
        quality = np.minimum(clear, 1 / MIN_DISSIMILARITY) * MIN_DISSIMILARITY - misfit
        at = int(np.argmax(np.where(scores >= 1, quality, scores - 10)))
        score = float(scores[at])
        if score >= 1:
            skipped = first - self._first
            inner = [at + round(third * (last - first - at) / 3) for third in range(4)]
            left = left_after_shift([self._lumas[skipped + index] for index in inner])
            score *= min(1.0, left / MIN_LEFT)
        return _Window(
            start_s=float(times[at]),
            end_s=float(times[-1]),
            score=score,
            quality=float(quality[at]),
        )

    def _clearness(
        self, starts: slice, last: int, square: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """How far the two ends of each stretch are apart; 1 is enough for a transition."""
        before, after = self._contrast[starts], self._contrast[last]
        common = self._gram[starts, last] - self._means[starts] @ self._means[last] * _PER_MEAN
        if after < _FLAT_SQUARE:
            related = np.zeros(len(square))
        else:
            related = common / np.sqrt(before * after)
            related[before < _FLAT_SQUARE] = 0.0
        unlike = 1 - 2 * common / (before + after)
        clear: NDArray[np.float64] = np.sqrt(square * (1 / _NUM_VALUES)) / MIN_DIFFERENCE
        np.minimum(clear, unlike / MIN_DISSIMILARITY, out=clear)
        np.minimum(clear, (1 - related) / (1 - MAX_CORRELATION), out=clear)
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
    rows, starts = gram[:num_starts, :last], own[:num_starts, None]
    scale = (1 / square)[:, None]
    share = gram[last, :last] - rows
    share += starts - gram[:num_starts, last:]
    share *= scale
    error = rows * -2
    error += own[:last]
    error += starts
    error *= scale
    error -= share * share
    begin = times[:num_starts, None]
    steady = (times[:last] - begin) / (times[last] - begin)
    share -= steady
    share *= share
    share *= UNEVEN_WEIGHT**2
    error += share
    inner = steady > 1e-9
    error *= inner
    total = np.add.reduce(error, axis=1) / np.add.reduce(inner, axis=1)
    return np.asarray(np.sqrt(np.maximum(total, 0.0)), np.float64)


def left_after_shift(lumas: Sequence[NDArray[np.uint8]]) -> float:
    """Share of the change between consecutive pictures that no shift of the picture explains.

    Shifts are found from the means of rows and columns; about 1 for a dissolve, less for a pan.
    """
    plain = shifted = 0.0
    for before, after in pairwise([luma.astype(np.int16) for luma in lumas]):
        rows, columns = (
            _best_shift(before.sum(axis=axis), after.sum(axis=axis), limit)
            for axis, limit in zip((1, 0), MAX_SHIFT, strict=True)
        )
        there = float(np.abs(after - before).mean())
        moved = [
            float(np.abs(np.subtract(*shared(before, after, *shift))).mean())
            for shift in ((rows, 0), (0, columns), (rows, columns))
        ]
        plain += there
        shifted += min(there, *moved)
    return shifted / max(plain, 1e-6)


def _best_shift(before: NDArray[np.int64], after: NDArray[np.int64], limit: int) -> int:
    """By how many places a profile moved on: where what is left of the overlap varies least."""
    shifts = np.arange(-limit, limit + 1)
    ahead, behind = np.maximum(shifts, 0), np.maximum(-shifts, 0)
    counts = len(after) - ahead - behind
    totals, squares = _sums(after, ahead, counts) - _sums(before, behind, counts) * [[1], [-1]]
    squares -= 2 * np.correlate(after, before, "full")[len(after) - 1 + shifts]
    return int(np.argmin((counts * squares - totals * totals) / counts**2)) - limit


def _sums(
    profile: NDArray[np.int64], first: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sums of values and of squares over each stretch: (2, stretches)."""
    running = np.zeros((2, len(profile) + 1), np.int64)
    np.cumsum([profile, profile * profile], axis=1, out=running[:, 1:])
    return np.asarray(running[:, first + counts] - running[:, first], np.int64)
