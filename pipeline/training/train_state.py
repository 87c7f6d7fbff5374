"""The tensors that change while a model is trained, and their way into a checkpoint and back.

A rank that holds everything writes one file, ranks that hold shares write one each; both kinds are
read back by either, so a run may go on with another number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.errors import EgodojoError

from .checkpoint import SHARDS_DIR, save_checkpoint
from .optimisation import PowerEma
from .parallel import Networks, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Networks, optimiser and averaged weights of a run."""

    networks: Networks
    optimizer: torch.optim.Optimizer
    ema: PowerEma | None

    def save(self, folder: Path, step: int, plain: Mapping[str, Any], *, keep: int) -> None:
        """Write a checkpoint with the plain values beside the tensors; all ranks must call it."""
        if self.networks.sharded:
            state = {"step": step, **plain}
            save_checkpoint(folder, step, state, keep=keep, shards=self._tensors())
            return
        state = {
            "step": step,
            "model": {n: module.state_dict() for n, module in self.networks.by_name.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.weights if self.ema is not None else {},
            **plain,
        }
        save_checkpoint(folder, step, state, keep=keep)

    def load(self, path: Path, state: Mapping[str, Any]) -> None:
        """Take over the tensors of a checkpoint whose `state` has been read; all ranks call it.

        Raises:
            EgodojoError: They do not fit the model.
        """
        try:
            if (path / SHARDS_DIR).exists():
                from .shard_files import load_shards

                load_shards(path / SHARDS_DIR, self._tensors())
            elif self.networks.sharded:
                self._fill_shards(state)
            else:
                for name, network in self.networks.by_name.items():
                    network.load_state_dict(state["model"][name])
                self.optimizer.load_state_dict(state["optimizer"])
                if self.ema is not None:
                    self.ema.load(state["ema"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise EgodojoError(
                f"Checkpoint {path} does not fit the model: {error}",
                hint="Resume with the model's own configuration, or choose another --out.",
            ) from error

    def averages(self) -> Mapping[str, Tensor]:
        """Averaged weights by parameter name; empty where none are kept."""
        return self.ema.weights if self.ema is not None else {}

    @torch.no_grad()
    def _fill_shards(self, state: Mapping[str, Any]) -> None:
        """Take this rank's share of a checkpoint that one rank wrote."""
        whole = {
            f"model.{name}.{key}": value
            for name, tensors in state["model"].items()
            for key, value in tensors.items()
        }
        saved = state["optimizer"]["state"]
        for number, name in enumerate(self.networks.parameters):
            for key, value in saved.get(number, {}).items():
                whole[f"optimizer.{name}.{key}"] = value
        whole |= {f"ema.{name}": value for name, value in state["ema"].items()}
        for name, target in self._tensors().items():
            if name.startswith("optimizer.") and name not in whole:
                continue  # no step was taken yet
            fill(target, whole[name])

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by a name that is the same however it is sharded."""
        tensors = {
            f"model.{name}.{key}": value.detach()
            for name, network in self.networks.by_name.items()
            for key, value in network.state_dict().items()
        }
        for name, parameter in self.networks.parameters.items():
            for key, value in self._moments(parameter).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors | {f"ema.{name}": value for name, value in self.averages().items()}

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """AdamW's state of one parameter, made as its first step would make it."""
        moments: dict[str, Tensor] = self.optimizer.state[parameter]
        if not moments:
            fused = self.optimizer.param_groups[0]["fused"]
            device = parameter.device if fused else torch.device("cpu")
            moments["step"] = torch.zeros((), dtype=torch.float32, device=device)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        return moments
