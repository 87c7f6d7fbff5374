"""Counts of what was filmed, from labels."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from dataset_helpers import toy_dataset

from manifests.decide import decide
from manifests.label_stats import label_counts, label_lines
from manifests.recipe import Recipe
from manifests.stats import stats, stats_text

HEADS = ["labels", "hours", "trajectories", "scenes", "tasks", "objects", "skills"]
LABELS = [
    ("fold", "kitchen", ["towel", "table"], "fold"),
    ("fold", "kitchen", ["towel"], "fold"),
    ("fold", "garage", [], "fold"),
    ("pour tea", "garage", ["cup"], "pour"),
]


def test_scenes_tasks_objects_skills_hours_and_trajectories(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=3)
    decide(dataset, Recipe(name="all", keep=()))
    assert label_counts(dataset) is None
    assert stats(dataset)["labels"] is None
    # Six kept clips of 2 s; the first four in order of video and time are labelled.
    found = dataset.sql("SELECT clip_id FROM kept ORDER BY uri, start_s").column("clip_id")
    names = ("task", "scene", "objects", "skill")
    columns = dict(zip(names, map(list, zip(*LABELS, strict=True)), strict=True))
    table = pa.table({"clip_id": found.to_pylist()[:4], **columns})
    dataset.append_score("captions", table, metadata={"scorer": "captions", "digest": "d"})
    counts = label_counts(dataset)
    assert counts is not None
    assert counts["hours"] == pytest.approx(8 / 3600)
    numbers = {key: value for key, value in counts.items() if key.startswith("num_")}
    assert numbers == {
        "num_clips": 4,
        "num_trajectories": 3,  # video 0: one task; video 1: two
        "num_scenes": 2,
        "num_tasks": 2,
        "num_objects": 3,
        "num_skills": 2,
    }
    assert [row["source"] for row in counts["sources"]] == ["toy"]
    lines = label_lines(counts)
    assert lines[0].split() == HEADS
    assert lines[-1].split() == ["all", "0.00", "3", "2", "2", "3", "2"]
    assert lines[-1] in stats_text(stats(dataset))


def test_dropped_clips_do_not_count(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    clip_id = dataset.sql("SELECT clip_id FROM clips WHERE gate IS NULL").column(0)[0].as_py()
    row = {"clip_id": [clip_id], "task": ["a"], "scene": ["b"], "objects": [["c"]], "skill": ["d"]}
    dataset.append_score("captions", pa.table(row), metadata={})
    counts = label_counts(dataset)
    assert counts is not None
    assert (counts["num_clips"], counts["num_objects"], counts["hours"]) == (0, 0, 0.0)
    assert counts["sources"] == []


def test_another_table_of_that_name_is_left_alone(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    table = pa.table({"clip_id": ["0" * 24], "caption": ["a hand"]})
    dataset.append_score("captions", table, metadata={})
    assert label_counts(dataset) is None
