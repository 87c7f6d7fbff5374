"""Where footage lies: a local file as it is, an object as a scratch copy.

The sidecars of an object are copied beside it, so that who reads them need not know.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from manifests import object_store
from manifests.errors import StorageError, UsageError
from manifests.locations import ObjectPath, is_remote
from manifests.scratch import scratch_file
from pipeline.flaky import SourceError

from .sidecars import ACTIONS_SUFFIX, CAPTION_SUFFIX, SPAN_SUFFIXES, find_sidecars

_SIDECAR_SUFFIXES = (CAPTION_SUFFIX, *SPAN_SUFFIXES, ACTIONS_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """An object met in a listing.

    Attributes:
        uri: `s3://bucket/key`.
        num_bytes: Its size.
        sidecars: Names of the sidecars beside it, when it is a video.
    """

    uri: str
    num_bytes: int
    sidecars: tuple[str, ...]


def uri_of(path: str | Path, *, is_resolved: bool = False) -> str:
    """The absolute resolved path as text; bytes that are not UTF-8 become `%XX`.

    In a name with such bytes a `%` becomes `%25`; other names stand as they are.

    Args:
        path: A path, or a URI, which stands as it is.
        is_resolved: The path is absolute and without links already.

    Raises:
        UsageError: Another file really has the name that this one would get.
    """
    if is_remote(path):
        return str(path)
    raw = os.fsencode(path if is_resolved else os.path.realpath(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", errors="surrogateescape")
        text = text.replace("%", "%25")
        uri = "".join(f"%{ord(c) - 0xDC00:02X}" if _is_escape(c) else c for c in text)
        if os.path.lexists(uri):
            raise UsageError(
                f"Two files would both be called {uri!r}: one has that name, the other has bytes "
                "in its place that are not UTF-8.",
                hint="Rename one of them.",
            ) from None
        return uri


def path_of(uri: str) -> Path:
    """The local file that `uri_of` named."""
    path = Path(uri)
    if "%" in uri and not path.exists():
        raw = Path(os.fsdecode(unquote_to_bytes(uri)))
        return raw if raw.exists() else path
    return path


@contextmanager
def on_disk(uri: str, *, sidecars: Sequence[str] | None = None) -> Iterator[Path]:
    """A video as a local file, with its sidecars beside it.

    An object is copied to scratch space for as long as the block runs: every byte is of one and
    the same version of it.

    Args:
        uri: The video.
        sidecars: Names of the sidecars beside an object, when a listing has told them.

    Raises:
        FileNotFoundError: There is no such object.
        SourceError: It cannot be read.
        StorageError: There is no scratch space for it.
    """
    if not is_remote(uri):
        yield path_of(uri)
        return
    place = ObjectPath(uri)
    with _from_storage():
        num_bytes = object_store.info(uri).size
    with scratch_file(place.name, num_bytes=num_bytes) as copy:
        with _from_storage():
            object_store.download(uri, copy)
            _fetch_sidecars(place, copy, sidecars)
        yield copy


@contextmanager
def _from_storage() -> Iterator[None]:
    """A storage that fails is no fact about a video; an object that is not there is one."""
    try:
        yield
    except StorageError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise SourceError(error.message, hint=error.hint) from error


@contextmanager
def sidecars_on_disk(uri: str, *, sidecars: Sequence[str] | None = None) -> Iterator[Path]:
    """The path beside which the sidecars of a video lie; an object itself is not copied."""
    if not is_remote(uri):
        yield path_of(uri)
        return
    place = ObjectPath(uri)
    with scratch_file(place.name) as copy:
        _fetch_sidecars(place, copy, sidecars)
        yield copy


def actions_beside(uri: str, sidecars: Sequence[str] | None) -> Path | ObjectPath | None:
    """Where a video's recorded actions lie; None when there are none.

    Raises:
        SampleError: Its sidecars contradict each other.
    """
    if not is_remote(uri):
        return find_sidecars(path_of(uri)).actions
    names = _sidecars_of(ObjectPath(uri)) if sidecars is None else sidecars
    found = (name for name in names if name.endswith(ACTIONS_SUFFIX))
    return next((ObjectPath(uri).with_name(name) for name in found), None)


def told(text: str, path: Path, uri: str) -> str:
    """A message about a scratch copy, told of the object it was made from."""
    return text.replace(str(path), uri) if is_remote(uri) else text


def _fetch_sidecars(video: ObjectPath, copy: Path, names: Sequence[str] | None) -> None:
    for name in _sidecars_of(video) if names is None else names:
        object_store.download(str(video.with_name(name)), copy.with_name(name))


def _sidecars_of(video: ObjectPath) -> list[str]:
    """Names of the sidecars beside a video: one listing that begins at its stem."""
    wanted = {video.stem + suffix for suffix in _SIDECAR_SUFFIXES}
    beginning = video.with_name(video.stem).key
    found: list[str] = []
    for each in object_store.listed(str(video.parent), after=beginning):
        if not each.key.startswith(beginning):
            break
        folder, _, name = each.key.rpartition("/")
        if name in wanted and folder == video.parent.key:
            found.append(name)
    return found


def size_of(uri: str) -> int | None:
    """Bytes of a file; None when it is gone or cannot be reached."""
    try:
        return object_store.info(uri).size if is_remote(uri) else path_of(uri).stat().st_size
    except OSError:
        return None


def list_remote(name: str) -> Iterator[RemoteFile]:
    """The objects that a URI means: itself, all below it, or all that match a pattern.

    Raises:
        UsageError: There is none.
        StorageError: The bucket cannot be listed.
    """
    has_magic = glob.has_magic(name)
    fixed = name
    while glob.has_magic(fixed):
        fixed = fixed.rpartition("/")[0]
    place = ObjectPath(fixed)
    if not has_magic and place.is_file():
        found = object_store.info(str(place))
        sidecars = tuple(_sidecars_of(place))
        yield RemoteFile(uri=str(place), num_bytes=found.size, sidecars=sidecars)
        return
    root = object_store.split(fixed)[0]
    sizes = {each.key: each.size for each in object_store.listed(str(place))}
    chosen = [key for key in sizes if not has_magic or _fits(f"{root}/{key}", name)]
    if not chosen:
        what = f"The pattern {name!r} matches no object." if has_magic else f"{name} holds nothing."
        raise UsageError(what, hint="Check bucket and prefix.")
    for key in chosen:
        stem = os.path.splitext(key)[0]
        beside = (stem + suffix for suffix in _SIDECAR_SUFFIXES)
        sidecars = tuple(other.rpartition("/")[2] for other in beside if other in sizes)
        yield RemoteFile(uri=f"{root}/{key}", num_bytes=sizes[key], sidecars=sidecars)


def _fits(uri: str, pattern: str) -> bool:
    """As `glob`: `*` stays within a folder unless it is `**`."""
    if "**" not in pattern and uri.count("/") != pattern.count("/"):
        return False
    return fnmatch.fnmatchcase(uri, pattern.replace("**/", "*"))


def _is_escape(character: str) -> bool:
    return 0xDC80 <= ord(character) <= 0xDCFF
