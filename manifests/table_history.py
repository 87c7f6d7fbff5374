"""Which files of a table belong to which of its versions, and what removing dead files costs."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from . import storage, tables
from .locations import Location, location, matches, names_in
from .storage import of_each

Life = tuple[str, int, int | None]
"""A data file, the first version with it, and the first without it again (None: it is there)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """What a vacuum took away.

    Attributes:
        num_files: Files removed.
        num_bytes: Their size.
        versions: Versions that could be opened before and cannot any more.
    """

    num_files: int
    num_bytes: int
    versions: tuple[int, ...]


def vacuum(path: Location, *, grace_s: float = 0.0) -> Vacuumed:
    """Remove every data file that the newest version does not use.

    Args:
        path: The table's folder.
        grace_s: Spare files of no commit that are younger: somebody may be about to commit them.
            Tables that are written without the lock need it.
    """
    lives = _lives(path)
    dead = list(_dead_files(path, lives, grace_s=grace_s))
    versions = _lost(path, lives, {f.name for f in dead}, tables.open_table(path).version())
    num_bytes = sum(file.stat().st_size for file in dead)
    for file in dead:
        storage.remove(file)
    return Vacuumed(num_files=len(dead), num_bytes=num_bytes, versions=versions)


def lost_versions(path: Location) -> tuple[int, ...]:
    """Versions that can be opened now and could not be after all files but those of a newest
    version, which merged all its files into one, were removed."""
    newest, lives = tables.open_table(path), _lives(path)
    current, live = newest.version(), _names(tables.live_files(newest))
    if len(live) > 1:
        current, live = current + 1, set()
    return _lost(path, lives, {name for name, _, _ in lives} - live, current)


def _lost(path: Location, lives: Sequence[Life], doomed: set[str], current: int) -> tuple[int, ...]:
    """Versions before the current one that are whole now and will not be without some files."""
    present = {name for name in names_in(path) if name.endswith(".parquet")}
    # Files that a version would lack or lacks already: up where one is added, down where it goes.
    will_lack, lacks = Counter[int](), Counter[int]()
    for name, added, removed in lives:
        counts = lacks if name not in present else will_lack if name in doomed else None
        if counts is not None:
            counts[added] += 1
            counts[current if removed is None else removed] -= 1
    return tuple(sorted(_above_zero(will_lack) - _above_zero(lacks)))


def _above_zero(steps: Mapping[int, int]) -> set[int]:
    """Whole numbers at which the sum of all steps up to them is above zero."""
    found: set[int] = set()
    edges = sorted(steps)
    sums = itertools.accumulate(steps[edge] for edge in edges)
    for (first, end), height in zip(itertools.pairwise(edges), sums, strict=False):
        if height > 0:
            found.update(range(first, end))
    return found


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers in words: `0-4, 7`."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in groups)


def _dead_files(path: Location, lives: Sequence[Life], *, grace_s: float) -> Iterator[Location]:
    live = _names(tables.live_files(tables.open_table(path)))
    logged = {name for name, _, _ in lives}
    youngest = time.time() - grace_s
    for file in matches(path, "*.parquet"):
        is_committed = file.name in logged
        if file.name not in live and (is_committed or file.stat().st_mtime <= youngest):
            yield file


def _lives(path: Location) -> list[Life]:
    """When each file was a part of the table, from the whole log."""
    begun: dict[str, int] = {}
    lives: list[Life] = []
    for version, text in _log(path):
        for line in text.splitlines():
            action = json.loads(line)
            if "remove" in action:
                name = unquote(action["remove"]["path"])
                if name in begun:
                    lives.append((name, begun.pop(name), version))
            if "add" in action:  # (twice where the answer to the first commit was lost)
                begun.setdefault(unquote(action["add"]["path"]), version)
    return [*lives, *((name, version, None) for name, version in begun.items())]


def _log(path: Location) -> Iterator[tuple[int, str]]:
    """Every commit as text, oldest first; of objects several are asked for at once."""
    commits = [c for c in matches(path / "_delta_log", "*.json") if c.stem.isdigit()]
    versions = (int(commit.stem) for commit in commits)
    return zip(versions, of_each(_text, commits), strict=True)


def _text(commit: Location) -> str:
    return commit.read_text(encoding="utf-8")


def _names(files: Iterable[str]) -> set[str]:
    return {location(file).name for file in files}
