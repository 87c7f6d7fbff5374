"""The plan: which videos, or parts of one, make a unit of work; a pure function of the probed rows.

Short videos are packed together in URI order; a long one is cut at frames and makes units of its
own. What is planned is never planned again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.planned import PlannedUnits
from manifests.records import Part, PlannedUnit, unit_id_of

Row = Mapping[str, Any]
_URIS_AT_ONCE = 4096


class VideoRows(Mapping[str, dict[str, Any]]):
    """Rows of the table `videos` by URI, kept as columns: some hundred bytes each.

    Args:
        table: The table, one row per URI.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        hashes = np.fromiter((hash(uri) for uri in self), np.int64, len(self))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __getitem__(self, uri: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self._table.slice(self._place(uri), 1).to_pylist()
        return found[0]

    def __iter__(self) -> Iterator[str]:
        for batch in self._table.select(["uri"]).to_batches(max_chunksize=_URIS_AT_ONCE):
            yield from batch.column("uri").to_pylist()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def _place(self, uri: str) -> int:
        first, last = (np.searchsorted(self._hashes, hash(uri), side) for side in ("left", "right"))
        places: list[int] = self._order[first:last].tolist()
        for place in places:
            if self._table["uri"][place].as_py() == uri:
                return place
        raise KeyError(uri)

    def columns_of(self, uris: pa.Array, names: Sequence[str]) -> pa.Table:
        """Some columns of the rows with these URIs, in their order.

        Raises:
            KeyError: A URI has no row.
        """
        places = pa.array([self._place(uri) for uri in uris.to_pylist()], pa.int64())
        return self._table.select(list(names)).take(places)


def places_of(uris: Sequence[str] | pa.Array, known: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each URI stands in a column; -1 where it does not."""
    found = pc.index_in(pa.array(uris, pa.string()), value_set=known.combine_chunks())
    return np.asarray(found.fill_null(-1).to_numpy(), np.int64)


def places_to_plan(videos: pa.Table, planned_ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Where the videos stand that are still to be planned, in the order of their URIs.

    They are readable, new, and of equal files the one with the smallest URI. Places, because the
    rows would be a second copy of all of them.

    Args:
        videos: Rows of the table `videos`.
        planned_ids: `video_id` of what is in the plan.
    """
    is_planned = pc.is_in(videos["video_id"], value_set=planned_ids.cast(pa.string()))
    is_open = pc.and_(pc.equal(videos["state"], "readable"), pc.invert(is_planned))
    places = np.flatnonzero(is_open.to_numpy())
    places = places[pc.sort_indices(videos["uri"].take(pa.array(places))).to_numpy()]
    ids = videos["video_id"].take(pa.array(places)).combine_chunks().dictionary_encode()
    _, first = np.unique(ids.indices.to_numpy(), return_index=True)
    return np.asarray(places[np.sort(first)], np.int64)


def plan_units(
    videos: Iterable[Row],
    *,
    unit_len_s: float,
    first_number: int,
    settings_digest: str,
    edges_of: Callable[[Row], Sequence[int]],
    digests_of: Callable[[Row], Sequence[str]],
) -> Iterator[PlannedUnit]:
    """Pack selected videos greedily into units.

    A unit closes before the video that would take it past `unit_len_s`.

    Args:
        videos: Rows of `videos` in the order of the plan (`places_to_plan`).
        unit_len_s: Length of a unit.
        first_number: Number of the first unit.
        settings_digest: Part of each unit's id.
        edges_of: Ticks where a video is cut, the first frames at or after each multiple of
            `unit_len_s`; none when its container has no index. Asked only for longer videos.
        digests_of: Digests of a video's sidecars.
    """
    groups = _groups(videos, unit_len_s=unit_len_s, edges_of=edges_of, digests_of=digests_of)
    for number, group in enumerate(groups, start=first_number):
        parts = tuple(part for part, _ in group)
        digests = [digest for _, of_part in group for digest in of_part]
        yield PlannedUnit(
            number=number, unit_id=unit_id_of(parts, settings_digest, digests), parts=parts
        )


def _groups(
    videos: Iterable[Row],
    *,
    unit_len_s: float,
    edges_of: Callable[[Row], Sequence[int]],
    digests_of: Callable[[Row], Sequence[str]],
) -> Iterator[list[tuple[Part, Sequence[str]]]]:
    """The parts of each unit, with the digests of what belongs to them."""
    group: list[tuple[Part, Sequence[str]]] = []
    filled_s = 0.0
    for row in videos:
        duration_s = float(row["duration_s"] or 0.0)
        is_long = duration_s > unit_len_s
        if group and (is_long or filled_s + duration_s > unit_len_s):
            yield group
            group, filled_s = [], 0.0
        digests = digests_of(row)
        if is_long:
            yield from ([(part, digests)] for part in _parts_of_long(row, edges_of(row)))
        else:
            group.append((Part(uri=row["uri"], video_id=row["video_id"]), digests))
            filled_s += duration_s
    if group:
        yield group


def by_declared_pixels(units: PlannedUnits, videos: VideoRows) -> PlannedUnits:
    """Units in the order they are handed out: most declared pixels first, then by number.

    Args:
        units: What is to be done.
        videos: Rows of `videos`.
    """
    rows, parts = units.parts()
    pixels = np.zeros(len(units))
    for start in range(0, len(parts), _URIS_AT_ONCE):
        some = slice(start, start + _URIS_AT_ONCE)
        np.add.at(pixels, rows[some], _declared_pixels(parts[some], videos))
    return units.sorted_by(pixels)


def _parts_of_long(row: Row, edges: Sequence[int]) -> list[Part]:
    return [
        Part(uri=row["uri"], video_id=row["video_id"], start_tick=start, end_tick=end)
        for start, end in itertools.pairwise([None, *edges, None])
    ]


def _declared_pixels(parts: pa.StructArray, videos: VideoRows) -> NDArray[np.float64]:
    """Pixels that the headers declare for each part."""
    names = (
        *("width", "height", "num_frames_declared", "num_packets", "duration_s"),
        *("start_tick", "time_base"),
    )
    found = videos.columns_of(parts.field("uri"), names)
    width, height, declared, packets, duration_s, first_tick = (
        _numbers(found, name) for name in names[:-1]
    )
    pixels = width * height * np.where(declared > 0, declared, packets)
    time_bases = found["time_base"].combine_chunks().dictionary_encode()
    seconds = [float(Fraction(text)) for text in time_bases.dictionary.to_pylist()]
    tick_s = np.array([*seconds, 0.0])[time_bases.indices.fill_null(-1).to_numpy()]
    spans_s = [np.zeros(len(parts)), duration_s]
    for index, name in enumerate(("start_tick", "end_tick")):
        ticks = parts.field(name)
        known_s = (ticks.fill_null(0).to_numpy() - first_tick) * tick_s
        spans_s[index] = np.where(ticks.is_null(), spans_s[index], known_s)
    is_cut = pc.or_(parts.field("start_tick").is_valid(), parts.field("end_tick").is_valid())
    share = np.divide(
        spans_s[1] - spans_s[0],
        duration_s,
        out=np.ones(len(parts)),
        where=is_cut.to_numpy(zero_copy_only=False) & (duration_s > 0),
    )
    return pixels * share


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers; what is not known counts as 0."""
    column = pc.fill_null(table[name].cast(pa.float64(), safe=False), 0.0)
    return np.asarray(column.to_numpy(), np.float64)
