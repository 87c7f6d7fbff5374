"""From a mixture file to a plan: query each dataset once and look for all that it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..config import nearest
from ..dataset import Dataset
from ..embodiment import Embodiment, embodiment_names, load_embodiment
from ..errors import ConfigError
from ..latents import LatentReader, latent_dir, missing_latents_error
from .cycle import whole_weights
from .plan import MixturePlan, PlanHeader, PlanSource, make_plan
from .plan_file import CLIP_ID_BYTES, FORMAT_VERSION, check_shards
from .spec import MixtureSpec, SourceSpec

Columns = dict[str, NDArray[Any]]

_CLIP_COLUMNS = "clip_id, shard, embodiment, num_frames, fps, start_s, end_s"


def build_plan(spec: MixtureSpec) -> MixturePlan:
    """Works a mixture out; see `MixtureSpec.plan`."""
    weights = whole_weights([source.weight for source in spec.sources.values()])
    bodies: list[Embodiment] = []
    rows: list[Columns] = []
    sources: list[PlanSource] = []
    for (name, source), weight in zip(spec.sources.items(), weights, strict=True):
        first_row = sum(part.num_clips for part in sources)
        columns, found = _read_source(spec, name, source, bodies)
        sources.append(PlanSource(name=name, weight=weight, first_row=first_row, **found))
        rows.append(columns)
    header = PlanHeader(
        format_version=FORMAT_VERSION,
        seed=spec.seed,
        unit=spec.unit,
        num_frames=spec.window.num_frames,
        frame_size=spec.window.frame_size,
        start_step=spec.window.start_step,
        shard_block=spec.shard_block,
        latents=spec.latents,
        sources=tuple(sources),
        embodiments=tuple(bodies),
    )
    return make_plan(header, rows)


def _read_source(
    spec: MixtureSpec, name: str, source: SourceSpec, bodies: list[Embodiment]
) -> tuple[Columns, dict[str, Any]]:
    """Plan columns of one source and its facts; bodies met for the first time are appended."""
    dataset = Dataset.open(source.dataset, versions=source.versions or None)
    _check_aspect(spec, name, dataset)
    table = chosen_clips(dataset, name, source, columns=_CLIP_COLUMNS)
    table = table.sort_by([("shard", "ascending"), ("clip_id", "ascending")])
    columns = _cut(spec, name, source, table, bodies)
    fits = columns["num_starts"] > 0
    left_out = {"too_short": int((~fits).sum())} if not fits.all() else {}
    table, columns = table.filter(pa.array(fits)), {k: v[fits] for k, v in columns.items()}
    if not len(table):
        raise ConfigError(
            f"Source {name!r} has no clip that holds a window of {spec.window.num_frames} frames: "
            f"{fits.size} clips of {source.dataset} were chosen, "
            f"{left_out.get('too_short', 0)} are too short.",
            hint="Widen its `where`, take a smaller stride, or look with egodojo manifest stats.",
        )
    shard_names, columns["shard"] = _encoded(table, "shard")
    shard_rows = np.searchsorted(columns["shard"], np.arange(len(shard_names)))
    columns["clip_id"] = _clip_id_bytes(table)
    shards = tuple(shard_names)
    check_shards(name, source.dataset, shards)
    if spec.latents is not None:
        _check_latents(spec, source.dataset, columns, shards, table.column("clip_id"))
    seconds = np.subtract(table.column("end_s").to_numpy(), table.column("start_s").to_numpy())
    return columns, {
        "dataset": source.dataset,
        "versions": dict(dataset.versions),
        "where": source.where,
        "num_clips": len(table),
        "num_windows": int(columns["num_starts"].sum()),
        "hours": float(seconds.sum() / 3600),
        "left_out": left_out,
        "shards": shards,
        "shard_rows": tuple(int(row) for row in shard_rows),
    }


def chosen_clips(dataset: Dataset, name: str, source: SourceSpec, *, columns: str) -> pa.Table:
    """Columns of the kept clips that match a source's predicate, in any order.

    Raises:
        ConfigError: The predicate fails, or an expression of the columns does.
    """
    relation = dataset.relation("clips", verdict="keep")
    try:
        relation.select(columns)
    except duckdb.Error as error:
        raise ConfigError(
            f"Source {name!r}: {source.dataset} has not what was asked of its clips: "
            f"{' '.join(str(error).split())}",
            hint=f"Asked was: {columns}",
        ) from error
    try:
        if source.where.strip():
            relation = relation.filter(source.where)
        table: pa.Table = relation.select(columns).to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(
            f"Source {name!r}: the predicate {source.where!r} failed on {source.dataset}: "
            f"{' '.join(str(error).split())}",
            hint="It may name columns of clips and score tables, for instance "
            "num_frames >= 60 AND hands.hands_ratio > 0.5.",
        ) from error
    return table


def _cut(
    spec: MixtureSpec,
    name: str,
    source: SourceSpec,
    table: pa.Table,
    bodies: list[Embodiment],
) -> Columns:
    """Body, stride and number of starts of every chosen clip (0: too short)."""
    if source.embodiment is not None:
        used, which = [source.embodiment][: len(table)], np.zeros(len(table), np.int64)
    else:
        used, which = _encoded(table, "embodiment")
    numbers = np.array([_number_of(_body(name, one), bodies) for one in used], dtype=np.int64)
    body = numbers[which] if len(used) else np.zeros(0, dtype=np.int64)
    stride = _strides(spec, source, table, np.array([b.stride for b in bodies])[body])
    feeds = np.array([b.feeds_actions for b in bodies], dtype=bool)[body]
    lead = np.where(feeds, stride, 0)
    num_frames = table.column("num_frames").to_numpy()
    room = num_frames - lead - (spec.window.num_frames - 1) * stride - 1
    num_starts = np.where(room >= 0, room // spec.window.start_step + 1, 0)
    return {
        "embodiment": body,
        "num_frames": num_frames,
        "stride": stride,
        "num_starts": num_starts,
    }


def _strides(
    spec: MixtureSpec, source: SourceSpec, table: pa.Table, own: NDArray[Any]
) -> NDArray[Any]:
    """Stride of every clip: the source's, the window's, by target_fps, or the body's own."""
    fixed = source.stride or spec.window.stride
    if fixed is not None:
        return np.full(len(table), fixed, dtype=np.int64)
    if spec.window.target_fps is not None:
        ratio = table.column("fps").to_numpy() / spec.window.target_fps
        own = np.maximum(1, np.rint(ratio))
    return own.astype(np.int64)


def _body(source: str, name: str) -> Embodiment:
    try:
        return load_embodiment(name)
    except ConfigError as error:
        raise ConfigError(
            f"Source {source!r} holds clips of embodiment {name!r}, which has no description.",
            hint=f"{nearest(name, embodiment_names())} Or set sources.{source}.embodiment to a "
            "name or to a YAML file of your own.",
        ) from error


def _number_of(body: Embodiment, bodies: list[Embodiment]) -> int:
    if body not in bodies:
        bodies.append(body)
    return bodies.index(body)


def _encoded(table: pa.Table, name: str) -> tuple[list[str], NDArray[np.int64]]:
    """The values of a column of text, sorted, and for each row the number of its own."""
    found = table.column(name).combine_chunks().dictionary_encode()
    order = pc.sort_indices(found.dictionary)
    places = np.argsort(order.to_numpy())
    names: list[str] = found.dictionary.take(order).to_pylist()
    return names, places[found.indices.to_numpy()].astype(np.int64)


def _clip_id_bytes(table: pa.Table) -> NDArray[np.uint8]:
    digits = table.column("clip_id").combine_chunks().cast(pa.binary())
    data = digits.cast(pa.binary(2 * CLIP_ID_BYTES)).buffers()[1]
    text = data.to_pybytes()[: 2 * CLIP_ID_BYTES * len(table)].decode("ascii")
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(-1, CLIP_ID_BYTES)


def _check_aspect(spec: MixtureSpec, name: str, dataset: Dataset) -> None:
    height, width = spec.window.frame_size
    encode = dataset.settings.encode
    if abs(encode.width * height - encode.height * width) > 0.02 * encode.height * width:
        raise ConfigError(
            f"Source {name!r} holds pictures of {encode.width}x{encode.height}, the window's "
            f"{width}x{height} would distort them.",
            hint="Choose a window.frame_size [height, width] of the same shape.",
        )


def _check_latents(
    spec: MixtureSpec,
    dataset: str,
    columns: Mapping[str, NDArray[Any]],
    shards: Sequence[str],
    clip_ids: pa.ChunkedArray,
) -> None:
    """Every clip of the source must have all its latents, on a grid that holds the windows."""
    assert spec.latents is not None
    for step in np.unique(columns["stride"]).tolist():
        reader = LatentReader.open(dataset, spec.latents, step)
        every = reader.every
        if spec.window.start_step % every or step % every:
            raise _off_grid(spec, dataset, step, every)
        chosen = np.flatnonzero(columns["stride"] == step)
        wanted = -(-(columns["num_frames"][chosen] - step) // every)
        missing: Counter[str] = Counter()
        of_shard = columns["shard"][chosen]
        edges = np.searchsorted(of_shard, np.arange(len(shards) + 1))
        for shard, (first, end) in zip(shards, pairwise(edges.tolist()), strict=True):
            stored = reader.num_rows(shard) if end > first else {}
            ids = clip_ids.take(pa.array(chosen[first:end])).to_pylist()
            for clip_id, num_rows in zip(ids, wanted[first:end].tolist(), strict=True):
                missing[shard] += stored.get(clip_id, -1) < num_rows
        missing += Counter()  # (leaves out shards of which nothing is missing)
        if missing:
            raise missing_latents_error(
                dataset,
                spec.latents,
                step,
                detail=f"{missing.total()} of {chosen.size} clips of {dataset} have no latents of "
                f"{spec.latents} at step {step} (first in {next(iter(missing))}).",
            )


def _off_grid(spec: MixtureSpec, dataset: str, step: int, every: int) -> ConfigError:
    folder = latent_dir(dataset, str(spec.latents), step)
    again = f"emove {folder} and extract it anew without --every."
    aligned = f"Set window.start_step to a multiple of {every}, or r"
    return ConfigError(
        f"The latents of {spec.latents} at step {step} in {dataset} are stored for every {every} "
        f"frames; windows with stride {step} that start every {spec.window.start_step} frames "
        "leave that grid.",
        hint=(aligned if step % every == 0 else "R") + again,
    )
