"""A small dataset of three shards, made once; each test scores a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from footage import SMALL

from curation.curate import CurateRequest, curate, prepare
from pipeline.testing import make_video

SETS = ("unit_len_s=1", "encode.width=160", "encode.height=120", "clip_len_s=1")


@pytest.fixture(scope="session")
def scored_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 2 s at 15 frames a second: three or more shards of 1 s clips."""
    folder = tmp_path_factory.mktemp("scored")
    for seed in range(3):
        make_video(folder / f"v{seed}.mp4", num_frames=30, seed=seed, **SMALL)
    request = CurateRequest(
        inputs=(str(folder),),
        out=folder / "ds",
        recipe="permissive",
        sets=SETS,
        engine="inline",
        quiet=True,
    )
    curate(prepare(request)).check()
    return folder / "ds"


@pytest.fixture
def dataset(scored_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored_once, tmp_path / "ds")
    return tmp_path / "ds"
