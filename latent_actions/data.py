"""Training pairs: the i-th pair of a run is a pure function of the clips, the seed and i.

Shapes: B batch, 2 frames, H W pixels, 3 colours.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.errors import DatasetError, SampleError, StorageError
from manifests.mixture.cycle import WeightCycle, whole_weights
from manifests.mixture.permutation import key_of
from pipeline.training.problems import MAX_ATTEMPTS

from .clips import ClipRef, FrameReader
from .config import DataConfig
from .preprocess import jitter, training_frames
from .sources import ClipSource

_log = logging.getLogger(__name__)

_WEIGHTS: dict[str, Callable[[int], float]] = {
    "source": lambda num_clips: 1.0,
    "sample": float,
    "log": lambda num_clips: math.log(num_clips + 1),
    "pi": lambda num_clips: num_clips**0.43,
}
_BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Frames `first` and `second` of a clip and the brightness shift of both."""

    source: str
    dataset: str
    clip: ClipRef
    first: int
    second: int
    shift: float


class PairSampler:
    """Says which pair the i-th one is; holds no state."""

    def __init__(self, sources: Sequence[ClipSource], config: DataConfig, *, seed: int) -> None:
        """Sources with weights follow each other in exact cycles, others are drawn by `balance`."""
        if not sources:
            raise DatasetError("No clip has two frames, so there is no pair to train on.")
        self.config = config
        self.seed = seed
        self.sources = sources
        weigh = _WEIGHTS[config.balance]
        self._bounds = list(accumulate(weigh(source.num_clips) for source in sources))
        weights = [source.weight for source in sources if source.weight is not None]
        self._cycle = (
            WeightCycle(whole_weights(weights), key=key_of(f"latent pairs {seed}"))
            if len(weights) == len(sources)
            else None
        )

    def sample(self, index: int, attempt: int = 0) -> Pair:
        """Draw a source, a clip of it, a stride and a first frame, all from (seed, index).

        `attempt` 1, 2, ... are other pairs of the same source, for one that cannot be read.
        """
        draw = self._generator(index)
        source = self.sources[self._source(draw, index)]
        if attempt:
            draw = self._generator(index, attempt)
        clip = source.clip(int(draw.integers(source.num_clips)))
        stride = int(draw.integers(self.config.min_stride, self.config.max_stride + 1))
        first = int(draw.integers(max(0, clip.num_frames - 2 * stride) + 1))
        shift = float(draw.uniform(-self.config.brightness, self.config.brightness))
        last = clip.num_frames - 1
        return Pair(
            source=source.name,
            dataset=source.dataset,
            clip=clip,
            first=first,
            second=min(first + stride, last),
            shift=shift,
        )

    def _source(self, draw: np.random.Generator, index: int) -> int:
        if self._cycle is not None:
            return int(self._cycle.locate(np.array([index], dtype=np.int64))[0][0])
        place = float(draw.random()) * self._bounds[-1]
        return next((n for n, bound in enumerate(self._bounds) if place < bound), -1)

    def _generator(self, index: int, attempt: int = 0) -> np.random.Generator:
        # A counter-based generator costs microseconds to key, so every pair has its own.
        counter = [0, 0, 0, attempt]
        return np.random.Generator(
            np.random.Philox(key=[self.seed % 2**64, index], counter=counter)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A batch, and what could not be read on the way to it."""

    batch: dict[str, Tensor]
    problems: list[dict[str, Any]]


class PairBatches:
    """Endless batches `{frames: float32 (B, 2, H, W, 3) in [0, 1], index: int64 (B,)}`.

    A step of R ranks takes the next R x B pairs, rank r the r-th B of them. The position is the
    number of pairs handed out on all ranks; it does not depend on the threads that read ahead.
    """

    def __init__(
        self,
        sampler: PairSampler,
        readers: Mapping[str, FrameReader],
        *,
        height: int,
        width: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`readers` by dataset; `height` and `width` are those of the model's frames."""
        self.sampler = sampler
        self.readers = readers
        self.height, self.width = height, width
        self.rank, self.world_size = rank, world_size
        self.position = 0
        self._problems: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches from the present position on, read ahead by threads."""
        ahead: deque[Future[_Loaded]] = deque()
        num_threads = self.sampler.config.num_threads
        step = self.sampler.config.batch_size * self.world_size
        start = self.position
        pool = ThreadPoolExecutor(num_threads, "pairs")
        try:
            while True:
                while len(ahead) < max(_BATCHES_AHEAD, num_threads):
                    ahead.append(pool.submit(self._load, start))
                    start += step
                loaded = ahead.popleft().result()
                self.position += step
                self._problems += loaded.problems
                for problem in loaded.problems:
                    _log.warning("pair %d replaced: %s", problem["index"], problem["message"])
                yield loaded.batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, start: int) -> dict[str, Tensor]:
        """This rank's part of the step that begins with pair `start`, a pure function of it."""
        return self._load(start).batch

    def pairs(self, indices: range, problems: list[dict[str, Any]] | None = None) -> Tensor:
        """The pairs of these numbers, float32 (n, 2, H, W, 3); what was bad goes to `problems`.

        Raises:
            SampleError: A pair and all its substitutes cannot be read.
        """
        found = [] if problems is None else problems
        return torch.stack([self._first_good(index, found) for index in indices])

    @property
    def num_samples(self) -> int:
        """Pairs handed out so far, on all ranks together."""
        return self.position

    def take_problems(self) -> list[dict[str, Any]]:
        """Pairs of this rank that could not be read since the last call."""
        taken, self._problems = self._problems, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Pairs handed out so far, the same on all ranks."""
        return {"pairs": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position."""
        self.position = int(state["pairs"])

    def _load(self, start: int) -> _Loaded:
        size = self.sampler.config.batch_size
        first = start + self.rank * size
        problems: list[dict[str, Any]] = []
        frames = self.pairs(range(first, first + size), problems)
        batch = {"frames": frames, "index": torch.arange(first, first + size)}
        return _Loaded(batch=batch, problems=problems)

    def _first_good(self, index: int, problems: list[dict[str, Any]]) -> Tensor:
        for attempt in range(MAX_ATTEMPTS + 1):
            pair = self.sampler.sample(index, attempt)
            try:
                return self._read(pair)
            except (SampleError, StorageError, IndexError) as error:
                problems.append(_problem(pair, index, attempt, error))
        raise SampleError(
            f"Pair {index} and its {MAX_ATTEMPTS} substitutes cannot be read; the last one: "
            f"{problems[-1]['message']}",
            reason="no_substitute",
            hint=f"Look at the dataset: egodojo manifest validate {pair.dataset}",
        )

    def _read(self, pair: Pair) -> Tensor:
        wanted = [pair.first, pair.second]
        reader = self.readers[pair.dataset]
        frames = reader.frames(pair.clip.shard, pair.clip.clip_id, wanted)
        scaled = training_frames(torch.from_numpy(frames), height=self.height, width=self.width)
        return jitter(scaled, pair.shift)


def _problem(pair: Pair, index: int, attempt: int, error: Exception) -> dict[str, Any]:
    reasons = {StorageError: "storage", IndexError: "num_frames"}
    return {
        "index": index,
        "attempt": attempt,
        "source": pair.source,
        "dataset": pair.dataset,
        "shard": pair.clip.shard,
        "clip_id": pair.clip.clip_id,
        "frames": [pair.first, pair.second],
        "reason": getattr(error, "reason", reasons.get(type(error), "unknown")),
        "message": str(error),
    }
