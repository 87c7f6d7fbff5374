"""Idle stretches: nothing visible moves for longer than a dataset cares to keep."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from .measures import CHANGED_LUMA, STEP_S, STILL_RATIO

SAMPLES_PER_S = 10


class IdleDetector:
    """Says since when the picture has been idle.

    A picture is still when, against the one half a second before, at most 2 of 1200 blocks moved
    visibly (the measure `still_ratio` counts the same). Still pictures in a row, with the half
    second before the first, are an idle stretch once it lasts `min_s`.

    >>> IdleDetector(min_s=2.0).finish() is None
    True
    """

    def __init__(self, *, min_s: float) -> None:
        self._min_s = min_s
        self._held: deque[tuple[float, NDArray[np.float32]]] = deque()
        self._slot: int | None = None
        self._since_s: float | None = None
        self._last_s = 0.0

    def add(
        self, cells: NDArray[np.uint8], time_s: float, *, is_edge: bool = False
    ) -> float | None:
        """Take the next frame; where the idle stretch that reaches up to it began, or None.

        Ten frames a second are looked at; None for the others.

        Args:
            cells: uint8 (3, 60, 80), the frame's cells.
            time_s: When it is shown, counted from the file's first frame.
            is_edge: A shot begins with it; nothing is compared across.
        """
        if is_edge:
            self._held.clear()
            self._since_s = self._slot = None
        slot = int(time_s * SAMPLES_PER_S + 0.25)
        if slot == self._slot:
            return None
        self._slot, self._last_s = slot, time_s
        self._look(_block_means(cells[0]), time_s)
        return self.finish()

    def finish(self) -> float | None:
        """Where the idle stretch that goes on at the end began, or None."""
        if self._since_s is None or self._last_s - self._since_s < self._min_s - 1e-6:
            return None
        return self._since_s

    def _look(self, blocks: NDArray[np.float32], time_s: float) -> None:
        self._held.append((time_s, blocks))
        while len(self._held) > 1 and self._held[1][0] <= time_s - STEP_S + 1e-6:
            self._held.popleft()
        before_s, before = self._held[0]
        if time_s - before_s < STEP_S - 1e-6:
            return
        changed = np.abs(blocks - before) > CHANGED_LUMA
        if np.count_nonzero(changed) > STILL_RATIO * changed.size:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = before_s


def _block_means(cells: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over 8x8 pixels, float32 (30, 40), from 4x4 cells (60, 80)."""
    rows = np.add(cells[0::2], cells[1::2], dtype=np.int16)
    return (rows[:, 0::2] + rows[:, 1::2]).astype(np.float32) * np.float32(0.25)
