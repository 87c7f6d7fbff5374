"""Small files of a local table become few, some rows at a time, so that memory stays flat.

delta-rs' own compaction holds whole files and grows by 60 to 100 MB for the same work. The commit
is what it would write: the log takes files away and adds one, and says that no row changed.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from . import storage, tables
from .errors import StorageError

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What is merged, and into what.

    Attributes:
        file_bytes: Files of this size are left alone, and one that is made ends when it has it.
        group_bytes: Size of a row group before it is written: this many bytes, and as much again
            for what is written, are held in memory. Readers pay for each group, as for each file.
        min_files: Fewer small files are left as they are.
    """

    file_bytes: int
    group_bytes: int
    min_files: int = 2


def merge_small_files(table: DeltaTable, folder: Path, merge: Merge) -> bool:
    """Put few files in the place of all small ones; whether that happened.

    It does not when there are too few, or when somebody commits meanwhile. Rows stay as they are
    and keep their order within a file; older versions stay reachable.

    Args:
        table: The open table; then stands at its newest version.
        folder: Its local folder.
        merge: The sizes.

    Raises:
        StorageError: The merged file cannot be written, or a small one not be read.
    """
    tables.refresh(table)
    small = {path: path.stat().st_size for path in map(Path, tables.live_files(table))}
    small = {path: size for path, size in small.items() if size < merge.file_bytes}
    if len(small) < max(2, merge.min_files):
        return False
    merged: dict[Path, int] = {}
    try:
        _write_merged(folder, list(small), tables.schema_of(table), merge, merged)
        actions = _actions(small, merged)
        text = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
        log = folder / "_delta_log" / f"{table.version() + 1:020d}.json"
        is_done = storage.write_new(log, text.encode("utf-8"))
    except (OSError, pa.ArrowException) as error:
        _remove(merged)
        raise StorageError(
            f"The files of the table {folder.name} at {folder} cannot be merged: "
            f"{' '.join(str(error).split())}",
            hint="Check free space and permissions, then rerun the command: it goes on.",
        ) from error
    finally:
        pa.default_memory_pool().release_unused()
    if not is_done:
        _remove(merged)
    tables.refresh(table)
    return is_done


def _write_merged(
    folder: Path, files: Sequence[Path], schema: pa.Schema, merge: Merge, merged: dict[Path, int]
) -> None:
    """Write the rows of some files into others, flushed to disk.

    Args:
        folder: Where they go.
        files: What is read.
        schema: Columns of the table.
        merge: The sizes.
        merged: Takes the path of each file once it is begun, and how many rows it has.
    """
    batches = itertools.chain.from_iterable(_batches(file, schema) for file in files)
    groups = _groups(batches, schema, merge.group_bytes)
    for first in groups:
        path = folder / f"part-merged-{uuid.uuid4()}.snappy.parquet"
        merged[path] = 0
        with open(path, "xb") as stream:
            with pq.ParquetWriter(
                stream, schema, compression="snappy", use_dictionary=_repeating(schema)
            ) as writer:
                for rows in itertools.chain([first], groups):
                    writer.write_table(rows)
                    merged[path] += rows.num_rows
                    if stream.tell() >= merge.file_bytes:
                        break
            stream.flush()
            os.fsync(stream.fileno())


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns whose values repeat, for which a dictionary is made."""
    return [
        field.name
        for field in schema
        if field.name != "clip_id" and not pa.types.is_nested(field.type)
    ]


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _batches(file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A file's rows in the table's columns, which older files lack some of.

    (A `pyarrow.dataset` of all files would keep their footers, which are larger than their rows.)
    """
    with pq.ParquetFile(file, pre_buffer=False) as opened:
        for number in range(opened.num_row_groups):
            for batch in opened.iter_batches(_ROWS_AT_ONCE, [number], use_threads=False):
                names = set(batch.schema.names)
                columns = [
                    batch.column(field.name).cast(field.type)
                    if field.name in names
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, group_bytes: int
) -> Iterator[pa.Table]:
    """Rows of one row group each: what a reader and the writer hold in memory at a time."""
    held: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in batches:
        held.append(batch)
        num_bytes += batch.nbytes
        if num_bytes >= group_bytes:
            yield pa.Table.from_batches(held, schema)
            held, num_bytes = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _actions(small: dict[Path, int], merged: dict[Path, int]) -> Iterator[dict[str, Any]]:
    """The lines of the commit, as the Delta protocol has them."""
    now_ms = time.time_ns() // 1_000_000
    yield {
        "commitInfo": {
            "timestamp": now_ms,
            "operation": "OPTIMIZE",
            "operationParameters": {"numFiles": str(len(small))},
            "engineInfo": "egodojo",
        }
    }
    for path, size in small.items():
        yield {
            "remove": {
                "path": path.name,
                "deletionTimestamp": now_ms,
                "dataChange": False,
                "extendedFileMetadata": True,
                "partitionValues": {},
                "size": size,
            }
        }
    for path, num_rows in merged.items():
        yield {
            "add": {
                "path": path.name,
                "partitionValues": {},
                "size": path.stat().st_size,
                "modificationTime": now_ms,
                "dataChange": False,
                "stats": json.dumps({"numRecords": num_rows}),
            }
        }
