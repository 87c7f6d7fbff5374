"""Configuration of the world model and of its pre-training, with the named presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from manifests.action_vector import ACTION_WIDTH, ROWS_PER_CHUNK
from manifests.config import load_config, nearest, to_dict
from manifests.errors import ConfigError
from pipeline.training.loop_config import MAY_CHANGE as LOOP_MAY_CHANGE
from pipeline.training.loop_config import LoopConfig

from .rope import RopeConfig

_COUNTS = (
    "width",
    "num_blocks",
    "num_heads",
    "modulation_rank",
    "latent_channels",
    "action_width",
    "actions_per_latent",
    "text_features",
    "context_width",
    "max_frames",
)
"""Fields of ModelConfig that are at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of the diffusion transformer; the defaults train on a laptop's CPU."""

    width: int = 128
    """Width of the token stream."""
    num_blocks: int = 4
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of the feed-forward layers over `width`."""
    modulation_rank: int = 32
    """Inner width of the low-rank modulation."""
    latent_channels: int = 16
    """Channels of the tokenizer's latents."""
    action_width: int = 384
    """Numbers of one action row."""
    actions_per_latent: int = 4
    """Action rows that drive one latent frame."""
    action_hidden: int | None = None
    """Hidden width of the action MLPs; null is four times `width`."""
    text_features: int = 256
    """Features per position of the text encoder's output."""
    context_width: int = 64
    """Width of the projected text context."""
    timestep_scale: float = 0.001
    """Factor on timesteps; 0.001 for timesteps from 0 to 1000."""
    max_frames: int = 128
    """Only sets the length of a buffer that the released files hold."""
    rope: RopeConfig = field(default_factory=RopeConfig)
    """Rotary position code."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; it must be at least 1.")
        if int(self.width * self.mlp_ratio) < 1:
            raise ConfigError(f"model.mlp_ratio is {self.mlp_ratio}; it leaves no hidden width.")
        if self.action_hidden is not None and self.action_hidden < 1:
            raise ConfigError(
                f"model.action_hidden is {self.action_hidden}; it must be at least 1."
            )
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ConfigError(
                f"model.width is {self.width} and model.num_heads {self.num_heads}; "
                "the width must be an even multiple of the number of heads."
            )
        if self.width // self.num_heads < 16:
            raise ConfigError(
                f"model.width / model.num_heads is {self.width // self.num_heads}; the rotary code "
                "needs at least 16."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """Where the tokenizer comes from."""

    path: Path | None = None
    """Saved tokenizer folder; null fits the built-in PCA tokenizer on the mixture."""
    fit_windows: int = 24
    """Windows of the mixture that the PCA tokenizer is fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """The rectified-flow objective."""

    shift: float = 5.0
    """Shift of the time table towards high noise."""
    consistency_weight: float = 0.1
    """Weight of the temporal-consistency term."""
    compat: Literal["none", "as_coded"] = "none"
    """`as_coded` takes its differences over channels, as released weights were trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Everything `egodojo train pretrain` needs besides a mixture."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=200))
    """The training loop."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The loss."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Pixels to latents."""
    batch_size: int = 2
    """Windows per step and process."""
    num_workers: int = 0
    """Loader processes per training process."""
    zero_action_output: bool = True
    """Start with action MLPs that add nothing."""
    recompute: bool = False
    """Recompute blocks in the backward pass instead of keeping their activations."""
    start_from: Path | None = None
    """Model folder to start from; null starts from random weights."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1.")
        if self.num_workers < 0:
            raise ConfigError(f"num_workers is {self.num_workers}; it must not be negative.")
        loaded = {"action_width": ACTION_WIDTH, "actions_per_latent": ROWS_PER_CHUNK}
        for name, number in loaded.items():
            if getattr(self.model, name) != number:
                raise ConfigError(
                    f"model.{name} is {getattr(self.model, name)}, training data have {number}."
                )
        if self.tokenizer.fit_windows < 1:
            raise ConfigError("tokenizer.fit_windows is 0; the tokenizer needs at least 1 window.")


RESUME_MAY_CHANGE = ("num_workers", "recompute", *(f"loop.{name}" for name in LOOP_MAY_CHANGE))
"""Fields that a resumed pre-training may change: none of them changes what is computed."""


def model_2b() -> ModelConfig:
    """The 2,151,474,176-parameter network of the published weights."""
    return ModelConfig(
        width=2048,
        num_blocks=28,
        num_heads=16,
        modulation_rank=256,
        text_features=100_352,
        context_width=1024,
    )


def tiny() -> PretrainConfig:
    """A network for a laptop's CPU: a step at 240x320 takes about a second."""
    loop = LoopConfig(
        steps=200,
        lr=3e-3,
        weight_decay=0.01,
        grad_clip=1.0,
        warmup_steps=10,
        ema=0.1,
        checkpoint_every=50,
    )
    return PretrainConfig(loop=loop)


def full_2b() -> PretrainConfig:
    """The published 2B pre-training, with float32 master weights."""
    loop = LoopConfig(
        steps=140_000,
        lr=1.6e-4,
        warmup_steps=100,
        lr_peak=0.99,
        lr_end=0.4,
        decay_steps=400_000,
        ema=0.1,
        precision="bfloat16",
        checkpoint_every=10_000,
        log_every=100,
    )
    return PretrainConfig(model=model_2b(), loop=loop, batch_size=4, num_workers=8, recompute=True)


PRESETS: dict[str, Callable[[], PretrainConfig]] = {"tiny": tiny, "2b": full_2b}


def load_pretrain_config(name_or_file: str, sets: tuple[str, ...] = ()) -> PretrainConfig:
    """A preset by name, or a YAML file over the tiny preset's defaults; `sets` adjust it.

    Raises:
        ConfigError: No such preset or file, or a field is unknown or impossible.
    """
    if name_or_file in PRESETS:
        values = to_dict(PRESETS[name_or_file]())
        return load_config(PretrainConfig, values=values, sets=sets, where=name_or_file)
    if not Path(name_or_file).is_file():
        raise ConfigError(
            f"--config {name_or_file} is neither a preset nor a file.",
            hint=nearest(name_or_file, list(PRESETS)),
        )
    return load_config(PretrainConfig, file=name_or_file, sets=sets)
