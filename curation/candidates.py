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

NUM_BITS = 28
LAG_STEPS = 3
"""A change is the difference between pictures three quarters of a second apart."""

MIN_CHANGE_LUMA = 2.0
"""Root mean square over the fields below which a change gives no code."""

MIN_AGREEMENT = 0.85
"""Correlation of two changes of one code, below which the code agreed by chance."""

MIN_LONG_STEPS = 24
"""Pairs of clips no shorter are found by codes of three changes, all others by codes of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a code is made of.

    Attributes:
        offsets: Steps at which its changes begin: several tell far more clips apart than one.
        num_tables: Codes per step; clips that share any one of them are looked at.
    """

    offsets: tuple[int, ...]
    num_tables: int

    @property
    def num_steps(self) -> int:
        """Steps after the first that a code looks at."""
        return self.offsets[-1] + LAG_STEPS


ONE_CHANGE = Code(offsets=(0,), num_tables=24)
THREE_CHANGES = Code(offsets=(0, 2, 4), num_tables=12)
CODES = (ONE_CHANGE.offsets, ONE_CHANGE.num_tables, THREE_CHANGES.offsets, THREE_CHANGES.num_tables)

_TABLES_AT_ONCE = 4
_STEPS_AT_ONCE = 1 << 14
_HITS_AT_ONCE = 1 << 15
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

    def changes(
        self, steps: NDArray[np.int64], code: Code, *, is_mirrored: bool = False
    ) -> NDArray[np.float32]:
        """What changes from each step on, spatial mean out, times 48: (steps, changes x 48).

        Whole numbers below 2^24 / 144: sums of them are exact, the same on every machine.

        Args:
            steps: Positions whose clip goes on for `code.num_steps`.
            code: Which changes.
            is_mirrored: Exchange left and right.
        """
        found = np.empty((len(steps), len(code.offsets), NUM_FIELDS), np.float32)
        for index, offset in enumerate(code.offsets):
            change = self.steps[steps + (offset + LAG_STEPS)].astype(np.float32)
            change -= self.steps[steps + offset]
            found[:, index] = NUM_FIELDS * change - change.sum(axis=1, keepdims=True)
        if is_mirrored:
            fields = found.reshape(len(steps), len(code.offsets), FIELD_ROWS, FIELD_COLUMNS)
            found = np.ascontiguousarray(fields[..., ::-1])
        return found.reshape(len(steps), len(code.offsets) * NUM_FIELDS)

    def telling_steps(self, code: Code, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Steps from which the picture changes enough to give a code, of the chosen clips."""
        found = [np.empty(0, np.int64)]
        floor = len(code.offsets) * NUM_FIELDS * (NUM_FIELDS * MIN_CHANGE_LUMA) ** 2
        last = len(self.steps) - code.num_steps
        for start in range(0, last, _STEPS_AT_ONCE):
            steps = np.arange(start, min(start + _STEPS_AT_ONCE, last), dtype=np.int64)
            clips = self.clip_of(steps)
            steps = steps[chosen[clips] & (clips == self.clip_of(steps + code.num_steps))]
            change = self.changes(steps, code).astype(np.float64)
            found.append(steps[(change * change).sum(axis=1) >= floor])
        return np.concatenate(found)


Pairs = NDArray[np.int64]
"""(pairs, 2): positions of two clips, the smaller first, each pair once, in order."""


def candidate_pairs(prints: Fingerprints, is_new: NDArray[np.bool_]) -> tuple[Pairs, Pairs]:
    """Pairs of clips, at least one of them new, that may show the same.

    Time and memory grow with the number of steps, and with the pairs that share a code.

    Returns:
        Pairs as they are, and pairs of which one is mirrored.
    """
    is_short = np.diff(prints.starts) < MIN_LONG_STEPS
    searches = [
        (THREE_CHANGES, ~is_short, ~is_short & is_new),
        (ONE_CHANGE, is_short, is_new),
        (ONE_CHANGE, is_short & is_new, ~is_new),
    ]
    found: dict[bool, list[NDArray[np.int64]]] = {False: [], True: []}
    for code, stored, asked in searches:
        if stored.any() and asked.any():
            for is_mirrored, some in _search(prints, code, stored, asked).items():
                found[is_mirrored].append(some)
    size = max(len(prints), 1)
    plain, flipped = (np.unique(np.concatenate([_NO_KEYS, *keys])) for keys in found.values())
    return np.stack([plain // size, plain % size], 1), np.stack(
        [flipped // size, flipped % size], 1
    )


_NO_KEYS = np.empty(0, np.int64)


def _search(
    prints: Fingerprints, code: Code, stored: NDArray[np.bool_], asked: NDArray[np.bool_]
) -> dict[bool, NDArray[np.int64]]:
    """Pairs of a stored and another, asked clip, as keys, by whether one is mirrored."""
    steps = prints.telling_steps(code, stored | asked)
    clips = prints.clip_of(steps)
    is_stored, is_asked = stored[clips], asked[clips]
    # A pair of clips that are both asked and stored is found from both sides: one is enough.
    both = stored & asked
    found = {False: _NO_KEYS, True: _NO_KEYS}
    for first_table in range(0, code.num_tables, _TABLES_AT_ONCE):
        codes = _codes(prints, steps, code, first_table)
        for table in range(_TABLES_AT_ONCE):
            where, sorted_codes = _sorted(codes[table], clips, is_stored)
            for is_mirrored in found:
                other = (table + _TABLES_AT_ONCE // 2) % _TABLES_AT_ONCE if is_mirrored else table
                which, wanted = _sorted(codes[other], clips, is_asked)
                new = [found[is_mirrored]]
                for hits in _hits(sorted_codes, wanted):
                    one, two = which[hits[0]], where[hits[1]]
                    is_first = ~(both[clips[one]] & both[clips[two]]) | (clips[one] < clips[two])
                    usable = is_first & (clips[one] != clips[two])
                    pairs = steps[one[usable]], steps[two[usable]]
                    new.append(_agreeing(prints, code, *pairs, found[is_mirrored], is_mirrored))
                found[is_mirrored] = np.unique(np.concatenate(new))
    return found


def _planes(code: Code, first_table: int) -> NDArray[np.float32]:
    """Directions of projection: (changes x 48, tables x bits), +1 or -1, the same everywhere.

    The second half of the tables is the first with left and right exchanged: there a clip has the
    codes that its mirrored twin has in the first half, and the other way round.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED + first_table))
    shape = len(code.offsets), FIELD_ROWS, FIELD_COLUMNS, _TABLES_AT_ONCE // 2 * NUM_BITS
    half = rng.integers(0, 2, shape).astype(np.float32) * 2 - 1
    return np.concatenate([half, half[:, :, ::-1]], axis=3).reshape(
        len(code.offsets) * NUM_FIELDS, -1
    )


def _codes(
    prints: Fingerprints, steps: NDArray[np.int64], code: Code, first_table: int
) -> NDArray[np.uint32]:
    """Codes of the changes at some steps, (tables, steps)."""
    planes = _planes(code, first_table)
    codes = np.empty((_TABLES_AT_ONCE, len(steps)), np.uint32)
    for start in range(0, len(steps), _STEPS_AT_ONCE):
        chosen = steps[start : start + _STEPS_AT_ONCE]
        signs = (prints.changes(chosen, code) @ planes) > 0
        bits = np.packbits(signs.reshape(len(chosen), _TABLES_AT_ONCE, NUM_BITS), axis=2)
        codes[:, start : start + len(chosen)] = bits.view(">u4")[..., 0].T
    return codes


def _sorted(
    codes: NDArray[np.uint32], clips: NDArray[np.int32], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Where the chosen codes lie, by code, each once per clip; and these codes."""
    order = np.flatnonzero(chosen)
    order = order[np.argsort(codes[order], kind="stable")]
    values, owners = codes[order], clips[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    return order[is_first], values[is_first]


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
    code: Code,
    asked: NDArray[np.int64],
    stored: NDArray[np.int64],
    known: NDArray[np.int64],
    is_mirrored: bool,
) -> NDArray[np.int64]:
    """Pairs of clips, as smaller position x clips + larger, whose changes really agree."""
    first, second = prints.clip_of(asked).astype(np.int64), prints.clip_of(stored).astype(np.int64)
    keys = np.minimum(first, second) * len(prints) + np.maximum(first, second)
    is_unknown = ~np.isin(keys, known)
    asked, stored, keys = asked[is_unknown], stored[is_unknown], keys[is_unknown]
    one = prints.changes(asked, code, is_mirrored=is_mirrored).astype(np.float64)
    other = prints.changes(stored, code).astype(np.float64)
    products = (one * other).sum(axis=1)
    scale = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    return np.unique(keys[products >= MIN_AGREEMENT * scale])
