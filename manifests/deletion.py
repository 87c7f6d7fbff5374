"""Footage that is withdrawn: clips are taken out of shards, tables and everything made of them.

What is to go is first written down in `runs/DELETE.json`; every step after that can be done again
without harm, and whoever next writes the dataset finishes what was killed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from . import schema, storage, table_history, tables
from .deletion_bytes import (
    check_shard,
    latent_shards,
    move_latents,
    remove_shard,
    remove_temporary,
    remove_tokens,
    rewrite_shard,
    stale_indexes,
)
from .errors import DatasetError, UsageError
from .locations import Location
from .records import DELETED_STAGE, shard_name, shard_number
from .table_rewrite import rewrite
from .views import quoted

if TYPE_CHECKING:
    from .dataset import Dataset
    from .writer import Writer

UNLOCKED_GRACE_S = 3600.0
_CHUNK_BYTES = 1 << 20
_SHARDS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """One clip that goes; `shard` is None where it was gated and never written."""

    clip_id: str
    unit_id: str
    video_id: str
    shard: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What a deletion does, decided before its first step.

    Attributes:
        where: The predicate.
        clips: The clips that go.
        shards: Shards that lose clips, and the name of the one that takes what remains; None
            where nothing does.
        first_free_number: No later unit or shard gets a number below it.
        length_s: Seconds of the clips.
    """

    where: str
    clips: tuple[Doomed, ...]
    shards: dict[str, str | None]
    first_free_number: int
    length_s: float

    @property
    def num_clips(self) -> int:
        """Clips that go, gated ones included."""
        return len(self.clips)

    @property
    def num_written(self) -> int:
        """Clips with bytes in a shard."""
        return sum(clip.shard is not None for clip in self.clips)

    @property
    def num_videos(self) -> int:
        """Videos they come from."""
        return len({clip.video_id for clip in self.clips})

    def to_json(self) -> dict[str, Any]:
        """Plain values, all of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Deletion:
        """What `to_json` wrote."""
        clips = tuple(Doomed(**clip) for clip in values["clips"])
        return cls(**{**values, "clips": clips})


@dataclass(slots=True, kw_only=True)
class Deleted:
    """What a deletion did; `redo` names what was removed whole and how it is made again."""

    where: str
    num_clips: int
    num_written: int
    num_videos: int
    length_s: float
    shards: dict[str, str | None]
    rows: dict[str, int] = field(default_factory=dict)
    latents: list[str] = field(default_factory=list)
    redo: dict[str, str] = field(default_factory=dict)
    versions_lost: dict[str, list[int]] = field(default_factory=dict)


def journal_path(folder: Location) -> Location:
    """Where an unfinished deletion is written down."""
    return folder / "runs" / "DELETE.json"


def plan_deletion(dataset: Dataset, where: str) -> Deletion:
    """What `delete` would do; writes nothing.

    Args:
        dataset: An open dataset.
        where: SQL over the view `clips`, verdict and scores included.

    Raises:
        UsageError: The predicate is empty.
        DatasetError: It cannot be evaluated.
    """
    if not where.strip():
        raise UsageError("The predicate of --where is empty.", hint="To delete all, say: true")
    found = dataset.sql(
        "SELECT clip_id, unit_id, video_id, shard, end_s - start_s AS length_s "
        f"FROM clips WHERE (\n{where}\n) ORDER BY clip_id"
    )
    length_s = pc.sum(found.column("length_s")).as_py() or 0.0
    clips = tuple(Doomed(**row) for row in found.drop_columns(["length_s"]).to_pylist())
    lost = Counter(clip.shard for clip in clips if clip.shard is not None)
    written = {shard: len(clip_ids) for shard, clip_ids in _clips_of(dataset, lost)}
    number = dataset.first_free_number()
    shards: dict[str, str | None] = {}
    for shard in sorted(lost, key=shard_number):
        shards[shard] = None
        if written[shard] > lost[shard]:
            shards[shard] = shard_name(number)
            number += 1
    return Deletion(
        where=where,
        clips=clips,
        shards=shards,
        first_free_number=number,
        length_s=round(length_s, 6),
    )


def delete(dataset: Dataset, where: str, *, command: str) -> tuple[Deleted | None, Deleted]:
    """Delete every clip a predicate chooses, for good, under the writer's lock.

    Returns:
        What was left of an earlier deletion that had been killed (None: nothing), and this one.

    Raises:
        LockedError: Another command writes the dataset.
        DatasetError: A wrong predicate, or a shard whose index does not fit.
    """
    with dataset.writer(command) as writer:
        planned = plan_deletion(dataset, where)
        if not planned.clips:
            return writer.finished_deletion, _begun(planned)
        kept = [old for old, new in planned.shards.items() if new is not None]
        for shard, clip_ids in _clips_of(dataset, kept):
            check_shard(dataset.path, shard, clip_ids)
        text = json.dumps(planned.to_json(), indent=1)
        storage.write_atomic(journal_path(dataset.path), text.encode(), writer.token)
        return writer.finished_deletion, finish_deletion(dataset, writer)


def finish_deletion(dataset: Dataset, writer: Writer) -> Deleted:
    """Do all steps of the deletion that is written down; steps already done change nothing."""
    journal = journal_path(dataset.path)
    try:
        deletion = Deletion.from_json(json.loads(journal.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"{journal}, which says what an interrupted deletion has to do, cannot be read.",
            hint="Remove that file and run the same `egodojo manifest delete` again.",
        ) from error
    done = _begun(deletion)
    _rewrite_shards(dataset, deletion, writer.token)
    _update_clips(dataset, deletion, writer)
    _update_units(dataset, deletion, writer)
    _remove_rows(dataset, writer, done)
    _remove_derived(dataset, deletion, done, writer.token)
    _vacuum(dataset, done)
    for shard in deletion.shards:
        remove_shard(dataset.path, shard)
    storage.remove(journal)
    return done


def _begun(deletion: Deletion) -> Deleted:
    return Deleted(
        where=deletion.where,
        num_clips=len(deletion.clips),
        num_written=deletion.num_written,
        num_videos=deletion.num_videos,
        length_s=deletion.length_s,
        shards=deletion.shards,
        rows={"clips": len(deletion.clips)} if deletion.clips else {},
    )


def _clips_of(dataset: Dataset, shards: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """What the table `clips` has in each of some shards; shards that it does not name are left out.

    One query for all of them: each reads the whole table.
    """
    listed = ", ".join(f"'{shard}'" for shard in sorted(shards)) or "NULL"
    found = dataset.sql(
        f"SELECT shard, list(clip_id) AS clip_ids FROM _committed WHERE shard IN ({listed}) "
        "GROUP BY shard ORDER BY shard"
    )
    for batch in found.to_batches(max_chunksize=_SHARDS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _rewrite_shards(dataset: Dataset, deletion: Deletion, token: str) -> None:
    doomed = {clip.clip_id for clip in deletion.clips}
    # Once the table clips names the new shard, that one is whole.
    named = {shard for shard, _ in _clips_of(dataset, deletion.shards)}
    for old, new in deletion.shards.items():
        if new is not None and old in named:
            rewrite_shard(dataset.path, old, new, without=doomed, token=token)


def _update_clips(dataset: Dataset, deletion: Deletion, writer: Writer) -> None:
    """Take the clips out and let the others of their shards name the new ones, in one commit."""
    doomed = pa.array([clip.clip_id for clip in deletion.clips], pa.string())
    unit_ids = sorted({clip.unit_id for clip in deletion.clips})

    def without(rows: pa.Table) -> pa.Table:
        rows = rows.filter(pc.invert(pc.is_in(rows.column("clip_id"), doomed)))
        shards = [deletion.shards.get(s, s) for s in rows.column("shard").to_pylist()]
        place = rows.schema.get_field_index("shard")
        return rows.set_column(place, rows.schema.field(place), pa.array(shards, pa.string()))

    with writer.commit("clips") as table:
        if tables.dataset_of(table).count_rows(filter=pc.field("clip_id").isin(doomed)):
            rewrite(table, column="unit_id", values=unit_ids, change=without)


def _update_units(dataset: Dataset, deletion: Deletion, writer: Writer) -> None:
    kept = {schema.FIRST_FREE_NUMBER: str(deletion.first_free_number)}
    taken: dict[str, Counter[str]] = {}
    for clip in deletion.clips:
        taken.setdefault(clip.unit_id, Counter())[clip.video_id] += 1
    listed = ", ".join(f"'{unit_id}'" for unit_id in taken) or "NULL"
    counts = {
        unit_id: (written, gated)
        for unit_id, written, gated in _rows(
            dataset,
            "SELECT unit_id, count(*) FILTER (gate IS NULL), count(*) FILTER (gate IS NOT NULL) "
            f"FROM _committed WHERE unit_id IN ({listed}) GROUP BY 1",
        )
    }
    with writer.commit("units") as table:
        data = tables.dataset_of(table)
        rows = data.to_table(filter=pc.field("unit_id").isin(sorted(taken))).to_pylist()
        changed = [
            _unit_without(row, counts.get(row["unit_id"], (0, 0)), deletion, dataset.path)
            | {"problems": [*row["problems"], *_notes(taken[row["unit_id"]])]}
            for row in rows
            if (row["num_clips"], row["num_gated"]) != counts.get(row["unit_id"], (0, 0))
        ]
        if changed:
            tables.replace_where(
                table,
                pa.Table.from_pylist(changed, schema=schema.UNITS),
                column="unit_id",
                values=[row["unit_id"] for row in changed],
                metadata=kept,
            )


def _unit_without(
    row: dict[str, Any], counts: tuple[int, int], deletion: Deletion, folder: Location
) -> dict[str, Any]:
    """A row of `units` after its clips are gone."""
    changed = {**row, "num_clips": counts[0], "num_gated": counts[1]}
    if row["shard"] not in deletion.shards:
        return changed
    shard = deletion.shards[row["shard"]]
    if shard is None:
        return changed | {"shard": None, "shard_bytes": None, "shard_sha256": None}
    tar = folder / "shards" / f"{shard}.tar"
    sha = hashlib.sha256()
    with tar.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha.update(chunk)
    size = tar.stat().st_size
    return changed | {"shard": shard, "shard_bytes": size, "shard_sha256": sha.hexdigest()}


def _notes(taken: Counter[str]) -> list[dict[str, Any]]:
    """What the view `files` shows of it."""
    return [
        {
            "video_id": video_id,
            "stage": DELETED_STAGE,
            "error": f"{number} clip{'s' if number > 1 else ''} deleted on demand",
            "num_frames_expected": None,
            "num_frames_decoded": None,
        }
        for video_id, number in sorted(taken.items())
    ]


def _remove_rows(dataset: Dataset, writer: Writer, done: Deleted) -> None:
    """Decisions and scores of clips that are no more."""
    for name in ("decisions", *(f"scores/{score}" for score in dataset.scores)):
        view = quoted(name.removeprefix("scores/"))
        query = (
            f"SELECT DISTINCT clip_id FROM {view} ANTI JOIN _committed USING (clip_id) ORDER BY 1"
        )
        gone = [row[0] for row in _rows(dataset, query)]
        if gone:
            with writer.commit(name) as table:
                tables.delete(table, "clip_id", gone)
            done.rows[name] = len(gone)


def _remove_derived(dataset: Dataset, deletion: Deletion, done: Deleted, token: str) -> None:
    """Latents and tokens of those clips; indexes and pages that show them go as a whole."""
    doomed = {clip.clip_id for clip in deletion.clips}
    remove_temporary(dataset.path / "latents", token)
    here = dataset.path
    # Latents of shards that are no more were written while an earlier deletion ran.
    known = {row[0] for row in _rows(dataset, "SELECT shard FROM units WHERE shard IS NOT NULL")}
    strays = dict.fromkeys(latent_shards(here) - known)
    moves = {**strays, **deletion.shards}
    done.latents, damaged = move_latents(here, moves, without=doomed, token=token)
    for name in damaged:
        done.redo[name] = f"egodojo latents extract {here} --model MODEL"
    for model in remove_tokens(here, deletion.shards):
        done.redo[f"tokens/{model}"] = f"egodojo tokens extract {here}"
    for folder in stale_indexes(here, doomed):
        storage.remove(folder)
        done.redo[f"index/{folder.name}"] = f"egodojo index build {here} --name {folder.name}"
    if (here / "preview").exists():
        storage.remove(here / "preview")
        done.redo["preview"] = f"egodojo manifest preview {here}"


def _vacuum(dataset: Dataset, done: Deleted) -> None:
    """Remove the files in which earlier versions hold the rows."""
    for name in ("clips", "units", "decisions", *(f"scores/{score}" for score in dataset.scores)):
        grace_s = 0.0 if name in ("clips", "units") else UNLOCKED_GRACE_S
        found = table_history.vacuum(dataset.path / "catalog" / name, grace_s=grace_s)
        if found.versions:
            done.versions_lost[name] = list(found.versions)


def _rows(dataset: Dataset, query: str) -> list[tuple[Any, ...]]:
    found = dataset.sql(query)
    return list(zip(*(column.to_pylist() for column in found.columns), strict=True))
