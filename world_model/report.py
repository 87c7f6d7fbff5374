"""What a pre-training is going to be, and what it was, as plain facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from manifests.errors import EgodojoError
from manifests.mixture.plan import MixturePlan
from pipeline.training.metrics import read_metrics

from .config import PretrainConfig
from .model import WorldModel
from .train import MODEL_DIR

AVERAGED_STEPS = 10
"""Steps at each end of a run whose losses are averaged; one loss depends on its noise level."""


def describe_config(config: PretrainConfig, plan: MixturePlan) -> dict[str, Any]:
    """Sizes of a training that has not begun; the network is counted, not made."""
    with torch.device("meta"):
        model = WorldModel(config.model)
    header = plan.header
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": config.loop.steps,
        "batch_size": config.batch_size,
        "window": [header.num_frames, *header.frame_size],
        "clips": {source.name: source.num_clips for source in plan.sources},
        "latents": header.latents,
    }


def describe_run(out: Path) -> dict[str, Any]:
    """Losses and times of a run, read from its metrics file.

    Raises:
        EgodojoError: The metrics of a finished run were removed.
    """
    path = out / "metrics.jsonl"
    rows = read_metrics(path)
    if not rows:
        raise EgodojoError(
            f"{path}, which held the losses of every step, is gone; the model is in "
            f"{out / MODEL_DIR}."
        )
    seconds = sorted(row["seconds"] for row in rows)
    count = max(1, min(AVERAGED_STEPS, len(rows) // 2))
    return {
        "run": str(out),
        "model": str(out / MODEL_DIR),
        "steps": rows[-1]["step"],
        "loss_start": _mean(rows[:count]),
        "loss_end": _mean(rows[-count:]),
        "seconds_per_step": round(seconds[len(seconds) // 2], 4),
    }


def _mean(rows: list[dict[str, Any]]) -> float | None:
    losses = [row["loss"] for row in rows]
    return None if None in losses else round(sum(losses) / len(losses), 5)
