"""Does the latent carry the motion? Training curve, and what held-out pairs lose without theirs.

Trains one of the shipped sizes, made smaller, on simulated footage of two bodies; keeps the losses
and every validation. Predicted before the first run: after 400 steps of 16 pairs, `small` explains
at least 0.05 more of a held-out flow with the latent of the pair than with that of another one;
`tiny` paints frames and needs thousands of steps to gain half a decibel the same way.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, cpu_seconds, report

from pipeline.training.metrics import read_metrics

SETS = {
    "small": ("model.width=48", "data.batch_size=16", "loop.warmup_steps=10"),
    "tiny": ("model.patch_size=8", "loop.warmup_steps=50"),
}
SHARED = (
    "model.frame_height=48",
    "model.frame_width=64",
    "data.validation_share=0.15",
    "data.validation_pairs=128",
)
BARS = {"small": ("explained_drop_shuffled", 0.05), "tiny": ("psnr_drop_shuffled", 0.5)}
"""Least gain of a pair's own latent over that of another pair: share of the flow, and decibels."""
CURVE_POINTS = 50


def egodojo(*words: object) -> None:
    """Run a command, which must succeed."""
    args = [sys.executable, "-m", "manifests.cli", *map(str, words), "--quiet"]
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)


def make_dataset(root: Path, options: argparse.Namespace) -> Path:
    """Simulated footage of two bodies, curated."""
    footage, dataset = root / "footage", root / "dataset"
    bodies = ("--embodiment", "sim_human", "--embodiment", "sim_arm7")
    size = ("--size", "160x120", "--seconds", 3, "--episodes", options.episodes)
    egodojo("simulate", "--out", footage, *bodies, *size)
    for body in bodies[1::2]:
        files = sorted(footage.glob(f"{body}-*.mp4"))
        out = ("--out", dataset, "--recipe", "permissive", "--embodiment", body, "--source", body)
        egodojo("curate", *files, *out, "--inline")
    return dataset


def main() -> int:
    """Train, read the run's own record files, compare with the bar."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dataset", type=Path, help="train on this one instead")
    parser.add_argument("--size", choices=sorted(SETS), default="small")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=14, help="per body, when footage is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="egodojo-latent-training-") as folder:
        root = Path(folder)
        dataset = options.dataset or make_dataset(root, options)
        sets = [*SHARED, *SETS[options.size], f"loop.steps={options.steps}"]
        sets += [f"loop.validate_every={options.steps // 5}"]
        if options.size == "small":
            sets += [f"loop.decay_steps={options.steps}"]
        before = cpu_seconds()
        words = [word for item in sets for word in ("--set", item)]
        egodojo("latents", "train", dataset, "--size", options.size, "--out", root / "run", *words)
        seconds = cpu_seconds() - before
        rows = read_metrics(root / "run" / "metrics.jsonl")
        found = read_metrics(root / "run" / "validation.jsonl")
    measure, bar = BARS[options.size]
    gain = found[-1][measure]
    every = max(1, len(rows) // CURVE_POINTS)
    result = {
        measure: round(gain, 4),
        "bar": bar,
        "validation": [
            {k: round(v, 5) for k, v in row.items() if not isinstance(v, list)} for row in found
        ],
        "loss_curve": [
            [rows[start]["step"], round(sum(r["loss"] for r in part) / len(part), 6)]
            for start in range(0, len(rows), every)
            if (part := rows[start : start + every])
        ],
        "cpu_s_per_step": round(seconds / options.steps, 4),
    }
    report("latent_training", {"settings": sets, "result": result}, options)
    return 0 if gain >= bar else 1


if __name__ == "__main__":
    sys.exit(main())
