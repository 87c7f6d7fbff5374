"""The floor: one process that decodes, crops, scales and encodes, one mp4 per clip; no more.

Written on PyAV alone, so that it holds none of our own overhead. Also the bare decode.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from manifests.settings import EncodeSettings
from pipeline.clip_profile import x264_options
from sides.marks import main

AREA = Interpolation.AREA | Interpolation.BITEXACT


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Decode a video, or cut it into the clips that the job names."""
    if job["mode"] == "decode":
        return {"num_frames": sum(1 for _ in decoded(job["video"]))}
    spans: list[tuple[int, int]] = job["spans"]
    folder = Path(job["out"])
    folder.mkdir(parents=True)
    num_bytes = num_frames = at = 0
    clip: Clip | None = None
    scale = VideoReformatter()
    for frame in decoded(job["video"]):
        while at < len(spans) and frame.pts >= spans[at][1]:
            num_bytes += clip.finish() if clip else 0
            clip, at = None, at + 1
        if at == len(spans) or frame.pts < spans[at][0]:
            continue
        if clip is None:
            clip = Clip(folder / f"{at}.mp4", job["fps"], frame.time_base, frame.pts)
        clip.add(scaled(frame, scale))
        num_frames += 1
    num_bytes += clip.finish() if clip else 0
    return {"num_bytes": num_bytes, "num_frames": num_frames, "num_clips": len(spans)}


def decoded(video: str) -> Iterator[VideoFrame]:
    """Every frame, by one thread."""
    with av.open(video) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        yield from container.decode(stream)


def scaled(frame: VideoFrame, scale: VideoReformatter) -> VideoFrame:
    """The middle 4:3 of a picture without a copy, scaled by area."""
    settings = EncodeSettings()
    width = frame.height * settings.width // settings.height // 2 * 2
    left = (frame.width - width) // 4 * 2
    planes = tuple(
        np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[
            :, left // step : (left + width) // step
        ]
        for plane, step in zip(frame.planes, (1, 2, 2), strict=True)
    )
    picture = VideoFrame.from_dlpack(planes, "yuv420p", width, frame.height)
    small = scale.reformat(
        picture, settings.width, settings.height, "yuv420p", interpolation=AREA, threads=1
    )
    small.colorspace, small.color_range = frame.colorspace, ColorRange.MPEG
    small.color_primaries, small.color_trc = frame.color_primaries, frame.color_trc
    small.pts = frame.pts
    return small


class Clip:
    """One mp4 on disk, written with the dataset's encoder settings."""

    def __init__(self, path: Path, fps: float, time_base: Fraction, first: int) -> None:
        settings = EncodeSettings()
        rate = Fraction(fps).limit_denominator(100_000)
        self._path, self._time_base, self._first = path, time_base, first
        self._container = av.open(str(path), "w", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream(
            "libx264", rate=rate, options=x264_options(settings)
        )
        self._stream.width, self._stream.height = settings.width, settings.height
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base, context.thread_type, context.thread_count = time_base, "NONE", 1
        context.flags |= Flags.bitexact | Flags.closed_gop
        context.color_range = ColorRange.MPEG

    def add(self, frame: VideoFrame) -> None:
        """Encode one picture."""
        frame.pts, frame.time_base = frame.pts - self._first, self._time_base
        frame.pict_type = PictureType.NONE
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> int:
        """Close the file; its bytes."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._path.stat().st_size


if __name__ == "__main__":
    main(work)
