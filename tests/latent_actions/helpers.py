"""A small model and clips held in memory, for the tests of this package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from latent_actions.clips import ClipRef
from latent_actions.config import ModelConfig
from latent_actions.model import LatentActionModel
from manifests.errors import SampleError

SMALL = ModelConfig(
    name="lam-test",
    width=32,
    patch_size=16,
    num_encoder_blocks=2,
    num_decoder_blocks=1,
    num_heads=2,
    frame_height=48,
    frame_width=64,
)


def small_model(seed: int = 0) -> LatentActionModel:
    torch.manual_seed(seed)
    return LatentActionModel(SMALL).eval()


class MemoryClips:
    """A reader of made-up clips; `broken` ones raise as a damaged shard does."""

    def __init__(self, lengths: Sequence[int], *, broken: Sequence[str] = ()) -> None:
        rng = np.random.default_rng(7)
        self.broken = set(broken)
        self.refs = [
            ClipRef(clip_id=f"clip{n}", shard="clips-000000", source="ab"[n % 2], num_frames=length)
            for n, length in enumerate(lengths)
        ]
        self.data = {
            ref.clip_id: rng.integers(0, 256, (ref.num_frames, 60, 96, 3), dtype=np.uint8)
            for ref in self.refs
        }

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        if clip_id in self.broken:
            raise SampleError(f"{clip_id} is damaged", reason="checksum")
        return self.data[clip_id][list(indices)]
