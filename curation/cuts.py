"""Streaming detection of hard cuts: a frame differs far more from the last than its neighbours do.

The decision about a frame needs the eight frames after it, so answers come eight frames late; the
memory is 25 reduced pictures, whatever the length of the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .small import SmallPicture, total_change

LAG_FRAMES = 8
"""Frames that must follow a frame before it is known whether a shot begins there."""

LOOK_BACK_FRAMES = 16
"""Frames before it that are held."""

NUM_NEIGHBOURS = 4
"""Differences that are looked at on either side."""

MIN_RATIO = 5.4
"""A cut's difference over that of its neighbours."""

MIN_PEAK = 1.1
"""A cut's difference over the largest of its neighbours."""

LONE_PEAK = 3.0
"""A neighbour that is so much larger than all others is another cut, and left out."""

QUIET_SHARE = 0.75
"""Weight of the side that moves less: a cut often joins a still shot and a fast one."""

MIN_DIFFERENCE = 15.0
"""Smallest difference of a cut, in summed levels of Y, Cb and Cr."""

REPEATED = 0.5
"""A smaller difference means the frame before was shown again: no evidence of how much moves."""

FLOOR = 1.0
"""Neighbours are taken to differ at least this much, or two still shots would divide by zero."""

FLASH_FRAMES = 2
"""A disturbance of at most this many frames, after which the old picture returns, is no cut."""

FLASH_SIMILARITY = 0.5
"""Pictures around a flash differ by less than this share of the flash's own difference."""

MIN_DISSIMILARITY = 0.6
"""Squared difference of the two frames over the sum of their contrasts; unrelated ones have 1."""

MAX_CORRELATION = 0.6
"""Frames of the same structure are one shot in another light ..."""

UNLIKE_ANYWAY = 2.0
"""... unless their dissimilarity, of which light is a part, is so large."""

MIN_SCORE = 0.5
"""Smaller scores are not looked at more closely."""


@dataclass(slots=True)
class _Entry:
    cells: NDArray[np.uint8]
    difference: float | None


class CutDetector:
    """Scores for each frame how much it looks like the first of a shot; from 1 on it is one.

    >>> detector = CutDetector()
    >>> answers = [detector.add(picture) for picture in []]
    >>> detector.finish()
    []

    Feed the frames of one part in order. `add` answers for the frame eight back (None while there
    is none), `finish` for the last frames. The first frame of a part has score 0: a part's edge is
    an edge anyway. Neighbours beyond the part's edges are left out.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque(maxlen=LOOK_BACK_FRAMES + 1 + LAG_FRAMES)
        self._num_frames = 0
        self._num_answers = 0

    def add(self, picture: SmallPicture) -> float | None:
        """Take the next frame; the score of the frame `LAG_FRAMES` before it."""
        previous = self._entries[-1].cells if self._entries else None
        difference = None if previous is None else cell_difference(previous, picture.cells)
        self._entries.append(_Entry(picture.cells, difference))
        self._num_frames += 1
        return self._answer() if self._num_frames > LAG_FRAMES else None

    def finish(self) -> list[float]:
        """Scores of the frames not answered yet, in order; at most `LAG_FRAMES`."""
        return [self._answer() for _ in range(self._num_frames - self._num_answers)]

    def _answer(self) -> float:
        first_held = self._num_frames - len(self._entries)
        index = self._num_answers - first_held
        self._num_answers += 1
        own = self._entries[index].difference
        if own is None or own < MIN_DIFFERENCE:
            return 0.0
        score = self._score(index, own)
        if score < MIN_SCORE:
            return score
        if self._is_flash(index):
            return 0.0
        return min(score, unlikeness(self._entries[index - 1].cells, self._entries[index].cells))

    def _score(self, index: int, own: float) -> float:
        """Own difference over what its neighbours let expect, as a share of what makes a cut."""
        entries = [entry.difference for entry in self._entries]
        sides = [_known(reversed(entries[:index])), _known(entries[index + 1 :])]
        around = sorted(sides[0] + sides[1])
        if len(around) > 1 and around[-1] >= LONE_PEAK * max(around[-2], FLOOR):
            largest = around.pop()
            next(side for side in sides if largest in side).remove(largest)
        means = sorted(sum(side) / len(side) for side in map(_nearest, sides) if side)
        if not means:
            return own / FLOOR / MIN_RATIO
        expected = QUIET_SHARE * means[0] + (1 - QUIET_SHARE) * means[-1]
        return min(own / max(expected, FLOOR) / MIN_RATIO, own / max(around[-1], FLOOR) / MIN_PEAK)

    def _is_flash(self, index: int) -> bool:
        """Whether the picture before this frame is back soon after it, or comes back with it."""
        own = self._entries[index].difference
        assert own is not None
        limit = FLASH_SIMILARITY * own
        cells = [entry.cells for entry in self._entries]
        for gap in range(1, FLASH_FRAMES + 1):
            ahead, behind = index + gap, index - 1 - gap
            if ahead < len(cells) and cell_difference(cells[index - 1], cells[ahead]) < limit:
                return True
            if behind >= 0 and cell_difference(cells[behind], cells[index]) < limit:
                return True
        return False


def _known(differences: Iterable[float | None]) -> list[float]:
    return [difference for difference in differences if difference is not None]


def _nearest(known: list[float]) -> list[float]:
    """The nearest differences of one side that tell how much moves there.

    Video of 10 pictures a second stored at 30 repeats each twice; the repeats are left out, or
    every picture of a moving camera would look like a cut. Where all are alike nothing moves.
    """
    moving = [difference for difference in known if difference >= REPEATED]
    return (moving or known)[:NUM_NEIGHBOURS]


def cell_difference(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two (3, 60, 80) cell pictures, summed over Y, Cb and Cr."""
    rows = 3 * before.shape[1]
    return total_change(before.reshape(rows, -1), after.reshape(rows, -1)) * 3.0 / before.size


def unlikeness(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """How far two cell pictures are from being one shot in two lights; 1 makes a cut."""
    first, second = (cells.astype(np.float32).reshape(3, -1) for cells in (before, after))
    total = float(np.square(second - first).sum())
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    contrasts = float(np.square(first).sum()), float(np.square(second).sum())
    dissimilarity = total / max(sum(contrasts), 1.0)
    correlation = float((first * second).sum()) / max(contrasts[0] * contrasts[1], 1.0) ** 0.5
    likely = min(dissimilarity / MIN_DISSIMILARITY, (1 - correlation) / (1 - MAX_CORRELATION))
    return float(max(likely, dissimilarity / UNLIKE_ANYWAY))
