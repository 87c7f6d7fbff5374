"""What the video tests share: the chain from a file to a shard, and files with an edit list."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from manifests.settings import EncodeSettings
from pipeline.shards import ShardInfo, ShardWriter
from pipeline.testing import read_barcode
from pipeline.video import ClipEncoder, FrameScaler, VideoProbe, decode, index_mp4, probe

SMALL = EncodeSettings(width=160, height=120)


def encode_clip(
    path: Path,
    facts: VideoProbe | None = None,
    *,
    start: int | None = None,
    end: int | None = None,
    settings: EncodeSettings = SMALL,
) -> bytes:
    """Decode one part, scale and encode it."""
    facts = facts or probe(path)
    scaler = FrameScaler(facts, settings.width, settings.height)
    encoder = ClipEncoder(settings, facts.fps, facts.time_base)
    first = None
    for frame in decode(path, facts, start_tick=start, end_tick=end):
        first = frame.tick if first is None else first
        encoder.add(scaler.scale(frame), frame.tick - first, frame.duration)
    return encoder.finish()


def write_shard(folder: Path, clips: dict[str, bytes], token: str = "t") -> ShardInfo:
    """Write clips into `folder/shards/clips-000000.tar`."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder / "shards" / "clips-000000.tar", token) as shard:
        for clip_id, mp4 in clips.items():
            shard.add(clip_id, {"json": b'{"n": 1}', "mp4": mp4}, index_mp4(mp4))
        return shard.finish()


def ticks_and_numbers(
    path: Path, facts: VideoProbe, *, start: int | None = None, end: int | None = None
) -> list[tuple[int, int, int]]:
    """Tick, duration and barcode of every frame of a part, as written at 160x120."""
    scaler = FrameScaler(facts, 160, 120)
    return [
        (frame.tick, frame.duration, read_barcode(scaler.scale(frame).to_ndarray(format="rgb24")))
        for frame in decode(path, facts, start_tick=start, end_tick=end)
    ]


def in_parts(path: Path, facts: VideoProbe, edges: Sequence[int]) -> list[tuple[int, int, int]]:
    """The same for a video cut at some ticks, one part after the other."""
    bounds = [None, *edges, None]
    return [
        row
        for start, end in pairwise(bounds)
        for row in ticks_and_numbers(path, facts, start=start, end=end)
    ]


def hide_start(path: Path, seconds: float) -> None:
    """Lengthen an mp4's edit list so that its first seconds are decoded but not shown."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12
    scale_at = data.index(b"mdhd") + 4 + (20 if data[data.index(b"mdhd") + 4] else 12)
    (media_scale,) = struct.unpack_from(">I", data, scale_at)
    movie_at = data.index(b"mvhd") + 16
    (movie_scale,) = struct.unpack_from(">I", data, movie_at)
    length, start = struct.unpack_from(">Ii", data, entry)
    struct.pack_into(
        ">Ii",
        data,
        entry,
        length - round(seconds * movie_scale),
        start + round(seconds * media_scale),
    )
    path.write_bytes(data)
