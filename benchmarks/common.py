"""Shared by every benchmark: machine facts, CPU seconds of a process tree, the JSON record."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """CPU, cores, memory, versions and load: what a reader needs to judge a number."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    packages = ("av", "torch", "ray", "deltalake", "duckdb", "mujoco", "faiss-cpu", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu_seconds() -> float:
    """User and system seconds of this process and its finished children."""
    own, children = (
        resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def own_peak_mb() -> float:
    """Peak resident memory of this program; `getrusage` also counts the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (words,) = (line.split() for line in lines if line.startswith("VmHWM:"))
    return int(words[1]) / 1024


def killed_after(words: Sequence[str], wait_s: float) -> bool:
    """Start a command and SIGKILL it after `wait_s`; False when it had ended before, and well."""
    child = subprocess.Popen(words, start_new_session=True)
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
        return True
    if child.returncode:
        raise SystemExit(f"the command failed by itself with exit code {child.returncode}")
    return False


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/<theme>.json")
    return parser


def _without_folder(word: str) -> str:
    """A path of this machine says nothing to a reader; its last name may."""
    return Path(word).name if Path(word).is_absolute() else word


def report(theme: str, record: dict[str, Any], args: argparse.Namespace) -> None:
    """Print a record, and keep it when asked to."""
    record = {
        "benchmark": theme,
        "command": " ".join(["python", *map(_without_folder, sys.argv)]),
        "machine": machine(),
        **record,
    }
    text = json.dumps(record, indent=2)
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{theme}.json").write_text(text + "\n", encoding="utf-8")
    print(text if args.json else json.dumps(record.get("result", record), indent=2))
