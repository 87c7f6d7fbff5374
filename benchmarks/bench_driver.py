"""Memory of the driver, and the cost of a commit, from 1e2 to 1e5 clips; and of 1e2 to 1e5 files.

Units whose work function makes rows without any video go through the real driver: task, outcome,
checks, commit of `clips` and `units`, merging of files; inline and on Ray. Then `decide` and
`stats` look at all of them. Beside that, files of ten seconds are planned, ordered and made into
tasks. Each size runs in a process of its own, with the memory pool and the threads that the
command chooses.

Prediction: the peak while units are committed grows by less than a tenth from 1e2 to 1e5 clips; a
commit costs the same at the end as at the beginning, within a half. `decide` holds a verdict per
clip, and may grow by 1 kB a clip. A file costs the driver 1 kB.

Found: without merging the tables' files, each commit cost 0.1 ms and 0.1 MB more than the one
before, for ever; with it, memory grows over the first hundred commits (the log of a table that is
open, memory that delta-rs keeps unless told not to) and then no more. See docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, own_peak_mb, report

from manifests.cli import LEAN_MEMORY

SIZES = (100, 1_000, 10_000, 100_000)
CLIPS_PER_UNIT = 200
CLIP_S = 2.0
FINGERPRINT_WORDS = 48
MAX_MEMORY_RATIO, MAX_COMMIT_RATIO = 1.1, 1.5
TICKS_PER_S = 1000
FILES_PER_COMMIT = 256


def make_rows(task: Any) -> Any:
    """A unit's rows, as many and as large as those of real footage."""
    from curation.fingerprint import COLUMN
    from curation.task import UnitResult
    from manifests.measures import MEASURES
    from manifests.records import clip_id_of

    unit = task.unit
    (part,) = unit.parts
    measures: dict[str, Any] = {
        name: 1 if measure.type == "int64" else 0.5
        for name, measure in MEASURES.items()
        if name != COLUMN
    }
    video = task.videos[part.uri]
    rng = np.random.default_rng(unit.number)
    rows = []
    for n in range(video["num_packets"]):
        start, end = (int((n + k) * CLIP_S * TICKS_PER_S) for k in (0, 1))
        row = {
            "clip_id": clip_id_of(part.video_id, start, end, f"1/{TICKS_PER_S}"),
            "video_id": part.video_id, "uri": part.uri, "source": "bench",
            "embodiment": "unknown", "start_tick": start, "end_tick": end,
            "time_base": f"1/{TICKS_PER_S}", "start_s": n * CLIP_S, "end_s": (n + 1) * CLIP_S,
            "num_frames": 600, "fps": 30.0, "shot_index": 0, "ends_at": "length", "text": None,
            "gate": None, "unit_id": unit.unit_id, "shard": unit.shard, "scale_ratio": 1.0,
            **measures, COLUMN: rng.integers(-(2**63), 2**63, FINGERPRINT_WORDS).tolist(),
        }  # fmt: skip
        rows.append(row)
    done = {
        "number": unit.number, "unit_id": unit.unit_id, "state": "done",
        "parts": [part.row()], "problems": [], "num_clips": len(rows), "num_gated": 0,
        "shard": unit.shard, "shard_bytes": 1, "shard_sha256": "0" * 64,
    }  # fmt: skip
    return UnitResult(unit=done, clips=tuple(rows))


def videos(num_clips: int) -> Iterator[dict[str, Any]]:
    """Rows of `videos`, one per unit; `num_packets` says how many clips it gives."""
    from manifests.schema import VIDEOS

    for n, first in enumerate(range(0, num_clips, CLIPS_PER_UNIT)):
        count = min(CLIPS_PER_UNIT, num_clips - first)
        yield {
            **dict.fromkeys(VIDEOS.names),
            "uri": f"/footage/{n:06d}.mp4", "video_id": f"{n:032x}", "source": "bench",
            "embodiment": "unknown", "state": "readable", "num_bytes": 1, "width": 640,
            "height": 480, "num_packets": count, "duration_s": count * CLIP_S,
            "time_base": f"1/{TICKS_PER_S}", "fps": 30.0,
        }  # fmt: skip


def new_dataset(folder: Path) -> tuple[Any, Any]:
    """An empty dataset and its configuration."""
    from curation.config import CurateConfig
    from manifests.dataset import Dataset
    from manifests.recipe import load_recipe

    config = CurateConfig()
    settings = config.settings(name="bench", recipe=load_recipe("permissive"))
    return Dataset.create(folder, settings), config


def plan(dataset: Any, writer: Any, rows: list[dict[str, Any]] | None, unit_len_s: float) -> int:
    """Plan what is in `videos` as `curate` does; how many units are pending then."""
    import pyarrow as pa

    from curation.planning import places_to_plan, plan_units
    from manifests.rows import rows_of

    if rows is None:
        videos = dataset.table("videos").combine_chunks()
        rows = rows_of(videos, places_to_plan(videos, pa.array([], pa.string())))
    units = plan_units(
        rows,
        unit_len_s=unit_len_s,
        first_number=0,
        settings_digest=dataset.settings.digest,
        edges_of=lambda row: [],
        digests_of=lambda row: [],
    )
    writer.append_plan(units)
    return len(dataset.pending_units())


def run_units(num_clips: int, folder: Path, engine: Any) -> dict[str, Any]:
    """Commit, decide and count; peak memory after each, CPU milliseconds per unit."""
    from curation.units import UnitRun, finish_units
    from manifests.decide import decide
    from manifests.recipe import load_recipe
    from manifests.stats import stats
    from pipeline.runner import engine_started

    dataset, config = new_dataset(folder)
    rows = list(videos(num_clips))
    clocks: list[float] = []

    def timed(task: Any) -> Any:
        clocks.append(time.process_time())
        result = make_rows(task)
        clocks.append(time.process_time())
        return result

    with dataset.writer("bench_driver") as writer, engine_started(engine):
        writer.append_videos(rows)
        num_units = plan(dataset, writer, rows, CLIPS_PER_UNIT * CLIP_S)
        found: dict[str, Any] = {"num_units": num_units, "before_mb": _peak_mb()}
        run = UnitRun(
            dataset=dataset, writer=writer, config=config, engine=engine, action_names={},
            quiet=True, work=make_rows if engine == "ray" else timed,
        )  # fmt: skip
        finish_units(run)
        found["units_mb"] = _peak_mb()
        writer.tidy()
        found["tidy_mb"] = _peak_mb()
    commits_ms = [1000 * (b - a) for a, b in zip(clocks[1::2], clocks[2::2], strict=False)]
    if len(commits_ms) >= 40:
        found["commit_cpu_ms_first_20"] = round(statistics.median(commits_ms[:20]), 1)
        found["commit_cpu_ms_last_20"] = round(statistics.median(commits_ms[-20:]), 1)
    decide(dataset, load_recipe("permissive"))
    found["decide_mb"] = _peak_mb()
    counted = stats(dataset)["clips"]["num_written"]
    found["stats_mb"] = _peak_mb()
    if counted != num_clips:
        raise SystemExit(f"{counted} clips were counted instead of {num_clips}")
    return found


def run_files(num_files: int, folder: Path) -> dict[str, Any]:
    """Plan files of ten seconds, order their units, make a task of each; peaks and CPU seconds."""
    from curation.planning import VideoRows, by_declared_pixels
    from curation.units import UnitRun, make_task

    dataset, config = new_dataset(folder)
    with dataset.writer("bench_driver") as writer:
        for first in range(0, num_files, FILES_PER_COMMIT):
            some = min(FILES_PER_COMMIT, num_files - first)
            writer.append_videos([
                {**row, "duration_s": 10.0, "uri": f"/footage/{first:09d}{row['uri']}",
                 "video_id": f"{first + n:032x}"}
                for n, row in enumerate(videos(some * CLIPS_PER_UNIT))
            ])  # fmt: skip
        writer.tidy()
        before, cpu = _peak_mb(), time.process_time()
        num_units = plan(dataset, writer, None, 600.0)
        planned_mb, planned_s = _peak_mb(), time.process_time() - cpu
        rows = VideoRows(dataset.table("videos"))
        run = UnitRun(
            dataset=dataset, writer=writer, config=config, engine="inline", action_names={}
        )
        parts = 0
        for unit in by_declared_pixels(dataset.pending_units(), rows):
            parts += len(make_task(run, unit, rows).videos)
    if parts != num_files:
        raise SystemExit(f"{parts} files were handed out instead of {num_files}")
    return {
        "num_units": num_units,
        "before_mb": before,
        "plan_mb": planned_mb,
        "tasks_mb": _peak_mb(),
        "plan_cpu_s": round(planned_s, 2),
        "tasks_cpu_s": round(time.process_time() - cpu - planned_s, 2),
    }


def _peak_mb() -> float:
    return round(own_peak_mb(), 1)


def measure(*words: str) -> dict[str, Any]:
    """Run one size in a process of its own."""
    env = {
        **os.environ,
        **LEAN_MEMORY,
        "PYTHONPATH": str(Path(__file__).parent),  # workers of Ray import this file
    }
    with tempfile.TemporaryDirectory(prefix="egodojo-driver-") as folder:
        command = [sys.executable, __file__, "--work", *words, f"{folder}/dataset"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*words, found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        import bench_driver  # (its functions have a name that workers of Ray can import)

        what, size, folder = sys.argv[2:]
        if what == "files":
            print(json.dumps(bench_driver.run_files(int(size), Path(folder))))
        else:
            print(json.dumps(bench_driver.run_units(int(size), Path(folder), what)))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    args = parser.parse_args()
    result: dict[str, Any] = {"clips_per_unit": CLIPS_PER_UNIT}
    for what in ("inline", "ray", "files"):
        result[what] = {str(size): measure(what, str(size)) for size in args.sizes}
    first, last = (str(args.sizes[end]) for end in (0, -1))
    ratios = {
        engine: round(result[engine][last]["units_mb"] / result[engine][first]["units_mb"], 3)
        for engine in ("inline", "ray")
    }
    inline = result["inline"][last]
    growth = inline.get("commit_cpu_ms_last_20", 1) / inline.get("commit_cpu_ms_first_20", 1)
    result |= {
        "memory_ratio": ratios,
        "commit_cost_ratio": round(growth, 3),
        "is_within_bounds": {
            "memory": max(ratios.values()) <= MAX_MEMORY_RATIO,
            "commit": growth <= MAX_COMMIT_RATIO,
        },
    }
    report("driver", {"result": result}, args)


if __name__ == "__main__":
    main()
