"""What a run writes while it trains, all of it cut back to the checkpoint on resume.

`metrics.jsonl` has one line a step, `validation.jsonl` one a validation, `problems.jsonl` one a bad
sample; `pictures/` and `tensorboard/` show the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .loop_config import LoopConfig
from .metrics import MetricsFile
from .task import Validation

log = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
VALIDATION_NAME = "validation.jsonl"
PROBLEMS_NAME = "problems.jsonl"
PICTURES_DIR = "pictures"
TENSORBOARD_DIR = "tensorboard"
OnStep = Callable[[dict[str, Any]], None]


class RunRecords:
    """The open record files of a run; only rank 0 has one."""

    def __init__(
        self, out: Path, config: LoopConfig, *, step: int, on_step: OnStep | None = None
    ) -> None:
        """Opens the files of a run that stands at `step`; later lines are cut off."""
        self.out, self.config, self.on_step = out, config, on_step
        self.metrics = MetricsFile(out / METRICS_NAME, keep_steps=step)
        self.validation = MetricsFile(out / VALIDATION_NAME, keep_steps=step, lazy=True)
        self.problems = MetricsFile(out / PROBLEMS_NAME, keep_steps=step, lazy=True)
        self._events = _Events(out / TENSORBOARD_DIR, step) if config.tensorboard else None

    def step(self, row: dict[str, Any]) -> None:
        """One training step."""
        self.metrics.append(row)
        if self.on_step is not None:
            self.on_step(row)
        if row["step"] % self.config.log_every == 0 or row["step"] == self.config.steps:
            log.info("step %d: loss %.4f, %.2f s", row["step"], row["loss"], row["seconds"])
            if self._events is not None:
                self._events.scalars("train", row)

    def bad_samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Samples that could not be read at one step."""
        for row in rows:
            self.problems.append({"step": step, **row})

    def validated(self, step: int, found: Validation, seconds: float) -> None:
        """One validation: a line, and its pictures."""
        row = {"step": step, **found.values}
        log.info("validation at step %d took %.1f s", step, seconds)
        self.validation.append(row)
        for name, picture in found.pictures.items():
            _save_png(self.out / PICTURES_DIR / f"step-{step:08d}-{name}.png", picture)
        if self._events is not None:
            self._events.scalars("validation", row)
            self._events.pictures(found.pictures, step)

    def close(self) -> None:
        """Close the files."""
        for file in (self.metrics, self.validation, self.problems):
            file.close()
        if self._events is not None:
            self._events.close()


class _Events:
    """TensorBoard's event files: numbers and pictures, points after a resume replace older ones."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        # A run that goes on writes a new file; this mark hides what an older one holds beyond.
        suffix = f".from-{step:08d}"
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1, filename_suffix=suffix)

    def scalars(self, group: str, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, Real):
                self._writer.add_scalar(f"{group}/{name}", float(value), row["step"])

    def pictures(self, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def _save_png(path: Path, picture: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    Image.fromarray(picture).save(part, format="PNG")
    os.replace(part, path)
