"""What a dataset fixes once: how clips are cut and encoded, and the gates of what is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import yaml

from .config import digest, load_config, nearest, read_yaml, to_dict
from .errors import ConfigError, DatasetError
from .locations import Location
from .recipe import MIN_DURATION_S, MIN_FRAMES, Rule
from .schema import FORMAT_VERSION

SETTINGS_FILE = "dataset.yaml"
IDLE_BOUNDS_S = (0.5, 10.0)
"""Stillness is seen over half a second; frames wait in memory as long as a stretch must last."""

X264_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower",
    "veryslow", "placebo",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """How pictures are written.

    Attributes:
        width: Output width in pixels, even.
        height: Output height in pixels, even.
        crf: x264 constant rate factor, 0 (lossless) to 51.
        preset: x264 preset.
        gop: Frames per closed group of pictures.
        max_fps: Highest frame rate; None keeps every displayed frame.
    """

    width: int = 640
    height: int = 480
    crf: int = 20
    preset: str = "veryfast"
    gop: int = 12
    max_fps: float | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 16 or value % 2:
                raise ConfigError(f"encode.{name} is {value}, must be an even number >= 16.")
        if not 0 <= self.crf <= 51:
            raise ConfigError(f"encode.crf is {self.crf}, must lie in 0..51.")
        if self.preset not in X264_PRESETS:
            raise ConfigError(
                f"encode.preset is {self.preset!r}, which x264 does not have.",
                hint=nearest(self.preset, X264_PRESETS),
            )
        if self.gop < 1:
            raise ConfigError(f"encode.gop is {self.gop}, must be at least 1.")
        if self.max_fps is not None and not 0 < self.max_fps < math.inf:
            raise ConfigError(f"encode.max_fps is {self.max_fps}, must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSettings:
    """The content of `dataset.yaml`; everything but the name goes into the digest.

    Attributes:
        name: A name for people.
        clip_len_s: Longest clip, in seconds.
        unit_len_s: Video per unit of work, in seconds.
        min_frames: A shorter clip gets the gate `too_short`.
        min_duration_s: So does one of fewer seconds.
        idle_min_s: Stretches of at least so many seconds in which nothing moves are taken out of
            the clips, with the gate `idle`; None leaves them in.
        encode: How pictures are written.
        gates: Rules that decide which clips are written, in order.
    """

    name: str
    clip_len_s: float = 20.0
    unit_len_s: float = 600.0
    min_frames: int = MIN_FRAMES
    min_duration_s: float = MIN_DURATION_S
    idle_min_s: float | None = None
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    gates: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clip_len_s", "unit_len_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be above 0 seconds.")
        if self.min_frames < 1 or not 0 <= self.min_duration_s < math.inf:
            raise ConfigError("min_frames must be at least 1 and min_duration_s at least 0.")
        low, high = IDLE_BOUNDS_S
        if self.idle_min_s is not None and not low <= self.idle_min_s <= high:
            raise ConfigError(
                f"idle_min_s is {self.idle_min_s}, must lie in {low:g}..{high:g} seconds, "
                "or be null to leave idle stretches in."
            )

    @property
    def digest(self) -> str:
        """64 hex digits over everything that decides the bytes: all but the name."""
        content = {key: value for key, value in to_dict(self).items() if key != "name"}
        if self.idle_min_s is None:
            del content["idle_min_s"]  # datasets older than the setting keep their digest
        return digest(content)


def settings_text(settings: DatasetSettings) -> str:
    """The text of `dataset.yaml`."""
    content = to_dict(settings)
    whole = {
        "name": content.pop("name"),
        "format_version": FORMAT_VERSION,
        "digest": settings.digest,
        "settings": content,
    }
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return text


def read_settings(path: Location) -> DatasetSettings:
    """Read `dataset.yaml` of a dataset folder.

    Raises:
        DatasetError: No dataset there, another format version, or an edited file.
    """
    file = path / SETTINGS_FILE
    try:
        is_there = file.is_file()
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened: {error.strerror}.") from error
    if not is_there:
        raise DatasetError(
            f"{path} is not a dataset: it has no {SETTINGS_FILE}.",
            hint=f"`egodojo curate INPUT --out {path}` makes one.",
        )
    try:
        content = read_yaml(file)
    except ConfigError as error:
        raise DatasetError(error.message, hint="Put the original file back.") from error
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{file} has the format version {version!r}; this egodojo reads {FORMAT_VERSION}.",
            hint="Update egodojo, or make the dataset again.",
        )
    fixed = content.get("settings")
    if not isinstance(fixed, dict):
        raise DatasetError(
            f"{file} is damaged: it has no mapping `settings`.", hint="Put the original file back."
        )
    values = {**fixed, "name": content.get("name")}
    settings = load_config(DatasetSettings, values=values, where=str(file))
    if settings.digest != content.get("digest"):
        raise DatasetError(
            f"{file} was changed after it was written: its digest does not fit its settings.",
            hint="Settings are fixed once written; put the original file back.",
        )
    return settings


def check_same_settings(existing: DatasetSettings, wanted: DatasetSettings, path: Location) -> None:
    """Refuse to go on with a dataset under other settings than it was made with.

    Raises:
        ConfigError: Names the first setting that differs.
    """
    if existing.digest == wanted.digest:
        return
    old, new = to_dict(existing), to_dict(wanted)
    for key in old:
        if key != "name" and old[key] != new[key]:
            raise ConfigError(
                f"The dataset {path} was made with {key} = {_short(old[key])}, "
                f"this command asks for {_short(new[key])}.",
                hint="Only `keep` rules may change on an existing dataset (`egodojo decide`); "
                "for another gate, clip or encode setting choose a new --out.",
            )


def _short(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()
