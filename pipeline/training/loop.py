"""The one training loop: any task, any loader, one process or many.

A resumed run has the same losses as an uninterrupted one: all randomness of a step comes from a
generator seeded by (seed, step, rank), so a checkpoint needs no generator state.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.errors import ConfigError, EgodojoError

from .checkpoint import list_checkpoints, load_checkpoint, remove_leftovers, save_checkpoint
from .loop_config import MAY_CHANGE, LoopConfig
from .metrics import MetricsFile
from .optimisation import PowerEma, clip_gradients, lr_multiplier, seed_of
from .ranks import (
    any_rank,
    average_gradients,
    broadcast_modules,
    mean_over_ranks,
    rank,
    to_device,
    wait_for_all,
)
from .run_folder import bind_config, hold_run
from .stop import stop_requests
from .task import Batches, TrainTask

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
    ema: dict[str, dict[str, Tensor]]
    """Averaged weights by network and parameter name; empty without `ema`."""


def fit(
    task: TrainTask,
    batches: Batches,
    config: LoopConfig,
    *,
    out: Path,
    resume: bool = True,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    run_config: Mapping[str, Any] | None = None,
    may_change: Iterable[str] = (),
) -> FitResult:
    """Train until `config.steps`, continuing the run in `out` when it holds checkpoints.

    Writes `metrics.jsonl`, `checkpoints/step-<8 digits>/` and, when `run_config` is given,
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
        self.device = _device(config.device)
        self.networks = dict(task.modules())
        for network in self.networks.values():
            network.to(self.device)
            network.train()
        broadcast_modules(self.networks.values())
        self.parameters = {
            f"{name}.{key}": value
            for name, network in self.networks.items()
            for key, value in network.named_parameters()
            if value.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=self.device.type == "cuda",
        )
        self.ema = PowerEma(self.parameters, width=config.ema) if config.ema is not None else None
        self.step = 0
        self.num_bad_steps = 0

    def restore(self) -> None:
        saved = list_checkpoints(self.out / "checkpoints")
        if not saved:
            return
        state = load_checkpoint(saved[-1])
        self._compare_config(state["config"])
        try:
            for name, network in self.networks.items():
                network.load_state_dict(state["model"][name])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise EgodojoError(
                f"Checkpoint {saved[-1]} does not fit the model: {error}",
                hint="Resume with the model's own configuration, or choose another --out.",
            ) from error
        if self.ema is not None:
            self.ema.load(state["ema"])
        self.batches.load_state_dict(state["batches"])
        self.step = int(state["step"])
        log.info("resuming %s at step %d", self.out, self.step)

    def train(self, on_step: Callable[[dict[str, Any]], None] | None) -> FitResult:
        losses: list[float] = []
        seconds: list[float] = []
        lead = rank() == 0
        path = self.out / "metrics.jsonl"
        metrics = MetricsFile(path, keep_steps=self.step) if lead else None
        try:
            with stop_requests() as stop:
                batches = iter(self.batches) if self.step < self.config.steps else iter(())
                while self.step < self.config.steps:
                    start_s = time.perf_counter()
                    row = self._one_step(next(batches, None))
                    seconds.append(time.perf_counter() - start_s)
                    losses.append(row["loss"])
                    if metrics is not None:
                        self._report({**row, "seconds": seconds[-1]}, metrics, on_step)
                    stopping = any_rank(stop.is_set(), self.device)
                    at_mark = self.step % self.config.checkpoint_every == 0
                    if at_mark or stopping or self.step == self.config.steps:
                        self.save()
                    if stopping:
                        raise KeyboardInterrupt
        finally:
            if metrics is not None:
                metrics.close()
        middle = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
        return FitResult(
            steps=self.step, losses=losses, seconds_per_step=middle, ema=self._ema_by_network()
        )

    def save(self) -> None:
        if rank() == 0:
            state = {
                "step": self.step,
                "config": {key: getattr(self.config, key) for key in LoopConfig.__slots__},
                "model": {name: module.state_dict() for name, module in self.networks.items()},
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.weights if self.ema is not None else {},
                "batches": self.batches.state_dict(),
            }
            keep = self.config.keep_checkpoints
            save_checkpoint(self.out / "checkpoints", self.step, state, keep=keep)
        wait_for_all()

    def _one_step(self, batch: Any) -> dict[str, Any]:
        config = self.config
        if batch is None:
            raise EgodojoError(
                f"The loader ended after {self.step} steps, but the run needs {config.steps}.",
                hint="Give a mixture with more samples or lower loop.steps.",
            )
        factor = lr_multiplier(
            self.step,
            warmup_steps=config.warmup_steps,
            decay_steps=config.decay_steps,
            peak=config.lr_peak,
            end=config.lr_end,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * factor
        seed = seed_of(config.seed, self.step, rank())
        torch.manual_seed(seed)  # for layers that draw on their own, such as dropout
        generator = torch.Generator().manual_seed(seed)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            loss, parts = self.task.loss(
                to_device(batch, self.device), step=self.step, generator=generator
            )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        parameters = list(self.parameters.values())
        average_gradients(parameters)
        grad_norm, replaced = clip_gradients(parameters, config.grad_clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.parameters, num_updates=self.step)
        self.step += 1
        values = mean_over_ranks({"loss": float(loss.detach()), **parts}, self.device)
        self._count_bad(values["loss"])
        row = {"step": self.step, **values, "lr": config.lr * factor, "grad_norm": grad_norm}
        return {**row, "nonfinite_grad": True} if replaced else row

    def _count_bad(self, loss: float) -> None:
        self.num_bad_steps = 0 if math.isfinite(loss) else self.num_bad_steps + 1
        if self.num_bad_steps >= 10:
            raise EgodojoError(
                f"The loss was not finite in 10 steps in a row, up to step {self.step}.",
                hint="Lower loop.lr, or look at the batches of these steps.",
            )

    def _report(
        self,
        row: dict[str, Any],
        metrics: MetricsFile,
        on_step: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        metrics.append(row)
        if on_step is not None:
            on_step(row)
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            log.info("step %d: loss %.4f, %.2f s", self.step, row["loss"], row["seconds"])

    def _compare_config(self, saved: Mapping[str, Any]) -> None:
        for name in LoopConfig.__slots__:
            old, new = saved.get(name), getattr(self.config, name)
            if name not in MAY_CHANGE and old != new:
                raise ConfigError(
                    f"loop.{name} is {new!r}, but the run in {self.out} was started with {old!r}.",
                    hint="Set it back to resume this run, or choose another --out.",
                )

    def _ema_by_network(self) -> dict[str, dict[str, Tensor]]:
        if self.ema is None:
            return {}
        weights = self.ema.weights
        return {
            name: {
                key: weights[f"{name}.{key}"]
                for key, value in network.named_parameters()
                if value.requires_grad
            }
            for name, network in self.networks.items()
        }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "loop.device is cuda, but no GPU is visible.", hint="Use loop.device=cpu."
        )
    return torch.device(name)
