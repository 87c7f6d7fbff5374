"""Plain reading of mp4 bytes: which boxes a file has, where a finished clip keeps its packets."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import VideoError
from manifests.shard_index import ClipPackets

from .flaky import check_source

_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})


def index_mp4(data: bytes) -> ClipPackets:
    """Read the packet table of a clip from the bytes `ClipEncoder` finished.

    Raises:
        ValueError: When the file is none of ours: several tracks, reordered or scattered packets.
    """
    moov = _only(data, b"moov", 0, len(data))
    track = _only(data, b"trak", *moov)
    media = _only(data, b"mdia", *track)
    table = _only(data, b"stbl", *_only(data, b"minf", *media))
    boxes = {kind: span for kind, *span in _boxes(data, *table)}
    if b"ctts" in boxes:
        raise ValueError("an indexed clip must not hold reordered frames")
    sizes = _sizes(data, boxes[b"stsz"][0])
    steps = _numbers(data, boxes[b"stts"][0] + 4, ">i4,>i4")
    ticks = np.repeat(steps["f1"], steps["f0"]).astype(np.int64)
    is_key = np.ones(len(sizes), np.bool_)
    if b"stss" in boxes:
        is_key[:] = False
        is_key[_numbers(data, boxes[b"stss"][0] + 4, ">i4") - 1] = True
    offset = _first_packet(data, boxes, sizes)
    if not len(sizes) or not is_key[0]:
        raise ValueError("an indexed clip must begin with a keyframe")
    return ClipPackets(
        codec_config=_codec_config(data, *boxes[b"stsd"]),
        time_base=f"1/{_time_scale(data, *_only(data, b'mdhd', *media))}",
        data_offset=offset,
        packet_sizes=sizes.astype(np.int32),
        packet_pts=np.cumsum(ticks) - ticks,
        is_key=is_key,
        gop_crc32=gop_checksums(data, offset, sizes.astype(np.int32), is_key),
    )


def gop_checksums(
    data: bytes, data_offset: int, packet_sizes: NDArray[np.int32], is_key: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """Compute the CRC-32 of each run of packets that begins with a keyframe."""
    ends = data_offset + np.cumsum(packet_sizes, dtype=np.int64)
    starts = ends - packet_sizes
    first = starts[is_key]
    last = np.append(first[1:], ends[-1:])
    view = memoryview(data)
    sums = [zlib.crc32(view[a:b]) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    return np.array(sums, np.uint32)


def is_mp4_without_moov(path: Path | str) -> bool:
    """Whether a file is an mp4 or mov that lacks its `moov` box, the index of all packets."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        position, kinds = 0, []
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1 and len(header) == 16:
                length = int.from_bytes(header[8:], "big")
            kinds.append(kind)
            if length < 8:
                break
            position += length
    return bool(kinds) and kinds[0] in _FIRST_BOXES and b"moov" not in kinds


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each box in a span."""
    while start + 8 <= end:
        length, kind, header = (
            int.from_bytes(data[start : start + 4], "big"),
            data[start + 4 : start + 8],
            8,
        )
        if length == 1:
            length, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if length < header:
            raise ValueError(f"box {kind!r} at byte {start} has the impossible length {length}")
        yield kind, start + header, start + length
        start += length


def _only(data: bytes, kind: bytes, start: int, end: int) -> tuple[int, int]:
    found = [(a, b) for name, a, b in _boxes(data, start, end) if name == kind]
    if len(found) != 1:
        raise ValueError(f"an indexed clip has one box {kind!r}, not {len(found)}")
    return found[0]


def _numbers(data: bytes, count_at: int, kind: str) -> NDArray[Any]:
    """Read a table that begins with its number of rows."""
    count = int.from_bytes(data[count_at : count_at + 4], "big")
    return np.frombuffer(data, np.dtype(kind), count, count_at + 4)


def _sizes(data: bytes, start: int) -> NDArray[Any]:
    """Read packet sizes; equal ones are written once."""
    common, count = struct.unpack_from(">II", data, start + 4)
    return np.full(count, common) if common else _numbers(data, start + 8, ">i4")


def _first_packet(data: bytes, boxes: dict[bytes, list[int]], sizes: NDArray[Any]) -> int:
    """Find the first packet and check that the others follow it without a gap."""
    name, kind = (b"stco", ">u4") if b"stco" in boxes else (b"co64", ">u8")
    chunks = _numbers(data, boxes[name][0] + 4, kind).astype(np.int64)
    runs = _numbers(data, boxes[b"stsc"][0] + 4, ">i4,>i4,>i4")
    repeats = np.diff(np.append(runs["f0"], len(chunks) + 1))
    first = np.cumsum(np.append(0, np.repeat(runs["f1"], repeats)))
    expected = chunks[0] + np.append(0, np.cumsum(sizes, dtype=np.int64))
    if first[-1] != len(sizes) or (chunks != expected[first[:-1]]).any():
        raise ValueError("packets of an indexed clip must follow each other")
    return int(chunks[0])


def _codec_config(data: bytes, start: int, end: int) -> bytes:
    """Return the avcC record inside the only sample description."""
    ((kind, entry, entry_end),) = _boxes(data, start + 8, end)
    if kind != b"avc1":
        raise ValueError(f"an indexed clip holds H.264 (avc1), not {kind!r}")
    a, b = _only(data, b"avcC", entry + 78, entry_end)
    return data[a:b]


def _time_scale(data: bytes, start: int, end: int) -> int:
    return int(struct.unpack_from(">I", data, start + (20 if data[start] else 12))[0])


def open_error(path: Path | str, error: Exception) -> VideoError:
    """Say in one sentence why a file could not be opened as a video.

    Raises:
        SourceError: It is the storage's fault.
    """
    check_source(path, error)
    words = getattr(error, "strerror", None) or str(error)
    if isinstance(error, FileNotFoundError):
        return VideoError(f"{path} does not exist", reason="missing")
    if isinstance(error, PermissionError):
        return VideoError(f"{path} may not be read: {words}", reason="no_permission")
    if isinstance(error, OSError):
        return VideoError(f"{path} cannot be read: {words}", reason="io_error")
    if os.path.getsize(path) == 0:
        return VideoError(f"{path} is empty: it has 0 bytes", reason="empty")
    if is_mp4_without_moov(path):
        return VideoError(
            f"{path} has lost its index (no moov box): the file is cut off or was never finished",
            reason="no_index",
        )
    with open(path, "rb") as file:
        is_mp4 = file.read(8)[4:] in _FIRST_BOXES
    return VideoError(
        f"{path} is no video that can be opened: {words}",
        reason="damaged_header" if is_mp4 else "not_video",
    )
