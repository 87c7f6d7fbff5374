"""Which source the i-th sample of a mixture comes from: cycles of exact whole-number weights.

Weights 1:2:10 make cycles of 13. Inside a cycle the sources are laid out evenly and the layout is
turned by a hash of the cycle's number, so micro-batches never run in step with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .permutation import hash64

MAX_CYCLE = 100_000
_TABLE_CELLS = 2_000_000


def whole_weights(weights: Sequence[int | float | str]) -> tuple[int, ...]:
    """Turns weights into the smallest whole numbers of the same ratio; decimals count exactly.

    Raises:
        ConfigError: A weight is not above zero, or the cycle would be longer than MAX_CYCLE.
    """
    fractions = []
    for weight in weights:
        try:
            fraction = Fraction(str(weight))
        except (ValueError, ZeroDivisionError):
            fraction = Fraction(0)
        if fraction <= 0:
            raise ConfigError(
                f"weight {weight!r} is no number above zero",
                hint="give each source a weight such as 1, 2.5 or 10, or leave the source out",
            )
        fractions.append(fraction)
    scale = lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * scale) for fraction in fractions]
    divisor = gcd(*numbers)
    numbers = [number // divisor for number in numbers]
    if sum(numbers) > MAX_CYCLE or sum(numbers) * len(numbers) > _TABLE_CELLS:
        raise ConfigError(
            f"the weights {', '.join(map(str, weights))} make a cycle of {sum(numbers)} samples; "
            f"at most {MAX_CYCLE} are allowed",
            hint="round the weights to fewer digits",
        )
    return tuple(numbers)


class WeightCycle:
    """Exact interleaving of sources.

    Example:
        cycle = WeightCycle((1, 2, 10), key=7)
        source, draw = cycle.locate(np.arange(13))   # each (13,); draw counts per source
        np.bincount(source)                          # array([ 1,  2, 10])
    """

    def __init__(self, weights: Sequence[int], *, key: int) -> None:
        """Takes whole weights above zero and a 64-bit key."""
        self.weights = np.asarray(weights, dtype=np.int64)
        self.length = int(self.weights.sum())
        self._key = key

    def locate(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Says of each sample its source and how many samples of that source precede it."""
        cycle, slot = np.divmod(index, self.length)
        turn = self._turn(cycle)
        source = self._layout[(turn + slot) % self.length]
        before = self._counts[turn + slot, source] - self._counts[turn, source]
        return source, cycle * self.weights[source] + before

    def count(self, num_samples: int) -> NDArray[np.int64]:
        """Exact number of samples of each source among the first `num_samples`."""
        cycle, rest = divmod(num_samples, self.length)
        turn = self._turn(np.array([cycle], dtype=np.int64))[0]
        counts: NDArray[np.int64] = self._counts[turn + rest] - self._counts[turn]
        return counts + cycle * self.weights

    def _turn(self, cycle: NDArray[np.int64]) -> NDArray[np.int64]:
        return (hash64(self._key, cycle) % np.uint64(self.length)).astype(np.int64)

    @cached_property
    def _layout(self) -> NDArray[np.int64]:
        """The unturned cycle: each source's k-th turn stands at (k + 1/2) / weight of the way."""
        places = np.concatenate([(np.arange(w) + 0.5) / w for w in self.weights])
        sources = np.repeat(np.arange(len(self.weights)), self.weights)
        layout: NDArray[np.int64] = sources[np.lexsort((sources, places))]
        return layout

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Row p: samples of each source among the first p slots of the layout written twice."""
        twice = np.concatenate([self._layout, self._layout])
        one_hot = twice[:, None] == np.arange(len(self.weights))[None, :]
        zero = np.zeros((1, len(self.weights)), dtype=np.int64)
        return np.concatenate([zero, np.cumsum(one_hot, axis=0, dtype=np.int64)])
