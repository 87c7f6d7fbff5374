"""Small footage with one file for every fate, and what two datasets must have in common."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from manifests.dataset import Dataset
from manifests.locations import Location, matches
from pipeline.testing import make_video

SMALL: dict[str, Any] = {"width": 160, "height": 120, "fps": 15}
SETTINGS = ("unit_len_s=3", "encode.width=160", "encode.height=120")


def make_footage(folder: Path) -> Path:
    """Good videos, a long one, and a file for every way not to become a clip."""
    make_video(folder / "a pan.mp4", num_frames=30, **SMALL)
    make_video(folder / "b long.mp4", num_frames=105, seed=1, **SMALL)
    make_video(folder / "c black.mp4", num_frames=20, kind="black", **SMALL)
    make_video(folder / "d frozen.mp4", num_frames=20, kind="frozen", **SMALL)
    make_video(folder / "e short.mp4", num_frames=8, **SMALL)
    make_video(folder / "f static.mp4", num_frames=30, kind="static", **SMALL)
    make_video(folder / "g vfr.mkv", num_frames=30, seed=2, **SMALL)
    (folder / "h copy.mp4").write_bytes((folder / "a pan.mp4").read_bytes())
    (folder / "i text.mp4").write_text("not a video")
    (folder / "j empty.mp4").write_bytes(b"")
    (folder / "a pan.txt").write_text("wipes a table")
    return folder


def dataset_contents(path: Location | str) -> dict[str, Any]:
    """Rows of all tables as sorted text, digests of all shard files."""
    dataset = Dataset.open(path)
    names = ("videos", "plan", "units", "clips", "decisions")
    found: dict[str, Any] = {
        name: sorted(repr(sorted(row.items())) for row in dataset.table(name).to_pylist())
        for name in names
    }
    for file in matches(dataset.path / "shards", "*"):
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
