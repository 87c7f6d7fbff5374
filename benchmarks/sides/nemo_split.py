"""NeMo Curator's CPU path: fixed stride, transcoding, motion score; by its own example's stages.

Runs under a Python that has `nemo-curator`. Debian's ffmpeg lacks the encoder NeMo ships for CPUs
(libopenh264), so an `ffmpeg` in front of the real one on the PATH stands in for it: libx264 with
the dataset's settings, and the same crop and scaling, so that every side makes the same pictures.
Its Ray Data executor stops for ever on two CPUs; eight are declared, as many as it asks for.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ray

from sides.marks import main

STAND_IN = """#!/bin/sh
for word in "$@"; do
  if [ "$word" = -encoders ]; then {ffmpeg} "$@"; echo " V..... libopenh264 stand-in"; exit; fi
done
count=$#
while [ $count -gt 0 ]; do
  word=$1; shift; count=$((count - 1))
  if [ "$word" = libopenh264 ]; then set -- "$@" {encoder}; else set -- "$@" "$word"; fi
done
exec {ffmpeg} "$@"
"""
DECLARED_CPUS = 8
STARTS = 4


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Split one video as NeMo's example does, with its motion score."""
    from nemo_curator.backends.ray_data import RayDataExecutor
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.video.clipping.clip_extraction_stages import (
        ClipTranscodingStage,
        FixedStrideExtractorStage,
    )
    from nemo_curator.stages.video.filtering.motion_filter import (
        MotionFilterStage,
        MotionVectorDecodeStage,
    )
    from nemo_curator.stages.video.io.clip_writer import ClipWriterStage
    from nemo_curator.stages.video.io.video_reader import VideoReader

    folder, out = Path(job["out"] + "-in"), Path(job["out"])
    folder.mkdir(parents=True)
    shutil.copy(job["video"], folder)
    length_s = job["clip_len_s"]
    pipeline = Pipeline(name="split", description="fixed stride, transcode, motion score")
    pipeline.add_stage(VideoReader(input_video_path=str(folder)))
    pipeline.add_stage(
        FixedStrideExtractorStage(
            clip_len_s=length_s, clip_stride_s=length_s, min_clip_length_s=0.9, limit_clips=0
        )
    )
    pipeline.add_stage(ClipTranscodingStage(num_cpus_per_worker=1, encoder="libopenh264"))
    pipeline.add_stage(MotionVectorDecodeStage(num_cpus_per_worker=1))
    pipeline.add_stage(MotionFilterStage(score_only=True, num_gpus_per_worker=0))
    pipeline.add_stage(
        ClipWriterStage(
            output_path=str(out),
            input_path=str(folder),
            upload_clips=True,
            dry_run=False,
            generate_embeddings=False,
            generate_previews=False,
            generate_captions=False,
        )
    )
    start_ray()
    pipeline.run(RayDataExecutor())
    clips = list(out.rglob("*.mp4"))
    if not clips:
        raise RuntimeError("no clip was written")
    return {"num_clips": len(clips), "num_bytes": sum(clip.stat().st_size for clip in clips)}


def put_in_front(encoder: list[str]) -> Path:
    """Write the stand-in and put its folder first on the PATH."""
    folder = Path(tempfile.mkdtemp(prefix="egodojo-ffmpeg-"))
    script = folder / "ffmpeg"
    real = shutil.which("ffmpeg")
    script.write_text(STAND_IN.format(ffmpeg=real, encoder=" ".join(map(quoted, encoder))))
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    return folder


def quoted(word: str) -> str:
    return f"'{word}'"


def start_ray() -> None:
    """Start Ray before NeMo does; on a busy machine Ray's own 30 s limit is too short at times."""
    for attempt in range(STARTS):
        if ray.is_initialized():
            return
        try:
            ray.init(num_cpus=DECLARED_CPUS, include_dashboard=False, log_to_driver=False)
        except Exception:
            ray.shutdown()
            if attempt == STARTS - 1:
                raise


if __name__ == "__main__":
    import json

    stand_in = put_in_front(json.loads(sys.argv[1])[0]["encoder"])
    try:
        start_ray()
        main(work)
    finally:
        ray.shutdown()
        shutil.rmtree(stand_in, ignore_errors=True)
