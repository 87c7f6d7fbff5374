"""Files of a table are rewritten: only those that hold a row to be changed, or all that are small.

delta-rs' own `delete` writes `string_view` columns, on which pyarrow cannot filter, and replacing
all rows would copy a table of millions of clips for the sake of one video; its compaction holds
whole files in memory. The commit is one as delta-rs makes: the log takes files away and adds
others. It is put only if absent, so that nobody else's commit is passed over.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable

from . import object_store, storage, tables
from .errors import StorageError
from .locations import Location, ObjectPath, location
from .scratch import scratch_file
from .table_files import filesystem_of

Change = Callable[[pa.Table], pa.Table]

_NUM_ATTEMPTS = 20
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSizes:
    """How large files are made.

    Attributes:
        file_bytes: A file ends when it has this size; those that have it are large enough.
        group_bytes: Size of a row group before it is written: this many bytes, and as much again
            of what is written, are held in memory. Readers pay for each group and for each file.
    """

    file_bytes: int
    group_bytes: int


LARGE = FileSizes(file_bytes=100 << 20, group_bytes=4 << 20)


def rewrite(
    table: DeltaTable,
    *,
    column: str,
    values: Sequence[str],
    change: Change | None = None,
    more: pa.Table | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Change the rows whose `column` is one of `values`, in one commit; older versions stay.

    Rows are read and written some at a time; files without such a row stay as they are. Where
    there is nothing to change and nothing to add, nothing is committed.

    Args:
        table: The open table; then stands at its newest version.
        column: A column of text.
        values: Its values in the rows concerned.
        change: Gets those rows, some at a time, and gives what takes their place; None: nothing.
        more: Rows to add besides.
        metadata: What the commit says of itself.

    Raises:
        ConflictError: Others committed again and again meanwhile.
        StorageError: A file cannot be read or written.
    """
    wanted = pa.array(values, pa.string())

    def attempt(schema: pa.Schema, _: Mapping[str, int]) -> tuple[list[str], Iterator[pa.Table]]:
        filesystem = filesystem_of(table.table_uri)
        files = tables.live_files(table)
        held = [file for file in files if _holds(filesystem, file, column, wanted)]
        added = None if more is None else more.select(schema.names)
        return held, _changed(filesystem, held, schema, column, wanted, change, added)

    _commit(table, attempt, LARGE, metadata=metadata or {}, is_change=True)


def merge(table: DeltaTable, sizes: FileSizes = LARGE, *, min_files: int = 2) -> None:
    """Put large files in the place of smaller ones, in one commit.

    Rows stay as they are; they are read and written some at a time, however large the table is.

    Args:
        table: The open table; then stands at its newest version.
        sizes: What is large enough, and how large files are made.
        min_files: Fewer small files are left as they are.

    Raises:
        ConflictError: Others committed again and again meanwhile.
        StorageError: A file cannot be read or written.
    """

    def attempt(
        schema: pa.Schema, bytes_of: Mapping[str, int]
    ) -> tuple[list[str], Iterator[pa.Table]]:
        filesystem = filesystem_of(table.table_uri)
        files = tables.live_files(table)
        small = [file for file in files if bytes_of[location(file).name] < sizes.file_bytes]
        small = small if len(small) >= max(2, min_files) else []
        return small, (rows for file in small for rows in _rows_of(filesystem, file, schema))

    _commit(table, attempt, sizes, metadata={}, is_change=False)


def _commit(
    table: DeltaTable,
    attempt: Callable[[pa.Schema, Mapping[str, int]], tuple[list[str], Iterator[pa.Table]]],
    sizes: FileSizes,
    *,
    metadata: Mapping[str, str],
    is_change: bool,
) -> None:
    """Put rows in the place of files, from the start again whenever somebody else was faster."""
    folder = tables.folder_of(table)
    for _ in range(_NUM_ATTEMPTS):
        tables.refresh(table)
        may_be_named, written = False, list[tuple[str, int, int]]()
        try:
            bytes_of = tables.sizes_of(table)
            removed, rows = attempt(tables.schema_of(table), bytes_of)
            written.extend(_write(folder, rows, tables.schema_of(table), sizes))
            gone = {name: bytes_of[name] for name in (location(f).name for f in removed)}
            actions = list(_actions(gone, written, metadata, is_change=is_change))
            is_done = len(actions) == 1
            if not is_done:
                may_be_named = True  # when no answer comes, nobody knows
                is_done = may_be_named = _put(folder, table.version() + 1, actions)
        except StorageError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise tables.write_failed(table, error) from error
        finally:
            for name, _, _ in written if not may_be_named else ():
                storage.remove(folder / name)
            pa.default_memory_pool().release_unused()
        if is_done:
            tables.refresh(table)
            return
    raise tables.conflict(table)


def _put(folder: Location, version: int, actions: Sequence[Mapping[str, Any]]) -> bool:
    """Write a commit unless there is one of that version."""
    text = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
    return storage.write_new(folder / "_delta_log" / f"{version:020d}.json", text.encode("utf-8"))


def _changed(
    filesystem: Any,
    files: Sequence[str],
    schema: pa.Schema,
    column: str,
    values: pa.Array,
    change: Change | None,
    more: pa.Table | None,
) -> Iterator[pa.Table]:
    for file in files:
        for rows in _rows_of(filesystem, file, schema):
            is_meant = pc.is_in(rows.column(column), values)
            yield rows.filter(pc.invert(is_meant))
            if change is not None:
                yield change(rows.filter(is_meant))
    if more is not None:
        yield more


def _holds(filesystem: Any, file: str, column: str, values: pa.Array) -> bool:
    with _opened(filesystem, file) as opened:
        if column not in opened.schema_arrow.names:
            return False
        batches = opened.iter_batches(1 << 16, columns=[column], use_threads=False)
        return any(pc.any(pc.is_in(b.column(0), values)).as_py() for b in batches)


def _rows_of(filesystem: Any, file: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """A file's rows in the table's columns, which older files lack some of."""
    with _opened(filesystem, file) as opened:
        for batch in opened.iter_batches(_ROWS_AT_ONCE, use_threads=False):
            names = set(batch.schema.names)
            columns = [
                batch.column(field.name).cast(field.type)
                if field.name in names
                else pa.nulls(batch.num_rows, field.type)
                for field in schema
            ]
            yield pa.Table.from_arrays(columns, schema=schema)


@contextmanager
def _opened(filesystem: Any, file: str) -> Iterator[pq.ParquetFile]:
    is_far = not isinstance(filesystem, pafs.LocalFileSystem)  # a whole row group per request
    with (
        filesystem.open_input_file(file) as source,
        pq.ParquetFile(source, pre_buffer=is_far) as opened,
    ):
        yield opened


def _write(
    folder: Location, rows: Iterator[pa.Table], schema: pa.Schema, sizes: FileSizes
) -> Iterator[tuple[str, int, int]]:
    """Rows as new files of a bounded size: (name, bytes, rows) of each; none without rows."""
    groups = _groups(rows, sizes.group_bytes)
    for first in groups:
        name, num_rows = f"part-rewritten-{uuid.uuid4()}.snappy.parquet", 0
        with _new_file(folder / name) as path, open(path, "xb") as stream:
            with pq.ParquetWriter(
                stream, schema, compression="snappy", use_dictionary=_repeating(schema)
            ) as writer:
                for group in itertools.chain([first], groups):
                    writer.write_table(group)
                    num_rows += group.num_rows
                    if stream.tell() >= sizes.file_bytes:
                        break
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.tell()
        yield name, size, num_rows


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns worth a dictionary: ids of clips never repeat in a table."""
    return [f.name for f in schema if f.name != "clip_id" and not pa.types.is_nested(f.type)]


def _groups(rows: Iterator[pa.Table], group_bytes: int) -> Iterator[pa.Table]:
    """Rows of one row group each: what is held in memory at a time."""
    held: list[pa.Table] = []
    num_bytes = 0
    for some in rows:
        if some.num_rows:
            held.append(some)
            num_bytes += some.nbytes
        if num_bytes >= group_bytes:
            yield pa.concat_tables(held)
            held, num_bytes = [], 0
    if held:
        yield pa.concat_tables(held)


@contextmanager
def _new_file(path: Location) -> Iterator[Path]:
    """Where a new data file is written. Half of one is never named by the log."""
    if isinstance(path, ObjectPath):
        with scratch_file(path.name) as temporary:
            yield temporary
            object_store.put(str(path), temporary)
        return
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _actions(
    removed: Mapping[str, int],
    added: Sequence[tuple[str, int, int]],
    metadata: Mapping[str, str],
    *,
    is_change: bool,
) -> Iterator[dict[str, Any]]:
    """The lines of the commit, as the Delta protocol has them."""
    now_ms = time.time_ns() // 1_000_000
    named = tables.named_metadata(metadata)
    info = {
        "timestamp": now_ms,
        "operation": "WRITE" if is_change else "OPTIMIZE",
        "operationParameters": {"mode": "Overwrite"} if is_change else {},
        "engineInfo": "egodojo",
    }
    yield {"commitInfo": {**info, **named}}
    for name, size in removed.items():
        yield {
            "remove": {
                "path": name,
                "deletionTimestamp": now_ms,
                "dataChange": is_change,
                "extendedFileMetadata": True,
                "partitionValues": {},
                "size": size,
            }
        }
    for name, size, num_rows in added:
        yield {
            "add": {
                "path": name,
                "partitionValues": {},
                "size": size,
                "modificationTime": now_ms,
                "dataChange": is_change,
                "stats": json.dumps({"numRecords": num_rows}),
            }
        }
