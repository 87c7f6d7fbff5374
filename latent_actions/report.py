"""What a training run of the latent action model gave, read from the files it wrote."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.config import to_dict
from manifests.errors import EgodojoError
from pipeline.training.metrics import read_metrics
from pipeline.training.records import METRICS_NAME, PROBLEMS_NAME, VALIDATION_NAME

SUMMARY_NAME = "summary.json"
AVERAGED_STEPS = 10
"""Steps at each end of a run whose losses are averaged; one loss depends on its pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a training run gave, as `summary.json` in its folder has it too."""

    model_id: str
    path: Path
    steps: int
    num_clips: int
    """Clips trained on."""
    num_held_out_clips: int
    first_loss: float | None
    """Mean loss of the run's first steps; None when one of them was not finite."""
    last_loss: float | None
    """Mean loss of its last steps."""
    seconds_per_step: float
    """Median over the run."""
    num_replaced: int
    """Pairs that could not be read and were replaced."""
    validation: dict[str, Any] | None
    """The last line of `validation.jsonl`; None when nothing is held out."""

    def text(self) -> str:
        """The summary in words."""
        lines = [
            f"{self.model_id}: {self.steps} steps on {self.num_clips} clips, loss "
            f"{_number(self.first_loss)} -> {_number(self.last_loss)}, "
            f"{self.seconds_per_step:.2f} s a step",
            _validation_words(self.validation, self.num_held_out_clips),
        ]
        if self.num_replaced:
            lines.append(
                f"{self.num_replaced} pairs could not be read and were replaced: "
                f"{self.path.parent / PROBLEMS_NAME}"
            )
        return "\n".join([*lines, f"model: {self.path}"])


def summarise(out: Path, *, model_id: str, num_clips: int, num_held_out_clips: int) -> TrainResult:
    """What the record files of a run say, written beside them.

    Raises:
        EgodojoError: The losses of a finished run were removed.
    """
    rows = read_metrics(out / METRICS_NAME)
    if not rows:
        raise EgodojoError(
            f"{out / METRICS_NAME}, which held the losses of every step, is gone; the model is in "
            f"{out / 'model'}."
        )
    few = max(1, min(AVERAGED_STEPS, len(rows) // 4))
    seconds = sorted(row["seconds"] for row in rows)
    validations = read_metrics(out / VALIDATION_NAME)
    problems = read_metrics(out / PROBLEMS_NAME)
    summary = TrainResult(
        model_id=model_id,
        path=out / "model",
        steps=rows[-1]["step"],
        num_clips=num_clips,
        num_held_out_clips=num_held_out_clips,
        first_loss=_mean(rows[:few]),
        last_loss=_mean(rows[-few:]),
        seconds_per_step=seconds[len(seconds) // 2],
        num_replaced=sum(problem["attempt"] == 0 for problem in problems),
        validation=validations[-1] if validations else None,
    )
    part = out / f".part-{SUMMARY_NAME}"
    part.write_text(json.dumps(to_dict(summary), indent=2) + "\n", encoding="utf-8")
    os.replace(part, out / SUMMARY_NAME)
    return summary


def read_summary(out: Path) -> TrainResult:
    """The summary that a run wrote, perhaps in another process."""
    values = json.loads((out / SUMMARY_NAME).read_text(encoding="utf-8"))
    return TrainResult(**{**values, "path": Path(values["path"])})


def _validation_words(row: dict[str, Any] | None, num_clips: int) -> str:
    if row is None:
        return "no clip is held out, so nothing says how much the latents carry"
    if None in row.values():
        return "held out: the measures are not finite"
    start = f"held out: {row['num_pairs']} pairs of {num_clips} clips: "
    end = f"; {row['active_dims']} of {len(row['latent_std'])} dimensions vary"
    if "psnr" in row:
        return (
            f"{start}PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}; "
            f"{row['psnr_drop_shuffled']:z.2f} dB less with latents of other pairs, "
            f"{row['psnr_drop_zeroed']:z.2f} dB less without{end}"
        )
    return (
        f"{start}{row['explained']:.1%} of the motion explained, "
        f"{row['explained_shuffled']:.1%} with latents of other pairs, "
        f"{row['explained_zeroed']:.1%} without{end}"
    )


def _number(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.5f}"


def _mean(rows: list[dict[str, Any]]) -> float | None:
    losses = [row["loss"] for row in rows]
    return None if None in losses else sum(losses) / len(losses)
