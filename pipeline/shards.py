"""Writing a unit's clips into one WebDataset tar with an index beside it, always the same bytes."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from types import TracebackType

from manifests.errors import DatasetError, StorageError
from manifests.shard_index import INDEX_SUFFIX, ClipIndex, ClipPackets, Member, ShardIndex
from manifests.storage import Location, being_replaced, location

from .mp4 import index_mp4

_BLOCK_BYTES = tarfile.BLOCKSIZE
_FIRST_SUFFIXES = ("mp4", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """A finished tar.

    Attributes:
        num_bytes: Size of the tar.
        sha256: Its digest, 64 hex digits.
        num_clips: Clips in it.
    """

    num_bytes: int
    sha256: str
    num_clips: int


class _Discarded(Exception):
    """What was written is not to be put in place."""


class ShardWriter:
    """Writes one tar and its index under temporary names, then renames (or uploads) both.

    Used as a context manager it leaves nothing behind when the block fails.

    Args:
        path: The tar's final path, `.../clips-000000.tar`.
        token: The writer's token; part of the temporary names.

    >>> with ShardWriter(path, token) as shard:                              # doctest: +SKIP
    ...     shard.add(clip_id, {"mp4": mp4, "json": facts}, index_mp4(mp4))
    ...     info = shard.finish()
    """

    def __init__(self, path: Location | str, token: str | None = None) -> None:
        self.path, self._token = location(path), token
        self._placing = ExitStack()
        self._temporary = self._placing.enter_context(being_replaced(self.path, token))
        self._clips: list[ClipIndex] = []
        self._seen: set[str] = set()
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        try:
            self._file = open(self._temporary, "wb")  # noqa: SIM115  (closed by finish, discard)
        except OSError as error:
            self._placing.__exit__(type(error), error, None)
            raise _unwritable(self.path, error) from error

    def add(self, clip_id: str, members: Mapping[str, bytes], mp4_index: ClipPackets) -> None:
        """Append one clip.

        Args:
            clip_id: Key of its members; holds no dot and no slash.
            members: Content by suffix; `mp4` is required.
            mp4_index: What `index_mp4` read from that mp4.
        """
        if not clip_id or "." in clip_id or "/" in clip_id:
            raise ValueError(f"a clip's key must hold neither dots nor slashes: {clip_id!r}")
        if clip_id in self._seen:
            raise ValueError(f"clip {clip_id} is already in {self.path.name}")
        content = {suffix.lstrip("."): data for suffix, data in members.items()}
        order = sorted(content, key=lambda suffix: (_rank(suffix), suffix))
        written = tuple(self._add_member(clip_id, suffix, content[suffix]) for suffix in order)
        self._seen.add(clip_id)
        self._clips.append(_clip_index(clip_id, written, mp4_index))

    def finish(self) -> ShardInfo:
        """Write the index, give both files their names and return the tar's facts."""
        try:
            self._write(bytes(2 * _BLOCK_BYTES))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._placing.close()
        except StorageError:
            raise
        except OSError as error:
            self.discard()
            raise _unwritable(self.path, error) from error
        ShardIndex.of(self._clips).write(index_path(self.path), token=self._token)
        return ShardInfo(
            num_bytes=self._num_bytes,
            sha256=self._sha256.hexdigest(),
            num_clips=len(self._clips),
        )

    def discard(self) -> None:
        """Remove what was written, unless it is finished."""
        self._file.close()
        self._placing.__exit__(_Discarded, _Discarded(), None)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def _add_member(self, clip_id: str, suffix: str, data: bytes) -> Member:
        header = tarfile.TarInfo(f"{clip_id}.{suffix}")
        header.size, header.mode = len(data), 0o644
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        member = Member(
            suffix=suffix, offset=self._num_bytes, size=len(data), crc32=zlib.crc32(data)
        )
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK_BYTES))
        return member

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._sha256.update(data)
        self._num_bytes += len(data)


def index_path(tar_path: Location | str) -> Location:
    """Return the path of a tar's index."""
    path = location(tar_path)
    return path.with_name(path.name.removesuffix(".tar") + INDEX_SUFFIX)


def rebuild_index(tar_path: Location | str) -> ShardIndex:
    """Make a tar's index anew from the tar alone; equal to the one written with it.

    Raises:
        DatasetError: When the tar is damaged, or holds something `ShardWriter` does not write.
    """
    members: dict[str, list[Member]] = {}
    tables: dict[str, ClipPackets] = {}
    try:
        with (
            location(tar_path).open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for info in tar:
                clip_id, _, suffix = info.name.partition(".")
                file = tar.extractfile(info)
                data = b"" if file is None else file.read()
                if len(data) != info.size:
                    raise tarfile.ReadError(f"member {info.name} is cut off")
                member = Member(
                    suffix=suffix, offset=info.offset_data, size=info.size, crc32=zlib.crc32(data)
                )
                members.setdefault(clip_id, []).append(member)
                if suffix == "mp4":
                    tables[clip_id] = index_mp4(data)
        clips = [
            _clip_index(clip_id, tuple(written), tables[clip_id])
            for clip_id, written in members.items()
        ]
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{tar_path} cannot be read: {error.strerror or error}.") from error
    except (tarfile.TarError, ValueError, KeyError, IndexError) as error:
        raise DatasetError(
            f"{tar_path} cannot be indexed: {error!r}.",
            hint="The tar is damaged; curate its videos again into another dataset.",
        ) from error
    return ShardIndex.of(clips)


def _clip_index(clip_id: str, members: tuple[Member, ...], table: ClipPackets) -> ClipIndex:
    packets = {field.name: getattr(table, field.name) for field in fields(ClipPackets)}
    return ClipIndex(clip_id=clip_id, members=members, **packets)


def _rank(suffix: str) -> int:
    return _FIRST_SUFFIXES.index(suffix) if suffix in _FIRST_SUFFIXES else len(_FIRST_SUFFIXES)


def _unwritable(path: Location, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Free disk space or fix the permissions, then run the same command again.",
    )
