"""The fingerprints of many clips, end to end, so that they can lie in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fingerprint import NUM_FIELDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """Fingerprints of many clips.

    Attributes:
        steps: uint8 (steps, 48).
        starts: int64 (clips + 1,): clip i has the steps starts[i] to starts[i + 1].

    >>> prints = Fingerprints.of([np.zeros((4, 48), np.uint8), np.ones((8, 48), np.uint8)])
    >>> len(prints), prints[1].shape
    (2, (8, 48))
    """

    steps: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.steps[self.starts[index] : self.starts[index + 1]]

    @classmethod
    def of(cls, clips: Sequence[NDArray[np.uint8]]) -> Fingerprints:
        """Put the fingerprints of clips, uint8 (steps, 48) each, end to end."""
        lengths = [len(steps) for steps in clips]
        steps = np.concatenate([np.empty((0, NUM_FIELDS), np.uint8), *clips])
        return cls(steps=steps, starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def clip_of(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clip that each step belongs to."""
        return np.searchsorted(self.starts, steps, side="right") - 1
