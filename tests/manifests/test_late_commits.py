"""The last commit of a killed writer arrives late, when its successor has looked and writes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from dataset_helpers import SETTINGS, finished_unit, planned_unit, video_row

from manifests import Dataset, schema, tables, writer
from manifests.errors import DatasetError
from manifests.validate import validate


@pytest.mark.parametrize("is_merged_first", [False, True])
@pytest.mark.parametrize("name", ["clips", "units"])
def test_a_unit_is_never_there_twice(tmp_path: Path, name: str, is_merged_first: bool) -> None:
    path = tmp_path / "d"
    dataset = Dataset.create(path, SETTINGS)
    videos = [video_row(name) for name in "abc"]
    units = [planned_unit(number, [video]) for number, video in enumerate(videos)]
    results = [finished_unit(path, unit) for unit in units]
    with dataset.writer("killed") as first:
        first.append_videos(videos)
        first.append_plan(units)
    late = {
        "clips": pa.Table.from_pylist(results[0][1], schema=schema.CLIPS),
        "units": pa.Table.from_pylist([results[0][0]], schema=schema.UNITS),
    }[name]
    with dataset.writer("successor") as second:
        second.commit_units([finished_unit(path, units[1])])  # (its shard was an orphan's)
        tables.append(tables.open_table(path / "catalog" / name), late)
        act = partial(second.commit_units, [finished_unit(path, units[0])])
        with pytest.raises(DatasetError, match="was changed by another command meanwhile"):
            second._merge(name, writer.MERGED, min_files=2) if is_merged_first else act()
        with pytest.raises(DatasetError, match=r"nothing more is written"):
            second.commit_units(results[2:])
    with dataset.writer("rerun") as third:
        pending = {unit.unit_id for unit in dataset.pending_units()}
        third.commit_units([finished_unit(path, unit) for unit in units if unit.unit_id in pending])
    found = Dataset.open(path)
    ids = found.table("clips").column("clip_id").to_pylist()
    assert sorted(ids) == sorted(row["clip_id"] for _, rows in results for row in rows)
    assert validate(found) == []
