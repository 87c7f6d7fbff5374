"""Where files of a dataset lie: a local `Path`, or an `ObjectPath` with the same few methods.

Code that takes a `Location` joins, lists and reads without asking which it is. What must be written
whole goes through `manifests.storage`.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from . import object_store
from .errors import DatasetError

_REMOTE = re.compile(r"(s3|gs|az)://")
_MAGIC = re.compile(r"[*?\[]")
_MANGLED = re.compile(r"(s3|gs|az):/[^/]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """Size and time of an object, named as `os.stat` does."""

    st_size: int
    st_mtime: float


@total_ordering
class ObjectPath:
    """A place in object storage, `s3://bucket/key`, that reads like a `pathlib.Path`.

    It is no `os.PathLike`: what needs a local file says so at once. Folders exist only by what is
    in them.

    Example:
        >>> (ObjectPath("s3://bucket/ds") / "shards" / "clips-000000.tar").name
        'clips-000000.tar'
    """

    __slots__ = ("_path", "_root")

    def __init__(self, uri: str) -> None:
        """Takes a whole URI; empty and dot segments are refused."""
        self._root, key = object_store.split(uri)
        self._path = PurePosixPath("/", key)
        if not self._root.partition("://")[2] or {"..", "."} & set(key.split("/")) or "//" in key:
            raise DatasetError(f"{uri} is no place in a bucket.", hint="Write s3://bucket/folder.")

    def __str__(self) -> str:
        return f"{self._root}{self._path}".rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __reduce__(self) -> tuple[type[ObjectPath], tuple[str]]:
        return ObjectPath, (str(self),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return self._at(self._path / name)

    @property
    def name(self) -> str:
        """The last part; the bucket's name at its root."""
        return self._path.name or self._root.partition("://")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The last suffix, with its dot."""
        return self._path.suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder it lies in."""
        return self._at(self._path.parent)

    @property
    def key(self) -> str:
        """The name within the bucket."""
        return str(self._path).lstrip("/")

    def with_name(self, name: str) -> ObjectPath:
        """A neighbour of another name."""
        return self._at(self._path.with_name(name))

    def with_suffix(self, suffix: str) -> ObjectPath:
        """A neighbour of another suffix."""
        return self._at(self._path.with_suffix(suffix))

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """The way from a folder above."""
        return self._path.relative_to(other._path)

    def expanduser(self) -> ObjectPath:
        """Itself."""
        return self

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def resolve(self) -> ObjectPath:
        """Itself: object storage has no links."""
        return self

    def is_file(self) -> bool:
        """Whether there is such an object."""
        if not self.key:
            return False
        try:
            object_store.info(str(self))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether anything lies below it."""
        return next(object_store.listed(str(self)), None) is not None

    def exists(self) -> bool:
        """Whether it is an object or a folder with something in it."""
        return self.is_file() or self.is_dir()

    def stat(self) -> ObjectStat:
        """Size and time.

        Raises:
            FileNotFoundError: There is no such object.
        """
        found = object_store.info(str(self))
        return ObjectStat(st_size=found.size, st_mtime=found.modified_s)

    def iterdir(self) -> Iterator[ObjectPath]:
        """Folders and objects directly in it."""
        folders, objects = object_store.children(str(self))
        yield from (self / name for name in folders)
        yield from (self / found.key.rpartition("/")[2] for found in objects)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Places below it that match, part by part; `**` stands for any number of folders.

        Only folders that match are listed. A pattern that ends in a name gives objects; folders
        are given only along the way.
        """
        first, _, rest = pattern.partition("/")
        if first == "**":
            yield from self._glob_everywhere(pattern.split("/"))
        elif not _MAGIC.search(first):
            place = self / first
            yield from place.glob(rest) if rest else filter(ObjectPath.exists, [place])
        elif rest:
            for name in object_store.children(str(self))[0]:
                if fnmatch.fnmatchcase(name, first):
                    yield from (self / name).glob(rest)
        else:
            yield from (place for place in self.iterdir() if fnmatch.fnmatchcase(place.name, first))

    def _glob_everywhere(self, wanted: list[str]) -> Iterator[ObjectPath]:
        seen: set[ObjectPath] = set()
        for found in self.rglob("*"):
            parts = found.relative_to(self).parts
            for length in range(1, len(parts) + 1):
                place = self._at(self._path.joinpath(*parts[:length]))
                if place not in seen and _fits(parts[:length], wanted):
                    seen.add(place)
                    yield place

    def beginning_with(self, name: str) -> Iterator[ObjectPath]:
        """Objects directly in it whose names begin so, by name; a request per thousand of them."""
        start = f"{self.key}/{name}".lstrip("/")
        for found in object_store.listed(str(self), after=start[:-1]):
            if found.key.startswith(start):
                if "/" not in found.key[len(start) :]:
                    yield self._at(PurePosixPath("/", found.key))
            elif found.key > start:
                break

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Objects at any depth whose name matches."""
        for found in object_store.listed(str(self)):
            place = self._at(PurePosixPath("/", found.key))
            if fnmatch.fnmatchcase(place.name, pattern):
                yield place

    def read_bytes(self) -> bytes:
        """All its bytes.

        Raises:
            FileNotFoundError: There is no such object.
        """
        return object_store.get(str(self))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All its text."""
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream to read from anywhere in it."""
        if mode != "rb":
            raise ValueError(f"objects are opened to read bytes, not as {mode!r}")
        return object_store.reader(str(self))

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove it; one that is not there is fine."""
        object_store.delete(str(self))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something lies in it."""

    def _at(self, path: PurePosixPath) -> ObjectPath:
        return ObjectPath(f"{self._root}{path}")


Location = Path | ObjectPath


def is_remote(uri: str | Location) -> bool:
    """Whether a path is an object-storage URI."""
    return bool(_REMOTE.match(str(uri)))


def location(value: str | Location) -> Location:
    """A path as it was given: an `ObjectPath` for a URI, else a `Path`.

    Raises:
        DatasetError: A URI that went through `pathlib` and lost a slash.
    """
    if isinstance(value, ObjectPath):
        return value
    text = str(value)
    if _MANGLED.match(text):
        raise DatasetError(
            f"{text} is no URI: it lost a slash.", hint="Give s3://bucket/folder as text."
        )
    return ObjectPath(text) if is_remote(text) else Path(value)


def below(path: Location, folder: Location) -> str:
    """The way from a folder to something in it, with slashes."""
    return str(path).removeprefix(str(folder)).lstrip("/")


def matches(folder: Location, pattern: str) -> list[Location]:
    """What matches a pattern below a folder, sorted; nothing when the folder is not there."""
    found: Iterable[Any] = folder.glob(pattern)
    return sorted(found)


def names_in(folder: Location) -> list[str]:
    """Names of what lies directly in a folder; nothing when it is not there."""
    if isinstance(folder, ObjectPath):
        return [entry.name for entry in folder.iterdir()]
    return os.listdir(folder) if folder.is_dir() else []


def _fits(parts: tuple[str, ...], wanted: list[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_fits(parts[skip:], wanted[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])
