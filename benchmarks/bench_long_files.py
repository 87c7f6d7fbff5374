"""A file of four hours beside one of two minutes: probe, plan, and work on its parts.

Both repeat the packets of one ten-second encode (320x180 H.264, 2 Mbit/s or so), so they differ in
length alone; units are half a minute long. Each step runs in a process of its own; `again` is the
same unit as if its row did not say how parts are read, which is what every unit did before: all
packets of the file are read once more.

Prediction, written before the first run: planning takes milliseconds and reads nothing; a unit of
the long file costs what the short file costs, up to 10 % for opening an index of 432,000 packets,
and reads about its share of the file; its peak memory is at most 60 MB above the short file's.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_decode_memory import lengthen
from common import arguments, own_peak_mb, report, spread

from curation.ingest import probe_input
from curation.planning import plan_units
from curation.reading import edges_of
from curation.task import UnitTask
from curation.work import curate_unit
from manifests.records import Part, PlannedUnit
from manifests.settings import DatasetSettings, EncodeSettings
from pipeline.testing import make_video

LOOP_S, SHORT_S, LONG_S, UNIT_S = 10, 120, 14_400, 30.0
SETTINGS = DatasetSettings(
    name="d", unit_len_s=UNIT_S, encode=EncodeSettings(width=320, height=240)
)


def bytes_read() -> int:
    """Bytes this process has read, from the page cache or not."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def plan(row: dict[str, Any]) -> list[PlannedUnit]:
    """The units of one video."""
    planned = plan_units(
        [row],
        unit_len_s=UNIT_S,
        first_number=0,
        settings_digest="d",
        edges_of=lambda video: edges_of(video, UNIT_S),
        digests_of=lambda video: [],
    )
    return list(planned)


def step(name: str, path: Path, row: dict[str, Any] | None, number: int) -> dict[str, Any]:
    """Do one step here and say what it took."""
    read, cpu = bytes_read(), time.process_time()
    made: Any = None
    if name == "probe":
        made = probe_input(str(path), source="s", embodiment="unknown", unit_len_s=UNIT_S)
    elif name == "plan":
        assert row is not None
        made = len(plan(row))
    else:
        assert row is not None
        with tempfile.TemporaryDirectory() as folder:
            made = work(row, number, folder, again=name == "again")
    return {
        "cpu_s": time.process_time() - cpu,
        "read_mb": round((bytes_read() - read) / 1e6, 2),
        "peak_mb": round(own_peak_mb(), 1),
        "made": made,
    }


def work(row: dict[str, Any], number: int, folder: str, *, again: bool) -> int:
    """Work on the unit of a number; the frames written."""
    spans = list(itertools.pairwise([None, *edges_of(row, UNIT_S), None]))
    start, end = spans[number % len(spans)]
    part = Part(uri=row["uri"], video_id=row["video_id"], start_tick=start, end_tick=end)
    task = UnitTask(
        unit=PlannedUnit(number=0, unit_id="u" * 24, parts=(part,)),
        shards_dir=folder,
        token="t",
        settings=SETTINGS,
        videos={row["uri"]: {**row, "reading": None} if again else row},
    )
    return sum(clip["num_frames"] for clip in curate_unit(task).clips)


def measured(name: str, path: Path, row: dict[str, Any] | None, number: int) -> dict[str, Any]:
    """One step in a process of its own."""
    given = json.dumps([name, str(path), row, number])
    command = [sys.executable, __file__, "--step"]
    done = subprocess.run(command, input=given, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Make both files, measure each step, report."""
    if sys.argv[1:2] == ["--step"]:
        name, path, row, number = json.loads(sys.stdin.read())
        print(json.dumps(step(name, Path(path), row, number)))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loop, short, long = (Path(folder) / f"{name}.mp4" for name in ("loop", "short", "long"))
        make_video(loop, num_frames=300, width=320, height=180, gop=30, options={"bf": "0"})
        for path, seconds in ((short, SHORT_S), (long, LONG_S)):
            lengthen(loop, path, repeats=seconds // LOOP_S)
        probes = {path: measured("probe", path, None, 0) for path in (short, long)}
        rows = {path: probe["made"] for path, probe in probes.items()}
        steps = {
            "long_plan": ("plan", long, 0), "short_unit": ("unit", short, 2),
            "long_middle_unit": ("unit", long, 240), "long_last_unit": ("unit", long, -1),
            "long_middle_unit_again": ("again", long, 240),
        }  # fmt: skip
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in steps}
        for _ in range(options.rounds):
            for name, (kind, path, number) in steps.items():
                found[name].append(measured(kind, path, rows[path], number))
        found |= {"short_probe": [probes[short]], "long_probe": [probes[long]]}
        sizes = {"short_mb": short.stat().st_size / 1e6, "long_mb": long.stat().st_size / 1e6}
    result = {
        name: {
            "cpu_s": spread([run["cpu_s"] for run in runs]),
            "read_mb": spread([run["read_mb"] for run in runs]),
            "peak_mb": spread([run["peak_mb"] for run in runs]),
            "made": runs[0]["made"] if isinstance(runs[0]["made"], int) else None,
        }
        for name, runs in found.items()
    }
    report("long_files", {"sizes": sizes, "rounds": options.rounds, "result": result}, options)


if __name__ == "__main__":
    main()
