"""Which files of a table belong to which of its versions, and what removing dead files costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from . import storage, tables
from .locations import Location, location, matches


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
    dead = list(_dead_files(path, grace_s=grace_s))
    versions = lost_versions(path, (file.name for file in dead))
    num_bytes = sum(file.stat().st_size for file in dead)
    for file in dead:
        storage.remove(file)
    return Vacuumed(num_files=len(dead), num_bytes=num_bytes, versions=versions)


def lost_versions(path: Location, names: Iterable[str] | None = None) -> tuple[int, ...]:
    """Versions that can be opened now and could not be once some files are gone.

    Args:
        path: The table's folder.
        names: The files; None: all but those of a newest version that merged all files into one.
    """
    newest = tables.open_table(path)
    current = newest.version()
    lives = _lives(path)
    if names is None:
        is_merged = len(tables.live_files(newest)) > 1
        live = set() if is_merged else _names(tables.live_files(newest))
        names = {name for name, _, _ in lives} - live
        current = current + 1 if is_merged else current
    doomed = set(names)
    present = {file.name for file in path.glob("*.parquet")}
    will_be, are = set[int](), set[int]()
    for name, added, removed in lives:
        span = range(added, current if removed is None else removed)
        if name not in present:
            are.update(span)
        elif name in doomed:
            will_be.update(span)
    return tuple(sorted(will_be - are))


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers in words: `0-4, 7`."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in groups)


def _dead_files(path: Location, *, grace_s: float) -> Iterator[Location]:
    live = _names(tables.live_files(tables.open_table(path)))
    logged = {name for name, _, _ in _lives(path)}
    youngest = time.time() - grace_s
    for file in matches(path, "*.parquet"):
        is_committed = file.name in logged
        if file.name not in live and (is_committed or file.stat().st_mtime <= youngest):
            yield file


def _lives(path: Location) -> list[tuple[str, int, int | None]]:
    """(file, first version with it, first version without it or None) from the whole log."""
    begun: dict[str, int] = {}
    lives: list[tuple[str, int, int | None]] = []
    for commit in matches(path / "_delta_log", "*.json"):
        if not commit.stem.isdigit():
            continue
        version = int(commit.stem)
        for line in commit.read_text(encoding="utf-8").splitlines():
            action = json.loads(line)
            if "remove" in action:
                name = unquote(action["remove"]["path"])
                if name in begun:
                    lives.append((name, begun.pop(name), version))
            if "add" in action:
                begun[unquote(action["add"]["path"])] = version
    return [*lives, *((name, version, None) for name, version in begun.items())]


def _names(files: Iterable[str]) -> set[str]:
    return {location(file).name for file in files}
