"""One optimiser step: forward and backward passes in some precision, clipping, the update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from .loop_config import LoopConfig
from .optimisation import clip_gradients, lr_multiplier, seed_of
from .ranks import rank, to_device
from .train_state import TrainState

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """What a step gave on this rank."""

    values: dict[str, float]
    """`loss` and the task's parts: means over the batches of this rank."""
    facts: dict[str, Any]
    """What is the same on every rank: learning rate, gradient norm, and what went wrong."""


class Stepper:
    """Changes the tensors of a run by one step; holds nothing but the scale of half precision."""

    def __init__(self, state: TrainState, config: LoopConfig) -> None:
        """Works on `state` in place."""
        self.state, self.config = state, config
        self.networks = state.networks
        half = config.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.networks.device.type, enabled=half)

    def step(self, batches: Iterator[Any], *, step: int) -> StepRow:
        """Take step number `step` on the `accumulate` batches that are handed over."""
        config, optimizer = self.config, self.state.optimizer
        factor = lr_multiplier(
            step,
            warmup_steps=config.warmup_steps,
            decay_steps=config.decay_steps,
            peak=config.lr_peak,
            end=config.lr_end,
        )
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor
        optimizer.zero_grad(set_to_none=True)
        values = self._backward(batches, step)
        facts = {"lr": config.lr * factor, **self._update()}
        if self.state.ema is not None:
            self.state.ema.update(self.networks.parameters, num_updates=step)
        return StepRow(values=values, facts=facts)

    def autocast(self) -> AbstractContextManager[Any]:
        """The number type of forward passes."""
        kind = _TYPES[self.config.precision]
        enabled = self.config.precision != "float32"
        return torch.autocast(self.networks.device.type, kind, enabled=enabled)

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss; empty in other precisions than float16."""
        return self.scaler.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on with a saved scale."""
        if saved and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved)

    def _backward(self, batches: Iterator[Any], step: int) -> dict[str, float]:
        """Add up the gradients of the batches; returns the means of loss and parts."""
        seed = seed_of(self.config.seed, step, rank())
        torch.manual_seed(seed)  # for layers that draw on their own, such as dropout
        generator = torch.Generator().manual_seed(seed)
        count = self.config.accumulate
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches, 1):
            with self.networks.averaging(on=number == count):
                with self.autocast():
                    on_device = to_device(batch, self.networks.device)
                    loss, parts = self.networks.loss(on_device, step=step, generator=generator)
                scaled = self.scaler.scale(loss / count if count > 1 else loss)
                scaled.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for name, value in {"loss": float(loss.detach()), **parts}.items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / count for name, value in sums.items()}

    def _update(self) -> dict[str, Any]:
        """Unscale, clip, and move the weights."""
        parameters = list(self.networks.parameters.values())
        self.scaler.unscale_(self.state.optimizer)
        grad_norm, replaced = clip_gradients(parameters, self.config.grad_clip)
        self.scaler.step(self.state.optimizer)
        facts: dict[str, Any] = {"grad_norm": grad_norm}
        if self.scaler.is_enabled():
            self.scaler.update()
            facts["loss_scale"] = self.scaler.get_scale()
            return {**facts, "left_out": True} if replaced else facts
        return {**facts, "nonfinite_grad": True} if replaced else facts
