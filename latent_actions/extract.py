"""Latents of clips: frames streamed through once, the encoder alone, batches of one shape.

Row t of a clip is the latent of its frames (t, t + step). What a frame goes through on its own is
computed once for all its pairs. Pairs of different clips share a batch, pairs of different steps
do not: so the rows of a step depend on the clips alone, whichever other steps are made with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.errors import EgodojoError, SampleError
from pipeline.read_ahead import read_ahead

from .clips import ClipRef, FrameReader
from .config import ModelConfig
from .model import LatentActionModel
from .pair_encoder import PairEncoder, compiled_or_not, pair_encoder
from .precision import DTYPES, number_type
from .preprocess import scale_frames

CHUNK_FRAMES = 48  # a multiple of the 12-frame GOP, so no frame is decoded twice
GPU_BATCH = 64
FLOW_BATCH = 8
CACHE_BYTES = 20 * 2**20
"""What the widest layer of a batch may take on a CPU: more than its caches hold is slower."""

Latents = NDArray[np.float16]
Frames = NDArray[np.uint8]
Chunk = tuple[ClipRef, list[int]]


@dataclass(slots=True, kw_only=True)
class Extracted:
    """Latents by step and clip, and the clips that could not be read with the reason."""

    latents: dict[int, dict[str, Latents]]
    problems: dict[str, str] = field(default_factory=dict)


class Extractor:
    """The state of one worker: encoder, device, batch size.

    Example:
        >>> from .config import tiny
        >>> extractor = Extractor(LatentActionModel(tiny().model))
        >>> latents = extractor.extract(np.zeros((5, 240, 320, 3), np.uint8), steps=(1, 2))
        >>> latents[1].shape, latents[2].shape
        ((4, 32), (3, 32))
    """

    def __init__(
        self,
        model: LatentActionModel,
        *,
        device: str = "cpu",
        precision: str = "auto",
        batch_size: int | None = None,
        compiled: bool = False,
        num_readers: int = 1,
    ) -> None:
        """Lay out the model's encoder; the model stays as it is.

        Args:
            model: Any latent action model.
            device: `cpu` or `cuda`.
            precision: See `precision.number_type`.
            batch_size: Pairs at a time; default: what suits the device and the model.
            compiled: Use `torch.compile` where it works.
            num_readers: Threads that decode ahead.
        """
        self.device = torch.device(device)
        self.config = model.config
        self.precision = number_type(precision, self.device.type)
        dtype = DTYPES[self.precision]
        self.batch_size = batch_size or suitable_batch(model.config, dtype, self.device)
        self.num_readers = num_readers
        make = partial(pair_encoder, model, dtype=dtype, device=self.device)
        self.encoder: PairEncoder = (
            compiled_or_not(make, self._blank(), self.batch_size) if compiled else make()
        )

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
            reader: Gives their frames, in threads; a SampleError of it costs that clip only.
            wanted: Step -> ids of the clips to extract for it.
            every: Only frames 0, every, 2 every, ... begin a pair.

        Raises:
            EgodojoError: The model's numbers overflow in this precision.
        """
        rows = {
            step: {
                clip.clip_id: np.zeros((count(clip, step, every), self.config.latent_dim), "f2")
                for clip in clips
                if clip.clip_id in ids
            }
            for step, ids in wanted.items()
        }
        done = Extracted(latents=rows)
        batches = {step: _Batch(self) for step in wanted}
        ahead = read_ahead(
            (chunk for clip in clips for chunk in _chunks(clip, _starts(clip, rows, every))),
            partial(self._read, reader),
            num_threads=self.num_readers,
            num_ahead=self.num_readers + 1,
        )
        for clip_id, chunks in groupby(ahead, key=lambda item: item[0][0].clip_id):
            try:
                self._take_clip(chunks, clip_id, rows, batches, every)
            except SampleError as error:
                done.problems[clip_id] = error.message
        for batch in batches.values():
            batch.finish()
        for clip_id in done.problems:
            for latents in rows.values():
                latents.pop(clip_id, None)
        return done

    def extract_pairs(self, pairs_PFHWC: Sequence[Frames]) -> Latents:
        """Latents (P, 32) of single pairs of frames, each uint8 (2, H, W, 3), in their order."""
        rows = np.zeros((len(pairs_PFHWC), self.config.latent_dim), np.float16)
        batch = _Batch(self)
        for row, pair in zip(rows, pairs_PFHWC, strict=True):
            batch.add(row, *self._look(self._prepared(pair)))
        batch.finish()
        return rows

    def _take_clip(
        self,
        chunks: Iterator[tuple[Chunk, Future[Tensor]]],
        clip_id: str,
        rows: Mapping[int, Mapping[str, Latents]],
        batches: Mapping[int, _Batch],
        every: int,
    ) -> None:
        """Put the pairs of one clip into the batches of their steps, as its frames come."""
        held: dict[int, Tensor] = {}
        targets = {step: latents[clip_id] for step, latents in rows.items() if clip_id in latents}
        for (_, numbers), frames in chunks:
            for number, seen in zip(numbers, self._look(frames.result()), strict=True):
                held[number] = seen
                for step, target in targets.items():
                    row, rest = divmod(number - step, every)
                    if not rest and 0 <= row < len(target):
                        batches[step].add(target[row], held[number - step], seen)
                for old in [n for n in held if n <= number - max(targets)]:
                    del held[old]

    def _read(self, reader: FrameReader, chunk: Chunk) -> Tensor:
        clip, numbers = chunk
        return self._prepared(reader.frames(clip.shard, clip.clip_id, numbers))

    def _prepared(self, frames_FHWC: Frames) -> Tensor:
        """Frames, uint8: of the model's size for a CPU, pinned for a GPU to scale."""
        frames = torch.from_numpy(frames_FHWC)
        return frames.pin_memory() if self.device.type == "cuda" else self._scale(frames)

    def _scale(self, frames_FHWC: Tensor) -> Tensor:
        height, width = self.config.frame_height, self.config.frame_width
        return scale_frames(frames_FHWC, height=height, width=width)

    @torch.inference_mode()
    def _look(self, frames_FHWC: Tensor) -> Iterator[Tensor]:
        """What the model sees in each frame on its own, batch by batch of one shape.

        A CPU looks at one frame at a time: its products depend on where in a batch a row lies, in
        their last bits, and nothing is gained by more.
        """
        if self.device.type == "cuda":
            frames_FHWC = self._scale(frames_FHWC.to(self.device, non_blocking=True))
        size = self.batch_size if self.device.type == "cuda" else 1
        for some in torch.split(frames_FHWC, size):
            missing = size - len(some)
            padded = torch.cat([some, some[-1:].expand(missing, -1, -1, -1)])
            yield from self.encoder.look(padded.float() / 255)[: len(some)]

    def _blank(self) -> Tensor:
        """One black frame as the encoder takes it."""
        height, width = self.config.frame_height, self.config.frame_width
        return torch.zeros(1, height, width, 3, device=self.device)


class _Batch:
    """Pairs of one step until there are enough; results reach their rows one batch later.

    Fetching a result waits for the GPU, so the next batch is on its way before.
    """

    def __init__(self, extractor: Extractor) -> None:
        self._encoder, self._size = extractor.encoder, extractor.batch_size
        self._precision = extractor.precision
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._targets: list[Latents] = []
        self._late: tuple[list[Latents], Tensor] | None = None

    def add(self, target: Latents, earlier: Tensor, later: Tensor) -> None:
        """Take a pair whose latent belongs into `target`."""
        self._targets.append(target)
        self._pairs.append((earlier, later))
        if len(self._pairs) == self._size:
            self._relate()

    def finish(self) -> None:
        """Encode what is left and fill every row."""
        if self._pairs:
            self._relate()
        self._fetch()

    @torch.inference_mode()
    def _relate(self) -> None:
        padded = [*self._pairs, *[self._pairs[-1]] * (self._size - len(self._pairs))]
        earlier, later = (torch.stack(frames) for frames in zip(*padded, strict=True))
        mu = self._encoder.relate(earlier, later)
        self._fetch()
        self._late = self._targets, mu
        self._pairs, self._targets = [], []

    def _fetch(self) -> None:
        if self._late is None:
            return
        targets, mu = self._late
        self._late = None
        with np.errstate(over="ignore"):
            rows = mu[: len(targets)].float().cpu().numpy().astype(np.float16)
        if not np.isfinite(rows).all():
            raise EgodojoError(
                f"Latents of this model are not finite when computed in {self._precision}.",
                hint="Use --precision bfloat16 or float32; if both fail, the weights are broken.",
            )
        for target, row in zip(targets, rows, strict=True):
            target[:] = row


def suitable_batch(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Pairs at a time: many for a GPU, as many as the caches like for a CPU."""
    if device.type == "cuda":
        return GPU_BATCH
    if config.input == "flow":
        return FLOW_BATCH
    rows, columns = (
        config.frame_height // config.patch_size,
        config.frame_width // config.patch_size,
    )
    widest_bytes = 2 * (1 + rows * columns) * 4 * config.width * dtype.itemsize
    return max(2, min(16, CACHE_BYTES // widest_bytes))


def count(clip: ClipRef, step: int, every: int) -> int:
    """Rows of a clip: one for each of the frames 0, every, ... that has a frame `step` later."""
    return max(0, -(-(clip.num_frames - step) // every))


def _starts(
    clip: ClipRef, rows: Mapping[int, Mapping[str, Latents]], every: int
) -> dict[int, range]:
    """Step -> frames of a clip that begin a pair."""
    return {
        step: range(0, len(latents[clip.clip_id]) * every, every)
        for step, latents in rows.items()
        if clip.clip_id in latents
    }


def _chunks(clip: ClipRef, starts: Mapping[int, range]) -> Iterator[Chunk]:
    """The frames of a clip's pairs, a piece of the clip at a time; others are not looked at."""
    wanted = {n + gap for step, firsts in starts.items() for n in firsts for gap in (0, step)}
    for _, numbers in groupby(sorted(wanted), key=lambda n: n // CHUNK_FRAMES):
        yield clip, list(numbers)


class _Held:
    """A reader over one clip in memory."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> Frames:
        return self._frames[list(indices)]
