"""Pre-training a world model: mixture, tokenizer and objective joined in the one training loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifests.config import to_dict
from manifests.errors import ConfigError
from manifests.mixture import MixtureSpec
from manifests.mixture.plan import MixturePlan
from pipeline.training.data import WindowLoader
from pipeline.training.loop import FitResult, fit
from pipeline.training.optimisation import seed_of
from pipeline.training.ranks import rank, wait_for_all, world_size
from pipeline.training.run_folder import bind_config, hold_run

from .config import RESUME_MAY_CHANGE, ObjectiveConfig, PretrainConfig
from .model import WorldModel
from .objective import draw, flow_loss
from .tokenizer import PcaTokenizer, VideoTokenizer, pixels_to_model, tokenizer_files

log = logging.getLogger(__name__)

MODEL_DIR = "model"
TOKENIZER_DIR = "tokenizer"
PLAN_NAME = "mixture.plan"


@dataclass(frozen=True, slots=True)
class PretrainTask:
    """What the loop trains: the network on latents of a frozen tokenizer."""

    model: WorldModel
    tokenizer: VideoTokenizer
    objective: ObjectiveConfig

    def modules(self) -> dict[str, nn.Module]:
        """The network; the tokenizer is not trained."""
        return {"model": self.model}

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, which can be sharded one by one."""
        return list(self.model.blocks)

    def entry_points(self) -> Sequence[str]:
        """Only `forward` is called."""
        return ()

    def loss(
        self, batch: dict[str, Any], *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Rectified-flow loss of a loader's batch (`video`, `action`)."""
        video, actions = batch["video"], batch["action"]
        with torch.no_grad(), torch.autocast(video.device.type, enabled=False):
            latents = self.tokenizer.to(video.device).encode(pixels_to_model(video))

        def network(x: Tensor, timesteps_B1: Tensor, condition_mask: Tensor) -> Tensor:
            v: Tensor = self.model(x, timesteps_B1, actions, condition_mask=condition_mask)
            return v

        result = flow_loss(
            network,
            latents,
            draw(latents, generator),
            shift=self.objective.shift,
            consistency_weight=self.objective.consistency_weight,
            compat=self.objective.compat,
        )
        parts = {
            "flow": float(result.flow.detach()),
            "consistency": float(result.consistency.detach()),
        }
        return result.total, parts


def make_model(config: PretrainConfig) -> WorldModel:
    """The network at the start of a run; its text projection is frozen.

    Training always runs on the constant all-zero text, which has no gradient in that projection's
    matrix, so only its bias learns.
    """
    if config.start_from is not None:
        model = WorldModel.from_pretrained(config.start_from)
        if model.config != config.model:
            raise ConfigError(
                f"start_from {config.start_from} has other sizes than model in this configuration.",
                hint=f"Copy the sizes of {config.start_from}/config.json into the section model.",
            )
    else:
        with torch.device("meta"):
            model = WorldModel(config.model)
        model.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed_of(config.loop.seed, "weights"))
        model.init_weights(zero_action_output=config.zero_action_output, generator=generator)
    model.crossattn_proj[0].weight.requires_grad_(False)
    model.recompute = config.recompute
    return model


def pretrain(
    config: PretrainConfig,
    mixture: MixtureSpec,
    *,
    out: Path,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Pre-train on a mixture, or go on with the run in `out`, and export the averaged weights.

    Writes into `out`: `config.resolved.yaml`, `mixture.plan`, `tokenizer/`, `metrics.jsonl`,
    `checkpoints/` and at the end `model/`, which holds the tokenizer as well. A resumed run reads
    the plan that it began with, however its datasets have grown since.

    Raises:
        ConfigError: Configuration or mixture differ from those of the run in `out`.
        LockedError: Another process trains in `out`.
        DatasetError: A dataset, shard or stored latent that the mixture names is not there.
    """
    lead = rank() == 0
    model = make_model(config)  # before the folder: a wrong `start_from` leaves no run behind
    with hold_run(out) if lead else contextlib.nullcontext():
        if lead:
            described = {**to_dict(config), "mixture": to_dict(mixture)}
            bind_config(
                out, described, may_change=RESUME_MAY_CHANGE, defaults=to_dict(PretrainConfig())
            )
            _prepare(config, mixture, out)
        wait_for_all()
        tokenizer = VideoTokenizer.from_pretrained(out / TOKENIZER_DIR)
        task = PretrainTask(model, tokenizer, config.objective)
        batches = WindowLoader(
            MixturePlan.open(out / PLAN_NAME),
            batch_size=config.batch_size,
            rank=rank(),
            world_size=world_size(),
            num_workers=config.num_workers,
            max_bad_ratio=config.loop.max_bad_ratio,
        )
        result = fit(task, batches, config.loop, out=out, on_step=on_step)
        if lead:
            export(task.model, result, out)
        wait_for_all()
    return result


def export(model: WorldModel, result: FitResult, out: Path) -> None:
    """Write `out/model`: averaged weights where the run keeps them, and the tokenizer."""
    files = tokenizer_files(out / TOKENIZER_DIR, prefix=TOKENIZER_DIR)
    model.save_pretrained(out / MODEL_DIR, state=result.weights["model"], extra_files=files)


def _prepare(config: PretrainConfig, mixture: MixtureSpec, out: Path) -> None:
    """Write the plan and the tokenizer of a new run; those of an older one stay."""
    plan_path = out / PLAN_NAME
    plan = MixturePlan.open(plan_path) if plan_path.exists() else mixture.plan().save(plan_path)
    if (out / TOKENIZER_DIR).exists():
        return
    if config.tokenizer.path is not None:
        tokenizer = VideoTokenizer.from_pretrained(config.tokenizer.path)
    else:
        windows = config.tokenizer.fit_windows
        log.info("fitting the tokenizer on %d windows", windows)
        tokenizer = PcaTokenizer.fit(
            _videos(plan, windows), num_channels=config.model.latent_channels
        )
    tokenizer.save_pretrained(out / TOKENIZER_DIR)


def _videos(plan: MixturePlan, num_windows: int) -> Iterator[Tensor]:
    batches = iter(WindowLoader(plan, batch_size=1))
    for _ in range(num_windows):
        yield next(batches)["video"]
