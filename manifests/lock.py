"""The lock of a dataset's single writer: `runs/LOCK`, created only if absent.

A lock whose process is gone on this host and boot is taken over at once; any other only when its
counter stood still for 60 s. The holder counts every two seconds (a newcomer is refused when it
sees the next one) and checks its token before every commit.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .errors import LockedError, StorageError
from .locations import Location, ObjectPath
from .processes import boot_id, process_started

if TYPE_CHECKING:
    from .lock_places import Claim, Place

BEAT_S = 2.0
STALE_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock: the content of `runs/LOCK`."""

    command: str
    host: str
    boot_id: str
    pid: int
    process_started: str
    token: str
    counter: str = "0" * 12

    @classmethod
    def of_this_process(cls, command: str) -> Holder:
        """A new holder with a fresh token."""
        return cls(
            command=command,
            host=socket.gethostname(),
            boot_id=boot_id(),
            pid=os.getpid(),
            process_started=process_started(os.getpid()),
            token=secrets.token_hex(8),
        )

    def is_gone(self) -> bool:
        """Whether its process certainly ended: same host, same boot, no such process."""
        here = self.host == socket.gethostname() and self.boot_id == boot_id()
        return here and process_started(self.pid) != self.process_started


class Lock:
    """A held lock; `release()` it, or use `locked()`."""

    def __init__(self, path: Location, holder: Holder, claim: Claim) -> None:
        self.path = path
        self.holder = holder
        self._claim = claim
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="dataset-lock", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """What names this holder's temporary files."""
        return self.holder.token

    def check(self) -> None:
        """Raise LockedError unless this process still holds the lock."""
        current = read_holder(self.path)
        if current is None or current.token != self.token:
            by = f"by {describe(current)}" if current else "by hand"
            raise LockedError(
                f"The lock {self.path} was taken over {by} while this command was paused.",
                hint="Nothing was written since; rerun the command when the other has ended.",
            )

    def release(self) -> None:
        """Stop counting and remove the lock when it is still ours."""
        self._stop.set()
        self._thread.join()
        self._claim.release(self.token)

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(BEAT_S):
            count += 1
            try:
                self._claim.beat(count)
            except (OSError, StorageError) as error:
                _log.warning("the lock %s could not be renewed: %s", self.path, error)


@contextmanager
def locked(folder: Location, command: str, *, stale_s: float | None = None) -> Iterator[Lock]:
    """Hold the writer's lock of a dataset folder.

    Raises:
        LockedError: Another command holds it; the sentence names it.
    """
    lock = acquire(folder, command, stale_s=stale_s)
    try:
        yield lock
    finally:
        lock.release()


def acquire(folder: Location, command: str, *, stale_s: float | None = None) -> Lock:
    """Take the lock of a dataset folder, watching another holder for up to `stale_s` seconds."""
    return acquire_at(folder / "runs" / "LOCK", command, stale_s=stale_s)


def acquire_at(path: Location, command: str, *, stale_s: float | None = None) -> Lock:
    """Take a lock of another name, by the same rules."""
    place = _place(path)
    holder = Holder.of_this_process(command)
    patience_s = STALE_S if stale_s is None else stale_s
    while True:
        claim = place.create(holder)
        if claim is not None:
            return Lock(path, holder, claim)
        current = place.read()
        if current is None:
            continue
        _wait_until_stale(place, current, patience_s)
        claim = place.replace(holder, seen=current)
        if claim is not None:
            return Lock(path, holder, claim)


def read_holder(path: Location) -> Holder | None:
    """Who holds a lock file; None when it is absent or unreadable."""
    raw = _place(path).read()
    return None if raw is None else _parse(raw)


def describe(holder: Holder | None) -> str:
    """Words for a holder: command, process, host."""
    if holder is None:
        return "an unknown command"
    return f"`{holder.command}` (process {holder.pid} on {holder.host})"


def content(holder: Holder) -> bytes:
    """What the lock file holds."""
    return (json.dumps(asdict(holder), indent=1) + "\n").encode()


def _place(path: Location) -> Place:
    from .lock_places import FilePlace, ObjectPlace

    return ObjectPlace(path) if isinstance(path, ObjectPath) else FilePlace(path)


def _wait_until_stale(place: Place, first: bytes, patience_s: float) -> None:
    holder = _parse(first)
    if holder is not None and holder.is_gone():
        _log.info("taking over the lock of %s, which has ended", describe(holder))
        return
    _log.info("watching the lock of %s for up to %.0f s", describe(holder), patience_s)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, patience_s / 10))
        now = place.read()
        if now is None:
            return
        if now != first:
            raise _refusal(place.path, _parse(now))


def _refusal(path: Location, holder: Holder | None) -> LockedError:
    return LockedError(
        f"{path.parent.parent} is being written by {describe(holder)}.",
        hint="Wait until it has ended; reading, `decide` and scores need no lock.",
    )


def _parse(raw: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(raw))
    except (ValueError, TypeError):
        return None
