"""How a model is trained, whatever it is: length, optimiser, precision, ranks, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manifests.errors import ConfigError

MAY_CHANGE = (
    "steps",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "validate_every",
    "tensorboard",
    "max_bad_ratio",
    "device",
    "parallel",
)
"""Fields of LoopConfig that a resumed run may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How a model is trained, whatever it is."""

    steps: int
    """Optimiser steps of the whole run."""
    lr: float = 1.6e-4
    """Learning rate that the schedule's factor multiplies."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on every tensor."""
    grad_clip: float = 0.1
    """Largest norm of the whole gradient; 0 switches clipping off."""
    warmup_steps: int = 100
    """Steps over which the factor rises from nearly 0 to `lr_peak`."""
    lr_peak: float = 1.0
    """Factor on `lr` at the end of the warm-up."""
    lr_end: float = 1.0
    """Factor on `lr` from `decay_steps` on."""
    decay_steps: int = 0
    """Step at which `lr_end` is reached; 0 keeps `lr_peak`."""
    accumulate: int = 1
    """Batches per step and rank, one after the other: more samples a step in the same memory."""
    ema: float | None = None
    """Relative width of the moving average of weights, 0.10 for instance; null keeps none."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the forward pass; weights and optimiser state are always float32.

    `float16` scales the loss and leaves a step out when its gradient overflows."""
    compile: bool = False
    """Compile the network with torch.compile: slow first steps, faster ones after."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` (a GPU when there is one), `cpu` or `cuda`."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """On several ranks: `ddp` (each holds everything) or `fsdp2` (each holds a share)."""
    seed: int = 0
    """Seed of every random draw of the run."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    log_every: int = 10
    """Steps between log lines and TensorBoard points; the metrics file has every step."""
    validate_every: int = 1000
    """Steps between validations where the model has one; the last step always has one."""
    tensorboard: bool = True
    """Write the folder `tensorboard` as well as the JSONL files."""
    max_bad_ratio: float = 0.001
    """Samples that may be replaced because they cannot be read; ten are always accepted."""

    def __post_init__(self) -> None:
        at_least_one = ("steps", "accumulate", "checkpoint_every", "keep_checkpoints")
        for name in (*at_least_one, "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loop.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("weight_decay", "grad_clip", "warmup_steps", "decay_steps", "max_bad_ratio"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loop.{name} is {getattr(self, name)}; it must not be negative.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"loop.betas is {list(self.betas)}; both must lie in [0, 1).")
        if not self.eps > 0:
            raise ConfigError(f"loop.eps is {self.eps}; it must be above 0.")
        if not self.lr > 0:
            raise ConfigError(f"loop.lr is {self.lr}; it must be above 0.")
        if self.ema is not None and not 0 < self.ema < 0.28:
            raise ConfigError(f"loop.ema is {self.ema}; it must lie between 0 and 0.28.")
