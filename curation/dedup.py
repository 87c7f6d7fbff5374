"""Near-duplicates: clips that show the same at the same time, whatever their size, codec or start.

Every cluster has one clip that all others were compared with and found alike, the best one:
likeness is never passed on from clip to clip. Nothing is deleted; a recipe's rule decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.config import digest
from manifests.dataset import Dataset
from manifests.errors import DatasetError

from . import codes, matching, shelf
from .candidates import Pairs, candidate_pairs
from .clusters import FACTS, Alike, ClipFacts, Place, cluster, distance_limit, places_table
from .fingerprint import COLUMN, NUM_FIELDS, STEPS_PER_S, mirrored
from .matching import best_match, has_texture, smoothed
from .prints import Fingerprints

SCORE = "duplicates"
MAX_DISTANCE = 0.12
"""Intact copies of real videos lie below 0.06, different ones above 0.17."""

_ROWS_AT_ONCE = 2048

_MATCH = pa.struct(
    [
        ("clip_id", pa.string()),
        ("distance", pa.float64()),
        ("common_s", pa.float64()),
        ("shift_s", pa.float64()),
        ("is_mirrored", pa.bool_()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("cluster_id", pa.string()),
        ("duplicate_of", pa.string()),
        ("distance", pa.float64()),
        ("is_mirrored", pa.bool_()),
        ("rank", pa.int64()),
        ("matches", pa.list_(_MATCH)),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSummary:
    """What a search did.

    Attributes:
        num_clips: Written clips.
        num_compared: Those with a fingerprint.
        num_new: Those that were not compared before.
        num_candidates: Pairs whose fingerprints were compared.
        num_clusters: Clusters of two or more.
        num_duplicates: Clips that are a duplicate of another.
        max_distance: The threshold.
        version: Version of `scores/duplicates` that holds the result.
    """

    num_clips: int
    num_compared: int
    num_new: int
    num_candidates: int
    num_clusters: int
    num_duplicates: int
    max_distance: float
    version: int


def dedup(
    dataset: Dataset, *, max_distance: float | None = None, redo: bool = False
) -> DedupSummary:
    """Find near-duplicates among the written clips and write `scores/duplicates`.

    Only pairs with a clip that was not compared before are looked at, unless the threshold or the
    method changed; the result is that of comparing all. Needs no lock and decodes nothing.

    Args:
        dataset: Where to look.
        max_distance: Clips no further apart are alike; default: as last time, or `MAX_DISTANCE`.
        redo: Compare everything again.

    Raises:
        UsageError: A threshold that is not between 0 and 1.
        DatasetError: More footage than one search takes.
    """
    dataset.check_writable()
    dataset.refresh()
    limit = distance_limit(
        dataset,
        SCORE,
        max_distance,
        default=MAX_DISTANCE,
        hint=f"The default is {MAX_DISTANCE}; a larger one takes less alike clips together.",
    )
    settings = _settings_digest(limit)
    before = None if redo else _compared(dataset, settings)
    with tempfile.TemporaryFile() as file:
        facts, prints = _read(dataset, file)
        has_print = np.diff(prints.starts) > 0
        is_new = has_print & ~_is_in(facts["clip_id"], before)
        pairs = candidate_pairs(prints, is_new)
        alike = _known(facts["clip_id"], before)
        for found, is_mirrored in zip(pairs, (False, True), strict=True):
            alike += _verified(facts, prints, found, limit=limit, is_mirrored=is_mirrored)
    alike = _nearest(alike)
    places = cluster(_involved(facts, alike), alike)
    table = _table(facts["clip_id"].filter(pa.array(has_print)), alike, places)
    _write(dataset, table, settings=settings, limit=limit)
    return DedupSummary(
        num_clips=len(facts),
        num_compared=int(has_print.sum()),
        num_new=int(is_new.sum()),
        num_candidates=sum(map(len, pairs)),
        num_clusters=len({place.cluster_id for place in places.values()}),
        num_duplicates=sum(place.rank > 0 for place in places.values()),
        max_distance=limit,
        version=dataset.versions[f"scores/{SCORE}"],
    )


def _settings_digest(limit: float) -> str:
    """Digest of all that the comparison of two clips depends on."""
    named = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (codes, matching)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, (int, float, tuple))
    }
    return digest({**named, "max_distance": limit})


def _read(dataset: Dataset, file: IO[bytes]) -> tuple[pa.Table, Fingerprints]:
    """All written clips; their fingerprints go to a file, so that they need no memory."""
    steps_of_clip = f"coalesce(len(c.{COLUMN}), 0) * 8 // {NUM_FIELDS} AS num_steps"
    query = FACTS.format(more=f", {steps_of_clip}, c.{COLUMN} AS words", joined="")
    reader = dataset.connection().sql(query).to_arrow_reader(_ROWS_AT_ONCE)
    assert reader is not None
    facts = []
    for batch in reader:
        words = batch.column("words")
        file.write(words.flatten().to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        facts.append(batch.drop_columns(["words"]))
    file.flush()
    schema = pa.schema([field for field in reader.schema if field.name != "words"])
    table = pa.Table.from_batches(facts, schema).combine_chunks()
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(table["num_steps"].to_numpy())])
    if starts[-1] > shelf.MAX_STEPS:
        raise DatasetError(
            f"{dataset.path} has {starts[-1]} quarter seconds of fingerprints; one search takes "
            f"{shelf.MAX_STEPS}.",
            hint="Curate sources that cannot share footage into datasets of their own.",
        )
    steps: NDArray[np.uint8] = np.empty((0, NUM_FIELDS), np.uint8)
    if starts[-1]:
        steps = np.asarray(np.memmap(file, np.uint8, "r", shape=(int(starts[-1]), NUM_FIELDS)))
    return table, Fingerprints(steps=steps, starts=starts)


def _compared(dataset: Dataset, settings: str) -> pa.Table | None:
    """Clips compared before in the same way, and what each was found alike with."""
    if SCORE not in dataset.scores:
        return None
    if dataset.metadata(f"scores/{SCORE}").get("settings_digest") != settings:
        return None
    return dataset.table(f"scores/{SCORE}").select(["clip_id", "matches"])


def _is_in(clip_ids: pa.ChunkedArray, before: pa.Table | None) -> NDArray[np.bool_]:
    known = pa.array([], pa.string()) if before is None else before["clip_id"]
    found: NDArray[np.bool_] = pc.is_in(clip_ids, known).to_numpy()
    return found


def _known(clip_ids: pa.ChunkedArray, before: pa.Table | None) -> list[Alike]:
    """Pairs found before whose clips are both still there."""
    if before is None:
        return []
    rows = before.filter(pc.greater(pc.list_value_length(before["matches"]), 0)).to_pylist()
    named = {match["clip_id"] for row in rows for match in row["matches"]}
    named |= {row["clip_id"] for row in rows}
    wanted = pc.is_in(clip_ids, pa.array(sorted(named), pa.string()))
    present = set(clip_ids.filter(wanted).to_pylist())
    return [
        Alike(
            first=row["clip_id"],
            second=match["clip_id"],
            distance=match["distance"],
            num_common=round(match["common_s"] * STEPS_PER_S),
            shift=round(match["shift_s"] * STEPS_PER_S),
            is_mirrored=match["is_mirrored"],
        )
        for row in rows
        for match in row["matches"]
        if row["clip_id"] in present and match["clip_id"] in present
    ]


def _involved(facts: pa.Table, alike: Sequence[Alike]) -> list[ClipFacts]:
    """Facts of the clips that are alike to any other."""
    names = sorted({name for pair in alike for name in (pair.first, pair.second)})
    chosen = pc.is_in(facts["clip_id"], pa.array(names, pa.string()))
    return [ClipFacts(**row) for row in facts.filter(chosen).to_pylist()]


def _verified(
    facts: pa.Table, prints: Fingerprints, pairs: Pairs, *, limit: float, is_mirrored: bool
) -> Iterator[Alike]:
    """The candidates that really are alike."""
    clip_ids = facts["clip_id"]
    last, levels = -1, None
    for one, other in pairs.tolist():
        names = clip_ids[one].as_py(), clip_ids[other].as_py()
        # In order of their ids, so that the numbers are the same in whatever order clips are read.
        first, second = (one, other) if names[0] < names[1] else (other, one)
        if first != last:
            last, levels = first, _levels(prints[first])
        others = _levels(mirrored(prints[second]) if is_mirrored else prints[second])
        match = best_match(levels, others) if levels is not None and others is not None else None
        if match is not None and match.distance <= limit:
            yield Alike(
                first=min(names), second=max(names), is_mirrored=is_mirrored, **asdict(match)
            )


def _levels(steps: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """A clip's smoothed steps; None: it shows too little to be like another."""
    levels = smoothed(steps)
    return levels if has_texture(levels) else None


def _nearest(alike: Iterable[Alike]) -> list[Alike]:
    """Each pair once, in order: a symmetric scene may match both as it is and mirrored."""
    found: dict[tuple[str, str], Alike] = {}
    for pair in sorted(alike, key=lambda a: (a.first, a.second, a.distance, a.is_mirrored)):
        found.setdefault((pair.first, pair.second), pair)
    return list(found.values())


def _table(
    clip_ids: pa.ChunkedArray, alike: Sequence[Alike], places: Mapping[str, Place]
) -> pa.Table:
    """One row per compared clip, in order of clip_id; pairs are in order of their first."""
    clip_ids = clip_ids.take(pc.sort_indices(clip_ids))
    firsts = pa.array([pair.first for pair in alike], pa.string())
    counts = np.zeros(len(clip_ids) + 1, np.int64)
    rows = pc.index_in(firsts, clip_ids).to_numpy(zero_copy_only=False)
    np.add.at(counts, rows.astype(np.int64) + 1, 1)
    listed = [
        {
            "clip_id": pair.second,
            "distance": pair.distance,
            "common_s": pair.num_common / STEPS_PER_S,
            "shift_s": pair.shift / STEPS_PER_S,
            "is_mirrored": pair.is_mirrored,
        }
        for pair in alike
    ]
    offsets = pa.array(np.cumsum(counts).astype(np.int32))
    matches = pa.ListArray.from_arrays(offsets, pa.array(listed, _MATCH))
    columns = {**places_table(clip_ids, places), "matches": matches}
    return pa.table(columns).select(_SCHEMA.names).cast(_SCHEMA)


def _write(dataset: Dataset, table: pa.Table, *, settings: str, limit: float) -> None:
    """Put the result in the place of the last one, unless nothing changed."""
    metadata = {
        "command": "egodojo dedup",
        "settings_digest": settings,
        "max_distance": repr(limit),
    }
    if SCORE in dataset.scores and dataset.metadata(f"scores/{SCORE}") == metadata:
        old = dataset.table(f"scores/{SCORE}").select(_SCHEMA.names).sort_by("clip_id")
        if old.equals(table):
            return
    dataset.append_score(SCORE, table, metadata=metadata, replace=True)
