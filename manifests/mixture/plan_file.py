"""A mixture plan on disk: one Arrow file, a row per clip, everything else as JSON in its schema.

Any Arrow reader opens it; here it is mapped into memory, so that a plan of 1e8 clips costs nothing
to open and is shared by all worker processes of a machine.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import DatasetError
from ..locations import location

FORMAT_VERSION = 1
CLIP_ID_BYTES = 12

COLUMNS: dict[str, pa.DataType] = {
    "clip_id": pa.binary(CLIP_ID_BYTES),  # the 24 hex digits as bytes
    "shard": pa.int32(),  # number in the source's list of shards
    "embodiment": pa.int16(),  # number in the header's list
    "num_frames": pa.int32(),
    "stride": pa.int32(),  # clip frames from one window frame to the next
    "num_starts": pa.int32(),  # possible first frames: lead + start_step * [0, num_starts)
    "first_window": pa.int64(),  # windows of this source before this row
}

_KEY = b"egodojo.mixture"


def write(path: Path, header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> None:
    """Writes a plan under a temporary name and renames it."""
    arrays = [_to_arrow(name, columns[name]) for name in COLUMNS]
    metadata = {_KEY: json.dumps(header).encode("utf-8")}
    batch = pa.record_batch(arrays, schema=pa.schema(list(COLUMNS.items()), metadata=metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with pa.ipc.new_file(str(temporary), batch.schema) as writer:
            writer.write_batch(batch)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Maps a plan: its header as plain values and its columns as read-only arrays.

    Raises:
        DatasetError: There is no such file, or it is no plan of this format.
    """
    if not path.is_file():
        raise DatasetError(
            f"There is no mixture plan at {path}.",
            hint=f"Write it: egodojo mixture plan MIXTURE.yaml --out {path}",
        )
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        metadata = reader.schema.metadata or {}
        header = json.loads(metadata[_KEY])
        batch = reader.get_batch(0)
    except (pa.ArrowInvalid, KeyError, ValueError, OSError) as error:
        raise DatasetError(
            f"{path} is no mixture plan, or a damaged one.",
            hint="Write it again: egodojo mixture plan MIXTURE.yaml --out PLAN",
        ) from error
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{path} is a mixture plan of format {version}, this program reads {FORMAT_VERSION}.",
            hint="Write it again: egodojo mixture plan MIXTURE.yaml --out PLAN",
        )
    return header, {name: _to_numpy(batch.column(name)) for name in COLUMNS}


def check_shards(source: str, dataset: str, shards: Sequence[str]) -> None:
    """Looks for every shard and its index beside it.

    Raises:
        DatasetError: The dataset's folder or a shard is gone.
    """
    folder = location(dataset) / "shards"
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    wanted = [f"{shard}{suffix}" for shard in shards for suffix in (".tar", ".idx.parquet")]
    missing = [name for name in wanted if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DatasetError(
            f"Source {source!r} needs {folder / missing[0]}{more}, which is not there any more.",
            hint="The dataset was moved or clips were deleted from it: plan the mixture again.",
        )


def _to_arrow(name: str, column: NDArray[Any]) -> pa.Array:
    kind = COLUMNS[name]
    if name == "clip_id":
        data = pa.py_buffer(np.ascontiguousarray(column, dtype=np.uint8).tobytes())
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(column), [None, data])
    return pa.array(column, type=kind)


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_fixed_size_binary(column.type):
        flat = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        flat = flat[column.offset * CLIP_ID_BYTES : (column.offset + len(column)) * CLIP_ID_BYTES]
        return flat.reshape(-1, CLIP_ID_BYTES)
    array: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    return array
