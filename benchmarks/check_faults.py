"""Try every fault on `egodojo curate` and compare what a rerun makes of it with an untouched run.

Prediction: every fault ends in one sentence or in silence (a killed driver), and after the rerun
all rows and all bytes equal those of the untouched run; of a file that kills its worker only its
own clips are missing. A full disk needs a small file system of its own, so that row needs root.

    python benchmarks/check_faults.py VIDEOS/a.mp4 VIDEOS/b.mp4 ... --save

Files of 4 to 7 seconds, at least eight, make units of two files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from check_kill_resume import contents, progress
from common import RESULTS, arguments, report

HERE = Path(__file__).resolve().parent
SETTINGS = ("unit_len_s=10", "encode.width=320", "encode.height=240", "attempts=2")
HANG_LIMIT_S = 20
PATIENCE_S = 600
POISONS = ("SIGKILL", "SIGSEGV", "memory", "hang")
SMALL_DISK, LARGE_DISK = "1500k", "64m"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `is_equal` None where a difference is what was asked for."""

    fault: str
    exit_code: int
    said: str
    num_committed: int
    num_pending: int
    rerun_exit_code: int | None
    is_equal: bool
    note: str = ""


@dataclass(kw_only=True)
class Check:
    """The footage, the untouched run and the rows found so far."""

    root: Path
    videos: Path
    want: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def out(self, name: str) -> Path:
        return self.root / name.replace(" ", "-") / "ds"

    def start(self, out: Path, *options: str, **faults: str) -> subprocess.Popen[str]:
        """The command with faults; Ray of its own unless RAY_ADDRESS is among the faults."""
        out.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, str(HERE / "fault_work.py"), "curate", str(self.videos)]
        words += ["--out", str(out), "--quiet", *options]
        for setting in SETTINGS:
            words += ["--set", setting]
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= {"OMP_NUM_THREADS": "1", **faults}
        return subprocess.Popen(
            words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, out: Path, *options: str, **faults: str) -> tuple[int, str]:
        return _end(self.start(out, *options, **faults))

    def add(
        self,
        fault: str,
        out: Path,
        ended: tuple[int, str],
        *,
        reruns: bool = True,
        note: str = "",
        differs: Callable[[Path], bool] | None = None,
    ) -> None:
        """Count what is there, rerun without the fault, compare."""
        committed, pending = progress(out)
        code = self.run(out, "--inline")[0] if reruns else None
        is_equal = contents(out) == self.want if differs is None else not differs(out)
        row = Row(
            fault=fault,
            exit_code=ended[0],
            said=ended[1],
            num_committed=committed,
            num_pending=pending,
            rerun_exit_code=code,
            is_equal=is_equal,
            note=note,
        )
        self.rows.append(row)
        print(json.dumps(asdict(row)), file=sys.stderr, flush=True)


# --- the faults -------------------------------------------------------------------------------


def killed_driver(check: Check) -> None:
    out = check.out("driver")
    child = check.start(out, FAULT_DELAY_S="2")
    _wait_for_units(out, child, 1)
    child.send_signal(signal.SIGKILL)
    check.add("kill -9 of the driver", out, _end(child))


def asked_to_end(check: Check, number: signal.Signals, what: str) -> None:
    out = check.out(number.name)
    child = check.start(out, FAULT_DELAY_S="2")
    _wait_for_units(out, child, 1)
    os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
    started = time.monotonic()
    ended = _end(child)
    check.add(what, out, ended, note=f"ended after {time.monotonic() - started:.0f} s")


def killed_worker(check: Check) -> None:
    """Kill a busy worker, and start the same command a second time meanwhile."""
    out = check.out("worker")
    child = check.start(out, FAULT_DELAY_S="8")
    _wait_for_units(out, child, 1)
    second = check.run(out, "--inline")
    worker = _busy_worker(psutil.Process(child.pid))
    worker.kill()
    committed, pending = progress(out)
    ended = _end(child)
    note = f"at the kill: {committed} units committed, {pending} pending"
    check.add("kill -9 of a worker", out, ended, reruns=False, note=note)
    check.add("two runs at once", out, second, reruns=False, note="this is the second; see above")


def killed_node(check: Check) -> None:
    out = check.out("node")
    with _cluster(2) as (address, raylets):
        child = check.start(out, RAY_ADDRESS=address, FAULT_DELAY_S="3")
        _wait_for_units(out, child, 1)
        os.kill(raylets[0], signal.SIGKILL)
        committed, pending = progress(out)
        ended = _end(child)
    note = f"of 3 nodes; at the kill: {committed} units committed, {pending} pending"
    check.add("kill -9 of a node", out, ended, reruns=False, note=note)


def poisonous_files(check: Check) -> None:
    """Four files in four units, each of which ends its worker in its own way."""
    out = check.out("poison")
    names = sorted(file.name for file in check.videos.iterdir())
    files = dict(zip(names[1::2], POISONS, strict=False))
    faults = {"FAULT_FILES": json.dumps(files)}
    ended = check.run(out, "--set", f"timeout_s={HANG_LIMIT_S}", **faults)
    states = _states(out)
    lost = {name for name, (state, _) in states.items() if state == "quarantined"}
    is_equal = _clips(out, lost) == _clips(check.out("untouched"), lost)
    for name, poison in files.items():
        state, detail = states[name]
        check.add(
            f"a file whose worker always dies: {poison}",
            out,
            ended,
            reruns=False,
            note=f"{state}: {detail}; all other files, its unit's too, as without it",
            differs=lambda _: not (is_equal and lost == set(files)),
        )
    ended = check.run(out, "--inline", "--set", "failure_budget_ratio=0.5")
    check.add(
        "the same within the failure budget",
        out,
        ended,
        reruns=False,
        differs=lambda _: ended[0] != 0,
    )


def full_disk(check: Check) -> None:
    out = check.out("disk")
    out.parent.mkdir(parents=True)
    with _small_disk(out.parent) as resize:
        ended = check.run(out, "--inline")
        resize(LARGE_DISK)
        check.add(f"disk full (a file system of {SMALL_DISK})", out, ended)


def flaky_source(check: Check) -> None:
    out = check.out("flaky")
    ended = check.run(out, "--inline", FAULT_READS="1")
    check.add("each source fails once to be read", out, ended, reruns=False)
    out = check.out("broken")
    ended = check.run(out, "--inline", FAULT_READS="1000000")
    check.add("the storage of the sources is down", out, ended)


def corrupted_input(check: Check) -> None:
    """Damage a file that is probed and planned, but not worked on yet."""
    out = check.out("corrupt")
    child = check.start(out, "--inline", FAULT_DELAY_S="2")
    _wait_for_units(out, child, 1)
    victim = _pending_file(out)
    whole = Path(victim).read_bytes()
    Path(victim).write_bytes(whole[: len(whole) // 2])
    committed, pending = progress(out)
    ended = _end(child)
    Path(victim).write_bytes(whole)
    lost = {Path(victim).name}
    state, detail = _states(out)[Path(victim).name]
    expected = _clips(check.out("untouched"), lost)
    check.add(
        "an input cut off in the middle of the run",
        out,
        ended,
        reruns=False,
        note=f"{state}: {detail.replace(str(check.root), '...')}; at that time {committed} units "
        f"committed, {pending} pending; all other files as without it",
        differs=lambda path: _clips(path, lost) != expected,
    )


# --- tools ------------------------------------------------------------------------------------


def _end(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said about the end."""
    try:
        _, stderr = child.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        raise SystemExit(f"the command {child.args} did not end in {PATIENCE_S} s") from None
    lines = [line for line in stderr.splitlines() if line.startswith("egodojo:")]
    if child.returncode > 0 and not lines:
        print(stderr, file=sys.stderr)
    said = lines[-1].removeprefix("egodojo:").strip() if lines else ""
    return child.returncode, said.replace(tempfile.gettempdir(), "...")


def _wait_for_units(out: Path, child: subprocess.Popen[str], number: int) -> None:
    """Until that many units are committed; their commits are files, which cost nothing to count."""
    log = out / "catalog" / "units" / "_delta_log"
    deadline = time.monotonic() + PATIENCE_S
    while len(list(log.glob("*.json"))) <= number:
        if child.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no unit was committed in {out}: {_end(child)}")
        time.sleep(0.2)


def _busy_worker(driver: psutil.Process) -> psutil.Process:
    """A worker of this driver's own Ray that is at work."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for process in driver.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if words.startswith("ray::worker"):  # the name of our task; idle ones lose it
                    return process
        time.sleep(0.1)
    raise SystemExit("no worker was found at work")


@contextlib.contextmanager
def _cluster(num_others: int) -> Iterator[tuple[str, list[int]]]:
    """A cluster of nodes with one CPU each; its address and the others' raylets."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        others = [cluster.add_node(**node) for _ in range(num_others)]
        raylets = [other.all_processes["raylet"][0].process.pid for other in others]
        yield cluster.address, raylets
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """A small file system in memory at `folder`; yields a function that changes its size."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "egodojo", str(folder)], check=True
    )
    try:
        yield lambda size: subprocess.run(
            ["mount", "-o", f"remount,size={size}", str(folder)], check=True
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _copied(names: list[str], folder: Path) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(name, folder)
    return folder


def _saved(without: set[str]) -> list[dict[str, Any]]:
    """Rows of an earlier run for faults that this one did not try."""
    path = RESULTS / "faults.json"
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["result"]["table"]
    return [row for row in rows if row["fault"] not in without]


def _states(out: Path) -> dict[str, tuple[str, str]]:
    from manifests.dataset import Dataset

    rows = Dataset.open(out).sql("SELECT uri, state, detail FROM files").to_pylist()
    return {Path(row["uri"]).name: (row["state"], row["detail"] or "") for row in rows}


def _clips(out: Path, without: set[str]) -> dict[str, Any]:
    """Row and bytes of every clip, but of some files; ids of units and shards left out.

    Shards are compared by their members: one that lacks a file's clips is another tar.
    """
    import tarfile

    from manifests.dataset import Dataset

    found: dict[str, Any] = {}
    for row in Dataset.open(out).table("clips").to_pylist():
        if Path(row["uri"]).name in without:
            continue
        row["uri"] = Path(row["uri"]).name
        row["unit_id"] = ""
        found[row["clip_id"]] = [repr(sorted(row.items()))]
    for tar in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                clip_id, _, suffix = member.name.partition(".")
                stream = archive.extractfile(member)
                if clip_id in found and suffix == "mp4" and stream is not None:
                    found[clip_id].append(stream.read())
    return found


def _pending_file(out: Path) -> str:
    """The last file of the unit that is handed out last."""
    from curation.planning import VideoRows, by_declared_pixels
    from manifests.dataset import Dataset

    dataset = Dataset.open(out)
    units = by_declared_pixels(dataset.pending_units(), VideoRows(dataset.table("videos")))
    *_, last = units
    return last.parts[-1].uri


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, for people."""
    lines = [
        "| fault | exit code and what it said | committed, pending | rerun | equal | note |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        code, said = row["rerun_exit_code"], row["said"] or "(nothing)"
        rerun = "-" if code is None else f"exit {code}"
        lines.append(
            f"| {row['fault']} | {row['exit_code']}: {said} | {row['num_committed']}, "
            f"{row['num_pending']} | {rerun} | {'yes' if row['is_equal'] else 'NO'} "
            f"| {row['note']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--only", nargs="*", help="only these; others stay as saved")
    args = parser.parse_args()
    faults: dict[str, Callable[[Check], None]] = {
        "flaky_source": flaky_source,
        "full_disk": full_disk,
        "corrupted_input": corrupted_input,
        "poisonous_files": poisonous_files,
        "killed_worker": killed_worker,
        "killed_driver": killed_driver,
        "killed_node": killed_node,
        "ctrl_c": lambda check: asked_to_end(check, signal.SIGINT, "Ctrl-C"),
        "sigterm": lambda check: asked_to_end(check, signal.SIGTERM, "SIGTERM"),
    }
    here = os.environ.get("PYTHONPATH", "")  # workers import the faults, too
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [here])])
    if os.geteuid() != 0:
        faults.pop("full_disk")
    with tempfile.TemporaryDirectory(prefix="egodojo-faults-") as folder:
        tempfile.tempdir = folder
        check = Check(root=Path(folder), videos=_copied(args.inputs, Path(folder, "videos")))
        code, said = check.run(check.out("untouched"), "--inline")
        if code:
            raise SystemExit(f"the untouched run ended with exit code {code}: {said}")
        check.want = contents(check.out("untouched"))
        num_units = sum(progress(check.out("untouched")))
        for name, try_fault in faults.items():
            if not args.only or name in args.only:
                try_fault(check)
    tempfile.tempdir = None
    table = [asdict(row) for row in check.rows]
    if args.only:
        table = [*_saved({row.fault for row in check.rows}), *table]
    print(markdown(table), file=sys.stderr)
    result = {
        "num_files": len(args.inputs),
        "num_units": num_units,
        "table": table,
        "passed": all(row["is_equal"] for row in table),
    }
    report("faults", {"result": result}, args)
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
