"""How a measured process tells the meter where it is; standard library only, for any environment.

Run as a script's `main(work)`: the jobs come as JSON on the command line, the answers go back as
lines on stdout.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

PREFIX = "bench-mark "


def main(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do every job of the command line between two marks; `work` gets a job, gives facts."""
    jobs: list[dict[str, Any]] = json.loads(sys.argv[1])
    say({"event": "ready"})
    for job in jobs:
        say({"event": "start", "job": job["name"]})
        try:
            facts = work(job)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        say({"event": "end", "job": job["name"], "facts": facts})


def say(fact: dict[str, Any]) -> None:
    """Tell the meter something and wait until it has read the clocks."""
    print(PREFIX + json.dumps(fact), flush=True)
    sys.stdin.readline()
