"""Which other clip does this motion? A query by clip and time against a dataset's action index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from manifests.dataset import Dataset
from manifests.errors import DatasetError, UsageError
from manifests.latents import LatentReader, list_latents, missing_latents_error
from manifests.storage import Location, location

from .index import ActionIndex, ClipLatents, IndexMeta, index_folder, read_meta
from .windows import WindowConfig

_FACTS = "clip_id, embodiment, num_frames, fps, shard, uri, start_s, gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of one clip, in seconds from the clip's start and within its source file."""

    clip_id: str
    embodiment: str
    shard: str
    start_s: float
    end_s: float
    first_frame: int
    num_frames: int
    uri: str
    source_start_s: float
    score: float
    """Cosine to the query; 1 for the query itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """A query and its answers, best first."""

    index: str
    model_id: str
    step: int
    query: Span
    answers: tuple[Span, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What `build_index` did."""

    name: str
    path: Location
    model_id: str
    step: int
    num_clips: int
    num_windows: int
    num_added: int
    """Clips this call brought in."""
    num_without_latents: int
    """Kept clips that have no latents yet."""


def build_index(
    dataset_path: Location | str,
    model_id: str,
    *,
    name: str = "main",
    step: int | None = None,
    windows: WindowConfig | None = None,
) -> BuildResult:
    """Index the kept clips that have latents; an index of the same settings takes in the new ones.

    Args:
        dataset_path: The dataset folder.
        model_id: Whose latents.
        name: Name of the index.
        step: Frame distance of the latents; None = the only one stored.
        windows: How clips are cut.

    Raises:
        DatasetError: No such latents, none of a kept clip, or no kept clip.
        UsageError: The index exists with other settings, or the step is ambiguous.
    """
    dataset = Dataset.open(dataset_path)
    step = _only_step(location(dataset_path), model_id, step)
    latents = LatentReader.open(dataset_path, model_id, step)
    meta = IndexMeta(
        model_id=model_id, step=step, every=latents.every, windows=windows or WindowConfig()
    )
    rows = dataset.sql(f"SELECT {_FACTS} FROM kept ORDER BY clip_id").to_pylist()
    if not rows:
        raise DatasetError(
            f"{dataset_path} has no kept clip to index.",
            hint="Decide again with a milder recipe.",
        )
    folder = index_folder(dataset_path, name)
    if (folder / "meta.json").is_file():
        index = ActionIndex.open(folder)
        _check_same(index.meta, meta, folder)
        num_added = index.add(_with_latents(rows, latents))
    else:
        index = ActionIndex.build(meta, _with_latents(rows, latents))
        num_added = len(index.clip_ids())
    if num_added:
        index.save(folder)
    num_stored = sum(latents.has(row["clip_id"], shard=row["shard"]) for row in rows)
    return BuildResult(
        name=name,
        path=folder,
        model_id=model_id,
        step=step,
        num_clips=len(index.clip_ids()),
        num_windows=len(index),
        num_added=num_added,
        num_without_latents=len(rows) - num_stored,
    )


def retrieve(
    dataset_path: Location | str,
    clip_id: str,
    time_s: float,
    *,
    k: int = 10,
    where: str = "true",
    other_embodiment: bool = False,
    exclude_own: bool = False,
    span_s: float | None = None,
    name: str = "main",
) -> Retrieval:
    """Find the `k` kept clips with the most similar motion, each by its best window.

    Args:
        dataset_path: The dataset folder.
        clip_id: The clip that shows the motion; any written clip with latents.
        time_s: Where in it the motion starts, seconds from the clip's start.
        k: Answers wanted.
        where: SQL condition on the clips that may answer.
        other_embodiment: Only bodies other than the query's answer.
        exclude_own: The query's own clip does not answer.
        span_s: Length of the motion; None = the index's window.
        name: Name of the index.

    Raises:
        DatasetError: No index, no latents of the clip.
        UsageError: Unknown clip, or a time outside it.
    """
    if k < 1:
        raise UsageError(f"The number of answers is {k}, it must be at least 1.")
    folder = index_folder(dataset_path, name)
    read_meta(folder)  # a missing index is said before anything is opened
    dataset = Dataset.open(dataset_path)
    row = _clip_row(dataset, clip_id)
    index = ActionIndex.open(folder)
    clip = _query_latents(location(dataset_path), row, index.meta)
    window = index.window(clip, time_s, span_s=span_s)
    condition = "true"
    if other_embodiment:
        body = clip.embodiment.replace("'", "''")
        condition += f" AND coalesce(embodiment, '') <> '{body}'"
    if exclude_own:
        condition += f" AND clip_id <> '{clip_id}'"
    allowed = {
        found["clip_id"]: found
        for found in dataset.sql(
            f"SELECT {_FACTS} FROM (SELECT * FROM kept WHERE {where}) WHERE {condition}"
        ).to_pylist()
    }
    hits = index.search(index.vector(clip, window), k=k, among=allowed.keys())
    return Retrieval(
        index=name,
        model_id=index.meta.model_id,
        step=index.meta.step,
        query=_span(row, window.start_s, window.end_s, 1.0),
        answers=tuple(_span(allowed[h.clip_id], h.start_s, h.end_s, h.score) for h in hits),
    )


def _span(row: dict[str, Any], start_s: float, end_s: float, score: float) -> Span:
    first = round(start_s * row["fps"])
    return Span(
        clip_id=row["clip_id"],
        embodiment=row["embodiment"] or "",
        shard=row["shard"],
        start_s=round(start_s, 4),
        end_s=round(end_s, 4),
        first_frame=first,
        num_frames=max(1, min(round(end_s * row["fps"]), row["num_frames"]) - first),
        uri=row["uri"],
        source_start_s=round(row["start_s"] + start_s, 4),
        score=round(score, 6),
    )


def _clip_row(dataset: Dataset, clip_id: str) -> dict[str, Any]:
    quoted = clip_id.replace("'", "''")
    rows: list[dict[str, Any]] = dataset.sql(
        f"SELECT {_FACTS} FROM clips WHERE clip_id = '{quoted}'"
    ).to_pylist()
    if not rows:
        raise UsageError(
            f"{dataset.path} has no clip {clip_id!r}.",
            hint=f'Run: egodojo manifest sql {dataset.path} "SELECT clip_id, uri FROM kept"',
        )
    if rows[0]["gate"] is not None:
        raise UsageError(
            f"Clip {clip_id} was never written (gate {rows[0]['gate']}), so it has no latents."
        )
    return rows[0]


def _query_latents(dataset: Location, row: dict[str, Any], meta: IndexMeta) -> ClipLatents:
    latents = LatentReader.open(dataset, meta.model_id, meta.step)
    found = next(_with_latents([row], latents), None)
    if found is None:
        raise missing_latents_error(
            dataset,
            meta.model_id,
            meta.step,
            detail=f"Clip {row['clip_id']} has no stored latents of {meta.model_id} at step "
            f"{meta.step}.",
        )
    return found


def _with_latents(rows: list[dict[str, Any]], latents: LatentReader) -> Iterator[ClipLatents]:
    for row in rows:
        if latents.has(row["clip_id"], shard=row["shard"]):
            yield ClipLatents(
                clip_id=row["clip_id"],
                embodiment=row["embodiment"] or "",
                num_frames=row["num_frames"],
                fps=row["fps"],
                rows=latents.rows(row["clip_id"], shard=row["shard"]),
            )


def _only_step(dataset: Location, model_id: str, step: int | None) -> int:
    steps = [number for name, number in list_latents(dataset) if name == model_id]
    if step is not None:
        return step
    if not steps:
        raise missing_latents_error(dataset, model_id, 1)
    if len(steps) > 1:
        raise UsageError(
            f"{dataset} holds latents of {model_id} at steps {', '.join(map(str, steps))}.",
            hint="Choose one with --step.",
        )
    return steps[0]


def _check_same(stored: IndexMeta, wanted: IndexMeta, folder: Location) -> None:
    if stored != wanted:
        raise UsageError(
            f"The action index {folder.name!r} was built with other settings: {stored.model_id} "
            f"step {stored.step}, {stored.windows}.",
            hint="Give the new one another --name, or remove the folder.",
        )
