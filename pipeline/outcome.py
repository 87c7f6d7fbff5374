"""What became of one unit of work, and the one place where a work function is called.

Every engine calls `attempt`, so an exception is worded the same inline, in Ray and in a process of
its own.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from manifests.errors import EgodojoError

Unit = TypeVar("Unit")
Kind = Literal["ok", "raised", "died", "timeout"]
MAX_ERROR_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[Unit]):
    """One finished unit, whatever its end.

    Attributes:
        unit: The unit as it was handed in.
        result: What the work function returned; None unless `kind` is `ok`.
        error: One line saying what went wrong; None when `kind` is `ok`.
        kind: `ok`; `raised` (an exception: never tried again); `died` (the process was lost, or
            memory ran out in it); `timeout` (stopped at its time limit).
        attempts: How often it was started, 1 for most.
        seconds: Wall time of the last attempt.
        traceback: Where an exception was raised, for the log; None otherwise.
        started_at: When the last attempt began, in seconds since 1970 on its host's clock; 0 when
            its process never answered.
        worker: Host and process that worked on it, as "host:pid"; empty like `started_at`.
    """

    unit: Unit
    result: Any = None
    error: str | None = None
    kind: Kind = "ok"
    attempts: int = 1
    seconds: float = 0.0
    traceback: str | None = None
    started_at: float = 0.0
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call of a work function, in the shape that crosses a process; fields as in `Outcome`."""

    result: Any = None
    error: str | None = None
    kind: Kind = "ok"
    seconds: float = 0.0
    traceback: str | None = None
    started_at: float = 0.0
    worker: str = ""

    def outcome(self, unit: Unit, attempts: int = 1) -> Outcome[Unit]:
        """The same as the outcome of `unit`."""
        return Outcome(
            unit=unit,
            result=self.result,
            error=self.error,
            kind=self.kind,
            attempts=attempts,
            seconds=self.seconds,
            traceback=self.traceback,
            started_at=self.started_at,
            worker=self.worker,
        )


def attempt(call: Callable[[], Any]) -> Attempt:
    """Call a work function once; an exception becomes a record, Ctrl-C still passes through.

    A unit that memory does not suffice for counts as one that kills its process: whether it gets
    an exception or a signal is a matter of chance.
    """
    started, started_at = time.perf_counter(), time.time()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        result = call()
    except (Exception, SystemExit) as error:
        return Attempt(
            error=describe(error),
            kind="died" if isinstance(error, MemoryError) else "raised",
            seconds=time.perf_counter() - started,
            traceback="".join(traceback.format_exception(error)),
            started_at=started_at,
            worker=worker,
        )
    seconds = time.perf_counter() - started
    return Attempt(result=result, seconds=seconds, started_at=started_at, worker=worker)


def describe(error: BaseException) -> str:
    """An exception as one line: its type (unless it is a sentence of ours), message and notes."""
    words = [str(error), *getattr(error, "__notes__", [])]
    text = " ".join(" ".join(words).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if text and isinstance(error, EgodojoError):
        line = text
    return line if len(line) <= MAX_ERROR_CHARS else line[: MAX_ERROR_CHARS - 1] + "…"
