"""What a scorer is, what it sees of a clip, and how one is found by name.

A scorer is made cheaply in the driver and again in every worker; only workers call `load`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manifests.config import load_config, nearest
from manifests.errors import ConfigError, UsageError

Frames = NDArray[np.uint8]
Row = Mapping[str, Any]

SHIPPED = {
    "embedding": "curation.scorers.embedding:EmbeddingScorer",
    "hands": "curation.scorers.hands:HandScorer",
    "captions": "curation.scorers.captions:CaptionScorer",
}
ENTRY_POINT_GROUP = "egodojo.scorers"
COLUMN_TYPES = ("string", "int64", "double", "bool", "list<double>", "list<string>")


class FrameReader(Protocol):
    """Where frames come from; `pipeline.clips.ClipReader` is one."""

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> Frames:
        """RGB frames (n, H, W, 3) of one clip."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What the catalogue says about a clip; travels from the driver to a worker."""

    clip_id: str
    shard: str
    uri: str
    source: str
    embodiment: str
    start_s: float
    end_s: float
    num_frames: int
    fps: float
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipView:
    """One clip as a scorer sees it: its facts, and its frames when asked for.

    Example:
        >>> clip.spread(4).shape  # doctest: +SKIP
        (4, 480, 640, 3)
    """

    facts: ClipFacts
    reader: FrameReader

    def frames(self, indices: Sequence[int]) -> Frames:
        """RGB uint8 (n, H, W, 3); a damaged clip raises SampleError."""
        return self.reader.frames(self.facts.shard, self.facts.clip_id, indices)

    def spread(self, count: int) -> Frames:
        """`count` frames in the middle of equal parts; all of them when the clip has fewer."""
        return self.frames(spread_indices(self.facts.num_frames, count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker may use."""

    num_cpus: float
    num_gpus: float

    @property
    def device(self) -> str:
        """`cuda` for a worker that was given a GPU, else `cpu`."""
        return "cuda" if self.num_gpus > 0 else "cpu"

    @property
    def num_threads(self) -> int:
        """Threads for numeric libraries."""
        return max(1, int(self.num_cpus))


class Scorer(Protocol):
    """Turns a clip into one row of numbers and texts.

    A scorer may also have:

    - `Config`: a frozen dataclass; `--set key=value` fills it and it is the one argument of the
      constructor. Without it the constructor takes nothing.
    - `load(resources)`: called once in each worker, before the first clip.
    - `score_clips(clips)`: many clips at once, for batches and concurrent requests; yields
      `(clip_id, row)`, and a SampleError in the place of a row for a clip that cannot be scored.
    - `max_workers`: no more workers than this.
    - `max_clips`: no more clips than this in one command.
    - `take_notes()`: numbers for the summary, such as tokens spent since the last call.
    - `warning`: a sentence shown before the work, or None.
    """

    name: str
    """Name of the score table unless the user gives one: snake_case."""
    digest: str
    """64 hex digits: equal exactly when the same clip gives the same row."""
    columns: Mapping[str, str]
    """Column -> one of `COLUMN_TYPES`. A value that is not known is None; a list is never None."""

    def score(self, clip: ClipView) -> Row:
        """The row of one clip, every column in it; SampleError when this clip cannot be scored."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoConfig:
    """Settings of a scorer that has none."""


def build_scorer(spec: str, sets: Sequence[str] = ()) -> Scorer:
    """Make the scorer that `spec` names.

    Args:
        spec: A shipped name, a name of the entry point group `egodojo.scorers`, `module:attr` or
            `path/to/file.py:attr`.
        sets: `key=value` settings.

    Raises:
        UsageError: Nothing has that name, or it is no scorer.
        ConfigError: A setting is unknown or impossible.
    """
    target = resolve(spec, shipped=SHIPPED, group=ENTRY_POINT_GROUP, what="scorer")
    config_type = getattr(target, "Config", NoConfig)
    if not is_dataclass(config_type):
        raise UsageError(f"The Config of the scorer {spec!r} is no dataclass.")
    config = load_config(config_type, sets=sets, where=f"scorer {spec}")
    made: Any = target() if config_type is NoConfig else target(config)
    check_scorer(made, spec)
    scorer: Scorer = made
    return scorer


def absolute_spec(spec: str) -> str:
    """The same for a worker that has another working directory: a file's path made absolute."""
    where, _, attribute = spec.rpartition(":")
    return f"{Path(where).expanduser().resolve()}:{attribute}" if where.endswith(".py") else spec


def check_scorer(scorer: Any, spec: str) -> None:
    """Refuse what lacks a part of the protocol.

    Raises:
        UsageError: Names the part.
    """
    for part in ("name", "digest", "columns", "score"):
        if not hasattr(scorer, part):
            raise UsageError(
                f"{spec!r} is no scorer: it has no {part!r}.",
                hint="docs/scorers.md shows one in twenty lines.",
            )
    for column, kind in scorer.columns.items():
        if kind not in COLUMN_TYPES:
            raise UsageError(
                f"Scorer {spec!r}: column {column} has the type {kind!r}, must be one of "
                f"{', '.join(COLUMN_TYPES)}."
            )


def resolve(spec: str, *, shipped: Mapping[str, str], group: str, what: str) -> Callable[..., Any]:
    """The object behind a shipped name, an entry point, `module:attr` or `file.py:attr`.

    Raises:
        UsageError: There is none.
    """
    spec = shipped.get(spec, spec)
    if ":" not in spec:
        found = {point.name: point for point in entry_points(group=group)}
        if spec not in found:
            raise UsageError(
                f"There is no {what} {spec!r}.",
                hint=nearest(spec, [*shipped, *found])
                or f"Give module:attr or an entry point of the group {group}.",
            )
        spec = found[spec].value
    where, _, attribute = spec.rpartition(":")
    module = _module_at(where, spec, what)
    try:
        target: Callable[..., Any] = getattr(module, attribute)
    except AttributeError as error:
        known = [name for name in vars(module) if not name.startswith("_")]
        raise UsageError(
            f"{where} has no {attribute!r}, which the {what} {spec!r} names.",
            hint=nearest(attribute, known),
        ) from error
    return target


def spread_indices(num_frames: int, count: int) -> list[int]:
    """Frame numbers in the middle of `count` equal parts of a clip, or all of a shorter one."""
    count = min(count, num_frames)
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


def existing_file(path: Path | str, what: str) -> Path:
    """The absolute path of a file the user named.

    Raises:
        ConfigError: It is not there.
    """
    found = Path(path).expanduser().resolve()
    if not found.is_file():
        raise ConfigError(f"The {what} {path} is not a file.", hint="Check the path.")
    return found


def file_digest(path: Path) -> str:
    """64 hex digits: SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _module_at(where: str, spec: str, what: str) -> ModuleType:
    try:
        if where.endswith(".py"):
            return _module_of_file(existing_file(where, f"file of the {what}"))
        return importlib.import_module(where)
    except ImportError as error:
        raise UsageError(
            f"The {what} {spec!r} cannot be imported: {error}.",
            hint="Name a module that Python finds, or a file: path/to/file.py:attribute.",
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    """Load a file as a module of its own name; loading it again gives the same module."""
    name = f"_egodojo_user_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
