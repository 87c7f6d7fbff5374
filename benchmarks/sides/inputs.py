"""The inputs: real clips spliced and encoded as cameras do, and as web sites do.

Each is the first seconds of several clips, one after another, at 30 frames a second; a clip that
is shorter begins again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.testing import make_video
from pipeline.video import probe

FPS = 30
SOURCES = {
    "480p30": (720, 480, ("ego_human/dexwild_ego_1.mp4", "ego_human/dexwild_ego_10.mp4",
                          "ego_human/dexwild_ego_5.mp4")),
    "1080p30": (1920, 1080, ("robot/umi_cup_outdoor.mp4", "robot/gr1_wipe.mp4",
                             "robot/umi_cloth_ur5.mp4")),
    "2160p30": (3840, 2160, ("robot/umi_cup_outdoor.mp4",)),
}  # fmt: skip
"""Width, height and clips; the last is enlarged, for the memory of a worker only."""

STYLES = {
    "camera": {"bf": "0", "g": "30", "preset": "veryfast"},
    "web": {"g": "250"},
}
"""Encoder options: no B-frames and short groups, or x264's defaults."""

KBITS_PER_S = {
    ("480p30", "camera"): 6000,
    ("480p30", "web"): 1500,
    ("1080p30", "camera"): 15_000,
    ("1080p30", "web"): 5000,
    ("2160p30", "camera"): 40_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One video to be curated."""

    name: str
    path: Path
    num_frames: int
    width: int
    height: int
    kbits_per_s: int


def make_input(
    size: str, style: str, *, videos: Path | None, folder: Path, seconds: float
) -> Input:
    """Splice and encode one input, unless the folder has it already.

    Without a folder of real videos it is made of generated footage.
    """
    width, height, names = SOURCES[size]
    sources = [videos / name for name in names] if videos else _generated(folder, len(names))
    path = folder / f"{size}-{style}.mp4"
    if not path.exists():
        begun = path.with_suffix(".part.mp4")  # a killed run leaves no half of an input behind
        _splice(
            sources,
            begun,
            size=(width, height),
            frames_each=round(seconds * FPS / len(sources)),
            options={"threads": "1", "preset": "medium", **STYLES[style]},
            bit_rate=1000 * KBITS_PER_S[size, style],
        )
        begun.replace(path)
    num_frames = probe(path).num_packets
    return Input(
        name=f"{size} {style}",
        path=path,
        num_frames=num_frames,
        width=width,
        height=height,
        kbits_per_s=round(path.stat().st_size * 8 * FPS / num_frames / 1000),
    )


def make_tiny(folder: Path) -> Input:
    """One second of small pictures: what it costs beyond its decoding is start-up."""
    path = make_video(folder / "tiny.mp4", num_frames=FPS, width=320, height=240, fps=FPS)
    return Input(name="tiny", path=path, num_frames=FPS, width=320, height=240, kbits_per_s=0)


def _splice(
    sources: Sequence[Path],
    target: Path,
    *,
    size: tuple[int, int],
    frames_each: int,
    options: dict[str, str],
    bit_rate: int,
) -> None:
    scale = VideoReformatter()
    number = 0
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.bit_rate = bit_rate
        for source in sources:
            for frame in _frames(source, frames_each):
                picture = scale.reformat(
                    frame, *size, "yuv420p", interpolation=Interpolation.BICUBIC, threads=1
                )
                picture.pts, picture.time_base = number, Fraction(1, FPS)
                picture.pict_type = PictureType.NONE
                container.mux(stream.encode(picture))
                number += 1
        container.mux(stream.encode(None))


def _frames(source: Path, count: int) -> Iterator[VideoFrame]:
    """The first frames of a video, from its start again when it has fewer."""
    left = count
    while left:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            for frame in itertools.islice(container.decode(stream), left):
                left -= 1
                yield frame


def _generated(folder: Path, count: int) -> list[Path]:
    return [
        make_video(
            folder / f"source-{number}.mp4", num_frames=10 * FPS, width=960, height=540, fps=FPS,
            kind=kind,
        )
        for number, kind in zip(range(count), ("pan", "noise", "cuts"), strict=False)
    ]  # fmt: skip
