"""Kill `egodojo latents extract` at random moments with SIGKILL and compare with a smooth run.

One dataset is made of the inputs. Its latents are made without interruption, inline and (unless
`--engines inline` is asked for) on Ray, then by a command that is killed and started again. Every
file under `latents/` must have the same bytes and none may be left over.

Predicted: no difference; half of the kills fall between the first shard and the last.
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

STEPS = (1, 8)


def contents(dataset: Path) -> dict[str, str]:
    """Digest of every file under `latents/`."""
    folder = dataset / "latents"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def make_inputs(inputs: list[str], root: Path, unit_len_s: float) -> tuple[Path, Path]:
    """A curated dataset and a `tiny` model with fresh weights."""
    import torch

    from latent_actions.config import tiny
    from latent_actions.model import LatentActionModel

    torch.manual_seed(0)
    LatentActionModel(tiny().model).save_pretrained(root / "model")
    words = [sys.executable, "-m", "manifests.cli", "curate", *inputs, "--out", str(root / "ds")]
    words += ["--set", f"unit_len_s={unit_len_s:g}", "--quiet", "--inline"]
    subprocess.run(words, check=True)
    return root / "ds", root / "model"


def command(dataset: Path, model: Path, *, inline: bool) -> list[str]:
    words = [sys.executable, "-m", "manifests.cli", "latents", "extract", str(dataset), "--all"]
    words += ["--model", str(model), "--quiet"]
    for step in STEPS:
        words += ["--step", str(step)]
    return [*words, "--inline"] if inline else words


def smooth(words: list[str], dataset: Path) -> tuple[float, dict[str, str]]:
    """Seconds of a run without interruption, and what it wrote; the latents are removed again."""
    started = time.monotonic()
    subprocess.run(words, check=True)
    taken_s = time.monotonic() - started
    found = contents(dataset)
    shutil.rmtree(dataset / "latents")
    return taken_s, found


def kill_once(words: list[str], dataset: Path, wait_s: float) -> dict[str, Any] | None:
    """Start the command and kill it after `wait_s`; None when it had ended before."""
    if not killed_after(words, wait_s):
        return None
    names = contents(dataset)
    return {
        "after_s": round(wait_s, 2),
        "tables_stored": sum(name.endswith(".rows.parquet") for name in names),
        "files_without_table": sum(
            name.endswith(".f16") and name.replace(".f16", ".rows.parquet") not in names
            for name in names
        ),
        "temporary_files": sum(".tmp-" in name for name in names),
    }


def killed(
    words: list[str], dataset: Path, args: argparse.Namespace, smooth_s: float, want: dict[str, str]
) -> tuple[list[dict[str, Any]], int, int]:
    """Kill and rerun until there were enough kills; finished folders, and those that differed."""
    draw = random.Random(args.seed)
    table: list[dict[str, Any]] = []
    num_finished = num_different = 0
    while len(table) < args.kills:
        wait_s = draw.uniform(args.least_share * smooth_s, smooth_s)
        row = kill_once(words, dataset, wait_s)
        if row is not None:
            table.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            continue
        num_finished += 1
        num_different += contents(dataset) != want
        shutil.rmtree(dataset / "latents")
    subprocess.run(words, check=True)
    num_different += contents(dataset) != want
    return table, num_finished + 1, num_different


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--unit-len", type=float, default=4.0, help="seconds of video a shard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least-share", type=float, default=0.3, help="earliest kill / smooth run")
    parser.add_argument("--engines", choices=("both", "inline"), default="both")
    parser.add_argument("--ray", action="store_true", help="kill Ray drivers, not inline ones")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="egodojo-kill-") as folder:
        dataset, model = make_inputs(args.inputs, Path(folder), args.unit_len)
        with_ray = args.engines == "both" or args.ray
        ray_words = command(dataset, model, inline=False)
        ray_s, on_ray = smooth(ray_words, dataset) if with_ray else (None, None)
        inline_s, want = smooth(command(dataset, model, inline=True), dataset)
        words = command(dataset, model, inline=not args.ray)
        smooth_s = ray_s if args.ray and ray_s else inline_s
        table, num_finished, num_different = killed(words, dataset, args, smooth_s, want)
    num_tables = sum(name.endswith(".rows.parquet") for name in want)
    result = {
        "steps": STEPS,
        "num_shards": num_tables // len(STEPS),
        "num_files": len(want),
        "seconds_ray": ray_s and round(ray_s, 1),
        "seconds_inline": round(inline_s, 1),
        "ray_equals_inline": on_ray == want if with_ray else None,
        "killed_engine": "ray" if args.ray else "inline",
        "kills": table,
        "num_kills_between_shards": sum(0 < row["tables_stored"] < num_tables for row in table),
        "num_folders_finished": num_finished,
        "num_folders_different": num_different,
        "passed": on_ray in (None, want) and not num_different and num_tables > 0,
    }
    report("kill_extract", {"result": result}, args)
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
