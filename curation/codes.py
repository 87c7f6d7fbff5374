"""Short codes of what a clip shows and how it changes: copies share some, other footage hardly any.

A code looks at one or more changes within a few seconds and at the picture in the middle of them.
Its bits are signs of fixed projections of whole numbers, so they are the same on every machine and
depend on the clip alone. The picture tells rooms apart, the changes tell what happens there; the
more changes a code looks at, the less often two takes of the same thing agree by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fingerprint import FIELD_COLUMNS, FIELD_ROWS, NUM_FIELDS
from .prints import Fingerprints

NUM_CHANGE_BITS = 24
NUM_PICTURE_BITS = 8
NUM_BITS = NUM_CHANGE_BITS + NUM_PICTURE_BITS

NUM_TABLES = 24
"""Codes per step; clips that share any one of them are looked at."""

LAG_STEPS = 3
"""A change is the difference between pictures three quarters of a second apart."""

MIN_CHANGE_LUMA = 2.0
"""Root mean square over the fields below which a change gives no code."""

TABLES_AT_ONCE = 4
"""Tables of one group: the second half has the codes of mirrored pictures of the first half."""

_BLOCK_STEPS = 1 << 13
_ROWS_AT_ONCE = 32
_SEED = 20260207
_SMOOTHING = 4
"""What the sum of a step, itself again and its neighbours is larger than their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a code is made of.

    Attributes:
        min_steps: Clips no shorter have such codes.
        offsets: Steps at which its changes begin.
        num_telling: So many changes of `MIN_CHANGE_LUMA` must be among them, or as much in all.
    """

    min_steps: int
    offsets: tuple[int, ...]
    num_telling: int

    @property
    def num_steps(self) -> int:
        """Steps after the first that a code looks at."""
        return self.offsets[-1] + LAG_STEPS


ONE_CHANGE = Code(min_steps=1, offsets=(0,), num_telling=1)
THREE_CHANGES = Code(min_steps=16, offsets=(0, 2, 4), num_telling=3)
SIX_CHANGES = Code(min_steps=40, offsets=(0, 4, 8, 12, 16, 20), num_telling=3)
KINDS = (ONE_CHANGE, THREE_CHANGES, SIX_CHANGES)
"""Two clips are compared by the last of these that both are long enough for."""


class Found(NamedTuple):
    """Codes of some steps.

    Attributes:
        steps: int64 (steps,), in order: those from which the picture changes enough.
        clips: int64 (steps,): the clip of each.
        codes: uint32 (`TABLES_AT_ONCE`, steps).
    """

    steps: NDArray[np.int64]
    clips: NDArray[np.int64]
    codes: NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What gives the codes of one kind in one group of tables.

    Attributes:
        code: What the codes are made of.
        change: Directions of projection, +1 or -1: (changes, 48, tables x bits).
        picture: The same of pictures, (48, tables x bits).
    """

    code: Code
    change: NDArray[np.float32]
    picture: NDArray[np.float32]

    @classmethod
    def of(cls, code: Code, first_table: int) -> Group:
        """The group that begins with a table; the same everywhere."""
        rng = np.random.Generator(np.random.PCG64(_SEED + first_table))
        change = _planes(rng, len(code.offsets), NUM_CHANGE_BITS)
        picture = _planes(rng, 1, NUM_PICTURE_BITS)
        return cls(code=code, change=change, picture=picture[0])

    def codes(
        self, prints: Fingerprints, first: int, last: int, chosen: NDArray[np.bool_]
    ) -> Found:
        """Codes of those of the clips `first` to `last` (that one not) that are chosen."""
        starts, code = prints.starts[first : last + 1], self.code
        clips = np.repeat(np.arange(first, last), np.diff(starts))
        num_places = max(0, len(clips) - code.num_steps)
        pictures = _smoothed(prints.steps[starts[0] : starts[-1]], clips)
        changes = pictures[LAG_STEPS:] - pictures[:-LAG_STEPS]
        is_whole = clips[:num_places] == clips[len(clips) - num_places :]
        kept = np.flatnonzero(is_whole & chosen[clips[:num_places]] & _tells(changes, code))
        signs = np.empty((len(kept), TABLES_AT_ONCE, NUM_BITS), bool)
        starts_at = np.append(kept, np.zeros(-len(kept) % _ROWS_AT_ONCE, np.int64))
        products = np.zeros((len(starts_at), self.change.shape[2]), np.float32)
        for offset, planes in zip(code.offsets, self.change, strict=True):
            products += _product(changes[starts_at + offset], planes)
        tables = products[: len(kept)].reshape(len(kept), TABLES_AT_ONCE, NUM_CHANGE_BITS)
        signs[:, :, :NUM_CHANGE_BITS] = tables > 0
        products = _product(pictures[starts_at + code.num_steps // 2], self.picture)
        tables = products[: len(kept)].reshape(len(kept), TABLES_AT_ONCE, NUM_PICTURE_BITS)
        signs[:, :, NUM_CHANGE_BITS:] = tables > 0
        bits = np.packbits(signs, axis=2).view(">u4")[..., 0]
        return Found(starts[0] + kept, clips[kept], np.ascontiguousarray(bits.T, np.uint32))


def blocks(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of clips that together have about `_BLOCK_STEPS` steps."""
    first = 0
    while first < len(starts) - 1:
        end = np.searchsorted(starts, starts[first] + _BLOCK_STEPS, side="right") - 1
        yield first, max(first + 1, int(end))
        first = max(first + 1, int(end))


def _product(rows: NDArray[np.float32], planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows times planes, so few rows at a time that BLAS starts no threads: all CPUs work here."""
    parts = rows.reshape(-1, _ROWS_AT_ONCE, NUM_FIELDS) @ planes
    return parts.reshape(len(rows), planes.shape[1])


def _planes(rng: np.random.Generator, num_parts: int, num_bits: int) -> NDArray[np.float32]:
    """(parts, 48, tables x bits). Half of each is +1: what all fields share does not matter.

    The second half of the tables is the first with left and right exchanged: there a clip has the
    codes that its mirrored twin has in the first half, and the other way round.
    """
    shape = (num_parts, TABLES_AT_ONCE // 2 * num_bits, NUM_FIELDS)
    order = np.argsort(rng.integers(0, 1 << 62, shape), axis=2, kind="stable")
    half = np.where(order < NUM_FIELDS // 2, 1, -1).astype(np.float32).transpose(0, 2, 1)
    fields = half.reshape(num_parts, FIELD_ROWS, FIELD_COLUMNS, -1)
    both = np.concatenate([fields, fields[:, :, ::-1]], axis=3)
    return np.ascontiguousarray(both.reshape(num_parts, NUM_FIELDS, -1))


def _smoothed(steps: NDArray[np.uint8], clips: NDArray[np.int64]) -> NDArray[np.float32]:
    """Steps summed 1 2 1 over time within each clip, its ends repeated: whole numbers to 1,020.

    Sums of so few and small numbers are exact in float32.
    """
    plain = np.asarray(steps).astype(np.float32)
    before, after = np.roll(plain, 1, axis=0), np.roll(plain, -1, axis=0)
    is_edge = np.flatnonzero(clips[1:] != clips[:-1])
    firsts, lasts = np.append(is_edge + 1, 0), np.append(is_edge, len(clips) - 1)
    before[firsts], after[lasts] = plain[firsts], plain[lasts]
    smooth: NDArray[np.float32] = before + 2 * plain + after
    return smooth


def _tells(changes: NDArray[np.float32], code: Code) -> NDArray[np.bool_]:
    """Whether the changes of a code from each step on are large enough; all in whole numbers."""
    exact = changes.astype(np.float64)
    energy = NUM_FIELDS * (exact * exact).sum(axis=1) - exact.sum(axis=1) ** 2
    num_places = max(0, len(changes) - code.offsets[-1])
    total = np.zeros(num_places)
    for offset in code.offsets:
        total += energy[offset : offset + num_places]
    floor = code.num_telling * (NUM_FIELDS * _SMOOTHING * MIN_CHANGE_LUMA) ** 2
    telling: NDArray[np.bool_] = total >= floor
    return telling
