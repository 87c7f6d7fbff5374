"""Merging small files of a table: no row changes, older versions stay, nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import storage, table_merge, tables
from manifests.errors import StorageError
from manifests.table_merge import Merge, merge_small_files

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("words", pa.list_(pa.int64())),
        ("parts", pa.list_(pa.struct([("uri", pa.string()), ("tick", pa.int64())]))),
    ]
)
SMALL = Merge(file_bytes=1 << 20, group_bytes=1 << 20)
LARGER = pa.schema([*SCHEMA, pa.field("score", pa.float64())])


def rows(first: int, count: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    made = [
        {
            "clip_id": f"{n:024x}",
            "words": list(range(n % 5)),
            "parts": [{"uri": f"/{n}.mp4", "tick": n if n % 2 else None}],
            "score": n / 2,
        }
        for n in range(first, first + count)
    ]
    return pa.Table.from_pylist(made, schema=schema)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files; those after the second have a column more."""
    folder = tmp_path / "table"
    tables.create(folder, SCHEMA)
    table = tables.open_table(folder)
    for number in range(5):
        schema = SCHEMA if number < 2 else LARGER
        tables.append(table, rows(10 * number, 10, schema), merge_schema=True)
    return folder


def contents(folder: Path, version: int | None = None) -> list[dict[str, object]]:
    data = tables.dataset_of(tables.open_table(folder, version)).to_table()
    return data.sort_by("clip_id").to_pylist()


def parquet_files(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.parquet")}


def test_no_row_changes_and_older_versions_stay(folder: Path) -> None:
    before = contents(folder)
    assert [row["score"] for row in before[19:22]] == [None, 10.0, 10.5]
    table = tables.open_table(folder)
    version = table.version()
    assert merge_small_files(table, folder, SMALL)
    assert table.version() == version + 1
    for opened in (table, tables.open_table(folder)):
        assert len(tables.live_files(opened)) == 1
    assert contents(folder) == before
    assert contents(folder, version) == before
    assert not merge_small_files(table, folder, SMALL)  # one file is no work
    tables.append(table, rows(50, 3, LARGER))
    assert [row["clip_id"] for row in contents(folder)] == [f"{n:024x}" for n in range(53)]
    tables.compact(table)  # delta-rs takes the commit for one of its own
    assert len(contents(folder)) == 53


def test_large_files_are_left_alone(folder: Path) -> None:
    table = tables.open_table(folder)
    tables.append(table, rows(50, 20_000, LARGER))
    sizes = {Path(file): Path(file).stat().st_size for file in tables.live_files(table)}
    large = max(sizes, key=lambda path: sizes[path])
    assert merge_small_files(table, folder, Merge(file_bytes=sizes[large], group_bytes=1 << 20))
    assert str(large) in tables.live_files(table)
    assert len(tables.live_files(table)) == 2
    assert len(contents(folder)) == 20_050


def test_rows_are_held_some_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_merge, "_ROWS_AT_ONCE", 4)
    before, table = contents(folder), tables.open_table(folder)
    assert merge_small_files(table, folder, Merge(file_bytes=1 << 20, group_bytes=1))
    (merged,) = tables.live_files(table)
    groups = pq.ParquetFile(merged).metadata
    assert max(groups.row_group(n).num_rows for n in range(groups.num_row_groups)) == 4
    assert contents(folder) == before


def test_a_file_ends_when_it_is_large_enough_and_few_files_are_left(folder: Path) -> None:
    table = tables.open_table(folder)
    for number in range(5, 20):
        tables.append(table, rows(10 * number, 10, LARGER))
    before = contents(folder)
    many = Merge(file_bytes=1 << 20, group_bytes=1, min_files=21)
    assert not merge_small_files(table, folder, many)
    size = max(Path(file).stat().st_size for file in tables.live_files(table)) + 1
    assert merge_small_files(table, folder, Merge(file_bytes=size, group_bytes=1, min_files=20))
    made = [Path(file) for file in tables.live_files(table)]
    assert 1 < len(made) < 20
    assert sum(file.stat().st_size >= size for file in made) >= len(made) - 1
    assert contents(folder) == before


def test_when_somebody_else_commits_meanwhile_nothing_happens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = contents(folder), parquet_files(folder)
    table = tables.open_table(folder)

    def late(log: Path, data: bytes) -> bool:
        tables.append(tables.open_table(folder), rows(50, 1, LARGER))
        return storage.write_new(log, data)

    monkeypatch.setattr(table_merge, "storage", type("Late", (), {"write_new": staticmethod(late)}))
    assert not merge_small_files(table, folder, SMALL)
    assert contents(folder)[:-1] == before
    assert len(parquet_files(folder) - files) == 1  # the other's
    monkeypatch.undo()
    assert merge_small_files(table, folder, SMALL)
    assert contents(folder)[:-1] == before


def test_a_full_disk_is_said_in_a_sentence_and_leaves_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = contents(folder), parquet_files(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_merge.os, "fsync", full)
    with pytest.raises(StorageError, match=r"The files of the table table at .* cannot be merged"):
        merge_small_files(tables.open_table(folder), folder, SMALL)
    monkeypatch.undo()
    assert (contents(folder), parquet_files(folder)) == (before, files)
