"""Which clips might be near-duplicates: those that share a short code of how the picture changes.

The codes are signs of fixed projections, so whether two clips become a candidate depends on these
two alone: comparing new clips with old ones finds what comparing all with all would find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .fingerprint import FIELD_COLUMNS, FIELD_ROWS, NUM_FIELDS

NUM_TABLES = 24
NUM_BITS = 28
LAG_STEPS = 3
"""A change is the difference between pictures three quarters of a second apart."""

MIN_CHANGE_LUMA = 2.0
"""Root mean square over the fields below which a change gives no code."""

MIN_AGREEMENT = 0.85
"""Correlation of two changes of one code, below which the code agreed by chance."""

_TABLES_AT_ONCE = 4
_STEPS_AT_ONCE = 1 << 15
_HITS_AT_ONCE = 1 << 16
_SEED = 20260207


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """Fingerprints of many clips, end to end.

    Attributes:
        steps: uint8 (steps, 48).
        starts: int64 (clips + 1,): clip i has the steps starts[i] to starts[i + 1].
    """

    steps: NDArray[np.uint8]
    starts: NDArray[np.int64]
    _clip_of_step: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        clip_of_step = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))
        object.__setattr__(self, "_clip_of_step", clip_of_step)

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

    def clip_of(self, steps: NDArray[np.int64]) -> NDArray[np.int32]:
        """The clip that each step belongs to."""
        return self._clip_of_step[steps]

    def changes(self, steps: NDArray[np.int64], *, is_mirrored: bool = False) -> NDArray[np.int32]:
        """What changes from each step to `LAG_STEPS` later, spatial mean out, times 48, exact.

        Args:
            steps: Positions whose clip goes on for `LAG_STEPS`.
            is_mirrored: Exchange left and right.
        """
        later = self.steps[steps + LAG_STEPS].astype(np.int32)
        change = later - self.steps[steps]
        change = NUM_FIELDS * change - change.sum(axis=1, keepdims=True)
        if is_mirrored:
            change = change.reshape(-1, FIELD_ROWS, FIELD_COLUMNS)[:, :, ::-1]
        plain: NDArray[np.int32] = change.reshape(-1, NUM_FIELDS)
        return plain

    def telling_steps(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Steps from which the picture changes enough to give a code, of the chosen clips."""
        found = []
        floor = NUM_FIELDS * (NUM_FIELDS * MIN_CHANGE_LUMA) ** 2
        for start in range(0, len(self.steps) - LAG_STEPS, _STEPS_AT_ONCE):
            stop = min(start + _STEPS_AT_ONCE, len(self.steps) - LAG_STEPS)
            steps = np.arange(start, stop, dtype=np.int64)
            clips = self.clip_of(steps)
            usable = clips == self.clip_of(steps + LAG_STEPS)
            if chosen is not None:
                usable &= chosen[clips]
            steps = steps[usable]
            change = self.changes(steps).astype(np.float64)
            found.append(steps[(change * change).sum(axis=1) >= floor])
        return np.concatenate([np.empty(0, np.int64), *found])


Pairs = NDArray[np.int64]
"""(pairs, 2): positions of two clips, the smaller first, each pair once, in order."""


def candidate_pairs(prints: Fingerprints, is_new: NDArray[np.bool_]) -> tuple[Pairs, Pairs]:
    """Pairs of clips, at least one of them new, that may show the same.

    Returns:
        Pairs as they are, and pairs of which one is mirrored.
    """
    if not is_new.any():
        return np.empty((0, 2), np.int64), np.empty((0, 2), np.int64)
    everywhere, asked = prints.telling_steps(), prints.telling_steps(is_new)
    found: dict[bool, list[NDArray[np.int64]]] = {False: [], True: []}
    where = np.searchsorted(everywhere, asked)
    for first_table in range(0, NUM_TABLES, _TABLES_AT_ONCE):
        stored = _codes(prints, everywhere, _planes(first_table))
        for is_mirrored, keys in found.items():
            queries = np.roll(stored, _TABLES_AT_ONCE // 2, axis=0) if is_mirrored else stored
            queries = queries[:, where]
            for table in range(_TABLES_AT_ONCE):
                order = np.argsort(stored[table], kind="stable")
                for hits in _hits(stored[table][order], queries[table]):
                    pairs = asked[hits[0]], everywhere[order[hits[1]]]
                    keys.append(_agreeing(prints, *pairs, is_mirrored=is_mirrored))
            keys[:] = [np.unique(np.concatenate([np.empty(0, np.int64), *keys]))]
    size = max(len(prints), 1)
    plain, flipped = (np.stack([k[0] // size, k[0] % size], axis=1) for k in found.values())
    return plain, flipped


def _planes(first_table: int) -> NDArray[np.float64]:
    """Directions of projection: (48, tables x bits), +1 or -1, the same everywhere.

    The second half of the tables is the first with left and right exchanged: there a clip has the
    codes that its mirrored twin has in the first half, and the other way round.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED + first_table))
    shape = FIELD_ROWS, FIELD_COLUMNS, _TABLES_AT_ONCE // 2 * NUM_BITS
    half = rng.integers(0, 2, shape).astype(np.float64) * 2 - 1
    return np.concatenate([half, half[:, ::-1]], axis=2).reshape(NUM_FIELDS, -1)


def _codes(
    prints: Fingerprints, steps: NDArray[np.int64], planes: NDArray[np.float64]
) -> NDArray[np.uint32]:
    """Codes of the changes at some steps, (tables, steps)."""
    codes = np.empty((_TABLES_AT_ONCE, len(steps)), np.uint32)
    weights = (1 << np.arange(NUM_BITS)).astype(np.uint32)
    for start in range(0, len(steps), _STEPS_AT_ONCE):
        chosen = steps[start : start + _STEPS_AT_ONCE]
        # Whole numbers in float64: exact, so the signs are the same on every machine.
        signs = (prints.changes(chosen).astype(np.float64) @ planes) > 0
        bits = signs.reshape(len(chosen), _TABLES_AT_ONCE, NUM_BITS)
        codes[:, start : start + len(chosen)] = (bits * weights).sum(axis=2, dtype=np.uint32).T
    return codes


def _hits(
    stored: NDArray[np.uint32], queries: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions in `queries` and in sorted `stored` that hold the same code, some at a time."""
    low = np.searchsorted(stored, queries, side="left")
    counts = np.searchsorted(stored, queries, side="right") - low
    ends = np.cumsum(counts)
    start = 0
    while start < len(queries):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _HITS_AT_ONCE, side="right")))
        chosen = counts[start:stop]
        which = np.repeat(np.arange(start, stop), chosen)
        within = np.arange(len(which)) - np.repeat(ends[start:stop] - chosen - done, chosen)
        yield which, low[which] + within
        start = stop


def _agreeing(
    prints: Fingerprints,
    asked: NDArray[np.int64],
    stored: NDArray[np.int64],
    *,
    is_mirrored: bool,
) -> NDArray[np.int64]:
    """Pairs of clips, as smaller position x clips + larger, whose changes really agree."""
    first, second = prints.clip_of(asked), prints.clip_of(stored)
    different = first != second
    asked, stored = asked[different], stored[different]
    one = prints.changes(asked, is_mirrored=is_mirrored).astype(np.float64)
    other = prints.changes(stored).astype(np.float64)
    products = (one * other).sum(axis=1)
    scale = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    first, second = first[different].astype(np.int64), second[different].astype(np.int64)
    keys = np.minimum(first, second) * len(prints) + np.maximum(first, second)
    return np.unique(keys[products >= MIN_AGREEMENT * scale])
