"""Peak memory of decode, scale, encode and shard for a long and a short 1080p video.

The long video's peak must stay within 1.2 times the short one's: nothing may grow with the length.
Both videos repeat the packets of one ten-second encode, so they differ in length alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
from common import arguments, own_peak_mb, report

from manifests.settings import EncodeSettings
from pipeline.shards import ShardWriter
from pipeline.testing import make_video
from pipeline.video import ClipEncoder, FrameScaler, decode, index_mp4, probe

SHORT_S, LONG_S, LOOP_S, CLIP_S = 120, 1800, 10, 20


def lengthen(source: Path, target: Path, *, repeats: int) -> None:
    """Write a video that shows another one several times, without encoding it again."""
    with av.open(str(source)) as loop, av.open(str(target), "w") as out:
        stream = loop.streams.video[0]
        packets = [
            (bytes(p), p.pts, p.dts, p.duration, p.is_keyframe)
            for p in loop.demux(stream)
            if p.size
        ]
        length = sum(duration for _, _, _, duration, _ in packets)
        copy = out.add_stream_from_template(stream)
        for turn in range(repeats):
            for data, pts, dts, duration, is_key in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, stream.time_base
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.duration, packet.is_keyframe = duration, is_key
                out.mux(packet)


def work(path: Path) -> None:
    """Do to one video what a unit of work does, without measures, and print peak memory in MB."""
    facts, settings = probe(path), EncodeSettings()
    clip_ticks = round(CLIP_S / Fraction(facts.time_base))
    scaler = FrameScaler(facts, settings.width, settings.height)
    with tempfile.TemporaryDirectory() as folder, ShardWriter(Path(folder) / "a.tar") as shard:
        encoder, first, number = None, 0, 0
        for frame in decode(path, facts):
            if encoder is not None and frame.tick - first >= clip_ticks:
                mp4 = encoder.finish()
                shard.add(f"{number:024x}", {"mp4": mp4}, index_mp4(mp4))
                encoder, number = None, number + 1
            if encoder is None:
                encoder, first = ClipEncoder(settings, facts.fps, facts.time_base), frame.tick
            encoder.add(scaler.scale(frame), frame.tick - first, frame.duration)
        shard.finish()
    print(own_peak_mb())


def measure(path: Path) -> dict[str, float]:
    """Run `work` in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--work", str(path)], check=True, capture_output=True, text=True
    )
    return {
        "peak_mb": round(float(done.stdout), 1),
        "wall_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Make both videos, measure each, report the ratio."""
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--fps", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loop, long, short = (Path(folder) / f"{name}.mp4" for name in ("loop", "long", "short"))
        make_video(
            loop, num_frames=LOOP_S * options.fps, width=1920, height=1080, fps=options.fps,
            gop=30, crf=23, options={"bf": "0", "preset": "ultrafast"},
        )  # fmt: skip
        for path, seconds in ((short, SHORT_S), (long, LONG_S)):
            lengthen(loop, path, repeats=seconds // LOOP_S)
        results = {"short_2_min": measure(short), "long_30_min": measure(long)}
    ratio = results["long_30_min"]["peak_mb"] / results["short_2_min"]["peak_mb"]
    record = {"fps": options.fps, **results, "ratio": round(ratio, 3)}
    report("decode_memory", {"result": record}, options)


if __name__ == "__main__":
    main()
