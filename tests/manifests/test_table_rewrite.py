"""Rows are changed by rewriting only the files that hold them; everything else stays as it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import storage, table_rewrite, tables
from manifests.errors import StorageError
from manifests.table_rewrite import FileSizes

SCHEMA = pa.schema([("clip_id", pa.string()), ("unit_id", pa.string()), ("n", pa.int64())])
LARGER = pa.schema([*SCHEMA, pa.field("score", pa.float64())])


def rows(first: int, count: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    made = [
        {"clip_id": f"{n:04d}", "unit_id": f"u{n // 5}", "n": n, "score": n / 2}
        for n in range(first, first + count)
    ]
    return pa.Table.from_pylist(made, schema=schema)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files of ten rows and two units; those after the second have a column more."""
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


def test_only_the_files_that_hold_a_row_are_rewritten(folder: Path) -> None:
    table, before = tables.open_table(folder), contents(folder)
    version, files = table.version(), set(tables.live_files(table))
    tables.delete(table, "unit_id", ["u1", "u7", "none"])
    assert contents(folder) == [row for row in before if row["unit_id"] not in ("u1", "u7")]
    assert len(files & set(tables.live_files(table))) == 3
    assert table.version() == version + 1
    assert contents(folder, version) == before
    assert [row["score"] for row in contents(folder)][4:7] == [None, None, None]
    tables.append(table, rows(60, 1, LARGER))
    table.optimize.compact()  # delta-rs takes the commit for one of its own
    assert len(contents(folder)) == 41
    tables.delete(table, "unit_id", [f"u{n}" for n in range(20)])
    assert (contents(folder), tables.live_files(table)) == ([], [])


def test_rows_are_changed_and_added_in_one_commit_that_says_so(folder: Path) -> None:
    table, before = tables.open_table(folder), contents(folder)

    def negative(some: pa.Table) -> pa.Table:
        return some.set_column(2, "n", pa.compute.negate(some.column("n")))

    table_rewrite.rewrite(
        table, column="unit_id", values=["u4"], change=negative, more=rows(90, 2, LARGER),
        metadata={"next": "7"},
    )  # fmt: skip
    want = [row | {"n": -row["n"]} if row["unit_id"] == "u4" else row for row in before]
    assert contents(folder) == [*want, *rows(90, 2, LARGER).to_pylist()]
    assert tables.metadata_of(folder, table.version()) == {"next": "7"}


def test_small_files_are_merged_and_no_row_changes(folder: Path) -> None:
    table, before = tables.open_table(folder), contents(folder)
    version = table.version()
    table_rewrite.merge(table)
    assert (len(tables.live_files(table)), table.version()) == (1, version + 1)
    assert contents(folder) == contents(folder, version) == before
    table_rewrite.merge(table)  # one file is no work
    assert table.version() == version + 1
    table.optimize.compact()  # delta-rs takes the commit for one of its own
    tables.append(table, rows(50, 20_000, LARGER))
    tables.append(table, rows(20_050, 1, LARGER))
    (*_, large) = sorted(tables.live_files(table), key=lambda file: Path(file).stat().st_size)
    size = Path(large).stat().st_size
    table_rewrite.merge(table, FileSizes(file_bytes=size, group_bytes=1 << 20))
    assert (len(tables.live_files(table)), large in tables.live_files(table)) == (2, True)
    assert len(contents(folder)) == 20_051


def test_a_file_ends_when_it_is_large_enough_and_few_files_are_left(folder: Path) -> None:
    table = tables.open_table(folder)
    for number in range(5, 20):
        tables.append(table, rows(10 * number, 10, LARGER))
    before, files = contents(folder), tables.live_files(table)
    size = max(Path(file).stat().st_size for file in files) + 1
    sizes = FileSizes(file_bytes=size, group_bytes=1)
    table_rewrite.merge(table, sizes, min_files=21)
    assert tables.live_files(table) == files
    table_rewrite.merge(table, sizes, min_files=20)
    made = [Path(file) for file in tables.live_files(table)]
    assert 1 < len(made) < 20
    assert sum(file.stat().st_size >= size for file in made) >= len(made) - 1
    assert contents(folder) == before


def test_nothing_to_change_is_no_commit(folder: Path) -> None:
    table = tables.open_table(folder)
    version, files = table.version(), sorted(folder.iterdir())
    tables.delete(table, "unit_id", ["none"])
    assert (table.version(), sorted(folder.iterdir())) == (version, files)


def test_rows_are_held_some_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rewrite, "_ROWS_AT_ONCE", 4)
    monkeypatch.setattr(table_rewrite, "LARGE", FileSizes(file_bytes=1, group_bytes=1))
    monkeypatch.setattr("os.fsync", lambda _: None)  # of many files
    table, before = tables.open_table(folder), contents(folder)
    tables.replace_where(table, rows(0, 50, LARGER), column="unit_id", values=["u0", "u9"])
    files = [pq.ParquetFile(file).metadata for file in tables.live_files(table)]
    assert len(files) > 6
    assert max(f.row_group(n).num_rows for f in files for n in range(f.num_row_groups)) <= 50
    assert len(contents(folder)) == len(before) - 10 + 50


def test_what_somebody_commits_meanwhile_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [rows(60, 1, LARGER), rows(20, 1, LARGER)]

    def write_new(log: Path, data: bytes) -> bool:
        if late:
            tables.append(tables.open_table(folder), late.pop())
        return storage.write_new(log, data)

    fake = type("Late", (), {"write_new": staticmethod(write_new), "remove": storage.remove})
    monkeypatch.setattr(table_rewrite, "storage", fake)
    tables.delete(tables.open_table(folder), "unit_id", ["u4"])  # one of the late rows is of it
    assert [row["n"] for row in contents(folder)] == [*range(20), *range(25, 50), 60]
    live = {Path(file) for file in tables.live_files(tables.open_table(folder))}
    assert set(folder.glob("part-rewritten-*")) <= live


def test_files_of_a_commit_whose_answer_is_lost_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)

    def lost(log: Path, data: bytes) -> bool:
        storage.write_new(log, data)
        raise StorageError("No answer came.")

    fake = type("Lost", (), {"write_new": staticmethod(lost), "remove": storage.remove})
    monkeypatch.setattr(table_rewrite, "storage", fake)
    with pytest.raises(StorageError, match="No answer"):
        tables.delete(tables.open_table(folder), "unit_id", ["u4"])
    assert contents(folder) == [row for row in before if row["unit_id"] != "u4"]


def test_a_full_disk_is_said_in_a_sentence_and_leaves_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = contents(folder), sorted(folder.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_rewrite.os, "fsync", full)
    with pytest.raises(StorageError, match=r"Cannot write the table table at .*No space left"):
        tables.delete(tables.open_table(folder), "unit_id", ["u4"])
    monkeypatch.undo()
    assert (contents(folder), sorted(folder.iterdir())) == (before, files)
