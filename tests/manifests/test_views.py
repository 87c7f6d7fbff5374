"""Every input has exactly one fate, and the sums over fates equal the inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dataset_helpers import (
    SETTINGS,
    Row,
    clip_row,
    planned_unit,
    problem,
    toy_dataset,
    unit_row,
    video_row,
)

from manifests import Dataset, stats
from manifests.records import NOTE_STAGES, Part, PlannedUnit
from manifests.views import FILE_STATES, RESERVED


class Scene:
    """A dataset in which every fate occurs, one unit per video."""

    def __init__(self, path: Path) -> None:
        self.dataset = Dataset.create(path, SETTINGS)
        self.videos: list[Row] = []
        self.units: list[PlannedUnit] = []
        self.results: list[tuple[Row, list[Row]]] = []
        self.decisions: list[Row] = []

    def video(self, name: str, **changes: Any) -> Row:
        self.videos.append(video_row(name, **changes))
        return self.videos[-1]

    def unit(self, *videos: Row) -> PlannedUnit:
        self.units.append(planned_unit(len(self.units), videos))
        return self.units[-1]

    def done(self, unit: PlannedUnit, clips: list[Row], **changes: Any) -> None:
        self.results.append((unit_row(unit, clips, **changes), clips))

    def decide(self, clip: Row, verdict: str, reason: str | None = None) -> None:
        self.decisions.append({"clip_id": clip["clip_id"], "verdict": verdict, "reason": reason})

    def commit(self) -> dict[str, Row]:
        with self.dataset.writer("test") as writer:
            writer.append_videos(self.videos)
            writer.append_plan(self.units)
            writer.commit_units(self.results)
        table = pa.Table.from_pylist(self.decisions, schema=self.dataset.table("decisions").schema)
        self.dataset.replace_decisions(table, metadata={})
        rows = self.dataset.sql("SELECT * FROM files").to_pylist()
        return {Path(row["uri"]).stem: row for row in rows}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    scene = Scene(tmp_path_factory.mktemp("scene") / "d")
    bad = {"state": "unreadable", "reason": "not_video", "detail": "no header"}
    scene.video("broken", video_id=None, **bad)
    _kept_and_dropped(scene)
    _failures(scene)
    _gated_and_split(scene)
    found = scene.commit()
    assert len(found) == len(scene.videos)
    return found


def _kept_and_dropped(scene: Scene) -> None:
    kept = scene.video("kept")
    scene.video("a_copy", same_as="kept")
    unit = scene.unit(kept)
    clips = [clip_row(unit, unit.parts[0], index) for index in range(4)]
    scene.done(unit, clips)
    scene.decide(clips[0], "keep")
    scene.decide(clips[1], "drop", "dark")
    for clip in clips[2:]:
        scene.decide(clip, "drop", "blurred")
    dropped = scene.unit(scene.video("dropped"))
    clip = clip_row(dropped, dropped.parts[0])
    scene.done(dropped, [clip])
    scene.decide(clip, "drop", "dark")
    undecided = scene.unit(scene.video("undecided"))
    scene.done(undecided, [clip_row(undecided, undecided.parts[0])])


def _failures(scene: Scene) -> None:
    victim = scene.video("victim")
    unit = scene.unit(victim)
    died = problem(victim, "worker_died", "signal 11", 300, 0)
    scene.done(unit, [], state="quarantined", problems=[died])
    pair = [scene.video("fails"), scene.video("beside")]
    unit = scene.unit(*pair)
    clips = [clip_row(unit, unit.parts[0]), clip_row(unit, unit.parts[1])]
    late = problem(pair[0], "encode", "out of memory", None, None)
    noted = problem(pair[1], NOTE_STAGES[0], "10 of 300 frames missing", 300, 290)
    scene.done(unit, clips, problems=[noted, late])
    scene.decide(clips[0], "keep")
    scene.decide(clips[1], "keep")
    whole = scene.unit(scene.video("whole_unit"))
    scene.done(whole, [], state="failed")


def _gated_and_split(scene: Scene) -> None:
    gated = scene.unit(scene.video("gated"))
    lengths = [("too_short", 0, 10), ("too_short", 10, 20), ("black", 20, 600)]
    clips = [
        clip_row(gated, gated.parts[0], i, gate=gate, start_tick=a, end_tick=b, start_s=a, end_s=b)
        for i, (gate, a, b) in enumerate(lengths)
    ]
    for index, clip in enumerate(clips):
        clip["clip_id"] = f"{index:024x}"
        scene.decide(clip, "drop", clip["gate"])
    scene.done(gated, clips)
    silent = scene.unit(scene.video("silent"))
    scene.done(silent, [])
    scene.unit(scene.video("waiting"))
    scene.video("not_planned")
    half = scene.video("half_done")
    for number, (start, end) in enumerate([(None, 100), (100, None)]):
        part = Part(uri=half["uri"], video_id=half["video_id"], start_tick=start, end_tick=end)
        unit = PlannedUnit(number=len(scene.units), unit_id=f"{number:024x}", parts=(part,))
        scene.units.append(unit)
    first = scene.units[-2]
    scene.done(first, [clip_row(first, first.parts[0])])


@pytest.mark.parametrize(
    ("name", "state", "reason", "detail", "verdict"),
    [
        ("broken", "unreadable", "not_video", "no header", "drop"),
        ("a_copy", "duplicate", "duplicate", "/footage/kept.mp4", "drop"),
        ("kept", "processed", "blurred", None, "keep"),
        ("dropped", "processed", "dark", None, "drop"),
        ("undecided", "processed", None, None, None),
        ("victim", "quarantined", "worker_died", "signal 11", "drop"),
        ("fails", "failed", "encode", "out of memory", "keep"),
        ("beside", "processed", None, "10 of 300 frames missing", "keep"),
        ("whole_unit", "failed", "unit", None, "drop"),
        ("gated", "no_clips", "too_short", None, "drop"),
        ("silent", "no_clips", None, None, "drop"),
        ("waiting", "pending", None, None, None),
        ("not_planned", "pending", None, None, None),
        ("half_done", "pending", None, None, None),
    ],
)
def test_fate(
    files: dict[str, Row],
    name: str,
    state: str,
    reason: str | None,
    detail: str | None,
    verdict: str | None,
) -> None:
    row = files[name]
    found = (row["state"], row["reason"], row["detail"], row["verdict"])
    assert found == (state, reason, detail, verdict)


def test_seconds_and_counts(files: dict[str, Row]) -> None:
    kept = files["kept"]
    assert (kept["num_clips"], kept["num_kept"], kept["num_gated"]) == (4, 1, 0)
    assert (kept["written_s"], kept["kept_s"]) == (8.0, 2.0)
    assert files["gated"]["written_s"] == 0
    assert files["gated"]["num_gated"] == 3
    assert files["half_done"]["num_clips"] == 1


def test_damage_is_a_fact_beside_the_fate(files: dict[str, Row]) -> None:
    damaged = {name for name, row in files.items() if row["is_damaged"]}
    assert damaged == {"beside", "victim"}


def test_every_state_is_known_and_occurs(files: dict[str, Row]) -> None:
    assert {row["state"] for row in files.values()} == set(FILE_STATES)


def test_damage_is_summed_over_the_parts_of_a_video(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "d")
    video = scene.video("long")
    parts = [
        Part(uri=video["uri"], video_id=video["video_id"], end_tick=100),
        Part(uri=video["uri"], video_id=video["video_id"], start_tick=100),
    ]
    for number, (part, decoded) in enumerate(zip(parts, (99, 101), strict=True)):
        unit = PlannedUnit(number=number, unit_id=f"{number:024x}", parts=(part,))
        scene.units.append(unit)
        note = problem(video, "damaged", "other frames than declared", 100, decoded)
        scene.done(unit, [], problems=[note])
    assert scene.commit()["long"]["is_damaged"] is False


def test_reserved_names_are_the_views(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    for name in RESERVED:
        assert dataset.relation(name, verdict="all").fetchall() == []


def test_a_part_that_only_failed_is_not_quarantined_with_its_neighbour(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "d")
    pair = [scene.video("dies"), scene.video("fails")]
    problems = [
        problem(pair[0], "worker_died", "signal 11", None, None),
        problem(pair[1], "decode", "no frame", None, None),
    ]
    scene.done(scene.unit(*pair), [], state="quarantined", problems=problems)
    found = scene.commit()
    assert (found["dies"]["state"], found["dies"]["reason"]) == ("quarantined", "worker_died")
    assert (found["fails"]["state"], found["fails"]["reason"]) == ("failed", "decode")


def test_counting_joins_no_score_table(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d")

    def num_scans(query: str) -> int:
        return str(dataset.sql(f"EXPLAIN {query}").to_pylist()).count("READ_PARQUET")

    queries = ("SELECT state, count(*) FROM files GROUP BY 1", stats._SUMS.partition(" AS ")[2])
    before = [num_scans(query) for query in queries]
    ids = dataset.sql("SELECT clip_id FROM clips")
    dataset.append_score("hands", ids.append_column("n", [range(len(ids))]), metadata={})
    assert [num_scans(query) for query in queries] == before
    assert min(before) > 0
    assert num_scans("SELECT count(*) FROM clips") > num_scans("SELECT count(*) FROM _decided")
