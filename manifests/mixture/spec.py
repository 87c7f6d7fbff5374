"""Training mixtures as data: which clips of which datasets, in what ratio, cut into what windows.

`MixtureSpec.load(file).plan()` reads the datasets once and gives a `MixturePlan`; everything a
mixture asks for is looked up first, so that training never starts on something missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..config import load_config, nearest
from ..errors import ConfigError
from .cycle import whole_weights
from .plan import MixturePlan

MIXTURE_DIR = Path(__file__).parent.parent / "mixtures"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """How windows are cut out of clips."""

    num_frames: int = 13
    """Frames of a window: one, and then whole latent frames of four."""
    frame_size: tuple[int, int] = (480, 640)
    """Height and width in pixels; pictures of another size are resized on reading."""
    stride: int | None = None
    """Clip frames from one window frame to the next; None: the embodiment's own."""
    target_fps: float | None = None
    """Instead of a stride: window frames per second, to the nearest whole stride of each clip."""
    start_step: int = 1
    """Distance in frames between possible starts of a window."""

    def __post_init__(self) -> None:
        if self.num_frames < 5 or self.num_frames % 4 != 1:
            raise ConfigError(
                f"window.num_frames is {self.num_frames}, must be 5, 9, 13, ...",
                hint="One frame and then groups of four: that is how video tokenizers cut time.",
            )
        if min(self.frame_size) < 16 or any(side % 16 for side in self.frame_size):
            raise ConfigError(
                f"window.frame_size is {list(self.frame_size)}, must be [height, width] in "
                "multiples of 16."
            )
        if self.stride is not None and self.target_fps is not None:
            raise ConfigError("window.stride and window.target_fps exclude each other.")
        if self.stride is not None and self.stride < 1:
            raise ConfigError(f"window.stride is {self.stride}, must be at least 1.")
        if self.target_fps is not None and not self.target_fps > 0:
            raise ConfigError(f"window.target_fps is {self.target_fps}, must be above 0.")
        if self.start_step < 1:
            raise ConfigError(f"window.start_step is {self.start_step}, must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One source of a mixture."""

    dataset: str
    """Folder of the dataset; relative to the mixture file, or else to the working directory."""
    weight: int | float
    """Share of the samples, in proportion to the other weights; exact, decimals too."""
    where: str = ""
    """SQL predicate over the columns and score tables of the dataset; empty: every kept clip."""
    versions: dict[str, int] = field(default_factory=dict)
    """Table versions to read, for instance {clips: 4, decisions: 2}; empty: the newest."""
    stride: int | None = None
    """Overrides the window's stride for this source."""
    embodiment: str | None = None
    """Name or YAML file of a body that overrides the column `embodiment`."""

    def __post_init__(self) -> None:
        whole_weights([self.weight])
        if self.stride is not None and self.stride < 1:
            raise ConfigError(f"stride of a source is {self.stride}, must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSpec:
    """A mixture file.

    Example:
        spec = MixtureSpec.load("mixture.yaml")
        plan = spec.plan()
        plan.sample(0)                      # Sample(index=0, source='human', ...)
    """

    sources: dict[str, SourceSpec]
    """Name -> source, in order."""
    window: WindowSpec = field(default_factory=WindowSpec)
    """How windows are cut."""
    unit: Literal["clip", "window"] = "clip"
    """`clip`: each clip once per pass, at a hashed start; `window`: each window once per pass."""
    shard_block: int = 0
    """Shuffle inside blocks of this many shards; 0: over the whole source."""
    latents: str | None = None
    """Model id of the stored latent actions for columns [352, 384); None: zeros there."""
    seed: int = 0
    """Another seed gives another order."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("A mixture needs at least one source.")
        if self.shard_block < 0:
            raise ConfigError(f"shard_block is {self.shard_block}, must be 0 or more.")
        whole_weights([source.weight for source in self.sources.values()])

    @classmethod
    def load(cls, path: Path | str, *, sets: Sequence[str] = ()) -> MixtureSpec:
        """Reads a mixture file, or a shipped mixture by name, and applies `key=value` settings.

        Raises:
            ConfigError: No such file or name, unknown keys, impossible values.
        """
        file = _find(str(path))
        spec = load_config(cls, file=file, sets=sets)
        sources = {
            name: replace(source, dataset=_resolve(source.dataset, file.parent))
            for name, source in spec.sources.items()
        }
        return replace(spec, sources=sources)

    def plan(self) -> MixturePlan:
        """Reads every source and works the mixture out.

        Raises:
            ConfigError: A source holds no window, or a window cannot be cut as asked.
            DatasetError: A dataset, shard or stored latent is not there.
        """
        from .build import build_plan

        return build_plan(self)


def mixture_names() -> list[str]:
    """Names of the shipped mixtures, sorted."""
    return sorted(path.stem for path in MIXTURE_DIR.glob("*.yaml"))


def _find(name: str) -> Path:
    if name in mixture_names():
        return MIXTURE_DIR / f"{name}.yaml"
    if not Path(name).suffix and not Path(name).exists():
        raise ConfigError(
            f"There is no mixture called {name!r}.", hint=nearest(name, mixture_names())
        )
    return Path(name)


def _resolve(dataset: str, beside: Path) -> str:
    """Absolute folder of a dataset: beside the mixture file, else in the working directory."""
    if "://" in dataset:
        return dataset
    folder = Path(dataset).expanduser()
    local = beside / folder
    return os.path.abspath(local if local.exists() else folder)
