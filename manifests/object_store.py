"""Objects in `s3://`, `gs://` and `az://` through obstore: patience, retries and errors in words.

Credentials, region and endpoint come from the usual environment variables (`AWS_*`, `GOOGLE_*`,
`AZURE_*`), which obstore and delta-rs read alike; what we set ourselves stands in `_patience`.
"""

from __future__ import annotations

import io
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from .errors import ConfigError, StorageError
from .storage_words import AbsentError as AbsentError
from .storage_words import first_cause
from .storage_words import in_words as in_words
from .storage_words import split as split

PATIENCE_ENV = "EGODOJO_STORAGE_PATIENCE_S"
"""Seconds for which a request that fails is tried again; default 60."""

_DEFAULT_PATIENCE_S = 60.0
_CONNECT_TIMEOUT_S = 5
_REQUEST_TIMEOUT_S = 120
_FIRST_PATIENCE_S = 8.0
_MAX_RETRIES = 1000  # time ends them, not their number
_BACKOFF_BASE = 3  # (each pause is drawn between the first one and this times the last one)
_INIT_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
_OWN_ATTEMPTS = 4
_PART_BYTES = 16 << 20
_READ_AHEAD_BYTES = 4 << 20
_ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_", "ALLOW_HTTP", PATIENCE_ENV)

# Buckets that have answered this process, with the environment of the time.
_reached: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
_log = logging.getLogger(__name__)
T = TypeVar("T")


class TakenError(StorageError):
    """A conditional put was refused: another object is there, or it has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a listing says of one object; `key` counts from the bucket's root."""

    key: str
    size: int
    modified_s: float
    e_tag: str | None


def delta_options() -> dict[str, str]:
    """The same patience for delta-rs, and commits that two writers cannot both win."""
    return {
        "aws_conditional_put": "etag",
        "connect_timeout": f"{_CONNECT_TIMEOUT_S}s",
        "timeout": f"{_REQUEST_TIMEOUT_S}s",
        "allow_http": str(_allows_http()).lower(),
        "max_retries": str(_MAX_RETRIES),
        "retry_timeout": f"{_patience_s():g}s",
        "backoff_config.init_backoff": f"{_INIT_BACKOFF_S:g}s",
        "backoff_config.max_backoff": f"{_MAX_BACKOFF_S:g}s",
        "backoff_config.base": str(_BACKOFF_BASE),
    }


def get(uri: str) -> bytes:
    """All bytes of an object.

    Raises:
        AbsentError: There is none.
        StorageError: It cannot be read.
    """
    return get_tagged(uri)[0]


def get_tagged(uri: str) -> tuple[bytes, str | None]:
    """All bytes of an object, and the tag by which `put_if_same` knows them."""

    def read(store: Any, key: str) -> tuple[bytes, str | None]:
        import obstore

        found = obstore.get(store, key)
        return bytes(found.bytes()), found.meta["e_tag"]

    return _do("read", uri, read)


def get_range(uri: str, offset: int, size: int) -> bytes:
    """Bytes `[offset, offset + size)`; fewer when the object ends before."""

    def read(store: Any, key: str) -> bytes:
        import obstore

        try:
            return bytes(obstore.get_range(store, key, start=offset, length=size))
        except obstore.exceptions.BaseError:
            length = obstore.head(store, key)["size"]
            if offset + size <= length:
                raise
            if offset >= length:
                return b""
            return bytes(obstore.get_range(store, key, start=offset, end=length))

    return _do("read", uri, read) if size else b""


def get_small(uri: str, *, limit: int) -> bytes | None:
    """All bytes of an object in one request; None when there are more than `limit`."""

    def read(store: Any, key: str) -> bytes | None:
        import obstore

        found = obstore.get(store, key)
        return bytes(found.bytes()) if found.meta["size"] <= limit else None

    return _do("read", uri, read)


def download(uri: str, target: Path) -> ObjectInfo:
    """Copy an object into a local file, part by part; all parts are of one and the same object.

    Raises:
        AbsentError: There is none.
        StorageError: It cannot be read, or was replaced meanwhile.
    """
    import obstore

    found = info(uri)
    condition = {"if_match": found.e_tag} if found.e_tag else {}
    with open(target, "wb") as file:
        for start in range(0, found.size, _PART_BYTES):
            end = min(start + _PART_BYTES, found.size)

            def read(store: Any, key: str, part: tuple[int, int] = (start, end)) -> bytes:
                options: Any = {"range": part, **condition}
                try:
                    return bytes(obstore.get(store, key, options=options).bytes())
                except obstore.exceptions.PreconditionError as error:
                    raise StorageError(
                        f"{uri} was replaced while it was read.", hint="Run the command again."
                    ) from error

            part = _do("read", uri, read)
            if len(part) != end - start:
                raise StorageError(
                    f"Cannot read {uri}: {len(part)} bytes came at {start} instead of "
                    f"{end - start}.",
                    hint="Run the command again.",
                )
            file.write(part)
    return found


def put(uri: str, data: bytes | Path) -> None:
    """Write an object, whole or not at all, over an older one; a `Path` is a file to upload."""

    def write(store: Any, key: str) -> None:
        import obstore

        obstore.put(store, key, data, chunk_size=_PART_BYTES)

    _do("write", uri, write)


def put_if_absent(uri: str, data: bytes) -> str | None:
    """Write an object only where none is; returns its tag.

    Raises:
        TakenError: There is one with other bytes. (One with these bytes is our own, whose
            answer was lost: what is written this way must be unique.)
    """
    return _put_conditionally(uri, data, "create")


def put_if_same(uri: str, data: bytes, e_tag: str) -> str | None:
    """Write over an object only when it is still the one with this tag; returns the new tag.

    Raises:
        TakenError: It has changed or is gone.
    """
    return _put_conditionally(uri, data, {"e_tag": e_tag})


def _put_conditionally(uri: str, data: bytes, mode: Any) -> str | None:
    def write(store: Any, key: str) -> str | None:
        import obstore

        try:
            tag: str | None = obstore.put(store, key, data, mode=mode, use_multipart=False)["e_tag"]
        except (
            obstore.exceptions.AlreadyExistsError,
            obstore.exceptions.PreconditionError,
            FileNotFoundError,
        ) as error:
            try:
                there, tag = get_tagged(uri)
            except AbsentError:
                there = b""
            if there != data:
                raise TakenError(f"{uri} was written by somebody else.") from error
        return tag

    return _do("write", uri, write)


def info(uri: str) -> ObjectInfo:
    """Size, time and tag of an object.

    Raises:
        AbsentError: There is none.
    """

    def look(store: Any, key: str) -> ObjectInfo:
        import obstore
        from obstore import exceptions

        refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        try:
            return _info(obstore.head(store, key))
        except (FileNotFoundError, *refused):  # such an answer has no text: a listing's has
            if not _is_reached(uri):
                next(iter(obstore.list(store, prefix=key, chunk_size=1)), None)
                _reached.add(_account(uri))
            raise

    return _do("read", uri, look)


def listed(uri: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
    """Objects below a folder, at any depth, by key.

    Args:
        uri: The folder; its own name is no part of any object in it.
        after: Only keys (from the bucket's root) that sort behind this one.
    """
    last = after
    for attempt in range(_OWN_ATTEMPTS):
        try:
            for found in _listed(uri, last):
                last = found.key
                yield found
            return
        except Exception as error:
            if attempt + 1 == _OWN_ATTEMPTS or not may_pass(error):
                raise in_words("list", uri, error) from error
            pause(attempt, uri, error)


def _listed(uri: str, after: str | None) -> Iterator[ObjectInfo]:
    import obstore

    root, prefix = split(uri)
    for batch in obstore.list(_store(root), prefix=prefix or None, offset=after, chunk_size=1000):
        yield from map(_info, batch)


def children(uri: str) -> tuple[list[str], list[ObjectInfo]]:
    """What lies directly in a folder: names of the folders, and the objects."""

    def look(store: Any, key: str) -> tuple[list[str], list[ObjectInfo]]:
        import obstore

        found = obstore.list_with_delimiter(store, prefix=key or None)
        folders = [
            str(prefix).rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]
        ]
        return sorted(folders), sorted(map(_info, found["objects"]), key=lambda each: each.key)

    return _do("list", uri, look)


def delete(uri: str) -> None:
    """Remove an object; one that is not there is fine."""

    def remove(store: Any, key: str) -> None:
        import obstore

        try:
            obstore.delete(store, key)
        except FileNotFoundError:
            return

    _do("remove", uri, remove)


def reader(uri: str) -> BinaryIO:
    """An object as a stream that can be read anywhere, a few megabytes per request."""
    raw = _RangedObject(uri, info(uri).size)
    return cast(BinaryIO, io.BufferedReader(raw, buffer_size=_READ_AHEAD_BYTES))


class _RangedObject(io.RawIOBase):
    """Reads ranges of one object as they are asked for."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._position = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._position))
        data = get_range(self._uri, self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _do(what: str, uri: str, action: Callable[[Any, str], T]) -> T:
    """Run one action on the store of a URI, again when it may pass: all of them may run twice."""
    root, key = split(uri)
    for attempt in range(_OWN_ATTEMPTS):
        try:
            found = action(_store(root), key)
            _reached.add(_account(root))
            return found
        except StorageError:
            raise
        except Exception as error:
            if attempt + 1 == _OWN_ATTEMPTS or not may_pass(error):
                raise in_words(what, uri, error) from error
            pause(attempt, uri, error)
    raise AssertionError("the last attempt returns or raises")


def may_pass(error: Exception) -> bool:
    """Whether trying again could help: what obstore does not retry itself, as a cut-off answer."""
    text = str(error)
    if isinstance(error, FileNotFoundError) or not is_outage(error):
        return False
    if re.search(r"body error|body from connection|before message length", text):
        return True
    # "after 10 retries": their own patience is at its end, and ours with it.
    final = r"after [1-9]\d* retries|\b[45]\d\d [A-Z]|dns error|builder error"
    return not re.search(final, text)


def is_outage(error: Exception) -> bool:
    """Whether a failure lies between us and the storage, not in what was asked."""
    from obstore import exceptions

    if isinstance(error, exceptions.BaseError):
        return not isinstance(error, exceptions.NotSupportedError)
    return bool(re.search(r"Generic \w+ error|error sending request|HTTP error", str(error)))


def pause(attempt: int, uri: str, error: Exception) -> None:
    """Wait a moment before the next attempt, longer each time."""
    _log.info("%s: %s; trying again", uri, first_cause(error))
    time.sleep(min(_MAX_BACKOFF_S, _INIT_BACKOFF_S * 4**attempt) * random.uniform(0.5, 1.0))


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(
        key=meta["path"],
        size=meta["size"],
        modified_s=meta["last_modified"].timestamp(),
        e_tag=meta["e_tag"],
    )


def _store(root: str) -> Any:
    patience_s = _patience_s()
    if not _is_reached(root):  # a wrong address or a wrong name is said soon
        patience_s = min(patience_s, _FIRST_PATIENCE_S)
    return _made_store(*_account(root), patience_s)


def _is_reached(uri: str) -> bool:
    return _account(uri) in _reached


def _account(uri: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A bucket as it is used now: another environment (a rotated key) is another account."""
    items = (item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
    return split(uri)[0], tuple(sorted(items))


@lru_cache(maxsize=16)
def _made_store(root: str, environment: tuple[tuple[str, str], ...], patience_s: float) -> Any:
    """A bucket's client."""
    from obstore.store import from_url

    return from_url(
        root,
        client_options={
            "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=_REQUEST_TIMEOUT_S),
            "allow_http": _allows_http(),
        },
        retry_config={
            "max_retries": _MAX_RETRIES,
            "retry_timeout": timedelta(seconds=patience_s),
            "backoff": {
                "init_backoff": timedelta(seconds=_INIT_BACKOFF_S),
                "max_backoff": timedelta(seconds=_MAX_BACKOFF_S),
                "base": _BACKOFF_BASE,
            },
        },
    )


def _allows_http() -> bool:
    """Options given in code hide these variables from obstore, so they are read here."""
    names = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("true", "1", "yes", "on") for name in names)


def _patience_s() -> float:
    text = os.environ.get(PATIENCE_ENV, "")
    try:
        patience_s = float(text) if text else _DEFAULT_PATIENCE_S
    except ValueError:
        patience_s = -1.0
    if not 0 < patience_s < 1e6:
        raise ConfigError(f"{PATIENCE_ENV} is {text!r}, must be a number of seconds above 0.")
    return patience_s
