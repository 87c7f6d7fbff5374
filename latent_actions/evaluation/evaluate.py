"""`latents eval`: one pass over the kept clips, then every measure, as JSON and as pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.dataset import Dataset
from manifests.errors import SampleError, UsageError
from pipeline.clips import ClipReader
from pipeline.training.device import best_device

from ..extract import Extractor
from ..flow_features import join
from ..model import LatentActionModel
from ..preprocess import scale_frames
from ..windows import clip_vectors
from .features import pair_features
from .page import write_page
from .pictures import latent_map, transfer_picture
from .probes import probe
from .retrieval import (
    Labels,
    Scores,
    best_normalisation,
    chance,
    interval,
    score,
)
from .truth import TrueClip, true_clips

Rows = NDArray[Any]
MODEL_ROW, ORACLE = "model", "oracle (true actions)"
FLAT = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What is compared on what."""

    step: int = 8
    """Frames between the two of a pair."""
    every: int = 4
    """Only every n-th frame begins a pair."""
    where: str = "true"
    """SQL condition on the kept clips."""
    max_clips: int = 2000
    """At most so many, evenly spread over the ids."""
    baselines: bool = True
    """Whether features without learning are scored beside the model."""
    seed: int = 0
    """Of probes, intervals and the choice of pictures."""

    def __post_init__(self) -> None:
        if min(self.step, self.every, self.max_clips) < 1:
            raise UsageError("--step, --every and --max-clips must be at least 1.")


def evaluate(
    dataset_path: Path | str,
    model_path: Path | str,
    out: Path,
    config: EvalConfig | None = None,
    *,
    on_clip: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure a model on a dataset; writes `eval.json`, `eval.md`, `eval.html` and two pictures.

    Retrieval needs clips whose motion is known and at least two bodies; probes need true actions.
    What cannot be measured is left out with the reason under `left_out`.

    Args:
        dataset_path: The dataset folder.
        model_path: A model folder, or the run folder of `latents train`.
        out: Folder for the report.
        config: What is compared.
        on_clip: Called with the number of clips after each.

    Raises:
        DatasetError: There is no kept clip.
        UsageError: No clip is long enough for the step.
    """
    config = config or EvalConfig()
    dataset = Dataset.open(dataset_path)
    clips = _spread(true_clips(dataset, where=config.where), config.max_clips)
    clips = [clip for clip in clips if clip.ref.num_frames > config.step]
    if not clips:
        raise UsageError(
            f"No kept clip of {dataset_path} is longer than the step of {config.step} frames.",
            hint="Give a smaller --step.",
        )
    model = LatentActionModel.from_pretrained(model_path)
    reader = ClipReader(dataset_path)
    clips, features, problems = _pass(clips, model, reader, config, on_clip)
    report: dict[str, Any] = {
        "model_id": model.model_id,
        "dataset": str(dataset_path),
        "step": config.step,
        "every": config.every,
        "num_clips": len(clips),
        "bodies": _counted([clip.embodiment for clip in clips]),
        "problems": problems,
        "left_out": {},
        "statistics": statistics(features[MODEL_ROW]),
    }
    _retrieval(report, clips, features, config)
    _probes(report, clips, features[MODEL_ROW], config)
    out.mkdir(parents=True, exist_ok=True)
    _pictures(report, model, clips, features[MODEL_ROW], reader, out, config)
    (out / "eval.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(report, out)
    return report


def statistics(rows: Sequence[Rows]) -> dict[str, Any]:
    """Spread of latents: mean, deviation, and how many dimensions carry anything."""
    values = np.concatenate(rows).astype(np.float64)
    deviation = values.std(axis=0)
    shares = np.sort(np.square(deviation))[::-1] / max(1e-12, float(np.square(deviation).sum()))
    return {
        "num_latents": len(values),
        "mean": [round(float(v), 5) for v in values.mean(axis=0)],
        "deviation": [round(float(v), 5) for v in deviation],
        "active_dimensions": int((deviation > FLAT * max(1e-12, deviation.max())).sum()),
        "effective_dimensions": round(float(np.exp(-(shares * np.log(shares + 1e-12)).sum())), 2),
    }


def labels_of(clips: Sequence[TrueClip]) -> Labels:
    """What is true of clips whose motion has a name; ways of the hand where all have one."""
    ways = [clip.displacement for clip in clips]
    return Labels(
        bodies=np.array([clip.embodiment for clip in clips]),
        motions=np.array([clip.motion for clip in clips]),
        displacements=None if any(way is None for way in ways) else np.stack(ways),  # type: ignore[arg-type]
        is_moving=np.array([bool(clip.is_camera_moving) for clip in clips]),
    )


def _pass(
    clips: list[TrueClip],
    model: LatentActionModel,
    reader: ClipReader,
    config: EvalConfig,
    on_clip: Callable[[int], None] | None,
) -> tuple[list[TrueClip], dict[str, list[Rows]], dict[str, str]]:
    """Decode every clip once; rows by feature, and what could not be read."""
    extractor = Extractor(model, device=best_device())
    size = {"height": model.config.frame_height, "width": model.config.frame_width}
    kept: list[TrueClip] = []
    features: dict[str, list[Rows]] = {MODEL_ROW: []}
    problems: dict[str, str] = {}
    for number, clip in enumerate(clips):
        try:
            frames = reader.frames(clip.ref.shard, clip.ref.clip_id, range(clip.ref.num_frames))
        except SampleError as error:
            problems[clip.ref.clip_id] = error.message
            continue
        scaled = scale_frames(torch.from_numpy(frames), **size).numpy()
        latents = extractor.extract(scaled, steps=(config.step,), every=config.every)[config.step]
        features[MODEL_ROW].append(latents.astype(np.float32))
        if config.baselines:
            for name, rows in pair_features(scaled, step=config.step, every=config.every).items():
                features.setdefault(name, []).append(rows)
        kept.append(clip)
        if on_clip is not None:
            on_clip(number + 1)
    if config.baselines and kept:
        both = [features["DIS grid"], features["DIS histogram"]]
        features["DIS grid + histogram, 32-d"] = join(both)
    return kept, features, problems


def _retrieval(
    report: dict[str, Any],
    clips: list[TrueClip],
    features: dict[str, list[Rows]],
    config: EvalConfig,
) -> None:
    chosen = [n for n, clip in enumerate(clips) if clip.motion is not None]
    known = [clips[n] for n in chosen]
    bodies = {clip.embodiment for clip in known}
    if len(bodies) < 2 or len({clip.motion for clip in known}) < 2:
        report["left_out"]["retrieval"] = (
            "it needs clips of two bodies and two motions whose names are known "
            f"(found {len(known)} clips, {len(bodies)} bodies)"
        )
        return
    labels = labels_of(known)
    if labels.displacements is not None:
        features = {**features, ORACLE: _true_actions(clips, config)}
    table, all_scores = [], {}
    for name, rows in features.items():
        picked = [rows[n] for n in chosen]
        is_evened, is_centred = (
            (False, False) if name == ORACLE else best_normalisation(picked, labels)
        )
        vectors = clip_vectors(
            picked, labels.bodies.tolist(), is_evened=is_evened, is_centred=is_centred
        )
        all_scores[name] = found = score(vectors, labels)
        table.append(_row(name, found, labels, is_evened=is_evened, is_centred=is_centred))
    model = all_scores[MODEL_ROW].precision_k
    for line in table:
        if line["method"] not in (MODEL_ROW, ORACLE):
            difference = model - all_scores[line["method"]].precision_k
            line["model_minus_this"] = round(float(difference.mean()), 4)
            line["model_minus_this_95"] = [round(v, 4) for v in interval(difference)]
    report["retrieval"] = {
        "num_queries": len(known),
        "chance_precision_at_10": round(chance(labels), 4),
        "note": "Each method has the normalisation that is best on these very clips.",
        "table": table,
    }


def _true_actions(clips: list[TrueClip], config: EvalConfig) -> list[Rows]:
    """True actions of every clip with each number in units of its own size; empty without truth."""
    found = [clip.actions(config.step, config.every) for clip in clips]
    known = np.concatenate([rows for rows in found if rows is not None])
    scale = np.maximum(np.sqrt(np.square(known).mean(axis=0)), 1e-9)
    return [np.empty((0, len(scale))) if rows is None else rows / scale for rows in found]


def _row(
    name: str, found: Scores, labels: Labels, *, is_evened: bool, is_centred: bool
) -> dict[str, Any]:
    precision = found.precision_k
    line: dict[str, Any] = {
        "method": name,
        "is_evened": is_evened,
        "is_centred": is_centred,
        **{key: round(value, 4) for key, value in found.means().items()},
        "precision_at_10_95": [round(v, 4) for v in interval(precision)],
        "by_body": {
            str(body): round(float(precision[labels.bodies == body].mean()), 4)
            for body in np.unique(labels.bodies)
        },
    }
    if labels.is_moving is not None and 0 < labels.is_moving.sum() < len(precision):
        line["moving_camera"] = round(float(precision[labels.is_moving].mean()), 4)
        line["still_camera"] = round(float(precision[~labels.is_moving].mean()), 4)
    return line


def _probes(
    report: dict[str, Any], clips: list[TrueClip], latents: list[Rows], config: EvalConfig
) -> None:
    pairs = [
        (clip.embodiment, rows, clip.actions(config.step, config.every))
        for clip, rows in zip(clips, latents, strict=True)
    ]
    known = [(body, rows, actions) for body, rows, actions in pairs if actions is not None]
    if not known:
        report["left_out"]["probes"] = "no clip has true actions beside its video"
        return
    report["probes"] = probe(
        np.concatenate([rows for _, rows, _ in known]).astype(np.float64),
        np.concatenate([actions for _, _, actions in known]),
        [body for body, rows, _ in known for _ in rows],
        seed=config.seed,
    )


def _pictures(
    report: dict[str, Any],
    model: LatentActionModel,
    clips: list[TrueClip],
    latents: list[Rows],
    reader: ClipReader,
    out: Path,
    config: EvalConfig,
) -> None:
    bodies = [clip.embodiment for clip in clips]
    vectors = clip_vectors(latents, bodies, is_evened=True, is_centred=True)
    motions = [clip.motion or "unknown" for clip in clips]
    latent_map(vectors, {"by body": bodies, "by motion": motions}).save(out / "map.png")
    size = {"height": model.config.frame_height, "width": model.config.frame_width}
    picks = np.random.default_rng(config.seed).permutation(len(clips))
    firsts: dict[str, int] = {}
    for n in picks:
        firsts.setdefault(bodies[n], int(n))
    chosen = [firsts[body] for body in sorted(firsts)][:4]
    givers, takers = [], []
    for n in chosen:
        ref = clips[n].ref
        middle = max(0, ref.num_frames // 2 - config.step // 2)
        frames = reader.frames(ref.shard, ref.clip_id, [middle, middle + config.step])
        scaled = scale_frames(torch.from_numpy(frames), **size).numpy()
        givers.append((f"{bodies[n]}: {motions[n]}", scaled))
        takers.append((bodies[n], scaled[0]))
    transfer_picture(model.cpu(), givers, takers).save(out / "transfer.png")
    report["pictures"] = ["map.png", "transfer.png"]


def _spread(clips: list[TrueClip], limit: int) -> list[TrueClip]:
    if len(clips) <= limit:
        return clips
    return [clips[int(n)] for n in np.linspace(0, len(clips) - 1, limit).round()]


def _counted(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
