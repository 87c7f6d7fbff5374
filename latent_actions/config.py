"""Sizes of the latent action model and settings of its training, as frozen dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from manifests.config import load_config, nearest, read_yaml, to_dict
from manifests.errors import ConfigError
from pipeline.training.loop_config import MAY_CHANGE as LOOP_MAY_CHANGE
from pipeline.training.loop_config import LoopConfig

LATENT_DIM = 32
RELEASED: dict[str, Any] = {
    "lr": 2.5e-5,
    "weight_decay": 1e-2,
    "grad_clip": 0.3,
    "warmup_steps": 0,
    "seed": 32,
}
"""Optimiser settings of the released model: constant learning rate, no warm-up."""
MAY_CHANGE = (
    "dataset",
    "data.num_threads",
    "recompute",
    *(f"loop.{name}" for name in LOOP_MAY_CHANGE),
)
"""Fields of a run that a resumed one may change."""


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
    """Weight of the coarse flow beside the learned latent, 0 for none; of `input: flow`."""
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
    """How the sources of a dataset share the draws: equally, by their number n of clips, by log n,
    or by n^0.43. Sources of a mixture have weights instead."""
    where: str = "true"
    """SQL condition on the kept clips to train on."""
    num_threads: int = 1
    """Threads that read ahead."""
    validation_share: float = 0.02
    """Share of the videos whose clips are held out, at least one video; 0 holds none out."""
    validation_pairs: int = 256
    """Pairs of held-out clips that a validation looks at."""

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
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"data.validation_share is {self.validation_share}, it must lie in [0, 1)."
            )
        if self.validation_pairs < 2:
            raise ConfigError(
                f"data.validation_pairs is {self.validation_pairs}, it must be at least 2: latents "
                "are shuffled between pairs."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourConfig:
    """Learning from clips of other bodies whose motion looks alike; of `input: flow`.

    Not part of the published model. Nothing here looks at an action or a label.
    """

    weight: float = 0.0
    """Weight of the contrastive loss beside the published one; 0 switches it off."""
    nearest: int = 5
    """Two recordings are neighbours when each is among so many nearest of the other's body."""
    clips: int = 48
    """Pairs of recordings per step and rank; of each one clip is seen, in one pair of frames from
    each quarter."""
    same_clip: float = 0.3
    """Share of them that are two views of one recording, by two cameras where it has them."""
    temperature: float = 0.15
    """Divides the cosines before the softmax."""
    recording: str = ""
    """SQL over the columns of kept clips, the same for all videos of one recording by several
    cameras, such as `regexp_extract(uri, '[^/]+$')`; empty: each video is a recording."""
    camera: str = ""
    """SQL that names a clip's camera: recordings are compared camera by camera. Where it is NULL,
    as it should be for cameras that move much, the clip is learned from but not compared."""
    max_clips: int = 4000
    """Clips looked at, evenly spread; each needs 0.2 MB in the run folder while it trains."""
    turn: float = 0.12
    """Deviation of a view's turn (radians), log scale and shift (half widths)."""
    speed: float = 0.15
    """Deviation of the log of a view's speed."""
    camera_px: float = 0.6
    """Deviation of each term of leftover camera motion, pixels."""
    parallax_px: float = 0.6
    """Deviation of the motion of ground beyond a random line, pixels."""
    noise_px: float = 0.1
    """Deviation of noise on every flow value, pixels."""
    background: float = 2.0
    """Largest factor on the leftover camera motion of another clip that is added to a view."""
    ground_px: float = 1.2
    """Flow below this counts as that leftover motion."""

    def __post_init__(self) -> None:
        if self.nearest < 1 or self.clips < 2 or self.max_clips < 2:
            raise ConfigError(
                f"neighbours.nearest is {self.nearest}, clips {self.clips}, max_clips "
                f"{self.max_clips}; they must be at least 1, 2 and 2."
            )
        if bool(self.recording.strip()) != bool(self.camera.strip()):
            raise ConfigError(
                f"neighbours.recording is {self.recording!r} and camera {self.camera!r}; "
                "recordings by several cameras need both.",
                hint="Give the other one too, as SQL over the columns of clips.",
            )
        if not 0 <= self.same_clip <= 1:
            raise ConfigError(f"neighbours.same_clip is {self.same_clip}; it must lie in [0, 1].")
        if not self.temperature > 0:
            raise ConfigError(f"neighbours.temperature is {self.temperature}; it must be above 0.")
        sizes = ("turn", "speed", "camera_px", "parallax_px", "noise_px", "background", "ground_px")
        for name in ("weight", *sizes):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"neighbours.{name} is {getattr(self, name)}; it must not be negative."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything `egodojo latents train` needs to know."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The training pairs."""
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    """What is learned from other bodies' clips."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=400_000, **RELEASED))
    """Optimiser, length of the run, checkpoints and the seed of weights, pairs and noise."""
    beta: float = 1e-6
    """Weight of the KL term."""
    recompute: bool = False
    """Recompute blocks in the backward pass instead of keeping their activations; of
    `input: frames`."""

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ConfigError(f"beta is {self.beta}, it must not be negative.")
        if self.recompute and self.model.input != "frames":
            raise ConfigError(f"recompute has no meaning with model.input: {self.model.input}.")
        if self.neighbours.weight and self.model.input != "flow":
            raise ConfigError(
                f"neighbours.weight is {self.neighbours.weight}, but model.input is "
                f"{self.model.input}; neighbours are found and learned in flow.",
                hint="Use --size small or set neighbours.weight=0.",
            )


def base() -> TrainConfig:
    """The published 700M model: 24 + 24 blocks of width 1024, 709,778,240 parameters."""
    loop = LoopConfig(steps=400_000, precision="float16", **RELEASED)
    return TrainConfig(
        model=ModelConfig(name="lam-base"), data=DataConfig(batch_size=20, num_threads=8), loop=loop
    )


def tiny() -> TrainConfig:
    """A model of the same kind that trains on a laptop's CPU in about a minute."""
    model = ModelConfig(
        name="lam-tiny", width=64, num_encoder_blocks=2, num_decoder_blocks=2, num_heads=4
    )
    loop = LoopConfig(
        steps=100, lr=1e-3, weight_decay=1e-2, grad_clip=1.0, warmup_steps=10, checkpoint_every=100
    )
    return TrainConfig(model=model, data=DataConfig(validation_pairs=32), loop=loop)


def small() -> TrainConfig:
    """Flow in, flow out, with convolutions, and learning from neighbours: minutes on two cores."""
    # A latent that has learned from neighbours gains nothing from a place part.
    model = ModelConfig(
        name="lam-small",
        input="flow",
        width=96,
        place_weight=0.0,
        frame_height=96,
        frame_width=128,
    )
    loop = LoopConfig(
        steps=360,
        lr=1e-3,
        weight_decay=1e-2,
        grad_clip=1.0,
        warmup_steps=24,
        decay_steps=240,
        lr_end=0.02,
        checkpoint_every=40,
        validate_every=40,
    )
    data = DataConfig(batch_size=32, min_stride=6, max_stride=10, balance="sample", num_threads=2)
    neighbours = NeighbourConfig(weight=1.0, nearest=8)
    return TrainConfig(model=model, data=data, neighbours=neighbours, loop=loop, beta=3e-5)


SIZES = {"tiny": tiny, "small": small, "base": base}


def preset(size: str) -> TrainConfig:
    """The configuration of one size.

    Raises:
        ConfigError: There is no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"There is no model size {size!r}.", hint=nearest(size, list(SIZES)))
    return SIZES[size]()


def load_train_config(
    size: str, *, file: Path | None = None, sets: tuple[str, ...] = ()
) -> TrainConfig:
    """A preset, adjusted by the sections of a YAML file and then by `key=value` settings.

    Raises:
        ConfigError: No such size or file, or a field is unknown or impossible.
    """
    values: dict[str, Any] = to_dict(preset(size))
    for section, given in (read_yaml(file) if file else {}).items():
        inner = values.get(section)
        if isinstance(inner, dict) and isinstance(given, dict):
            given = {**inner, **given}
        values[section] = given
    return load_config(TrainConfig, values=values, sets=sets, where=str(file or f"size {size}"))
