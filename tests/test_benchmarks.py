"""What the benchmarks compute: the CPU time of a process tree, and how busy workers were."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from sides.meter import Seen, SideFailed, charged_ticks, measure
from sides.workers import busy_ratios

FOLDER = sys.path[0]
SIDE = """
import subprocess, sys, time
sys.path.insert(0, {folder!r})
from sides.marks import main

BURN = "import time\\nwhile time.process_time() < 0.3: pass"

def work(job):
    if job["name"] == "broken":
        raise ValueError("a deliberate error")
    if job["name"] == "child":
        subprocess.run([sys.executable, "-c", BURN], check=True)
    return {{"twice": 2 * job["value"]}}

main(work)
"""


@pytest.fixture
def side(tmp_path: Path) -> list[str]:
    script = tmp_path / "side.py"
    script.write_text(SIDE.format(folder=FOLDER))
    return [sys.executable, str(script)]


def test_a_process_that_came_and_went_is_charged_to_its_job(side: list[str]) -> None:
    jobs = [{"name": "idle", "value": 1}, {"name": "child", "value": 2}]
    found = measure(side, jobs)
    assert found["child"]["facts"] == {"twice": 4}
    assert found["child"]["cpu_s"] >= 0.29
    assert found["idle"]["cpu_s"] < 0.2


def test_a_side_that_fails_says_why(side: list[str]) -> None:
    with pytest.raises(SideFailed, match=r"side\.py ended with 1: .*a deliberate error"):
        measure(side, [{"name": "broken", "value": 0}])


def test_children_are_counted_once_whether_waited_for_or_not() -> None:
    root, waited, left = (1, 0), (2, 0), (3, 0)
    seen = {
        root: Seen(parent=None, own=100),
        waited: Seen(parent=root, own=40),
        left: Seen(parent=root, own=7),
    }
    assert charged_ticks(seen) == 147
    seen[left].is_alive = False  # nobody waited for it: what was seen stays
    assert charged_ticks(seen) == 147
    seen[waited].is_alive = False
    seen[root].of_children = 55  # it used 55 by its end
    seen[left].own = 0
    assert charged_ticks(seen) == 155


def test_a_worker_is_busy_from_its_first_start_to_its_last_start() -> None:
    units = [
        {"worker": "a:1", "started_at": 100.0, "seconds": 4.0},
        {"worker": "a:1", "started_at": 105.0, "seconds": 4.0},
        {"worker": "a:1", "started_at": 110.0, "seconds": 90.0},
        {"worker": "a:2", "started_at": 100.0, "seconds": 3.0},
    ]
    assert busy_ratios(units) == {"a:1": 0.8}
