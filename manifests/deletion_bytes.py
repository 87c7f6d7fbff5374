"""The bytes of a deletion: shards without some clips, latents that follow, what goes whole."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import storage
from .errors import DatasetError
from .latents import ROW_BYTES, f16_digest, f16_path, read_rows, rows_bytes, rows_digest
from .locations import Location, below, matches
from .shard_index import INDEX_SUFFIX, ClipIndex, Member, ShardIndex

_BLOCK_BYTES = tarfile.BLOCKSIZE
_TEMPORARY = re.compile(r".+\.tmp-([0-9a-f]{16})\Z")


def check_shard(folder: Location, shard: str, clip_ids: Collection[str]) -> None:
    """Refuse a shard whose other clips could not be taken over, before anything is written.

    Args:
        folder: The dataset.
        shard: Name of the shard.
        clip_ids: What the table `clips` has in it.

    Raises:
        DatasetError: The tar or its index is missing, or they do not fit each other or the table.
    """
    index = ShardIndex.read(folder / "shards" / f"{shard}{INDEX_SUFFIX}")
    if set(clip_ids) != set(index.clip_ids):
        raise DatasetError(
            f"The index of {folder}/shards/{shard}.tar does not list the clips that the table "
            "clips has in it.",
            hint=f"Run: egodojo manifest reindex {folder}",
        )
    for clip_id in index.clip_ids:
        for member in index.row(clip_id).members:
            _check_header(folder, shard, clip_id, member)


def rewrite_shard(
    folder: Location, old: str, new: str, *, without: Collection[str], token: str
) -> None:
    """Copy a shard's other clips, byte for byte and in order, into a new shard with its index."""
    shards = folder / "shards"
    index = ShardIndex.read(shards / f"{old}{INDEX_SUFFIX}")
    kept: list[ClipIndex] = []
    position = 0
    with storage.replacing(shards / f"{new}.tar", token) as target:
        for clip_id in index.clip_ids:
            if clip_id in without:
                continue
            clip = index.row(clip_id)
            members: list[Member] = []
            for member in clip.members:
                target.write(_member_bytes(folder, old, clip_id, member))
                members.append(replace(member, offset=position + _BLOCK_BYTES))
                position += _BLOCK_BYTES + _padded(member.size)
            kept.append(replace(clip, members=tuple(members)))
        target.write(bytes(2 * _BLOCK_BYTES))
    index_bytes = ShardIndex.of(kept).to_bytes()
    storage.write_atomic(shards / f"{new}{INDEX_SUFFIX}", index_bytes, token)


def remove_shard(folder: Location, shard: str) -> None:
    """Remove a tar and its index."""
    for suffix in (".tar", INDEX_SUFFIX):
        storage.remove(folder / "shards" / f"{shard}{suffix}")


def latent_shards(folder: Location) -> set[str]:
    """Shards that any stored latents name."""
    found = (folder / "latents").glob("*/step-*/*.rows.parquet")
    return {path.name.partition(".")[0] for path in found}


def move_latents(
    folder: Location, shards: Mapping[str, str | None], *, without: Collection[str], token: str
) -> tuple[list[str], list[str]]:
    """Let stored latents follow their clips into the new shards, without those of some clips.

    Returns:
        The files that were replaced or removed, relative to the dataset, and those of them that
        were damaged, so that the latents of the other clips are gone too.
    """
    changed: list[str] = []
    damaged: list[str] = []
    for step in matches(folder / "latents", "*/step-*"):
        found = [path for path in matches(step, "*") if path.name.partition(".")[0] in shards]
        for rows in (path for path in found if path.name.endswith(".rows.parquet")):
            shard, _, rest = rows.name.partition(".")
            new = shards[shard]
            changed.append(below(rows, folder))
            if new is None:
                continue
            table = _latent_rows(rows)
            if table is None:
                damaged.append(changed[-1])
            else:
                kept = [row for row in table.to_pylist() if row["clip_id"] not in without]
                _copy_latents(rows, kept, step / f"{new}.{rest}", token=token)
        for path in sorted(found, key=lambda path: path.name.endswith(".f16")):  # rows first
            storage.remove(path)
    return changed, damaged


def remove_tokens(folder: Location, shards: Collection[str]) -> list[str]:
    """Remove stored tokenizer latents of whole shards; returns the models concerned."""
    models: set[str] = set()
    for path in matches(folder / "tokens", "*/**/*"):
        if path.is_file() and path.name.partition(".")[0] in shards:
            storage.remove(path)
            models.add(below(path, folder / "tokens").partition("/")[0])
    return sorted(models)


def stale_indexes(folder: Location, gone: Collection[str]) -> Iterator[Location]:
    """Action indexes that hold one of some clips, or that cannot say which they hold."""
    for path in matches(folder / "index", "*"):
        if not path.is_dir():
            continue
        try:
            names = json.loads((path / "meta.json").read_text(encoding="utf-8"))["files"]
            held = pq.read_table(
                _buffer(path / names["rows"]), columns=["clip_id"], partitioning=None
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            yield path
            continue
        if pc.any(pc.is_in(held.column(0), pa.array(sorted(gone), pa.string()))).as_py():
            yield path


def remove_temporary(folder: Location, token: str) -> None:
    """Remove what a killed deletion left half-written in a tree."""
    for path in matches(folder, "**/*.tmp-*"):
        found = _TEMPORARY.match(path.name)
        if found and found[1] != token:
            storage.remove(path)


def _member_bytes(folder: Location, shard: str, clip_id: str, member: Member) -> bytes:
    """A member with its tar header and padding."""
    begin = member.offset - _BLOCK_BYTES
    size = _BLOCK_BYTES + _padded(member.size)
    return storage.read_range(folder, f"shards/{shard}.tar", begin, size)


def _check_header(folder: Location, shard: str, clip_id: str, member: Member) -> None:
    begin = member.offset - _BLOCK_BYTES
    header = storage.read_range(folder, f"shards/{shard}.tar", begin, _BLOCK_BYTES)
    if header[:100].rstrip(b"\0") != f"{clip_id}.{member.suffix}".encode():
        raise DatasetError(
            f"The index of {folder}/shards/{shard}.tar does not fit the tar at clip {clip_id}.",
            hint=f"Run: egodojo manifest reindex {folder}",
        )


def _padded(size: int) -> int:
    return size + -size % _BLOCK_BYTES


def _latent_rows(rows: Location) -> pa.Table | None:
    """The table of a latent file; None when it or the file is damaged."""
    try:
        table = read_rows(rows)
    except (DatasetError, OSError):
        return None
    source = f16_path(rows)
    num_bytes = source.stat().st_size if source.is_file() else -1
    ends = pc.add(table.column("first_row"), table.column("num_rows"))
    is_whole = num_bytes >= ROW_BYTES * (pc.max(ends).as_py() or 0)
    if is_whole and rows_digest(table) not in (None, f16_digest(source)):
        return None
    return table if is_whole else None


def _copy_latents(
    rows: Location, kept: Sequence[Mapping[str, Any]], new: Location, *, token: str
) -> None:
    if not kept:
        return
    source, digest = f16_path(rows), hashlib.sha256()
    with storage.replacing(f16_path(new), token) as target:
        for row in kept:
            begin, size = row["first_row"] * ROW_BYTES, row["num_rows"] * ROW_BYTES
            content = storage.read_range(source.parent, source.name, begin, size)
            digest.update(content)
            target.write(content)
    ids, counts = [row["clip_id"] for row in kept], [row["num_rows"] for row in kept]
    moved = rows_bytes(ids, counts, f16_sha256=digest.hexdigest())
    with storage.replacing(new, token) as target:
        target.write(moved)


def _buffer(path: Location) -> pa.BufferReader:
    return pa.BufferReader(path.read_bytes())
