"""The latent action model in training: its loss on a batch of pairs, and where it can be cut up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.training.optimisation import seed_of
from pipeline.training.task import Validation

from .blocks import Transformer
from .held_out import HeldOut
from .model import LatentActionModel
from .objective import explained, lam_loss, psnr, ssim


class LatentTask:
    """What the loop needs to know: one network, one loss; SSIM only every `watch_every` steps."""

    def __init__(
        self,
        model: LatentActionModel,
        *,
        beta: float,
        seed: int = 0,
        watch_every: int = 10,
        held_out: HeldOut | None = None,
    ) -> None:
        """`beta` weighs the KL term; `seed` is that of the latents' noise."""
        self.model = model
        self.beta = beta
        self.watch_every = watch_every
        self.held_out = held_out
        self._noise_key = seed_of("noise of latents", seed)

    def modules(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {"lam": self.model}

    def loss(
        self, batch: Any, *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss with sampled latents; parts: mse, kl, spread of the mean, and psnr.

        A pair has its own noise, so that it is the same on any number of ranks. A model of flow
        has the explained share of the flow instead of psnr.
        """
        frames: Tensor = batch["frames"]
        is_flow = self.model.config.input == "flow"
        noise = pair_noise(batch["index"], self.model.config.latent_dim, key=self._noise_key)
        result = self.model(frames, eps_BPA=noise.to(frames.device))
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

    def validate(self, *, step: int, device: torch.device) -> Validation | None:
        """Measures on held-out pairs; None when none are held out."""
        if self.held_out is None:
            return None
        return self.held_out.measure(self.model, beta=self.beta, device=device)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks; a model of flow is too small to be cut up."""
        stacks = [part for part in self.model.children() if isinstance(part, Transformer)]
        return [block for stack in stacks for block in stack.transformer_blocks]

    def entry_points(self) -> Sequence[str]:
        """What validation calls besides `forward`."""
        return ("decode", "decode_flow")


def pair_noise(index_B: Tensor, latent_dim: int, *, key: int) -> Tensor:
    """Standard normal noise (B, 1, latent_dim), each row a function of its pair's number."""
    rows = [
        np.random.Generator(np.random.Philox(key=[key, number])).standard_normal(
            latent_dim, dtype=np.float32
        )
        for number in index_B.tolist()
    ]
    return torch.from_numpy(np.stack(rows))[:, None]
