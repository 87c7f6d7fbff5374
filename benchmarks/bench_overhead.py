"""What curation costs above its floor once everything is imported: four sides in one process.

`bench_curation.py` measures whole processes beside other tools; there start-up is taken off by
subtraction, which leaves an error of some tenths of a second. Here every side first does the same
video once, unmeasured, and then all take turns: the floor (decode, crop, scale, encode, one mp4 per
clip), `egodojo curate --inline` without its preview page, a bare decode, a pass that only measures.
CPU-seconds of the process, a ratio per round, the median of the rounds. What `curate` pays once
however long a video is (tables, decision, statistics) is measured on a second of small pictures and
given apart, and taken off its ratio.

Predicted: curate 1.1-1.2x the floor; measuring 1.1-1.2x a decode at 1080p, 1.2-1.4x at 480p.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arguments, report, spread
from sides import floor, ours
from sides.inputs import Input, make_input, make_tiny

BARS = {"480p30": {"curate": 1.15, "measure": 1.35}, "1080p30": {"curate": 1.15, "measure": 1.15}}


def main() -> None:
    """Measure all inputs and print a table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--videos", type=Path, default=os.environ.get("EGODOJO_TEST_VIDEOS"))
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inputs", type=Path, help="keep the inputs here, and take them from here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="egodojo-overhead-") as scratch:
        folder = options.inputs or Path(scratch, "inputs")
        folder.mkdir(parents=True, exist_ok=True)
        tiny = make_tiny(folder)
        fixed = _fixed(tiny, Path(scratch), options.rounds)
        rows = []
        for size in BARS:
            for style in ("camera", "web"):
                video = make_input(
                    size,
                    style,
                    videos=Path(options.videos) if options.videos else None,
                    folder=folder,
                    seconds=options.seconds,
                )
                rows.append(_measured(video, size, style, Path(scratch), options.rounds, fixed))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {"fixed_cpu_s": round(fixed, 3), "seconds": options.seconds, "rows": rows}
    report("overhead", {"result": result}, options)


def _fixed(tiny: Input, scratch: Path, rounds: int) -> float:
    """CPU-seconds of a run of `curate` over next to nothing, after a first one."""
    _curate(str(tiny.path), scratch)
    return statistics.median(
        _timed(lambda: _curate(str(tiny.path), scratch)) for _ in range(rounds)
    )


def _measured(
    video: Input, size: str, style: str, scratch: Path, rounds: int, fixed: float
) -> dict[str, Any]:
    path = str(video.path)
    _curate(path, scratch)
    written = ours.written(scratch / "dataset")
    floor_job = {
        "mode": "floor",
        "video": path,
        "out": str(scratch / "floor"),
        "spans": written["spans"],
        "fps": written["fps"],
    }

    def floor_side() -> dict[str, Any]:
        shutil.rmtree(scratch / "floor", ignore_errors=True)
        return floor.work(floor_job)

    trial = {"mode": "measure", "video": path, "out": str(scratch / "trial")}
    sides: dict[str, Callable[[], Any]] = {
        "floor": floor_side,
        "curate": lambda: _curate(path, scratch),
        "decode": lambda: floor.work({"mode": "decode", "video": path}),
        "measure": lambda: ours.work(trial),
    }
    num_bytes = floor_side()["num_bytes"]
    for warm in ("decode", "measure"):
        sides[warm]()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(_timed(side))
    curate = [(c - fixed) / f for c, f in zip(found["curate"], found["floor"], strict=True)]
    measure = [m / d for m, d in zip(found["measure"], found["decode"], strict=True)]
    return {
        "input": f"{size} {style}",
        "cpu_s": {name: [round(v, 3) for v in values] for name, values in found.items()},
        "curate_over_floor": spread(curate),
        "measure_over_decode": spread(measure),
        "bytes_over_floor": round(written["num_bytes"] / num_bytes, 5),
        "is_within_bars": {
            "curate": statistics.median(curate) <= BARS[size]["curate"],
            "measure": statistics.median(measure) <= BARS[size]["measure"],
        },
    }


def _curate(path: str, scratch: Path) -> None:
    shutil.rmtree(scratch / "dataset", ignore_errors=True)
    out = str(scratch / "dataset")
    ours.work({"mode": "curate", "video": path, "out": out, "engine": "inline"})


def _timed(side: Callable[[], Any]) -> float:
    started = time.process_time()
    side()
    return time.process_time() - started


if __name__ == "__main__":
    main()
