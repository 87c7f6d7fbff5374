"""Small datasets made of rows and toy shards: what a run leaves, without any video."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifests import schema
from manifests.dataset import Dataset, DatasetSettings
from manifests.measures import MEASURES
from manifests.recipe import Rule
from manifests.records import Part, PlannedUnit, clip_id_of, shard_name, unit_id_of
from manifests.shard_index import ClipIndex, Member, ShardIndex

TIME_BASE = "1/30"
GATES = (Rule(name="black", keep_when="brightness_mean_luma > 20"),)
SETTINGS = DatasetSettings(name="toy", gates=GATES)

_FIFTY: Mapping[str, Any] = {"int64": 50, "double": 50.0, "list<int64>": []}

Row = dict[str, Any]


def video_row(name: str, **changes: Any) -> Row:
    """A readable 10 s video; its bytes are its name, or `same_as`."""
    content = changes.pop("same_as", name)
    row: Row = dict.fromkeys(schema.VIDEOS.names)
    row |= {
        "uri": f"/footage/{name}.mp4",
        "source": "toy",
        "embodiment": "human",
        "video_id": hashlib.sha256(content.encode()).hexdigest()[:32],
        "num_bytes": 1000,
        "state": "readable",
        "duration_s": 10.0,
        "num_frames_declared": 300,
    }
    return row | changes


def planned_unit(number: int, videos: Sequence[Row]) -> PlannedUnit:
    parts = tuple(Part(uri=v["uri"], video_id=v["video_id"]) for v in videos)
    return PlannedUnit(number=number, unit_id=unit_id_of(parts, SETTINGS.digest, []), parts=parts)


def clip_row(unit: PlannedUnit, part: Part, index: int = 0, **changes: Any) -> Row:
    """A written 2 s clip, the `index`-th of its video, with every measure at 50."""
    start, end = index * 60, index * 60 + 60
    row: Row = {
        "clip_id": clip_id_of(part.video_id, start, end, TIME_BASE),
        "video_id": part.video_id,
        "uri": part.uri,
        "source": "toy",
        "embodiment": "human",
        "start_tick": start,
        "end_tick": end,
        "time_base": TIME_BASE,
        "start_s": start / 30,
        "end_s": end / 30,
        "num_frames": 60,
        "fps": 30.0,
        "shot_index": 0,
        "ends_at": "length",
        "text": None,
        "gate": None,
        "unit_id": unit.unit_id,
        "shard": unit.shard,
        "scale_ratio": 1.0,
        **{name: _FIFTY[m.type] for name, m in MEASURES.items()},
    }
    row |= changes
    if row["gate"] is not None:
        row["shard"] = None
    return row


def unit_row(unit: PlannedUnit, clips: Sequence[Row], **changes: Any) -> Row:
    num_gated = sum(clip["gate"] is not None for clip in clips)
    has_shard = len(clips) > num_gated
    row: Row = {
        "number": unit.number,
        "unit_id": unit.unit_id,
        "state": "done",
        "parts": [part.row() for part in unit.parts],
        "problems": [],
        "num_clips": len(clips) - num_gated,
        "num_gated": num_gated,
        "shard": unit.shard if has_shard else None,
        "shard_bytes": 0 if has_shard else None,
        "shard_sha256": "" if has_shard else None,
    }
    return row | changes


def problem(video: Row, stage: str, error: str, expected: int | None, decoded: int | None) -> Row:
    return {
        "video_id": video["video_id"],
        "stage": stage,
        "error": error,
        "num_frames_expected": expected,
        "num_frames_decoded": decoded,
    }


def write_shard(dataset: Path, number: int, clip_ids: Sequence[str]) -> Row:
    """A toy tar with its index; returns the shard columns of its unit."""
    buffer = io.BytesIO()
    index = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for clip_id in clip_ids:
            members = []
            for suffix, data in (("mp4", _packets(clip_id)), ("json", b"{}")):
                info = tarfile.TarInfo(f"{clip_id}.{suffix}")
                info.size = len(data)
                offset = buffer.tell() + tarfile.BLOCKSIZE
                tar.addfile(info, io.BytesIO(data))
                crc = zlib.crc32(data)
                members.append(Member(suffix=suffix, offset=offset, size=len(data), crc32=crc))
            index.append(_clip_index(clip_id, tuple(members)))
    whole = buffer.getvalue()
    path = dataset / "shards" / f"{shard_name(number)}.tar"
    path.write_bytes(whole)
    ShardIndex.of(index).write(path.with_name(f"{shard_name(number)}.idx.parquet"))
    return {"shard_bytes": len(whole), "shard_sha256": hashlib.sha256(whole).hexdigest()}


def _packets(clip_id: str) -> bytes:
    """60 packets of 10 bytes, all that a toy mp4 holds."""
    return hashlib.shake_128(clip_id.encode()).digest(600)


def _clip_index(clip_id: str, members: tuple[Member, ...]) -> ClipIndex:
    data = _packets(clip_id)
    return ClipIndex(
        clip_id=clip_id,
        members=members,
        codec_config=b"avcC",
        time_base=TIME_BASE,
        data_offset=0,
        packet_sizes=np.full(60, 10, dtype=np.int32),
        packet_pts=np.arange(60, dtype=np.int64),
        is_key=np.arange(60) % 12 == 0,
        gop_crc32=np.array([zlib.crc32(data[i : i + 120]) for i in range(0, 600, 120)], np.uint32),
    )


def finished_unit(dataset: Path, unit: PlannedUnit) -> tuple[Row, list[Row]]:
    """The work of a unit: two written clips and a gated one per part, and their shard."""
    clips = []
    for part in unit.parts:
        dark = {"gate": "black", "brightness_mean_luma": 3.0}
        clips += [clip_row(unit, part, 0), clip_row(unit, part, 1), clip_row(unit, part, 2, **dark)]
    written = [clip["clip_id"] for clip in clips if clip["gate"] is None]
    return unit_row(unit, clips, **write_shard(dataset, unit.number, written)), clips


def toy_dataset(path: Path, num_videos: int = 3) -> Dataset:
    """A finished dataset: one unit per video, nothing decided yet."""
    dataset = Dataset.create(path, SETTINGS)
    videos = [video_row(f"v{index}") for index in range(num_videos)]
    units = [planned_unit(index, [video]) for index, video in enumerate(videos)]
    with dataset.writer("toy") as writer:
        writer.append_videos(videos)
        writer.append_plan(units)
        writer.commit_units([finished_unit(path, unit) for unit in units])
    return dataset


def contents(dataset: Dataset) -> dict[str, list[str]]:
    """Every table as a set of rows, in an order of its own."""
    return {name: sorted(map(repr, dataset.table(name).to_pylist())) for name in schema.TABLES}
