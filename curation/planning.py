"""The plan: which videos, or parts of one, make a unit of work; a pure function of the probed rows.

Short videos are packed together in URI order; a long one is cut at frames and makes units of its
own. What is planned is never planned again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import pyarrow as pa

from manifests.records import Part, PlannedUnit, unit_id_of

Row = Mapping[str, Any]


class VideoRows(Mapping[str, dict[str, Any]]):
    """Rows of the table `videos` by URI, kept as columns: some hundred bytes each.

    Args:
        table: The table, one row per URI.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        uris = table.column("uri").to_pylist()
        self._place = {uri: place for place, uri in enumerate(uris)}

    def __getitem__(self, uri: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self._table.slice(self._place[uri], 1).to_pylist()
        return found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def select_videos(videos: Iterable[Row], planned_ids: Collection[str]) -> list[Row]:
    """Videos still to be planned, sorted by URI: readable, new, and one of several equal ones.

    Of equal files the smallest URI stands for all.
    """
    chosen: list[Row] = []
    seen = set(planned_ids)
    for row in sorted(videos, key=lambda row: str(row["uri"])):
        if row["state"] == "readable" and row["video_id"] not in seen:
            seen.add(row["video_id"])
            chosen.append(row)
    return chosen


def plan_units(
    videos: Sequence[Row],
    *,
    unit_len_s: float,
    first_number: int,
    settings_digest: str,
    edges_of: Callable[[Row], Sequence[int]],
    digests_of: Callable[[str], Sequence[str]],
) -> list[PlannedUnit]:
    """Pack selected videos greedily into units.

    A unit closes before the video that would take it past `unit_len_s`.

    Args:
        videos: Rows of `videos` in the order of the plan (`select_videos`).
        unit_len_s: Length of a unit.
        first_number: Number of the first unit.
        settings_digest: Part of each unit's id.
        edges_of: Ticks where a video is cut, the first frames at or after each multiple of
            `unit_len_s`; none when its container has no index. Asked only for longer videos.
        digests_of: Digests of a URI's sidecars.
    """
    groups: list[list[Part]] = []
    filled_s = math.inf
    for row in videos:
        duration_s = float(row["duration_s"] or 0.0)
        if duration_s > unit_len_s:
            groups.extend([part] for part in _parts_of_long(row, edges_of(row)))
            filled_s = math.inf
            continue
        if filled_s + duration_s > unit_len_s:
            groups.append([])
            filled_s = 0.0
        groups[-1].append(Part(uri=row["uri"], video_id=row["video_id"]))
        filled_s += duration_s
    return [
        PlannedUnit(
            number=number,
            unit_id=unit_id_of(
                parts, settings_digest, [d for part in parts for d in digests_of(part.uri)]
            ),
            parts=tuple(parts),
        )
        for number, parts in enumerate(groups, start=first_number)
    ]


def by_declared_pixels(
    units: Iterable[PlannedUnit], videos: Mapping[str, Row]
) -> list[PlannedUnit]:
    """Units in the order they are handed out: most declared pixels first, then by number.

    Args:
        units: What is to be done.
        videos: Rows of `videos` by URI.
    """

    def pixels(unit: PlannedUnit) -> float:
        return sum(_declared_pixels(part, videos[part.uri]) for part in unit.parts)

    return sorted(units, key=lambda unit: (-pixels(unit), unit.number))


def _parts_of_long(row: Row, edges: Sequence[int]) -> list[Part]:
    return [
        Part(uri=row["uri"], video_id=row["video_id"], start_tick=start, end_tick=end)
        for start, end in itertools.pairwise([None, *edges, None])
    ]


def _declared_pixels(part: Part, row: Row) -> float:
    pixels = float(row["width"] or 0) * float(row["height"] or 0)
    frames = float(row["num_frames_declared"] or row["num_packets"] or 0)
    if part.start_tick is None and part.end_tick is None:
        return pixels * frames
    duration_s = float(row["duration_s"] or 0.0)
    time_base = float(Fraction(row["time_base"]))
    first_s = 0.0
    if part.start_tick is not None:
        first_s = (part.start_tick - int(row["start_tick"] or 0)) * time_base
    last_s = duration_s
    if part.end_tick is not None:
        last_s = (part.end_tick - int(row["start_tick"] or 0)) * time_base
    return pixels * frames * (last_s - first_s) / duration_s if duration_s else pixels * frames
