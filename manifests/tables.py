"""Delta Lake tables: create, append, replace, read. The one place where rows are written and read.

Reading never uses deltalake's own pyarrow bridge (it aborts the process at exit now and then);
the live files go into a `pyarrow.dataset` with the table's full schema instead.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from . import object_store
from .errors import DatasetError, StorageError
from .locations import Location, ObjectPath, is_remote, location
from .storage import of_each
from .table_files import filesystem_of

_METADATA_PREFIX = "egodojo."
# No minima and maxima of columns in the log: nothing reads them, and they would outlive the rows.
_TABLE_PROPERTIES = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.dataSkippingNumIndexedCols": "0",
}
_NUM_ATTEMPTS = 20
# Names one attempt to commit, so that a commit whose answer was lost is known again.
_ATTEMPT_KEY = "egodojo_attempt"
_NUM_UNANSWERED = 4
_SPARE_BYTES = 128 << 10
# Ids of clips never repeat in a table: a dictionary of them would be made for nothing.
_WRITER = WriterProperties(
    compression="SNAPPY",
    column_properties={"clip_id": ColumnProperties(dictionary_enabled=False)},
)

T = TypeVar("T")
# delta-rs takes these for URL syntax: it panics or writes somewhere else.
_UNFIT = "%[]^|\\"


class ConflictError(StorageError):
    """Somebody else committed to the table first."""


def connect() -> duckdb.DuckDBPyConnection:
    """A connection of its own to this process's in-memory DuckDB: make only TEMP views in it.

    It never downloads anything and sees no Python variables.
    """
    return _database().cursor()


@lru_cache(maxsize=1)
def _database() -> duckdb.DuckDBPyConnection:
    settings: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    return duckdb.connect(":memory:", config=settings)


def check_path(path: Location) -> None:
    """Refuse dataset paths that delta-rs cannot handle.

    Raises:
        DatasetError: Names the character.
    """
    for character in str(path):
        if character in _UNFIT or unicodedata.category(character) in ("Cc", "Cs"):
            raise DatasetError(
                f"The dataset path {str(path)!r} contains {character!r}, which its tables cannot "
                "handle.",
                hint=f"Choose a path without {' '.join(_UNFIT)}; spaces and Unicode are fine.",
            )


def create(path: Location, schema: pa.Schema) -> None:
    """Create an empty table; one that is already there is left as it is."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(path, error) from error
    try:
        _patiently(
            path,
            lambda: DeltaTable.create(
                _target(path),
                schema,
                mode="ignore",
                configuration=dict(_TABLE_PROPERTIES),
                storage_options=_options(path),
            ),
        )
    except (DeltaError, OSError) as error:
        if exists(path):  # somebody else created it at the same moment
            return
        raise write_failed(path, error) from error


def exists(path: Location) -> bool:
    """Whether a table was created at a path."""
    if isinstance(path, ObjectPath):  # (delta-rs' own question holds the GIL while it waits)
        return (path / "_delta_log").is_dir()
    return (path / "_delta_log").is_dir() and bool(DeltaTable.is_deltatable(str(path)))


def open_table(path: Location, version: int | None = None) -> DeltaTable:
    """Open a table at its newest or at a given version.

    Raises:
        DatasetError: No such table, or a version that never was or is no longer there.
    """
    try:
        table = _patiently(
            path,
            lambda: DeltaTable(_target(path), version=version, storage_options=_options(path)),
        )
    except TableNotFoundError as error:
        raise DatasetError(
            f"The table {path.name} is missing at {path}.",
            hint="The dataset folder is incomplete; restore it from a copy.",
        ) from error
    except (DeltaError, OSError) as error:
        raise _lost(path, version, error) from error
    if version is not None and not _are_there(path, live_files(table)):
        raise _lost(path, version, None)
    return table


def _are_there(folder: Location, files: Sequence[str]) -> bool:
    if not isinstance(folder, ObjectPath):
        return all(Path(file).is_file() for file in files)
    there = {found.name for found in folder.iterdir()} if files else set()
    return all(location(file).name in there for file in files)


def refresh(table: DeltaTable) -> None:
    """See what others committed since the table was opened."""
    try:
        _patiently(folder_of(table), lambda: table.update_incremental())
    except (DeltaError, OSError) as error:
        raise _lost(folder_of(table), None, error) from error


def check_unchanged(table: DeltaTable) -> None:
    """Look for commits by others since `table` was opened; it then stands at the newest version.

    Raises:
        ConflictError: There are some.
    """
    before = table.version()
    refresh(table)
    if table.version() != before:
        raise conflict(table)


def append(
    table: DeltaTable,
    rows: pa.Table,
    *,
    metadata: Mapping[str, str] | None = None,
    merge_schema: bool = False,
    if_unchanged: bool = False,
) -> None:
    """Append checked rows in one commit; `table` then stands at the new version.

    Raises:
        ConflictError: Somebody committed since `table` was opened, under `if_unchanged`.
    """
    schema_mode = "merge" if merge_schema else None
    num_retries = 0 if if_unchanged else _NUM_ATTEMPTS
    try:
        _write(table, rows, "append", metadata, schema_mode, num_retries)
    except CommitFailedError as error:
        raise conflict(table) if if_unchanged else write_failed(table, error) from error


def replace(
    table: DeltaTable,
    rows: pa.Table | Callable[[], pa.RecordBatchReader],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Replace all rows and columns in one commit; older versions stay reachable.

    Rows too many for memory come as a function that gives a reader of them, once per attempt.

    Of several at once the last one stands alone: each sees what the one before it wrote. (With
    delta-rs' own retries, rows written meanwhile would stay beside the new ones.)
    """
    for _ in range(_NUM_ATTEMPTS):
        refresh(table)
        try:
            given = rows() if callable(rows) else rows
            _write(table, given, "overwrite", metadata, "overwrite", 0)
            return
        except CommitFailedError:
            continue
    raise conflict(table)


def delete(table: DeltaTable, column: str, values: Sequence[str]) -> None:
    """Delete the rows whose `column` is one of `values`, in one commit."""
    from .table_rewrite import rewrite

    rewrite(table, column=column, values=values)


def replace_where(
    table: DeltaTable,
    rows: pa.Table,
    *,
    column: str,
    values: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Put rows in the place of all whose `column` is one of `values`, in one commit.

    Only the files that hold one of them are rewritten. Rows that others append meanwhile stay.
    """
    from .table_rewrite import rewrite

    rewrite(table, column=column, values=values, more=rows, metadata=metadata)


def live_files(table: DeltaTable) -> list[str]:
    """Paths (or URIs) of the Parquet files that make up a table's version."""
    return sorted(unquote(uri).removeprefix("file://") for uri in table.file_uris())


def sizes_of(table: DeltaTable) -> dict[str, int]:
    """Bytes of the live files by name, as the log has them: no file is asked."""
    actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "size_bytes"])
    names, sizes = (column.to_pylist() for column in actions.columns)
    return dict(zip(map(unquote, names), sizes, strict=True))


def schema_of(table: DeltaTable) -> pa.Schema:
    """The table's full schema."""
    return pa.schema(table.schema().to_arrow())


def dataset_of(table: DeltaTable, known: pa.Schema | None = None) -> pads.Dataset:
    """The rows of a table as a pyarrow dataset; columns a file does not have read as NULL.

    Args:
        table: An open table.
        known: Columns to show even when the table was made before they existed.
    """
    schema = schema_of(table)
    missing = [field for field in known or () if field.name not in schema.names]
    if missing:
        schema = pa.schema([*schema, *missing])
    return pads.dataset(
        live_files(table),
        schema=schema,
        format="parquet",
        filesystem=filesystem_of(table.table_uri),
    )


def metadata_of(path: Location, version: int) -> dict[str, str]:
    """Metadata of the newest commit up to `version` that carries any; {} when none does."""
    return next((found for info in _commits(path, version) if (found := _named(info))), {})


def _commits(path: Location, version: int) -> Iterator[dict[str, Any]]:
    """What each commit says of itself, newest first; of objects several are asked for at once."""
    log = path / "_delta_log"
    commits = [log / f"{number:020d}.json" for number in range(version, -1, -1)]
    return of_each(_commit_info, commits)


def _commit_info(commit: Location) -> dict[str, Any]:
    try:
        text = commit.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    actions = (json.loads(line) for line in text.splitlines())
    infos = (action["commitInfo"] for action in actions if "commitInfo" in action)
    info: dict[str, Any] = next(infos, {})
    return info


def named_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata under the names that commits have them by."""
    return {f"{_METADATA_PREFIX}{key}": value for key, value in metadata.items()}


def _named(info: Mapping[str, Any]) -> dict[str, str]:
    return {
        key.removeprefix(_METADATA_PREFIX): str(value)
        for key, value in info.items()
        if key.startswith(_METADATA_PREFIX)
    }


def _write(
    table: DeltaTable,
    rows: pa.Table | pa.RecordBatchReader,
    mode: Any,
    metadata: Mapping[str, str] | None,
    schema_mode: Any,
    num_retries: int,
) -> None:
    named = named_metadata(metadata or {})
    path = folder_of(table)
    if isinstance(path, ObjectPath):
        _write_object(table, rows, mode, named, schema_mode, num_retries)
        return
    # What delta-rs would say in the midst of a panic:
    if not os.access(path, os.W_OK | os.X_OK):
        raise write_failed(table, PermissionError(f"{path} may not be written to"))
    if shutil.disk_usage(path).free < _SPARE_BYTES:
        raise write_failed(table, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    properties = CommitProperties(custom_metadata=named, max_commit_retries=num_retries)
    try:
        write_deltalake(
            table,
            rows,
            mode=mode,
            schema_mode=schema_mode,
            commit_properties=properties,
            writer_properties=_WRITER,
        )
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        raise write_failed(table, error) from error


def _patiently(path: Location, action: Callable[[], T]) -> T:
    """Do what may be done twice, again when delta-rs gave up on an answer that was cut off."""
    if not is_remote(path):
        return action()
    for attempt in range(_NUM_UNANSWERED):
        try:
            return action()
        except (DeltaError, OSError) as error:
            if not object_store.may_pass(error):
                raise
            object_store.pause(attempt, str(path), error)
    return action()


def _write_object(
    table: DeltaTable,
    rows: pa.Table | pa.RecordBatchReader,
    mode: Any,
    named: Mapping[str, str],
    schema_mode: Any,
    num_retries: int,
) -> None:
    """Commit over a network: a commit whose answer was lost is looked for, never assumed."""
    attempt = secrets.token_hex(8)
    before = table.version()
    properties = CommitProperties(
        custom_metadata={**named, _ATTEMPT_KEY: attempt}, max_commit_retries=num_retries
    )
    for again in range(_NUM_UNANSWERED, -1, -1):
        try:
            write_deltalake(
                table,
                rows,
                mode=mode,
                schema_mode=schema_mode,
                commit_properties=properties,
                writer_properties=_WRITER,
            )
            return
        except (DeltaError, OSError) as error:
            if _has_happened(table, before, attempt):
                return
            is_conflict = isinstance(error, CommitFailedError)
            if is_conflict and not object_store.is_outage(error):
                raise
            if not again or not object_store.may_pass(error):
                raise write_failed(table, error) from error
            if isinstance(rows, pa.RecordBatchReader):  # it is used up: the caller makes another
                raise CommitFailedError(str(error)) from error


def _has_happened(table: DeltaTable, before: int, attempt: str) -> bool:
    """Whether a commit of this attempt is in the log; `table` then stands behind it."""
    refresh(table)
    commits = zip(
        range(table.version(), before, -1),
        _commits(folder_of(table), table.version()),
        strict=False,
    )
    return any(info.get(_ATTEMPT_KEY) == attempt for _, info in commits)


def _target(path: Location) -> Path | str:
    return str(path) if isinstance(path, ObjectPath) else path


def _options(path: Location) -> dict[str, str] | None:
    return object_store.delta_options() if is_remote(path) else None


def folder_of(table: DeltaTable) -> Location:
    """Where a table lies."""
    return location(unquote(table.table_uri).removeprefix("file://"))


def conflict(table: DeltaTable) -> ConflictError:
    """What to say when others committed again and again."""
    return ConflictError(
        f"The table {folder_of(table)} was changed by another command meanwhile.",
        hint="Run the command again.",
    )


def _lost(path: Location, version: int | None, error: Exception | None) -> DatasetError:
    if error is not None and is_remote(path) and object_store.is_outage(error):
        return object_store.in_words("read", str(path), error)
    if version is None:
        why = " ".join(str(error).split())
        return DatasetError(f"The table {path.name} at {path} cannot be read: {why}")
    return DatasetError(
        f"Version {version} of the table {path.name} is not there (any more) in {path.parent}.",
        hint="Open the dataset without pinned versions, or plan the mixture again.",
    )


def write_failed(table: DeltaTable | Location, error: Exception) -> StorageError:
    """What to say when a table cannot be written: which, why, and what to do."""
    path = folder_of(table) if isinstance(table, DeltaTable) else table
    if is_remote(path):
        return object_store.in_words("write", str(path), error)
    why = " ".join(str(error).split())
    return StorageError(
        f"Cannot write the table {path.name} at {path}: {why}",
        hint="Check free space and permissions, then rerun the command: it goes on.",
    )
