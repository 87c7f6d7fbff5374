"""What the training loop asks of a model in training and of the batches it is fed with.

`TrainTask` and `Batches` are all a model needs. The other protocols are offers: a task or a loader
that has their methods gets validation, sharding block by block, and a record of bad samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What one validation found."""

    values: dict[str, Any]
    """Measures by name: numbers, or lists of numbers."""
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """RGB pictures (H, W, 3) by name."""


@runtime_checkable
class ValidatedTask(Protocol):
    """A task that can be measured on data it is not trained on."""

    def validate(self, *, step: int, device: torch.device) -> Validation | None:
        """Measure the networks as they are, in evaluation mode; None when there is nothing to do.

        Called on every rank at the same step; it must give the same values on all of them and
        change nothing, so that a run is the same with and without it.
        """
        ...


@runtime_checkable
class BlockwiseTask(Protocol):
    """A task that says where its networks can be cut into pieces."""

    def blocks(self) -> Sequence[nn.Module]:
        """Submodules to shard and compile one by one, each called once in a forward pass."""
        ...

    def entry_points(self) -> Sequence[str]:
        """Methods of the networks, besides `forward`, that the task calls."""
        ...


@runtime_checkable
class RecordingBatches(Protocol):
    """A loader that replaces what it cannot read, and says so."""

    @property
    def num_samples(self) -> int:
        """Samples of the run handed out so far, on all ranks together."""
        ...

    def take_problems(self) -> list[dict[str, Any]]:
        """Bad samples of this rank since the last call, as plain values.

        One entry per attempt; `attempt` 0 is the sample itself, later ones its substitutes.
        """
        ...
