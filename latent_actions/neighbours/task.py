"""The flow model in training with neighbours: the published loss and the contrastive one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import NeighbourConfig
from ..flow_model import FlowActionModel
from ..held_out import HeldOut
from ..task import LatentTask
from .objective import contrast


class NeighbourTask(LatentTask):
    """`LatentTask` whose latents of two views of neighbours also have to resemble each other."""

    def __init__(
        self,
        model: FlowActionModel,
        neighbours: NeighbourConfig,
        *,
        beta: float,
        seed: int,
        watch_every: int,
        held_out: HeldOut | None,
    ) -> None:
        """`neighbours` says how much the contrastive loss weighs."""
        super().__init__(model, beta=beta, seed=seed, watch_every=watch_every, held_out=held_out)
        self.flow_model, self.neighbours = model, neighbours

    def loss(
        self, batch: Any, *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Published loss plus contrastive one; parts: those of `LatentTask`, contrast, found."""
        loss, parts = super().loss(batch, step=step, generator=generator)
        mu, _ = self.flow_model.encode_flow(batch["views"])
        contrastive, found = contrast(
            mu.flatten(1), batch["recordings"], temperature=self.neighbours.temperature
        )
        parts |= {"contrast": float(contrastive.detach()), "found": float(found)}
        return loss + self.neighbours.weight * contrastive, parts

    def entry_points(self) -> Sequence[str]:
        """What is called besides `forward`."""
        return (*super().entry_points(), "encode_flow")
