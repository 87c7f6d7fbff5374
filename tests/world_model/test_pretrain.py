"""Pre-training and rollouts: on made-up batches, and through the commands on a small dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from manifests.dataset import Dataset
from manifests.errors import ConfigError, EgodojoError
from manifests.mixture import MixtureSpec
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.metrics import read_metrics
from pipeline.video import decode
from tests.latent_actions.datasets import make_dataset
from tests.mixture_helpers import write_latents
from tests.world_model.test_tokenizer import smooth_video
from world_model import train
from world_model.config import ModelConfig, PretrainConfig, load_pretrain_config
from world_model.model import WorldModel
from world_model.rollout import imagine, psnr
from world_model.sample import sample
from world_model.tokenizer import PcaTokenizer, model_to_pixels, pixels_to_model
from world_model.train import PretrainTask, make_model

SMALL = ModelConfig(
    width=32, num_blocks=2, num_heads=2, modulation_rank=8, text_features=24, context_width=16
)
LOOP = LoopConfig(
    steps=36, lr=5e-3, weight_decay=0.0, grad_clip=1.0, warmup_steps=5, device="cpu", ema=0.1
)
CONFIG = PretrainConfig(model=SMALL, loop=LOOP)
SETS = [
    "model.width=32",
    "model.num_blocks=1",
    "model.num_heads=2",
    "loop.steps=4",
    "loop.checkpoint_every=2",
    "loop.device=cpu",
    "tokenizer.fit_windows=3",
]


def make_task(config: PretrainConfig, tokenizer: PcaTokenizer) -> PretrainTask:
    return PretrainTask(make_model(config), tokenizer, config.objective)


class SmoothBatches:
    """Windows of drifting waves, a function of the position alone."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            self.position += 2
            videos = [smooth_video(self.position % 8 + n) for n in range(2)]
            yield {"video": torch.cat(videos), "action": torch.zeros(2, 12, 384)}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


@pytest.fixture(scope="module")
def tokenizer() -> PcaTokenizer:
    return PcaTokenizer.fit(smooth_video(seed) for seed in range(8))


def test_training_lowers_the_loss(tokenizer: PcaTokenizer, tmp_path: Path) -> None:
    task = make_task(CONFIG, tokenizer)
    result = fit(task, SmoothBatches(), LOOP, out=tmp_path)
    start, end = np.mean(result.losses[:8]), np.mean(result.losses[-8:])
    assert end < 0.8 * start
    row = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(row["flow"] + 0.1 * row["consistency"], rel=1e-5)


def test_resumed_training_has_the_same_losses(tokenizer: PcaTokenizer, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=6)
    whole = fit(make_task(CONFIG, tokenizer), SmoothBatches(), loop, out=tmp_path / "whole")
    for steps in (2, 6):
        task = make_task(CONFIG, tokenizer)
        fit(task, SmoothBatches(), replace(loop, steps=steps), out=tmp_path / "parts")
    assert [row["loss"] for row in read_metrics(tmp_path / "parts/metrics.jsonl")] == whole.losses


def test_loss_of_a_step_never_touches_the_text_projection(
    tokenizer: PcaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(CONFIG, tokenizer)
    weight = task.model.crossattn_proj[0].weight
    assert not weight.requires_grad
    called: list[int] = []
    monkeypatch.setattr(task.model.crossattn_proj[0], "forward", called.append)
    batch = next(iter(SmoothBatches()))
    loss, _ = task.loss(batch, step=0, generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert called == []
    assert weight.grad is None


def test_start_is_reproducible_and_deaf_to_actions(tokenizer: PcaTokenizer) -> None:
    model, again = make_model(CONFIG), make_model(CONFIG)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    other = make_model(replace(CONFIG, loop=replace(LOOP, seed=1)))
    assert not torch.equal(other.x_embedder.proj[1].weight, model.x_embedder.proj[1].weight)
    assert not model.action_embedder_B_D.fc2.weight.any()
    assert make_model(
        replace(CONFIG, zero_action_output=False)
    ).action_embedder_B_D.fc2.weight.any()


def test_start_from_a_model_of_other_sizes_is_refused(tmp_path: Path) -> None:
    WorldModel(SMALL).save_pretrained(tmp_path / "model")
    same = make_model(replace(CONFIG, start_from=tmp_path / "model"))
    assert same.config == SMALL
    with pytest.raises(ConfigError, match=r"start_from .* other sizes"):
        make_model(PretrainConfig(start_from=tmp_path / "model"))


def test_chunks_are_stitched_without_repeating_a_frame(tokenizer: PcaTokenizer) -> None:
    model = WorldModel(SMALL).eval()
    first = smooth_video(3)[:, :, 0]
    actions = torch.randn(1, 24, 384, generator=torch.Generator().manual_seed(0))
    frames = imagine(model, tokenizer, first, actions, num_steps=2, seed=4)
    assert frames.shape == (1, 3, 25, 48, 64)

    def chunk(frame: Tensor, rows: Tensor, seed: int) -> Tensor:
        latent = tokenizer.encode(pixels_to_model(frame)[:, :, None])[:, :, 0]
        latents = sample(model, latent, rows, num_steps=2, seed=seed)
        return model_to_pixels(tokenizer.decode(latents))

    early = chunk(first, actions[:, :12], 4)
    late = chunk(early[:, :, -1], actions[:, 12:], 16)
    assert torch.equal(frames[:, :, :13], early)
    assert torch.equal(frames[:, :, 13:], late[:, :, 1:])
    with pytest.raises(ValueError, match="no whole chunks of 12"):
        imagine(model, tokenizer, first, actions[:, :7])


def test_psnr_of_known_errors() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == pytest.approx(80.0)
    assert psnr(black, black + 255) == pytest.approx(0.0, abs=1e-6)
    grey = black.copy()
    grey[0] += 51
    assert psnr(black, grey) == pytest.approx((80 + 13.9794) / 2, abs=1e-3)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data with space")
    make_dataset(root / "people", [30, 34, 28], embodiments=("human",))
    write_latents(Dataset.open(root / "people"), "lam-0123abcd", 1)
    spec = {
        "sources": {"people": {"dataset": "people", "weight": 1}},
        "window": {"frame_size": [48, 64], "stride": 1},
        "latents": "lam-0123abcd",
    }
    (root / "mixture.yaml").write_text(yaml.safe_dump(spec))
    return root / "mixture.yaml"


Cli = Callable[..., SimpleNamespace]


def pretrain(cli: Cli, mixture: Path, out: Path, *more: str) -> SimpleNamespace:
    sets = [part for item in SETS for part in ("--set", item)]
    return cli("train", "pretrain", "--mixture", mixture, "--out", out, *sets, *more)


@pytest.fixture(scope="module")
def trained(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train.pretrain(load_pretrain_config("tiny", tuple(SETS)), MixtureSpec.load(mixture), out=out)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run of four steps that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_commands_train_resume_and_imagine(cli: Cli, mixture: Path, run: Path) -> None:
    before = [row["loss"] for row in read_metrics(run / "metrics.jsonl")]
    more = pretrain(cli, mixture, run, "--set", "loop.steps=6", "--json")
    assert more.exit_code == 0, more.stderr
    facts = json.loads(more.stdout)
    assert facts["steps"] == 6
    assert facts["loss_start"] > 0
    after = [row["loss"] for row in read_metrics(run / "metrics.jsonl")]
    assert (len(after), after[:4]) == (6, before)

    out = run / "films" / "imagined.mp4"
    args = ["rollout", "--model", run, "--out", out, "--chunks", 2, "--steps", 2, "--json"]
    made = cli(*args, "--mixture", mixture, "--sample", 1)
    assert made.exit_code == 0, made.stderr
    facts = json.loads(made.stdout)
    assert facts["num_frames"] == 25
    frames = list(decode(out))
    assert len(frames) == 25
    assert frames[0].frame.width == 128

    again = cli(*args, "--dataset", mixture.parent / "people", "--clip", facts["clip_id"])
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["clip_id"] == facts["clip_id"]


def test_another_configuration_for_a_run_is_refused(cli: Cli, mixture: Path, run: Path) -> None:
    refused = pretrain(cli, mixture, run, "--set", "batch_size=1")
    assert refused.exit_code == 2
    assert "batch_size is 1, but the run in" in refused.stderr
    other = yaml.safe_load(mixture.read_text()) | {"seed": 9}
    changed = mixture.with_name("other.yaml")
    changed.write_text(yaml.safe_dump(other))
    refused = pretrain(cli, changed, run)
    assert refused.exit_code == 2
    assert "mixture.seed is 9" in refused.stderr


def test_dry_run_counts_and_writes_nothing(cli: Cli, mixture: Path, tmp_path: Path) -> None:
    told = cli(
        *("train", "pretrain", "--config", "2b", "--mixture", mixture, "--out", tmp_path / "x"),
        *("--dry-run", "--json"),
    )
    assert told.exit_code == 0, told.stderr
    facts = json.loads(told.stdout)
    assert facts["parameters"] == 2_151_474_176
    assert facts["window"] == [13, 48, 64]
    assert not (tmp_path / "x").exists()


def test_help_shows_an_example(cli: Cli) -> None:
    for args in (["train", "pretrain"], ["rollout"]):
        told = cli(*args, "--help")
        assert told.exit_code == 0
        assert "Example: egodojo" in " ".join(told.stdout.split())
    listed = cli("train", "--help").stdout
    assert "pretrain" in listed
    assert "distill" not in listed


def test_rollout_errors_say_what_to_do(cli: Cli, mixture: Path, tmp_path: Path) -> None:
    common = ["rollout", "--model", tmp_path, "--out", tmp_path / "x.mp4"]
    told = cli(*common)
    assert told.exit_code == 2
    assert "either --mixture, or --dataset together with --clip" in told.stderr
    told = cli(*common, "--mixture", mixture)
    assert told.exit_code == 1
    assert "holds no exported world model" in told.stderr
    told = cli(*common, "--mixture", mixture, "--fps", "nan")
    assert told.exit_code == 2
    assert "--fps is nan" in told.stderr
    for out, text in ((tmp_path, "is a directory"), (tmp_path / "x.avii", "must end in .mp4")):
        told = cli("rollout", "--model", tmp_path, "--mixture", mixture, "--out", out)
        assert told.exit_code == 2
        assert text in told.stderr


def test_lost_metrics_of_a_finished_run_are_said(cli: Cli, mixture: Path, run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    told = pretrain(cli, mixture, run)
    assert told.exit_code == 1
    assert "metrics.jsonl, which held the losses of every step, is gone" in told.stderr


def test_a_wrong_start_leaves_no_run_behind(cli: Cli, mixture: Path, tmp_path: Path) -> None:
    told = pretrain(cli, mixture, tmp_path / "r", "--set", f"start_from={tmp_path}")
    assert told.exit_code == 1
    assert "is not a model folder" in told.stderr
    assert not (tmp_path / "r").exists()


def test_a_rollout_longer_than_the_clips_says_so(
    cli: Cli, mixture: Path, run: Path, tmp_path: Path
) -> None:
    told = cli(
        *("rollout", "--model", run, "--mixture", mixture, "--out", tmp_path / "x.mp4"),
        *("--chunks", 500),
    )
    assert told.exit_code == 2
    assert "no clip that holds a window of 6001 frames" in told.stderr
    assert "Or imagine less: a rollout of 500 chunks needs 6001 frames" in told.stderr


def test_clip_ids_and_model_folders_without_a_run(
    cli: Cli, mixture: Path, run: Path, tmp_path: Path
) -> None:
    clip = ["--dataset", mixture.parent / "people", "--clip"]
    told = cli("rollout", "--model", run, "--out", tmp_path / "x.mp4", *clip, "a' OR 1")
    assert told.exit_code == 2
    assert "is no clip id" in told.stderr
    told = cli("rollout", "--model", run / "model", "--out", tmp_path / "x.mp4", *clip, "abc")
    assert told.exit_code == 2
    assert "which says how windows are cut" in told.stderr
    assert issubclass(ConfigError, EgodojoError)
