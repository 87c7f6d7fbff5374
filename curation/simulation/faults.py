"""Deliberately faulty files, as real footage has them, to show what curation makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from manifests.errors import UsageError
from pipeline.video import write_video

FPS = 20


def write_faults(out: Path) -> list[str]:
    """Writes one file per fault into `out/faulty`, made from the first video in `out`.

    Returns:
        The paths: truncated (its index is lost), frozen, black, too_short, empty, text, duplicate.

    Raises:
        UsageError: `out` holds no video to start from.
    """
    videos = sorted(out.glob("*.mp4"))
    if not videos:
        raise UsageError(f"{out} holds no video that faults could be made from.")
    folder = out / "faulty"
    folder.mkdir(exist_ok=True)
    first = videos[0].read_bytes()
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (240 // 16, 320 // 16, 3), dtype=np.uint8)
    still = still.repeat(16, axis=0).repeat(16, axis=1)
    write_video(folder / "frozen.mp4", (still for _ in range(3 * FPS)), FPS)
    write_video(folder / "black.mp4", (np.zeros_like(still) for _ in range(3 * FPS)), FPS)
    moving = (np.roll(still, 8 * shift, axis=1) for shift in range(8))
    write_video(folder / "too_short.mp4", moving, FPS)
    (folder / "truncated.mp4").write_bytes(first[: len(first) * 6 // 10])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is a shopping list, not a video.\n" * 20)
    shutil.copyfile(videos[0], folder / "duplicate.mp4")
    return sorted(str(path) for path in folder.iterdir())
