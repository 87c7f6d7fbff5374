"""Which clips might be near-duplicates: those that share a code and roughly agree where it is.

Whether two clips become a candidate depends on these two alone: comparing new clips with old ones
finds what comparing all with all would find. Codes lie in temporary files and are taken into
memory a part at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.runner import available_cpus

from .codes import KINDS, NUM_TABLES, TABLES_AT_ONCE, Code, Found, Group, blocks
from .matching import Places, roughly_alike
from .prints import Fingerprints
from .shelf import Records, Shelf, hits

Pairs = NDArray[np.int64]
"""(pairs, 2): positions of two clips, the smaller first, each pair once, in order."""

Keys = dict[bool, NDArray[np.int64]]
"""Pairs as smaller position x clips + larger, in order, by whether one is mirrored."""

log = logging.getLogger(__name__)

Given = TypeVar("Given")
Result = TypeVar("Result")

_NO_KEYS = np.empty(0, np.int64)


def candidate_pairs(prints: Fingerprints, is_new: NDArray[np.bool_]) -> tuple[Pairs, Pairs]:
    """Pairs of clips, at least one of them new, that may show the same.

    Time grows with the number of steps and with that of places that share a code; all CPUs work.

    Returns:
        Pairs as they are, and pairs of which one is mirrored.
    """
    found: Keys = {False: _NO_KEYS, True: _NO_KEYS}
    kind_of = np.searchsorted([code.min_steps for code in KINDS], np.diff(prints.starts), "right")
    for number, code in enumerate(KINDS, start=1):
        fits, is_longer = kind_of == number, kind_of > number
        # Pairs of two clips that this kind fits, or of one and a longer one; one of them new.
        sides = (fits, (fits | is_longer) & is_new), (fits & is_new, is_longer & ~is_new)
        for stored, asked in sides:
            if stored.any() and asked.any():
                search = _Search(prints=prints, code=code, stored=stored, asked=asked)
                found = search.add_to(found)
    size = max(len(prints), 1)
    plain, flipped = (np.stack([keys // size, keys % size], axis=1) for keys in found.values())
    return plain, flipped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Pairs of a stored and another, asked clip by one kind of codes."""

    prints: Fingerprints
    code: Code
    stored: NDArray[np.bool_]
    asked: NDArray[np.bool_]

    def add_to(self, found: Keys) -> Keys:
        """The pairs found so far and those that this search finds."""
        with ThreadPoolExecutor(available_cpus()) as pool:
            for first_table in range(0, NUM_TABLES, TABLES_AT_ONCE):
                with ExitStack() as files:
                    shelves = self._filed(first_table, pool=pool, files=files)
                    found = self._joined(*shelves, found=found, pool=pool)
        log.info(
            "near-duplicates: codes of %d changes searched, %d candidates so far",
            len(self.code.offsets),
            sum(map(len, found.values())),
        )
        return found

    def _filed(
        self, first_table: int, *, pool: ThreadPoolExecutor, files: ExitStack
    ) -> tuple[Shelf, Shelf]:
        """Codes of the stored and of the asked clips in one group of tables."""
        chosen = self.stored | self.asked
        num_records = int(np.diff(self.prints.starts)[chosen].sum())
        stored = asked = Shelf(TABLES_AT_ONCE, num_records, files=files)
        if (self.stored != self.asked).any():
            asked = Shelf(TABLES_AT_ONCE, num_records, files=files)
        group = Group.of(self.code, first_table)

        def codes(block: tuple[int, int]) -> Found:
            return group.codes(self.prints, *block, chosen)

        wanted = (block for block in blocks(self.prints.starts) if chosen[slice(*block)].any())
        for some in _ahead(pool, codes, wanted):
            stored.add(some, self.stored[some.clips])
            if asked is not stored:
                asked.add(some, self.asked[some.clips])
        return stored, asked

    def _joined(
        self, stored: Shelf, asked: Shelf, *, found: Keys, pool: ThreadPoolExecutor
    ) -> Keys:
        joins = [
            (is_mirrored, table, part)
            for table in range(TABLES_AT_ONCE)
            for part in range(stored.num_parts)
            for is_mirrored in (False, True)
        ]

        def join(what: tuple[bool, int, int]) -> NDArray[np.int64]:
            is_mirrored, table, part = what
            other = (table + TABLES_AT_ONCE // 2) % TABLES_AT_ONCE if is_mirrored else table
            records = stored.take(table, part)
            is_same = asked is stored and other == table
            queries = records if is_same else asked.take(other, part)
            return self._pairs(records, queries, known=found[is_mirrored], is_mirrored=is_mirrored)

        keys = {is_mirrored: [known] for is_mirrored, known in found.items()}
        for (is_mirrored, _, _), new in zip(joins, _ahead(pool, join, joins), strict=True):
            keys[is_mirrored].append(new)
        return {flag: np.unique(np.concatenate(some)) for flag, some in keys.items()}

    def _pairs(
        self, stored: Records, asked: Records, *, known: NDArray[np.int64], is_mirrored: bool
    ) -> NDArray[np.int64]:
        """Keys of pairs that share a code and roughly agree there, without those known."""
        new = [_NO_KEYS]
        for ours, theirs in hits(asked, stored):
            one, two = self.prints.clip_of(ours), self.prints.clip_of(theirs)
            # A pair of clips that are both asked and stored is found from both sides.
            is_twice = self.stored[one] & self.asked[two]
            keys = np.minimum(one, two) * len(self.prints) + np.maximum(one, two)
            rest = np.flatnonzero(((one < two) | (~is_twice & (one != two))) & ~_is_in(keys, known))
            agree = roughly_alike(
                self.prints,
                Places(ours[rest], one[rest]),
                Places(theirs[rest], two[rest]),
                is_mirrored=is_mirrored,
            )
            new.append(np.unique(keys[rest[agree]]))
        return np.unique(np.concatenate(new))


def _is_in(keys: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which keys are among those known, which are in order."""
    where = np.searchsorted(known, keys)
    is_known: NDArray[np.bool_] = np.append(known, -1)[where] == keys
    return is_known


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Given], Result], items: Iterable[Given]
) -> Iterator[Result]:
    """Results in order, a few of them worked out ahead, so that memory stays bounded."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * available_cpus():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
