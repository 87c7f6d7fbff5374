"""The order in which one source of a mixture hands out its units, epoch after epoch.

A unit is a clip or a window of a grid. Every epoch is a fresh keyed permutation of all units, so
nothing repeats inside an epoch. In blocks, whole shards are permuted first and units only inside
groups of them: a loader then touches few shards at a time.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from .permutation import Uint64Array, hash64, permute

Int64Array = NDArray[np.int64]

_EPOCHS_HELD = 4


class SourceOrder:
    """Draw number -> (epoch, unit) of one source.

    Example:
        order = SourceOrder(np.array([0, 40, 100]), key=7, shard_block=0)
        epoch, unit = order.locate(np.arange(200))     # two epochs, each all of 0..99 once
    """

    def __init__(self, shard_units: Int64Array, *, key: int, shard_block: int) -> None:
        """Takes the source's layout.

        Args:
            shard_units: (num_shards + 1,) first unit of each shard, then the number of units.
            key: 64-bit key of this source in this mixture.
            shard_block: Shards per block; 0 permutes all units of the source at once.
        """
        self.num_units = int(shard_units[-1])
        self._shard_units = shard_units
        self._key = key
        self._shard_block = shard_block
        self._epochs: OrderedDict[int, tuple[Int64Array, Int64Array]] = OrderedDict()

    def locate(self, draw: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Says of the draw-th unit this source hands out its epoch and its number."""
        epoch, place = np.divmod(draw, self.num_units)
        if not self._shard_block:
            return epoch, permute(place, self.num_units, self._epoch_key(epoch))
        unit = np.empty_like(place)
        for number in np.unique(epoch):
            chosen = epoch == number
            unit[chosen] = self._in_blocks(int(number), place[chosen])
        return epoch, unit

    def _in_blocks(self, epoch: int, place: Int64Array) -> Int64Array:
        shards, starts = self._shard_order(epoch)
        slot = np.searchsorted(starts, place, side="right") - 1
        block = slot // self._shard_block
        begin = starts[block * self._shard_block]
        end = starts[np.minimum((block + 1) * self._shard_block, len(shards))]
        key = hash64(self._epoch_key(np.array([epoch])), block)
        place = begin + permute(place - begin, end - begin, key)
        slot = np.searchsorted(starts, place, side="right") - 1
        return self._shard_units[shards[slot]] + place - starts[slot]

    def _shard_order(self, epoch: int) -> tuple[Int64Array, Int64Array]:
        """Shards as this epoch visits them and the place where each begins; a few are kept."""
        if epoch not in self._epochs:
            count = len(self._shard_units) - 1
            key = hash64(self._epoch_key(np.array([epoch])), 0xB10C)
            shards = permute(np.arange(count), count, key)
            sizes = np.diff(self._shard_units)[shards]
            starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
            self._epochs[epoch] = (shards, starts)
            while len(self._epochs) > _EPOCHS_HELD:
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(epoch)
        return self._epochs[epoch]

    def _epoch_key(self, epoch: Int64Array) -> Uint64Array:
        return hash64(self._key, epoch)
