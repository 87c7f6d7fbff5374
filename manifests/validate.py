"""Check a dataset: every reference between tables, every digest of the bytes they name."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .deletion import journal_path
from .errors import DatasetError, EgodojoError
from .latents import ROW_BYTES, f16_digest, f16_path, read_rows, rows_digest
from .locations import Location, below, matches
from .records import UNIT_STATES
from .shard_index import INDEX_SUFFIX, ClipIndex, ShardIndex
from .views import quoted

if TYPE_CHECKING:
    from .dataset import Dataset

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that does not fit: a short code, where, and a sentence."""

    kind: str
    where: str
    detail: str


_STATES = ", ".join(f"'{state}'" for state in UNIT_STATES)

# Each query returns (where, detail) of rows that break one rule of the format.
_CHECKS: dict[str, str] = {
    "video_twice": """
        SELECT uri, 'videos has ' || count(*) || ' rows of this uri'
        FROM videos GROUP BY uri HAVING count(*) > 1""",
    "video_state": """
        SELECT uri, 'state ' || state FROM videos WHERE state NOT IN ('readable', 'unreadable')""",
    "plan_twice": """
        SELECT unit_id, 'planned ' || count(*) || ' times'
        FROM plan GROUP BY unit_id HAVING count(*) > 1
        UNION ALL SELECT 'unit ' || number, 'number given ' || count(*) || ' times'
        FROM plan GROUP BY number HAVING count(*) > 1""",
    "plan_video": """
        SELECT 'unit ' || number, 'no readable video ' || part.uri
        FROM (SELECT number, unnest(parts) AS part FROM plan) AS p
        WHERE NOT EXISTS (SELECT 1 FROM videos AS v WHERE v.uri = p.part.uri
            AND v.video_id = p.part.video_id AND v.state = 'readable')""",
    "plan_overlap": """
        SELECT 'unit ' || number, 'a span of ' || part.uri || ' is planned twice'
        FROM (SELECT number, unnest(parts) AS part FROM plan)
        QUALIFY coalesce(part.start_tick, -(2::BIGINT ** 62)) < lag(
            coalesce(part.end_tick, 2::BIGINT ** 62)) OVER (
            PARTITION BY part.video_id ORDER BY part.start_tick NULLS FIRST, number)""",
    "unit_twice": """
        SELECT unit_id, 'committed ' || count(*) || ' times'
        FROM units GROUP BY unit_id HAVING count(*) > 1""",
    "unit_plan": """
        SELECT 'unit ' || u.number, 'is not what the plan says'
        FROM units AS u LEFT JOIN plan AS p USING (unit_id)
        WHERE p.number IS DISTINCT FROM u.number OR p.parts IS DISTINCT FROM u.parts""",
    "unit_state": f"""
        SELECT 'unit ' || number, 'state ' || state FROM units WHERE state NOT IN ({_STATES})""",
    "unit_counts": """
        SELECT 'unit ' || u.number, 'counts ' || u.num_clips || ' + ' || u.num_gated
            || ' clips, the table clips has ' || coalesce(c.written, 0) || ' + '
            || coalesce(c.gated, 0)
        FROM units AS u LEFT JOIN (
            SELECT unit_id, count(*) FILTER (gate IS NULL) AS written,
                count(*) FILTER (gate IS NOT NULL) AS gated
            FROM clips GROUP BY unit_id) AS c USING (unit_id)
        WHERE u.num_clips <> coalesce(c.written, 0) OR u.num_gated <> coalesce(c.gated, 0)""",
    "unit_shard": """
        SELECT 'unit ' || number, 'shard ' || coalesce(shard, 'NULL') || ' with '
            || num_clips || ' clips'
        FROM units WHERE (num_clips > 0) <> (shard IS NOT NULL)
            OR (shard IS NOT NULL AND (shard_bytes IS NULL OR shard_sha256 IS NULL))""",
    "clip_twice": """
        SELECT clip_id, 'clips has ' || count(*) || ' rows of it'
        FROM clips GROUP BY clip_id HAVING count(*) > 1""",
    "clip_id": """
        SELECT clip_id, 'is not the digest of its video and span' FROM clips
        WHERE clip_id <> left(sha256(
            video_id || ':' || start_tick || ':' || end_tick || ':' || time_base), 24)""",
    "clip_span": """
        SELECT clip_id, 'ticks ' || start_tick || ' to ' || end_tick FROM clips
        WHERE start_tick >= end_tick OR start_s > end_s
        UNION ALL SELECT clip_id, 'begins before the previous clip of its video ends' FROM (
            SELECT clip_id FROM clips QUALIFY start_tick < lag(end_tick) OVER (
                PARTITION BY video_id ORDER BY start_tick, end_tick))""",
    "clip_unit": """
        SELECT clip_id, 'its unit holds no part of ' || uri
        FROM clips AS c WHERE NOT EXISTS (
            SELECT 1 FROM (SELECT unit_id, unnest(parts) AS part FROM units) AS p
            WHERE p.unit_id = c.unit_id AND p.part.uri = c.uri
                AND p.part.video_id = c.video_id)""",
    "clip_shard": """
        SELECT clip_id, 'shard ' || coalesce(c.shard, 'NULL') || ', gate '
            || coalesce(c.gate, 'NULL')
        FROM clips AS c JOIN units AS u USING (unit_id)
        WHERE c.shard IS DISTINCT FROM CASE WHEN c.gate IS NULL THEN u.shard END""",
    "decision": """
        SELECT clip_id, 'decided ' || count(*) || ' times'
        FROM decisions GROUP BY clip_id HAVING count(*) > 1
        UNION ALL SELECT clip_id, 'verdict ' || verdict || ' of a clip that is not there'
        FROM decisions WHERE clip_id NOT IN (SELECT clip_id FROM clips)
        UNION ALL SELECT clip_id, 'verdict ' || verdict || ', reason ' || coalesce(reason, 'NULL')
            || ', gate ' || coalesce(gate, 'NULL')
        FROM clips WHERE verdict NOT IN ('keep', 'drop') OR (gate IS NOT NULL
            AND (verdict = 'keep' OR reason <> gate)) OR (verdict = 'keep' AND reason IS NOT NULL)
            OR (verdict = 'drop' AND reason IS NULL)""",
}

_SCORE_CHECK = """
    SELECT clip_id, 'has a score but is no clip' FROM {name}
    WHERE clip_id NOT IN (SELECT clip_id FROM clips)
    UNION ALL SELECT clip_id, 'has ' || count(*) || ' rows'
    FROM {name} GROUP BY clip_id HAVING count(*) > 1"""


def validate(dataset: Dataset) -> list[Problem]:
    """Everything about a dataset that is not as its format says; [] when all is well.

    Reads every byte of every shard once. Work that is planned and not done is no problem, nor is
    what a killed writer left behind: the next run deals with both.
    """
    return [
        *_unfinished(dataset),
        *_table_problems(dataset),
        *_shard_problems(dataset),
        *_latent_problems(dataset),
    ]


def _unfinished(dataset: Dataset) -> Iterator[Problem]:
    journal = journal_path(dataset.path)
    if journal.is_file():
        detail = "a deletion was interrupted; the next command that writes the dataset finishes it"
        yield Problem(kind="delete_unfinished", where=journal.name, detail=detail)


def _table_problems(dataset: Dataset) -> Iterator[Problem]:
    checks = dict(_CHECKS)
    for name in dataset.scores:
        checks[f"score_{name}"] = _SCORE_CHECK.format(name=quoted(name))
    for kind, query in checks.items():
        found = dataset.sql(query)
        for where, detail in zip(*(column.to_pylist() for column in found.columns), strict=True):
            yield Problem(kind=kind, where=where, detail=detail)


def _shard_problems(dataset: Dataset) -> Iterator[Problem]:
    units = dataset.sql("SELECT * FROM units WHERE shard IS NOT NULL ORDER BY number").to_pylist()
    for unit in units:
        tar = dataset.path / "shards" / f"{unit['shard']}.tar"
        problem = _tar_problem(tar, unit)
        if problem is not None:
            yield problem
        else:
            yield from _index_problems(dataset, tar, unit)
    yield from _unknown_shards(dataset, {unit["shard"] for unit in units})


def _tar_problem(tar: Location, unit: dict[str, Any]) -> Problem | None:
    if not tar.is_file():
        return Problem(kind="shard_missing", where=tar.name, detail=f"{tar} is not there")
    num_bytes = tar.stat().st_size
    if num_bytes != unit["shard_bytes"]:
        detail = f"{num_bytes} bytes instead of {unit['shard_bytes']}"
        return Problem(kind="shard_size", where=tar.name, detail=detail)
    sha = hashlib.sha256()
    with tar.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha.update(chunk)
    if sha.hexdigest() != unit["shard_sha256"]:
        detail = "its bytes are not those that were committed"
        return Problem(kind="shard_digest", where=tar.name, detail=detail)
    return None


def _index_problems(dataset: Dataset, tar: Location, unit: dict[str, Any]) -> Iterator[Problem]:
    path = tar.with_suffix(INDEX_SUFFIX)
    try:
        index = ShardIndex.read(path)
        listed = set(index.clip_ids)
    except (EgodojoError, OSError, ValueError, KeyError) as error:
        yield Problem(kind="index_unreadable", where=path.name, detail=str(error))
        return
    query = f"SELECT clip_id FROM clips WHERE gate IS NULL AND unit_id = '{unit['unit_id']}'"
    wanted = set(dataset.sql(query).column("clip_id").to_pylist())
    for clip_id in sorted(wanted ^ listed):
        what = "is not in the index" if clip_id in wanted else "is in the index only"
        yield Problem(kind="index_clip", where=path.name, detail=f"clip {clip_id} {what}")
    with tar.open("rb") as stream:
        for clip_id in sorted(wanted & listed):
            for suffix in _wrong_checksums(stream, index.row(clip_id)):
                detail = f"a checksum of {clip_id}.{suffix} does not fit the tar"
                yield Problem(kind="index_checksum", where=path.name, detail=detail)


def _wrong_checksums(stream: BinaryIO, clip: ClipIndex) -> Iterator[str]:
    for member in clip.members:
        stream.seek(member.offset)
        data = stream.read(member.size)
        fits = zlib.crc32(data) == member.crc32
        if member.suffix == "mp4":
            fits = fits and _group_checksums(data, clip) == clip.gop_crc32.tolist()
        if not fits:
            yield member.suffix


def _group_checksums(data: bytes, clip: ClipIndex) -> list[int]:
    """CRC-32 of the packets from each keyframe to the next."""
    ends = clip.data_offset + np.cumsum(clip.packet_sizes, dtype=np.int64)
    starts = (ends - clip.packet_sizes)[clip.is_key].tolist()
    edges = [*starts, *ends[-1:].tolist()]
    return [zlib.crc32(data[a:b]) for a, b in pairwise(edges)]


def _unknown_shards(dataset: Dataset, known: set[str]) -> Iterator[Problem]:
    pending = {unit.shard for unit in dataset.pending_units()}
    folder = dataset.path / "shards"
    for path in matches(folder, "*"):
        name = path.name.partition(".")[0]
        if ".tmp-" not in path.name and name not in known and name not in pending:
            detail = "no unit of work names it; it can be removed"
            yield Problem(kind="shard_unknown", where=path.name, detail=detail)


def _latent_problems(dataset: Dataset) -> Iterator[Problem]:
    metas = matches(dataset.path / "latents", "*/step-*/meta.json")
    if not metas:
        return
    rows = dataset.sql("SELECT clip_id, shard, num_frames FROM clips WHERE gate IS NULL")
    clips = {row["clip_id"]: row for row in rows.to_pylist()}
    for meta in metas:
        where = below(meta, dataset.path)
        try:
            step = int(meta.parent.name.removeprefix("step-"))
            every = int(json.loads(meta.read_text(encoding="utf-8")).get("every", 1))
        except (OSError, ValueError, AttributeError) as error:
            yield Problem(kind="latents", where=where, detail=f"cannot be read: {error}")
            continue
        seen: set[str] = set()
        for path in matches(meta.parent, "*.rows.parquet"):
            where = below(path, dataset.path)
            try:
                for detail in _rows_problems(path, clips, seen, step=step, every=every):
                    yield Problem(kind="latents", where=where, detail=detail)
            except (OSError, KeyError, TypeError, DatasetError) as error:
                yield Problem(kind="latents", where=where, detail=f"cannot be read: {error}")


def _rows_problems(
    path: Location, clips: dict[str, dict[str, Any]], seen: set[str], *, step: int, every: int
) -> Iterator[str]:
    next_row = 0
    shard = path.name.partition(".")[0]
    table = read_rows(path)
    for row in table.to_pylist():
        clip_id, clip = row["clip_id"], clips.get(row["clip_id"])
        if clip is None or clip["shard"] != shard:
            yield f"clip {clip_id} is not in {shard}"
            continue
        if clip_id in seen:
            yield f"clip {clip_id} has latents twice"
        seen.add(clip_id)
        wanted = max(0, -(-(clip["num_frames"] - step) // every))
        if (row["first_row"], row["num_rows"]) != (next_row, wanted):
            yield (
                f"clip {clip_id} has rows {row['first_row']} + {row['num_rows']}, "
                f"should be {next_row} + {wanted}"
            )
        next_row = row["first_row"] + row["num_rows"]
    data = f16_path(path)
    num_bytes = data.stat().st_size if data.is_file() else -1
    if num_bytes != next_row * ROW_BYTES:
        yield f"{data.name} has {num_bytes} bytes for {next_row} rows"
    elif rows_digest(table) not in (None, f16_digest(data)):
        yield f"{data.name} is not as it was written: its digest differs"
