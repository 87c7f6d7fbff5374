"""The lock of a dataset's single writer: `runs/LOCK`, created only if absent.

A lock whose process is gone on this host and boot is taken over at once; any other only when its
counter stood still for 60 s. The holder counts every two seconds (a newcomer is refused when it
sees the next one) and checks its token before every commit.
"""

from __future__ import annotations

import fcntl
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
from pathlib import Path

from .errors import LockedError, StorageError

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
            boot_id=_boot_id(),
            pid=os.getpid(),
            process_started=_process_started(os.getpid()),
            token=secrets.token_hex(8),
        )

    def is_gone(self) -> bool:
        """Whether its process certainly ended: same host, same boot, no such process."""
        here = self.host == socket.gethostname() and self.boot_id == _boot_id()
        return here and _process_started(self.pid) != self.process_started


class Lock:
    """A held lock; `release()` it, or use `locked()`."""

    def __init__(self, path: Path, holder: Holder, descriptor: int) -> None:
        self.path = path
        self.holder = holder
        self._descriptor = descriptor
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
        with _takeover(self.path):
            current = read_holder(self.path)
            if current is not None and current.token == self.token:
                self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _beat(self) -> None:
        # The count goes into the file this process made; once another lock was renamed over it,
        # these writes reach nobody.
        offset = _content(self.holder).index(b'"counter"') + len(b'"counter": "')
        count = 0
        while not self._stop.wait(BEAT_S):
            count += 1
            try:
                os.pwrite(self._descriptor, f"{count:012d}".encode(), offset)
            except OSError as error:
                _log.warning("the lock %s could not be renewed: %s", self.path, error)


@contextmanager
def locked(folder: Path, command: str, *, stale_s: float | None = None) -> Iterator[Lock]:
    """Hold the writer's lock of a dataset folder.

    Raises:
        LockedError: Another command holds it; the sentence names it.
    """
    lock = acquire(folder, command, stale_s=stale_s)
    try:
        yield lock
    finally:
        lock.release()


def acquire(folder: Path, command: str, *, stale_s: float | None = None) -> Lock:
    """Take the lock of a dataset folder, watching another holder for up to `stale_s` seconds."""
    path = folder / "runs" / "LOCK"
    holder = Holder.of_this_process(command)
    patience_s = STALE_S if stale_s is None else stale_s
    while True:
        descriptor = _create(path, holder)
        if descriptor is not None:
            return Lock(path, holder, descriptor)
        current = _raw(path)
        if current is None:
            continue
        _wait_until_stale(path, current, patience_s)
        descriptor = _replace(path, holder, seen=current)
        if descriptor is not None:
            return Lock(path, holder, descriptor)


def read_holder(path: Path) -> Holder | None:
    """Who holds a lock file; None when it is absent or unreadable."""
    raw = _raw(path)
    return None if raw is None else _parse(raw)


def describe(holder: Holder | None) -> str:
    """Words for a holder: command, process, host."""
    if holder is None:
        return "an unknown command"
    return f"`{holder.command}` (process {holder.pid} on {holder.host})"


def _wait_until_stale(path: Path, first: bytes, patience_s: float) -> None:
    holder = _parse(first)
    if holder is not None and holder.is_gone():
        _log.info("taking over the lock of %s, which has ended", describe(holder))
        return
    _log.info("watching the lock of %s for up to %.0f s", describe(holder), patience_s)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, patience_s / 10))
        now = _raw(path)
        if now is None:
            return
        if now != first:
            raise _refusal(path, _parse(now))


def _refusal(path: Path, holder: Holder | None) -> LockedError:
    return LockedError(
        f"{path.parent.parent} is being written by {describe(holder)}.",
        hint="Wait until it has ended; reading, `decide` and scores need no lock.",
    )


def _create(path: Path, holder: Holder) -> int | None:
    """Make the lock file with its content at once; None when one is there."""
    temporary, descriptor = _written(path, holder)
    try:
        os.link(temporary, path)
    except FileExistsError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise StorageError(f"Cannot make the lock {path}: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return descriptor


def _replace(path: Path, holder: Holder, *, seen: bytes) -> int | None:
    """Put our lock in the place of the stale one we watched; None when it changed meanwhile."""
    with _takeover(path):
        if _raw(path) != seen:
            return None
        temporary, descriptor = _written(path, holder)
        os.replace(temporary, path)
        return descriptor


def _written(path: Path, holder: Holder) -> tuple[Path, int]:
    temporary = path.with_name(f"LOCK.tmp-{holder.token}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(descriptor, _content(holder))
    except OSError as error:
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


def _content(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=1) + "\n").encode()


def _raw(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse(raw: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(raw))
    except (ValueError, TypeError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _process_started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]
