"""Sidecars: captions, spans that overlap, actions at each frame, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.sidecars import (
    Span,
    find_sidecars,
    read_actions,
    read_caption,
    read_spans,
    resolve_spans,
)
from manifests.errors import SampleError

ROWS = [
    {"start_s": 2.0, "end_s": 4.0, "text": "pour"},
    {"start_s": 0.0, "end_s": 3.0, "text": "reach"},
    {"start_s": 2.0, "end_s": 4.0, "text": "tilt"},
]


def resolved(*spans: tuple[float, float]) -> list[tuple[float, float]]:
    made = resolve_spans(Span(start_s=a, end_s=b) for a, b in spans)
    return [(span.start_s, span.end_s) for span in made]


def test_spans_are_sorted_and_the_later_begins_at_the_earlier_end() -> None:
    assert resolved((5, 7), (0, 2)) == [(0, 2), (5, 7)]
    assert resolved((0, 3), (2, 4), (3.5, 6)) == [(0, 3), (3, 4), (4, 6)]
    assert resolved((0, 9), (2, 4)) == [(0, 9)]


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_the_three_forms_of_a_spans_file_say_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.spans.{suffix}"
    if suffix == "csv":
        lines = ["start_s,end_s,text", *(f"{r['start_s']},{r['end_s']},{r['text']}" for r in ROWS)]
        path.write_text("\n".join(lines))
    elif suffix == "json":
        path.write_text(json.dumps(ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert read_spans(path) == (
        Span(start_s=0.0, end_s=3.0, text="reach"),
        Span(start_s=3.0, end_s=4.0, text="pour\ntilt"),
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("begin,end_s\n0,1\n", "column 'start_s' is missing"),
        ("start_s,end_s\n3,1\n", "must end after it starts"),
        ("start_s,end_s\nzero,1\n", "could not convert"),
        ("start_s,end_s\nnan,1\n", "must be finite"),
    ],
)
def test_a_wrong_spans_file_is_an_error_of_that_file(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "a.spans.csv"
    path.write_text(text)
    with pytest.raises(SampleError, match=cause) as caught:
        read_spans(path)
    assert caught.value.reason == "spans"


def test_two_spans_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.spans.csv").write_text("")
    (tmp_path / "a.spans.json").write_text("[]")
    with pytest.raises(SampleError, match=r"two span files beside it, a\.spans\.csv and a\.spans"):
        find_sidecars(tmp_path / "a.mp4")


def test_sidecars_are_found_by_stem_and_their_digests_change_with_them(tmp_path: Path) -> None:
    video = tmp_path / "a b.mp4"
    assert find_sidecars(video).digests() == []
    (tmp_path / "a b.txt").write_text("  folds a shirt \n")
    assert read_caption(video) == "folds a shirt"
    assert read_caption(tmp_path / "other.mp4") is None
    first = find_sidecars(video).digests()
    (tmp_path / "a b.txt").write_text("folds a towel")
    assert find_sidecars(video).digests() != first


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    mark = "\ufeff"
    (tmp_path / "a.txt").write_text(f"{mark}folds a shirt\r\n", encoding="utf-8", newline="")
    assert read_caption(tmp_path / "a.mp4") == "folds a shirt"
    for suffix, text in (
        (".csv", "start_s,end_s,text\r\n0,1,pour\r\n"),
        (".json", '[{"start_s": 0, "end_s": 1, "text": "pour"}]'),
    ):
        path = tmp_path / f"a.spans{suffix}"
        path.write_text(mark + text, encoding="utf-8", newline="")
        assert read_spans(path) == (Span(start_s=0.0, end_s=1.0, text="pour"),)


def actions_file(tmp_path: Path, *, rate_hz: float = 30.0, num_rows: int = 60) -> Path:
    path = tmp_path / "a.actions.parquet"
    times = np.arange(num_rows) / rate_hz
    table = pa.table({"gripper": np.arange(num_rows) * 1.0, "time_s": times, "x": times * 10})
    pq.write_table(table, path)
    return path


def test_actions_are_taken_from_the_nearest_row_in_the_bodys_column_order(tmp_path: Path) -> None:
    actions = read_actions(actions_file(tmp_path, rate_hz=60.0, num_rows=120), ["x", "gripper"])
    rows = actions.at(np.array([0.0, 0.034, 1.0]), frame_interval_s=1 / 30)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[:, 1], [0, 2, 60])
    np.testing.assert_allclose(rows[:, 0], [0, 10 / 30, 10], rtol=1e-5)


def test_a_slower_robot_may_be_half_its_own_interval_away(tmp_path: Path) -> None:
    actions = read_actions(actions_file(tmp_path, rate_hz=5.0, num_rows=10), ["x"])
    assert actions.at(np.array([0.1009]), frame_interval_s=1 / 30).shape == (1, 1)


def test_a_frame_too_far_from_every_row_is_an_error(tmp_path: Path) -> None:
    actions = read_actions(actions_file(tmp_path), ["x"])
    with pytest.raises(SampleError, match=r"the frame at 2\.500 s is 0\.533 s from the nearest"):
        actions.at(np.array([1.0, 2.5]), frame_interval_s=1 / 30)


def test_a_single_row_serves_frames_near_it(tmp_path: Path) -> None:
    actions = read_actions(actions_file(tmp_path, num_rows=1), ["x"])
    assert actions.at(np.array([0.0, 0.01]), frame_interval_s=1 / 30).shape == (2, 1)


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ({"time_s": [0.0, 1.0]}, "it has no column x"),
        ({"time_s": [1.0, 0.0], "x": [0.0, 0.0]}, "time_s does not ascend"),
        ({"time_s": [0.0, 1.0], "x": [0.0, float("nan")]}, "no finite numbers"),
        ({"time_s": pa.array([], pa.float64()), "x": pa.array([], pa.float64())}, "no rows"),
    ],
)
def test_a_wrong_actions_file_is_an_error_of_that_file(
    tmp_path: Path, columns: dict[str, list[float]], cause: str
) -> None:
    path = tmp_path / "a.actions.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SampleError, match=cause) as caught:
        read_actions(path, ["x"])
    assert caught.value.reason == "actions"


def test_a_name_too_long_for_a_sidecar_has_none(tmp_path: Path) -> None:
    video = tmp_path / f"{'x' * 251}.mp4"
    video.write_bytes(b"")
    assert find_sidecars(video).digests() == []
    assert read_caption(video) is None
