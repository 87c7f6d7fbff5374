"""One unit in a fresh process of its own, without Ray: the last resort for units that kill workers.

It tells apart a unit that raised, one whose process died (and of what) and one that ran past its
limit. The child is a new interpreter, so nothing of a damaged parent goes into it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .outcome import Attempt, Outcome, Unit, attempt

# The first pickle is the import path; only then can the second, which names our modules, be read.
_BOOT = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from pipeline.isolated import child_main
child_main(sys.argv[1], int(sys.argv[2]))
"""
_PR_SET_PDEATHSIG = 1
_STDERR_TAIL_BYTES = 4000


def run_isolated(
    work: Callable[[Unit], Any], unit: Unit, timeout_s: float = 3600.0
) -> Outcome[Unit]:
    """Run `work(unit)` once in a new process.

    Args:
        work: An importable function (or a `functools.partial` of one); both it and the unit are
            pickled.
        unit: What it is called with.
        timeout_s: Wall time limit, the start of the interpreter included.

    Returns:
        The outcome; `died` names the signal or the exit status.
    """
    payload = pickle.dumps(_import_path()) + pickle.dumps((work, unit))
    with tempfile.TemporaryDirectory(prefix="egodojo-") as folder:
        answer, log = Path(folder, "answer.pickle"), Path(folder, "stderr.txt")
        command = [sys.executable, "-c", _BOOT, str(answer), str(os.getpid())]
        started = time.perf_counter()
        with log.open("wb") as stderr:
            status = _run(command, payload, timeout_s=timeout_s, stderr=stderr)
        seconds = time.perf_counter() - started
        if status is None:
            error = f"stopped after its time limit of {timeout_s:g} s"
            return Outcome(unit=unit, error=error, kind="timeout", seconds=seconds)
        if status == 0 and answer.exists():
            found: Attempt = pickle.loads(answer.read_bytes())
            return found.outcome(unit)
        return Outcome(
            unit=unit,
            error=f"its process {_cause(status)}",
            kind="died",
            seconds=seconds,
            traceback=log.read_bytes()[-_STDERR_TAIL_BYTES:].decode(errors="replace") or None,
        )


def child_main(answer: str, parent_pid: int) -> None:
    """Entry of the child: read the unit from stdin, leave the pickled attempt at `answer`."""
    _die_with(parent_pid)
    _die_first()
    work, unit = pickle.load(sys.stdin.buffer)
    found = attempt(partial(work, unit))
    try:
        data = pickle.dumps(found)
    except Exception as error:
        data = pickle.dumps(attempt(partial(_refuse, error)))
    Path(answer).write_bytes(data)
    os._exit(0)  # threads a decoder left behind must not hold the answer back


def _refuse(error: Exception) -> None:
    raise TypeError(f"the result cannot be pickled: {error}") from error


def _import_path() -> list[str]:
    """Where the child looks for modules: as here, with this checkout or installation first."""
    home = str(Path(__file__).resolve().parent.parent)
    return [home, *(os.path.abspath(entry) for entry in sys.path if entry != home)]


def _run(command: list[str], payload: bytes, *, timeout_s: float, stderr: Any) -> int | None:
    """Exit status of the child, negative for a signal; None past the limit."""
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, start_new_session=True
    )
    try:
        child.communicate(payload, timeout=timeout_s)
        return child.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill_group(child)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started; also the way out of Ctrl-C."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _die_with(parent_pid: int) -> None:
    """Ask Linux to end this process when its parent is gone; elsewhere it ends by itself."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _die_first() -> None:
    """Let Linux, when memory is short, end this process before any other."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        pass  # another system, or one that does not allow it


def _cause(status: int) -> str:
    if status >= 0:
        return f"exited with status {status} before its answer"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    likely = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{likely}"
