"""Configuration of `egodojo curate`: what a dataset fixes, and how this run works."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.config import load_config, to_dict
from manifests.errors import ConfigError
from manifests.recipe import MIN_DURATION_S, MIN_FRAMES, Recipe
from manifests.settings import DatasetSettings, EncodeSettings
from pipeline.hardware import Decode, decoding_device

_RUN_ONLY = (
    "slots",
    "cpus_per_unit",
    "decode",
    "gpus_per_unit",
    "timeout_s",
    "attempts",
    "failure_budget_ratio",
    "dedup_max_clips",
)
_RECIPE_SECTIONS = ("keep.", "gates.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """Fields up to `encode` are fixed by a dataset's first run, the others may change any time."""

    clip_len_s: float = 20.0
    """Longest clip, in seconds."""
    unit_len_s: float = 600.0
    """Seconds of video in one unit of work."""
    min_frames: int = MIN_FRAMES
    """A piece of fewer frames is too short."""
    min_duration_s: float = MIN_DURATION_S
    """So is one of fewer seconds."""
    idle_min_s: float | None = None
    """Take out stretches of so many seconds (0.5 to 10) in which nothing moves; default: none."""
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    """How pictures are written."""
    slots: int | None = None
    """Units in flight; default: as many as there are CPUs."""
    cpus_per_unit: float = 1.0
    """CPUs Ray reserves for a unit."""
    decode: Decode = "software"
    """What decodes: `software`; `cuda`, an NVIDIA GPU; `auto`, that where there is one."""
    gpus_per_unit: float = 0.1
    """GPUs Ray reserves for a unit when `decode` is `cuda`."""
    timeout_s: float = 3600.0
    """Time limit of one attempt at a unit of `unit_len_s`, in proportion more where a file that
    cannot be cut makes a longer one; --inline has none."""
    attempts: int = 2
    """Attempts at a unit that kills its worker, before its parts are tried one by one."""
    failure_budget_ratio: float = 0.01
    """Share of inputs that may fail or be quarantined; one always may."""
    dedup_max_clips: int = 1_000_000
    """In a dataset of more clips only `egodojo dedup` looks for near-duplicates: even for a few new
    clips it works out the codes of all, half an hour of CPU for a million."""

    def __post_init__(self) -> None:
        for name in ("slots", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, must be at least 1.")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}, must be above 0 seconds.")
        if not self.cpus_per_unit >= 0:
            raise ConfigError(f"cpus_per_unit is {self.cpus_per_unit}, must not be negative.")
        if not self.gpus_per_unit > 0:
            raise ConfigError(f"gpus_per_unit is {self.gpus_per_unit}, must be above 0.")
        if not 0 <= self.failure_budget_ratio <= 1:
            raise ConfigError(
                f"failure_budget_ratio is {self.failure_budget_ratio}, must lie in 0..1."
            )

    def settings(self, *, name: str, recipe: Recipe) -> DatasetSettings:
        """The part that a dataset fixes."""
        fixed = {key: getattr(self, key) for key in _fixed_keys()}
        return DatasetSettings(name=name, gates=recipe.gates, **fixed)


def resolve_config(sets: Sequence[str], existing: DatasetSettings | None) -> CurateConfig:
    """The configuration of a run: defaults, what the dataset fixed, then `--set`.

    Raises:
        ConfigError: Unknown key, wrong type or impossible value.
    """
    values: dict[str, Any] = {}
    if existing is not None:
        values = {key: value for key, value in to_dict(existing).items() if key in _fixed_keys()}
    return load_config(CurateConfig, values=values, sets=sets, where="curate")


def check_decoder(config: CurateConfig, engine: str) -> None:
    """Refuse to insist on a GPU where there is none; on a cluster Ray knows where they are.

    Raises:
        UsageError: No GPU decodes video here.
    """
    is_elsewhere = engine == "ray" and os.environ.get("RAY_ADDRESS")
    if config.decode == "cuda" and not is_elsewhere:
        decoding_device("cuda")


def split_sets(sets: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--set` items for the run, and those for the recipe (`keep.dark=...`)."""
    recipe = [item for item in sets if item.strip().startswith(_RECIPE_SECTIONS)]
    return [item for item in sets if item not in recipe], recipe


def _fixed_keys() -> list[str]:
    return [key for key in CurateConfig.__dataclass_fields__ if key not in _RUN_ONLY]
