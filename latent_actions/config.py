"""Sizes of the latent action model and settings of its training, as frozen dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from manifests.config import nearest
from manifests.errors import ConfigError
from pipeline.training.loop import LoopConfig

LATENT_DIM = 32
RELEASED: dict[str, Any] = {
    "lr": 2.5e-5,
    "weight_decay": 1e-2,
    "grad_clip": 0.3,
    "warmup_steps": 0,
    "seed": 32,
}
"""Optimiser settings of the released model: constant learning rate, no warm-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a latent action model: all that is needed to build it, its `config.json`."""

    name: str = "lam"
    """Start of the model id; the other half is the digest of the weights."""
    width: int = 1024
    """Token width D of encoder and decoder."""
    latent_dim: int = LATENT_DIM
    """Numbers per latent action."""
    patch_size: int = 16
    """Side of a square patch in pixels."""
    num_encoder_blocks: int = 24
    """Blocks with spatial and temporal attention."""
    num_decoder_blocks: int = 24
    """Blocks with spatial attention only."""
    num_heads: int = 16
    """Attention heads; the head width must come out even."""
    frame_height: int = 240
    """Rows of an input frame, pixels."""
    frame_width: int = 320
    """Columns of an input frame, pixels."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(
                f"model.name is {self.name!r}; a model id begins with it and names a folder.",
                hint="Use letters, digits, '_', '-' and '.'.",
            )
        blocks = ("num_encoder_blocks", "num_decoder_blocks")
        for key in ("width", "latent_dim", "patch_size", "num_heads", *blocks):
            if getattr(self, key) < 1:
                raise ConfigError(f"model.{key} is {getattr(self, key)}, it must be at least 1.")
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"model.width {self.width} does not split into {self.num_heads} heads of even "
                f"width.",
                hint=f"Use a multiple of {2 * self.num_heads}.",
            )
        if min(self.frame_height, self.frame_width) < self.patch_size:
            raise ConfigError(
                f"A frame of {self.frame_width}x{self.frame_height} pixels holds no patch of "
                f"{self.patch_size}."
            )

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened RGB patch."""
        return self.patch_size * self.patch_size * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How training pairs are drawn."""

    batch_size: int = 8
    """Pairs per step."""
    max_stride: int = 4
    """A pair is two frames 1 to this many frames apart, uniformly drawn."""
    brightness: float = 0.1
    """One number from [-brightness, brightness] is added to both frames of a pair."""
    balance: Literal["source", "sample", "log", "pi"] = "source"
    """How sources share the draws: equally, by their number n of clips, by log n, or by n^0.43."""
    where: str = "true"
    """SQL condition on the kept clips to train on."""
    num_threads: int = 1
    """Threads that read ahead."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_stride", "num_threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"data.{key} is {getattr(self, key)}, it must be at least 1.")
        if self.brightness < 0:
            raise ConfigError(f"data.brightness is {self.brightness}, it must not be negative.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything `egodojo latents train` needs to know."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The training pairs."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=400_000, **RELEASED))
    """Optimiser, length of the run, checkpoints and the seed of weights, pairs and noise."""
    beta: float = 1e-6
    """Weight of the KL term."""

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ConfigError(f"beta is {self.beta}, it must not be negative.")


def base() -> TrainConfig:
    """The published 700M model: 24 + 24 blocks of width 1024, 709,778,240 parameters."""
    return TrainConfig(model=ModelConfig(name="lam-base"), data=DataConfig(batch_size=20))


def tiny() -> TrainConfig:
    """A model of the same kind that trains on a laptop's CPU in about a minute."""
    model = ModelConfig(
        name="lam-tiny", width=64, num_encoder_blocks=2, num_decoder_blocks=2, num_heads=4
    )
    loop = LoopConfig(
        steps=100, lr=1e-3, weight_decay=1e-2, grad_clip=1.0, warmup_steps=10, checkpoint_every=100
    )
    return TrainConfig(model=model, loop=loop)


SIZES = {"tiny": tiny, "base": base}


def preset(size: str) -> TrainConfig:
    """The configuration of one size.

    Raises:
        ConfigError: There is no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"There is no model size {size!r}.", hint=nearest(size, list(SIZES)))
    return SIZES[size]()
