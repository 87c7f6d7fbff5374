"""Hand detectors in files: an ONNX, TorchScript or torch.export model and a YAML that explains it.

The YAML says how pictures go in (size, range, layout) and what the numbers that come out are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.config import digest as digest_of
from manifests.config import load_config, to_dict
from manifests.errors import ConfigError, SampleError

from .base import Frames, Resources
from .hands import HandBox

EDGES = ("left", "top", "right", "bottom")
MAX_BOXES = 300  # the surest ones of a frame; a YOLO model gives 8,400

Floats = NDArray[np.float32]
Run = Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDescription:
    """How pictures go in."""

    width: int
    height: int
    layout: Literal["nchw", "nhwc"] = "nchw"
    colour: Literal["rgb", "bgr"] = "rgb"
    dtype: Literal["float32", "uint8"] = "float32"
    divide_by: float = 255.0
    """Pixels 0..255 are divided by this, then the mean is taken off, then the std divides."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fit: Literal["stretch", "letterbox"] = "stretch"
    """`letterbox` keeps the proportions and fills the rest with grey 114."""
    batch: int = 1
    """Frames in one call: many exported models take only the number they were exported with."""

    def __post_init__(self) -> None:
        """Check sizes."""
        if min(self.width, self.height, self.batch) < 1 or self.divide_by == 0 or 0 in self.std:
            raise ConfigError("width, height and batch are at least 1, divide_by and std not 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDescription:
    """What comes out."""

    decode: Literal["boxes", "rows", "presence"]
    """`boxes`: outputs for boxes (n, m, 4) and scores (n, m) or (n, m, classes), perhaps classes
    (n, m). `rows`: one output (n, m, 4 + classes), or (n, 4 + classes, m) when transposed, as
    YOLO detectors give. `presence`: one output (n) or (n, classes): how sure it is of a hand."""
    boxes: int = 0
    """Position of the output with boxes (or rows, or presence)."""
    scores: int = 1
    """Position of the output with scores, for `boxes`."""
    classes: int | None = None
    """Position of the output with class numbers, for `boxes`."""
    hand_classes: tuple[int, ...] | None = None
    """Classes that are hands; None: all."""
    box_format: Literal["xyxy", "cxcywh"] = "xyxy"
    units: Literal["pixels", "shares"] = "pixels"
    """Of the model's input picture."""
    transposed: bool = False
    logits: bool = False
    """Scores go through a sigmoid first."""
    iou: float = 0.5
    """Of two boxes that overlap more than this the less sure one is left out; 1 keeps all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorDescription:
    """The YAML beside a model file."""

    input: InputDescription
    output: OutputDescription


class FileDetector:
    """A `HandDetector` from a model file and its description."""

    def __init__(self, path: Path, description: Path, *, digest: str) -> None:
        """Read the description; the model is opened by `load`."""
        self.path = path
        self.described = load_config(DetectorDescription, file=description)
        self.digest = digest_of({"file": digest, "description": to_dict(self.described)})
        self._run: Run | None = None

    def load(self, resources: Resources) -> None:
        """Open the model.

        Raises:
            ConfigError: The file is no such model, or its runtime is not installed.
        """
        open_model = _open_onnx if self.path.suffix.lower() == ".onnx" else _open_torch
        self._run = open_model(self.path, resources)

    def detect(self, frames: Frames) -> Sequence[Sequence[HandBox]]:
        """Hands of each frame of uint8 RGB (n, H, W, 3)."""
        assert self._run is not None, "load() comes first"
        told, found = self.described, []
        for first in range(0, len(frames), told.input.batch):
            part = frames[first : first + told.input.batch]
            prepared = np.stack([prepare(frame, told.input) for frame in part])
            missing = told.input.batch - len(part)
            if missing:
                prepared = np.concatenate([prepared, np.repeat(prepared[-1:], missing, axis=0)])
            outputs = self._run(prepared)
            for index in range(len(part)):
                boxes, scores = read_outputs(outputs, index, told)
                found.append(to_hands(boxes, scores, part.shape[1:3], told))
        return found


def prepare(frame: Frames, told: InputDescription) -> NDArray[Any]:
    """One frame (H, W, 3) as the model wants it."""
    width, height = fitted_size(frame.shape[:2], told)
    picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    canvas = np.full((told.height, told.width, 3), 114, np.uint8)
    canvas[:height, :width] = np.asarray(picture)
    if told.colour == "bgr":
        canvas = canvas[..., ::-1]
    ready: NDArray[Any] = canvas
    if told.dtype == "float32":
        mean, std = np.array(told.mean, np.float32), np.array(told.std, np.float32)
        ready = ((canvas.astype(np.float32) / told.divide_by - mean) / std).astype(np.float32)
    return np.ascontiguousarray(ready if told.layout == "nhwc" else ready.transpose(2, 0, 1))


def fitted_size(size: Sequence[int], told: InputDescription) -> tuple[int, int]:
    """Width and height that a frame of (height, width) takes up in the model's input."""
    if told.fit == "stretch":
        return told.width, told.height
    scale = min(told.width / size[1], told.height / size[0])
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))


def read_outputs(
    outputs: Sequence[NDArray[Any]], index: int, told: DetectorDescription
) -> tuple[Floats, Floats]:
    """Boxes (m, 4) in the model's units and hand scores (m,) of one frame.

    Raises:
        ConfigError: The outputs are not as described.
        SampleError: Boxes that are no numbers.
    """
    out = told.output
    needed = [out.boxes, *([out.scores] if out.decode == "boxes" else [])]
    needed += [out.classes] if out.classes is not None else []
    if max(needed) >= len(outputs):
        raise ConfigError(
            f"The hand detector has {len(outputs)} outputs, its description names the output "
            f"{max(needed)}.",
            hint="Outputs are counted from 0.",
        )
    first = np.asarray(outputs[out.boxes][index], np.float32)
    if out.decode == "presence":
        chosen = np.atleast_1d(_score(first.reshape(1, -1), None, out))
        return np.zeros((1, 4), np.float32), chosen
    if out.decode == "rows":
        rows = first.T if out.transposed else first
        boxes, scores = rows[:, :4], _score(rows[:, 4:], None, out)
    else:
        labels = None if out.classes is None else np.asarray(outputs[out.classes][index])
        boxes = first
        scores = _score(np.asarray(outputs[out.scores][index], np.float32), labels, out)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ConfigError(
            f"The hand detector gave boxes of shape {boxes.shape} and scores of shape "
            f"{scores.shape} for a frame, not (m, 4) and (m,).",
            hint="Look at `transposed`, `boxes` and `scores` in its description.",
        )
    if not np.isfinite(boxes).all():  # one such box would hide others
        raise SampleError("the hand detector's boxes are no numbers", reason="detector")
    return boxes, scores


def to_hands(
    boxes: Floats, scores: Floats, size: Sequence[int], told: DetectorDescription
) -> list[HandBox]:
    """Boxes as shares of the frame, the surest first, without doubles."""
    if told.output.decode == "presence":
        return [HandBox(left=0.0, top=0.0, right=1.0, bottom=1.0, score=float(scores[0]))]
    corners = boxes.copy()
    if told.output.box_format == "cxcywh":
        half = boxes[:, 2:] / 2
        corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    if told.output.units == "shares":
        corners = corners * np.array([told.input.width, told.input.height] * 2, np.float32)
    width, height = fitted_size(size, told.input)
    corners = np.clip(corners / np.array([width, height] * 2, np.float32), 0.0, 1.0)
    kept = without_doubles(corners, scores, told.output.iou)
    return [
        HandBox(**dict(zip(EDGES, corners[i].tolist(), strict=True)), score=float(scores[i]))
        for i in kept
    ]


def without_doubles(corners: Floats, scores: Floats, iou: float) -> list[int]:
    """Positions of the boxes that stay, the surest first."""
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    left = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    kept = []
    while len(left):
        best, rest = int(left[0]), left[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[rest, :2])
        high = np.minimum(corners[best, 2:], corners[rest, 2:])
        shared = np.prod(np.clip(high - low, 0.0, None), axis=1)
        union = np.maximum(areas[best] + areas[rest] - shared, 1e-12)
        left = rest[shared / union <= iou]
    return kept


def _score(values: Floats, labels: NDArray[Any] | None, out: OutputDescription) -> Floats:
    """The score of a hand, (m,), from scores (m,) or (m, classes) and perhaps class numbers."""
    if out.logits:
        values = np.asarray(1 / (1 + np.exp(-values)), np.float32)
    if labels is not None and out.hand_classes is not None:
        values = values * np.isin(labels, out.hand_classes)
    if values.ndim == 2:
        chosen = values if out.hand_classes is None else values[:, list(out.hand_classes)]
        values = chosen.max(axis=1)
    return np.asarray(values, np.float32)


def _open_onnx(path: Path, resources: Resources) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"The hand detector {path} needs onnxruntime, which is not installed.",
            hint="Install it with: pip install 'egodojo[onnx]'.",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = resources.num_threads
    wanted = ["CUDAExecutionProvider"] if resources.device == "cuda" else []
    there = onnxruntime.get_available_providers()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise _unfit(path, error) from error
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _open_torch(path: Path, resources: Resources) -> Run:
    import torch

    device = torch.device(resources.device)
    if resources.device == "cpu":
        torch.set_num_threads(resources.num_threads)
    try:
        if path.suffix.lower() == ".pt2":
            model = torch.export.load(str(path)).module().to(device)
        else:
            with warnings.catch_warnings():  # torch would rather have .pt2; users have .pt files
                warnings.simplefilter("ignore", FutureWarning)
                model = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]  # torch leaves it out
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError) as error:
        raise _unfit(path, error) from error

    def run(batch: NDArray[Any]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            found = model(torch.from_numpy(batch).to(device))
        listed = found.values() if isinstance(found, dict) else found
        tensors = [listed] if isinstance(listed, torch.Tensor) else list(listed)
        return [tensor.float().cpu().numpy() for tensor in tensors]

    return run


def _unfit(path: Path, error: Exception) -> ConfigError:
    why = " ".join(str(error).split())[:300]
    return ConfigError(
        f"The hand detector {path} cannot be opened: {why}",
        hint="It must be an ONNX, TorchScript (.pt, .ts) or torch.export (.pt2) file.",
    )
