"""Small files of a local table become one, some rows at a time, so that memory stays flat.

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from . import storage, tables
from .errors import StorageError

_GROUP_BYTES = 2 << 20
_ROWS_AT_ONCE = 1024


def merge_small_files(table: DeltaTable, folder: Path, *, limit_bytes: int) -> bool:
    """Put one file in the place of all that are smaller than a limit; whether that happened.

    It does not when there are fewer than two, or when somebody commits meanwhile. Rows stay as
    they are and keep their order within a file; older versions stay reachable.

    Args:
        table: The open table; then stands at its newest version.
        folder: Its local folder.
        limit_bytes: Larger files are left alone.

    Raises:
        StorageError: The merged file cannot be written, or a small one not be read.
    """
    tables.refresh(table)
    small = {path: path.stat().st_size for path in map(Path, tables.live_files(table))}
    small = {path: size for path, size in small.items() if size < limit_bytes}
    if len(small) < 2:
        return False
    merged = folder / f"part-merged-{uuid.uuid4()}.snappy.parquet"
    try:
        with _plain_memory():
            num_rows = _write_merged(merged, list(small), tables.schema_of(table))
        actions = _actions(small, merged, num_rows)
        text = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
        log = folder / "_delta_log" / f"{table.version() + 1:020d}.json"
        is_done = storage.write_new(log, text.encode("utf-8"))
    except (OSError, pa.ArrowException) as error:
        merged.unlink(missing_ok=True)
        raise StorageError(
            f"The files of the table {folder.name} at {folder} cannot be merged: "
            f"{' '.join(str(error).split())}",
            hint="Check free space and permissions, then rerun the command: it goes on.",
        ) from error
    if not is_done:
        merged.unlink(missing_ok=True)
    tables.refresh(table)
    return is_done


def _write_merged(merged: Path, files: Sequence[Path], schema: pa.Schema) -> int:
    """Write the rows of some files, flushed to disk; how many."""
    batches = itertools.chain.from_iterable(_batches(file, schema) for file in files)
    repeating = [
        field.name
        for field in schema
        if field.name != "clip_id" and not pa.types.is_nested(field.type)
    ]
    num_rows = 0
    with open(merged, "xb") as stream:
        with pq.ParquetWriter(
            stream, schema, compression="snappy", use_dictionary=repeating
        ) as writer:
            for rows in _groups(batches, schema):
                writer.write_table(rows)
                num_rows += rows.num_rows
        stream.flush()
        os.fsync(stream.fileno())
    return num_rows


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


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows of one row group each: what a reader and the writer hold in memory at a time."""
    held: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in batches:
        held.append(batch)
        num_bytes += batch.nbytes
        if num_bytes >= _GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, num_bytes = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


@contextmanager
def _plain_memory() -> Iterator[None]:
    """Arrow takes memory from the system alone: its own pool keeps 30 MB of what passed through."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


def _actions(small: dict[Path, int], merged: Path, num_rows: int) -> Iterator[dict[str, Any]]:
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
    yield {
        "add": {
            "path": merged.name,
            "partitionValues": {},
            "size": merged.stat().st_size,
            "modificationTime": now_ms,
            "dataChange": False,
            "stats": json.dumps({"numRecords": num_rows}),
        }
    }
