"""One training window from a shard: a range read, a decode, the actions beside it, stored latents.

This is what loader workers run. It reads the plan, index files, shards and latents, and nothing
else. Legend: B batch, C channels, T frames, H W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from manifests.action_vector import ACTION_WIDTH, LATENT_START, place, rebaseline
from manifests.errors import SampleError, StorageError
from manifests.latents import LatentReader
from manifests.mixture.plan import MixturePlan, Sample
from pipeline.clips import ClipReader

from .problems import MAX_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class BadSample:
    """One sample that could not be read, and what took its place."""

    index: int
    """Position in the run."""
    attempt: int
    """0: the sample itself; n: its n-th substitute, bad as well."""
    source: str
    dataset: str
    shard: str
    clip_id: str
    first_frame: int
    reason: str
    """Short code, for instance `checksum`."""
    message: str
    """The error in words."""


class WindowReader:
    """Reads samples of a plan; keeps files open, holds nothing else."""

    def __init__(self, plan: MixturePlan) -> None:
        """Takes the plan; files are opened when first needed."""
        self.plan = plan
        self._bodies = {body.name: body for body in plan.header.embodiments}
        self._clips = lru_cache(maxsize=None)(ClipReader)
        self._latents = lru_cache(maxsize=None)(LatentReader.open)

    def batch(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """The samples at these positions; bad ones replaced and listed under `bad`.

        Returns:
            video uint8 (B, 3, T, H, W), action float32 (B, T - 1, 384), index int64 (B,), lists
            clip_id, source, embodiment, first_frame int64 (B,), and `bad`, a list of BadSample.
        """
        header = self.plan.header
        height, width = header.frame_size
        num_frames, size = header.num_frames, len(indices)
        video = torch.empty((size, 3, num_frames, height, width), dtype=torch.uint8)
        action = torch.zeros((size, num_frames - 1, ACTION_WIDTH), dtype=torch.float32)
        planned = self.plan.samples_at(indices)
        read: list[Sample] = []
        bad: list[BadSample] = []
        for position in range(size):
            sample, frames, rows = self._first_good(self.plan.describe(planned, position), bad)
            video[position] = resize(frames, height=height, width=width).permute(1, 0, 2, 3)
            action[position] = torch.from_numpy(rows)
            read.append(sample)
        return {
            "video": video,
            "action": action,
            "index": torch.from_numpy(indices.copy()),
            "first_frame": torch.tensor([sample.first_frame for sample in read]),
            "clip_id": [sample.clip_id for sample in read],
            "source": [sample.source for sample in read],
            "embodiment": [sample.embodiment for sample in read],
            "bad": bad,
        }

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Pictures (T, H, W, 3) as stored and action rows (T - 1, 384) of one sample.

        Raises:
            SampleError: The clip's bytes are damaged or gone.
        """
        num_frames = self.plan.header.num_frames
        wanted = [sample.first_frame + number * sample.stride for number in range(num_frames)]
        try:
            frames = self._clips(sample.dataset).frames(sample.shard, sample.clip_id, wanted)
            return frames, self._actions(sample)
        except IndexError as error:
            raise SampleError(str(error), reason="num_frames") from error
        except StorageError as error:
            raise SampleError(error.message, reason="storage", hint=error.hint) from error

    def _first_good(
        self, sample: Sample, bad: list[BadSample]
    ) -> tuple[Sample, NDArray[np.uint8], NDArray[np.float32]]:
        for attempt in range(MAX_ATTEMPTS + 1):
            if attempt:
                sample = self.plan.substitute(sample.index, attempt)
            try:
                return sample, *self.read(sample)
            except SampleError as error:
                bad.append(_record(sample, attempt, error))
        raise SampleError(
            f"Sample {sample.index} and its {MAX_ATTEMPTS} substitutes in source "
            f"{sample.source!r} cannot be read; the last one: {bad[-1].message}",
            reason="no_substitute",
            hint=f"Look at the dataset: egodojo manifest validate {sample.dataset}",
        )

    def _actions(self, sample: Sample) -> NDArray[np.float32]:
        num_rows = self.plan.header.num_frames - 1
        rows = np.zeros((num_rows, ACTION_WIDTH), dtype=np.float32)
        body = self._bodies[sample.embodiment]
        if body.feeds_actions:
            recorded = self._recorded(sample)
            if recorded is not None:
                assert body.slot is not None, "feeds_actions says there is one"
                first = sample.first_frame - sample.stride
                window = recorded[first :: sample.stride][: num_rows + 1]
                rows = place(rebaseline(body.normalise(window)), start=body.slot.start)
        model_id = self.plan.header.latents
        if model_id is not None:
            reader = self._latents(sample.dataset, model_id, sample.stride)
            rows[:, LATENT_START:] = reader.window(
                sample.clip_id,
                first_frame=sample.first_frame,
                num_rows=num_rows,
                shard=sample.shard,
            )
        return rows

    def _recorded(self, sample: Sample) -> NDArray[np.float32] | None:
        """The clip's `actions.npy` (num_frames, columns), or None when it has none."""
        clips = self._clips(sample.dataset)
        if "actions.npy" not in clips.suffixes(sample.shard, sample.clip_id):
            return None
        data = clips.member(sample.shard, sample.clip_id, "actions.npy")
        recorded: NDArray[np.float32] = np.load(io.BytesIO(data), allow_pickle=False)
        width = len(self._bodies[sample.embodiment].action_names)
        if recorded.ndim != 2 or recorded.shape[1] != width:
            raise SampleError(
                f"The actions of clip {sample.clip_id} have shape {recorded.shape}, embodiment "
                f"{sample.embodiment} has {width} columns.",
                reason="actions_shape",
            )
        return recorded


def resize(frames: NDArray[np.uint8], *, height: int, width: int) -> Tensor:
    """uint8 (T, H, W, 3) -> uint8 (T, 3, height, width); bilinear with antialiasing."""
    frames_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if frames_TCHW.shape[2:] == (height, width):
        return frames_TCHW
    return F.interpolate(
        frames_TCHW, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )


def _record(sample: Sample, attempt: int, error: SampleError) -> BadSample:
    return BadSample(
        index=sample.index,
        attempt=attempt,
        source=sample.source,
        dataset=sample.dataset,
        shard=sample.shard,
        clip_id=sample.clip_id,
        first_frame=sample.first_frame,
        reason=error.reason,
        message=error.message,
    )
