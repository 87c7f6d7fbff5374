"""Clusters of clips that show the same: which one is the best, and which stand behind it.

Nothing here knows how likeness was found; near and semantic duplicates share the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.dataset import Dataset
from manifests.errors import UsageError

MIN_COVERED_RATIO = 0.5
"""A clip is a duplicate only of one that shows at least half of it."""

FACTS = """
SELECT c.clip_id, c.uri, c.start_s,
    coalesce(c.source_width_px * c.source_height_px, 0) AS num_pixels,
    coalesce(f.is_damaged, false) AS is_damaged{more}
FROM clips AS c LEFT JOIN files AS f USING (uri){joined}
WHERE c.gate IS NULL
"""
"""Written clips and what decides which of them is better."""


def distance_limit(
    dataset: Dataset, score: str, asked: float | None, *, default: float, hint: str
) -> float:
    """The largest distance of two duplicates: as asked, else as the score table was made with.

    Raises:
        UsageError: One that is not between 0 and 1; `hint` says what the default means.
    """
    if asked is None:
        said = dataset.metadata(f"scores/{score}") if score in dataset.scores else {}
        return float(said.get("max_distance", default))
    if not 0.0 < asked < 1.0:
        raise UsageError(f"The threshold is {asked}, must lie between 0 and 1.", hint=hint)
    return asked


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
    num_steps: int = 0


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


def quality_order(facts: pa.Table) -> NDArray[np.int64]:
    """Positions of clips from the best down: undamaged, most source pixels, smallest URI."""
    keys = pa.table(
        {
            "is_damaged": facts["is_damaged"].cast(pa.int8()),
            "num_pixels": facts["num_pixels"],
            "uri": facts["uri"],
            "start_s": facts["start_s"],
            "clip_id": facts["clip_id"],
        }
    )
    down = {"num_pixels": "descending"}
    order = pc.sort_indices(
        keys, sort_keys=[(name, down.get(name, "ascending")) for name in keys.column_names]
    )
    found: NDArray[np.int64] = order.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def places_table(clip_ids: pa.ChunkedArray, places: Mapping[str, Place]) -> dict[str, pa.Array]:
    """The columns of every table of duplicates but the last: one row per compared clip."""
    rows = np.flatnonzero(pc.is_in(clip_ids, pa.array(list(places), pa.string())))
    found = [places[name] for name in clip_ids.take(pa.array(rows)).to_pylist()]
    best = _spread([place.cluster_id for place in found], rows, len(clip_ids), pa.string())
    copies = [place.cluster_id if place.rank else None for place in found]
    return {
        "clip_id": clip_ids,
        "cluster_id": best,
        "duplicate_of": _spread(copies, rows, len(clip_ids), pa.string()),
        "distance": _spread([p.distance for p in found], rows, len(clip_ids), pa.float64()),
        "is_mirrored": _spread([p.is_mirrored for p in found], rows, len(clip_ids), pa.bool_()),
        "rank": _spread([p.rank for p in found], rows, len(clip_ids), pa.int64()),
    }


def _spread(
    values: Sequence[object], rows: NDArray[np.int64], length: int, kind: pa.DataType
) -> pa.Array:
    """Values at some rows, NULL at all others."""
    where = np.full(length, -1, np.int64)
    where[rows] = np.arange(len(rows))
    return pa.array(values, kind).take(pa.array(where, mask=where < 0))
