"""Rebuild indexes of shards from the tars alone, where they are missing or not right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from manifests.dataset import Dataset
from manifests.errors import DatasetError
from manifests.lock import locked
from manifests.shard_index import ShardIndex
from manifests.storage import Location

from .progress import Progress
from .shards import index_path, rebuild_index

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """An index that was written anew, and why: `missing`, `unreadable` or `wrong`."""

    shard: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMended:
    """A tar from which no index can be made, and why, in a sentence."""

    shard: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexReport:
    """What was looked at and what was written."""

    num_shards: int
    mended: tuple[Mended, ...]
    failed: tuple[NotMended, ...]


def reindex(
    path: Location | str, *, command: str = "egodojo manifest reindex", quiet: bool = False
) -> ReindexReport:
    """Check the index of every committed shard against its tar and write those that are wrong.

    Reads every byte of every tar. A tar that is not the one that was committed keeps its index:
    a new one would call the damage right. Holds the writer's lock.

    Raises:
        LockedError: Another command writes the dataset.
        DatasetError: There is no dataset.
    """
    dataset = Dataset.open(path)
    mended: list[Mended] = []
    failed: list[NotMended] = []
    # Not `Dataset.writer`: finishing a killed deletion may need the index that is missing here.
    with locked(dataset.path, command) as lock:
        dataset.refresh()
        query = "SELECT shard, shard_sha256 FROM units WHERE shard IS NOT NULL ORDER BY number"
        units = dataset.sql(query).to_pylist()
        with Progress(len(units), "shards checked", quiet=quiet) as progress:
            for unit in units:
                tar = dataset.path / "shards" / f"{unit['shard']}.tar"
                try:
                    reason = _mend(tar, unit, lock.token)
                except DatasetError as error:
                    failed.append(NotMended(shard=unit["shard"], error=error.message))
                else:
                    if reason is not None:
                        mended.append(Mended(shard=unit["shard"], reason=reason))
                progress.advance()
    return ReindexReport(num_shards=len(units), mended=tuple(mended), failed=tuple(failed))


def _mend(tar: Location, unit: dict[str, Any], token: str) -> str | None:
    """Write a shard's index when it is not right; says what was wrong with the old one."""
    if not tar.is_file():
        raise DatasetError(f"{tar} is not there.")
    sha = hashlib.sha256()
    with tar.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha.update(chunk)
    if sha.hexdigest() != unit["shard_sha256"]:
        raise DatasetError(f"The bytes of {tar} are not those that were committed.")
    wanted = rebuild_index(tar)
    reason = _fault(index_path(tar), wanted)
    if reason is not None:
        wanted.write(index_path(tar), token=token)
    return reason


def _fault(path: Location, wanted: ShardIndex) -> str | None:
    if not path.is_file():
        return "missing"
    try:
        return None if ShardIndex.read(path) == wanted else "wrong"
    except DatasetError:
        return "unreadable"
