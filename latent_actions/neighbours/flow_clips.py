"""The flow of many clips, found once and kept beside the run: frames are dear, steps are many.

Shapes: N clips, K pairs of frames of a clip, H W pixels, h w half of them, D numbers of a feature.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from manifests.errors import DatasetError, EgodojoError, SampleError, StorageError

from ..clips import ClipRef, FrameReader
from ..config import TrainConfig
from ..flow import grey_pictures, pair_flow, stabilise
from ..flow_features import flow_grid, flow_histogram
from ..preprocess import training_frames
from ..sources import ClipSource

log = logging.getLogger(__name__)

PAIRS_PER_CLIP = 16
"""Pairs of frames of a clip, evenly spread; four of each of its quarters."""
LOG_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowClips:
    """Stabilised flow of clips.

    Attributes:
        flows: Float16 (N, K, 2, h, w), pixels of the model's frame, read from disk as needed.
        grids: Float32 (N, K, 96), flow on a coarse grid.
        histograms: Float32 (N, K, 32), flow by direction.
        bodies: Embodiment of each clip.
        recordings: Number of what each shows, from 0 on; several clips may show the same.
        cameras: Name of the camera of each; None where clips are not to be compared by it.
    """

    flows: NDArray[np.float16]
    grids: NDArray[np.float32]
    histograms: NDArray[np.float32]
    bodies: list[str]
    recordings: list[int]
    cameras: list[str | None]

    @classmethod
    def open(cls, folder: Path) -> FlowClips:
        """Read what `write_flow_clips` has written."""
        facts = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
        return cls(
            flows=np.load(folder / "flows.npy", mmap_mode="r"),
            grids=np.load(folder / "grids.npy"),
            histograms=np.load(folder / "histograms.npy"),
            **facts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    ref: ClipRef
    dataset: str
    body: str
    recording: str
    camera: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    flows: NDArray[np.float16]
    grids: NDArray[np.float32]
    histograms: NDArray[np.float32]


def write_flow_clips(
    sources: Sequence[ClipSource],
    readers: Mapping[str, FrameReader],
    config: TrainConfig,
    folder: Path,
) -> None:
    """Find the flow of `neighbours.max_clips` clips and write it to `folder`, whole or not at all.

    Pairs of frames are as far apart as the middle of `data.min_stride` and `data.max_stride`;
    clips without such a pair are left out, and so are those that cannot be read.

    Raises:
        DatasetError: Fewer than two clips are left.
    """
    step = (config.data.min_stride + config.data.max_stride) // 2
    clips = _chosen(sources, step=step, limit=config.neighbours.max_clips)
    if len(clips) < 2:
        raise DatasetError(
            f"Only {len(clips)} clips are longer than {step} frames; neighbours need two at least.",
            hint="Give longer clips, a smaller data.max_stride, or set neighbours.weight=0.",
        )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    height, width = config.model.frame_height, config.model.frame_width
    flows = np.lib.format.open_memmap(
        partial / "flows.npy",
        mode="w+",
        dtype=np.float16,
        shape=(len(clips), PAIRS_PER_CLIP, 2, height // 2, width // 2),
    )
    log.info("finding the flow of %d clips for %s", len(clips), folder.parent)

    def find(clip: _Clip) -> _Found | EgodojoError:
        try:
            return _flow_of(clip, readers[clip.dataset], step, height, width)
        except (SampleError, StorageError) as error:
            return error

    grids, histograms = [], []
    found_clips: list[_Clip] = []
    bad: list[EgodojoError] = []
    with ThreadPoolExecutor(config.data.num_threads, "flow") as pool:
        for number, (clip, found) in enumerate(zip(clips, pool.map(find, clips), strict=True), 1):
            if isinstance(found, EgodojoError):
                bad.append(found)
                continue
            flows[len(found_clips)] = found.flows
            grids.append(found.grids)
            histograms.append(found.histograms)
            found_clips.append(clip)
            if number % LOG_EVERY == 0:
                log.info("flow of %d of %d clips", number, len(clips))
    if bad:
        log.warning("no flow of %d clips that cannot be read, such as: %s", len(bad), bad[0])
    if len(found_clips) < 2:
        raise DatasetError(
            f"The flow of {len(found_clips)} clips can be found; neighbours need two."
        )
    flows.flush()
    np.save(partial / "grids.npy", np.stack(grids))
    np.save(partial / "histograms.npy", np.stack(histograms))
    numbers: dict[str, int] = {}
    facts = {
        "bodies": [clip.body for clip in found_clips],
        "recordings": [numbers.setdefault(clip.recording, len(numbers)) for clip in found_clips],
        "cameras": [clip.camera for clip in found_clips],
    }
    (partial / "clips.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    partial.replace(folder)


def _chosen(sources: Sequence[ClipSource], *, step: int, limit: int) -> list[_Clip]:
    """Clips long enough, at most `limit` of them: whole recordings, evenly spread.

    Clips stay columns until they are chosen: there may be millions.
    """
    of_source, numbers, names = [], [], []
    for place, source in enumerate(sources):
        long = np.flatnonzero(source.table["num_frames"].to_numpy() > step)
        of_source.append(np.full(len(long), place))
        numbers.append(long)
        rows = source.table.take(long)
        alone = pc.binary_join_element_wise("clip", rows["clip_id"], " ")
        names += pc.coalesce(rows["recording"], alone).chunks
    encoded = pa.chunked_array(names, pa.string()).combine_chunks().dictionary_encode()
    recording = encoded.indices.to_numpy()
    num_recordings = len(encoded.dictionary)
    order = np.argsort(recording, kind="stable")
    if len(order) > limit:
        wanted = limit * num_recordings // len(order)
        kept = np.linspace(0, num_recordings - 1, wanted).round()
        order = order[np.isin(recording[order], kept)][:limit]
    places, rows_of = np.concatenate(of_source), np.concatenate(numbers)
    found = []
    for clip in order.tolist():
        source, number = sources[places[clip]], int(rows_of[clip])
        found.append(
            _Clip(
                ref=source.clip(number),
                dataset=source.dataset,
                body=source.embodiment(number),
                recording=encoded.dictionary[int(recording[clip])].as_py(),
                camera=source.camera(number),
            )
        )
    return found


def _flow_of(clip: _Clip, reader: FrameReader, step: int, height: int, width: int) -> _Found:
    starts = np.linspace(0, clip.ref.num_frames - 1 - step, PAIRS_PER_CLIP).round().astype(int)
    wanted = np.unique(np.concatenate([starts, starts + step]))
    frames = reader.frames(clip.ref.shard, clip.ref.clip_id, wanted.tolist())
    scaled = training_frames(torch.from_numpy(frames), height=height, width=width)
    grey = grey_pictures((scaled * 255).round().to(torch.uint8).numpy())
    at = {int(frame): place for place, frame in enumerate(wanted)}
    flows = [stabilise(pair_flow(grey[at[s]], grey[at[s + step]])) for s in starts.tolist()]
    halved = np.stack(flows).reshape(len(flows), height // 2, 2, width // 2, 2, 2).mean(axis=(2, 4))
    return _Found(
        flows=halved.transpose(0, 3, 1, 2).astype(np.float16),
        grids=np.stack([flow_grid(flow) for flow in flows]),
        histograms=np.stack([flow_histogram(flow) for flow in flows]),
    )
