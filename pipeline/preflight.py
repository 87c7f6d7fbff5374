"""Checks of this machine and installation before any work: what is broken and what to do about it.

Libraries are tried in child processes: a wheel that crashes at import is a finding, not the end.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from manifests.errors import EgodojoError
from manifests.origins import check_origins

from .runner import available_cpus, engine_started, run_isolated, run_units
from .testing_work import double

Status = Literal["ok", "warn", "fail"]
GIB = 2**30
MIN_PYTHON = (3, 11)
MIN_DISK_BYTES, GOOD_DISK_BYTES = 1 * GIB, 10 * GIB
MIN_MEMORY_BYTES, GOOD_MEMORY_BYTES = 1 * GIB, 4 * GIB
GOOD_SHM_BYTES = 256 * 2**20
CHILD_LIMIT_S = 90.0
PACKAGES = (
    "av", "click", "deltalake", "duckdb", "faiss-cpu", "mujoco", "numpy", "obstore",
    "open-clip-torch", "pillow", "psutil", "pyarrow", "PyYAML", "ray", "rich", "safetensors",
    "torch", "webdataset",
)  # fmt: skip

# name: (mode, any of these codecs of FFmpeg will do)
_CODECS = {
    "H.264 encoder": ("w", ["libx264"]),
    "H.264 decoder": ("r", ["h264"]),
    "HEVC decoder": ("r", ["hevc"]),
    "VP9 decoder": ("r", ["vp9", "libvpx-vp9"]),
    "AV1 decoder": ("r", ["libdav1d", "libaom-av1", "av1"]),
}
_CODEC_PROBE = """
import json, sys, av
from av.codec import Codec
def has(name, mode):
    try:
        return bool(Codec(name, mode))
    except ValueError:
        return False
wanted = json.loads(sys.argv[1])
missing = [what for what, (mode, names) in wanted.items() if not any(has(n, mode) for n in names)]
versions = {name: ".".join(map(str, v)) for name, v in av.library_versions.items()}
print(json.dumps({"missing": missing, "libavcodec": versions.get("libavcodec", "?")}))
"""
_DECORD_PROBE = "import json, decord; print(json.dumps({'version': decord.__version__}))"
_GPU_PROBE = """
import json, torch
found = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
gpus = [torch.cuda.get_device_properties(i) for i in found]
print(json.dumps({"gpus": [[g.name, g.total_memory] for g in gpus], "cuda": torch.version.cuda}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        status: `ok`, `warn` (works, with a limit) or `fail` (something cannot work).
        detail: What was found.
        next_step: What to do; None when `ok`.
    """

    name: str
    status: Status
    detail: str
    next_step: str | None = None


def run_checks(folder: Path | None = None) -> list[Check]:
    """Every check, in the order of the report; side by side, some ten seconds in all.

    Args:
        folder: Where data will be written; default: the current folder.
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_names,
        check_packages,
        check_codecs,
        check_decord,
        lambda: check_disk("disk", folder or Path.cwd()),
        lambda: check_disk("temporary files", Path(tempfile.gettempdir())),
        check_memory,
        check_shared_memory,
        check_cpus,
        check_gpu,
        check_ray,
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        return list(pool.map(lambda check: check(), checks))


def check_python() -> Check:
    """The interpreter's version."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] >= MIN_PYTHON:
        return Check(name="python", status="ok", detail=found)
    needed = ".".join(map(str, MIN_PYTHON))
    return Check(
        name="python",
        status="fail",
        detail=f"{found}, but {needed} or newer is needed",
        next_step=f"Install Python {needed} or newer and set up again.",
    )


def check_names() -> Check:
    """Are the five generically named packages ours, and would a worker here find the same?"""
    try:
        check_origins()
    except EgodojoError as error:
        return Check(
            name="package names", status="fail", detail=error.message, next_step=error.hint
        )
    home = Path(__file__).resolve().parent.parent
    return Check(name="package names", status="ok", detail=f"all five come from {home}")


def check_packages() -> Check:
    """Is every library installed, in which version?"""
    found: dict[str, str] = {}
    missing = []
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            name="libraries",
            status="fail",
            detail=f"not installed: {', '.join(missing)}",
            next_step=f"{sys.executable} -m pip install {' '.join(missing)}",
        )
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return Check(name="libraries", status="ok", detail=versions)


def check_codecs() -> Check:
    """Has PyAV's FFmpeg what reading and writing need?"""
    answer, error = ask_child(_CODEC_PROBE, json.dumps(_CODECS))
    reinstall = f"{sys.executable} -m pip install --force-reinstall --only-binary av av"
    if answer is None:
        return Check(
            name="video codecs",
            status="fail",
            detail=f"PyAV cannot be used: {error}",
            next_step=reinstall,
        )
    if answer["missing"]:
        return Check(
            name="video codecs",
            status="fail" if any("H.264" in what for what in answer["missing"]) else "warn",
            detail=f"this PyAV has no {', no '.join(answer['missing'])}",
            next_step=f"{reinstall} (the wheels bring all of them)",
        )
    detail = f"{', '.join(_CODECS)} (libavcodec {answer['libavcodec']})"
    return Check(name="video codecs", status="ok", detail=detail)


def check_decord() -> Check:
    """The second decoder, which nothing needs."""
    answer, error = ask_child(_DECORD_PROBE)
    if answer is not None:
        return Check(name="decord", status="ok", detail=f"{answer['version']} (optional)")
    return Check(
        name="decord",
        status="warn",
        detail=f"cannot be used: {error}",
        next_step="Nothing, unless you want the optional backend: pip install decord (x86-64).",
    )


def check_disk(name: str, folder: Path) -> Check:
    """Can `folder` be written, and is there room?"""
    if not os.access(folder, os.W_OK):
        return Check(
            name=name,
            status="fail",
            detail=f"{folder} cannot be written",
            next_step="Change to a folder of yours, or set TMPDIR for temporary files.",
        )
    free = shutil.disk_usage(folder).free
    return _enough(
        name,
        free,
        least=MIN_DISK_BYTES,
        good=GOOD_DISK_BYTES,
        where=f"free at {folder}",
        next_step="Free some space; an hour of 640x480 clips takes about 0.5 GiB.",
    )


def check_memory() -> Check:
    """Memory that is free now, within the container's limit."""
    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    try:
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        pass  # no limit, or no cgroup version 2
    return _enough(
        "memory",
        free,
        least=MIN_MEMORY_BYTES,
        good=GOOD_MEMORY_BYTES,
        where="available",
        next_step="Close other programs, or run with --inline: one worker needs about 0.7 GiB.",
    )


def check_shared_memory() -> Check:
    """Room for Ray's object store; without it Ray falls back to slow files."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check(name="shared memory", status="ok", detail="not used on this system")
    free = shutil.disk_usage(folder).free
    return _enough(
        "shared memory",
        free,
        least=0,
        good=GOOD_SHM_BYTES,
        where="free at /dev/shm",
        next_step="In a container, start it with --shm-size=1g.",
    )


def check_cpus() -> Check:
    """CPUs that work may be spread over."""
    usable, all_of_them = available_cpus(), os.cpu_count() or 1
    detail = f"{usable} usable of {all_of_them}"
    return Check(name="CPUs", status="ok", detail=detail)


def check_gpu() -> Check:
    """Does PyTorch see the GPU that the machine has?"""
    answer, error = ask_child(_GPU_PROBE)
    if answer is None:
        return Check(
            name="GPU",
            status="fail",
            detail=f"PyTorch cannot be used: {error}",
            next_step=f"{sys.executable} -m pip install --force-reinstall torch",
        )
    if answer["gpus"]:
        gpus = ", ".join(f"{name} ({size / GIB:.0f} GiB)" for name, size in answer["gpus"])
        return Check(name="GPU", status="ok", detail=gpus)
    if Path("/dev/nvidia0").exists():
        build = f"CUDA {answer['cuda']}" if answer["cuda"] else "CPU only"
        return Check(
            name="GPU",
            status="warn",
            detail=f"this machine has one, but PyTorch ({build}) does not see it",
            next_step="Install a PyTorch build that matches the driver shown by nvidia-smi.",
        )
    return Check(name="GPU", status="ok", detail="none: everything runs on the CPU, small models")


def check_ray() -> Check:
    """Start Ray here, or join RAY_ADDRESS, and run one unit on it."""
    address = os.environ.get("RAY_ADDRESS")
    outcome = run_isolated(ray_round_trip, 21, timeout_s=CHILD_LIMIT_S)
    where = f"RAY_ADDRESS={address}" if address else "started on this machine"
    if outcome.kind == "ok":
        nodes, cpus = outcome.result
        plural = "" if nodes == 1 else "s"
        detail = f"{where}: {nodes} node{plural}, {cpus:g} CPUs, one unit done"
        return Check(name="Ray", status="ok", detail=detail)
    return Check(
        name="Ray",
        status="fail",
        detail=f"{where}: {outcome.error}",
        next_step=(
            "Check the address; a cluster with a token also needs RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN; or unset RAY_ADDRESS to use this machine alone."
            if address
            else "Use --inline to work without Ray; its words above name the cause."
        ),
    )


def ray_round_trip(unit: int) -> tuple[int, float]:
    """Run one unit on Ray; returns the number of nodes and CPUs. Runs in a child process."""
    with engine_started("ray"):
        import ray

        (outcome,) = run_units(double, [unit], timeout_s=CHILD_LIMIT_S)
        if outcome.kind != "ok" or outcome.result != 2 * unit:
            raise EgodojoError(f"A unit did not come back: {outcome.error}.")
        nodes = [n for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
        return len(nodes), sum(node["Resources"].get("CPU", 0.0) for node in nodes)


def ask_child(code: str, *args: str) -> tuple[Any, str]:
    """Run Python code that prints JSON in a child; returns (answer or None, why there is none)."""
    command: Sequence[str] = [sys.executable, "-c", code, *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {CHILD_LIMIT_S:g} s"
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), ""
    if done.returncode < 0:
        return None, f"importing it ends the process with signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"exit status {done.returncode}"


def _enough(name: str, amount: int, *, least: int, good: int, where: str, next_step: str) -> Check:
    detail = f"{amount / GIB:.1f} GiB {where}"
    if amount >= good:
        return Check(name=name, status="ok", detail=detail)
    status: Status = "fail" if amount < least else "warn"
    wanted = f"{detail}; {good / GIB:g} GiB or more is comfortable"
    return Check(name=name, status=status, detail=wanted, next_step=next_step)
