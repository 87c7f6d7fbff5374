"""Rollouts: from the first frame of a clip and its actions, chunk by chunk, beside the true video.

Shapes: F frames, H W pixels, R action rows. A chunk is one window of the model: its first frame is
given, 12 rows of actions make the 12 frames after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.config import load_config, read_yaml
from manifests.errors import ConfigError, EgodojoError
from manifests.locations import Location
from manifests.mixture import MixtureSpec, SourceSpec
from manifests.mixture.plan import Sample
from pipeline.training.run_folder import CONFIG_NAME
from pipeline.training.windows import WindowReader

from .model import WorldModel
from .sample import Solver, sample
from .tokenizer import VideoTokenizer, model_to_pixels, pixels_to_model
from .train import MODEL_DIR, TOKENIZER_DIR

CHUNK_ROWS = 12
"""Action rows, and new frames, of one chunk."""


@dataclass(frozen=True, slots=True)
class Imagined:
    """A rollout and what it is compared with; frames are uint8 (F, H, W, 3)."""

    sample: Sample
    predicted: NDArray[np.uint8]
    truth: NDArray[np.uint8]

    @property
    def psnr_db(self) -> float:
        """Mean PSNR of the imagined frames, the given one left out."""
        return psnr(self.predicted[1:], self.truth[1:])

    @property
    def still_psnr_db(self) -> float:
        """PSNR of repeating the first true frame: what a model has to beat."""
        return psnr(np.broadcast_to(self.truth[:1], self.truth.shape)[1:], self.truth[1:])

    def side_by_side(self) -> NDArray[np.uint8]:
        """(F, H, 2W, 3): imagined on the left, truth on the right."""
        return np.concatenate([self.predicted, self.truth], axis=2)


def load_model(folder: Path) -> tuple[WorldModel, VideoTokenizer]:
    """The network and tokenizer of a run folder or of an exported model folder.

    Raises:
        EgodojoError: There is no model in the folder.
    """
    model_dir = folder / MODEL_DIR if (folder / MODEL_DIR).is_dir() else folder
    if not (model_dir / TOKENIZER_DIR).is_dir():
        raise EgodojoError(
            f"{folder} holds no exported world model.",
            hint="Let egodojo train pretrain finish: it writes RUN/model at its end.",
        )
    tokenizer = VideoTokenizer.from_pretrained(model_dir / TOKENIZER_DIR)
    return WorldModel.from_pretrained(model_dir), tokenizer


def clip_mixture(run: Path, *, dataset: Location, clip_id: str) -> MixtureSpec:
    """A mixture of one clip, cut as in the mixture that the run was trained on.

    Raises:
        ConfigError: The folder is no run folder, or the clip id is none.
    """
    if not clip_id.isalnum():
        raise ConfigError(f"{clip_id!r} is no clip id: those are 24 hex digits.")
    config_path = run / CONFIG_NAME
    if not config_path.exists():
        raise ConfigError(
            f"{run} has no {CONFIG_NAME}, which says how windows are cut.",
            hint="Give a run folder, or say what to imagine with --mixture.",
        )
    trained_on = load_config(MixtureSpec, values=read_yaml(config_path)["mixture"])
    folder = str(dataset.absolute())
    known = [source for source in trained_on.sources.values() if source.dataset == folder]
    source = known[0] if known else SourceSpec(dataset=folder, weight=1)
    source = replace(source, where=f"clip_id = '{clip_id}'")
    return replace(trained_on, sources={"clip": source})


def rollout(
    model: WorldModel,
    tokenizer: VideoTokenizer,
    mixture: MixtureSpec,
    *,
    num_chunks: int = 2,
    index: int = 0,
    num_steps: int = 16,
    solver: Solver = "euler",
    seed: int = 0,
) -> Imagined:
    """Imagine the video of one sample of a mixture from its first frame and its actions.

    Args:
        model: Network, in evaluation mode.
        tokenizer: Its tokenizer.
        mixture: Where the sample comes from; its windows are lengthened to the whole rollout.
        num_chunks: Chunks of 12 rows.
        index: Which sample of the mixture.
        num_steps: Network evaluations per chunk.
        solver: `euler` or `unipc`.
        seed: Seed of the start noise; chunk k takes seed + 12k.
    """
    num_frames = 1 + CHUNK_ROWS * num_chunks
    spec = replace(mixture, window=replace(mixture.window, num_frames=num_frames))
    try:
        plan = spec.plan()
    except ConfigError as error:
        shorter = f"Or imagine less: a rollout of {num_chunks} chunks needs {num_frames} frames."
        raise ConfigError(error.message, hint=f"{error.hint or ''} {shorter}".strip()) from error
    batch = WindowReader(plan).batch(np.array([index], dtype=np.int64))
    if batch["bad"]:
        raise EgodojoError(f"Sample {index} cannot be read: {batch['bad'][0].message}")
    predicted = imagine(
        model,
        tokenizer,
        batch["video"][:, :, 0],
        batch["action"],
        num_steps=num_steps,
        solver=solver,
        seed=seed,
    )
    truth = batch["video"][0].permute(1, 2, 3, 0).numpy()
    return Imagined(plan.sample(index), predicted[0].permute(1, 2, 3, 0).numpy(), truth)


@torch.no_grad()
def imagine(
    model: WorldModel,
    tokenizer: VideoTokenizer,
    first_B3HW: Tensor,
    actions_BRA: Tensor,
    *,
    num_steps: int = 16,
    solver: Solver = "euler",
    seed: int = 0,
) -> Tensor:
    """Frames uint8 (B, 3, 1 + R, H, W) from a first frame (uint8) and R = 12k rows of actions.

    Each chunk begins with the last imagined frame, as uint8. Of later chunks that frame is left
    out, so frame f is driven by the action rows before f and no frame comes twice.
    """
    if actions_BRA.shape[1] % CHUNK_ROWS:
        raise ValueError(f"{actions_BRA.shape[1]} action rows are no whole chunks of {CHUNK_ROWS}")
    frame, parts = first_B3HW, list[Tensor]()
    for start in range(0, actions_BRA.shape[1], CHUNK_ROWS):
        first = tokenizer.encode(pixels_to_model(frame)[:, :, None])[:, :, 0]
        rows = actions_BRA[:, start : start + CHUNK_ROWS]
        latents = sample(model, first, rows, num_steps=num_steps, solver=solver, seed=seed + start)
        frames = model_to_pixels(tokenizer.decode(latents))
        frame = frames[:, :, -1]
        parts.append(frames[:, :, 1:] if start else frames)
    return torch.cat(parts, dim=2)


def psnr(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Mean over frames of the peak signal-to-noise ratio in dB; at most 80 for equal frames."""
    difference = (frames.astype(np.float64) - truth) / 255.0
    per_frame = (difference**2).mean(axis=(1, 2, 3))
    return float((-10 * np.log10(per_frame + 1e-8)).mean())
