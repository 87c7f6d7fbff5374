"""Camera motion: cost against the dense form of motion-vector scores, truth, and three codecs.

A window moves over a large real picture along a known path; each view is encoded and measured. The
dense form scatters all motion vectors of a frame into a float field of its size and averages it.
Ours looks at some frames at a time, as curation does.

Predicted: a hundredth of the dense form's cost, correlation 0.99, the same number for all codecs.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import arguments, report, spread
from numpy.typing import NDArray

from curation.motion import motions_of
from curation.part import NUM_AT_ONCE
from curation.small import SmallPicture, reduce_picture
from pipeline.video import FrameScaler, decode, probe, write_video

SIZE = (640, 480)
CODECS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
OPTIONS = {"libx265": {"log-level": "none"}, "libsvtav1": {"preset": "10"}}


def path_of_window(num_frames: int, limit: tuple[int, int]) -> NDArray[np.int64]:
    """A smooth, uneven walk of whole even pixels inside a limit: (frames, 2), x then y."""
    time_s = np.arange(num_frames) / 30
    x = 0.5 + 0.45 * np.sin(2.3 * time_s) * np.cos(0.7 * time_s)
    y = 0.5 + 0.45 * np.sin(1.7 * time_s + 1)
    return np.rint(np.stack([x * limit[0], y * limit[1]], 1)).astype(np.int64)


def pictures_of(path: Path) -> list[SmallPicture]:
    """The small pictures of a video."""
    facts = probe(path)
    scaler = FrameScaler(facts, *SIZE)
    found = []
    for decoded in decode(path, facts):
        luma, *chroma = scaler.small(decoded)
        found.append(reduce_picture(luma, chroma))
    return found


def planes_of(path: Path) -> list[Any]:
    """What is reduced, of each frame."""
    facts = probe(path)
    scaler = FrameScaler(facts, *SIZE)
    return [scaler.small(decoded) for decoded in decode(path, facts)]


def reduce_again(planes: Any) -> None:
    """The reduction that all measures and the cut detector share."""
    luma, *chroma = planes
    reduce_picture(luma, chroma)


def vectors_of(path: Path) -> list[NDArray[Any]]:
    """Motion vectors of each frame that has them."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"flags2": "+export_mvs"}
        found = []
        for frame in container.decode(video=0):
            for side in frame.side_data:
                if side.type.name == "MOTION_VECTORS":
                    found.append(side.to_ndarray())
    return found


def dense_score(vectors: NDArray[Any], size: tuple[int, int]) -> float:
    """Mean length of a dense (1, H, W, 2) field into which the vectors are scattered."""
    width, height = size
    field = np.zeros((1, height, width, 2), np.float32)
    for wide, tall in {(int(v["w"]), int(v["h"])) for v in vectors}:
        some = vectors[(vectors["w"] == wide) & (vectors["h"] == tall)]
        left = np.clip(some["dst_x"] - wide // 2, 0, width - wide)
        top = np.clip(some["dst_y"] - tall // 2, 0, height - tall)
        rows = top[:, None, None] + np.arange(tall)[None, :, None]
        columns = left[:, None, None] + np.arange(wide)[None, None, :]
        moves = np.stack([some["motion_x"], some["motion_y"]], 1) / some["motion_scale"][:, None]
        field[0, rows, columns] = moves[:, None, None, :]
    return float(np.hypot(field[..., 0] / width, field[..., 1] / height).mean())


def micros(work: Any, items: list[Any]) -> float:
    """Median CPU microseconds of a call."""
    times = []
    for item in items:
        started = time.thread_time()
        work(item)
        times.append(time.thread_time() - started)
    return statistics.median(times) * 1e6


def main() -> None:
    """Film, encode, measure, compare."""
    parser = arguments(__doc__ or "")
    parser.add_argument("picture", type=Path, help="a video whose first frame is filmed")
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    with av.open(str(options.picture)) as container:
        big = next(container.decode(video=0)).to_ndarray(format="rgb24")
    limit = big.shape[1] - SIZE[0], big.shape[0] - SIZE[1]
    places = path_of_window(options.frames, limit)
    views = [big[y : y + SIZE[1], x : x + SIZE[0]] for x, y in places]
    truth = -np.diff(places, axis=0) / 2.0  # pixels of the small picture
    result: dict[str, Any] = {"num_frames": options.frames, "codecs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in CODECS.items():
            path = Path(folder, f"{name}.mp4")
            extra = OPTIONS.get(codec, {"bf": "0"})
            write_video(path, views, Fraction(30), codec=codec, crf=23, options=extra)
            small = pictures_of(path)
            pairs = list(itertools.pairwise(small))
            shifts = np.array([(m.x, m.y) for pair in pairs for m in motions_of(pair)])
            result["codecs"][name] = {
                "correlation_x": round(float(np.corrcoef(shifts[:, 0], truth[:, 0])[0, 1]), 5),
                "correlation_y": round(float(np.corrcoef(shifts[:, 1], truth[:, 1])[0, 1]), 5),
                "error_px": spread([float(v) for v in np.abs(shifts - truth).ravel()]),
                "mean_width_per_s": round(float(np.hypot(*shifts.T).mean()) * 30 / 320, 5),
            }
            if name == "h264":
                vectors = vectors_of(path)
                result["reduction_us"] = round(micros(reduce_again, planes_of(path)), 1)
                groups = [
                    small[first : first + NUM_AT_ONCE + 1]
                    for first in range(0, len(small) - NUM_AT_ONCE, NUM_AT_ONCE)
                ]
                result["ours_us"] = round(micros(motions_of, groups) / NUM_AT_ONCE, 1)
                result["dense_us"] = round(micros(lambda v: dense_score(v, SIZE), vectors), 1)
                result["num_frames_with_vectors"] = len(vectors)
    result["times_cheaper"] = round(result["dense_us"] / result["ours_us"], 1)
    whole_us = result["ours_us"] + result["reduction_us"]
    result["times_cheaper_with_reduction"] = round(result["dense_us"] / whole_us, 1)
    report("motion", {"result": result}, options)


if __name__ == "__main__":
    main()
