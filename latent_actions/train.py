"""Training of the latent action model: its task for the one loop, and a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifests.config import read_yaml, to_dict
from manifests.dataset import Dataset
from manifests.locations import Location, location
from pipeline.clips import ClipReader
from pipeline.training.loop import fit
from pipeline.training.ranks import rank, wait_for_all, world_size
from pipeline.training.run_folder import CONFIG_NAME

from .clips import list_clips
from .config import TrainConfig
from .data import PairBatches, PairSampler
from .flow import stabilised_flows
from .flow_model import FlowActionModel, coarse
from .model import LatentActionModel, build_model
from .objective import explained, lam_loss, psnr, ssim


class LatentTask:
    """What the loop needs to know: one network, one loss; SSIM only every `watch_every` steps."""

    def __init__(self, model: LatentActionModel, *, beta: float, watch_every: int = 10) -> None:
        """`beta` weighs the KL term."""
        self.model = model
        self.beta = beta
        self.watch_every = watch_every

    def modules(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {"lam": self.model}

    def loss(
        self, batch: Any, *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss with latents sampled by `generator`; parts: mse, kl, spread of the mean, and psnr.

        A model of flow has the explained share of the flow instead of psnr.
        """
        frames: Tensor = batch["frames"]
        shape = (*frames.shape[:1], frames.shape[1] - 1, self.model.config.latent_dim)
        eps = torch.randn(shape, generator=generator).to(frames.device)
        is_flow = self.model.config.input == "flow"
        result = self.model(frames, eps_BPA=eps)
        losses = lam_loss(result, beta=self.beta, is_flow=is_flow)
        parts = {"mse": float(losses.mse.detach()), "kl": float(losses.kl.detach())}
        with torch.no_grad():
            parts["latent_std"] = float(result.mu.float().std(correction=0))
            if is_flow:
                parts["explained"] = float(explained(result))
                return losses.loss, parts
            parts["psnr"] = float(psnr(result.recon.float(), result.target))
            if step % self.watch_every == 0:
                parts["ssim"] = float(ssim(result.recon.float(), result.target))
        return losses.loss, parts


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a training run gave."""

    model_id: str
    path: Path
    steps: int
    num_clips: int
    first_loss: float | None
    """Mean loss of the first steps this call made; None when there was nothing left to do."""
    last_loss: float | None
    """Mean loss of its last steps."""
    seconds_per_step: float


def train(
    dataset_path: Location | str,
    config: TrainConfig,
    *,
    out: Path,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train on the kept clips of a dataset, or go on where `out` stopped; writes `out/model`.

    The result depends on the kept clips, the configuration and the number of ranks alone. A resumed
    run sees the versions of the tables it was started on.

    Raises:
        DatasetError: The dataset has no kept clip of two frames.
        ConfigError: `out` holds a run with another configuration.
    """
    pinned = _pinned_versions(out)
    dataset = Dataset.open(dataset_path, versions=pinned)
    clips = list_clips(dataset, where=config.data.where)
    torch.manual_seed(config.loop.seed)
    model = build_model(config.model)
    batches = PairBatches(
        PairSampler(clips, config.data, seed=config.loop.seed),
        ClipReader(dataset_path),
        height=config.model.frame_height,
        width=config.model.frame_width,
        rank=rank(),
        world_size=world_size(),
    )
    task = LatentTask(model, beta=config.beta, watch_every=config.loop.log_every)
    run_config = {
        "dataset": str(location(dataset_path).resolve()),
        "versions": dict(pinned or dataset.versions),
        **to_dict(config),
    }
    result = fit(
        task,
        batches,
        config.loop,
        out=out,
        on_step=on_step,
        run_config=run_config,
        may_change=MAY_CHANGE,
    )
    model.eval().cpu()
    if isinstance(model, FlowActionModel):
        fit_place(model, batches, steps=config.loop.steps)
    if rank() == 0:
        model.save_pretrained(out / "model")
    wait_for_all()
    few = max(1, min(10, len(result.losses) // 4))
    return TrainResult(
        model_id=model.model_id,
        path=out / "model",
        steps=result.steps,
        num_clips=len(clips),
        first_loss=_mean(result.losses[:few]),
        last_loss=_mean(result.losses[-few:]),
        seconds_per_step=result.seconds_per_step,
    )


@torch.inference_mode()
def fit_place(model: FlowActionModel, batches: PairBatches, *, steps: int) -> None:
    """Join learned latents and coarse flows along the axes of the run's first pairs.

    Every rank sees the same pairs: those of rank 0, whatever the number of ranks.
    """
    latents, fields = [], []
    size = batches.sampler.config.batch_size
    for number in range(min(steps, -(-PLACE_PAIRS // size))):
        frames = batches.pairs(range(number * size, (number + 1) * size))
        flows = stabilised_flows(frames)
        latents.append(model.encode_flow(flows)[0].flatten(0, 1))
        fields.append(coarse(flows).flatten(0, 1))
    model.fit_place(torch.cat(latents), torch.cat(fields))


PLACE_PAIRS = 4096
"""Pairs that the place part of a flow model is fitted on; fewer after a shorter run."""

MAY_CHANGE = (
    "dataset",
    "data.num_threads",
    "loop.steps",
    "loop.checkpoint_every",
    "loop.keep_checkpoints",
    "loop.log_every",
    "loop.device",
)
"""Fields that a resumed run may change."""


def _pinned_versions(out: Path) -> dict[str, int] | None:
    """Versions of the tables the run in `out` was started on."""
    path = out / CONFIG_NAME
    return read_yaml(path).get("versions") if path.exists() else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
