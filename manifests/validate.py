"""Check a dataset: every reference between tables, every digest of the bytes they name."""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .deletion import journal_path
from .errors import DatasetError, EgodojoError
from .latents import ROW_BYTES, f16_digest, f16_path, read_rows, rows_digest
from .locations import Location, below, matches, names_in
from .records import UNIT_STATES, shard_name
from .shard_index import INDEX_SUFFIX, ClipIndex, ShardIndex
from .storage import local_file
from .views import quoted

if TYPE_CHECKING:
    from .dataset import Dataset

_SHARDS_AT_ONCE = 1000


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
            FROM _committed GROUP BY unit_id) AS c USING (unit_id)
        WHERE u.num_clips <> coalesce(c.written, 0) OR u.num_gated <> coalesce(c.gated, 0)""",
    "unit_shard": """
        SELECT 'unit ' || number, 'shard ' || coalesce(shard, 'NULL') || ' with '
            || num_clips || ' clips'
        FROM units WHERE (num_clips > 0) <> (shard IS NOT NULL)
            OR (shard IS NOT NULL AND (shard_bytes IS NULL OR shard_sha256 IS NULL))""",
    "clip_twice": """
        SELECT clip_id, 'clips has ' || count(*) || ' rows of it'
        FROM _committed GROUP BY clip_id HAVING count(*) > 1""",
    "clip_id": """
        SELECT clip_id, 'is not the digest of its video and span' FROM _committed
        WHERE clip_id <> left(sha256(
            video_id || ':' || start_tick || ':' || end_tick || ':' || time_base), 24)""",
    "clip_span": """
        SELECT clip_id, 'ticks ' || start_tick || ' to ' || end_tick FROM _committed
        WHERE start_tick >= end_tick OR start_s > end_s
        UNION ALL SELECT clip_id, 'begins before the previous clip of its video ends' FROM (
            SELECT clip_id FROM _committed QUALIFY start_tick < lag(end_tick) OVER (
                PARTITION BY video_id ORDER BY start_tick, end_tick))""",
    "clip_unit": """
        SELECT clip_id, 'its unit holds no part of ' || uri
        FROM _committed AS c WHERE NOT EXISTS (
            SELECT 1 FROM (SELECT unit_id, unnest(parts) AS part FROM units) AS p
            WHERE p.unit_id = c.unit_id AND p.part.uri = c.uri
                AND p.part.video_id = c.video_id)""",
    "clip_shard": """
        SELECT clip_id, 'shard ' || coalesce(c.shard, 'NULL') || ', gate '
            || coalesce(c.gate, 'NULL')
        FROM _committed AS c JOIN units AS u USING (unit_id)
        WHERE c.shard IS DISTINCT FROM CASE WHEN c.gate IS NULL THEN u.shard END""",
    "decision": """
        SELECT clip_id, 'decided ' || count(*) || ' times'
        FROM decisions GROUP BY clip_id HAVING count(*) > 1
        UNION ALL SELECT clip_id, 'verdict ' || verdict || ' of a clip that is not there'
        FROM decisions WHERE clip_id NOT IN (SELECT clip_id FROM _committed)
        UNION ALL SELECT clip_id, 'verdict ' || verdict || ', reason ' || coalesce(reason, 'NULL')
            || ', gate ' || coalesce(gate, 'NULL')
        FROM _decided WHERE verdict NOT IN ('keep', 'drop') OR (gate IS NOT NULL
            AND (verdict = 'keep' OR reason <> gate)) OR (verdict = 'keep' AND reason IS NOT NULL)
            OR (verdict = 'drop' AND reason IS NULL)""",
}

_SCORE_CHECK = """
    SELECT clip_id, 'has a score but is no clip' FROM {name}
    WHERE clip_id NOT IN (SELECT clip_id FROM _committed)
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


# Every shard with the clips that the table `clips` has in it, in the order of the units.
_SHARDS = """
SELECT u.shard, u.shard_bytes, u.shard_sha256, coalesce(c.clip_ids, []) AS clip_ids
FROM units AS u LEFT JOIN (
    SELECT unit_id, list(clip_id) AS clip_ids FROM _committed WHERE gate IS NULL GROUP BY unit_id
) AS c USING (unit_id)
WHERE u.shard IS NOT NULL ORDER BY u.number
"""


def _shard_problems(dataset: Dataset) -> Iterator[Problem]:
    for batch in dataset.sql(_SHARDS).to_batches(max_chunksize=_SHARDS_AT_ONCE):
        for shard in batch.to_pylist():
            tar = dataset.path / "shards" / f"{shard['shard']}.tar"
            problem = _size_problem(tar, shard["shard_bytes"])
            if problem is not None:
                yield problem
                continue
            with local_file(tar) as copy:  # (an object is fetched once)
                if not _has_digest(copy, shard["shard_sha256"]):
                    detail = "its bytes are not those that were committed"
                    yield Problem(kind="shard_digest", where=tar.name, detail=detail)
                    continue
                yield from _index_problems(tar, copy, set(shard["clip_ids"]))
    yield from _unknown_shards(dataset)


def _size_problem(tar: Location, wanted: int | None) -> Problem | None:
    try:
        num_bytes = tar.stat().st_size
    except FileNotFoundError:
        return Problem(kind="shard_missing", where=tar.name, detail=f"{tar} is not there")
    if num_bytes == wanted:
        return None
    detail = f"{num_bytes} bytes instead of {wanted}"
    return Problem(kind="shard_size", where=tar.name, detail=detail)


def _has_digest(file: Path, wanted: str | None) -> bool:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == wanted


def _index_problems(tar: Location, copy: Path, wanted: set[str]) -> Iterator[Problem]:
    path = tar.with_suffix(INDEX_SUFFIX)
    try:
        index = ShardIndex.read(path)
        listed = set(index.clip_ids)
    except (EgodojoError, OSError, ValueError, KeyError) as error:
        yield Problem(kind="index_unreadable", where=path.name, detail=str(error))
        return
    for clip_id in sorted(wanted ^ listed):
        what = "is not in the index" if clip_id in wanted else "is in the index only"
        yield Problem(kind="index_clip", where=path.name, detail=f"clip {clip_id} {what}")
    with open(copy, "rb") as stream:
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


def _unknown_shards(dataset: Dataset) -> Iterator[Problem]:
    """Files beside the shards that no unit of work names, done or still to be done."""
    found = sorted(name for name in names_in(dataset.path / "shards") if ".tmp-" not in name)
    shards = pa.array([name.partition(".")[0] for name in found], pa.string())
    pending = "SELECT number FROM plan WHERE unit_id NOT IN (SELECT unit_id FROM units)"
    known = [
        dataset.sql("SELECT shard FROM units WHERE shard IS NOT NULL").column("shard"),
        pa.chunked_array(
            [[shard_name(n) for n in dataset.sql(pending)["number"].to_pylist()]], pa.string()
        ),
    ]
    is_known = pc.is_in(
        shards, pa.chunked_array([c for part in known for c in part.chunks], pa.string())
    )
    for number in np.flatnonzero(~is_known.to_numpy(zero_copy_only=False)):
        detail = "no unit of work names it; it can be removed"
        yield Problem(kind="shard_unknown", where=found[number], detail=detail)


class _Clips:
    """Written clips by shard, kept as columns: some tens of bytes each."""

    def __init__(self, dataset: Dataset) -> None:
        self._table = dataset.sql(
            "SELECT clip_id, shard, num_frames FROM _committed WHERE gate IS NULL ORDER BY shard"
        )
        self._shards = self._table.column("shard").combine_chunks().dictionary_encode()
        self._codes = self._shards.indices.to_numpy()

    def frames_of(self, shard: str) -> dict[str, int]:
        """Frames of each clip of one shard."""
        code = pc.index(self._shards.dictionary, shard).as_py()
        first, end = np.searchsorted(self._codes, [code, code + 1]) if code >= 0 else (0, 0)
        rows = self._table.slice(first, end - first)
        return dict(
            zip(*(rows.column(n).to_pylist() for n in ("clip_id", "num_frames")), strict=True)
        )


def _latent_problems(dataset: Dataset) -> Iterator[Problem]:
    metas = matches(dataset.path / "latents", "*/step-*/meta.json")
    if not metas:
        return
    clips = _Clips(dataset)
    for meta in metas:
        where = below(meta, dataset.path)
        try:
            step = int(meta.parent.name.removeprefix("step-"))
            every = int(json.loads(meta.read_text(encoding="utf-8")).get("every", 1))
        except (OSError, ValueError, AttributeError) as error:
            yield Problem(kind="latents", where=where, detail=f"cannot be read: {error}")
            continue
        files = matches(meta.parent, "*.rows.parquet")
        for shard, paths in itertools.groupby(files, lambda path: path.name.partition(".")[0]):
            frames, seen = clips.frames_of(shard), set[str]()
            for path in paths:
                where = below(path, dataset.path)
                try:
                    for detail in _rows_problems(path, frames, seen, step=step, every=every):
                        yield Problem(kind="latents", where=where, detail=detail)
                except (OSError, KeyError, TypeError, DatasetError) as error:
                    yield Problem(kind="latents", where=where, detail=f"cannot be read: {error}")


def _rows_problems(
    path: Location, frames: dict[str, int], seen: set[str], *, step: int, every: int
) -> Iterator[str]:
    """What is wrong with a file of latents; `frames` has the clips of its shard."""
    next_row = 0
    table = read_rows(path)
    for row in table.to_pylist():
        clip_id = row["clip_id"]
        if clip_id not in frames:
            yield f"clip {clip_id} is not in {path.name.partition('.')[0]}"
            continue
        if clip_id in seen:
            yield f"clip {clip_id} has latents twice"
        seen.add(clip_id)
        wanted = max(0, -(-(frames[clip_id] - step) // every))
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
