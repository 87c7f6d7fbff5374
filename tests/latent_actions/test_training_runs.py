"""Training as it is run: killed at any moment, and on two ranks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from latent_actions.config import preset
from latent_actions.model import LatentActionModel, build_model
from latent_actions.task import LatentTask
from manifests.config import to_dict
from pipeline.training.checkpoint import list_checkpoints, load_checkpoint
from pipeline.training.metrics import read_metrics
from tests.latent_actions.datasets import Made, make_dataset
from tests.latent_actions.helpers import SMALL

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = [f"model.{key}={value}" for key, value in to_dict(SMALL).items() if key != "name"]
SETS = [*MODEL, "data.validation_pairs=8", "data.validation_share=0.3", "loop.device=cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_dataset(tmp_path_factory.mktemp("runs") / "data", [24] * 6)


def command(made: Made, out: Path, *sets: str, launcher: tuple[str, ...] = ()) -> list[str]:
    words = [*(sys.executable, "-m"), *launcher, "manifests.cli", "latents", "train"]
    words += [str(made.path), "--out", str(out), "--quiet"]
    return words + [word for item in (*SETS, *sets) for word in ("--set", item)]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


def weights(out: Path) -> dict[str, Any]:
    return LatentActionModel.from_pretrained(out).state_dict()


@pytest.mark.parametrize("number", range(2))
def test_a_run_killed_at_a_random_moment_ends_as_if_nothing_had_been(
    made: Made, tmp_path: Path, number: int
) -> None:
    sets = ("loop.steps=24", "loop.checkpoint_every=3", "loop.validate_every=5", "loop.ema=0.1")
    sets = (*sets, "data.batch_size=2")
    subprocess.run(command(made, tmp_path / "whole", *sets), cwd=ROOT, check=True)
    out = tmp_path / "killed"
    with subprocess.Popen(command(made, out, *sets), cwd=ROOT) as run:
        after = random.SystemRandom().randint(1, 20)
        while run.poll() is None and len(read_metrics(out / "metrics.jsonl")) < after:
            time.sleep(0.002)
        os.kill(run.pid, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not (out / "model").exists()
    subprocess.run(command(made, out, *sets), cwd=ROOT, check=True)
    assert losses(out) == losses(tmp_path / "whole"), f"killed after {after} steps"
    for name in ("validation.jsonl", "model/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.fixture(scope="module")
def alone(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with four pairs a step."""
    out = tmp_path_factory.mktemp("alone") / "run"
    sets = ("loop.steps=6", "data.batch_size=4", "loop.lr=2e-3")
    subprocess.run(command(made, out, *sets), cwd=ROOT, check=True)
    return out


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_give_the_losses_of_one(
    made: Made, alone: Path, tmp_path: Path, parallel: str
) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    sets = ("data.batch_size=2", "loop.lr=2e-3", f"loop.parallel={parallel}")
    out = tmp_path / "run"
    for steps in (4, 6):
        words = command(made, out, *sets, f"loop.steps={steps}", launcher=launcher)
        words = [word for word in words if word != "--quiet"] + ["--json"]
        done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
        assert json.loads(done.stdout)["steps"] == steps, "one rank speaks"
    assert losses(out) == pytest.approx(losses(alone), rel=1e-4)
    rows = [read_metrics(run / "validation.jsonl")[-1] for run in (out, alone)]
    for name in ("loss", "psnr", "ssim", "psnr_drop_shuffled", "psnr_still"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3, abs=1e-3), name
    for key, value in weights(alone).items():
        torch.testing.assert_close(weights(out)[key], value, rtol=1e-2, atol=1e-4)
    last = list_checkpoints(out / "checkpoints")[-1]
    assert (last / "shards").exists() == (parallel == "fsdp2")
    assert load_checkpoint(last)["batches"] == {"pairs": 24}


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_train_gives_the_losses_of_one(made: Made, alone: Path, tmp_path: Path) -> None:
    sets = ("loop.steps=6", "data.batch_size=2", "loop.lr=2e-3")
    words = [*command(made, tmp_path / "run", *sets), "--workers", "2"]
    subprocess.run(words, cwd=ROOT, check=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-4)
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_released_size_is_built_without_memory() -> None:
    with torch.device("meta"):
        model = build_model(preset("base").model)
    assert len(LatentTask(model, beta=0).blocks()) == 48
    assert sum(p.numel() for p in model.parameters()) == 709_778_240
