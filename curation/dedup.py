"""Near-duplicates: clips that show the same at the same time, whatever their size, codec or start.

Every cluster has one clip that all others were compared with and found alike, the best one:
likeness is never passed on from clip to clip. Nothing is deleted; a recipe's rule decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.config import digest
from manifests.dataset import Dataset
from manifests.errors import UsageError

from . import candidates, matching
from .candidates import Fingerprints, Pairs, candidate_pairs
from .fingerprint import COLUMN, NUM_FIELDS, STEPS_PER_S, mirrored
from .matching import best_match, has_texture, smoothed

SCORE = "duplicates"
MAX_DISTANCE = 0.12
"""Intact copies of real videos lie below 0.06, different ones above 0.17."""

MIN_COVERED_RATIO = 0.5
"""A clip is a duplicate only of one that shows at least half of it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What decides which of several alike clips is the best.

    Attributes:
        clip_id: The clip.
        uri: Its file.
        start_s: Where it begins there.
        num_pixels: Of the source.
        is_damaged: Whether frames of the file are missing.
        num_steps: Length of its fingerprint.
    """

    clip_id: str
    uri: str
    start_s: float
    num_pixels: int
    is_damaged: bool
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Two clips that show the same; `first` is the one with the smaller clip_id.

    Attributes:
        distance: See `matching.Match`.
        num_common: Steps that both show.
        shift: Steps by which the second begins later.
        is_mirrored: Left and right are exchanged.
    """

    first: str
    second: str
    distance: float
    num_common: int
    shift: int
    is_mirrored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a clip stands in its cluster; the best has rank 0 and distance 0."""

    cluster_id: str
    rank: int
    distance: float
    is_mirrored: bool


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
    """
    dataset.check_writable()
    dataset.refresh()
    limit = _limit(dataset, max_distance)
    settings = _settings_digest(limit)
    facts, prints = _read(dataset)
    before = {} if redo else _compared(dataset, settings)
    is_new = np.array([c.num_steps > 0 and c.clip_id not in before for c in facts], bool)
    plain, flipped = candidate_pairs(prints, is_new)
    alike = list(_known(before, {clip.clip_id for clip in facts}))
    for pairs, is_mirrored in ((plain, False), (flipped, True)):
        alike += _verified(facts, prints, pairs, limit=limit, is_mirrored=is_mirrored)
    alike = _nearest(alike)
    places = cluster(facts, alike)
    table = _table(facts, alike, places)
    _write(dataset, table, settings=settings, limit=limit)
    return DedupSummary(
        num_clips=len(facts),
        num_compared=sum(clip.num_steps > 0 for clip in facts),
        num_new=int(is_new.sum()),
        num_candidates=len(plain) + len(flipped),
        num_clusters=len({place.cluster_id for place in places.values()}),
        num_duplicates=sum(place.rank > 0 for place in places.values()),
        max_distance=limit,
        version=dataset.versions[f"scores/{SCORE}"],
    )


def cluster(clips: Sequence[ClipFacts], alike: Iterable[Alike]) -> dict[str, Place]:
    """Give every clip that is like another its place; the others are left out.

    From the best clip down, each that is in no cluster yet takes the worse ones that it was found
    alike with and shows at least half of. The best is undamaged, has most source pixels, then the
    smallest URI; a clip that is only an excerpt of another no worse one comes last.
    """
    by_id = {clip.clip_id: clip for clip in clips}
    near: dict[str, list[Alike]] = {}
    for pair in alike:
        near.setdefault(pair.first, []).append(pair)
        near.setdefault(pair.second, []).append(pair)
    order = sorted(near, key=lambda name: _order(by_id[name], near[name], by_id))
    position = {name: index for index, name in enumerate(order)}
    places: dict[str, Place] = {}
    for best in order:
        if best in places:
            continue
        taken = {}
        for pair in near[best]:
            other = _other(pair, best)
            is_free = other not in places and position[other] > position[best]
            if is_free and _covers(pair, by_id[other]):
                taken[other] = pair
        if not taken:
            continue
        places[best] = Place(cluster_id=best, rank=0, distance=0.0, is_mirrored=False)
        for rank, name in enumerate(sorted(taken, key=position.__getitem__), start=1):
            places[name] = Place(
                cluster_id=best,
                rank=rank,
                distance=taken[name].distance,
                is_mirrored=taken[name].is_mirrored,
            )
    return places


def _order(
    clip: ClipFacts, pairs: Sequence[Alike], by_id: Mapping[str, ClipFacts]
) -> tuple[bool, bool, int, str, float, str]:
    quality = clip.is_damaged, -clip.num_pixels
    others = [(pair, by_id[_other(pair, clip.clip_id)]) for pair in pairs]
    is_excerpt = any(
        not _covers(pair, other) and (other.is_damaged, -other.num_pixels) <= quality
        for pair, other in others
    )
    return is_excerpt, *quality, clip.uri, clip.start_s, clip.clip_id


def _other(pair: Alike, name: str) -> str:
    return pair.second if pair.first == name else pair.first


def _covers(pair: Alike, clip: ClipFacts) -> bool:
    """Whether what a pair has in common is at least half of one of its clips."""
    return pair.num_common >= MIN_COVERED_RATIO * clip.num_steps


def _limit(dataset: Dataset, max_distance: float | None) -> float:
    if max_distance is None:
        said = dataset.metadata(f"scores/{SCORE}") if SCORE in dataset.scores else {}
        return float(said.get("max_distance", MAX_DISTANCE))
    if not 0.0 < max_distance < 1.0:
        raise UsageError(
            f"The threshold is {max_distance}, must lie between 0 and 1.",
            hint=f"The default is {MAX_DISTANCE}; a larger one takes less alike clips together.",
        )
    return max_distance


def _settings_digest(limit: float) -> str:
    """Digest of all that the comparison of two clips depends on."""
    named = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (candidates, matching)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, (int, float))
    }
    return digest({**named, "max_distance": limit})


def _read(dataset: Dataset) -> tuple[list[ClipFacts], Fingerprints]:
    table = dataset.sql(
        f"""
        SELECT c.clip_id, c.uri, c.start_s, c.source_width_px * c.source_height_px AS num_pixels,
            coalesce(f.is_damaged, false) AS is_damaged, coalesce(c.{COLUMN}, []) AS words
        FROM clips AS c LEFT JOIN files AS f USING (uri)
        WHERE c.gate IS NULL ORDER BY c.clip_id"""
    )
    words = table.column("words").combine_chunks()
    lengths = words.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    steps = words.flatten().to_numpy(zero_copy_only=False).astype("<i8").view(np.uint8)
    counts = lengths * 8 // NUM_FIELDS
    prints = Fingerprints(
        steps=steps.reshape(-1, NUM_FIELDS),
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
    )
    rows = table.drop_columns(["words"]).to_pylist()
    facts = [
        ClipFacts(**{**row, "num_pixels": row["num_pixels"] or 0}, num_steps=int(count))
        for row, count in zip(rows, counts, strict=True)
    ]
    return facts, prints


def _compared(dataset: Dataset, settings: str) -> dict[str, list[dict[str, Any]]]:
    """Clips compared before in the same way, and what each was found alike with."""
    if SCORE not in dataset.scores:
        return {}
    if dataset.metadata(f"scores/{SCORE}").get("settings_digest") != settings:
        return {}
    table = dataset.table(f"scores/{SCORE}")
    names = table.column("clip_id").to_pylist()
    return dict(zip(names, table.column("matches").to_pylist(), strict=True))


def _known(before: Mapping[str, list[dict[str, Any]]], present: set[str]) -> Iterable[Alike]:
    for first, matches in before.items():
        for match in matches:
            if first in present and match["clip_id"] in present:
                yield Alike(
                    first=first,
                    second=match["clip_id"],
                    distance=match["distance"],
                    num_common=round(match["common_s"] * STEPS_PER_S),
                    shift=round(match["shift_s"] * STEPS_PER_S),
                    is_mirrored=match["is_mirrored"],
                )


def _verified(
    facts: Sequence[ClipFacts],
    prints: Fingerprints,
    pairs: Pairs,
    *,
    limit: float,
    is_mirrored: bool,
) -> Iterable[Alike]:
    """The candidates that really are alike; facts are in order of clip_id, so are pairs."""
    last, levels = -1, np.empty((0, NUM_FIELDS))
    for first, second in pairs.tolist():
        if first != last:
            last, levels = first, smoothed(prints[first])
        match = _compare(levels, prints[second], is_mirrored=is_mirrored)
        if match is not None and match.distance <= limit:
            yield Alike(
                first=facts[first].clip_id,
                second=facts[second].clip_id,
                is_mirrored=is_mirrored,
                **asdict(match),
            )


def _compare(
    levels: NDArray[np.float64], steps: NDArray[np.uint8], *, is_mirrored: bool
) -> matching.Match | None:
    others = smoothed(mirrored(steps) if is_mirrored else steps)
    if not (has_texture(levels) and has_texture(others)):
        return None
    return best_match(levels, others)


def _nearest(alike: Iterable[Alike]) -> list[Alike]:
    """Each pair once, in order: a symmetric scene may match both as it is and mirrored."""
    found: dict[tuple[str, str], Alike] = {}
    for pair in sorted(alike, key=lambda a: (a.first, a.second, a.distance, a.is_mirrored)):
        found.setdefault((pair.first, pair.second), pair)
    return list(found.values())


def _table(
    facts: Sequence[ClipFacts], alike: Sequence[Alike], places: Mapping[str, Place]
) -> pa.Table:
    matches: dict[str, list[dict[str, Any]]] = {}
    for pair in alike:
        matches.setdefault(pair.first, []).append(
            {
                "clip_id": pair.second,
                "distance": pair.distance,
                "common_s": pair.num_common / STEPS_PER_S,
                "shift_s": pair.shift / STEPS_PER_S,
                "is_mirrored": pair.is_mirrored,
            }
        )
    rows = []
    for clip in facts:
        if clip.num_steps == 0:
            continue
        place = places.get(clip.clip_id)
        is_copy = place is not None and place.rank > 0
        rows.append(
            {
                "clip_id": clip.clip_id,
                "cluster_id": place.cluster_id if place else None,
                "duplicate_of": place.cluster_id if place and is_copy else None,
                "distance": place.distance if place else None,
                "is_mirrored": place.is_mirrored if place else None,
                "rank": place.rank if place else None,
                "matches": matches.get(clip.clip_id, []),
            }
        )
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


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
