"""The fingerprint of a clip: what 8x6 fields of the picture looked like, four times a second.

Each value is the mean luma of a field over all frames that began within a quarter second, so that
neither size, codec nor frame rate changes it much. 48 bytes per quarter second, stored as int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .small import BLOCK_PX, HEIGHT_PX, WIDTH_PX, Reduced

COLUMN = "fingerprint_luma"
STEPS_PER_S = 4
FIELD_ROWS, FIELD_COLUMNS = 6, 8
NUM_FIELDS = FIELD_ROWS * FIELD_COLUMNS
_BLOCK_ROWS, _BLOCK_COLUMNS = HEIGHT_PX // BLOCK_PX, WIDTH_PX // BLOCK_PX
_BLOCKS_PER_FIELD = _BLOCK_ROWS * _BLOCK_COLUMNS // NUM_FIELDS
_SLACK_S = 1e-6


class Fingerprint:
    """Collects the fingerprint of one clip; feed its frames in order, then ask for it.

    About 1 us per frame.

    >>> Fingerprint().words()
    []
    """

    def __init__(self) -> None:
        self._sum = np.zeros((_BLOCK_ROWS, _BLOCK_COLUMNS), np.float32)
        self._num_frames = 0
        self._step = 0
        self._first_s: float | None = None
        self._steps: list[NDArray[np.uint8]] = []

    def add(self, picture: Reduced, time_s: float) -> None:
        """Take the next frame of the clip, shown from `time_s` on."""
        if self._first_s is None:
            self._first_s = time_s
        step = int((time_s - self._first_s) * STEPS_PER_S + _SLACK_S)
        if step > self._step:
            self._steps += [self._mean()] * (step - self._step)
            self._sum[:] = 0
            self._num_frames, self._step = 0, step
        self._sum += picture.blocks
        self._num_frames += 1

    def words(self) -> list[int]:
        """The fingerprint as it is stored: six int64 per quarter second."""
        if self._num_frames == 0:
            return []
        steps = np.stack([*self._steps, self._mean()])
        words: list[int] = steps.view("<i8").ravel().tolist()
        return words

    def _mean(self) -> NDArray[np.uint8]:
        fields = self._sum.reshape(FIELD_ROWS, _BLOCK_ROWS // FIELD_ROWS, FIELD_COLUMNS, -1)
        means = fields.sum(axis=(1, 3), dtype=np.float64).ravel()
        means /= _BLOCKS_PER_FIELD * self._num_frames
        steps: NDArray[np.uint8] = (means + 0.5).astype(np.uint8)
        return steps


def steps_of(words: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
    """The steps of a stored fingerprint: uint8 (quarter seconds, 48), fields row by row."""
    return np.asarray(words, "<i8").view(np.uint8).reshape(-1, NUM_FIELDS)


def mirrored(steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The fingerprint of the same pictures with left and right exchanged."""
    fields = steps.reshape(-1, FIELD_ROWS, FIELD_COLUMNS)
    return fields[:, :, ::-1].reshape(-1, NUM_FIELDS)
