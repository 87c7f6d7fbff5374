"""What `test_training_ranks` runs on every rank: a small network, trained in several ways."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.launch import launch
from pipeline.training.loop import FitResult, LoopConfig, fit
from pipeline.training.ranks import rank, world_size
from pipeline.training.task import Validation

CONFIG = LoopConfig(
    steps=6,
    lr=0.05,
    warmup_steps=0,
    checkpoint_every=3,
    validate_every=3,
    device="cpu",
    grad_clip=0.5,
    ema=0.2,
)


class Stack:
    """Two blocks between two layers, one of them frozen; rank 0's weights count."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        torch.manual_seed(5 + rank())
        blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)]
        self.net = nn.Sequential(nn.Linear(3, 6), *blocks, nn.Linear(6, 1))
        self.net[0].weight.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def blocks(self) -> Sequence[nn.Module]:
        return [self.net[1], self.net[2]]

    def entry_points(self) -> Sequence[str]:
        return ("reversed",)

    def loss(self, batch: Tensor, *, step: int, generator: Any) -> tuple[Tensor, dict[str, float]]:
        error = self.net(batch) - batch.sum(1, keepdim=True)
        return error.pow(2).mean() * self.factor, {}

    def validate(self, *, step: int, device: torch.device) -> Validation:
        return Validation(values={"mean": float(self.net(torch.ones(2, 3)).mean())})


class Rows:
    """Steps of eight rows; rank r takes its share, in `accumulate` batches."""

    def __init__(self, accumulate: int) -> None:
        self.position, self.accumulate = 0, accumulate

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            generator = torch.Generator().manual_seed(self.position // self.accumulate)
            rows = torch.randn(8, 3, generator=generator).chunk(self.accumulate)
            part = rows[self.position % self.accumulate]
            self.position += 1
            yield part[rank() :: world_size()]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def train(out: Path, **changes: Any) -> FitResult:
    config = replace(CONFIG, **changes)
    # A small loss does not overflow half precision, wherever it is computed.
    factor = 0.01 if config.precision == "float16" else 1.0
    return fit(Stack(factor), Rows(config.accumulate), config, out=out)


def work(root: Path) -> None:
    """Both ways of sharing the work, accumulation, and both ways into each other's checkpoints."""
    for name in ("ddp", "fsdp2"):
        result = train(root / name, parallel=name, precision="float32")
        if rank() == 0:
            torch.save(result.weights["net"], root / f"{name}.pt")
        train(root / f"{name}-accumulate", parallel=name, accumulate=2)
        train(root / f"{name}-resumed", parallel=name, steps=4)
        train(root / f"{name}-resumed", parallel=name)
        train(root / f"{name}-half", parallel=name, precision="float16")
    train(root / "ddp-fsdp2", parallel="ddp", steps=4)
    train(root / "ddp-fsdp2", parallel="fsdp2")
    train(root / "fsdp2-ddp", parallel="fsdp2", steps=4)
    train(root / "fsdp2-ddp", parallel="ddp")
    train(root / "fsdp2-alone", parallel="fsdp2", steps=4)
    train(root / "damaged", parallel="fsdp2", steps=1)


if __name__ == "__main__":
    launch(lambda: work(Path(sys.argv[1])), use_gpu=False)
