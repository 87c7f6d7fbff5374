"""`kill -9` of the driver between any two steps, then the same command: as if nothing happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from footage import SETTINGS, SMALL, dataset_contents

from curation.curate import CurateRequest, curate, prepare
from manifests.dataset import Dataset
from manifests.validate import validate
from pipeline.testing import make_video

# Kills itself at the n-th call of a function, before or after the call.
KILLER = """
import importlib, os, signal, sys
from curation.curate import CurateRequest, curate, prepare
from manifests.storage import location
inputs, out, target, when, count, *sets = sys.argv[1:]
module, _, name = target.partition(":")
owner = importlib.import_module(module)
*path, last = name.split(".")
for step in path:
    owner = getattr(owner, step)
original, calls = getattr(owner, last), 0

def deadly(*args, **kwargs):
    global calls
    calls += 1
    if when == "before" and calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if when == "after" and calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, last, deadly)
request = CurateRequest(
    inputs=(inputs,), out=location(out), sets=tuple(sets), engine="inline", quiet=True
)
curate(prepare(request))
"""

# In this order on one dataset: each kill finds what the ones before left.
KILLS = [
    ("manifests.writer:Writer.append_plan", "after", 1),
    ("pipeline.shards:ShardWriter.finish", "after", 2),
    ("manifests.tables:append", "after", 1),
    ("curation.curate:decide", "before", 1),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "a.mp4", num_frames=40, **SMALL)
    make_video(folder / "b.mp4", num_frames=70, seed=1, **SMALL)
    make_video(folder / "c.mp4", num_frames=20, seed=2, **SMALL)
    (folder / "d.mp4").write_text("no video")
    return folder


def run(videos: Path, out: Path) -> None:
    request = CurateRequest(
        inputs=(str(videos),), out=out, sets=SETTINGS, engine="inline", quiet=True
    )
    curate(prepare(request))


def test_killed_at_every_step_equals_uninterrupted(videos: Path, tmp_path: Path) -> None:
    smooth, rough = tmp_path / "a" / "ds", tmp_path / "b" / "ds"
    run(videos, smooth)
    progress = []
    for target, when, count in KILLS:
        arguments = [str(videos), str(rough), target, when, str(count), *SETTINGS]
        done = subprocess.run(
            [sys.executable, "-c", KILLER, *arguments],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -9, done.stderr
        dataset = Dataset.open(rough)
        progress.append((dataset.table("units").num_rows, len(dataset.pending_units())))
    assert progress == [(0, 4), (1, 3), (1, 3), (4, 0)]
    run(videos, rough)
    assert dataset_contents(rough) == dataset_contents(smooth)
    assert validate(Dataset.open(rough)) == []
