"""Streaming detection of hard cuts: a frame differs far more from the last than its neighbours do.

The decision about a frame needs the four frames after it, so answers come four frames late; the
memory is nine reduced pictures, whatever the length of the video.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .small import SmallPicture

LAG_FRAMES = 4
"""Frames that must follow a frame before it is known whether a shot begins there."""

MIN_RATIO = 4.0
"""A cut's difference over the mean difference of its neighbours."""

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


@dataclass(slots=True)
class _Entry:
    cells: NDArray[np.int16]
    difference: float | None


class CutDetector:
    """Says for each frame whether a shot begins with it.

    >>> detector = CutDetector()
    >>> answers = [detector.add(picture) for picture in []]
    >>> detector.finish()
    []

    Feed the frames of one part in order. `add` answers for the frame four back (None while there
    is none), `finish` for the last frames. The first frame of a part is never called a cut: a
    part's edge is an edge anyway. Neighbours beyond the part's edges are left out.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque(maxlen=2 * LAG_FRAMES + 1)
        self._num_frames = 0
        self._num_answers = 0

    def add(self, picture: SmallPicture) -> bool | None:
        """Take the next frame; answer for the frame `LAG_FRAMES` before it."""
        previous = self._entries[-1].cells if self._entries else None
        difference = None if previous is None else cell_difference(previous, picture.cells)
        self._entries.append(_Entry(picture.cells, difference))
        self._num_frames += 1
        return self._answer() if self._num_frames > LAG_FRAMES else None

    def finish(self) -> list[bool]:
        """Answers for the frames not answered yet, in order; at most `LAG_FRAMES`."""
        return [self._answer() for _ in range(self._num_frames - self._num_answers)]

    def _answer(self) -> bool:
        first_held = self._num_frames - len(self._entries)
        index = self._num_answers - first_held
        self._num_answers += 1
        score = self._ratio(index)
        return score >= MIN_RATIO and not self._is_flash(index)

    def _ratio(self, index: int) -> float:
        """Own difference over the neighbours' mean.

        Video of 10 pictures a second stored at 30 repeats each twice; the repeats are left out, or
        every picture of a moving camera would look like a cut.
        """
        own = self._entries[index].difference
        if own is None or own < MIN_DIFFERENCE:
            return 0.0
        around = [
            entry.difference
            for position, entry in enumerate(self._entries)
            if position != index
            and abs(position - index) <= LAG_FRAMES
            and entry.difference is not None
        ]
        moving = [difference for difference in around if difference >= REPEATED]
        num_enough = 2 if len(around) == 2 * LAG_FRAMES else 1
        counted = moving if len(moving) >= num_enough else around
        mean = sum(counted) / len(counted) if counted else 0.0
        return own / max(mean, FLOOR)

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


def cell_difference(before: NDArray[np.int16], after: NDArray[np.int16]) -> float:
    """Mean absolute difference of two (3, 60, 80) cell pictures, summed over Y, Cb and Cr."""
    change = np.abs(after - before)
    return float(np.add.reduce(change, axis=None, dtype=np.int64)) * 3.0 / int(change.size)
