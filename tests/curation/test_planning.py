"""The plan: greedy packing in URI order, long videos cut, nothing planned twice, stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from curation.planning import by_declared_pixels, plan_units, select_videos
from manifests.records import PlannedUnit


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
        "digests_of": lambda uri: [],
    }
    return plan_units(videos, **{**given, **options})


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
    assert [row["uri"] for row in select_videos(videos, {"old"})] == ["b", "e"]


def test_the_plan_does_not_depend_on_the_order_of_the_rows() -> None:
    videos = [video(name, 12.0) for name in "dbace"]
    first = plan(select_videos(videos, ()))
    assert first == plan(select_videos(videos[::-1], ()))


def test_unit_ids_depend_on_parts_settings_and_sidecars_only() -> None:
    videos = [video("a")]
    (base,) = plan(videos)
    assert len(base.unit_id) == 24
    (later,) = plan(videos, first_number=7)
    assert (later.unit_id, later.number, later.shard) == (base.unit_id, 7, "clips-000007")
    for change in ({"settings_digest": "e"}, {"digests_of": lambda uri: ["x"]}):
        assert plan(videos, **change)[0].unit_id != base.unit_id


def test_units_with_most_declared_pixels_are_handed_out_first() -> None:
    videos = [video("a", 30), video("b", 30, width=1920, height=1080), video("c", 95)]
    units = plan(videos, edges_of=lambda uri: [1800, 2700])
    order = by_declared_pixels(units, {row["uri"]: row for row in videos})
    assert [unit.number for unit in order] == [1, 2, 0, 3, 4]


@pytest.mark.parametrize("duration_s", [None, 0.0])
def test_a_video_of_unknown_length_is_planned(duration_s: float | None) -> None:
    assert uris(plan([video("a", duration_s=1.0) | {"duration_s": duration_s}])) == [["a"]]
