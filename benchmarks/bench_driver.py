"""Memory of the driver, and the cost of a commit, from 1e2 to 1e5 clips.

Units whose work function makes rows without any video go through the real driver: task, outcome,
checks, commit of `clips` and `units`. Then `decide` and `stats` look at all of them. Each size runs
in a process of its own.

Prediction: the peak while units are committed grows by less than a tenth from 1e2 to 1e5 clips; a
commit costs the same at the end as at the beginning, within a half. `decide` holds a verdict per
clip, and may grow by 1 kB a clip.

Found: without merging the tables' files, each commit cost 0.1 ms and 0.1 MB more than the one
before, for ever. Merged every 100 units by delta-rs, 1.8x for a commit and 1.5x for the peak.
Merged some rows at a time by our own code, 1.3x for both: the bar for a commit holds, that for
memory is missed. A short run never merges: that takes 35 MB for a second, and delta-rs' log of the
commits between two merges another 15 to 25 MB, however many clips there are: from 500 commits to
1,200 the peak stays the same.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, report

SIZES = (100, 1_000, 10_000, 100_000)
CLIPS_PER_UNIT = 200
CLIP_S = 2.0
FINGERPRINT_WORDS = 48
MAX_MEMORY_RATIO, MAX_COMMIT_RATIO = 1.1, 1.5
TICKS_PER_S = 1000


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


def run_one(num_clips: int, folder: Path) -> dict[str, Any]:
    """Commit, decide and count; peak memory after each, CPU milliseconds per unit."""
    from curation.config import CurateConfig
    from curation.planning import plan_units
    from curation.units import UnitRun, finish_units
    from manifests.dataset import Dataset
    from manifests.decide import decide
    from manifests.recipe import load_recipe
    from manifests.stats import stats

    recipe, config = load_recipe("permissive"), CurateConfig()
    dataset = Dataset.create(folder, config.settings(name="bench", recipe=recipe))
    rows = list(videos(num_clips))
    clocks: list[float] = []

    def timed(task: Any) -> Any:
        clocks.append(time.process_time())
        result = make_rows(task)
        clocks.append(time.process_time())
        return result

    with dataset.writer("bench_driver") as writer:
        writer.append_videos(rows)
        units = plan_units(
            rows,
            unit_len_s=CLIPS_PER_UNIT * CLIP_S,
            first_number=0,
            settings_digest=dataset.settings.digest,
            edges_of=lambda row: [],
            digests_of=lambda row: [],
        )
        writer.append_plan(units)
        num_units = len(dataset.pending_units())
        found: dict[str, Any] = {"num_units": num_units, "before_mb": _peak_mb()}
        run = UnitRun(
            dataset=dataset, writer=writer, config=config, engine="inline", action_names={},
            quiet=True, work=timed,
        )  # fmt: skip
        finish_units(run)
    found["units_mb"] = _peak_mb()
    commits_ms = [1000 * (b - a) for a, b in zip(clocks[1::2], clocks[2::2], strict=False)]
    if len(commits_ms) >= 40:
        found["commit_cpu_ms_first_20"] = round(statistics.median(commits_ms[:20]), 1)
        found["commit_cpu_ms_last_20"] = round(statistics.median(commits_ms[-20:]), 1)
    decide(dataset, recipe)
    found["decide_mb"] = _peak_mb()
    counted = stats(dataset)["clips"]["num_written"]
    found["stats_mb"] = _peak_mb()
    if counted != num_clips:
        raise SystemExit(f"{counted} clips were counted instead of {num_clips}")
    return found


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(run_one(int(sys.argv[2]), Path(sys.argv[3]))))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    args = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="egodojo-driver-") as folder:
        for size in args.sizes:
            words = [sys.executable, __file__, "--work", str(size), str(Path(folder, str(size)))]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            table[str(size)] = json.loads(done.stdout)
            print(size, table[str(size)], file=sys.stderr, flush=True)
    first, last = table[str(args.sizes[0])], table[str(args.sizes[-1])]
    ratio = last["units_mb"] / first["units_mb"]
    growth = last.get("commit_cpu_ms_last_20", 1) / last.get("commit_cpu_ms_first_20", 1)
    result = {
        "clips_per_unit": CLIPS_PER_UNIT,
        "by_num_clips": table,
        "memory_ratio": round(ratio, 3),
        "commit_cost_ratio": round(growth, 3),
        "is_within_bounds": ratio <= MAX_MEMORY_RATIO and growth <= MAX_COMMIT_RATIO,
    }
    report("driver", {"result": result}, args)


if __name__ == "__main__":
    main()
