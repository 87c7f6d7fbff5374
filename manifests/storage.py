"""Bytes in and out: range reads and atomic writes, on local disks and in object storage.

Local files are read with plain `pread`; `s3://`, `gs://` and `az://` go through obstore.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from .errors import StorageError

_REMOTE = re.compile(r"(s3|gs|az)://")


def is_remote(uri: str | Path) -> bool:
    """Whether a path is an object-storage URI."""
    return bool(_REMOTE.match(str(uri)))


def read_range(root_uri: str | Path, relpath: str, offset: int, size: int) -> bytes:
    """Read `size` bytes at `offset` of a file below a root.

    Raises:
        StorageError: The file is missing or shorter than offset + size.
    """
    if is_remote(root_uri):
        data = _remote_range(str(root_uri), relpath, offset, size)
    else:
        data = _local_range(Path(root_uri) / relpath, offset, size)
    if len(data) < size:
        raise StorageError(
            f"{root_uri}/{relpath} ends before byte {offset + size}: "
            f"{len(data)} of {size} bytes could be read at {offset}.",
            hint="The file is truncated; `egodojo manifest validate` lists what is damaged.",
        )
    return data


def read_bytes(root_uri: str | Path, relpath: str) -> bytes:
    """Read a whole file below a root.

    Raises:
        StorageError: The file is missing or cannot be read.
    """
    if is_remote(root_uri):
        return _remote_bytes(str(root_uri), relpath)
    path = Path(root_uri) / relpath
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def write_atomic(path: str | Path, data: bytes, token: str | None = None) -> None:
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
    if is_remote(path):
        _remote_put(str(path), data)
        return
    final = Path(path)
    temporary = temporary_path(final, token)
    try:
        _write_flushed(temporary, data)
        os.replace(temporary, final)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(final, error) from error


def write_new(path: str | Path, data: bytes) -> bool:
    """Write a whole local file only if none is there; returns whether this call made it."""
    final = Path(path)
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
def replacing(path: Path, token: str | None = None) -> Iterator[BinaryIO]:
    """A stream whose bytes become the local file `path`, whole, when the block ends well.

    Raises:
        StorageError: The bytes could not be written; nothing is left behind.
    """
    temporary = temporary_path(path, token)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a local file or a whole folder; one that is not there is fine.

    Raises:
        StorageError: It could not be removed.
    """
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


@lru_cache(maxsize=64)
def _store(root_uri: str) -> Any:
    from obstore.store import from_url

    return from_url(root_uri)


def _remote_range(root_uri: str, relpath: str, offset: int, size: int) -> bytes:
    import obstore

    try:
        return bytes(obstore.get_range(_store(root_uri), relpath, start=offset, length=size))
    except (OSError, obstore.exceptions.BaseError) as error:
        raise _unreadable(f"{root_uri}/{relpath}", error) from error


def _remote_bytes(root_uri: str, relpath: str) -> bytes:
    import obstore

    try:
        return bytes(obstore.get(_store(root_uri), relpath).bytes())
    except (OSError, obstore.exceptions.BaseError) as error:
        raise _unreadable(f"{root_uri}/{relpath}", error) from error


def _remote_put(uri: str, data: bytes) -> None:
    import obstore

    root, _, name = uri.rpartition("/")
    try:
        obstore.put(_store(root), name, data)
    except (OSError, obstore.exceptions.BaseError) as error:
        raise _unwritable(uri, error) from error


def _unreadable(path: Path | str, error: Exception) -> StorageError:
    return StorageError(f"Cannot read {path}: {_reason(error)}.")


def _unwritable(path: Path | str, error: Exception) -> StorageError:
    return StorageError(
        f"Cannot write {path}: {_reason(error)}.",
        hint="Check free space and permissions, then rerun the command: it goes on.",
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
