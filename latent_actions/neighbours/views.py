"""What a step learns from: two views of each of a few pairs of recordings.

Shapes: N clips, R recordings, C cameras, D width of a clip's vector, V views (two for each pair), Q
pairs of frames a view, h w flow pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.optimisation import seed_of
from pipeline.training.ranks import rank, wait_for_all

from ..clips import FrameReader
from ..config import NeighbourConfig, TrainConfig
from ..data import PairBatches
from ..flow_features import join
from ..sources import ClipSource
from ..windows import WindowConfig, clip_vectors
from .augment import altered, ground_of
from .flow_clips import PAIRS_PER_CLIP, FlowClips, write_flow_clips
from .mining import mutual_neighbours

log = logging.getLogger(__name__)

QUARTERS = WindowConfig().parts
"""A view has one pair of frames from each, as a window of the index has a mean of each."""


class Views:
    """Draws views; the i-th draw is a pure function of the clips, the seed and i."""

    def __init__(self, clips: FlowClips, config: NeighbourConfig, *, seed: int) -> None:
        """Looks for neighbours; where there are none, all pairs are views of one recording."""
        self.clips, self.config, self.seed = clips, config, seed
        self._recordings = np.asarray(clips.recordings)
        self._order = np.argsort(self._recordings, kind="stable")
        self._counts = np.bincount(self._recordings)
        self._starts = np.cumsum(self._counts) - self._counts
        bodies = [clips.bodies[clip] for clip in self._order[self._starts]]
        self.pairs = mutual_neighbours(_seen_by(clips), bodies, nearest=config.nearest)
        if not len(self.pairs):
            log.warning(
                "no clip has a neighbour on another body (%d clips of: %s); all pairs are two "
                "views of one recording",
                len(clips.bodies),
                ", ".join(sorted(set(clips.bodies))),
            )

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Views (V, Q, 2, h, w), pixels, and the number of each one's recording (V,).

        The first half of the views are the partners of the second, in order.
        """
        seed = seed_of("views", self.seed, index)
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        clips = self._clips(rng).T.ravel()
        flows = self._flows(clips, self._places(rng, len(clips)))
        views = altered(flows, self.config, generator=generator)
        if self.config.background:
            views = views + self._background(rng, len(clips))
        return views, torch.from_numpy(self._recordings[clips])

    def _clips(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Pairs of clips (n, 2): of neighbours, and of one recording by two cameras, if it can."""
        count = self.config.clips
        alone = rng.integers(len(self._counts), size=count)
        recordings = np.stack([alone, alone], axis=1)
        if len(self.pairs):
            drawn = self.pairs[rng.choice(len(self.pairs), count, replace=len(self.pairs) < count)]
            is_alone = rng.random(count) < self.config.same_clip
            recordings = np.where(is_alone[:, None], recordings, drawn)
        counts = self._counts[recordings]
        places = rng.integers(counts)
        is_alone = recordings[:, 0] == recordings[:, 1]
        others = (places[:, 0] + 1 + rng.integers(np.maximum(1, counts[:, 0] - 1))) % counts[:, 0]
        places[is_alone, 1] = others[is_alone]
        chosen: NDArray[np.int64] = self._order[self._starts[recordings] + places]
        return chosen

    def _places(self, rng: np.random.Generator, num_views: int) -> NDArray[np.int64]:
        """One pair of frames of each quarter of a clip (V, Q)."""
        size = PAIRS_PER_CLIP // QUARTERS
        return rng.integers(size, size=(num_views, QUARTERS)) + size * np.arange(QUARTERS)

    def _flows(self, clips: NDArray[np.int64], places: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.clips.flows[clips[:, None], places].astype(np.float32))

    def _background(self, rng: np.random.Generator, num_views: int) -> Tensor:
        """Leftover camera motion of other clips, some of it mirrored."""
        clips = rng.integers(len(self.clips.bodies), size=num_views)
        places = rng.integers(PAIRS_PER_CLIP, size=(num_views, QUARTERS))
        ground = ground_of(self._flows(clips, places), self.config)
        if rng.random() < 0.5:
            ground = ground.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
        factor = torch.from_numpy(rng.random((num_views, 1, 1, 1, 1)).astype(np.float32))
        return ground * factor * self.config.background


def _seen_by(clips: FlowClips) -> NDArray[np.floating]:
    """The vector of every recording by each camera (C, R, D), zeros where it did not film it.

    Cameras see the same body differently, so each has its own mean taken off.
    """
    rows = join([list(clips.grids), list(clips.histograms)])
    seen = [f"{body} {camera}" for body, camera in zip(clips.bodies, clips.cameras, strict=True)]
    vectors = clip_vectors(rows, seen, is_evened=False, is_centred=True, parts=QUARTERS)
    names = sorted({camera for camera in clips.cameras if camera is not None})
    found = np.zeros((len(names), max(clips.recordings) + 1, vectors.shape[1]), vectors.dtype)
    for clip, (recording, camera) in enumerate(zip(clips.recordings, clips.cameras, strict=True)):
        if camera is not None:
            found[names.index(camera), recording] = vectors[clip]
    return found


class NeighbourBatches:
    """Batches of pairs of frames with `views` (V, Q, 2, h, w) and `recordings` (V,) beside them.

    Flow is found when the first batch is asked for, by the first rank, and kept in `folder`.
    """

    def __init__(
        self,
        pairs: PairBatches,
        sources: Sequence[ClipSource],
        readers: Mapping[str, FrameReader],
        config: TrainConfig,
        *,
        folder: Path,
    ) -> None:
        """`pairs` are the batches of the published objective; `sources` what they are drawn of."""
        self.pairs, self.folder = pairs, folder
        self._sources, self._readers, self._config = sources, readers, config

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches from the present position on."""
        views = self._views()
        size = self._config.data.batch_size
        for batch in self.pairs:
            # The number of a batch's first pair says which batch of which rank it is.
            drawn, recordings = views.draw(int(batch["index"][0]) // size)
            yield {**batch, "views": drawn, "recordings": recordings}

    @property
    def num_samples(self) -> int:
        """Pairs of frames handed out so far, on all ranks together."""
        return self.pairs.num_samples

    def take_problems(self) -> list[dict[str, Any]]:
        """Pairs of frames of this rank that could not be read since the last call."""
        return self.pairs.take_problems()

    def state_dict(self) -> dict[str, Any]:
        """Pairs handed out so far."""
        return self.pairs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position."""
        self.pairs.load_state_dict(state)

    def _views(self) -> Views:
        if rank() == 0 and not self.folder.exists():
            write_flow_clips(self._sources, self._readers, self._config, self.folder)
        wait_for_all()
        views = Views(
            FlowClips.open(self.folder), self._config.neighbours, seed=self._config.loop.seed
        )
        log.info("%d pairs of neighbours in %d clips", len(views.pairs), len(views.clips.bodies))
        return views
