"""The action index: windows of motion as vectors, searched by cosine, one best per clip.

A folder `index/<name>` holds `meta.json`, which names the three files that belong together; new
ones are written before `meta.json` is replaced, so a reader sees the old index or the new one.
"""

from __future__ import annotations

import io
import json
import math
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.config import load_config
from manifests.errors import DatasetError, UsageError
from manifests.storage import (
    Location,
    being_replaced,
    local_file,
    location,
    replacing,
    write_atomic,
)

from .windows import (
    Floats,
    LatentMap,
    Statistics,
    Window,
    WindowConfig,
    cut_windows,
    part_means,
    window_at,
)

FORMAT_VERSION = 1
FLAT_LIMIT = 200_000
"""Up to so many vectors every one is compared; beyond, lists of an inverted file are."""
ROWS_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("embodiment", pa.string()),
        ("first_row", pa.int64()),
        ("num_rows", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLatents:
    """A clip as the index takes it in: facts and stored latents (rows, 32)."""

    clip_id: str
    embodiment: str
    num_frames: int
    fps: float
    rows: NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMeta:
    """What an index was made of; two with equal values answer alike."""

    model_id: str
    step: int
    every: int = 1
    windows: WindowConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One window found: its clip, its time within the clip, and the cosine to the query."""

    clip_id: str
    embodiment: str
    start_s: float
    end_s: float
    score: float


class ActionIndex:
    """Windows of clips with their vectors.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(99, 32)).astype(np.float16)
        >>> clip = ClipLatents(clip_id="a", embodiment="gr1", num_frames=100, fps=20.0, rows=rows)
        >>> meta = IndexMeta(model_id="lam-0123abcd", step=1, windows=WindowConfig())
        >>> index = ActionIndex.build(meta, [clip])
        >>> (hit,) = index.search(index.vector(clip, index.window(clip, 1.0)), k=5)
        >>> hit.clip_id, hit.start_s, round(hit.score, 3)
        ('a', 1.0, 1.0)
    """

    def __init__(self, meta: IndexMeta, latent_map: LatentMap, rows: pa.Table, store: Any) -> None:
        """Use `build` or `open`."""
        self.meta = meta
        self.latent_map = latent_map
        self.rows = rows
        self._store = store

    @classmethod
    def build(cls, meta: IndexMeta, clips: Iterable[ClipLatents]) -> ActionIndex:
        """Fit the map on all latents and index every window; same clips in order, same index."""
        cut = _Cut(meta)
        for clip in clips:
            cut.add(clip)
        if not cut.parts:
            raise DatasetError("No clip has a latent, so there is nothing to index.")
        latent_map = LatentMap.fit(cut.statistics, meta.windows)
        vectors = latent_map.apply(np.stack(cut.parts), cut.bodies)
        return cls(meta, latent_map, cut.table(), _store(vectors))

    def add(self, clips: Iterable[ClipLatents]) -> int:
        """Index clips that are not in yet, under the map as it is; returns how many came in."""
        known = self.clip_ids()
        cut = _Cut(self.meta)
        for clip in clips:
            if clip.clip_id not in known:
                cut.add(clip)
        if cut.parts:
            self.latent_map = self.latent_map.with_bodies(cut.statistics, self.meta.windows)
            self._store.add(self.latent_map.apply(np.stack(cut.parts), cut.bodies))
            self.rows = pa.concat_tables([self.rows, cut.table()]).combine_chunks()
        return len(set(cut.clip_ids))

    def clip_ids(self) -> set[str]:
        """Every clip in the index."""
        return set(self.rows["clip_id"].unique().to_pylist())

    def __len__(self) -> int:
        """Number of windows."""
        return int(self._store.ntotal)

    def window(self, clip: ClipLatents, time_s: float, *, span_s: float | None = None) -> Window:
        """The window of a clip that starts at a time, moved back where it would pass the end.

        Raises:
            UsageError: The time lies outside the clip, the span is no length, or the clip is too
                short for a latent.
        """
        duration_s = clip.num_frames / clip.fps
        if not 0 <= time_s < duration_s:
            raise UsageError(
                f"Time {time_s:g} s lies outside clip {clip.clip_id}, "
                f"which lasts {duration_s:.2f} s.",
                hint="Times count from the start of the clip.",
            )
        if span_s is not None and not 0 < span_s < math.inf:
            raise UsageError(f"The length of the motion is {span_s:g} s, it must be above 0.")
        wanted_s = min(span_s or self.meta.windows.window_s, duration_s)
        length = max(self.meta.step + 1, round(wanted_s * clip.fps))
        start = max(0, min(round(time_s * clip.fps), clip.num_frames - length))
        grid = {"step": self.meta.step, "every": self.meta.every}
        found = window_at(start, start + length, clip.num_frames, clip.fps, **grid)
        if found.num_rows < 1:
            raise UsageError(
                f"Clip {clip.clip_id} has no latent between {found.start_s:.2f} and "
                f"{found.end_s:.2f} s: it is too short for step {self.meta.step}."
            )
        return found

    def vector(self, clip: ClipLatents, window: Window) -> Floats:
        """The vector (width,) of one window of any clip, indexed or not."""
        parts = part_means(clip.rows, window, self.meta.windows.parts)[None]
        vector: Floats = self.latent_map.apply(parts, [clip.embodiment])[0]
        return vector

    def search(self, vector: Floats, *, k: int, among: Collection[str] | None = None) -> list[Hit]:
        """The best window of each of the `k` nearest clips, best first.

        Args:
            vector: From `vector`.
            k: Answers wanted; fewer come when fewer clips are allowed.
            among: Clip ids that may answer; None = all.
        """
        rows = self._allowed(among)
        limit = len(self) if rows is None else len(rows)
        wanted = min(limit, 8 * k)
        hits: list[Hit] = []
        while wanted:
            scores, numbers = self._nearest(vector, wanted, rows)
            hits = self._best_per_clip(scores, numbers, k)
            if len(hits) == k or wanted == limit:
                break
            wanted = min(limit, 4 * wanted)
        return hits

    def save(self, folder: Location) -> None:
        """Write the index; a reader of the folder sees the old one or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(4)
        names = {
            "vectors": f"vectors-{token}.faiss",
            "rows": f"rows-{token}.parquet",
            "map": f"map-{token}.npz",
        }
        with being_replaced(folder / names["vectors"], token) as part:
            faiss.write_index(self._store, str(part))
        with replacing(folder / names["rows"], token) as target:
            pq.write_table(self.rows, target, compression="zstd")
        bodies = sorted(self.latent_map.means)
        with replacing(folder / names["map"], token) as target:
            np.savez(
                target,
                axes=self.latent_map.axes_AK,
                bodies=np.array(bodies, dtype=str),
                means=np.stack([self.latent_map.means[body] for body in bodies]),
            )
        meta = {
            "format_version": FORMAT_VERSION,
            **asdict(self.meta),
            "num_clips": len(self.clip_ids()),
            "num_windows": len(self),
            "files": names,
        }
        write_atomic(folder / "meta.json", (json.dumps(meta, indent=2) + "\n").encode(), token)
        for path in folder.iterdir():
            if _OWN_FILE.fullmatch(path.name) and path.name not in names.values():
                path.unlink()

    @classmethod
    def open(cls, folder: Location) -> ActionIndex:
        """Read an index.

        Raises:
            DatasetError: There is none, or it is damaged or of another format.
        """
        meta = read_meta(folder)
        try:
            names = meta["files"]
            with local_file(folder / names["vectors"]) as vectors:
                store = faiss.read_index(str(vectors))
            rows_bytes = pa.BufferReader((folder / names["rows"]).read_bytes())
            rows = pq.read_table(rows_bytes, schema=ROWS_SCHEMA, partitioning=None)
            map_bytes = io.BytesIO((folder / names["map"]).read_bytes())
            with np.load(map_bytes, allow_pickle=False) as arrays:
                pairs = zip(arrays["bodies"].tolist(), arrays["means"], strict=True)
                latent_map = LatentMap(axes_AK=arrays["axes"], means=dict(pairs))
            windows = load_config(WindowConfig, values=meta["windows"], where=str(folder))
            facts = IndexMeta(
                model_id=meta["model_id"], step=meta["step"], every=meta["every"], windows=windows
            )
        except (KeyError, OSError, RuntimeError, ValueError, pa.ArrowException) as error:
            raise _damaged(folder, str(error).splitlines()[0]) from error
        if store.ntotal != rows.num_rows:
            raise _damaged(folder, f"{store.ntotal} vectors, {rows.num_rows} rows")
        return cls(facts, latent_map, rows, store)

    def _allowed(self, among: Collection[str] | None) -> NDArray[np.int64] | None:
        if among is None:
            return None
        codes = self.rows["clip_id"].combine_chunks().dictionary_encode()
        is_wanted = np.array([clip_id in among for clip_id in codes.dictionary.to_pylist()], bool)
        if is_wanted.all():
            return None
        return np.flatnonzero(is_wanted[codes.indices.to_numpy()])

    def _nearest(
        self, vector: Floats, number: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        parameters = faiss.SearchParameters()
        if isinstance(self._store, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF()
            parameters.nprobe = 16 if rows is None else 128  # a filter empties most lists
        if rows is not None:
            selector = faiss.IDSelectorBatch(rows)
            parameters.sel = selector
        query = np.ascontiguousarray(vector, np.float32)[None]
        scores, numbers = self._store.search(query, number, params=parameters)
        return scores[0], numbers[0]

    def _best_per_clip(self, scores: Any, numbers: Any, k: int) -> list[Hit]:
        best: dict[str, Hit] = {}
        for score, number in zip(scores, numbers, strict=True):
            if number < 0 or len(best) == k:
                break
            row = {name: self.rows[name][int(number)].as_py() for name in _HIT_COLUMNS}
            best.setdefault(row["clip_id"], Hit(score=float(score), **row))
        return list(best.values())


# What `save` writes and may remove; anything else in the folder is not ours.
_OWN_FILE = re.compile(r"(vectors-\w+\.faiss|rows-\w+\.parquet|map-\w+\.npz|\.meta-\w+\.json)")
_HIT_COLUMNS = ("clip_id", "embodiment", "start_s", "end_s")


class _Cut:
    """Windows of clips as they come in: part means, rows, and statistics of the latents."""

    def __init__(self, meta: IndexMeta) -> None:
        self.meta = meta
        self.statistics = Statistics(latent_dim=0)
        self.parts: list[Floats] = []
        self.bodies: list[str] = []
        self.clip_ids: list[str] = []
        self.windows: list[Window] = []

    def add(self, clip: ClipLatents) -> None:
        found = cut_windows(
            clip.num_frames,
            clip.fps,
            step=self.meta.step,
            every=self.meta.every,
            config=self.meta.windows,
        )
        if not found:
            return
        self.statistics.latent_dim = clip.rows.shape[1]
        self.statistics.add(clip.embodiment, clip.rows)
        for window in found:
            self.parts.append(part_means(clip.rows, window, self.meta.windows.parts))
            self.bodies.append(clip.embodiment)
            self.clip_ids.append(clip.clip_id)
            self.windows.append(window)

    def table(self) -> pa.Table:
        columns: dict[str, list[Any]] = {"clip_id": self.clip_ids, "embodiment": self.bodies}
        for name in ("first_row", "num_rows", "start_s", "end_s"):
            columns[name] = [getattr(window, name) for window in self.windows]
        return pa.table(columns, schema=ROWS_SCHEMA)


def index_folder(dataset: Location | str, name: str) -> Location:
    """Where the index `name` of a dataset lies.

    Raises:
        UsageError: The name could lead out of the dataset's folder `index/`.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"{name!r} is no name for an index.",
            hint="Use letters, digits, '_', '-' and '.', for instance --name main.",
        )
    return location(dataset) / "index" / name


def read_meta(folder: Location) -> Mapping[str, Any]:
    """The facts of an index without its vectors.

    Raises:
        DatasetError: There is no index, or it is damaged or of another format.
    """
    path = folder / "meta.json"
    if not path.is_file():
        raise DatasetError(
            f"{folder.parent.parent} has no action index {folder.name!r}.",
            hint=f"Run: egodojo index build {folder.parent.parent} --latents MODEL_ID "
            f"--name {folder.name}",
        )
    try:
        meta = json.loads(path.read_text())
        version = meta["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"meta.json: {error}") from error
    if version != FORMAT_VERSION:
        raise _damaged(folder, f"format version {version}, this program reads {FORMAT_VERSION}")
    found: Mapping[str, Any] = meta
    return found


def _damaged(folder: Location, why: str) -> DatasetError:
    return DatasetError(
        f"The action index {folder} cannot be read: {why}.",
        hint="Remove the folder and run egodojo index build again.",
    )


def _store(vectors: Floats) -> Any:
    """A FAISS index over unit vectors by inner product, that is by cosine."""
    width = vectors.shape[1]
    store: Any
    if len(vectors) <= FLAT_LIMIT:
        store = faiss.IndexFlatIP(width)
    else:
        num_lists = int(4 * np.sqrt(len(vectors)))
        # An HNSW quantiser: assigning vectors to lists is the cost of a build.
        store = faiss.index_factory(
            width, f"IVF{num_lists}_HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT
        )
        store.train(vectors)
    store.add(vectors)
    return store
