"""A look at the key frames of a part first: one that seems black is worked on without encoding.

Key frames only suggest, and every frame is still measured: between black key frames a lit picture
may hide in fewer bytes than the packets of real black footage take. So the rows are the same,
and when a clip passes the gates after all, the part is worked on again, with encoding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from manifests.locations import is_remote
from manifests.records import Part
from manifests.settings import DatasetSettings
from pipeline.pictures import FrameScaler
from pipeline.video import key_frames

from .footage import path_of
from .measures import is_black
from .part import PartWorker
from .reading import reading_of
from .small import reduce_picture

log = logging.getLogger(__name__)

MEASURE = "black_frames_ratio"
MAX_KEY_FRAMES = 12


class _Make(Protocol):
    def __call__(self, *, encodes: bool) -> PartWorker: ...


def work_on_part(
    make: _Make, *, part: Part, video: Mapping[str, Any], settings: DatasetSettings
) -> tuple[PartWorker, list[dict[str, Any]]]:
    """Run the worker of a part, without an encoder where nothing seems to be worth one.

    Returns:
        The worker that ran and its rows, which do not depend on the look.

    Raises:
        StageError: As `PartWorker.run`.
    """
    gates_black = any(MEASURE in rule.keep_when for rule in settings.gates)
    if gates_black and seems_black(part, video):
        worker = make(encodes=False)
        rows = worker.run()
        if all(row["gate"] is not None for row in rows):
            return worker, rows
        log.info("%s is not as black as its key frames: once more, with encoding", part.uri)
    worker = make(encodes=True)
    return worker, worker.run()


def seems_black(part: Part, video: Mapping[str, Any]) -> bool:
    """Whether every key frame looked at is black as the measure understands it.

    Usually decides by the first one; looks at about `MAX_KEY_FRAMES`, spread over the part.
    Objects in storage are not looked at. A file that cannot be read does not seem black: the work
    says what is wrong with it.
    """
    if is_remote(part.uri):  # to look at an object is to fetch all of it
        return False
    if video.get("reading") is None:  # of an older dataset: to know its parts it must be probed
        return False
    path = path_of(part.uri)
    try:
        return _all_black(path, part, video)
    except Exception as error:  # whatever it is, the work meets it too and names the stage
        log.debug("no look at the key frames of %s: %s", path, error)
        return False


def _all_black(path: Path, part: Part, video: Mapping[str, Any]) -> bool:
    facts, reading = reading_of(video, part, path)
    scaler = FrameScaler(facts, 640, 480)
    apart_s = reading.num_frames / (facts.fps * MAX_KEY_FRAMES)
    num_seen = 0
    with closing(key_frames(path, facts, reading, apart_s=apart_s)) as frames:
        for decoded in frames:
            luma, *chroma = scaler.small(decoded)
            if not is_black(reduce_picture(luma, chroma).luma):
                return False
            num_seen += 1
    return num_seen > 0
