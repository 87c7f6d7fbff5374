"""Hand detectors in `.task` files: what MediaPipe is asked, and what its answers become.

No bundle can be fetched here: a module with the same names stands for MediaPipe 1.2.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curation.scorers.base import Resources
from curation.scorers.hands import HandsConfig, HandScorer
from curation.scorers.mediapipe_task import NUM_HANDS, TaskDetector
from manifests.errors import ConfigError

ON_CPU = Resources(num_cpus=1, num_gpus=0)


class BaseOptions(SimpleNamespace):
    class Delegate(Enum):
        CPU = 1


def marks(*places: tuple[float, float]) -> list[SimpleNamespace]:
    return [SimpleNamespace(x=x, y=y) for x, y in places]


class Landmarker:
    """A hand over the red share of the picture, and one that hangs out of it when it is white."""

    told: SimpleNamespace

    @classmethod
    def create_from_options(cls, options: SimpleNamespace) -> Landmarker:
        if Path(options.base_options.model_asset_path).read_bytes()[:2] != b"PK":
            raise RuntimeError("Unable to open zip archive.")
        cls.told = options
        return cls()

    def detect(self, image: SimpleNamespace) -> SimpleNamespace:
        assert image.image_format == "srgb"
        assert image.data.flags.c_contiguous
        red, green = image.data[..., 0].mean() / 255, image.data[..., 1].mean() / 255
        hands = [marks((0.25, 0.5), (0.5, 0.125), (0.375, 0.75))] if red else []
        hands += [marks((-0.5, 0.5), (0.25, 1.5))] if green else []
        return SimpleNamespace(hand_landmarks=hands)


@pytest.fixture
def mediapipe(monkeypatch: pytest.MonkeyPatch) -> None:
    image = SimpleNamespace(ImageFormat=SimpleNamespace(SRGB="srgb"), Image=SimpleNamespace)
    vision = SimpleNamespace(
        HandLandmarker=Landmarker,
        HandLandmarkerOptions=SimpleNamespace,
        RunningMode=SimpleNamespace(IMAGE="image"),
    )
    names: dict[str, dict[str, Any]] = {
        "mediapipe": vars(image),
        "mediapipe.tasks": {},
        "mediapipe.tasks.python": {"BaseOptions": BaseOptions, "vision": vision},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def bundle(folder: Path, content: bytes = b"PK-bundle") -> Path:
    path = folder / "hand.task"
    path.write_bytes(content)
    return path


@pytest.mark.usefixtures("mediapipe")
def test_landmarks_become_boxes_within_the_picture(tmp_path: Path) -> None:
    scorer = HandScorer(HandsConfig(detector=str(bundle(tmp_path)), min_score=0.7))
    assert isinstance(scorer.detector, TaskDetector)
    scorer.load(ON_CPU)
    told = Landmarker.told
    assert told.base_options.delegate is BaseOptions.Delegate.CPU
    assert (told.running_mode, told.num_hands) == ("image", NUM_HANDS)
    assert told.min_hand_detection_confidence == told.min_hand_presence_confidence == 0.7
    frames = np.zeros((3, 8, 16, 3), np.uint8)
    frames[1, ..., 0] = 255
    frames[2, ..., :2] = 255
    none, one, two = scorer.detector.detect(frames[:, :, ::2])
    assert (len(none), len(one), len(two)) == (0, 1, 2)
    edges = [(box.left, box.top, box.right, box.bottom, box.score) for box in two]
    assert edges == [(0.25, 0.125, 0.5, 0.75, 1.0), (0.0, 0.5, 0.25, 1.0, 1.0)]


@pytest.mark.usefixtures("mediapipe")
def test_a_file_that_is_no_bundle(tmp_path: Path) -> None:
    scorer = HandScorer(HandsConfig(detector=str(bundle(tmp_path, b"text"))))
    with pytest.raises(ConfigError, match=r"hand.task cannot be opened: Unable to open zip"):
        scorer.load(ON_CPU)


def test_without_mediapipe_a_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    scorer = HandScorer(HandsConfig(detector=str(bundle(tmp_path))))
    with pytest.raises(ConfigError, match="needs MediaPipe, which cannot be imported") as refused:
        scorer.load(ON_CPU)
    assert "egodojo[mediapipe]" in str(refused.value.hint)


def test_a_bundle_is_known_by_its_bytes_and_threshold_and_takes_no_description(
    tmp_path: Path,
) -> None:
    path = bundle(tmp_path)
    seen = {HandScorer(HandsConfig(detector=str(path), min_score=s)).digest for s in (0.4, 0.5)}
    bundle(tmp_path, b"PK-other")
    seen.add(HandScorer(HandsConfig(detector=str(path))).digest)
    assert len(seen) == 3
    (tmp_path / "d.yaml").write_text("")
    with pytest.raises(ConfigError, match="description belongs to a model file"):
        HandScorer(HandsConfig(detector=str(path), description=tmp_path / "d.yaml"))
    with pytest.raises(ConfigError, match=r"gone.task is not a file"):
        HandScorer(HandsConfig(detector="gone.task"))
