"""Toy work functions with every way to fail, importable by worker processes; used by tests only."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path


def double(unit: int) -> int:
    """Twice the unit."""
    return 2 * unit


def misbehave(unit: str) -> str:
    """Do what the unit says.

    `raise`, `exit`, `sigkill`, `segv`, `memory` (ask for more than there is), `hang`, `spin`;
    anything else comes back.
    """
    if unit == "raise":
        raise ValueError("a deliberate error")
    if unit == "exit":
        os._exit(3)
    if unit == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if unit == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if unit == "memory":
        bytearray(2**62)
    if unit == "hang":
        time.sleep(3600)
    if unit == "spin":  # holds the interpreter lock in C code
        re.match(r"(a+)+$", "a" * 64 + "b")
    return unit.upper()


def die_once(unit: str) -> str:
    """Kill the process at the first call, answer at the second; the unit is a file that tells."""
    mark = Path(unit)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def unpicklable(unit: int) -> object:
    """Return something that cannot cross a process."""
    return (n for n in range(unit))


def tagged(state: dict[str, int], unit: str) -> tuple[int, int, str]:
    """Process id, calls so far in this worker, and what `misbehave` makes of the unit."""
    state["calls"] += 1
    return os.getpid(), state["calls"], misbehave(unit)


def make_counter() -> dict[str, int]:
    """State for `tagged`."""
    return {"calls": 0}


def broken_setup() -> dict[str, int]:
    """A setup whose error must end the run."""
    from manifests.errors import EgodojoError

    raise EgodojoError("There are no weights at 'nowhere'.", hint="Train them first.")
