"""How a video is read in parts: found once by the probe, kept in the column `reading` of `videos`.

With it neither the plan nor the work on a part looks at the packets of the rest of the file.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.config import canonical_json
from manifests.errors import SampleError
from manifests.records import Part
from pipeline.facts import VIDEO_COLUMNS, PartReading, VideoFacts, VideoProbe

from .footage import on_disk

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

_BESIDE_COLUMNS = ("stored_width", "stored_height", "nominal_duration", "demux_error")


def reading_text(facts: VideoProbe, unit_len_s: float) -> str:
    """The column `reading` of a probed video: facts without a column, and each part of the plan."""
    edges = facts.edges(unit_len_s) if facts.duration_s > unit_len_s else []
    parts = [facts.reading(*span) for span in itertools.pairwise([None, *edges, None])]
    beside = {name: getattr(facts, name) for name in _BESIDE_COLUMNS}
    return canonical_json({**beside, "parts": [_plain(part) for part in parts]})


def edges_of(video: Row, unit_len_s: float) -> list[int]:
    """Ticks at which a video is cut into units; none without an index.

    A row of a dataset made before the column was there is probed again; a file that is gone by
    then is planned as a whole.
    """
    if video.get("reading") is not None:
        parts = json.loads(video["reading"])["parts"]
        return [part["end_tick"] for part in parts if part["end_tick"] is not None]
    from pipeline.video import probe

    try:
        with on_disk(video["uri"]) as path:
            return probe(path).edges(unit_len_s)
    except SampleError as error:
        log.warning("%s is planned as a whole: %s", video["uri"], error)
        return []


def reading_of(video: Row, part: Part, path: Path) -> tuple[VideoFacts, PartReading]:
    """What reading a part needs; probes the file only when its row does not say."""
    if video.get("reading") is not None:
        content = json.loads(video["reading"])
        facts = {name: video[name] for name in VIDEO_COLUMNS}
        beside = {name: content[name] for name in _BESIDE_COLUMNS}
        for row in content["parts"]:
            if (row["start_tick"], row["end_tick"]) == (part.start_tick, part.end_tick):
                reading = PartReading(**{**row, "seek_ticks": tuple(row["seek_ticks"])})
                return VideoFacts(**facts, **beside), reading
    from pipeline.video import probe

    probed = probe(path)
    return probed, probed.reading(part.start_tick, part.end_tick)


def _plain(part: PartReading) -> dict[str, Any]:
    return {name: getattr(part, name) for name in PartReading.__dataclass_fields__}
