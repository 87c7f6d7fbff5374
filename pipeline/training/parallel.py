"""The networks of a task on this rank: placed, compiled, and joined with those of other ranks.

`ddp` keeps everything on every rank and averages gradients while they are computed; `fsdp2` gives
every rank a share of each tensor and puts a block together only for as long as it runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from manifests.errors import ConfigError

from .device import choose_device
from .loop_config import LoopConfig
from .ranks import broadcast_modules, rank, world_size
from .task import BlockwiseTask, TrainTask


class Networks:
    """The networks of a task and the way a loss of theirs is computed on all ranks."""

    def __init__(self, task: TrainTask, config: LoopConfig) -> None:
        """Moves the task's networks to the device, into training mode, and joins the ranks."""
        self.device = choose_device(config.device)
        self.by_name = dict(task.modules())
        for network in self.by_name.values():
            network.to(self.device)
            network.train()
        broadcast_modules(self.by_name.values())
        blocks = list(task.blocks()) if isinstance(task, BlockwiseTask) else []
        if config.compile:
            _check_compiler(self.device)
            for module in blocks or self.by_name.values():
                module.compile()
        self.sharded = config.parallel == "fsdp2" and world_size() > 1
        if self.sharded:
            methods = task.entry_points() if isinstance(task, BlockwiseTask) else ()
            _shard(list(self.by_name.values()), blocks, methods, self.device)
        self._loss: nn.Module = _LossOf(task, self.by_name)
        if world_size() > 1 and not self.sharded:
            # Buffers never change here, so they need not travel before every step.
            self._loss = DistributedDataParallel(
                self._loss, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
            )
        self.parameters = {
            f"{name}.{key}": value
            for name, network in self.by_name.items()
            for key, value in network.named_parameters()
            if value.requires_grad
        }

    def loss(
        self, batch: Any, *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The task's loss; its `backward` averages gradients over the ranks."""
        found: tuple[Tensor, dict[str, float]] = self._loss(batch, step, generator)
        return found

    @contextlib.contextmanager
    def averaging(self, on: bool) -> Iterator[None]:
        """Whether the losses inside average gradients over the ranks, or add them up here."""
        if self.sharded:
            for network in self.by_name.values():
                network.set_requires_gradient_sync(on)  # type: ignore[operator]  # fully_shard's
        elif isinstance(self._loss, DistributedDataParallel) and not on:
            with self._loss.no_sync():
                yield
            return
        yield

    @contextlib.contextmanager
    def evaluating(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Evaluation mode without gradients, meanwhile with `weights` by parameter name."""
        own = {name: self.parameters[name].detach().clone() for name in weights}
        try:
            self._fill(weights)
            for network in self.by_name.values():
                network.eval()
            with torch.no_grad():
                yield
        finally:
            self._fill(own)
            for network in self.by_name.values():
                network.train()

    @torch.no_grad()
    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that may be sharded, put together on rank 0; the other ranks get nothing."""
        whole: dict[str, Tensor] = {}
        for name, value in tensors.items():
            if isinstance(value, DTensor):
                value = value.full_tensor()  # every rank takes part
                value = value.cpu() if rank() == 0 else value
            if rank() == 0:
                whole[name] = value.detach()
        return whole

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.parameters[name].copy_(value)


def fill(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded; every rank holds `whole`."""
    if isinstance(target, DTensor):
        whole = distribute_tensor(
            whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(whole)


def _check_compiler(device: torch.device) -> None:
    names = (os.environ.get("CXX", "c++"), "g++", "clang++")
    if device.type == "cpu" and not any(shutil.which(name) for name in names):
        raise ConfigError(
            "loop.compile needs a C++ compiler, and none is on the PATH.",
            hint="Install one, or leave loop.compile off.",
        )


class _LossOf(nn.Module):
    """A task's loss as a module, so that its forward and backward passes can be watched."""

    def __init__(self, task: TrainTask, networks: dict[str, nn.Module]) -> None:
        super().__init__()
        self._task = task
        self.networks = nn.ModuleDict(networks)

    def forward(
        self, batch: Any, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        return self._task.loss(batch, step=step, generator=generator)


def _shard(
    networks: Sequence[nn.Module],
    blocks: Sequence[nn.Module],
    methods: Sequence[str],
    device: torch.device,
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size(),))
    for module in (*blocks, *networks):
        fully_shard(module, mesh=mesh)
    for network in networks:
        for method in methods:
            if hasattr(network, method):
                register_fsdp_forward_method(network, method)
