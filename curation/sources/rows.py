"""A LeRobot video's recorded rows: actions at file times, and a span with its text per episode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import ConfigError, SampleError

from ..sidecars import Actions, Span, checked_actions, resolve_spans
from .lerobot import Column, Episode, LeRobotFolder, open_lerobot
from .reference import SourceRef

_NOT_A_TASK = ""


def read_lerobot(
    ref: SourceRef, uri: str, action_names: Sequence[str]
) -> tuple[tuple[Span, ...], Actions | None]:
    """Spans of a video's episodes, and its actions; None when no columns are asked for.

    A span begins half a frame before its episode's first frame and ends half a frame after its
    last, so that rounded times do not decide which episode a frame belongs to.

    Raises:
        SampleError: Rows or columns that are not there (`actions`, `spans`).
    """
    try:
        folder = open_lerobot(ref.path)
        listed = folder.videos(ref.camera).get(uri)
        columns = folder.columns(action_names) if action_names else []
        language = folder.language_column
        tasks = folder.tasks if language else {}
    except (ConfigError, OSError) as error:
        raise SampleError(
            f"{ref.path}: what belongs to {uri} cannot be read: {error}", reason="spans"
        ) from error
    if listed is None:
        raise SampleError(f"{ref.path} has no episode in {uri}.", reason="spans")
    episodes = [episode for episode in listed if episode.num_rows > 0]
    spans, actions = [], None
    tables = _rows(episodes, columns, language) if columns or language else []
    for number, episode in enumerate(episodes):
        text = "\n".join(task for task in episode.tasks if task != _NOT_A_TASK) or None
        if language is not None and language in tables[number].column_names:
            text = _annotated(tables[number].column(language), tasks) or text
        start_s = episode.start_s - 0.5 / folder.fps
        end_s = start_s + episode.num_rows / folder.fps
        spans.append(Span(start_s=start_s, end_s=end_s, text=text))
    if columns and episodes:
        actions = _actions(folder, episodes, tables, columns)
    return resolve_spans(spans), actions


def _rows(
    episodes: Sequence[Episode], columns: Sequence[Column], language: str | None
) -> list[pa.Table]:
    """Each episode's recorded rows; every Parquet file is read once."""
    wanted = list(dict.fromkeys(["timestamp", "episode_index", *(c.key for c in columns)]))
    files: dict[Path, list[int]] = {}
    for episode in episodes:
        files.setdefault(episode.data, []).append(episode.index)
    tables = {path: _read(path, numbers, wanted, language) for path, numbers in files.items()}
    found = []
    for episode in episodes:
        table = tables[episode.data]
        own = table.filter(pc.equal(table.column("episode_index"), episode.index))
        if own.num_rows != episode.num_rows:
            raise SampleError(
                f"{episode.data}: episode {episode.index} has {own.num_rows} rows, "
                f"{episode.num_rows} declared.",
                reason="actions",
            )
        found.append(own)
    return found


def _read(path: Path, numbers: list[int], wanted: list[str], language: str | None) -> pa.Table:
    try:
        have = pq.read_schema(path).names
        missing = [name for name in wanted if name not in have]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        more = [language] if language in have and language not in wanted else []
        return pq.read_table(
            path, columns=[*wanted, *more], filters=[("episode_index", "in", numbers)]
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SampleError(f"{path}: {error}.", reason="actions") from error


def _actions(
    folder: LeRobotFolder,
    episodes: Sequence[Episode],
    tables: Sequence[pa.Table],
    columns: Sequence[Column],
) -> Actions:
    times, values = [], []
    for episode, table in zip(episodes, tables, strict=True):
        own_s = _numbers(table.column("timestamp"), np.float64)[:, 0]
        vectors = {c.key: _numbers(table.column(c.key), np.float32) for c in columns}
        times.append(episode.start_s + own_s)
        values.append(np.stack([_element(vectors[c.key], c) for c in columns], axis=1))
    try:
        return checked_actions(folder.root, np.concatenate(times), np.concatenate(values))
    except ValueError as error:
        raise SampleError(
            f"{folder.root}: the rows of episodes {episodes[0].index} to {episodes[-1].index} "
            f"cannot be used: {error}.",
            reason="actions",
        ) from error


def _element(vectors: NDArray[np.float32], column: Column) -> NDArray[np.float32]:
    if column.index >= vectors.shape[1]:
        raise SampleError(
            f"Column {column.key} has {vectors.shape[1]} numbers, not {column.index + 1}.",
            reason="actions",
        )
    return vectors[:, column.index]


def _numbers(column: pa.ChunkedArray, kind: Any) -> NDArray[Any]:
    """A column of numbers, or of lists of equal length, as (rows, width).

    Raises:
        SampleError: Something else, or lists that differ in length: their numbers would shift.
    """
    flat = array = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    while _is_list(flat.type):
        lengths = pc.min_max(pc.list_value_length(flat)).as_py()
        if flat.null_count or lengths["min"] != lengths["max"]:
            raise SampleError("Recorded vectors differ in length.", reason="actions")
        flat = flat.flatten()
    is_number = pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)
    if not (is_number or pa.types.is_boolean(flat.type)):
        raise SampleError(f"Recorded values are {array.type}, no numbers.", reason="actions")
    numbers = flat.to_numpy(zero_copy_only=False).astype(kind)
    rows: NDArray[Any] = numbers.reshape(len(array), -1)
    return rows


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _annotated(column: pa.ChunkedArray, tasks: Any) -> str | None:
    numbers = dict.fromkeys(_numbers(column, np.float64)[:, 0].tolist())  # NULL becomes NaN
    return "\n".join(t for n in numbers if (t := tasks.get(n, _NOT_A_TASK))) or None
