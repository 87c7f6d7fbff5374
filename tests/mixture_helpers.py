"""Plans over made-up clips and catalogues without pictures, to try the laws of a mixture on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests import schema
from manifests.dataset import Dataset, DatasetSettings, EncodeSettings
from manifests.embodiment import Embodiment, load_embodiment
from manifests.latents import LatentWriter, latent_dir
from manifests.mixture.plan import MixturePlan, PlanHeader, PlanSource, make_plan
from manifests.records import Clip, Part, PlannedUnit, clip_id_of, unit_id_of
from manifests.writer import Writer


def synthetic_plan(
    sizes: Sequence[int] = (7, 20, 100),
    weights: Sequence[int] = (1, 2, 10),
    *,
    unit: str = "clip",
    shard_block: int = 0,
    seed: int = 0,
    start_step: int = 1,
    body: Embodiment | None = None,
) -> MixturePlan:
    """A plan of sources s0, s1, ... with `sizes` clips of 13 to 60 frames, five per shard."""
    rng = np.random.default_rng(17)
    rows, sources, first_row = [], [], 0
    for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        num_frames = rng.integers(13, 61, size)
        num_starts = (num_frames - 13) // start_step + 1
        zeros = np.zeros(size, dtype=np.int64)
        rows.append(
            {
                "clip_id": rng.integers(0, 256, (size, 12)),
                "shard": np.arange(size) // 5,
                "embodiment": zeros,
                "num_frames": num_frames,
                "stride": zeros + 1,
                "num_starts": num_starts,
            }
        )
        num_shards = -(-size // 5)
        sources.append(
            PlanSource(
                name=f"s{number}",
                dataset=f"/data/s{number}",
                versions={"clips": 1},
                where="",
                weight=weight,
                first_row=first_row,
                num_clips=size,
                num_windows=int(num_starts.sum()),
                hours=float(num_frames.sum()) / 30 / 3600,
                left_out={},
                shards=tuple(f"clips-{shard:06d}" for shard in range(num_shards)),
                shard_rows=tuple(range(0, size, 5)),
            )
        )
        first_row += size
    header = PlanHeader(
        format_version=1,
        seed=seed,
        unit=unit,
        num_frames=13,
        frame_size=(480, 640),
        start_step=start_step,
        shard_block=shard_block,
        latents=None,
        sources=tuple(sources),
        embodiments=(body or load_embodiment("human"),),
    )
    return make_plan(header, rows)


@dataclass(frozen=True)
class FakeClip:
    """A clip of a catalogue without pictures."""

    num_frames: int = 60
    embodiment: str = "human"
    fps: float = 30.0
    verdict: str = "keep"
    shard: int = 0


def make_catalogue(
    folder: Path, clips: Sequence[FakeClip], *, size: tuple[int, int] = (480, 640)
) -> Dataset:
    """A dataset whose tables are whole and whose shards are empty files."""
    encode = EncodeSettings(height=size[0], width=size[1])
    dataset = Dataset.create(folder, DatasetSettings(name=folder.name, encode=encode))
    by_shard: dict[int, list[tuple[int, FakeClip]]] = {}
    for number, clip in enumerate(clips):
        by_shard.setdefault(clip.shard, []).append((number, clip))
    with dataset.writer("test") as writer:
        for shard, members in sorted(by_shard.items()):
            _add_unit(writer, folder, shard, members)
    ids = [
        clip_id_of(_video_id(number), 0, clip.num_frames, "1/30")
        for number, clip in enumerate(clips)
    ]
    verdicts = [clip.verdict for clip in clips]
    reasons = [None if verdict == "keep" else "dark" for verdict in verdicts]
    decided = pa.table(
        {"clip_id": ids, "verdict": verdicts, "reason": reasons}, schema=schema.DECISIONS
    )
    dataset.replace_decisions(decided, metadata={"recipe": "test"})
    return Dataset.open(folder)


def write_latents(dataset: Dataset, model_id: str, step: int, *, every: int = 1) -> None:
    """Latents of every kept clip: column 0 holds the frame, column 1 half the shard's number."""
    table = dataset.clips.select("clip_id, shard, num_frames").to_arrow_table()
    for shard in sorted(set(table.column("shard").to_pylist())):
        number = int(shard.removeprefix("clips-"))
        folder = latent_dir(dataset.path, model_id, step)
        writer = LatentWriter(folder, number, {"every": every})
        for row in table.to_pylist():
            if row["shard"] == shard:
                frames = np.arange(0, max(0, row["num_frames"] - step), every)
                rows = np.zeros((len(frames), 32), dtype=np.float16)
                rows[:, 0], rows[:, 1] = frames, number / 2
                writer.add(row["clip_id"], rows)
        writer.finish()


def _video_id(number: int) -> str:
    return f"{number + 1:032x}"


def _add_unit(
    writer: Writer, folder: Path, shard: int, members: Sequence[tuple[int, FakeClip]]
) -> None:
    name = f"clips-{shard:06d}"
    parts = tuple(Part(uri=f"/v/{number}.mp4", video_id=_video_id(number)) for number, _ in members)
    unit_id = unit_id_of(parts, "", [])
    rows = []
    for number, clip in members:
        facts = Clip(
            clip_id=clip_id_of(_video_id(number), 0, clip.num_frames, "1/30"),
            video_id=_video_id(number),
            uri=f"/v/{number}.mp4",
            source=folder.name,
            embodiment=clip.embodiment,
            start_tick=0,
            end_tick=clip.num_frames,
            time_base="1/30",
            start_s=0.0,
            end_s=clip.num_frames / clip.fps,
            num_frames=clip.num_frames,
            fps=clip.fps,
            shot_index=0,
            ends_at="end",
            unit_id=unit_id,
            shard=name,
            scale_ratio=1.0,
            measures={n: [] if "list" in m.type else None for n, m in schema.MEASURES.items()},
        )
        rows.append(facts.row())
    unit = {
        "number": shard,
        "unit_id": unit_id,
        "state": "done",
        "parts": [part.row() for part in parts],
        "problems": [],
        "num_clips": len(rows),
        "num_gated": 0,
        "shard": name,
        "shard_bytes": 0,
        "shard_sha256": "",
    }
    writer.append_plan([PlannedUnit(number=shard, unit_id=unit_id, parts=parts)])
    writer.commit_units([(unit, rows)])
    for suffix in (".tar", ".idx.parquet"):
        (folder / "shards" / f"{name}{suffix}").touch()
