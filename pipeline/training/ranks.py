"""What the training loop needs of torch.distributed, with plain answers for a single process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Rank of this process; 0 when nothing is distributed."""
    return dist.get_rank() if _distributed() else 0


def world_size() -> int:
    """Number of training processes."""
    return dist.get_world_size() if _distributed() else 1


def broadcast_modules(modules: Iterable[nn.Module]) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if _distributed():
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, src=0)


def mean_over_ranks(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Mean of every number over the ranks; all ranks must give the same keys."""
    if not _distributed():
        return values
    packed = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(packed)
    return dict(zip(values, (packed / world_size()).tolist(), strict=True))


def any_rank(flag: bool, device: torch.device) -> bool:
    """True when `flag` is set on at least one rank."""
    if not _distributed():
        return flag
    packed = torch.tensor([float(flag)], device=device)
    dist.all_reduce(packed)
    return bool(packed.item() > 0)


def gather(value: list[Any]) -> list[Any]:
    """The lists of all ranks joined in the order of the ranks, on every rank."""
    if not _distributed():
        return value
    lists: list[list[Any]] = [[] for _ in range(world_size())]
    dist.all_gather_object(lists, value)
    return [item for part in lists for item in part]


def wait_for_all() -> None:
    """Return once every rank has come here."""
    if _distributed():
        dist.barrier()


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors of a batch (a tensor, dict or sequence) to `device`; the rest stays."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
