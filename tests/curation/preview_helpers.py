"""Datasets to draw: a tiny one with pictures, and one of many clips of random measures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa

from manifests.dataset import Dataset, DatasetSettings
from manifests.decide import decide
from manifests.recipe import Rule, load_recipe
from manifests.records import Part, PlannedUnit, clip_id_of, shard_name, unit_id_of
from manifests.schema import CLIPS, VIDEOS
from pipeline.mp4 import index_mp4
from pipeline.shards import ShardWriter
from pipeline.testing import make_video

GATES = (Rule(name="black", keep_when="black_frames_ratio < 0.95"),)
RECIPE = """name: tiny
keep:
  dark: {keep_when: brightness_mean_luma >= 40, why: Hands & objects drown in noise.}
  blurred: {keep_when: 'sharpness_luma >= 0.8 AND 100 > 1', on_missing: keep}
"""
NASTY = '/films/<script>alert(1)</script> & "quotes".mp4'
VOID = {"meta", "img", "br", "link", "input", "line", "rect", "circle"}


class Page(HTMLParser):
    """Checks nesting and collects ids, links, pictures and everything that could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.loads: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "script":
            self.scripts.append(found)
        if tag == "img":
            self.pictures.append(found)
        self.loads += [str(v) for k, v in attrs if k in ("src", "srcset", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def video_row(uri: str, video_id: str | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "uri": uri, "source": "kitchen", "embodiment": "human", "video_id": video_id,
        "num_bytes": 9, "state": "readable", "duration_s": 4.0, "num_frames_declared": 120,
    }  # fmt: skip
    return {**dict.fromkeys(VIDEOS.names), **row, **changes}


def clip_row(unit: PlannedUnit, part: Part, start_s: float, **changes: Any) -> dict[str, Any]:
    ticks = (round(start_s * 30), round(start_s * 30) + 30)
    row: dict[str, Any] = {
        "clip_id": clip_id_of(part.video_id, *ticks, "1/30"),
        "video_id": part.video_id, "uri": part.uri, "source": "kitchen", "embodiment": "human",
        "start_tick": ticks[0], "end_tick": ticks[1], "time_base": "1/30", "start_s": start_s,
        "end_s": start_s + 1.0, "num_frames": 30, "fps": 30.0, "shot_index": 0, "ends_at": "cut",
        "unit_id": unit.unit_id, "shard": unit.shard, "scale_ratio": 1.0,
        "brightness_mean_luma": 90.0, "sharpness_luma": 3.0, "black_frames_ratio": 0.0,
    }  # fmt: skip
    empty = {field.name: [] if pa.types.is_list(field.type) else None for field in CLIPS}
    row = {**empty, **row, **changes}
    return {**row, "shard": None} if row["gate"] else row


def make_dataset(folder: Path, *, is_decided: bool = True) -> Dataset:
    """Two files with one unit (two kept clips, a dark one, a black one), and an unreadable file."""
    dataset = Dataset.create(folder, DatasetSettings(name="Tiny & <set>", gates=GATES))
    parts = (
        Part(uri="/films/a/pan.mp4", video_id="1" * 32),
        Part(uri=NASTY, video_id="2" * 32),
    )
    unit = PlannedUnit(number=0, unit_id=unit_id_of(parts, "s", []), parts=parts)
    clips = [
        clip_row(unit, parts[0], 0.0),
        clip_row(unit, parts[0], 1.0),
        clip_row(unit, parts[1], 0.0, brightness_mean_luma=20.0),
        clip_row(unit, parts[1], 1.0, gate="black", black_frames_ratio=1.0),
    ]
    mp4 = make_video(
        folder / "runs" / "clip.mp4", num_frames=30, width=160, height=120, options={"bf": "0"}
    )
    data = mp4.read_bytes()
    with dataset.writer("test") as writer:
        writer.append_videos(
            [
                *(video_row(part.uri, part.video_id) for part in parts),
                video_row(
                    "/films/bad.mp4",
                    None,
                    state="unreadable",
                    reason="not_video",
                    detail="no <moov>",
                    duration_s=None,
                    source="attic",
                ),
            ]
        )
        writer.append_plan([unit])
        with ShardWriter(dataset.path / "shards" / f"{shard_name(0)}.tar", "t") as shard:
            for clip in clips:
                if clip["gate"] is None:
                    shard.add(clip["clip_id"], {"mp4": data, "json": b"{}"}, index_mp4(data))
            info = shard.finish()
        row = {
            **unit.row(), "state": "done", "problems": [], "num_clips": 3, "num_gated": 1,
            "shard": unit.shard, "shard_bytes": info.num_bytes, "shard_sha256": info.sha256,
        }  # fmt: skip
        writer.commit_units([(row, clips)])
    if is_decided:
        recipe = folder.parent / "tiny.yaml"
        recipe.write_text(RECIPE)
        decide(Dataset.open(folder), load_recipe(recipe))
    return Dataset.open(folder)


MANY_RECIPE = """name: many
keep:
  dark: brightness_mean_luma >= 40
  dull:
    keep_when: sharpness_luma >= 0.8 OR (contrast_luma > 30 AND NOT fps < 20)
    on_missing: drop
  brief: ends_at <> 'cut' OR end_s - start_s >= 0.5
near_duplicate: {cluster: duplicates.cluster_id, rank: duplicates.distance}
"""


ODD_RECIPE = """name: odd
keep:
  emoji: source <> '😀' AND brightness_mean_luma >= 4_0 AND clips.FPS BETWEEN 5 AND 29.98
  quoted: {keep_when: 'my."Left Ratio" >= 0.25', on_missing: keep}
  over_zero: {keep_when: 'fps / black_frames_ratio > 30', on_missing: drop}
  comment: CASE WHEN fps > 20 THEN brightness_mean_luma ELSE 100 END > 50 -- lit
  chained: (fps > 3) = true
  lambda: "len(list_filter([fps], lambda x: x > 3)) >= 1"
"""


def make_many(
    folder: Path, num_clips: int, *, recipe: str = MANY_RECIPE, **changes: Any
) -> Dataset:
    """Clips of random measures, some gated, some without a value, some duplicates; no pictures."""
    dataset = Dataset.create(folder, DatasetSettings(name="many", gates=GATES))
    part = Part(uri="/films/many.mp4", video_id="3" * 32)
    unit = PlannedUnit(number=0, unit_id=unit_id_of((part,), "s", []), parts=(part,))
    chance = random.Random(4)
    clips = []
    for i in range(num_clips):
        black = chance.choice([0.0, 0.0, chance.random()])
        gate = "too_short" if i % 11 == 0 else "black" if black >= 0.95 else None
        clips.append(
            clip_row(
                unit,
                part,
                float(i),
                end_s=i + chance.choice([0.25, 1.0]),
                fps=chance.choice([15.0, 30000 / 1001, 30.0]),
                brightness_mean_luma=chance.uniform(16, 235),
                sharpness_luma=None if i % 7 == 0 else chance.expovariate(1),
                contrast_luma=chance.uniform(0, 60),
                black_frames_ratio=black,
                source_width_px=50,
                source_height_px=50,
                gate=gate,
                **changes,
            )
        )
    num_gated = sum(clip["gate"] is not None for clip in clips)
    row = {
        **unit.row(), "state": "done", "problems": [], "num_clips": num_clips - num_gated,
        "num_gated": num_gated, "shard": unit.shard, "shard_bytes": 1, "shard_sha256": "0" * 64,
    }  # fmt: skip
    with dataset.writer("test") as writer:
        writer.append_videos([video_row(part.uri, part.video_id)])
        writer.append_plan([unit])
        writer.commit_units([(row, clips)])
    _score_duplicates(dataset, [clip["clip_id"] for clip in clips if clip["gate"] is None])
    path = folder.parent / "many.yaml"
    path.write_text(recipe)
    decide(dataset, load_recipe(path))
    return Dataset.open(folder)


def _score_duplicates(dataset: Dataset, ids: Sequence[str]) -> None:
    """Every ninth clip begins a cluster of three."""
    columns: dict[str, list[Any]] = {"cluster_id": [], "duplicate_of": [], "distance": []}
    for i in range(len(ids)):
        is_member, is_first = i % 9 < 3, i % 9 == 0
        columns["cluster_id"].append(f"c{i // 9}" if is_member else None)
        columns["duplicate_of"].append(ids[i - i % 9] if is_member and not is_first else None)
        columns["distance"].append(0.01 * (i % 9) if is_member else None)
    table = pa.table(
        {
            "clip_id": list(ids),
            "cluster_id": pa.array(columns["cluster_id"], pa.string()),
            "duplicate_of": pa.array(columns["duplicate_of"], pa.string()),
            "distance": pa.array(columns["distance"], pa.float64()),
            "is_mirrored": pa.array([name is not None for name in columns["duplicate_of"]]),
        }
    )
    dataset.append_score("duplicates", table, metadata={"model": "test"})
