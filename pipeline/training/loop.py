"""The one training loop: any task, any loader, one process or many.

A resumed run has the same losses as an uninterrupted one: all randomness of a step comes from a
generator seeded by (seed, step, rank), so a checkpoint needs no generator state.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.errors import ConfigError, EgodojoError

from .checkpoint import list_checkpoints, load_checkpoint, remove_leftovers
from .loop_config import MAY_CHANGE, LoopConfig
from .optimisation import PowerEma
from .parallel import Networks
from .problems import check_budget
from .ranks import any_rank, gather, mean_over_ranks, rank, wait_for_all
from .records import PROBLEMS_NAME, OnStep, RunRecords
from .run_folder import bind_config, hold_run
from .step import Stepper
from .stop import stop_requests
from .task import Batches, RecordingBatches, TrainTask, ValidatedTask
from .train_state import TrainState

__all__ = ["Batches", "FitResult", "LoopConfig", "TrainTask", "fit"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What one call of `fit` did."""

    steps: int
    """Steps of the run that are done now, earlier calls included."""
    losses: list[float]
    """Losses of the steps done by this call, in order."""
    seconds_per_step: float
    """Median wall time of this call's steps, loading included; 0 when there were none."""
    weights: dict[str, dict[str, Tensor]]
    """Whole state by network as it is to be shared: averaged where averages are kept. Empty on
    other ranks than the first."""


def fit(
    task: TrainTask,
    batches: Batches,
    config: LoopConfig,
    *,
    out: Path,
    resume: bool = True,
    on_step: OnStep | None = None,
    run_config: Mapping[str, Any] | None = None,
    may_change: Iterable[str] = (),
) -> FitResult:
    """Train until `config.steps`, continuing the run in `out` when it holds checkpoints.

    Writes the files of `records`, `checkpoints/step-<8 digits>/` and, when `run_config` is given,
    `config.resolved.yaml`. Ctrl-C and SIGTERM finish the step, save and raise KeyboardInterrupt;
    a second Ctrl-C stops at once.

    Args:
        task: Networks and loss.
        batches: Source of batches; its position is part of the checkpoint.
        config: Schedule and optimiser.
        out: Run folder, held by this process meanwhile.
        resume: False refuses a folder that holds checkpoints.
        on_step: Called on rank 0 with each row of the metrics file.
        run_config: The command's whole configuration as plain values, bound to the folder.
        may_change: Dotted fields of `run_config` that a resumed run may change.

    Raises:
        LockedError: Another process trains in `out`.
        ConfigError: The configuration differs from the one the run was started with.
        OverBudgetError: More samples could not be read than `loop.max_bad_ratio` allows.
        EgodojoError: The loader ended early, a checkpoint is damaged or does not fit, or the loss
            stays not finite.
    """
    lead = rank() == 0
    with hold_run(out) if lead else contextlib.nullcontext():
        if lead:
            remove_leftovers(out / "checkpoints")
            saved = list_checkpoints(out / "checkpoints")
            if saved and not resume:
                raise ConfigError(f"{out} already holds a run.", hint="Choose another --out.")
            if run_config is not None:
                bind_config(out, run_config, may_change=tuple(may_change))
        wait_for_all()
        run = _Run(task, batches, config, out)
        run.restore()
        wait_for_all()
        return run.train(on_step)


class _Run:
    """One call of `fit`: the state that a checkpoint holds, and the steps that change it."""

    def __init__(self, task: TrainTask, batches: Batches, config: LoopConfig, out: Path) -> None:
        self.task, self.batches, self.config, self.out = task, batches, config, out
        self.networks = Networks(task, config)
        self.device = self.networks.device
        optimizer = torch.optim.AdamW(
            list(self.networks.parameters.values()),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=self.device.type == "cuda",
        )
        width = config.ema
        ema = PowerEma(self.networks.parameters, width=width) if width is not None else None
        self.state = TrainState(networks=self.networks, optimizer=optimizer, ema=ema)
        self.stepper = Stepper(self.state, config)
        self.step = 0
        self.num_bad_steps = 0
        self.num_problems = 0
        self.records: RunRecords | None = None

    def restore(self) -> None:
        saved = list_checkpoints(self.out / "checkpoints")
        if not saved:
            return
        state = load_checkpoint(saved[-1])
        self._compare_config(state["config"])
        self.state.load(saved[-1], state)
        self.stepper.load_state_dict(state.get("scaler", {}))
        self.batches.load_state_dict(state["batches"])
        self.step = int(state["step"])
        self.num_problems = int(state.get("num_problems", 0))
        log.info("resuming %s at step %d", self.out, self.step)

    def train(self, on_step: OnStep | None) -> FitResult:
        losses: list[float] = []
        seconds: list[float] = []
        if rank() == 0:
            self.records = RunRecords(self.out, self.config, step=self.step, on_step=on_step)
        try:
            with stop_requests() as stop:
                batches = iter(self.batches) if self.step < self.config.steps else iter(())
                while self.step < self.config.steps:
                    start_s = time.perf_counter()
                    row = self._one_step(batches)
                    seconds.append(time.perf_counter() - start_s)
                    losses.append(row["loss"])
                    if self.records is not None:
                        self.records.step({**row, "seconds": seconds[-1]})
                    self._check_problems()
                    if self._is_at(self.config.validate_every):
                        self._validate()
                    stopping = any_rank(stop.is_set(), self.device)
                    if stopping or self._is_at(self.config.checkpoint_every):
                        self.save()
                    if stopping:
                        raise KeyboardInterrupt
        finally:
            if self.records is not None:
                self.records.close()
        middle = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
        return FitResult(
            steps=self.step,
            losses=losses,
            seconds_per_step=middle,
            weights=self._final_weights(),
        )

    def save(self) -> None:
        plain = {
            "config": {key: getattr(self.config, key) for key in LoopConfig.__slots__},
            "batches": self.batches.state_dict(),
            "scaler": self.stepper.state_dict(),
            "num_problems": self.num_problems,
        }
        keep = self.config.keep_checkpoints
        self.state.save(self.out / "checkpoints", self.step, plain, keep=keep)

    def _one_step(self, batches: Iterator[Any]) -> dict[str, Any]:
        row = self.stepper.step(self._batches_of_a_step(batches), step=self.step)
        self.step += 1
        problems = self._take_problems()
        values = mean_over_ranks({**row.values, "problems": float(len(problems))}, self.device)
        if values.pop("problems"):
            self._record(gather(problems))
        self._count_bad(values["loss"])
        return {"step": self.step, **values, **row.facts}

    def _batches_of_a_step(self, batches: Iterator[Any]) -> Iterator[Any]:
        for _ in range(self.config.accumulate):
            batch = next(batches, None)
            if batch is None:
                raise EgodojoError(
                    f"The loader ended after {self.step} steps, but the run needs "
                    f"{self.config.steps}.",
                    hint="Give a mixture with more samples or lower loop.steps.",
                )
            yield batch

    def _is_at(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _validate(self) -> None:
        if not isinstance(self.task, ValidatedTask):
            return
        start_s = time.perf_counter()
        with self.networks.evaluating(self.state.averages()), self.stepper.autocast():
            found = self.task.validate(step=self.step, device=self.device)
        if found is not None and self.records is not None:
            self.records.validated(self.step, found, time.perf_counter() - start_s)

    def _take_problems(self) -> list[dict[str, Any]]:
        if isinstance(self.batches, RecordingBatches):
            return self.batches.take_problems()
        return []

    def _record(self, problems: list[dict[str, Any]]) -> None:
        self.num_problems += sum(problem["attempt"] == 0 for problem in problems)
        if self.records is not None:
            self.records.bad_samples(self.step, problems)

    def _check_problems(self) -> None:
        if self.num_problems and isinstance(self.batches, RecordingBatches):
            path = self.out / PROBLEMS_NAME
            check_budget(
                self.num_problems, self.batches.num_samples, self.config.max_bad_ratio, path
            )

    def _count_bad(self, loss: float) -> None:
        self.num_bad_steps = 0 if math.isfinite(loss) else self.num_bad_steps + 1
        if self.num_bad_steps >= 10:
            raise EgodojoError(
                f"The loss was not finite in 10 steps in a row, up to step {self.step}.",
                hint="Lower loop.lr, or look at the batches of these steps.",
            )

    def _compare_config(self, saved: Mapping[str, Any]) -> None:
        for field in fields(LoopConfig):
            old, new = saved.get(field.name, field.default), getattr(self.config, field.name)
            if field.name not in MAY_CHANGE and old != new:
                raise ConfigError(
                    f"loop.{field.name} is {new!r}, but the run in {self.out} was started with "
                    f"{old!r}.",
                    hint="Set it back to resume this run, or choose another --out.",
                )

    def _final_weights(self) -> dict[str, dict[str, Tensor]]:
        averages = self.state.averages()
        own = {
            f"{name}.{key}": averages.get(f"{name}.{key}", value)
            for name, network in self.networks.by_name.items()
            for key, value in network.state_dict().items()
        }
        whole = self.networks.whole(own)
        return {
            name: {key: whole[f"{name}.{key}"] for key in network.state_dict()}
            for name, network in self.networks.by_name.items()
            if whole
        }
