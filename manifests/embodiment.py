"""Bodies as data: what a robot's action columns are called, mean, and where they go.

One YAML file per body in `manifests/embodiments/`; a path to a file of one's own works everywhere
a name does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .action_vector import ACTION_WIDTH, LATENT_START, Float32Array, normalise
from .config import load_config, nearest
from .errors import ConfigError

EMBODIMENT_DIR = Path(__file__).parent / "embodiments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Columns [start, stop) of the 384-wide action row."""

    start: int
    """First column."""
    stop: int
    """One past the last column; at most 352, where the latent action begins."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= LATENT_START:
            raise ValueError(
                f"the slot [{self.start}, {self.stop}) must lie inside [0, {LATENT_START}) of the "
                f"{ACTION_WIDTH} action columns"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionStatistics:
    """Smallest and largest value of every action column over the robot's training data."""

    minimum: tuple[float, ...]
    """One number per action column."""
    maximum: tuple[float, ...]
    """One number per action column."""

    def __post_init__(self) -> None:
        if len(self.minimum) != len(self.maximum):
            raise ValueError(
                f"statistics hold {len(self.minimum)} minima and {len(self.maximum)} maxima"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Embodiment:
    """One body, human or robot.

    Example:
        body = load_embodiment("gr1")
        body.stride, body.slot.start, len(body.action_names)   # 2, 0, 29
    """

    name: str
    """Short name, the value of the column `embodiment`."""
    description: str = ""
    """One sentence for people."""
    action_names: tuple[str, ...] = ()
    """Columns of `<stem>.actions.parquet`, in slot order; empty when the body records none."""
    action_units: tuple[str, ...] = ()
    """Unit of each action column."""
    rate_hz: float | None = None
    """Frames per second of the recordings; None when they vary."""
    stride: int = 1
    """Video frames from one window frame to the next."""
    slot: Slot | None = None
    """Where the action columns go in the 384-wide row; None: nowhere."""
    statistics: ActionStatistics | None = None
    """Ranges for normalisation; without them the slot stays zero."""

    def __post_init__(self) -> None:
        width = len(self.action_names)
        if len(self.action_units) != width:
            raise ValueError(f"{width} action_names but {len(self.action_units)} action_units")
        if len(set(self.action_names)) != width:
            raise ValueError("action_names holds a name twice")
        if self.stride < 1:
            raise ValueError(f"stride is {self.stride}, must be at least 1")
        if self.slot is not None and self.slot.stop - self.slot.start != width:
            raise ValueError(
                f"the slot has {self.slot.stop - self.slot.start} columns, action_names {width}"
            )
        if self.statistics is not None and len(self.statistics.minimum) != width:
            raise ValueError(
                f"statistics have {len(self.statistics.minimum)} columns, action_names {width}"
            )

    @property
    def feeds_actions(self) -> bool:
        """Whether recorded actions of this body reach the model (a slot and statistics)."""
        return self.slot is not None and self.statistics is not None

    def normalise(self, actions: Float32Array) -> Float32Array:
        """Min-max normalises (rows, columns) actions with this body's statistics."""
        assert self.statistics is not None, "ask feeds_actions first"
        return normalise(
            actions,
            np.asarray(self.statistics.minimum, dtype=np.float32),
            np.asarray(self.statistics.maximum, dtype=np.float32),
        )


def embodiment_names() -> list[str]:
    """Names of the shipped bodies, sorted."""
    return sorted(path.stem for path in EMBODIMENT_DIR.glob("*.yaml"))


@lru_cache(maxsize=256)
def load_embodiment(name_or_path: str) -> Embodiment:
    """Reads a shipped body by name, or a YAML file by path.

    Raises:
        ConfigError: No such body or file, or the file is wrong.
    """
    path = EMBODIMENT_DIR / f"{name_or_path}.yaml"
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    elif name_or_path not in embodiment_names():
        raise ConfigError(
            f"There is no embodiment called {name_or_path!r}.",
            hint=nearest(name_or_path, embodiment_names())
            + " The path of a YAML file of your own works too.",
        )
    return load_config(Embodiment, file=path)


def embodiment_from_dict(values: dict[str, object]) -> Embodiment:
    """Rebuilds a body from `config.to_dict`."""
    return load_config(Embodiment, values=values, where="embodiment")


def with_statistics(
    body: Embodiment, *, minimum: Float32Array, maximum: Float32Array
) -> Embodiment:
    """The same body with statistics of one's own data."""
    statistics = ActionStatistics(
        minimum=tuple(float(value) for value in minimum),
        maximum=tuple(float(value) for value in maximum),
    )
    return dataclasses.replace(body, statistics=statistics)
