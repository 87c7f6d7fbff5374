"""Random access to the frames of clips in shards: one range read, a checksum, then decoding."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from manifests.errors import SampleError
from manifests.shard_index import INDEX_SUFFIX, ClipIndex, ShardIndex
from manifests.storage import Location, read_bytes, read_range

from .video import decode_packets

_NUM_OPEN_INDEXES = 64


class ClipReader:
    """Reads frames and members of a dataset's clips, by the values of columns `shard`, `clip_id`.

    Holds a few shard indexes and no open file; a copy may be made in every process.

    Args:
        dataset_path: The dataset folder, or its object-storage URI.

    >>> reader = ClipReader("data/kitchen")                                   # doctest: +SKIP
    >>> reader.frames("clips-000000", clip_id, range(5, 18)).shape            # doctest: +SKIP
    (13, 480, 640, 3)
    """

    def __init__(self, dataset_path: Location | str) -> None:
        self._root = dataset_path
        self._index = lru_cache(maxsize=_NUM_OPEN_INDEXES)(self._read_index)

    def __reduce__(self) -> tuple[type[ClipReader], tuple[Location | str]]:
        return ClipReader, (self._root,)

    def num_frames(self, shard: str, clip_id: str) -> int:
        """Count a clip's frames."""
        return self._index(shard).row(clip_id).num_frames

    def times_s(self, shard: str, clip_id: str) -> NDArray[np.float64]:
        """Return the time of each frame since the clip's first, in seconds."""
        row = self._index(shard).row(clip_id)
        num, den = map(int, row.time_base.split("/"))
        return np.asarray(row.packet_pts * num / den, np.float64)

    def suffixes(self, shard: str, clip_id: str) -> tuple[str, ...]:
        """Return the suffixes of a clip's members, for instance `mp4`, `json`, `actions.npy`."""
        return tuple(member.suffix for member in self._index(shard).row(clip_id).members)

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Decode some frames of a clip.

        Only the groups of frames from the first to the last wanted one are read, in one piece;
        every one of them is checked before anything is decoded.

        Args:
            indices: Frame numbers in any order; repeats are allowed.

        Returns:
            uint8 RGB (len(indices), H, W, 3).

        Raises:
            SampleError: With reason `checksum` for changed bytes, `undecodable` for a decoder that
                gives no picture.
            IndexError: When the clip has no such frame.
        """
        row = self._index(shard).row(clip_id)
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= row.num_frames:
            asked = f"{wanted[0]}..{wanted[-1]}" if wanted else "none"
            last = row.num_frames - 1
            raise IndexError(f"clip {clip_id} in {shard} has frames 0..{last}, asked for: {asked}")
        packets, places = self._packets(shard, row, wanted)
        try:
            pictures = decode_packets(row.codec_config, packets, places)
        except SampleError as error:
            raise SampleError(
                f"clip {clip_id} in {shard}: {error.message}", reason=error.reason
            ) from error
        if wanted == list(indices):
            return pictures
        return pictures[np.searchsorted(wanted, indices)]

    def member(self, shard: str, clip_id: str, suffix: str) -> bytes:
        """Read a whole member, for instance `mp4`, `json` or `actions.npy`.

        Raises:
            SampleError: With reason `checksum` when its bytes have changed.
            DatasetError: When the clip has no such member.
        """
        member = self._index(shard).row(clip_id).member(suffix)
        data = read_range(self._root, f"shards/{shard}.tar", member.offset, member.size)
        if zlib.crc32(data) != member.crc32:
            raise _changed(shard, clip_id, f"member {member.suffix}")
        return data

    def _read_index(self, shard: str) -> ShardIndex:
        name = f"shards/{shard}{INDEX_SUFFIX}"
        return ShardIndex.from_bytes(read_bytes(self._root, name), name=f"{self._root}/{name}")

    def _packets(
        self, shard: str, row: ClipIndex, wanted: list[int]
    ) -> tuple[list[bytes], list[int]]:
        """Read the groups from the first to the last wanted frame in one piece and check them.

        Returns:
            The packets of those groups that hold a wanted frame, and the place of each wanted
            frame among them.
        """
        starts = np.append(np.flatnonzero(row.is_key), row.num_frames)
        groups = np.searchsorted(starts, wanted, side="right") - 1
        ends = np.append(0, np.cumsum(row.packet_sizes, dtype=np.int64))
        begin, end = int(starts[groups[0]]), int(starts[groups[-1] + 1])
        offset = row.member("mp4").offset + row.data_offset + int(ends[begin])
        size = int(ends[end] - ends[begin])
        data = memoryview(read_range(self._root, f"shards/{shard}.tar", offset, size))
        needed = set(groups.tolist())
        packets: list[bytes] = []
        place_of: dict[int, int] = {}
        for group in range(int(groups[0]), int(groups[-1]) + 1):
            frames = range(int(starts[group]), int(starts[group + 1]))
            cuts = (ends[frames.start : frames.stop + 1] - ends[begin]).tolist()
            if zlib.crc32(data[cuts[0] : cuts[-1]]) != row.gop_crc32[group]:
                what = f"frames {frames.start}..{frames.stop - 1}"
                raise _changed(shard, row.clip_id, what)
            if group in needed:
                place_of.update(
                    zip(frames, range(len(packets), len(packets) + len(frames)), strict=True)
                )
                packets += [bytes(data[a:b]) for a, b in pairwise(cuts)]
        return packets, [place_of[number] for number in wanted]


def _changed(shard: str, clip_id: str, what: str) -> SampleError:
    return SampleError(
        f"{what} of clip {clip_id} in shards/{shard}.tar do not match their checksum",
        reason="checksum",
        hint="The file has changed since it was written; `egodojo manifest validate` lists damage.",
    )
