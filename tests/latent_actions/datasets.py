"""A real dataset folder with a few tiny clips, made without the curate command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.dataset import Dataset
from manifests.records import Part, PlannedUnit, clip_id_of, shard_name, unit_id_of
from manifests.schema import CLIPS, DECISIONS
from manifests.settings import DatasetSettings, EncodeSettings
from pipeline.mp4 import index_mp4
from pipeline.shards import ShardWriter
from pipeline.video import write_video

FPS = 20
HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A dataset's path and the ids of its clips in the order they were asked for."""

    path: Path
    clip_ids: list[str]


def make_dataset(
    path: Path,
    lengths: Sequence[int],
    *,
    embodiments: Sequence[str] = ("human", "panda"),
    per_shard: int = 2,
    first_unit: int = 0,
    dropped: Sequence[int] = (),
    videos: Path = Path("/videos"),
) -> Made:
    """Write clips of so many frames, two to a shard; clip n shows a square moving its own way.

    `videos` is where the rows say that the source files lie; nothing is written there.
    """
    settings = DatasetSettings(name="t", encode=EncodeSettings(width=WIDTH, height=HEIGHT))
    dataset = Dataset.open_or_create(path, settings)
    made: list[dict[str, Any]] = []
    with dataset.writer("test") as writer:
        for start in range(0, len(lengths), per_shard):
            number = first_unit + start // per_shard
            video_id = f"{number:032x}"
            part = Part(uri=f"{videos}/{number}.mp4", video_id=video_id)
            unit_id = unit_id_of([part], settings.digest, [])
            writer.append_plan([PlannedUnit(number=number, unit_id=unit_id, parts=(part,))])
            rows, tick = [], 0
            with ShardWriter(path / "shards" / f"{shard_name(number)}.tar") as shard:
                for n in range(start, min(start + per_shard, len(lengths))):
                    end = tick + lengths[n]
                    clip_id = clip_id_of(video_id, tick, end, f"1/{FPS}")
                    body = embodiments[n % len(embodiments)]
                    facts = {"unit_id": unit_id, "embodiment": body, "uri": part.uri}
                    rows.append(_row(clip_id, video_id, tick, end, number, facts))
                    mp4 = _mp4(path, moving_square(lengths[n], seed=100 * first_unit + n))
                    shard.add(clip_id, {"mp4": mp4, "json": b"{}"}, index_mp4(mp4))
                    tick = end
                info = shard.finish()
            unit = {
                "number": number,
                "unit_id": unit_id,
                "state": "done",
                "parts": [part.row()],
                "problems": [],
                "num_clips": len(rows),
                "num_gated": 0,
                "shard": shard_name(number),
                "shard_bytes": info.num_bytes,
                "shard_sha256": info.sha256,
            }
            writer.commit_units([(unit, rows)])
            made += rows
    decide(path, dropped=[made[n]["clip_id"] for n in dropped])
    return Made(path=path, clip_ids=[row["clip_id"] for row in made])


def decide(path: Path, *, dropped: Sequence[str] = ()) -> None:
    """Keep every clip but the dropped ones."""
    dataset = Dataset.open(path)
    clip_ids = dataset.sql("SELECT clip_id FROM clips ORDER BY clip_id")["clip_id"].to_pylist()
    rows = [
        {"clip_id": c, "verdict": "drop", "reason": "test"}
        if c in dropped
        else {"clip_id": c, "verdict": "keep", "reason": None}
        for c in clip_ids
    ]
    dataset.replace_decisions(pa.Table.from_pylist(rows, schema=DECISIONS), metadata={})


def moving_square(num_frames: int, *, seed: int) -> NDArray[np.uint8]:
    """A bright square on a textured ground, its path given by the seed: (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(40, 120, (HEIGHT // 8, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1)
    angle, radius = rng.uniform(0, 2 * np.pi), 14
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(num_frames):
        place = angle + (1 if seed % 2 else -1) * t / 6
        y, x = int(20 + radius * np.sin(place)), int(28 + radius * np.cos(place))
        frames[t] = ground
        frames[t, y : y + 8, x : x + 8] = (230, 220, 90)
    return frames


def _mp4(folder: Path, frames: NDArray[np.uint8]) -> bytes:
    path = folder / "runs" / "clip.mp4"
    write_video(path, frames, FPS, options={"bf": "0", "sc_threshold": "0"})
    data = path.read_bytes()
    path.unlink()
    return data


def _row(
    clip_id: str, video_id: str, start: int, end: int, number: int, facts: dict[str, Any]
) -> dict[str, Any]:
    known = {
        "clip_id": clip_id,
        "video_id": video_id,
        "source": "test",
        "start_tick": start,
        "end_tick": end,
        "time_base": f"1/{FPS}",
        "start_s": start / FPS,
        "end_s": end / FPS,
        "num_frames": end - start,
        "fps": float(FPS),
        "shot_index": 0,
        "ends_at": "end",
        "shard": shard_name(number),
        "scale_ratio": 1.0,
        **facts,
    }
    empty = {field.name: [] for field in CLIPS if pa.types.is_list(field.type)}
    return {name: known.get(name) for name in CLIPS.names} | empty
