"""Latents of clips: frames streamed through once, the encoder alone, batches of one shape.

Row t of a clip is the latent of its frames (t, t + step). What a frame goes through on its own is
computed once for all its pairs. Pairs of different clips share a batch; every batch has the same
shape, so a clip's numbers do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.errors import SampleError

from .clips import ClipRef, FrameReader
from .model import LatentActionModel
from .preprocess import scale_frames

CHUNK_FRAMES = 48  # a multiple of the 12-frame GOP, so no frame is decoded twice
CPU_BATCH = 8
GPU_BATCH = 64

Latents = NDArray[np.float16]
Frames = NDArray[np.uint8]
_Pair = tuple[Latents, Tensor, Tensor]


@dataclass(slots=True, kw_only=True)
class Extracted:
    """Latents by step and clip, and the clips that could not be read with the reason."""

    latents: dict[int, dict[str, Latents]]
    problems: dict[str, str] = field(default_factory=dict)


class Extractor:
    """The state of one worker: model, reader, device.

    Example:
        >>> from .config import tiny
        >>> extractor = Extractor(LatentActionModel(tiny().model))
        >>> latents = extractor.extract(np.zeros((5, 240, 320, 3), np.uint8), steps=(1, 2))
        >>> latents[1].shape, latents[2].shape
        ((4, 32), (3, 32))
    """

    def __init__(
        self, model: LatentActionModel, *, device: str = "cpu", batch_size: int | None = None
    ) -> None:
        """Default batches: 8 pairs on a CPU, 64 on a GPU."""
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.config = model.config
        self.batch_size = batch_size or (GPU_BATCH if self.device.type == "cuda" else CPU_BATCH)

    def extract(
        self, frames: Frames, *, steps: Sequence[int] = (1,), every: int = 1
    ) -> dict[int, Latents]:
        """Latents of one clip held in memory, uint8 (T, H, W, 3): step -> float16 (rows, 32)."""
        clip = ClipRef(clip_id="", shard="", source="", num_frames=len(frames))
        wanted = {step: {""} for step in steps}
        found = self.extract_clips([clip], _Held(frames), wanted, every=every)
        return {step: found.latents[step][""] for step in steps}

    def extract_clips(
        self,
        clips: Sequence[ClipRef],
        reader: FrameReader,
        wanted: Mapping[int, Set[str]],
        *,
        every: int = 1,
    ) -> Extracted:
        """Latents of several clips, float16 (rows, 32); one too short for a step has no rows.

        Args:
            clips: The clips, in the order of reading.
            reader: Gives their frames; a SampleError of it costs that clip only.
            wanted: Step -> ids of the clips to extract for it.
            every: Only frames 0, every, 2 every, ... begin a pair.
        """
        done = Extracted(latents={step: {} for step in wanted})
        batch: list[_Pair] = []
        for clip in clips:
            rows = {
                step: np.zeros((_count(clip, step, every), self.config.latent_dim), np.float16)
                for step, ids in wanted.items()
                if clip.clip_id in ids
            }
            try:
                for first, step, earlier, later in self._pairs(clip, reader, tuple(rows), every):
                    batch.append((rows[step][first // every], earlier, later))
                    if len(batch) == self.batch_size:
                        self._encode(batch)
                        batch = []
            except SampleError as error:
                done.problems[clip.clip_id] = error.message
                continue
            for step, latents in rows.items():
                done.latents[step][clip.clip_id] = latents
        if batch:
            self._encode(batch)
        return done

    def _pairs(
        self, clip: ClipRef, reader: FrameReader, steps: Sequence[int], every: int
    ) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """(number of the earlier frame, step, earlier, later), ordered by the later; frames seen.

        Frames that begin and end no pair are decoded but not looked at.
        """
        if not steps:
            return
        last = clip.num_frames - 1
        starts = {step: range(0, last - step + 1, every) for step in steps}
        wanted = sorted({n + gap for step in steps for n in starts[step] for gap in (0, step)})
        held: dict[int, Tensor] = {}
        for number, seen in self._seen(clip, reader, wanted):
            held[number] = seen
            for step in steps:
                if number - step in starts[step]:
                    yield number - step, step, held[number - step], seen
            for old in [n for n in held if n <= number - max(steps)]:
                del held[old]

    def _seen(
        self, clip: ClipRef, reader: FrameReader, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """The wanted frames with what the model sees in each on its own, in order."""
        size = {"height": self.config.frame_height, "width": self.config.frame_width}
        for first in range(0, clip.num_frames, CHUNK_FRAMES):
            chunk = [n for n in wanted if first <= n < first + CHUNK_FRAMES]
            if not chunk:
                continue
            frames = reader.frames(clip.shard, clip.clip_id, chunk)
            for start in range(0, len(chunk), self.batch_size):
                some = torch.from_numpy(frames[start : start + self.batch_size])
                seen = self._look(scale_frames(some, **size))
                yield from zip(chunk[start : start + self.batch_size], seen, strict=False)

    @torch.inference_mode()
    def _look(self, frames_FHWC: Tensor) -> Tensor:
        """Look at up to `batch_size` uint8 frames of the model's size; rows beyond are padding."""
        missing = self.batch_size - len(frames_FHWC)
        padded = torch.cat([frames_FHWC, frames_FHWC[-1:].expand(missing, -1, -1, -1)])
        with self._precision():
            return self.model.look(padded.to(self.device).float() / 255)

    @torch.inference_mode()
    def _encode(self, batch: Sequence[_Pair]) -> None:
        """Encode up to `batch_size` pairs and put each result into its row."""
        padded = [*batch, *[batch[-1]] * (self.batch_size - len(batch))]
        with self._precision():
            mu = self.model.relate(
                torch.stack([earlier for _, earlier, _ in padded]),
                torch.stack([later for _, _, later in padded]),
            )
        rows = mu.float().cpu().numpy().astype(np.float16)
        for (target, _, _), row in zip(batch, rows, strict=False):
            target[:] = row

    def _precision(self) -> torch.autocast:
        """Half precision on a GPU keeps the 10 bits that float16 rows have; a CPU stays exact."""
        return torch.autocast("cuda", torch.float16, enabled=self.device.type == "cuda")


def _count(clip: ClipRef, step: int, every: int) -> int:
    """Rows of a clip: one for each of the frames 0, every, ... that has a frame `step` later."""
    return max(0, -(-(clip.num_frames - step) // every))


class _Held:
    """A reader over one clip in memory."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> Frames:
        return self._frames[list(indices)]
