"""What decisions, counts and checks cost by the number of clips: 1e5, 1e6 and 1e7 rows.

Prediction before the first run: under 10 s of wall time and 2 GB of memory at 1e7 rows on two
cores, growing with the number of rows; the second decision, which joins the first one, is the
dearest part.

Found at 1e7 rows: 8 CPU-s for the first decision, 10 for one with the difference, 2.0 GB. Ids as 12
bytes cost 2 CPU-s more and 0.35 GB less; binding the rules used to open every file, for 1 CPU-s.

A synthetic catalogue is written in a temporary folder: Delta files of 50,000 clips, eight clips a
video, thirty a unit, measures spread so that every rule of the recipe drops some, one clip in
fifty in a cluster of duplicates. Only the fingerprint is shorter than in real footage (one quarter
second instead of eighty: no rule reads it). Each size is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import arguments, cpu_seconds, own_peak_mb, report, spread

from manifests import schema, tables
from manifests.dataset import Dataset, DatasetSettings
from manifests.decide import decide
from manifests.measures import MEASURES
from manifests.recipe import load_recipe
from manifests.stats import stats

ROWS_PER_FILE = 50_000
CLIPS_PER_VIDEO, CLIPS_PER_UNIT = 8, 30
CLIP_S, TIME_BASE = 20, "1/15360"
RECIPE, AGAIN = "egocentric", "strict"
SIZES = (100_000, 1_000_000, 10_000_000)
TICKS = CLIP_S * 15360

SPANS = {
    "source_width_px": (640, 1920),
    "source_height_px": (480, 1080),
    "brightness_mean_luma": (30, 180),
    "sharpness_luma": (0.5, 9.0),
}
"""Lowest and highest value of measures that are no ratios."""


def hexadecimal(texts: list[str], digits: int) -> list[str]:
    """The first digits of SHA-256 of each text."""
    return [hashlib.sha256(text.encode()).hexdigest()[:digits] for text in texts]


def clips_table(first: int, count: int) -> pa.Table:
    """Rows `first` to `first + count` of `clips`, the same every time."""
    rng = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    videos, places = numbers // CLIPS_PER_VIDEO, numbers % CLIPS_PER_VIDEO
    names, which = np.unique(videos, return_inverse=True)
    video_ids = np.array(hexadecimal([f"video {n}" for n in names], 32))[which]
    units, of_unit = np.unique(numbers // (CLIPS_PER_UNIT), return_inverse=True)
    unit_ids = np.array(hexadecimal([f"unit {n}" for n in units], 24))[of_unit]
    starts = places * TICKS
    spans = (f"{v}:{s}:{s + TICKS}:{TIME_BASE}" for v, s in zip(video_ids, starts, strict=True))
    is_gated = rng.random(count) < 0.02
    columns: dict[str, Any] = {
        "clip_id": hexadecimal(list(spans), 24),
        "video_id": video_ids,
        "uri": np.array([f"/footage/kitchen-{n % 977:03d}/GX{n:08d}.MP4" for n in names])[which],
        "source": np.where(videos % 3 == 0, "ego4d", "home"),
        "embodiment": np.full(count, "human"),
        "start_tick": starts,
        "end_tick": starts + TICKS,
        "time_base": np.full(count, TIME_BASE),
        "start_s": places * float(CLIP_S),
        "end_s": (places + 1.0) * CLIP_S,
        "num_frames": np.full(count, 30 * CLIP_S),
        "fps": rng.choice([30.0, 29.97, 59.94, 8.0], count, p=[0.6, 0.3, 0.09, 0.01]),
        "shot_index": np.zeros(count, np.int64),
        "ends_at": np.full(count, "length"),
        "text": pa.nulls(count, pa.string()),
        "gate": pa.array(np.where(is_gated, "black", ""), mask=~is_gated),
        "unit_id": unit_ids,
        "shard": pa.array(np.array([f"clips-{u:06d}" for u in units])[of_unit], mask=is_gated),
        "scale_ratio": np.full(count, 0.33),
    }
    for name, measure in MEASURES.items():
        columns[name] = measure_values(name, measure.type, rng, count)
    return pa.table(columns).cast(schema.CLIPS)


def measure_values(name: str, kind: str, rng: np.random.Generator, count: int) -> Any:
    """A column of a measure; one row in a hundred has no value where recipes allow it."""
    if kind == "list<int64>":
        words = rng.integers(0, 2**62, 6 * count)
        return pa.ListArray.from_arrays(np.arange(0, 6 * count + 1, 6, np.int32), words)
    low, high = SPANS.get(name, (0.0, 0.6))
    if kind == "int64":
        return rng.integers(int(low), int(high) + 1, count)
    values = low + (high - low) * rng.random(count)
    optional = name in ("changing_blocks_ratio", "frozen_ratio")
    return pa.array(values, mask=rng.random(count) < 0.01) if optional else values


def duplicates_table(clip_ids: pa.ChunkedArray, first: int) -> pa.Table:
    """Every hundredth clip and its neighbour are a cluster; all others are alone."""
    ids = clip_ids.to_pylist()
    number = np.arange(len(ids))
    rank = np.where(number % 100 < 2, number % 100, -1)
    is_alone = rank < 0
    best = [ids[n - n % 100] for n in range(len(ids))]
    return pa.table(
        {
            "clip_id": ids,
            "cluster_id": pa.array(best, mask=is_alone),
            "duplicate_of": pa.array(best, mask=rank < 1),
            "distance": pa.array(0.03 * rank, mask=is_alone),
            "rank": pa.array(rank.astype(np.int64), mask=is_alone),
        }
    )


def write_catalogue(path: Path, num_clips: int) -> None:
    """A dataset of so many clips: units and clips as Delta files, no footage."""
    recipe = load_recipe(RECIPE)
    dataset = Dataset.create(path, DatasetSettings(name="synthetic", gates=recipe.gates))
    opened = {name: tables.open_table(path / "catalog" / name) for name in ("clips", "units")}
    score = path / "catalog" / "scores" / "duplicates"
    for first in range(0, num_clips, ROWS_PER_FILE):
        clips = clips_table(first, min(ROWS_PER_FILE, num_clips - first))
        tables.append(opened["clips"], clips)
        rows = duplicates_table(clips.column("clip_id"), first)
        if first == 0:
            tables.create(score, rows.schema)
            opened["duplicates"] = tables.open_table(score)
        tables.append(opened["duplicates"], rows)
    numbers = range(-(-num_clips // CLIPS_PER_UNIT))
    units = {
        name: pa.nulls(len(numbers), schema.UNITS.field(name).type) for name in schema.UNITS.names
    }
    empty = pa.array([[]] * len(numbers), schema.UNITS.field("parts").type)
    units |= {
        "number": pa.array(numbers, pa.int64()),
        "unit_id": pa.array(hexadecimal([f"unit {n}" for n in numbers], 24)),
        "state": pa.array(["done"] * len(numbers)),
        "parts": empty,
        "problems": pa.array([[]] * len(numbers), schema.UNITS.field("problems").type),
        "num_clips": pa.array([CLIPS_PER_UNIT] * len(numbers), pa.int64()),
        "num_gated": pa.array([0] * len(numbers), pa.int64()),
    }
    tables.append(opened["units"], pa.table(units).cast(schema.UNITS))
    assert dataset.path == path


def timed(work: Callable[[], object]) -> dict[str, float]:
    """CPU and wall seconds of a call, and the load of the machine meanwhile."""
    cpu, wall = cpu_seconds(), time.monotonic()
    work()
    return {
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.monotonic() - wall,
        "load_1min": os.getloadavg()[0],
    }


def measure(path: Path, num_repeats: int) -> dict[str, Any]:
    """Open, decide for the first time, decide again, and count."""
    laps: dict[str, list[dict[str, float]]] = {}

    def lap(name: str, work: Callable[[], object]) -> None:
        laps.setdefault(name, []).append(timed(work))

    lap("open", lambda: Dataset.open(path))
    dataset = Dataset.open(path)
    lap("decide_first", lambda: decide(dataset, load_recipe(RECIPE)))
    for number in range(num_repeats):
        recipe = load_recipe((AGAIN, RECIPE)[number % 2])
        lap("decide_again", partial(decide, dataset, recipe))
    peak_mib = own_peak_mb()
    for _ in range(num_repeats):
        lap("stats", lambda: stats(Dataset.open(path)))
    summary = stats(dataset)
    return {
        "num_kept": summary["clips"]["num_kept"],
        "peak_decide_mib": round(peak_mib),
        "peak_mib": round(own_peak_mb()),
        **{
            name: {key: spread([lap[key] for lap in found]) for key in found[0]}
            for name, found in laps.items()
        },
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of clips")
    parser.add_argument("--repeats", type=int, default=3, help="decisions after the first")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.repeats)))
        return
    result = {}
    for num_clips in args.sizes:
        with tempfile.TemporaryDirectory(prefix="egodojo-bench-") as folder:
            path = Path(folder, "dataset")
            write_catalogue(path, num_clips)
            words = [sys.executable, __file__, "--measure", path, "--repeats", args.repeats]
            done = subprocess.run(list(map(str, words)), check=True, stdout=subprocess.PIPE)
            num_bytes = sum(file.stat().st_size for file in path.rglob("*.parquet"))
            result[str(num_clips)] = {
                "catalogue_mb": round(num_bytes / 1e6, 1),
                **json.loads(done.stdout),
            }
    report("decide", {"recipes": [RECIPE, AGAIN], "result": result}, args)


if __name__ == "__main__":
    main()
