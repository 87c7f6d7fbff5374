"""Kill the driver of `egodojo curate` at random moments with SIGKILL and compare with a smooth run.

Three datasets are made of the same inputs: one with Ray without interruption, one inline, one whose
driver is killed and started again. Tables (as sets of rows) and all shard files must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, killed_after, report

TABLES = ("videos", "plan", "units", "clips", "decisions")


def contents(path: Path) -> dict[str, str]:
    """Digest of every table (rows as a set) and of every shard file."""
    from manifests.dataset import Dataset

    dataset = Dataset.open(path)
    found = {}
    for name in TABLES:
        rows = sorted(repr(sorted(row.items())) for row in dataset.table(name).to_pylist())
        found[name] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    for file in sorted((path / "shards").iterdir()):
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def command(inputs: list[str], out: Path, unit_len_s: float, *, inline: bool) -> list[str]:
    words = [sys.executable, "-m", "manifests.cli", "curate", *inputs, "--out", str(out)]
    words += ["--set", f"unit_len_s={unit_len_s:g}", "--quiet"]
    return [*words, "--inline"] if inline else words


def smooth(inputs: list[str], out: Path, unit_len_s: float, *, inline: bool) -> float:
    started = time.monotonic()
    subprocess.run(command(inputs, out, unit_len_s, inline=inline), check=True)
    return time.monotonic() - started


def progress(out: Path) -> tuple[int, int]:
    """Committed and pending units."""
    from manifests.dataset import Dataset

    if not (out / "dataset.yaml").is_file():
        return 0, 0
    dataset = Dataset.open(out)
    return dataset.table("units").num_rows, len(dataset.pending_units())


def kill_once(words: list[str], out: Path, wait_s: float) -> dict[str, Any] | None:
    """Start the command, kill its driver after `wait_s`; None when it had ended before."""
    if not killed_after(words, wait_s):
        return None
    committed, pending = progress(out)
    shards = out / "shards"
    left = [file.name for file in shards.iterdir()] if shards.is_dir() else []
    return {
        "after_s": round(wait_s, 2),
        "units_committed": committed,
        "units_pending": pending,
        "temporary_files": sum(".tmp-" in name for name in left),
        "shards_renamed": sum(name.endswith(".tar") for name in left),
    }


def killed(
    inputs: list[str], out: Path, args: argparse.Namespace, smooth_s: float, want: dict[str, str]
) -> tuple[list[dict[str, Any]], int]:
    """Kill and rerun until there were enough kills; also how often a finished dataset differed."""
    draw = random.Random(args.seed)
    table: list[dict[str, Any]] = []
    num_different = 0
    words = command(inputs, out, args.unit_len, inline=args.inline)
    while len(table) < args.kills:
        wait_s = draw.uniform(args.least_s, max(args.least_s + 1, args.spread * smooth_s))
        row = kill_once(words, out, wait_s)
        if row is not None:
            table.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            continue
        num_different += contents(out) != want
        shutil.rmtree(out)
    subprocess.run(words, check=True)
    num_different += contents(out) != want
    return table, num_different


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--unit-len", type=float, default=30.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least-s", type=float, default=1.0, help="earliest kill")
    parser.add_argument("--spread", type=float, default=0.6, help="latest kill / smooth run")
    parser.add_argument("--inline", action="store_true", help="kill inline drivers, not Ray ones")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="egodojo-kill-") as folder:
        root = Path(folder)
        ray_s = smooth(args.inputs, root / "ray" / "ds", args.unit_len, inline=False)
        inline_s = smooth(args.inputs, root / "inline" / "ds", args.unit_len, inline=True)
        want = contents(root / "ray" / "ds")
        is_same_inline = contents(root / "inline" / "ds") == want
        smooth_s = inline_s if args.inline else ray_s
        table, num_different = killed(args.inputs, root / "killed" / "ds", args, smooth_s, want)
        num_units = sum(progress(root / "ray" / "ds"))
    in_between = [row for row in table if row["units_committed"] and row["units_pending"]]
    result = {
        "num_units": num_units,
        "num_shards": sum(name.endswith(".tar") for name in want),
        "seconds_ray": round(ray_s, 1),
        "seconds_inline": round(inline_s, 1),
        "inline_equals_ray": is_same_inline,
        "kills": table,
        "num_kills_between_units": len(in_between),
        "num_datasets_different_after_resume": num_different,
        "passed": is_same_inline and not num_different,
    }
    report("kill_resume", {"result": result}, args)
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
