"""The `hands` scorer: how many hands a detector of the user's sees; no detector ships with it.

Columns are NULL where no detector is given, never 0: nobody looked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from manifests.config import digest, to_dict
from manifests.errors import ConfigError, SampleError, UsageError

from .base import ClipView, Frames, Resources, Row, existing_file, file_digest, resolve

ENTRY_POINT_GROUP = "egodojo.hand_detectors"
MODEL_SUFFIXES = (".onnx", ".pt", ".pth", ".ts", ".torchscript", ".pt2")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandBox:
    """One hand in one frame; edges as shares of the picture's width and height, in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    """The detector's confidence, in [0, 1]."""


class HandDetector(Protocol):
    """Finds hands in pictures. It may also have `load(resources)`, called once in each worker."""

    digest: str
    """Changes whenever its answers may."""

    def detect(self, frames: Frames) -> Sequence[Sequence[HandBox]]:
        """The hands of each frame of uint8 RGB (n, H, W, 3)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HandsConfig:
    """Settings of the hands scorer."""

    detector: str | None = None
    """A model file (.onnx; .pt, .ts: TorchScript; .pt2: torch.export; .task: MediaPipe), an entry
    point of the group `egodojo.hand_detectors`, module:attr or file.py:attr. None: all columns are
    NULL."""
    description: Path | None = None
    """YAML beside a model file that says how to feed and read it; default: its name with .yaml."""
    num_frames: int = 8
    """Frames looked at, in the middle of equal parts of the clip."""
    min_score: float = 0.5
    """A box below this confidence is no hand."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.num_frames < 1 or not 0 <= self.min_score <= 1:
            raise ConfigError("num_frames must be at least 1 and min_score lie in [0, 1].")


class HandScorer:
    """Share of frames with a hand, and the mean and largest number of hands in a frame."""

    name = "hands"
    columns = {  # noqa: RUF012  (a protocol member, never changed)
        "hands_ratio": "double",
        "hands_max": "int64",
        "hands_mean": "double",
    }
    Config = HandsConfig

    def __init__(self, config: HandsConfig) -> None:
        """Find the detector; its file is opened later, by `load`."""
        self.config = config
        self.detector = None if config.detector is None else _detector(config)
        settings = to_dict(config)
        settings["description"] = None
        settings["detector"] = self.detector.digest if self.detector is not None else None
        self.digest = digest({"scorer": self.name, **settings})
        self.warning = (
            "No hand detector was given (--set detector=...): all columns will be NULL."
            if self.detector is None
            else None
        )

    def load(self, resources: Resources) -> None:
        """Open the detector's file."""
        load = getattr(self.detector, "load", None)
        if load is not None:
            load(resources)

    def score(self, clip: ClipView) -> Row:
        """Counts over the frames looked at."""
        if self.detector is None:
            return dict.fromkeys(self.columns)
        frames = clip.spread(self.config.num_frames)
        found = self.detector.detect(frames)
        if len(found) != len(frames):
            raise UsageError(
                f"The hand detector gave {len(found)} answers for {len(frames)} frames.",
                hint="`detect` returns one list of boxes per frame, empty where there is no hand.",
            )
        if not all(math.isfinite(box.score) for boxes in found for box in boxes):
            raise SampleError("the hand detector's scores are no numbers", reason="detector")
        counts = [sum(box.score >= self.config.min_score for box in boxes) for boxes in found]
        return {
            "hands_ratio": sum(count > 0 for count in counts) / len(counts),
            "hands_max": max(counts),
            "hands_mean": sum(counts) / len(counts),
        }


def _detector(config: HandsConfig) -> HandDetector:
    spec = str(config.detector)
    if Path(spec).suffix.lower() in MODEL_SUFFIXES:
        from .detector_files import FileDetector

        path = existing_file(spec, "hand detector")
        described = existing_file(
            config.description or path.with_suffix(".yaml"), "description of the hand detector"
        )
        return FileDetector(path, described, digest=file_digest(path))
    if config.description is not None:
        raise ConfigError("description belongs to a model file, and the detector needs none.")
    if Path(spec).suffix.lower() == ".task":
        from .mediapipe_task import TaskDetector

        path = existing_file(spec, "hand detector")
        return TaskDetector(path, digest=file_digest(path), min_score=config.min_score)
    target = resolve(spec, shipped={}, group=ENTRY_POINT_GROUP, what="hand detector")
    found: Any = target()
    for part in ("digest", "detect"):
        if not hasattr(found, part):
            raise UsageError(
                f"{spec!r} is no hand detector: it has no {part!r}.",
                hint="docs/scorers.md shows one.",
            )
    detector: HandDetector = found
    return detector
