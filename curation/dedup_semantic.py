"""Semantic duplicates: clips whose embeddings point the same way, whatever their pixels.

From the best clip down, a clip no better one is near becomes a representative; every other belongs
to the nearest better representative. So likeness is never passed on from clip to clip: a slow
drift through a scene is cut into as many clusters as it needs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import IO

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.config import digest
from manifests.dataset import Dataset
from manifests.errors import DatasetError

from .clusters import FACTS, Place, distance_limit, places_table, quality_order

SCORE = "semantic"
COLUMN = "embedding"
MAX_DISTANCE = 0.05
"""Cosine distance; depends on the model, so look at the clusters in the preview."""

MAX_EXACT = 200_000
"""With more clips an inverted file answers, which looks at the `NUM_PROBES` nearest lists only."""

NUM_PROBES = 32
_BLOCK = 1024
_SLACK = 1e-3
"""Float32 products are nearer to the truth than this; what may be within the limit is exact."""

_ROWS_AT_ONCE = 4096
_METHOD = 1

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticSummary:
    """What a search did.

    Attributes:
        score: The score table whose embeddings were compared.
        num_clips: Written clips.
        num_compared: Those with an embedding.
        num_new: Those that were not compared before.
        num_clusters: Clusters of two or more.
        num_duplicates: Clips that are a duplicate of another.
        max_distance: The threshold.
        version: Version of `scores/semantic` that holds the result.
    """

    score: str
    num_clips: int
    num_compared: int
    num_new: int
    num_clusters: int
    num_duplicates: int
    max_distance: float
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What an earlier search found out about clips, by position.

    Attributes:
        is_known: Whether a clip was compared.
        best: Its representative, itself for one; -1: not known, or not there any more.
        distance: To it.
    """

    is_known: NDArray[np.bool_]
    best: NDArray[np.int64]
    distance: NDArray[np.float64]


def dedup_semantic(
    dataset: Dataset, score: str, *, max_distance: float | None = None, redo: bool = False
) -> SemanticSummary:
    """Find clips of the same content and write `scores/semantic`; deletes nothing, needs no lock.

    Old clips are compared only with representatives that an earlier search did not have, unless
    the embeddings or the threshold changed; the result is that of comparing all.

    Args:
        dataset: Where to look.
        score: A score table with a column `embedding`.
        max_distance: Largest cosine distance; default: as last time, or `MAX_DISTANCE`.
        redo: Compare everything again.

    Raises:
        UsageError: A threshold that is not between 0 and 1.
        DatasetError: There is no such table, or its embeddings do not fit each other.
    """
    dataset.check_writable()
    dataset.refresh()
    _check_score(dataset, score)
    limit = distance_limit(
        dataset,
        SCORE,
        max_distance,
        default=MAX_DISTANCE,
        hint=f"The default for embeddings is {MAX_DISTANCE}, a cosine distance.",
    )
    settings = digest(
        {
            "method": _METHOD,
            "score": score,
            "made_by": dataset.metadata(f"scores/{score}"),
            "max_distance": limit,
        }
    )
    with tempfile.TemporaryFile() as file:
        facts, vectors = _read(dataset, score, file)
        order = quality_order(facts)
        facts, known = facts.take(pa.array(order)), None
        if not redo:
            known = _known(dataset, facts["clip_id"], settings)
        best, distance = representatives(vectors, order, limit=limit, known=known)
    places = _places(facts["clip_id"], best, distance)
    columns = places_table(facts["clip_id"], places)
    # Kept for the next search: the representative of every compared clip, itself for most.
    columns["nearest"] = facts["clip_id"].take(pa.array(best))
    del columns["is_mirrored"]
    table = pa.table(columns).sort_by("clip_id").combine_chunks()
    metadata = {
        "command": f"egodojo dedup --semantic {score}",
        "settings_digest": settings,
        "max_distance": repr(limit),
    }
    if not _is_written(dataset, table, metadata):
        dataset.append_score(SCORE, table, metadata=metadata, replace=True)
    count = "SELECT count(*) AS n FROM clips WHERE gate IS NULL"
    return SemanticSummary(
        score=score,
        num_clips=dataset.sql(count)["n"][0].as_py(),
        num_compared=len(facts),
        num_new=len(facts) if known is None else int((~known.is_known).sum()),
        num_clusters=len({place.cluster_id for place in places.values()}),
        num_duplicates=sum(place.rank > 0 for place in places.values()),
        max_distance=limit,
        version=dataset.versions[f"scores/{SCORE}"],
    )


def representatives(
    vectors: Vectors, order: NDArray[np.int64], *, limit: float, known: Known | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The representative of every clip and its cosine distance to it, by place in the order.

    Exact up to `MAX_EXACT` clips: what is known changes the work, never the result.

    Args:
        vectors: Unit vectors (clips, width).
        order: Positions in `vectors` from the best clip down.
        limit: Largest cosine distance of a clip to its representative.
        known: What an earlier search with the same limit found, by place in the order.

    Returns:
        Places in the order (a clip's own when it is a representative), and distances.
    """
    search = _Search(vectors=vectors, order=order, limit=limit, known=known)
    for start in range(0, len(order), _BLOCK):
        search.take(start, min(start + _BLOCK, len(order)))
    return search.best, search.distance


@dataclass(slots=True, kw_only=True)
class _Search:
    """One pass from the best clip down."""

    vectors: Vectors
    order: NDArray[np.int64]
    limit: float
    known: Known | None
    best: NDArray[np.int64] = field(init=False)
    distance: NDArray[np.float64] = field(init=False)
    _everyone: _Index = field(init=False)
    _added: _Index = field(init=False)

    def __post_init__(self) -> None:
        num_clips = len(self.order)
        self.best = np.full(num_clips, -1, np.int64)
        self.distance = np.zeros(num_clips)
        self._everyone = _Index(self.vectors, self.order)
        self._added = self._everyone.empty_copy()

    def take(self, start: int, stop: int) -> None:
        """Place the clips of a block, all better ones being placed."""
        block = np.ascontiguousarray(self.vectors[self.order[start:stop]])
        places = np.arange(start, stop)
        before = self._before(start, stop)
        rests = before >= 0
        found = np.full(len(block), -1, np.int64)
        near = np.full(len(block), np.inf)
        for index, chosen in ((self._added, rests), (self._everyone, ~rests)):
            found[chosen], near[chosen] = index.nearest(block[chosen])
        if self.known is not None:
            apart = self.known.distance[start:stop]
            is_nearer = rests & (before != places) & (apart <= near)
            found[is_nearer], near[is_nearer] = before[is_nearer], apart[is_nearer]
        within = block @ block.T
        new = np.empty(0, np.int64)
        for row in range(len(block)):
            if rests[row] and not self._still_stands(before[row]):
                found[row : row + 1], near[row : row + 1] = self._everyone.nearest(
                    block[row : row + 1]
                )
            candidates = [found[row]] if near[row] <= self.limit + _SLACK else []
            if len(new):
                nearest = new[int(np.argmax(within[row, new]))]
                if 1.0 - within[row, nearest] <= self.limit + _SLACK:
                    candidates.append(start + nearest)
            exact, best = min(
                ((self._exact(start + row, place), place) for place in candidates),
                default=(np.inf, -1),
            )
            if exact <= self.limit:
                self.best[start + row], self.distance[start + row] = best, exact
            else:
                self.best[start + row] = start + row
                new = np.append(new, row)
        self._add(start + new)

    def _before(self, start: int, stop: int) -> NDArray[np.int64]:
        """Representatives that clips of a block had and may still have; -1: look at all."""
        if self.known is None:
            return np.full(stop - start, -1, np.int64)
        before = self.known.best[start:stop].copy()
        places = np.arange(start, stop)
        before[before > places] = -1
        is_past = (before >= 0) & (before < start)
        before[is_past] = np.where(
            self.best[before[is_past]] == before[is_past], before[is_past], -1
        )
        return before

    def _still_stands(self, place: int) -> bool:
        return bool(self.best[place] in (-1, place))

    def _add(self, places: NDArray[np.int64]) -> None:
        self._everyone.add(places)
        if self.known is not None:
            self._added.add(places[self.known.best[places] != places])

    def _exact(self, one: int, other: int) -> float:
        first, second = (self.vectors[self.order[i]].astype(np.float64) for i in (one, other))
        return float(np.clip(1.0 - first @ second, 0.0, 2.0))


class _Index:
    """FAISS over the representatives so far."""

    def __init__(self, vectors: Vectors, order: NDArray[np.int64]) -> None:
        self._vectors, self._order = vectors, order
        width = vectors.shape[1]
        self._places = np.empty(0, np.int64)
        self._index: faiss.Index = faiss.IndexFlatIP(width)
        if len(order) > MAX_EXACT:
            num_lists = int(4 * len(order) ** 0.5)
            lists = faiss.IndexIVFFlat(self._index, width, num_lists, faiss.METRIC_INNER_PRODUCT)
            lists.nprobe = NUM_PROBES
            self._index = lists
            chosen = np.linspace(0, len(order) - 1, min(len(order), 64 * num_lists), dtype=np.int64)
            self._index.train(np.ascontiguousarray(vectors[np.sort(order[chosen])]))

    def empty_copy(self) -> _Index:
        """Another index without representatives; what the lists were learned from is shared."""
        other = copy(self)
        other._index = faiss.clone_index(self._index)
        return other

    def add(self, places: NDArray[np.int64]) -> None:
        if len(places):
            self._index.add(np.ascontiguousarray(self._vectors[self._order[places]]))
            self._places = np.concatenate([self._places, places])

    def nearest(self, queries: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Place and distance of the nearest representative; -1 and infinity: there is none."""
        if not len(queries) or not len(self._places):
            return np.full(len(queries), -1, np.int64), np.full(len(queries), np.inf)
        products, rows = self._index.search(queries, 1)
        is_found = rows[:, 0] >= 0
        places = np.where(is_found, self._places[rows[:, 0]], -1)
        return places, np.where(is_found, 1.0 - products[:, 0].astype(np.float64), np.inf)


def _check_score(dataset: Dataset, score: str) -> None:
    if score not in dataset.scores:
        raise DatasetError(
            f"{dataset.path} has no score table {score!r}.",
            hint="Make one: egodojo score DATASET --scorer embedding --set pretrained=FILE",
        )
    columns = dataset.relation(score).columns
    if COLUMN not in columns:
        raise DatasetError(
            f"The score table {score} has no column {COLUMN!r}; it has {', '.join(columns)}.",
            hint="Name the table that the embedding scorer wrote.",
        )


def _read(dataset: Dataset, score: str, file: IO[bytes]) -> tuple[pa.Table, Vectors]:
    """Clips with an embedding; the unit vectors go to a file, so that they need no memory."""
    query = FACTS.format(
        more=f", s.{COLUMN} AS vector",
        joined=f" JOIN {score} AS s ON s.clip_id = c.clip_id AND len(s.{COLUMN}) > 0",
    )
    reader = dataset.connection().sql(query).to_arrow_reader(_ROWS_AT_ONCE)
    assert reader is not None
    schema = pa.schema([field for field in reader.schema if field.name != "vector"])
    facts, width = [], 0
    for batch in reader:
        lists = batch.column("vector")
        widths = {width, *pc.unique(lists.value_lengths()).to_pylist()} - {0}
        if len(widths) > 1:
            raise DatasetError(
                f"The embeddings of {score} have {min(widths)} and {max(widths)} numbers.",
                hint="Embeddings of one table must come from one model: score the clips again.",
            )
        width = max(widths, default=0)
        found = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        length = np.linalg.norm(found, axis=1, keepdims=True)
        is_usable = length[:, 0] > 0
        file.write((found / np.maximum(length, 1e-30))[is_usable].astype("<f4").tobytes())
        facts.append(batch.drop_columns(["vector"]).filter(pa.array(is_usable)))
    file.flush()
    table = pa.Table.from_batches(facts, schema).combine_chunks()
    vectors: Vectors = np.empty((0, 1), np.float32)
    if len(table):
        vectors = np.memmap(file, np.float32, "r", shape=(len(table), width))
    return table, vectors


def _known(dataset: Dataset, clip_ids: pa.ChunkedArray, settings: str) -> Known | None:
    if SCORE not in dataset.scores:
        return None
    if dataset.metadata(f"scores/{SCORE}").get("settings_digest") != settings:
        return None
    before = dataset.table(f"scores/{SCORE}").select(["clip_id", "nearest", "distance"])
    rows = pc.index_in(clip_ids, before["clip_id"].combine_chunks())
    is_known = ~rows.is_null().to_numpy()
    best = pc.index_in(before["nearest"].take(rows), clip_ids.combine_chunks())
    distance = before["distance"].take(rows)
    return Known(
        is_known=is_known,
        best=best.fill_null(-1).to_numpy().astype(np.int64),
        distance=distance.fill_null(0.0).to_numpy(),
    )


def _places(
    clip_ids: pa.ChunkedArray, best: NDArray[np.int64], distance: NDArray[np.float64]
) -> dict[str, Place]:
    """Clusters of two or more; ranks follow the order of the clips."""
    members = np.flatnonzero(best != np.arange(len(best)))
    involved = np.unique(np.concatenate([members, best[members]]))
    names = dict(zip(involved.tolist(), clip_ids.take(pa.array(involved)).to_pylist(), strict=True))
    ranks: dict[int, int] = {}
    places = {}
    for place in involved.tolist():
        first = int(best[place])
        rank = ranks.setdefault(first, 0)
        ranks[first] += 1
        places[names[place]] = Place(
            cluster_id=names[first], rank=rank, distance=float(distance[place]), is_mirrored=False
        )
    return places


def _is_written(dataset: Dataset, table: pa.Table, metadata: Mapping[str, str]) -> bool:
    if SCORE not in dataset.scores or dataset.metadata(f"scores/{SCORE}") != metadata:
        return False
    old = dataset.table(f"scores/{SCORE}").select(table.column_names)
    return bool(old.sort_by("clip_id").combine_chunks().equals(table))
