"""Training pairs: the i-th pair of a run is a pure function of the clips, the seed and i.

Shapes: B batch, 2 frames, H W pixels, 3 colours.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.errors import DatasetError

from .clips import ClipRef, FrameReader
from .config import DataConfig
from .preprocess import jitter, training_frames

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

    clip: ClipRef
    first: int
    second: int
    shift: float


class PairSampler:
    """Says which pair the i-th one is; holds no state."""

    def __init__(self, clips: Sequence[ClipRef], config: DataConfig, *, seed: int) -> None:
        """Clips with fewer than two frames are left out."""
        usable = sorted((c for c in clips if c.num_frames > 1), key=lambda c: (c.source, c.clip_id))
        if not usable:
            raise DatasetError("No clip has two frames, so there is no pair to train on.")
        self.config = config
        self.seed = seed
        counts = Counter(clip.source for clip in usable)
        weigh = _WEIGHTS[config.balance]
        self._clips = {s: [c for c in usable if c.source == s] for s in counts}
        self._bounds = list(accumulate(weigh(number) for number in counts.values()))

    def sample(self, index: int) -> Pair:
        """Draw a source, a clip of it, a stride and a first frame, all from (seed, index)."""
        # A counter-based generator costs microseconds to key, so every pair has its own.
        draw = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, index]))
        place = float(draw.random()) * self._bounds[-1]
        sources = list(self._clips)
        number = next((n for n, bound in enumerate(self._bounds) if place < bound), -1)
        clips = self._clips[sources[number]]
        clip = clips[int(draw.integers(len(clips)))]
        stride = int(draw.integers(self.config.min_stride, self.config.max_stride + 1))
        first = int(draw.integers(max(0, clip.num_frames - 2 * stride) + 1))
        shift = float(draw.uniform(-self.config.brightness, self.config.brightness))
        last = clip.num_frames - 1
        return Pair(clip=clip, first=first, second=min(first + stride, last), shift=shift)


class PairBatches:
    """Endless batches `{frames: float32 (B, 2, H, W, 3) in [0, 1], index: int64 (B,)}`.

    Batch b of rank r of R holds the pairs from (b R + r) B on, so the position is one integer and
    does not depend on the number of threads that read ahead.
    """

    def __init__(
        self,
        sampler: PairSampler,
        reader: FrameReader,
        *,
        height: int,
        width: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`height` and `width` are those of the model's frames."""
        self.sampler = sampler
        self.reader = reader
        self.height, self.width = height, width
        self.rank, self.world_size = rank, world_size
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches from the present position on, read ahead by threads."""
        ahead: deque[Future[dict[str, Tensor]]] = deque()
        pool = ThreadPoolExecutor(self.sampler.config.num_threads, "pairs")
        try:
            number = self.position
            while True:
                while len(ahead) < max(_BATCHES_AHEAD, self.sampler.config.num_threads):
                    ahead.append(pool.submit(self.batch, number))
                    number += 1
                batch = ahead.popleft().result()
                self.position += 1
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, number: int) -> dict[str, Tensor]:
        """The batch of this rank at one position, a pure function of the number."""
        size = self.sampler.config.batch_size
        first = (number * self.world_size + self.rank) * size
        frames = self.pairs(range(first, first + size))
        return {"frames": frames, "index": torch.arange(first, first + size)}

    def pairs(self, indices: range) -> Tensor:
        """The pairs of these numbers, float32 (n, 2, H, W, 3)."""
        return torch.stack([self._read(self.sampler.sample(i)) for i in indices])

    def state_dict(self) -> dict[str, Any]:
        """Batches handed out so far."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position."""
        self.position = int(state["position"])

    def _read(self, pair: Pair) -> Tensor:
        wanted = [pair.first, pair.second]
        frames = self.reader.frames(pair.clip.shard, pair.clip.clip_id, wanted)
        scaled = training_frames(torch.from_numpy(frames), height=self.height, width=self.width)
        return jitter(scaled, pair.shift)
