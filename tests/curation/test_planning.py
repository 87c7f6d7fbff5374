"""The plan: greedy packing in URI order, long videos cut, nothing planned twice, stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.planning import (
    VideoRows,
    by_declared_pixels,
    places_to_plan,
    plan_units,
)
from manifests import schema
from manifests.planned import PlannedUnits
from manifests.records import Part, PlannedUnit
from manifests.rows import rows_of


def video(uri: str, duration_s: float = 10.0, **columns: Any) -> dict[str, Any]:
    row = {
        "uri": uri,
        "video_id": f"id-{uri}",
        "state": "readable",
        "duration_s": duration_s,
        "width": 640,
        "height": 480,
        "num_frames_declared": int(30 * duration_s),
        "num_packets": int(30 * duration_s),
        "time_base": "1/30",
        "start_tick": 0,
    }
    return {**row, **columns}


def plan(videos: Sequence[dict[str, Any]], **options: Any) -> list[PlannedUnit]:
    given: dict[str, Any] = {
        "unit_len_s": 30.0,
        "first_number": 0,
        "settings_digest": "d",
        "edges_of": lambda row: [900, 1800],
        "digests_of": lambda row: [],
    }
    return list(plan_units(videos, **{**given, **options}))


def selected(videos: Sequence[dict[str, Any]], planned_ids: Sequence[str] = ()) -> list[Any]:
    table = pa.Table.from_pylist(list(videos))
    return list(rows_of(table, places_to_plan(table, pa.array(planned_ids, pa.string()))))


def columns(units: Sequence[PlannedUnit]) -> PlannedUnits:
    rows = [unit.row() for unit in units]
    return PlannedUnits.by_number(pa.Table.from_pylist(rows, schema=schema.PLAN))


def uris(units: Sequence[PlannedUnit]) -> list[list[str]]:
    return [[part.uri for part in unit.parts] for unit in units]


def test_a_unit_closes_before_the_video_that_would_take_it_past_its_length() -> None:
    videos = [video("a", 10), video("b", 20), video("c", 0.5), video("d", 29.6)]
    assert uris(plan(videos)) == [["a", "b"], ["c"], ["d"]]


def test_a_longer_video_makes_units_of_its_own() -> None:
    units = plan([video("a", 5), video("b", 70), video("c", 5)])
    assert uris(units) == [["a"], ["b"], ["b"], ["b"], ["c"]]
    spans = [(unit.parts[0].start_tick, unit.parts[0].end_tick) for unit in units[1:4]]
    assert spans == [(None, 900), (900, 1800), (1800, None)]
    assert [unit.number for unit in units] == [0, 1, 2, 3, 4]


def test_a_long_video_without_an_index_is_one_unit() -> None:
    (unit,) = plan([video("a.ts", 90)], edges_of=lambda row: [])
    assert (unit.parts[0].start_tick, unit.parts[0].end_tick) == (None, None)


def test_edges_are_asked_only_for_long_videos() -> None:
    def refuse(row: object) -> list[int]:
        raise AssertionError(row)

    assert len(plan([video("a", 30.0)], edges_of=refuse)) == 1


def test_selection_skips_unreadable_planned_and_equal_files() -> None:
    videos = [
        video("d", video_id="same"),
        video("b", video_id="same"),
        video("a", video_id="old"),
        video("c", state="unreadable", video_id=None),
        video("e"),
    ]
    assert [row["uri"] for row in selected(videos, ["old"])] == ["b", "e"]


def test_the_plan_does_not_depend_on_the_order_of_the_rows() -> None:
    videos = [video(name, 12.0) for name in "dbace"]
    first = plan(selected(videos))
    assert first == plan(selected(videos[::-1]))
    assert plan(selected(videos, [f"id-{name}" for name in "dbace"])) == []


def test_unit_ids_depend_on_parts_settings_and_sidecars_only() -> None:
    videos = [video("a")]
    (base,) = plan(videos)
    assert len(base.unit_id) == 24
    (later,) = plan(videos, first_number=7)
    assert (later.unit_id, later.number, later.shard) == (base.unit_id, 7, "clips-000007")
    for change in ({"settings_digest": "e"}, {"digests_of": lambda row: ["x"]}):
        assert plan(videos, **change)[0].unit_id != base.unit_id


def test_units_with_most_declared_pixels_are_handed_out_first() -> None:
    videos = [video("a", 30), video("b", 30, width=1920, height=1080), video("c", 95)]
    units = plan(videos, edges_of=lambda uri: [1800, 2700])
    order = by_declared_pixels(columns(units), VideoRows(pa.Table.from_pylist(videos)))
    assert [unit.number for unit in order] == [1, 2, 0, 3, 4]


def declared_pixels(part: Part, row: dict[str, Any]) -> float:
    """What a header declares for a part, one part at a time."""
    pixels = (row["width"] or 0) * (row["height"] or 0)
    pixels *= row["num_frames_declared"] or row["num_packets"] or 0
    if (part.start_tick, part.end_tick) == (None, None) or not row["duration_s"]:
        return float(pixels)
    first, time_base = row["start_tick"] or 0, float(Fraction(row["time_base"]))
    start_s = 0.0 if part.start_tick is None else (part.start_tick - first) * time_base
    end_s = row["duration_s"] if part.end_tick is None else (part.end_tick - first) * time_base
    return float(pixels * (end_s - start_s) / row["duration_s"])


def test_the_order_is_that_of_one_part_at_a_time_whatever_is_not_known() -> None:
    rng = np.random.default_rng(0)
    missing = {
        *("width", "height", "num_frames_declared", "num_packets", "duration_s", "start_tick"),
    }
    videos = []
    for n in range(60):
        row = video(f"{n:02d}", float(rng.integers(1, 200)), width=int(rng.integers(2, 2000)))
        row |= {"time_base": ["1/30", "1001/30000"][n % 2], "start_tick": int(rng.integers(99))}
        videos.append(row | {name: None for name in missing if rng.random() < 0.1})
    units = plan(videos, edges_of=lambda row: [900, 1800])
    by_uri = {row["uri"]: row for row in videos}
    wanted = sorted(
        units,
        key=lambda unit: (
            -round(sum(declared_pixels(part, by_uri[part.uri]) for part in unit.parts), 3),
            unit.number,
        ),
    )
    rows = VideoRows(pa.Table.from_pylist(videos))
    ordered = by_declared_pixels(columns(units), rows)
    assert len(ordered) == len(units) > 60
    assert [unit.number for unit in ordered] == [unit.number for unit in wanted]


def test_rows_of_videos_are_found_by_uri() -> None:
    videos = [video(uri) for uri in ("b", "ä/\U0001f3a5", "a", "")]
    rows = VideoRows(pa.Table.from_pylist(videos))
    assert [rows[row["uri"]] for row in videos] == videos
    assert (list(rows), len(rows)) == (["b", "ä/\U0001f3a5", "a", ""], 4)
    with pytest.raises(KeyError, match="c"):
        rows["c"]
    with pytest.raises(KeyError, match="c"):
        rows.columns_of(pa.array(["a", "c"]), ["width"])


@pytest.mark.parametrize("duration_s", [None, 0.0])
def test_a_video_of_unknown_length_is_planned(duration_s: float | None) -> None:
    assert uris(plan([video("a", duration_s=1.0) | {"duration_s": duration_s}])) == [["a"]]
