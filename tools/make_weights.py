"""Film, curate, train: makes the weights of `--model small` again, from nothing but this project.

Every stage is an egodojo command that goes on where it stopped, so the whole may be killed and
started again; nothing takes an hour by itself. `--split dev` and `--split test` film the footage
that benchmarks/bench_retrieval.py scores weights on, and train nothing.

    python tools/make_weights.py --out build/weights
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "latent_actions" / "shipped" / "small"
MOTIONS = 13
SECONDS = 2
SOME_FAILED = 3
"""Exit code of `simulate` when a motion fails in every scene of a seed: one in some hundred."""
RECORDING = "regexp_extract(uri, '[^/]+$')"
"""The cameras' folders hold videos of the same names."""
CAMERA = "nullif(regexp_extract(uri, '-(ego|moving|side)/', 1), 'moving')"
"""What moves with the head is learned from, but neighbours are sought by the still cameras."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """Episodes of a body by one camera: every motion on so many seeds."""

    camera: str
    num_seeds: int
    from_seed: int = 0
    """Counted from the first seed of the body; on the same seed all cameras film the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Footage of some bodies."""

    bodies: tuple[str, ...]
    first_seed: int
    shots: tuple[Shots, ...]
    next_body: int = 1000
    """Between the first seeds of two bodies; with 0 all bodies do the same on the same paths."""


SPLITS = {
    "train": Split(
        bodies=("sim_human", "sim_arm7", "sim_humanoid", "sim_arm5"),
        first_seed=10_000,
        shots=tuple(Shots(camera=name, num_seeds=20) for name in ("ego", "moving", "side")),
    ),
    # Settings and normalisations are chosen here; sim_arm6 is not among the bodies trained on.
    "dev": Split(
        bodies=("sim_human", "sim_arm7", "sim_humanoid", "sim_arm5", "sim_arm6"),
        first_seed=20_000,
        shots=(
            Shots(camera="ego", num_seeds=6),
            Shots(camera="moving", num_seeds=3, from_seed=100),
        ),
        next_body=0,
    ),
    # Scored once. No weights were chosen on sim_claw; those before these were scored on the seeds
    # from 30,000 on, so that split is spent.
    "test": Split(
        bodies=("sim_claw", "sim_arm6", "sim_arm5", "sim_human", "sim_arm7", "sim_humanoid"),
        first_seed=40_000,
        shots=(
            Shots(camera="ego", num_seeds=8),
            Shots(camera="moving", num_seeds=5, from_seed=500),
        ),
    ),
}


def main() -> int:
    """Make one split, and the weights when it is the training split."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "weights")
    parser.add_argument("--split", choices=sorted(SPLITS), default="train")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--ship", action="store_true", help="put the weights into the package")
    args = parser.parse_args()
    dataset = make_split(args.split, args.out)
    if args.split != "train":
        print(dataset)
        return 0
    run = args.out / f"run-{args.seed}"
    train(dataset, run, seed=args.seed)
    if args.ship:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(run / "model" / name, SHIPPED / name)
    print(run / "model")
    return 0


def make_split(name: str, out: Path) -> Path:
    """Film and curate one split; returns its dataset."""
    split, footage, dataset = SPLITS[name], out / "footage" / name, out / name
    for number, body in enumerate(split.bodies):
        seed = split.first_seed + number * split.next_body
        folders = []
        for shots in split.shots:
            folders.append(footage / f"{body}-{shots.camera}")
            egodojo(
                "simulate",
                *("--out", folders[-1], "--embodiment", body, "--camera", shots.camera),
                *("--seed", seed + shots.from_seed, "--episodes", shots.num_seeds * MOTIONS),
                *("--seconds", SECONDS, "--workers", os.cpu_count() or 1),
                passes=(0, SOME_FAILED),
            )
        egodojo(
            "curate",
            *(*folders, "--out", dataset, "--recipe", "permissive"),
            *("--embodiment", body, "--source", body),
        )
    return dataset


def train(dataset: Path, run: Path, *, seed: int) -> None:
    """Train the size `small` as it is configured."""
    egodojo(
        *("latents", "train", dataset, "--size", "small", "--out", run),
        *("--set", f"loop.seed={seed}"),
        *("--set", f"neighbours.recording={RECORDING}", "--set", f"neighbours.camera={CAMERA}"),
    )


def egodojo(*words: object, passes: Sequence[int] = (0,)) -> None:
    """Print one command and run it; the script ends when its exit code is no pass."""
    command = [str(word) for word in (*words, "--quiet")]
    print("$ egodojo", shlex.join(command), flush=True)
    begun = time.monotonic()
    done = subprocess.run(_argv(command), cwd=ROOT, check=False)
    if done.returncode not in passes:
        raise SystemExit(done.returncode)
    print(f"  {time.monotonic() - begun:.0f} s", flush=True)


def _argv(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "manifests.cli", *command]


if __name__ == "__main__":
    sys.exit(main())
