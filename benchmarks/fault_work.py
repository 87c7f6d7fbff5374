"""`egodojo curate` with a work function, or a reader, that fails as asked, for check_faults.py.

Environment: FAULT_DELAY_S seconds before each unit; FAULT_FILES a JSON object, file name -> what
happens when a unit touches it; FAULT_READS how often the first read of each file fails.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import curation.part
from curation.task import UnitResult, UnitTask
from curation.work import curate_unit

_MEMORY_BYTES = 256 * 2**20


def faulty(task: UnitTask) -> UnitResult:
    """The work function, after the faults of the unit's files."""
    time.sleep(float(os.environ.get("FAULT_DELAY_S", "0")))
    files = json.loads(os.environ.get("FAULT_FILES", "{}"))
    for position, part in enumerate(task.unit.parts):
        if position not in task.dead_parts:
            _misbehave(files.get(Path(part.uri).name))
    return curate_unit(task)


def _misbehave(fault: str | None) -> None:
    if fault == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "SIGSEGV":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        time.sleep(3600)
    if fault == "memory":
        _exhaust_memory()


def _exhaust_memory() -> None:
    """Take memory until the system refuses more, within a bound that is lifted afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    taken: list[bytearray] = []
    try:
        while True:
            taken.append(bytearray(2**20))
    finally:
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _fail_reads(times: int) -> None:
    """Let the first `times` attempts to read each video end with an error of its disk."""
    decode, calls = curation.part.decode, Counter[str]()

    @functools.wraps(decode)
    def flaky(path: Any, *args: Any, **options: Any) -> Any:
        calls[str(path)] += 1
        if calls[str(path)] <= times:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return decode(path, *args, **options)

    curation.part.decode = flaky


def main() -> None:
    from fault_work import faulty as importable  # by this name workers can import it

    import curation.curate
    from manifests.cli import main as egodojo

    curation.curate.UnitRun = functools.partial(  # type: ignore[assignment,misc]
        curation.curate.UnitRun, work=importable
    )
    _fail_reads(int(os.environ.get("FAULT_READS", "0")))
    sys.argv[0] = "egodojo"
    egodojo()


if __name__ == "__main__":
    main()
