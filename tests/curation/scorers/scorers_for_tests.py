"""Scorers that misbehave, named by their file: workers load them as a user's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.scorers.base import ClipView
from manifests.config import digest


class Plain:
    """Frames of a clip, as a number and a list."""

    name = "plain"
    columns: Mapping[str, str] = {"num": "int64", "luma": "list<double>", "note": "string"}
    digest = digest("plain")

    def score(self, clip: ClipView) -> dict[str, Any]:
        frames = clip.spread(3)
        means = [float(frame.mean()) for frame in frames]
        return {"num": clip.facts.num_frames, "luma": means, "note": None}


class Interrupted(Plain):
    """Is stopped in its second shard, as by Ctrl-C, while a file is there."""

    shards: set[str] = set()  # noqa: RUF012

    def score(self, clip: ClipView) -> dict[str, Any]:
        self.shards.add(clip.facts.shard)
        if len(self.shards) == 2 and Path(os.environ["STOP_FILE"]).exists():
            self.shards.clear()
            raise KeyboardInterrupt
        return super().score(clip)


class NaN(Plain):
    def score(self, clip: ClipView) -> dict[str, Any]:
        return {**super().score(clip), "luma": [float("nan")]}


class Short(Plain):
    def score(self, clip: ClipView) -> dict[str, Any]:
        return {"num": 1}


class Deadly(Plain):
    """Kills its process at the first clip of one file and hangs at that of another."""

    def score(self, clip: ClipView) -> dict[str, Any]:
        if clip.facts.start_s == 0 and clip.facts.uri.endswith("v0.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        if clip.facts.start_s == 0 and clip.facts.uri.endswith("v1.mp4"):
            time.sleep(600)
        return super().score(clip)


class WrongType(Plain):
    columns = {"num": "float"}  # noqa: RUF012


class NoScorer:
    name = "nothing"
