"""Peak memory of one curation worker over a long and a short 1080p video: it must not grow.

Both videos repeat the packets of one ten-second encode. Each is curated as a single unit, all
measures included, in a process of its own, as a worker would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_decode_memory import LONG_S, LOOP_S, SHORT_S, lengthen
from common import arguments, own_peak_mb, report

from pipeline.testing import make_video

MAX_RATIO, MAX_PEAK_MB = 1.2, 700.0


def curate_one(video: Path, out: Path) -> None:
    """Plan a video as one unit, work on it here, and print the peak memory of this process."""
    from curation.curate import CurateRequest, prepare
    from curation.ingest import ProbeTask, probe_inputs
    from curation.planning import plan_units
    from curation.task import UnitTask
    from curation.work import curate_unit

    settings = prepare(CurateRequest(inputs=(str(video),), out=out)).settings
    task = ProbeTask(uris=(str(video),), source="bench", embodiment="unknown")
    rows = probe_inputs(task)
    (unit,) = plan_units(
        rows,
        unit_len_s=1e9,
        first_number=0,
        settings_digest=settings.digest,
        edges_of=lambda row: [],
        digests_of=lambda row: [],
    )
    (out / "shards").mkdir(parents=True)
    before = own_peak_mb()
    started = time.process_time()
    result = curate_unit(
        UnitTask(
            unit=unit,
            shards_dir=str(out / "shards"),
            token="bench",
            settings=settings,
            videos={row["uri"]: row for row in rows},
        )
    )
    print(
        json.dumps(
            {
                "peak_mb": round(own_peak_mb(), 1),
                "before_mb": round(before, 1),
                "cpu_s": round(time.process_time() - started, 1),
                "num_frames": sum(row["num_frames"] for row in result.clips),
                "num_clips": result.unit["num_clips"],
            }
        )
    )


def measure(seconds: int, loop: Path, folder: Path) -> dict[str, float]:
    """Make a video of this length and curate it in a new process."""
    video = folder / f"{seconds}.mp4"
    lengthen(loop, video, repeats=seconds // LOOP_S)
    words = [sys.executable, __file__, "--work", str(video), str(folder / f"out-{seconds}")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure both lengths; exit 1 when the memory grows or is too much."""
    if sys.argv[1:2] == ["--work"]:
        curate_one(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--long-s", type=int, default=LONG_S)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="egodojo-memory-") as name:
        folder = Path(name)
        loop = make_video(
            folder / "loop.mp4", num_frames=LOOP_S * options.fps, width=1920, height=1080,
            fps=options.fps, gop=30, crf=23, options={"bf": "0", "preset": "ultrafast"},
        )  # fmt: skip
        short, long = (measure(seconds, loop, folder) for seconds in (SHORT_S, options.long_s))
    ratio = long["peak_mb"] / short["peak_mb"]
    is_within = ratio <= MAX_RATIO and long["peak_mb"] < MAX_PEAK_MB
    record = {
        "fps": options.fps,
        "short_s": SHORT_S,
        "long_s": options.long_s,
        "short": short,
        "long": long,
        "ratio": round(ratio, 3),
        "is_within_bounds": is_within,
    }
    report("curate_memory", {"result": record}, options)
    sys.exit(0 if is_within else 1)


if __name__ == "__main__":
    main()
