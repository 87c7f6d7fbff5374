"""Where a lock lies: a local file that is linked into place, or an object put on a condition."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from . import object_store
from .errors import StorageError
from .locations import Location, ObjectPath
from .lock import Holder, content, read_holder

_log = logging.getLogger(__name__)


class Claim(Protocol):
    """A lock that this process made."""

    def beat(self, count: int) -> None:
        """Show that the holder lives."""

    def release(self, token: str) -> None:
        """Remove the lock when it is still the holder's."""


class Place(Protocol):
    """How the lock of one dataset is made, read and taken over."""

    @property
    def path(self) -> Location:
        """The lock itself."""

    def create(self, holder: Holder) -> Claim | None:
        """Make the lock with its content at once; None when one is there."""

    def read(self) -> bytes | None:
        """What is there now; None when there is none."""

    def replace(self, holder: Holder, *, seen: bytes) -> Claim | None:
        """Put ours in the place of the stale one we watched; None when it changed meanwhile."""


class FilePlace:
    """`runs/LOCK` on a local disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, holder: Holder) -> Claim | None:
        """Link a finished file into place."""
        temporary, descriptor = _written(self.path, holder)
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise StorageError(f"Cannot make the lock {self.path}: {error.strerror}.") from error
        finally:
            temporary.unlink(missing_ok=True)
        return _FileClaim(self.path, holder, descriptor)

    def read(self) -> bytes | None:
        """What is there now."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, holder: Holder, *, seen: bytes) -> Claim | None:
        """Take over what still is as it was seen."""
        with _takeover(self.path):
            if self.read() != seen:
                return None
            temporary, descriptor = _written(self.path, holder)
            os.replace(temporary, self.path)
        return _FileClaim(self.path, holder, descriptor)


class _FileClaim:
    """Counts in the file this process made; once another lock was renamed over it, these writes
    reach nobody."""

    def __init__(self, path: Path, holder: Holder, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._offset = content(holder).index(b'"counter"') + len(b'"counter": "')

    def beat(self, count: int) -> None:
        os.pwrite(self._descriptor, f"{count:012d}".encode(), self._offset)

    def release(self, token: str) -> None:
        with _takeover(self._path):
            current = read_holder(self._path)
            if current is not None and current.token == token:
                self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class ObjectPlace:
    """`runs/LOCK` in object storage: put only if absent, later only over what was last seen."""

    def __init__(self, path: ObjectPath) -> None:
        self.path = path
        self._e_tag: str | None = None

    def create(self, holder: Holder) -> Claim | None:
        """Put only if absent."""
        try:
            e_tag = object_store.put_if_absent(str(self.path), content(holder))
        except object_store.TakenError:
            return None
        self._check_conditions()
        return _ObjectClaim(self.path, holder, _tagged(self.path, e_tag))

    def _check_conditions(self) -> None:
        """Refuse a storage that puts over what is there although it was told not to."""
        try:
            object_store.put_if_absent(str(self.path), b"not to be written")
        except object_store.TakenError:
            return
        object_store.delete(str(self.path))
        raise StorageError(
            f"The storage of {self.path} ignores conditional puts, which the lock needs.",
            hint="Use a storage that knows If-None-Match, or a local folder.",
        )

    def read(self) -> bytes | None:
        """What is there now."""
        try:
            found, self._e_tag = object_store.get_tagged(str(self.path))
        except object_store.AbsentError:
            return None
        return found

    def replace(self, holder: Holder, *, seen: bytes) -> Claim | None:
        """Take over what still is as it was seen."""
        if self.read() != seen:
            return None
        seen_tag = _tagged(self.path, self._e_tag)
        try:
            e_tag = object_store.put_if_same(str(self.path), content(holder), seen_tag)
        except object_store.TakenError:
            return None
        return _ObjectClaim(self.path, holder, _tagged(self.path, e_tag))


class _ObjectClaim:
    """Each beat replaces exactly the object of the beat before: a holder that was taken over can
    never write over its successor."""

    def __init__(self, path: ObjectPath, holder: Holder, e_tag: str) -> None:
        self._path, self._holder, self._e_tag = path, holder, e_tag
        self._is_lost = False

    def beat(self, count: int) -> None:
        if self._is_lost:
            return
        beaten = content(replace(self._holder, counter=f"{count:012d}"))
        try:
            e_tag = object_store.put_if_same(str(self._path), beaten, self._e_tag)
        except object_store.TakenError:
            self._is_lost = True
            raise
        self._e_tag = _tagged(self._path, e_tag)

    def release(self, token: str) -> None:
        # The last beat proves that the lock is ours and keeps newcomers watching while it goes.
        try:
            self.beat(10**12 - 1)
            if not self._is_lost:
                object_store.delete(str(self._path))
        except StorageError as error:  # what was to be written is written
            _log.warning("the lock %s was not removed: %s", self._path, error)


def _tagged(path: ObjectPath, e_tag: str | None) -> str:
    if e_tag is None:
        raise StorageError(
            f"The storage of {path} names no versions of its objects (ETag), which the lock needs.",
            hint="Use a storage with conditional puts, or a local folder.",
        )
    return e_tag


def _written(path: Path, holder: Holder) -> tuple[Path, int]:
    temporary = path.with_name(f"LOCK.tmp-{holder.token}")
    descriptor = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(descriptor, content(holder))
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"Cannot write the lock {path}: {error.strerror}.",
            hint="Check free space and permissions of the dataset folder.",
        ) from error
    return temporary, descriptor


@contextmanager
def _takeover(path: Path) -> Iterator[None]:
    """One newcomer at a time decides about a lock on this host."""
    descriptor = os.open(path.with_name("LOCK.takeover"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
