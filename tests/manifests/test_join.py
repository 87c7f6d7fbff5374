"""Columns made elsewhere find their clips, and every row that finds none is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_helpers import toy_dataset

from manifests import Dataset
from manifests.errors import DatasetError, UsageError
from manifests.join import join_columns
from manifests.validate import validate

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two videos with clips at 0-2, 2-4 and 4-6 s."""
    return toy_dataset(tmp_path / "d", num_videos=2)


def clip_ids(dataset: Dataset) -> list[str]:
    query = "SELECT clip_id FROM clips ORDER BY uri, start_s"
    ids: list[str] = dataset.sql(query).column("clip_id").to_pylist()
    return ids


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_by_clip_id(dataset: Dataset, tmp_path: Path) -> None:
    ids = clip_ids(dataset)
    file = parquet(
        tmp_path / "a.parquet",
        clip_id=[*ids[:3], "0" * 24],
        small=pa.array([1, 2, 3, 4], pa.int8()),
        ratio=pa.array([0.5, None, 1, 1], pa.float32()),
        label=pa.array(["a", "b", "a", "c"]).dictionary_encode(),
    )
    report = join_columns(dataset, file, name="mine")
    assert (report.num_rows, report.num_matched, report.num_unmatched) == (4, 3, 1)
    assert report.unmatched == (f"row 3: {'0' * 24}",)
    assert (report.num_clips_scored, report.num_clips) == (3, 6)
    found = dataset.sql(
        "SELECT mine.small, mine.ratio, mine.label FROM clips ORDER BY uri, start_s"
    )
    assert found.to_pylist()[:4] == [
        {"small": 1, "ratio": 0.5, "label": "a"},
        {"small": 2, "ratio": None, "label": "b"},
        {"small": 3, "ratio": 1.0, "label": "a"},
        {"small": None, "ratio": None, "label": None},
    ]
    assert dataset.metadata("scores/mine")["file"] == "a.parquet"
    assert validate(Dataset.open(dataset.path)) == []


@pytest.mark.parametrize("key", ["video_id", "uri"])
def test_by_video_and_span_the_row_that_covers_most_wins(
    dataset: Dataset, tmp_path: Path, key: str
) -> None:
    video = dataset.sql(f"SELECT {key} AS k FROM videos ORDER BY uri").column("k")[0].as_py()
    lines = [
        f"{key},start_s,end_s,task",
        f"{video},0,2.5,fold",  # all of the first clip, a quarter of the second
        f"{video},2.5,4,pour",  # three quarters of the second
        f"{video},3.9,4.4,slip",  # a fifth of the third: too little
        f"{video},90,91,late",
        "unknown,0,9,lost",
    ]
    file = tmp_path / "spans.csv"
    file.write_text("\n".join(lines) + "\n")
    report = join_columns(dataset, file, name="tasks")
    found = dataset.sql("SELECT tasks.task FROM clips ORDER BY uri, start_s").column(0).to_pylist()
    assert found == ["fold", "pour", None, None, None, None]
    assert (report.key, report.columns, report.num_matched) == (key, ("task",), 2)
    assert report.num_unmatched == 3
    assert report.unmatched[2] == "row 4: unknown 0.0 9.0"
    generous = join_columns(dataset, file, name="tasks", min_overlap=0.2, replace=True)
    assert (generous.num_matched, generous.num_clips_scored) == (3, 3)


def test_an_address_may_be_written_in_another_way(dataset: Dataset, tmp_path: Path) -> None:
    uris = dataset.sql("SELECT DISTINCT uri FROM videos ORDER BY uri").column(0).to_pylist()
    beside = uris[0].replace("/footage/", "/footage/../footage/")
    lines = ["uri,start_s,end_s,task", f"{beside},4,6,wipe", f"{uris[1]},0,2,fold", ",0,9,nobody"]
    file = tmp_path / "spans.csv"
    file.write_text("\n".join(lines) + "\n")
    report = join_columns(dataset, file, name="tasks")
    found = dataset.sql("SELECT tasks.task FROM clips ORDER BY uri, start_s").column(0).to_pylist()
    assert found[:4] == [None, None, "wipe", "fold"]
    assert (report.num_matched, report.num_unmatched) == (2, 1)


def test_one_row_may_speak_for_several_clips(dataset: Dataset, tmp_path: Path) -> None:
    uri = dataset.sql("SELECT uri FROM videos ORDER BY uri").column("uri")[1].as_py()
    file = parquet(tmp_path / "a.parquet", uri=[uri], start_s=[0], end_s=[100], scene=["kitchen"])
    report = join_columns(dataset, file, name="scenes")
    assert (report.num_matched, report.num_clips_scored) == (1, 3)


def test_vectors_of_any_length_and_width_are_taken(dataset: Dataset, tmp_path: Path) -> None:
    ids = clip_ids(dataset)[:2]
    vectors = pa.array(np.arange(4, dtype=np.float32) / 4)
    file = parquet(
        tmp_path / "a.parquet",
        clip_id=pa.array(ids, pa.large_string()),
        fixed=pa.FixedSizeListArray.from_arrays(vectors, 2),
        free=pa.array([[1], [2, 3]], pa.large_list(pa.int32())),
        _row=[7, 8],
    )
    join_columns(dataset, file, name="mine")
    found = dataset.sql(f"SELECT mine.* FROM clips WHERE clip_id = '{ids[1]}'").to_pylist()
    assert found == [{"fixed": [0.5, 0.75], "free": [2, 3], "_row": 8}]
    file = parquet(tmp_path / "b.parquet", clip_id=ids, Score=[1, 2], score=[3, 4])
    with pytest.raises(UsageError, match="two columns called 'Score'"):
        join_columns(dataset, file, name="other")
    with pytest.raises(UsageError, match="min_overlap is nan"):
        join_columns(dataset, file, name="other", min_overlap=math.nan)


def test_nothing_is_written_when_it_does_not_fit(dataset: Dataset, tmp_path: Path) -> None:
    ids = clip_ids(dataset)
    path = tmp_path / "a.parquet"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"x": [1]}, UsageError, "has no column to match clips by; it has x"),
        ({"uri": ["a"], "start_s": [0.0]}, UsageError, "has no column to match clips by"),
        ({"clip_id": [1], "x": [1]}, UsageError, "column clip_id has the type int64, must be text"),
        ({"clip_id": ids[:1]}, UsageError, "has no column besides those"),
        ({"clip_id": ["no"], "x": [1]}, DatasetError, "None of the 1 rows .* matches a clip"),
        ({"clip_id": ids[:1] * 2, "x": [1, 2]}, DatasetError, "would have two rows"),
        ({"clip_id": ids[:1], "x": [np.nan]}, DatasetError, "holds NaN or infinity"),
        (
            {"clip_id": ids[:1], "x": pa.array([0], pa.timestamp("s"))},
            DatasetError,
            r"x has the type timestamp\[\w+\], which tables do not take",
        ),
        (
            {"clip_id": ids[:1], "x": pa.array([2**64 - 1], pa.uint64())},
            DatasetError,
            "Column x cannot be stored as int64",
        ),
        (
            {"uri": ["a"], "start_s": [2.0], "end_s": [2.0], "x": [1]},
            UsageError,
            "row 0: start_s must be before end_s",
        ),
        (
            {"uri": ["a"], "start_s": ["0"], "end_s": ["1"], "x": [1]},
            UsageError,
            "column start_s has the type string, must be seconds",
        ),
    ]
    for columns, error, words in cases:
        with pytest.raises(error, match=words):
            join_columns(dataset, parquet(path, **columns), name="mine")
    with pytest.raises(DatasetError, match="cannot be called 'clips'"):
        join_columns(dataset, parquet(path, clip_id=ids[:1], x=[1]), name="clips")
    path.write_text("no parquet")
    with pytest.raises(UsageError, match="cannot be read"):
        join_columns(dataset, path, name="mine")
    with pytest.raises(UsageError, match=r"is no \.parquet and no \.csv file"):
        join_columns(dataset, tmp_path / "a.txt", name="mine")
    assert Dataset.open(dataset.path).scores == []


def test_the_command(dataset: Dataset, tmp_path: Path, cli: Cli) -> None:
    ids = clip_ids(dataset)
    file = tmp_path / "ratings.csv"
    file.write_text("clip_id,stars\n" + "".join(f"{clip_id},4\n" for clip_id in [*ids, "f" * 24]))
    args = ("manifest", "join", dataset.path, "--columns", file, "--name", "ratings")
    tried = cli(*args, "--dry-run")
    assert tried.exit_code == 0
    assert "6 of 6 clips would have scores ratings.{stars}, matched by clip_id." in tried.stdout
    assert Dataset.open(dataset.path).scores == []
    done = cli(*args)
    assert done.exit_code == 0
    assert "6 of 7 rows were used, 1 match no clip:" in done.stdout
    again = cli(*args)
    assert again.exit_code == 1
    assert "would have two rows" in again.stderr
    replaced = json.loads(cli(*args, "--replace", "--json").stdout)
    assert (replaced["num_unmatched"], replaced["is_dry_run"]) == (1, False)
    assert cli(*args, "--replace", "--quiet").stdout == ""
    missing = cli("manifest", "join", dataset.path, "--columns", "no.csv", "--name", "x")
    assert missing.exit_code == 2
    assert "no.csv cannot be read" in missing.stderr
