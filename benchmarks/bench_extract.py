"""Latents: what extraction costs beside the reference path, and what short numbers do to them.

Cost: the encoder of `base` with fresh weights, on frames decoded before, one thread a side. The
reference is the whole encoder in float32, 12 pairs a call, nothing shared between pairs, every
token through every block. Ours is `Extractor`, its scaling and stored float16 rows included.

Truth of bfloat16: latents of a trained model, in bfloat16 and in float32 from the same frames. The
model is the shipped `small`, that of `--latents-weights`, or, where neither is there, a `tiny`
trained here for a few steps; the record says which.

Predicted: float32 at 1.10 times the reference (one look at each frame, one token in the last
block, packed weights), with `torch.compile` 1.12, max |dz| 2e-6. bfloat16 at 2.2 times with AVX-512
alone, whose products are twice as fast as float32's, and above 3 with AMX; cosine 0.9999 and
neighbour agreement 0.99.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, report, spread
from numpy.typing import NDArray
from torch import Tensor

from latent_actions.config import base, tiny
from latent_actions.extract import Extractor
from latent_actions.model import LatentActionModel, build_model, count_parameters, patchify
from latent_actions.objective import lam_loss
from latent_actions.pair_encoder import PairEncoder
from latent_actions.preprocess import inference_frames
from manifests.errors import EgodojoError
from pipeline.hardware import cpu_multiplies
from pipeline.testing import make_video
from pipeline.video import FrameScaler, decode, probe

REFERENCE_PAIRS = 12
BARS = {
    "float32_ratio": 1.02,
    "float32_max_dz": 1e-5,
    "bfloat16_ratio": 3.0,
    "bfloat16_cosine": 0.999,
    "bfloat16_neighbours": 0.98,
}
NEIGHBOURS = 10
STEP = 8
FOLDERS = ("ego_human", "robot")
Frames = NDArray[np.uint8]


def frames_of(path: Path, num_frames: int) -> Frames:
    """The first frames of a video, uint8 RGB (n, 240, 320, 3)."""
    facts = probe(path)
    scaler = FrameScaler(facts, 320, 240)
    found = []
    for decoded in decode(path, facts):
        found.append(scaler.scale(decoded).to_ndarray(format="rgb24"))
        if len(found) == num_frames:
            break
    return np.stack(found)


def clips_of(videos: Path | None, num_videos: int, num_frames: int) -> list[Frames]:
    """Frames of real videos, an equal share of each folder; of one made-up video without any."""
    if videos is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "made.mp4")
            make_video(path, num_frames=num_videos * num_frames, fps=Fraction(30))
            found = frames_of(path, num_videos * num_frames)
        return np.array_split(found, num_videos)
    share = num_videos // len(FOLDERS)
    paths = [p for name in FOLDERS for p in sorted((videos / name).glob("*.mp4"))[:share]]
    return [frames_of(path, num_frames) for path in paths]


@torch.inference_mode()
def reference(model: LatentActionModel, frames: Frames) -> Tensor:
    """Latents (P, 32) of consecutive frames by the whole encoder, so many pairs a call."""
    size = {"height": model.config.frame_height, "width": model.config.frame_width}
    found = []
    for start in range(0, len(frames) - 1, REFERENCE_PAIRS):
        some = torch.from_numpy(frames[start : start + REFERENCE_PAIRS + 1])
        seen = inference_frames(some, **size)
        pairs = torch.stack((seen[:-1], seen[1:]), dim=1)
        patches = patchify(pairs, model.config.patch_size)
        prompt = model.action_prompt.expand(*patches.shape[:2], -1, -1)
        tokens = model.encoder(torch.cat((prompt, patches), dim=2))
        found.append(model.fc(tokens[:, 1, 0]).chunk(2, dim=-1)[0])
    return torch.cat(found)


class Recorded:
    """An encoder that keeps the latents it gives, before they are rounded to float16."""

    def __init__(self, encoder: PairEncoder) -> None:
        self.encoder = encoder
        self.latents: list[Tensor] = []

    def look(self, frames_FHWC: Tensor) -> Tensor:
        return self.encoder.look(frames_FHWC)

    def relate(self, earlier: Tensor, later: Tensor) -> Tensor:
        self.latents.append(self.encoder.relate(earlier, later))
        return self.latents[-1]


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """CPU-seconds of a call, all threads of the process, and what it gave."""
    started = time.process_time()
    given = work()
    return time.process_time() - started, given


def extracted(extractor: Extractor, frames: Frames) -> Tensor:
    """Latents (P, 32) of consecutive frames by the extractor, whose encoder is `Recorded`."""
    encoder = extractor.encoder
    assert isinstance(encoder, Recorded)
    encoder.latents.clear()
    extractor.extract(frames)
    return torch.cat(encoder.latents)[: len(frames) - 1]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each row with its counterpart."""
    return torch.cosine_similarity(first.double(), second.double(), dim=-1)


def measure_cost(frames: Frames, num_rounds: int) -> dict[str, Any]:
    """CPU-seconds of each side, sides alternated, and how far their latents lie apart."""
    config = base().model
    torch.manual_seed(0)
    model = LatentActionModel(config, encoder_only=True).eval()
    num_pairs = len(frames) - 1
    extractors = {
        "float32": Extractor(model, precision="float32"),
        "float32 compiled": Extractor(model, precision="float32", compiled=True),
        "bfloat16": Extractor(model, precision="bfloat16"),
    }
    sides: dict[str, Callable[[], Tensor]] = {"reference": partial(reference, model, frames)}
    for name, extractor in extractors.items():
        extractor.encoder = Recorded(extractor.encoder)
        sides[name] = partial(extracted, extractor, frames)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    made: dict[str, Tensor] = {}
    for number in range(num_rounds):
        for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
            taken_s, made[name] = timed(sides[name])
            seconds[name].append(taken_s)
            print(number, name, round(taken_s, 2), file=sys.stderr, flush=True)
    truth = made.pop("reference")
    found: dict[str, Any] = {
        "parameters_of_the_whole_model": count_parameters(config),
        "parameters_of_the_encoder": count_parameters(config, encoder_only=True),
        "weights": "fresh",
        "num_pairs": num_pairs,
        "num_rounds": num_rounds,
        "threads": torch.get_num_threads(),
        "sides": {},
    }
    for name, values in seconds.items():
        ratios = [ref / own for ref, own in zip(seconds["reference"], values, strict=True)]
        found["sides"][name] = {
            "pairs_per_cpu_second": spread([num_pairs / value for value in values]),
            "times_the_reference": spread(ratios),
        }
        if name in made:
            side = found["sides"][name]
            side["pairs_at_once"] = extractors[name].batch_size
            side["max_dz"] = float((made[name] - truth).abs().max())
            side["least_cosine"] = round(float(cosine(made[name], truth).min()), 6)
    found["latent_rms"] = round(float(truth.square().mean().sqrt()), 4)
    return found


def trained_model(
    weights: Path | None, clips: list[Frames], num_steps: int
) -> tuple[LatentActionModel, str]:
    """A trained model and what it is."""
    if weights is not None:
        return LatentActionModel.from_pretrained(weights, encoder_only=True), "given weights"
    try:
        return LatentActionModel.from_pretrained("small", encoder_only=True), "shipped small"
    except EgodojoError:
        return briefly_trained(clips, num_steps), (
            f"tiny, trained here for {num_steps} steps on these frames; no weights are shipped"
        )


def briefly_trained(clips: list[Frames], num_steps: int) -> LatentActionModel:
    """A `tiny` after a few steps of its usual training, in memory."""
    settings = tiny()
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = build_model(settings.model).train()
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=settings.loop.lr
    )
    for _ in range(num_steps):
        chosen = []
        for _ in range(8):
            clip = clips[draw.integers(len(clips))]
            first = draw.integers(len(clip) - STEP)
            chosen.append(inference_frames(torch.from_numpy(clip[[first, first + STEP]])))
        eps = torch.randn(8, 1, settings.model.latent_dim)
        loss = lam_loss(model(torch.stack(chosen), eps_BPA=eps), beta=settings.beta).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def neighbour_agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Mean share of the nearest neighbours, by cosine, that a latent has in both forms."""
    nearest = []
    for rows in (first, second):
        unit = rows.astype(np.float64)
        unit /= np.maximum(1e-12, np.linalg.norm(unit, axis=1, keepdims=True))
        likeness = unit @ unit.T
        np.fill_diagonal(likeness, -np.inf)
        nearest.append(np.argpartition(-likeness, NEIGHBOURS, axis=1)[:, :NEIGHBOURS])
    shares = [len(np.intersect1d(a, b)) / NEIGHBOURS for a, b in zip(*nearest, strict=True)]
    return float(np.mean(shares))


def measure_truth(clips: list[Frames], weights: Path | None, num_steps: int) -> dict[str, Any]:
    """Stored latents of a trained model in bfloat16 against those in float32."""
    model, kind = trained_model(weights, clips, num_steps)
    rows = {}
    for precision in ("float32", "bfloat16"):
        extractor = Extractor(model, precision=precision)
        rows[precision] = np.concatenate(
            [extractor.extract(clip, steps=(STEP,), every=2)[STEP] for clip in clips]
        )
    exact, short = rows["float32"], rows["bfloat16"]
    cosines = cosine(torch.from_numpy(exact), torch.from_numpy(short)).numpy()
    centred = [r.astype(np.float64) - exact.astype(np.float64).mean(axis=0) for r in (exact, short)]
    about_mean = cosine(*(torch.from_numpy(r) for r in centred)).numpy()
    return {
        "model": kind,
        "model_id": model.model_id,
        "num_latents": len(exact),
        "num_clips": len(clips),
        "step": STEP,
        "cosine_mean": round(float(cosines.mean()), 6),
        "cosine_least": round(float(cosines.min()), 6),
        "cosine_about_the_mean": round(float(about_mean.mean()), 6),
        "neighbour_agreement": round(neighbour_agreement(exact, short), 4),
    }


def bars_of(cost: dict[str, Any], truth: dict[str, Any], has_bfloat16: bool) -> dict[str, Any]:
    """Each bar with what was seen and whether it is kept; those of bfloat16 need such a CPU."""
    exact = [cost["sides"][name] for name in ("float32", "float32 compiled")]
    seen = {
        "float32_ratio": max(side["times_the_reference"]["median"] for side in exact),
        "float32_max_dz": max(side["max_dz"] for side in exact),
    }
    if has_bfloat16:
        seen["bfloat16_ratio"] = cost["sides"]["bfloat16"]["times_the_reference"]["median"]
        seen["bfloat16_cosine"] = truth["cosine_mean"]
        seen["bfloat16_neighbours"] = truth["neighbour_agreement"]
    return {
        name: {
            "bar": BARS[name],
            "seen": value,
            "kept": value <= BARS[name] if name.endswith("_dz") else value >= BARS[name],
        }
        for name, value in seen.items()
    }


def parse() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    videos = os.environ.get("EGODOJO_TEST_VIDEOS")
    parser.add_argument("--videos", type=Path, default=Path(videos) if videos else None)
    parser.add_argument("--pairs", type=int, default=REFERENCE_PAIRS, help="pairs a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=24, help="clips whose latents are compared")
    parser.add_argument("--latents-weights", type=Path, help="a trained model to compare")
    parser.add_argument("--steps", type=int, default=60, help="training steps, without weights")
    return parser.parse_args()


def main() -> None:
    """Cost, then truth, then the bars."""
    args = parse()
    torch.set_num_threads(1)
    clips = clips_of(args.videos, args.clips, 72)
    cost = measure_cost(clips[0][: args.pairs + 1], args.rounds)
    truth = measure_truth(clips, args.latents_weights, args.steps)
    has_bfloat16 = cpu_multiplies("bfloat16")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    result = {
        "cpu_has": sorted({"avx512f", "avx512_bf16", "amx_bf16"} & set(flags)),
        "cost": cost,
        "truth_of_bfloat16": truth,
        "bars": bars_of(cost, truth, has_bfloat16),
    }
    report("extract", {"result": result}, args)
    sys.exit(0 if all(bar["kept"] for bar in result["bars"].values()) else 1)


if __name__ == "__main__":
    main()
