"""What `egodojo curate` costs beside the floor, NeMo Curator and a chain of separate tools.

CPU-seconds of whole process trees, every side in one run, start-up apart: each process first works
on one second of small pictures, and what that costs beyond the floor's is taken off; the preview
page is counted apart. The ratio is taken within each round; its median is what the bars speak of.

Predicted before the first run: curate 1.11-1.14x the floor; the measures 310-410 us a frame, so
1.03-1.1x a bare decode at 1080p and 1.25-1.35x at 480p; NeMo Curator 2.1-2.3x; the chain 3.5x;
two workers 1.0-1.05x the CPU of one, each busy 95 % of the time; 350 MB at 1080p, 700 MB at 4K.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_decode_memory import lengthen
from common import RESULTS, arguments, report, spread
from sides.inputs import STYLES, Input, make_input, make_tiny
from sides.meter import SideFailed, measure
from sides.workers import busy_ratios, read_units

from manifests.settings import EncodeSettings
from pipeline.clip_profile import x264_options

HERE = Path(__file__).resolve().parent
SIZES = ("480p30", "1080p30")
CLIP_LEN_S = 20.0
BARS = {"curate": 1.15, "curate_ray": 1.15}
MEASURE_BARS = {"480p30": 1.35, "1080p30": 1.15}
BYTES_BAR, WORKERS_BAR, BUSY_BAR = 0.01, 1.1, 0.9
MEMORY_BARS_MB = {"1080p30": 500, "2160p30": 800}
UNIT_S, NUM_UNITS = 1.5, 42
SECTIONS = ("sides", "measure", "workers", "memory")
SLOW = ("curate_ray", "nemo", "tools")


Round = dict[str, dict[str, dict[str, Any]]]
"""What was measured, by side and input."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Inputs, sides and what was measured so far."""

    options: argparse.Namespace
    folder: Path
    tiny: Input
    inputs: list[Input]
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def jobs(self, mode: str, number: int, **more: Any) -> list[dict[str, Any]]:
        """One job per input; the tiny one comes first, twice: it warms up."""
        out = self.folder / "out"
        return [
            {
                "name": video.name,
                "video": str(video.path),
                "mode": mode,
                "out": str(out / f"{mode}-{number}-{place}{more.get('engine', '')}"),
                **more,
            }
            for place, video in enumerate([self.tiny, self.tiny, *self.inputs])
        ]

    def encoder(self) -> list[str]:
        """The dataset's pictures and settings, as words for ffmpeg."""
        settings = EncodeSettings()
        shape = f"crop=ih*4/3:ih,scale={settings.width}:{settings.height}:flags=area"
        words = ["libx264"]
        for name, value in x264_options(settings).items():
            words += [f"-{name}", value]
        return [*words, "-vf", shape, "-pix_fmt", "yuv420p"]

    def run_side(self, side: str, number: int) -> dict[str, dict[str, Any]] | None:
        """Measure one side on every input; what it cost is said at once. None when it failed."""
        own, floor = str(HERE / "sides" / "ours.py"), str(HERE / "sides" / "floor.py")
        options = self.options
        foreign = {"encoder": self.encoder(), "clip_len_s": CLIP_LEN_S}
        python: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
            "curate": lambda: run(
                own, self.jobs("curate", number, engine="inline", page=number == 0)
            ),
            "curate_ray": lambda: run(own, self.jobs("curate", number, engine="ray", slots=1)),
            "measure": lambda: run(own, self.jobs("measure", number)),
            "decode": lambda: run(floor, self.jobs("decode", number)),
            "floor": lambda: run(floor, [self._spanned(j) for j in self.jobs("floor", number)]),
            "tools": lambda: run(
                str(HERE / "sides" / "tools_chain.py"),
                self.jobs("tools", number, **{**foreign, "encoder": ["-c:v", *self.encoder()]}),
                python=options.tools_python,
            ),
            "nemo": lambda: run(
                str(HERE / "sides" / "nemo_split.py"),
                self.jobs("nemo", number, **foreign),
                python=options.nemo_python,
            ),
        }
        try:
            found = python[side]()
        except SideFailed as error:
            self.skipped[side] = f"round {number}: {error}"
            print(f"{side} failed: {error}", file=sys.stderr)
            return None
        seconds = {name: job["cpu_s"] for name, job in found.items()}
        print(json.dumps({"round": number, "side": side, "cpu_s": seconds}), file=sys.stderr)
        return found

    def _spanned(self, job: dict[str, Any]) -> dict[str, Any]:
        known = self.written[job["name"]]
        return {**job, "spans": known["spans"], "fps": known["fps"]}


def run(
    script: str, jobs: Sequence[dict[str, Any]], *, python: str | None = None
) -> dict[str, dict[str, Any]]:
    """Run one side's script; a foreign Python does not see our packages' folder."""
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    env["RAY_worker_niceness"] = "0"  # else a busy machine starves Ray's workers alone
    if python is not None and Path(python) != Path(sys.executable):
        env.pop("PYTHONPATH", None)
    return measure([python or sys.executable, script], jobs, env=env)


def missing(python: str | None, modules: Sequence[str]) -> str | None:
    """Why a foreign side cannot run; None when it can."""
    if python is None:
        return "no Python was named for it"
    if shutil.which("ffmpeg") is None:
        return "there is no ffmpeg on the PATH"
    words = [python, "-c", "; ".join(f"import {name}" for name in modules)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def measure_all(bench: Bench) -> None:
    """All rounds. The first round's `curate` says which clips the floor has to write."""
    from sides.ours import written

    options = bench.options
    sides = ["curate", "floor", "curate_ray"]
    foreign = {
        "tools": (options.tools_python, ("scenedetect", "cv2")),
        "nemo": (options.nemo_python, ("nemo_curator", "cv2", "ray", "av")),
    }
    for side, (python, modules) in foreign.items():
        reason = missing(python, modules)
        if reason is None:
            sides.append(side)
        else:
            bench.skipped[side] = reason
    for number in range(options.rounds):
        found: Round = {}
        todo = sides[number % len(sides) :] + sides[: number % len(sides)]
        todo = [side for side in todo if side not in SLOW or number < options.slow_rounds]
        bench.rounds.append(found)
        if number == 0:
            first = bench.run_side("curate", number)
            if first is None:
                raise SystemExit(f"nothing can be compared: {bench.skipped['curate']}")
            found["curate"] = first
            todo.remove("curate")
            for video in [bench.tiny, *bench.inputs]:
                dataset = Path(first[video.name]["facts"]["dataset"])
                bench.written[video.name] = written(dataset)

        def one(side: str, found: Round = found, number: int = number) -> None:
            if (measured := bench.run_side(side, number)) is not None:
                found[side] = measured

        pool = ThreadPoolExecutor(options.parallel)
        try:
            for future in [pool.submit(one, side) for side in todo]:
                future.result()
        except KeyboardInterrupt:  # what was measured so far is reported
            print("stopping when the sides that run now have ended", file=sys.stderr)
            return
        finally:
            pool.shutdown(cancel_futures=True)
        shutil.rmtree(bench.folder / "out", ignore_errors=True)


def net(found: dict[str, dict[str, Any]], base: dict[str, dict[str, Any]], name: str) -> float:
    """CPU-seconds of a side on an input, less its start-up: the tiny input beyond the floor's.

    The preview page is left out of both: its cost is bounded and does not grow with the videos.
    """
    start_up = cpu_s(found["tiny"]) - cpu_s(base["tiny"])
    return cpu_s(found[name]) - max(0.0, start_up)


def cpu_s(job: dict[str, Any]) -> float:
    """CPU-seconds of a job without its preview page."""
    return float(job["cpu_s"] - job["facts"].get("page_cpu_s", 0.0))


def compare(bench: Bench, side: str, base: str, video: Input) -> dict[str, Any] | None:
    """CPU-seconds and ratio to `base` of one side on one input, over the rounds that have both."""
    rounds = [found for found in bench.rounds if side in found and base in found]
    if not rounds:
        return None
    seconds = [net(found[side], found[base], video.name) for found in rounds]
    below = [found[base][video.name]["cpu_s"] for found in rounds]
    ratios = [a / b for a, b in zip(seconds, below, strict=True)]
    start_up = [cpu_s(found[side]["tiny"]) - cpu_s(found[base]["tiny"]) for found in rounds]
    pages = [found[side][video.name]["facts"].get("page_cpu_s", 0.0) for found in rounds[:1]]
    return {
        "cpu_s": spread(seconds),
        "ratio": spread(ratios),
        "above_us_per_frame": round(
            1e6 * (spread(seconds)["median"] - spread(below)["median"]) / video.num_frames
        ),
        "start_up_cpu_s": spread(start_up),
        "page_cpu_s": round(pages[0], 2),
        "num_rounds": len(rounds),
    }


def plain(bench: Bench, side: str, video: Input) -> dict[str, float]:
    """CPU-seconds of a side that has no start-up to take off."""
    return spread([found[side][video.name]["cpu_s"] for found in bench.rounds if side in found])


def table(bench: Bench) -> list[dict[str, Any]]:
    """One row per input."""
    rows = []
    for video in bench.inputs:
        floor_bytes = bench.rounds[0]["floor"][video.name]["facts"]["num_bytes"]
        ours = bench.written[video.name]["num_bytes"]
        sides = {
            side: compare(bench, side, "floor", video)
            for side in ("curate", "curate_ray", "nemo", "tools")
        }
        rows.append(
            {
                "input": video.name,
                "num_frames": video.num_frames,
                "kbits_per_s": video.kbits_per_s,
                "num_clips": len(bench.written[video.name]["spans"]),
                "floor_cpu_s": plain(bench, "floor", video),
                **sides,
                "mp4_bytes": ours,
                "floor_mp4_bytes": floor_bytes,
                "bytes_difference_ratio": round(abs(ours - floor_bytes) / floor_bytes, 5),
            }
        )
    return rows


def measure_pass(bench: Bench) -> dict[str, Any]:
    """A pass that only measures beside a bare decode, in turns."""
    for number in range(bench.options.rounds):
        found: Round = {}
        for side in ("decode", "measure"):
            if (measured := bench.run_side(side, number)) is not None:
                found[side] = measured
        bench.rounds.append(found)
    rows = [
        {
            "input": video.name,
            "num_frames": video.num_frames,
            "decode_cpu_s": plain(bench, "decode", video),
            "measure": compare(bench, "measure", "decode", video),
        }
        for video in bench.inputs
    ]
    return {"inputs_from": _inputs_from(bench), "rows": rows, "skipped": bench.skipped}


def measure_workers(bench: Bench) -> dict[str, Any]:
    """The same units by one Ray worker and by two."""
    (source,) = (video for video in bench.inputs if video.name == "480p30 camera")
    repeats = -int(-UNIT_S * NUM_UNITS // (source.num_frames / 30))
    long = bench.folder / "long.mp4"
    lengthen(source.path, long, repeats=repeats)
    found: dict[int, dict[str, Any]] = {}
    busy: dict[str, float] = {}
    for slots in (1, 2):
        out = bench.folder / f"workers-{slots}"
        sets = (f"unit_len_s={UNIT_S}",)
        jobs = [
            {
                "name": name, "video": str(video), "mode": "curate", "engine": "ray",
                "slots": slots, "out": f"{out}-{name}", "sets": sets,
            }
            for name, video in (("tiny", bench.tiny.path), ("long", long))
        ]  # fmt: skip
        found[slots] = run(str(HERE / "sides" / "ours.py"), jobs)
        units = read_units(Path(f"{out}-long"))
        if slots == 2:
            busy = busy_ratios(units)
    one, two = (found[slots]["long"]["cpu_s"] for slots in (1, 2))
    return {
        "num_units": found[2]["long"]["facts"]["num_units"],
        "cpu_s_1_worker": one,
        "cpu_s_2_workers": two,
        "ratio": round(two / one, 3),
        "busy_ratio_by_worker": list(busy.values()),
        "wall_s": [found[slots]["long"]["wall_s"] for slots in (1, 2)],
    }


def measure_memory(bench: Bench) -> dict[str, Any]:
    """Peak resident memory, in MB, of a process that curates one unit of each size."""
    videos = {"1080p30": next(v for v in bench.inputs if v.name == "1080p30 camera").path}
    options = bench.options
    videos["2160p30"] = make_input(
        "2160p30",
        "camera",
        videos=options.videos,
        folder=options.inputs or bench.folder,
        seconds=3.0,
    ).path
    peaks = {}
    for size, video in videos.items():
        words = [sys.executable, str(HERE / "bench_memory.py"), "--work", str(video)]
        out = str(bench.folder / f"memory-{size}")
        done = subprocess.run([*words, out], check=True, stdout=subprocess.PIPE)
        peaks[size] = json.loads(done.stdout)["peak_mb"]
    return {"peak_mb": peaks}


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Every bar, and whether it was reached."""
    found = {}
    for row in result.get("sides", {}).get("rows", ()):
        for side, bar in BARS.items():
            if row[side]:
                ratio = row[side]["ratio"]["median"]
                found[f"{side} {row['input']} <= {bar} floor"] = ratio <= bar
        difference = row["bytes_difference_ratio"]
        found[f"bytes {row['input']} within {BYTES_BAR}"] = difference <= BYTES_BAR
    for row in result.get("measure", {}).get("rows", ()):
        bar = MEASURE_BARS[row["input"].split()[0]]
        ratio = row["measure"]["ratio"]["median"]
        found[f"measure {row['input']} <= {bar} decode"] = ratio <= bar
    if workers := result.get("workers"):
        found[f"2 workers <= {WORKERS_BAR} of 1"] = workers["ratio"] <= WORKERS_BAR
        busy = workers["busy_ratio_by_worker"]
        found[f"each worker busy >= {BUSY_BAR}"] = len(busy) == 2 and min(busy) >= BUSY_BAR
    for size, peak in result.get("memory", {}).get("peak_mb", {}).items():
        found[f"memory {size} <= {MEMORY_BARS_MB[size]} MB"] = peak <= MEMORY_BARS_MB[size]
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__ or "")
    default = os.environ.get("EGODOJO_TEST_VIDEOS")
    add = parser.add_argument
    add(
        "--videos",
        type=Path,
        default=Path(default) if default else None,
        help="folder of real clips; without it the inputs are generated footage",
    )
    add("--seconds", type=float, default=24.0, help="length of each input")
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    add("--rounds", type=int, default=3)
    add("--slow-rounds", type=int, default=3, help=f"rounds of {', '.join(SLOW)}")
    add("--parallel", type=int, default=1, help="sides measured at a time")
    add("--inputs", type=Path, help="folder to keep the inputs in, and to take them from")
    add("--nemo-python", help="Python of an environment with nemo-curator==1.4.0, OpenCV, PyAV")
    add("--tools-python", help="Python of an environment with scenedetect and OpenCV")
    add(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="what to measure; other sections stay as an earlier --save left them",
    )
    return parser.parse_args()  # fmt: skip


def prepare_inputs(options: argparse.Namespace, folder: Path) -> tuple[Input, list[Input]]:
    """The tiny input and the others, made once."""
    folder = options.inputs or folder / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        make_input(size, style, videos=options.videos, folder=folder, seconds=options.seconds)
        for size in options.sizes
        for style in STYLES
    ]
    return make_tiny(folder), made


def known_sections(wanted: Sequence[str]) -> dict[str, Any]:
    """Sections of the kept record that are not measured again."""
    try:
        kept = json.loads((RESULTS / "curation.json").read_text(encoding="utf-8"))["result"]
    except (OSError, KeyError, ValueError):
        return {}
    return {name: kept[name] for name in SECTIONS if name in kept and name not in wanted}


def measure_sides(bench: Bench) -> dict[str, Any]:
    """Every side on every input."""
    measure_all(bench)
    return {
        "inputs_from": _inputs_from(bench),
        "rows": table(bench),
        "skipped": bench.skipped,
    }


def _inputs_from(bench: Bench) -> str:
    return "real clips" if bench.options.videos else "generated footage"


def main() -> None:
    """Measure everything; exit 1 when a bar is missed."""
    options = parse()
    result: dict[str, Any] = {}
    measures = {
        "sides": measure_sides,
        "measure": measure_pass,
        "workers": measure_workers,
        "memory": measure_memory,
    }
    with tempfile.TemporaryDirectory(prefix="egodojo-bench-") as name:
        tiny, inputs = prepare_inputs(options, Path(name))
        for section in options.sections:
            bench = Bench(options=options, folder=Path(name), tiny=tiny, inputs=inputs)
            before = os.getloadavg()[0]
            found = measures[section](bench)
            load = [round(before, 1), round(os.getloadavg()[0], 1)]
            result[section] = {**found, "load_1min": load}
    if options.save:
        result |= known_sections(options.sections)
    result["bars"] = verdicts(result)
    report("curation", {"result": result}, options)
    sys.exit(0 if all(result["bars"].values()) else 1)


if __name__ == "__main__":
    main()
