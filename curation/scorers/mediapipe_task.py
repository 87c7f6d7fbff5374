"""Hand detectors in MediaPipe `.task` files: a bundle of models that explains itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifests.config import digest as digest_of
from manifests.errors import ConfigError

from .base import Frames, Resources
from .hands import HandBox

NUM_HANDS = 4
"""Two of the wearer and two of somebody else; MediaPipe stops looking after as many."""


class TaskDetector:
    """A `HandDetector` from a hand landmarker bundle, on the CPU.

    MediaPipe keeps how sure it is of a hand to itself and only takes a threshold, for the palm and
    for the landmarks; every hand it gives has score 1. A box spans the 21 landmarks of a hand.

    Args:
        path: The bundle.
        digest: Of its bytes.
        min_score: The threshold.
    """

    def __init__(self, path: Path, *, digest: str, min_score: float) -> None:
        self.path, self.min_score = path, min_score
        self.digest = digest_of({"task": digest, "num_hands": NUM_HANDS, "min_score": min_score})
        self._find: Callable[[Frames], Any] | None = None

    def load(self, resources: Resources) -> None:
        """Open the bundle.

        Raises:
            ConfigError: The file is no such bundle, or MediaPipe is not installed.
        """
        self._find = _open(self.path, self.min_score)

    def detect(self, frames: Frames) -> Sequence[Sequence[HandBox]]:
        """Hands of each frame of uint8 RGB (n, H, W, 3)."""
        assert self._find is not None, "load() comes first"
        return [[_box(hand) for hand in self._find(frame).hand_landmarks] for frame in frames]


def _open(path: Path, min_score: float) -> Callable[[Frames], Any]:
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise ConfigError(
            f"The hand detector {path} needs MediaPipe, which cannot be imported: {error}.",
            hint="Install it with: pip install 'egodojo[mediapipe]'.",
        ) from error
    options = vision.HandLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(path), delegate=BaseOptions.Delegate.CPU),
        running_mode=vision.RunningMode.IMAGE,
        num_hands=NUM_HANDS,
        min_hand_detection_confidence=min_score,
        min_hand_presence_confidence=min_score,
    )
    try:
        landmarker = vision.HandLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"The hand detector {path} cannot be opened: {why}",
            hint="It must be a hand landmarker bundle of MediaPipe.",
        ) from error

    def find(frame: Frames) -> Any:
        picture = mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
        )
        return landmarker.detect(picture)

    return find


def _box(landmarks: Sequence[Any]) -> HandBox:
    """What spans the landmarks, which may lie outside the picture."""
    places = np.clip([(mark.x, mark.y) for mark in landmarks], 0.0, 1.0)
    (left, top), (right, bottom) = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    return HandBox(left=left, top=top, right=right, bottom=bottom, score=1.0)
