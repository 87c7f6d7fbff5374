"""The arithmetic around an optimiser step: learning rate, clipping, seeds, averaged weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def lr_multiplier(
    step: int,
    *,
    warmup_steps: int,
    decay_steps: int,
    start: float = 1e-6,
    peak: float = 1.0,
    end: float = 1.0,
) -> float:
    """Factor on the learning rate: linear from `start` to `peak`, then linear to `end`.

    Args:
        step: Steps already done; the first step has 0.
        warmup_steps: Length of the warm-up; 0 starts at `peak`.
        decay_steps: Step at which `end` is reached and kept; 0 keeps `peak`.
        start: Factor of the very first step.
        peak: Factor at the end of the warm-up.
        end: Factor from `decay_steps` on.
    """
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    if decay_steps <= warmup_steps:
        return peak
    share = min(1.0, (step - warmup_steps) / (decay_steps - warmup_steps))
    return peak + (end - peak) * share


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> tuple[float, bool]:
    """Replace gradient entries that are not finite by zero, then scale the norm to `max_norm`.

    A `max_norm` of 0 never scales. Gradients may be sharded; the norm is that of all shards.

    Returns:
        The norm before scaling, and whether an entry had to be replaced.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm, size = _total_norm(gradients)
    replaced = not math.isfinite(size)
    if replaced:
        for gradient in gradients:
            torch.nan_to_num_(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        norm, size = _total_norm(gradients)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(list(parameters), max_norm, norm)
    return size, replaced


def _total_norm(gradients: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The norm in the form that sharded gradients can be divided by, and as a number."""
    norm = nn.utils.get_total_norm(gradients)
    return norm, float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key` and on nothing else."""
    digest = hashlib.sha256(":".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class PowerEma:
    """Moving average of weights in float32 whose memory is a fixed share of the training so far.

    The weight of the past after `n` earlier updates is `(1 - 1/(n+1)) ** (gamma+1)`; gamma follows
    from the relative width (0.10 gives gamma 6.937).

    Example:
        >>> ema = PowerEma({"w": torch.ones(1)}, width=0.1)
        >>> ema.update({"w": torch.zeros(1)}, num_updates=0)
        >>> ema.weights["w"]
        tensor([0.])
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, width: float) -> None:
        """Start from the present weights; `width` is the window over the run's length."""
        roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
        self.gamma = float(roots[np.isreal(roots)].real.max())
        self.weights = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Take the present weights in; `num_updates` counts the updates before this one."""
        keep = (1 - 1 / (num_updates + 1)) ** (self.gamma + 1)
        for name, value in parameters.items():
            self.weights[name].lerp_(value.detach().float(), 1 - keep)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over saved averages of the same names."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
