"""A small model and clips held in memory, for the tests of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from latent_actions.clips import ClipRef, FrameReader
from latent_actions.config import ModelConfig
from latent_actions.model import LatentActionModel
from latent_actions.sources import ClipSource
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
    """A reader of made-up clips, every third of one video; `broken` ones raise as damage does."""

    def __init__(
        self, lengths: Sequence[int], *, broken: Sequence[str] = (), names: str = "ab"
    ) -> None:
        rng = np.random.default_rng(7)
        self.broken = set(broken)
        self.refs = [
            ClipRef(
                clip_id=f"clip{n}",
                shard="clips-000000",
                source=names[n % len(names)],
                num_frames=length,
            )
            for n, length in enumerate(lengths)
        ]
        self.data = {
            ref.clip_id: rng.integers(0, 256, (ref.num_frames, 60, 96, 3), dtype=np.uint8)
            for ref in self.refs
        }
        self.readers: dict[str, FrameReader] = {"memory": self}

    @property
    def sources(self) -> list[ClipSource]:
        """The clips as training sees them."""
        rows = [
            {**asdict(ref), "video_id": f"video{number // 3}", "recording": None, "camera": ""}
            for number, ref in enumerate(self.refs)
        ]
        names = sorted({ref.source for ref in self.refs})
        types = pa.Table.from_pylist(rows).schema
        schema = types.set(types.get_field_index("recording"), pa.field("recording", pa.string()))
        return [
            ClipSource(
                name=name,
                dataset="memory",
                table=pa.Table.from_pylist(
                    [row for row in rows if row["source"] == name], schema=schema
                ),
            )
            for name in names
        ]

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        if clip_id in self.broken:
            raise SampleError(f"{clip_id} is damaged", reason="checksum")
        return self.data[clip_id][list(indices)]
