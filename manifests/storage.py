"""Bytes in and out: range reads and atomic writes, on local disks and in object storage.

Local files are read with plain `pread`; `s3://`, `gs://` and `az://` go through obstore.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from . import object_store
from .errors import StorageError
from .locations import Location, ObjectPath, is_remote, location
from .scratch import scratch_file

__all__ = ["Location", "ObjectPath", "is_remote", "location"]

T = TypeVar("T")
_AT_ONCE = 16


def read_range(root_uri: str | Location, relpath: str, offset: int, size: int) -> bytes:
    """Read `size` bytes at `offset` of a file below a root.

    Raises:
        StorageError: The file is missing or shorter than offset + size.
    """
    if is_remote(root_uri):
        data = object_store.get_range(f"{root_uri}/{relpath}", offset, size)
    else:
        data = _local_range(Path(str(root_uri)) / relpath, offset, size)
    if len(data) < size:
        raise StorageError(
            f"{root_uri}/{relpath} ends before byte {offset + size}: "
            f"{len(data)} of {size} bytes could be read at {offset}.",
            hint="The file is truncated; `egodojo manifest validate` lists what is damaged.",
        )
    return data


def read_bytes(root_uri: str | Location, relpath: str) -> bytes:
    """Read a whole file below a root.

    Raises:
        StorageError: The file is missing or cannot be read.
    """
    path = location(root_uri) / relpath
    try:
        return path.read_bytes()
    except StorageError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error


def of_each(work: Callable[[Location], T], paths: Sequence[Location]) -> Iterator[T]:
    """What `work` gives for each path, in order; of objects several are asked for at once."""
    if not any(map(is_remote, paths)):
        yield from map(work, paths)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            yield from pool.map(work, paths[first : first + _AT_ONCE])


def write_atomic(path: str | Location, data: bytes, token: str | None = None) -> None:
    """Write a file so that it is either whole or absent, replacing an older one.

    Locally the bytes go to `<path>.tmp-<token>`, are flushed to disk and renamed; in object
    storage one put does the same.

    Args:
        path: The final path, or an object-storage URI.
        data: The whole content.
        token: The writer's lock token, so that leftovers can be told apart.

    Raises:
        StorageError: The bytes could not be written; nothing is left behind.
    """
    final = location(path)
    if isinstance(final, ObjectPath):
        object_store.put(str(final), data)
        return
    temporary = temporary_path(final, token)
    try:
        _write_flushed(temporary, data)
        os.replace(temporary, final)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(final, error) from error


def write_new(path: str | Location, data: bytes) -> bool:
    """Write a whole file only if none is there; returns whether it is there with these bytes now.

    Locally an older file refuses even the same bytes.
    """
    final = location(path)
    if isinstance(final, ObjectPath):
        return _put_new(final, data)
    temporary = temporary_path(final, None)
    try:
        _write_flushed(temporary, data)
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(final, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextmanager
def replacing(path: Location, token: str | None = None) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file `path`, whole, when the block ends well.

    For object storage they are collected in a local file first.

    Raises:
        StorageError: The bytes could not be written; nothing is left behind.
    """
    with being_replaced(path, token) as temporary:
        try:
            with open(temporary, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
        except StorageError:
            raise
        except OSError as error:
            raise _unwritable(path, error) from error


@contextmanager
def being_replaced(path: Location, token: str | None = None) -> Iterator[Path]:
    """A local file to write, which takes the place of `path`, whole, when the block ends well.

    Beside a local path it is `<path>.tmp-<token>`, renamed at the end; for an object it is a
    scratch file, uploaded at the end.

    Raises:
        StorageError: It could not be put in place; nothing is left behind.
    """
    if isinstance(path, ObjectPath):
        with scratch_file(path.name) as temporary:
            yield temporary
            object_store.put(str(path), temporary)
        return
    temporary = temporary_path(path, token)
    try:
        yield temporary
        os.replace(temporary, path)
    except StorageError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def local_file(path: Location) -> Iterator[Path]:
    """A file on a local disk with the content of `path`, for as long as the block runs."""
    if not isinstance(path, ObjectPath):
        yield path
        return
    with scratch_file(path.name) as copy:
        object_store.download(str(path), copy)
        yield copy


def remove(path: Location) -> None:
    """Remove a file or a whole folder; one that is not there is fine.

    Raises:
        StorageError: It could not be removed.
    """
    if isinstance(path, ObjectPath):
        for found in path.rglob("*"):
            found.unlink()
        path.unlink()
        return
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot remove {path}: {_reason(error)}.",
            hint="Fix the permissions, then rerun the command: it goes on.",
        ) from error


def temporary_path(final: Path, token: str | None) -> Path:
    """`<final>.tmp-<token>`; without a token a random one."""
    return final.with_name(f"{final.name}.tmp-{token or secrets.token_hex(8)}")


def _put_new(final: ObjectPath, data: bytes) -> bool:
    try:
        object_store.put_if_absent(str(final), data)
    except object_store.TakenError:
        return False
    return True


def _write_flushed(path: Path, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _local_range(path: Path, offset: int, size: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, error) from error
    pieces: list[bytes] = []
    missing = size
    try:
        while missing and (piece := os.pread(descriptor, missing, offset + size - missing)):
            pieces.append(piece)
            missing -= len(piece)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _unreadable(path: Location, error: Exception) -> StorageError:
    return StorageError(f"Cannot read {path}: {_reason(error)}.")


def _unwritable(path: Location, error: Exception) -> StorageError:
    return StorageError(
        f"Cannot write {path}: {_reason(error)}.",
        hint="Check free space and permissions, then rerun the command: it goes on.",
    )


def _reason(error: Any) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
