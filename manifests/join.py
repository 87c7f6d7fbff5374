"""`manifest join`: columns made elsewhere become a score table, by clip or by video and span."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from .errors import DatasetError, UsageError
from .tables import connect

if TYPE_CHECKING:
    from .dataset import Dataset

_KEYS = ("clip_id", "video_id", "uri")
_SPAN = ("start_s", "end_s")
_MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinReport:
    """What became of the rows of a file.

    Attributes:
        name: The score table.
        key: What rows were matched by: `clip_id`, or `video_id` or `uri` with a span.
        columns: The columns that were taken over.
        num_rows: Rows of the file.
        num_matched: Rows that gave a clip its values.
        num_unmatched: The others: of no clip, of no video, or a better one was there.
        unmatched: The first of them, as text.
        num_clips_scored: Clips with a row now.
        num_clips: Clips of the dataset.
    """

    name: str
    key: str
    columns: tuple[str, ...]
    num_rows: int
    num_matched: int
    num_unmatched: int
    unmatched: tuple[str, ...]
    num_clips_scored: int
    num_clips: int


def join_columns(
    dataset: Dataset,
    file: Path | str,
    *,
    name: str,
    min_overlap: float = 0.5,
    replace: bool = False,
    dry_run: bool = False,
) -> JoinReport:
    """Bring the columns of a Parquet or CSV file in as `scores/<name>`.

    A file with a column `clip_id` is matched by it. One with `video_id` or `uri`, `start_s` and
    `end_s` (seconds of the file, half-open) gives each clip the row that covers most of it.

    Args:
        dataset: An open dataset.
        file: `.parquet` or `.csv`.
        name: Name of the score table.
        min_overlap: Share of a clip that a span must cover to speak for it.
        replace: Put the rows in the place of all older ones of that table.
        dry_run: Match and check only.

    Raises:
        UsageError: The file cannot be read or lacks the columns to match by.
        DatasetError: A clip with two rows, a column type that tables do not take, NaN.
    """
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"min_overlap is {min_overlap}, must lie in [0, 1].")
    path = Path(file)
    table = _plain_types(_read(path))
    key = _key(table, path)
    used = {key} if key == "clip_id" else {key, *_SPAN, *_KEYS}
    columns = [column for column in table.schema.names if column not in used]
    if not columns:
        raise UsageError(f"{path} has no column besides those that rows are matched by.")
    keys = table.select([key, *(() if key == "clip_id" else _SPAN)])
    rows = keys.append_column("_row", pa.array(np.arange(table.num_rows)))
    if key == "clip_id":
        pairs = _by_clip(dataset, rows)
    else:
        pairs = _by_span(dataset, rows, key, path, min_overlap)
    if not pairs.num_rows:
        raise DatasetError(
            f"None of the {table.num_rows} rows of {path} matches a clip of {dataset.path}.",
            hint=f"They were matched by {key}; nothing was written.",
        )
    numbers = pairs.column("_row")
    scores = table.select(columns).take(numbers)
    scores = scores.add_column(0, pa.field("clip_id", pa.string()), pairs.column("clip_id"))
    is_matched = np.zeros(table.num_rows, bool)
    is_matched[numbers.to_numpy()] = True
    left = np.flatnonzero(~is_matched)
    metadata = {"command": "manifest join", "file": path.name, "file_sha256": _digest(path)}
    dataset.append_score(name, scores, metadata=metadata, dry_run=True)  # makes no table
    if not dry_run:
        dataset.append_score(name, scores, metadata=metadata, replace=replace)
    return JoinReport(
        name=name,
        key=key,
        columns=tuple(columns),
        num_rows=table.num_rows,
        num_matched=int(is_matched.sum()),
        num_unmatched=len(left),
        unmatched=tuple(_text(keys, number) for number in left[:_MAX_EXAMPLES].tolist()),
        num_clips_scored=pairs.num_rows,
        num_clips=dataset.sql("SELECT count(*) AS n FROM _committed").column("n")[0].as_py(),
    )


def _read(path: Path) -> pa.Table:
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise UsageError(f"{path} is no .parquet and no .csv file.")
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path, partitioning=None)
        # An id of hex digits may look like a number.
        types = dict.fromkeys(_KEYS, pa.string()) | dict.fromkeys(_SPAN, pa.float64())
        return pcsv.read_csv(path, convert_options=pcsv.ConvertOptions(column_types=types))
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise UsageError(f"{path} cannot be read: {why}") from error


def _key(table: pa.Table, path: Path) -> str:
    names = table.schema.names
    lower = [name.lower() for name in names]  # tables and SQL do not tell them apart
    if len(set(lower)) < len(names):
        twice = next(name for name in names if lower.count(name.lower()) > 1)
        raise UsageError(f"{path} has two columns called {twice!r}.")
    for key in _KEYS:
        if key in names and (key == "clip_id" or set(_SPAN) <= set(names)):
            if table.schema.field(key).type != pa.string():
                kind = table.schema.field(key).type
                raise UsageError(f"{path}: column {key} has the type {kind}, must be text.")
            return key
    raise UsageError(
        f"{path} has no column to match clips by; it has {', '.join(names)}.",
        hint="Give clip_id, or video_id (or uri) with start_s and end_s in seconds of the file.",
    )


def _plain_types(table: pa.Table) -> pa.Table:
    """Whole numbers as int64, others as double, categories as text, also inside lists."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = _plain_type(field.type)
        try:
            columns.append(column.cast(kind))
        except pa.ArrowException as error:
            raise DatasetError(
                f"Column {field.name} cannot be stored as {kind}: {error}"
            ) from error
    return pa.table(columns, names=table.schema.names)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column, or what is in its lists, is stored as; others as they are."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.float64()
    is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pa.string() if is_text or pa.types.is_null(kind) else kind


def _by_clip(dataset: Dataset, rows: pa.Table) -> pa.Table:
    known = dataset.sql("SELECT clip_id FROM _committed").column("clip_id").combine_chunks()
    return rows.select(["clip_id", "_row"]).filter(pc.is_in(rows.column("clip_id"), known))


def _by_span(
    dataset: Dataset, rows: pa.Table, key: str, path: Path, min_overlap: float
) -> pa.Table:
    """(clip_id, _row): for each clip the row that covers most of it, the first of equal ones."""
    _check_spans(rows, path)
    spans = rows.select([key, *_SPAN, "_row"])
    if key == "uri":
        spans = _with_video_id(dataset, spans)
    clips = dataset.sql("SELECT clip_id, video_id, start_s, end_s FROM _committed")
    con = connect()
    con.register("_join_spans", spans)
    con.register("_join_clips", clips)
    query = f"""
        SELECT clip_id, _row FROM (
            SELECT c.clip_id, s._row, c.end_s - c.start_s AS length_s,
                least(c.end_s, s.end_s) - greatest(c.start_s, s.start_s) AS common_s
            FROM _join_clips AS c JOIN _join_spans AS s ON c.video_id = s.video_id
                AND s.start_s < c.end_s AND s.end_s > c.start_s)
        WHERE common_s >= {float(min_overlap)} * length_s - 1e-9
        QUALIFY row_number() OVER (PARTITION BY clip_id ORDER BY common_s DESC, _row) = 1
        ORDER BY clip_id"""
    found: pa.Table = con.sql(query).to_arrow_table()
    con.close()
    return found


def _check_spans(rows: pa.Table, path: Path) -> None:
    for name in _SPAN:
        kind = rows.schema.field(name).type
        if kind not in (pa.float64(), pa.int64()):
            raise UsageError(f"{path}: column {name} has the type {kind}, must be seconds.")
    is_span = pc.less(rows.column("start_s"), rows.column("end_s"))
    if not pc.all(is_span.fill_null(False), min_count=0).as_py():
        number = is_span.fill_null(False).to_pylist().index(False)
        raise UsageError(f"{path}, row {number}: start_s must be before end_s.")


def _with_video_id(dataset: Dataset, spans: pa.Table) -> pa.Table:
    """Addresses become ids, so that the copy of a video will do; relative ones are resolved."""
    videos = dataset.sql("SELECT uri, video_id FROM videos")
    uris, ids = (videos.column(name).combine_chunks() for name in ("uri", "video_id"))
    given = spans.column("uri").combine_chunks().dictionary_encode()
    places = pc.index_in(given.dictionary, uris).fill_null(-1).to_numpy().copy()
    others = np.flatnonzero(places < 0)
    named = given.dictionary.take(pa.array(others)).to_pylist()
    resolved = pa.array([str(Path(uri).expanduser().resolve()) for uri in named], pa.string())
    places[others] = pc.index_in(resolved, uris).fill_null(-1).to_numpy()
    known = ids.take(pa.array(places, mask=places < 0))
    return spans.append_column("video_id", known.take(given.indices))


def _text(shown: pa.Table, number: int) -> str:
    row: dict[str, Any] = shown.slice(number, 1).to_pylist()[0]
    values: Sequence[str] = [str(value) for value in row.values()]
    return f"row {number}: {' '.join(values)}"


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
