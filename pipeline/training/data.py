"""Batches of a mixture plan for PyTorch: the same global batches for any ranks and workers.

The position in the run is one integer. Rank r of R takes the samples r, r + R, ... from there on;
worker processes take whole batches and hand them back in order.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from manifests.errors import ConfigError, EgodojoError, OverBudgetError
from manifests.mixture.plan import MixturePlan

from .problems import BAD_ALLOWED
from .windows import BadSample, WindowReader

_log = logging.getLogger(__name__)


class WindowLoader:
    """An endless stream of batches of one rank.

    Example:
        loader = WindowLoader(MixturePlan.open("mixture.plan"), batch_size=4)
        batch = next(iter(loader))
        batch["video"].shape, batch["action"].shape   # (4, 3, 13, 480, 640), (4, 12, 384)
        loader.state_dict()["position"]               # 4
    """

    def __init__(
        self,
        plan: MixturePlan | Path | str,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        start: int = 0,
        max_bad_ratio: float = 0.001,
    ) -> None:
        """Checks that every shard of the plan is there; reads nothing yet.

        Args:
            plan: A plan, or the path of a plan file.
            batch_size: Samples per rank and batch; a global batch is `batch_size * world_size`.
            rank: This process, in [0, world_size).
            world_size: Processes that train together.
            num_workers: Processes that read ahead; 0 reads in this one.
            start: First sample of the run to hand out.
            max_bad_ratio: Samples that may be replaced, as a share of those handed out by this
                loader; BAD_ALLOWED of them are always accepted.

        Raises:
            DatasetError: A shard the plan names is gone.
            ConfigError: Impossible numbers.
        """
        if batch_size < 1 or num_workers < 0 or start < 0 or not 0 <= rank < world_size:
            raise ConfigError(
                f"WindowLoader cannot work with batch_size {batch_size}, rank {rank} of "
                f"{world_size}, {num_workers} workers and start {start}."
            )
        self.plan = plan if isinstance(plan, MixturePlan) else MixturePlan.open(plan)
        self.plan.check_files()
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.num_workers = num_workers
        self.position = start
        self.max_bad_ratio = max_bad_ratio
        self.bad_samples: list[BadSample] = []
        self._handed_out = 0
        self._num_taken = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from the present position on; the position moves as each is handed out.

        Raises:
            OverBudgetError: More samples had to be replaced than `max_bad_ratio` allows.
            EgodojoError: What a worker met: latents that are gone, a source without good clips.
        """
        starts = _Starts(self.position, self.batch_size * self.world_size)
        loader: DataLoader[dict[str, Any]] = DataLoader(
            _Batches(self.plan, self.batch_size, self.rank, self.world_size),
            batch_size=None,
            sampler=starts,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            multiprocessing_context=_worker_context() if self.num_workers else None,
        )
        for batch in loader:
            error = batch.pop("error", None)
            if error is not None:
                raise error
            self._account(batch.pop("bad"))
            self.position += starts.step
            yield batch

    @property
    def num_samples(self) -> int:
        """Samples of the run handed out so far, on all ranks together."""
        return self.position

    def take_problems(self) -> list[dict[str, Any]]:
        """Bad samples since the last call, as plain values."""
        new, self._num_taken = self.bad_samples[self._num_taken :], len(self.bad_samples)
        return [asdict(one) for one in new]

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, the same on all ranks: samples handed out by all of them."""
        return {"position": self.position, "plan": self.plan.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a saved position; ranks, workers and batch size may have changed.

        Raises:
            ConfigError: The position belongs to another plan.
        """
        if state.get("plan", self.plan.digest) != self.plan.digest:
            raise ConfigError(
                f"The saved position {state['position']} belongs to another mixture plan "
                f"({str(state['plan'])[:16]}) than the one to read ({self.plan.digest[:16]}).",
                hint="Resume with the plan the run began with, or start a new run.",
            )
        self.position = int(state["position"])

    def _account(self, bad: list[BadSample]) -> None:
        """Keeps the record of replaced samples and stops when there are too many."""
        self._handed_out += self.batch_size
        self.bad_samples.extend(bad)
        for one in bad:
            _log.warning("sample %d replaced: %s", one.index, one.message)
        replaced = len({one.index for one in self.bad_samples})
        if replaced > max(BAD_ALLOWED, self.max_bad_ratio * self._handed_out):
            raise OverBudgetError(
                f"{replaced} of {self._handed_out} training samples could not be read, more than "
                f"{self.max_bad_ratio:.2%} and more than {BAD_ALLOWED}; the last one: "
                f"{self.bad_samples[-1].message}",
                hint="Look at the dataset: egodojo manifest validate "
                f"{self.bad_samples[-1].dataset}",
            )


class _Starts(Sampler[int]):
    """First sample of every global batch, without end."""

    def __init__(self, start: int, step: int) -> None:
        self.start, self.step = start, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start, self.step)


class _Batches(Dataset[dict[str, Any]]):
    """What travels to a worker: the plan's path and three numbers."""

    def __init__(self, plan: MixturePlan, batch_size: int, rank: int, world_size: int) -> None:
        self._plan = plan
        self._offsets = rank + world_size * np.arange(batch_size, dtype=np.int64)
        self._reader: WindowReader | None = None

    def __getitem__(self, start: int) -> dict[str, Any]:
        if self._reader is None:
            self._reader = WindowReader(self._plan)
        try:
            return self._reader.batch(start + self._offsets)
        except EgodojoError as error:  # raised again in the training process, unchanged
            return {"error": error}


def _worker_context() -> BaseContext:
    """Workers grow from a clean server process: never a fork of one with threads or a GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WindowReader.__module__])
    return context


def _unchanged(batch: Any) -> Any:
    return batch
