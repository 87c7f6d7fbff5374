"""CPU-seconds and memory of a whole process tree, job by job, read from outside.

Live processes are read exactly when a job starts and ends. Those that come and go in between are
sampled, and what their parent was charged for them beyond that is added.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sides.marks import PREFIX

SAMPLE_EVERY_S = 1.0
TAIL_CHARS = 3000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM, _CHILD_USER, _CHILD_SYSTEM, _STARTED = 1, 11, 12, 13, 14, 19

Key = tuple[int, int]
"""A process: its number and when it started."""


class SideFailed(Exception):
    """A side could not be measured; the message says why."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """One process as it was last seen; times in clock ticks."""

    parent: Key | None
    own: int = 0
    of_children: int = 0
    is_alive: bool = True


class Tree:
    """The processes that descend from one, also those that are gone by now."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[Key, Seen] = {}
        self._lock = threading.Lock()

    def cpu_s(self) -> float:
        """User and system seconds of the tree up to now."""
        with self._lock:
            self._look()
            return charged_ticks(self._seen) / _TICKS_PER_S

    def _look(self) -> None:
        alive = _alive()
        for key, row in self._seen.items():
            row.is_alive = key[0] in alive and _key(key[0], alive) == key
        num_known = -1
        while num_known != len(self._seen):  # until no child of a known process is new
            num_known = len(self._seen)
            for pid, numbers in alive.items():
                parent = _key(numbers[_PARENT], alive)
                if pid == self._root or parent in self._seen:
                    self._seen.setdefault(_key(pid, alive), Seen(parent=parent))
        for key, row in self._seen.items():
            if row.is_alive:
                numbers = alive[key[0]]
                row.own = numbers[_USER] + numbers[_SYSTEM]
                row.of_children = numbers[_CHILD_USER] + numbers[_CHILD_SYSTEM]


def charged_ticks(seen: Mapping[Key, Seen]) -> int:
    """Ticks of all processes, those included that came and went between two looks.

    A parent that waited for a child is charged all of it, of which we saw a part; a parent that
    did not wait is charged nothing, and what we saw counts.
    """
    seen_of_dead: dict[Key, int] = {}
    for row in seen.values():
        if row.parent is not None and not row.is_alive:
            seen_of_dead[row.parent] = seen_of_dead.get(row.parent, 0) + row.own + row.of_children
    own = sum(row.own for row in seen.values())
    unseen = (max(0, row.of_children - seen_of_dead.get(key, 0)) for key, row in seen.items())
    return own + sum(unseen)


def measure(
    words: Sequence[str],
    jobs: Sequence[Mapping[str, Any]],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 1800.0,
) -> dict[str, dict[str, Any]]:
    """Run a side and return for each job its `cpu_s`, `wall_s` and the side's own facts.

    Args:
        words: The command; the jobs are added as JSON.
        jobs: Each with a `name`; a name that comes twice is kept as it was the last time.
        env: Environment of the side; default ours.

    Raises:
        SideFailed: The side ended early, said that it failed, or took longer than `timeout_s`.
    """
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryFile("w+", errors="replace") as noise:
        process = subprocess.Popen(
            [*words, json.dumps(list(jobs))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True, env=env,
            errors="replace",
        )  # fmt: skip
        tree, is_over = Tree(process.pid), threading.Event()
        sampler = threading.Thread(target=_sample, args=(tree, is_over), daemon=True)
        killer = threading.Timer(timeout_s, process.kill)
        sampler.start()
        killer.start()
        try:
            _follow(process, tree, found)
            process.stdin.close() if process.stdin else None
            process.wait()
        finally:
            killer.cancel()
            is_over.set()
            sampler.join()
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0 or len(found) < len({job["name"] for job in jobs}):
            noise.seek(0)
            tail = " | ".join(noise.read()[-TAIL_CHARS:].split("\n")[-12:])
            raise SideFailed(f"{Path(words[-1]).name} ended with {process.returncode}: {tail}")
    return found


def _follow(process: subprocess.Popen[str], tree: Tree, found: dict[str, dict[str, Any]]) -> None:
    """Answer the marks of a side until it closes its output."""
    assert process.stdout is not None
    assert process.stdin is not None
    cpu_s = wall_s = 0.0
    for line in process.stdout:
        if not line.startswith(PREFIX):
            continue
        fact = json.loads(line.removeprefix(PREFIX))
        if fact["event"] == "end":
            found[fact["job"]] = {
                "cpu_s": round(tree.cpu_s() - cpu_s, 3),
                "wall_s": round(time.monotonic() - wall_s, 3),
                "facts": fact["facts"],
            }
        cpu_s, wall_s = tree.cpu_s(), time.monotonic()
        process.stdin.write("\n")
        process.stdin.flush()


def _sample(tree: Tree, is_over: threading.Event) -> None:
    while not is_over.wait(SAMPLE_EVERY_S):
        tree.cpu_s()


def _key(pid: int, alive: Mapping[int, list[int]]) -> Key:
    numbers = alive.get(pid)
    return pid, numbers[_STARTED] if numbers else -1


def _alive() -> dict[int, list[int]]:
    """Numbers of every `/proc/PID/stat` after the name; the state, a letter, is 0."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text(errors="replace")
        except OSError:
            continue
        found[int(entry)] = [0, *map(int, text.rpartition(")")[2].split()[1:20])]
    return found
