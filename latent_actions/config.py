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
    input: Literal["frames", "flow"] = "frames"
    """What the network sees: frames, as published, or stabilised optical flow (`small`)."""
    patch_size: int = 16
    """Side of a square patch in pixels; of `input: frames`, as the next three."""
    num_encoder_blocks: int = 24
    """Blocks with spatial and temporal attention."""
    num_decoder_blocks: int = 24
    """Blocks with spatial attention only."""
    num_heads: int = 16
    """Attention heads; the head width must come out even."""
    place_weight: float = 0.7
    """Weight of the coarse flow beside the learned latent; of `input: flow`."""
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
        if self.input == "flow":
            self._check_flow()
            return
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

    def _check_flow(self) -> None:
        if self.width % 48:
            raise ConfigError(
                f"model.width is {self.width}; with input: flow it must be a multiple of 48."
            )
        for key in ("frame_height", "frame_width"):
            if getattr(self, key) < 48 or getattr(self, key) % 16:
                raise ConfigError(
                    f"model.{key} is {getattr(self, key)}; with input: flow it must be a multiple "
                    "of 16 and at least 48."
                )
        if self.place_weight < 0:
            raise ConfigError(f"model.place_weight is {self.place_weight}, must not be negative.")

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened RGB patch."""
        return self.patch_size * self.patch_size * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How training pairs are drawn."""

    batch_size: int = 8
    """Pairs per step."""
    min_stride: int = 1
    """Least distance of the two frames of a pair, in frames."""
    max_stride: int = 4
    """Largest distance; the distance is drawn uniformly between the two."""
    brightness: float = 0.1
    """One number from [-brightness, brightness] is added to both frames of a pair."""
    balance: Literal["source", "sample", "log", "pi"] = "source"
    """How sources share the draws: equally, by their number n of clips, by log n, or by n^0.43."""
    where: str = "true"
    """SQL condition on the kept clips to train on."""
    num_threads: int = 1
    """Threads that read ahead."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "min_stride", "num_threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"data.{key} is {getattr(self, key)}, it must be at least 1.")
        if self.max_stride < self.min_stride:
            raise ConfigError(
                f"data.max_stride is {self.max_stride}, it must be at least min_stride, "
                f"{self.min_stride}."
            )
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


def small() -> TrainConfig:
    """Flow in, flow out, with convolutions: trains on two CPU cores in well under an hour."""
    model = ModelConfig(name="lam-small", input="flow", width=96, frame_height=96, frame_width=128)
    loop = LoopConfig(
        steps=2000,
        lr=1e-3,
        weight_decay=1e-2,
        grad_clip=1.0,
        warmup_steps=100,
        decay_steps=2000,
        lr_end=0.02,
        checkpoint_every=200,
    )
    data = DataConfig(batch_size=64, min_stride=6, max_stride=10, balance="sample", num_threads=2)
    return TrainConfig(model=model, data=data, loop=loop, beta=3e-5)


SIZES = {"tiny": tiny, "small": small, "base": base}


def preset(size: str) -> TrainConfig:
    """The configuration of one size.

    Raises:
        ConfigError: There is no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"There is no model size {size!r}.", hint=nearest(size, list(SIZES)))
    return SIZES[size]()
