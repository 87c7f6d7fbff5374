"""Measures on held-out pairs: how well they are painted, and whether the latent carries the motion.

A latent that matters must be missed: each pair is painted a second time with the latent of another
pair and a third time with zeros, and the drop is what the latent was worth.

Shapes: B batch, P = 1 transition, H W C pixels, A latent width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.ranks import gather, rank, world_size
from pipeline.training.task import Validation

from .data import PairBatches
from .flow_model import FLOW_UNIT_PX, FlowActionModel
from .model import LatentActionModel, Reconstruction
from .objective import lam_loss, psnr, ssim
from .picture_grid import picture_grid

_log = logging.getLogger(__name__)

ACTIVE_VARIANCE = 0.01
"""A dimension is active when its mean varies by more than this from pair to pair."""
NUM_SHOWN = 4
Paint = Callable[[Tensor], Tensor]


@dataclass(slots=True, kw_only=True)
class _Part:
    """What one batch of held-out pairs gave, in plain values."""

    number: int
    size: int
    sums: dict[str, float]
    mu_BA: NDArray[np.float32]
    num_bad: int
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


class HeldOut:
    """A fixed number of pairs of clips that the run does not train on."""

    def __init__(self, batches: PairBatches, *, num_pairs: int) -> None:
        """`batches` draws the pairs; no brightness shift should be among its settings."""
        self.batches = batches
        size = min(num_pairs, max(2, batches.sampler.config.batch_size))
        edges = np.linspace(0, num_pairs, max(1, num_pairs // size) + 1).astype(int).tolist()
        self._ranges = [range(a, b) for a, b in pairwise(edges)]

    def measure(self, model: LatentActionModel, *, beta: float, device: torch.device) -> Validation:
        """Measure a model in evaluation mode; ranks share the work and get the same numbers."""
        parts: list[_Part] = []
        for first in range(0, len(self._ranges), world_size()):
            number = first + rank()
            # A rank without a batch of its own goes along: a sharded network needs all of them.
            part = self._part(
                model, number % len(self._ranges), beta=beta, device=device, draw=first == 0
            )
            if number < len(self._ranges):
                parts.append(part)
        parts = sorted(gather(parts), key=lambda part: part.number)
        return Validation(values=_summary(parts), pictures=parts[0].pictures)

    def _part(
        self,
        model: LatentActionModel,
        number: int,
        *,
        beta: float,
        device: torch.device,
        draw: bool,
    ) -> _Part:
        problems: list[dict[str, Any]] = []
        frames = self.batches.pairs(self._ranges[number], problems).to(device)
        for problem in problems:
            _log.warning("held-out pair %d replaced: %s", problem["index"], problem["message"])
        result = model(frames)
        first = frames[:, :-1]
        is_flow = isinstance(model, FlowActionModel)
        losses = lam_loss(result, beta=beta, is_flow=is_flow)
        means = {"loss": losses.loss, "mse": losses.mse, "kl": losses.kl}
        if isinstance(model, FlowActionModel):
            means |= _flow_errors(
                result, lambda z: model.decode_flow(first, z).movedim(2, -1) / FLOW_UNIT_PX
            )
        else:
            means |= _picture_measures(result, frames, lambda z: model.decode(first, z))
        pictures = {}
        if draw:
            shown = slice(0, NUM_SHOWN)
            latents = _altered(result.z)
            painted = [model.decode(first[shown], z[shown]) for z in (result.z, *latents.values())]
            pictures["painted"] = picture_grid(frames[shown], painted)
        return _Part(
            number=number,
            size=len(frames),
            sums={name: float(value) * len(frames) for name, value in means.items()},
            mu_BA=result.mu.float().flatten(0, 1).cpu().numpy(),
            num_bad=len({problem["index"] for problem in problems}),
            pictures=pictures,
        )


def _altered(z_BPA: Tensor) -> dict[str, Tensor]:
    """The latents a pair is painted with a second and a third time."""
    return {"shuffled": z_BPA.roll(1, dims=0), "zeroed": torch.zeros_like(z_BPA)}


def _picture_measures(result: Reconstruction, frames: Tensor, paint: Paint) -> dict[str, Tensor]:
    target, recon = result.target, result.recon.float()
    still = frames[:, :-1, : recon.shape[2], : recon.shape[3]]
    measures = {"psnr": psnr(recon, target), "ssim": ssim(recon, target)}
    for name, z in _altered(result.z).items():
        measures[f"psnr_{name}"] = psnr(paint(z).float(), target)
    return {**measures, "psnr_still": psnr(still, target)}


def _flow_errors(result: Reconstruction, paint: Paint) -> dict[str, Tensor]:
    """Mean squares of the target and of what is left of it; the summary makes shares of them."""
    target = result.target.float()
    errors = {
        "flow_power": target.square().mean(),
        "flow_error": (result.recon.float() - target).square().mean(),
    }
    for name, z in _altered(result.z).items():
        errors[f"flow_error_{name}"] = (paint(z).float() - target).square().mean()
    return errors


def _summary(parts: list[_Part]) -> dict[str, Any]:
    count = sum(part.size for part in parts)
    means = {name: sum(p.sums[name] for p in parts) / count for name in parts[0].sums}
    if "flow_power" in means:
        power = max(means.pop("flow_power"), 1e-12)
        for name in ("", "_shuffled", "_zeroed"):
            means[f"explained{name}"] = 1 - means.pop(f"flow_error{name}") / power
    measure = "psnr" if "psnr" in means else "explained"
    for name in ("shuffled", "zeroed"):
        means[f"{measure}_drop_{name}"] = means[measure] - means[f"{measure}_{name}"]
    mu_RA = np.concatenate([part.mu_BA for part in parts]).astype(np.float64)
    return {
        **means,
        "active_dims": int((mu_RA.var(axis=0) > ACTIVE_VARIANCE).sum()),
        "latent_mean": mu_RA.mean(axis=0).tolist(),
        "latent_std": mu_RA.std(axis=0).tolist(),
        "num_pairs": count,
        "num_bad": sum(part.num_bad for part in parts),
    }
