"""What the training loop asks of a model in training and of the batches it is fed with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class TrainTask(Protocol):
    """What the loop needs to know of a model in training."""

    def modules(self) -> Mapping[str, nn.Module]:
        """The networks by name; parameters that require gradients are trained."""
        ...

    def loss(
        self, batch: Any, *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss to minimise, and its parts for the metrics; draws come from `generator` (CPU)."""
        ...


class Batches(Protocol):
    """An endless, restartable stream of batches."""

    def __iter__(self) -> Iterator[Any]:
        """Batches from the present position on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch handed out, in plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position."""
        ...
