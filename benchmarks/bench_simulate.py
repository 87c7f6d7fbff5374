"""Frames per CPU-second of `egodojo simulate`: physics, pictures with shadows, encoding, all files.

CPU seconds are those of this process with one thread; every episode is one measurement.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tempfile
import time
from pathlib import Path

from common import arguments, report, spread

from curation.simulation.bodies import BODIES
from curation.simulation.episode import Request
from curation.simulation.simulate import Job, film

PRIMITIVES = ("reach_left", "lift", "push")
CAMERAS = ("ego", "moving", "side")


def main() -> None:
    """Film every body with every camera and compare with the promised rate."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in (*BODIES, *CAMERAS)}
    total_frames, total_s = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="egodojo-simulate-") as folder:
        for number, body in enumerate(("sim_arm6", *BODIES)):
            for primitive, camera in zip(PRIMITIVES, CAMERAS, strict=True):
                request = Request(
                    embodiment=body,
                    primitive=primitive,
                    seed=number,
                    camera=camera,
                    width=options.width,
                    height=options.height,
                    seconds=options.seconds,
                )
                before = time.process_time()
                film(Job(request=request, folder=str(Path(folder))))
                seconds = time.process_time() - before
                if number == 0:
                    continue  # the first round warms up
                rates[body].append(request.num_frames / seconds)
                rates[camera].append(request.num_frames / seconds)
                total_frames += request.num_frames
                total_s += seconds
    everything = [rate for body in BODIES for rate in rates[body]]
    result = {
        "frames_per_cpu_s": spread(everything),
        "overall_frames_per_cpu_s": round(total_frames / total_s, 2),
        "bar_frames_per_cpu_s": 10,
        "by_body_and_camera": {name: spread(values) for name, values in rates.items()},
        "num_frames": total_frames,
        "size": [options.width, options.height],
    }
    report("simulate", {"result": result}, options)


if __name__ == "__main__":
    main()
