"""The hands scorer with detectors of every kind, and without one."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from clip_views import clip_view

from curation.scorers import detector_files as files
from curation.scorers.base import ClipView, Resources
from curation.scorers.hands import HandBox, HandsConfig, HandScorer
from manifests.dataset import Dataset
from manifests.errors import ConfigError, SampleError, UsageError

Cli = Callable[..., SimpleNamespace]
HERE = Path(__file__)
BOXES = {
    "input": {"width": 16, "height": 16},
    "output": {"decode": "boxes", "boxes": 0, "scores": 1},
}


class BrightIsHand:
    """A hand for each bright half of the picture."""

    digest = "bright-1"

    def detect(self, frames: Any) -> list[list[HandBox]]:
        return [
            [
                HandBox(left=x, top=0.0, right=x + 0.5, bottom=1.0, score=float(half.mean()) / 255)
                for x, half in zip((0.0, 0.5), np.split(frame, 2, axis=1), strict=True)
            ]
            for frame in frames
        ]


class Forgetful(BrightIsHand):
    def detect(self, frames: Any) -> list[list[HandBox]]:
        return []


class Unsure(BrightIsHand):
    def detect(self, frames: Any) -> list[list[HandBox]]:
        unsure = HandBox(left=0.0, top=0.0, right=1.0, bottom=1.0, score=math.nan)
        return [[unsure] for _ in frames]


class NoDetector:
    digest = "x"


class Toy(torch.nn.Module):
    """Two boxes per picture, as sure as its red and its green are bright."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = pictures.shape[0]
        boxes = torch.zeros(n, 2, 4) + torch.tensor([[0.0, 0.0, 8.0, 16.0], [8.0, 0.0, 16.0, 16.0]])
        return boxes, pictures.mean(dim=(2, 3))[:, :2]


class Halves:
    """Frame t: left half of brightness 255 in the first frames, both halves in the last."""

    def frames(self, shard: str, clip_id: str, indices: Any) -> Any:
        found = np.zeros((len(list(indices)), 32, 64, 3), np.uint8)
        found[1:, :, :, 0] = 255
        found[3:, :, :, 1] = 255
        found[1:, :, :32, 2] = 255
        return found


def clip() -> ClipView:
    return clip_view(Halves())


def scored(detector: str | Path, **changes: Any) -> Any:
    made = HandScorer(HandsConfig(detector=str(detector), num_frames=4, **changes))
    made.load(Resources(num_cpus=1, num_gpus=0))
    return made.score(clip())


def described(folder: Path, name: str, description: dict[str, Any] = BOXES) -> Path:
    (folder / name).with_suffix(".yaml").write_text(yaml.safe_dump(description))
    return folder / name


# Frames: nothing, one (red), one (red), two (red and green).
EXPECTED = {"hands_ratio": 0.75, "hands_max": 2, "hands_mean": 1.0}


def test_torchscript_file(tmp_path: Path) -> None:
    path = described(tmp_path, "toy.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Toy(), torch.zeros(1, 3, 16, 16)).save(str(path))
    assert scored(path) == EXPECTED


def test_torch_export_file(tmp_path: Path) -> None:
    path = described(tmp_path, "toy.pt2")
    torch.export.save(torch.export.export(Toy(), (torch.zeros(1, 3, 16, 16),)), str(path))
    assert scored(path) == EXPECTED


def onnx_toy(path: Path) -> Path:
    """The same as `Toy`, for one picture at a time."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    boxes = helper.make_tensor("b", TensorProto.FLOAT, [1, 2, 4], [0, 0, 8, 16, 8, 0, 16, 16])
    numbers = helper.make_tensor("i", TensorProto.INT64, [2], [0, 1])
    nodes = [
        helper.make_node("Identity", ["b"], ["boxes"]),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gather", ["m", "i"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2]),
        ],
        [boxes, numbers],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = onnx_toy(described(tmp_path, "toy.onnx"))
    assert scored(path) == EXPECTED
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**BOXES, "input": {**BOXES["input"], "colour": "bgr"}}))
    # The first two channels are now blue and green: the left half is blue from frame 1 on.
    assert scored(path, description=other, min_score=0.45) == EXPECTED


def test_python_detector_and_its_threshold() -> None:
    spec = f"{HERE}:BrightIsHand"
    assert scored(spec) == EXPECTED
    assert scored(spec, min_score=0.9) == {"hands_ratio": 0.25, "hands_max": 1, "hands_mean": 0.25}
    assert scored(spec, min_score=0.0)["hands_mean"] == 2.0


def test_without_a_detector_columns_are_null_never_0(dataset: Path, cli: Cli) -> None:
    done = cli("score", dataset, "--scorer", "hands", "--inline", "--json")
    assert done.exit_code == 0, done.stderr
    assert "No hand detector was given" in done.stderr
    assert json.loads(done.stdout)["num_scored"] > 0
    rows = Dataset.open(dataset).table("scores/hands").drop_columns("clip_id").to_pylist()
    assert set().union(*(row.values() for row in rows)) == {None}
    failing = ("decide", dataset, "--recipe", "permissive")
    refused = cli(*failing, "--set", "keep.hands=hands.hands_ratio > 0.1")
    assert refused.exit_code != 0, "a rule on NULL fails unless it says what NULL means"


def test_a_detector_scores_a_dataset(dataset: Path, cli: Cli) -> None:
    sets = ("--set", f"detector={HERE}:BrightIsHand", "--set", "min_score=0.2")
    assert cli("score", dataset, "--scorer", "hands", "--inline", *sets).exit_code == 0
    found = Dataset.open(dataset).sql("SELECT hands.hands_max AS n FROM kept").column("n")
    assert set(found.to_pylist()) <= {0, 1, 2}


def test_the_digest_follows_file_description_and_settings(tmp_path: Path) -> None:
    path = described(tmp_path, "toy.pt")
    path.write_bytes(b"one")

    def digest(**changes: Any) -> str:
        return HandScorer(HandsConfig(detector=str(path), **changes)).digest

    seen = {digest(), digest(min_score=0.6)}
    path.write_bytes(b"two")
    seen.add(digest())
    described(tmp_path, "toy.pt", {**BOXES, "input": {"width": 8, "height": 8}})
    seen.add(digest())
    assert len(seen) == 4
    moved = tmp_path / "moved"
    moved.mkdir()
    for suffix in (".pt", ".yaml"):
        (moved / f"toy{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
    assert HandScorer(HandsConfig(detector=str(moved / "toy.pt"))).digest == digest()


def told(**output: Any) -> files.DetectorDescription:
    return files.DetectorDescription(
        input=files.InputDescription(width=100, height=100, fit="letterbox"),
        output=files.OutputDescription(**output),
    )


def test_yolo_rows_are_decoded_without_doubles() -> None:
    rows = np.array(  # centre, size, two classes; the picture takes up 100 x 50 of the input
        [[50, 25, 20, 10, 0.9, 0.1], [51, 25, 20, 10, 0.8, 0.1], [90, 45, 10, 10, 0.1, 0.7]],
        np.float32,
    )
    description = told(decode="rows", box_format="cxcywh", transposed=True, hand_classes=(0,))
    boxes, scores = files.read_outputs([rows.T[None]], 0, description)
    found = files.to_hands(boxes, scores, (360, 720), description)
    assert [round(box.score, 3) for box in found] == [0.9, 0.1]
    best = found[0]
    assert (best.left, best.top, best.right, best.bottom) == pytest.approx((0.4, 0.4, 0.6, 0.6))


def test_class_numbers_logits_and_presence() -> None:
    outputs = [np.zeros((1, 2, 4), np.float32), np.zeros((1, 2)), np.array([[3, 1]])]
    description = told(decode="boxes", classes=2, hand_classes=(3,), logits=True)
    _, scores = files.read_outputs(outputs, 0, description)
    assert scores.tolist() == [0.5, 0.0]
    sure = told(decode="presence", logits=True)
    boxes, scores = files.read_outputs([np.array([0.0, 2.0])], 1, sure)
    (hand,) = files.to_hands(boxes, scores, (10, 10), sure)
    assert hand.score == pytest.approx(1 / (1 + np.exp(-2)))


def test_pictures_go_in_as_described() -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[..., 0] = 255
    boxed = files.InputDescription(
        width=8, height=8, fit="letterbox", layout="nhwc", dtype="uint8", colour="bgr"
    )
    ready = files.prepare(frame, boxed)
    assert ready.shape == (8, 8, 3)
    assert ready[0, 0].tolist() == [0, 0, 255]
    assert ready[7, 7].tolist() == [114, 114, 114]
    scaled = files.InputDescription(width=8, height=8, mean=(0.5, 0, 0), std=(0.5, 1, 1))
    assert files.prepare(frame, scaled)[:, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_an_installed_detector_is_found_by_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "bright_hands-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: bright-hands\nVersion: 1\n")
    (told / "entry_points.txt").write_text(
        f"[egodojo.hand_detectors]\nbright = {HERE.stem}:BrightIsHand\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert scored("bright") == EXPECTED


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        ("gone.onnx", "The hand detector gone.onnx is not a file"),
        ("nothing", "There is no hand detector 'nothing'"),
        (f"{HERE}:NoDetector", "is no hand detector: it has no 'detect'"),
    ],
)
def test_detectors_that_are_none(detector: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        HandScorer(HandsConfig(detector=detector))


def test_a_model_without_description_and_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"description of the hand detector .* is not a file"):
        HandScorer(HandsConfig(detector=str(tmp_path / "m.onnx")))
    pytest.importorskip("onnxruntime")
    described(tmp_path, "m.onnx")
    with pytest.raises(ConfigError, match="cannot be opened"):
        scored(tmp_path / "m.onnx")
    described(tmp_path, "m.pt").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="cannot be opened"):
        scored(tmp_path / "m.pt")


def test_without_onnxruntime_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    described(tmp_path, "m.onnx").write_bytes(b"model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="needs onnxruntime, which is not installed"):
        scored(tmp_path / "m.onnx")


def test_answers_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="gave 0 answers for 4 frames"):
        scored(f"{HERE}:Forgetful")
    with pytest.raises(ConfigError, match="has 1 outputs, its description names the output 1"):
        files.read_outputs([np.zeros((1, 2, 4))], 0, told(decode="boxes"))
    with pytest.raises(ConfigError, match=r"not \(m, 4\) and \(m,\)"):
        files.read_outputs([np.zeros((1, 6, 9))], 0, told(decode="boxes", scores=0))


def test_answers_that_are_no_numbers_are_not_taken_for_no_hand() -> None:
    with pytest.raises(SampleError, match="scores are no numbers"):
        scored(f"{HERE}:Unsure")
    boxes = np.full((1, 1, 4), np.nan)
    with pytest.raises(SampleError, match="boxes are no numbers"):
        files.read_outputs([boxes, np.ones((1, 1))], 0, told(decode="boxes"))
