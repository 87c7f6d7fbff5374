"""The index beside each tar: where every member lies, and every clip's packets, with checksums.

Enough to decode frames [a, b) of a clip after one range read, without opening a container, and to
notice every flipped byte. It needs neither a database nor a decoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import DatasetError
from .storage import Location, location, write_atomic

INDEX_SUFFIX = ".idx.parquet"

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        (
            "members",
            pa.list_(
                pa.struct(
                    [
                        ("suffix", pa.string()),
                        ("offset", pa.int64()),
                        ("size", pa.int64()),
                        ("crc32", pa.uint32()),
                    ]
                )
            ),
        ),
        ("codec_config", pa.binary()),
        ("time_base", pa.string()),
        ("data_offset", pa.int64()),
        ("packet_sizes", pa.list_(pa.int32())),
        ("packet_pts", pa.list_(pa.int64())),
        ("is_key", pa.list_(pa.bool_())),
        ("gop_crc32", pa.list_(pa.uint32())),
    ]
)
"""Columns of an index, one row per clip."""

_REBUILD_HINT = "`pipeline.shards.rebuild_index(TAR).write(INDEX)` makes it anew from the tar."
_DELTA_COLUMNS = ("packet_sizes.list.element", "packet_pts.list.element")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside a tar.

    Attributes:
        suffix: Name after the clip id, without the dot: `mp4`, `json`, `actions.npy`.
        offset: First byte of its content in the tar.
        size: Bytes.
        crc32: Checksum of the content.
    """

    suffix: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPackets:
    """Where a clip's packets lie inside its mp4, and what a decoder needs besides them.

    Attributes:
        codec_config: The avcC record, all a decoder needs besides packets.
        time_base: Seconds per tick of the mp4, as "num/den".
        data_offset: First packet, counted from the start of the mp4.
        packet_sizes: int32 bytes; packets follow each other, one per frame, in display order.
        packet_pts: int64 ticks.
        is_key: bool, where a group of frames begins.
        gop_crc32: uint32 per group, over all its packets.
    """

    codec_config: bytes
    time_base: str
    data_offset: int
    packet_sizes: NDArray[np.int32]
    packet_pts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    gop_crc32: NDArray[np.uint32]

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return len(self.packet_sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipIndex(ClipPackets):
    """Where one clip's bytes are: its members in the tar, and the packets of its member `mp4`."""

    clip_id: str
    members: tuple[Member, ...]

    def member(self, suffix: str) -> Member:
        """Return one member.

        Raises:
            DatasetError: When the clip has none of that suffix.
        """
        wanted = suffix.lstrip(".")
        for member in self.members:
            if member.suffix == wanted:
                return member
        names = ", ".join(member.suffix for member in self.members)
        raise DatasetError(f"clip {self.clip_id} has no member {wanted!r}, only {names}.")


class ShardIndex:
    """The index of one tar, in the order of its clips.

    >>> index = ShardIndex.read("data/shards/clips-000000.idx.parquet")    # doctest: +SKIP
    >>> index.row(index.clip_ids[0]).packet_sizes.shape                    # doctest: +SKIP
    (600,)
    """

    def __init__(self, table: pa.Table, *, name: str = "the shard index") -> None:
        self.table = table.combine_chunks()
        self.name = name

    @classmethod
    def of(cls, clips: Iterable[ClipIndex]) -> ShardIndex:
        """Make an index of clips, in the order given."""
        return cls(pa.Table.from_pylist([_to_row(clip) for clip in clips], schema=SCHEMA))

    @classmethod
    def read(cls, path: Location | str) -> ShardIndex:
        """Read an index file.

        Raises:
            DatasetError: When it is missing, unreadable or lacks a column.
        """
        try:
            data = location(path).read_bytes()
        except OSError as error:
            raise DatasetError(
                f"the shard index {path} cannot be read: {error.strerror or 'it is not there'}.",
                hint=_REBUILD_HINT,
            ) from error
        return cls.from_bytes(data, name=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "the shard index") -> ShardIndex:
        """Read an index from the bytes of its file; `name` is used in messages."""
        try:
            table = pq.read_table(pa.BufferReader(data), columns=SCHEMA.names).cast(SCHEMA)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(
                f"{name} is no shard index: {str(error).splitlines()[0]}.",
                hint=_REBUILD_HINT,
            ) from error
        return cls(table, name=name)

    @property
    def clip_ids(self) -> list[str]:
        """Ids of the clips, in the order of the tar."""
        return list(self._rows)

    def row(self, clip_id: str) -> ClipIndex:
        """Return one clip; arrays are views of the table.

        Raises:
            DatasetError: When the tar does not hold the clip.
        """
        number = self._rows.get(clip_id)
        if number is None:
            raise DatasetError(f"clip {clip_id} is not in {self.name}.")
        value = {name: self.table.column(name)[number] for name in SCHEMA.names}
        return ClipIndex(
            clip_id=clip_id,
            members=tuple(Member(**member) for member in value["members"].as_py()),
            codec_config=value["codec_config"].as_py(),
            time_base=value["time_base"].as_py(),
            data_offset=value["data_offset"].as_py(),
            packet_sizes=_array(value["packet_sizes"]),
            packet_pts=_array(value["packet_pts"]),
            is_key=_array(value["is_key"]),
            gop_crc32=_array(value["gop_crc32"]),
        )

    def to_bytes(self) -> bytes:
        """Return the file's bytes, the same for the same clips."""
        sink = pa.BufferOutputStream()
        pq.write_table(
            self.table,
            sink,
            compression="zstd",
            compression_level=9,
            use_dictionary=["codec_config", "time_base"],
            column_encoding=dict.fromkeys(_DELTA_COLUMNS, "DELTA_BINARY_PACKED"),
            write_statistics=False,
            row_group_size=1 << 16,
        )
        return bytes(sink.getvalue())

    def write(self, path: Location | str, *, token: str | None = None) -> None:
        """Write the file, whole or not at all."""
        write_atomic(path, self.to_bytes(), token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardIndex) and bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]  # compared by content

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _rows(self) -> dict[str, int]:
        names = self.table.column("clip_id").to_pylist()
        return {clip_id: number for number, clip_id in enumerate(names)}


def _to_row(clip: ClipIndex) -> dict[str, Any]:
    row = {name: getattr(clip, name) for name in SCHEMA.names}
    row["members"] = [
        {name: getattr(member, name) for name in ("suffix", "offset", "size", "crc32")}
        for member in clip.members
    ]
    return row


def _array(scalar: Any) -> NDArray[Any]:
    values: NDArray[Any] = scalar.values.to_numpy(zero_copy_only=False)
    return values
