"""A folder that one process at a time writes: an advisory lock that ends with the process.

In object storage, which knows no such locks, it is one like `runs/LOCK`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from manifests.errors import LockedError
from manifests.lock import acquire_at
from manifests.storage import Location, ObjectPath


@contextmanager
def file_lock(path: Location, *, what: str, hint: str) -> Iterator[None]:
    """Hold `path` for the length of the block, or say at once who does.

    Args:
        path: The lock file; its folder is made. It stays afterwards and means nothing then.
        what: Begins the sentence of the refusal: `<what> is in use by process 12.`
        hint: What the user can do.

    Raises:
        LockedError: Another process holds it.
    """
    if isinstance(path, ObjectPath):
        lock = acquire_at(path, what)
        try:
            yield
        finally:
            lock.release()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockedError(f"{what} is in use by {holder}.", hint=hint) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield
