"""A chain of separate tools, as one would put together: PySceneDetect, OpenCV, ffmpeg per clip.

Runs under any Python that has `scenedetect` and `cv2`, with `ffmpeg` on the PATH. Each tool opens
and decodes the video by itself. Its measures are six, against some forty in one pass of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from scenedetect import ContentDetector, detect

from sides.marks import main

FLOW_EVERY_S = 0.5  # what the NVIDIA tools and Data-Juicer look at, at most
FLOW_SIZE = 320, 240


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Find the scenes, measure each, write each as clips of the job's length."""
    video, folder = job["video"], Path(job["out"])
    folder.mkdir(parents=True)
    scenes = [(a.seconds, b.seconds) for a, b in detect(video, ContentDetector())]
    pieces = pieces_of(scenes or [(0.0, duration_s(video))], job["clip_len_s"])
    rows = measures(video, [end for _, end in pieces])
    sizes = [
        encode(video, span, folder / f"{number}.mp4", job["encoder"])
        for number, span in enumerate(pieces)
    ]
    return {"num_clips": len(sizes), "num_bytes": sum(sizes), "num_measured": len(rows)}


def pieces_of(scenes: list[tuple[float, float]], length_s: float) -> list[tuple[float, float]]:
    """Scenes cut to at most one length; pieces under a second are left out."""
    pieces = []
    for start, end in scenes:
        while start < end:
            stop = min(end, start + length_s)
            if stop - start >= 0.9:
                pieces.append((start, stop))
            start = stop
    return pieces


def duration_s(video: str) -> float:
    file = cv2.VideoCapture(video)
    return file.get(cv2.CAP_PROP_FRAME_COUNT) / file.get(cv2.CAP_PROP_FPS)


def measures(video: str, ends_s: list[float]) -> list[dict[str, float]]:
    """Light and sharpness of each frame, optical flow twice a second."""
    file = cv2.VideoCapture(video)
    fps = file.get(cv2.CAP_PROP_FPS)
    rows: list[list[tuple[float, ...]]] = [[] for _ in ends_s]
    before, number, piece, flows = None, 0, 0, []
    while True:
        is_there, frame = file.read()
        if not is_there:
            break
        while piece < len(ends_s) - 1 and number / fps >= ends_s[piece]:
            piece, before = piece + 1, None
        gray = cv2.resize(
            cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), FLOW_SIZE, interpolation=cv2.INTER_AREA
        )
        rows[piece].append(
            (
                float(gray.mean()), float(gray.std()), float((gray < 38).mean()),
                float((gray > 228).mean()), float(cv2.Laplacian(gray, cv2.CV_64F).var()),
            )
        )  # fmt: skip
        if number % round(FLOW_EVERY_S * fps) == 0:
            if before is not None:
                flow = cv2.calcOpticalFlowFarneback(before, gray, None, 0.5, 3, 15, 3, 5, 1.2, 0)
                flows.append(float(np.hypot(flow[..., 0], flow[..., 1]).mean()))
            before = gray
        number += 1
    return [dict(enumerate(np.mean(found, axis=0).tolist())) for found in rows if found]


def encode(video: str, span: tuple[float, float], target: Path, encoder: list[str]) -> int:
    """One clip by one ffmpeg."""
    subprocess.run(
        [
            "ffmpeg", "-v", "error", "-threads", "1", "-ss", f"{span[0]:.6f}", "-i", video,
            "-t", f"{span[1] - span[0]:.6f}", *encoder, "-an", str(target),
        ],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return target.stat().st_size


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
    main(work)
