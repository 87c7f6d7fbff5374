"""Codes in temporary files, by table and by their first bits, and the places that share one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from .codes import Found

Records = NDArray[np.uint64]
"""A code and a step, 32 bits each, in order."""

MAX_STEPS = 1 << 32
"""A step has 32 bits: 300,000 hours of footage."""

_PART_RECORDS = 1 << 22
"""About so many records are in memory at a time, for each thread: about 200 MB."""

_MAX_PARTS = 64
"""Of each table; every part is an open file."""

_HITS_AT_ONCE = 1 << 12
_READ_BYTES = 1 << 30
_STEP_BITS, _STEP_MASK = np.uint64(32), np.uint64(MAX_STEPS - 1)
_NO_CODE = np.uint64(MAX_STEPS)


class Shelf:
    """Records of some tables, 8 bytes each; its files go when `files` closes.

    A code that a clip has for several steps on end is kept once.
    """

    def __init__(self, num_tables: int, num_records: int, *, files: ExitStack) -> None:
        num_bits = max(0, (num_records // _PART_RECORDS).bit_length())
        self.num_parts = min(1 << num_bits, _MAX_PARTS)
        limits = np.arange(1, self.num_parts, dtype=np.uint64)
        self._limits = limits << np.uint64(65 - self.num_parts.bit_length())
        self._files = [
            [files.enter_context(TemporaryFile()) for _ in range(self.num_parts)]  # noqa: SIM115
            for _ in range(num_tables)
        ]

    def add(self, found: Found, chosen: NDArray[np.bool_]) -> None:
        """File the codes of the chosen ones of some steps."""
        clips, steps = found.clips[chosen], found.steps[chosen].astype(np.uint64)
        for files, of_table in zip(self._files, found.codes, strict=True):
            codes = of_table[chosen]
            is_first = np.ones(len(codes), bool)
            is_first[1:] = (codes[1:] != codes[:-1]) | (clips[1:] != clips[:-1])
            records = codes[is_first].astype(np.uint64) << _STEP_BITS | steps[is_first]
            records.sort()
            parts = np.split(records, np.searchsorted(records, self._limits))
            for file, part in zip(files, parts, strict=True):
                file.write(part.tobytes())

    def take(self, table: int, part: int) -> Records:
        """Records of a table, those whose codes begin with the bits of a part; from any thread."""
        file = self._files[table][part]
        file.flush()
        length = os.fstat(file.fileno()).st_size
        # Not `read`, which shares one position between threads; Linux reads up to 2 GB at once.
        starts = range(0, length, _READ_BYTES)
        words = b"".join(os.pread(file.fileno(), _READ_BYTES, start) for start in starts)
        assert len(words) == length
        return np.sort(np.frombuffer(words, np.uint64)) if words else np.empty(0, np.uint64)


def hits(asked: Records, stored: Records) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Steps of asked and of stored records that have the same code, some at a time."""
    wanted, codes = asked >> _STEP_BITS, stored >> _STEP_BITS
    low = np.searchsorted(codes, wanted, side="left")
    is_shared = np.append(codes, _NO_CODE)[low] == wanted
    wanted, low = wanted[is_shared], low[is_shared]
    counts = np.searchsorted(codes, wanted, side="right") - low
    asked_steps, stored_steps = _steps(asked[is_shared]), _steps(stored)
    ends = np.cumsum(counts)
    for start in range(0, int(ends[-1]) if len(ends) else 0, _HITS_AT_ONCE):
        numbers = np.arange(start, min(start + _HITS_AT_ONCE, int(ends[-1])))
        which = np.searchsorted(ends, numbers, side="right")
        within = numbers - (ends[which] - counts[which])
        yield asked_steps[which], stored_steps[low[which] + within]


def _steps(records: Records) -> NDArray[np.int64]:
    return (records & _STEP_MASK).astype(np.int64)
