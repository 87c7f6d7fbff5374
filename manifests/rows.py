"""Rows to Arrow, strictly: delta-rs would store 1.5 in an int64 column as 1 without a word."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .config import nearest
from .errors import DatasetError

_INT64_LIMIT = 1 << 63
_ROWS_AT_ONCE = 256


def checked_table(
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    schema: pa.Schema,
    *,
    table: str,
    required: Sequence[str] = (),
) -> pa.Table:
    """Turn a batch of rows into an Arrow table of exactly `schema`.

    Args:
        rows: Mappings with exactly the schema's keys, or an Arrow table of its columns and types.
        schema: The table's full schema.
        table: Name for messages.
        required: Columns that are never NULL.

    Raises:
        DatasetError: Unknown or missing column, wrong type, NaN, infinity, NULL where a value
            is required. Nothing was written.
    """
    if isinstance(rows, pa.Table):
        checked = _checked_arrow(rows, schema, table)
    else:
        checked = _from_rows(rows, schema, table)
    for name in required:
        if checked.column(name).null_count:
            raise DatasetError(f"Table {table}: column {name} must have a value in every row.")
    return checked


def rows_of(table: pa.Table, places: NDArray[np.int64] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a table, or those at some places, in their order.

    Some are made at a time: as objects they take ten times the table's memory.
    """
    if places is None:
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            yield from batch.to_pylist()
        return
    table = table.combine_chunks()  # else each `take` would do so
    for start in range(0, len(places), _ROWS_AT_ONCE):
        yield from table.take(pa.array(places[start : start + _ROWS_AT_ONCE])).to_pylist()


def score_schema(table: pa.Table, *, name: str) -> pa.Schema:
    """The schema to store a score table under: `clip_id` first, large strings made plain.

    Raises:
        DatasetError: No `clip_id`, or a column type that tables do not take.
    """
    if "clip_id" not in table.schema.names:
        raise DatasetError(f"Score table {name} has no column clip_id.")
    fields = [pa.field("clip_id", pa.string())]
    for column in table.schema:
        if column.name in {"verdict", "reason"}:
            raise DatasetError(f"Score table {name}: the column name {column.name} is taken.")
        if column.name != "clip_id":
            fields.append(pa.field(column.name, _plain(column.type, f"{name}.{column.name}")))
    return pa.schema(fields)


def _plain(kind: pa.DataType, where: str) -> pa.DataType:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if kind in (pa.int64(), pa.float64(), pa.bool_()):
        return kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type, where))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain(f.type, where)) for f in kind])
    raise DatasetError(
        f"Column {where} has the type {kind}, which tables do not take.",
        hint="Cast it to string, int64, double, bool, or a list or struct of these.",
    )


def _from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, table: str) -> pa.Table:
    names = set(schema.names)
    for index, row in enumerate(rows):
        if row.keys() != names:
            raise _wrong_keys(row, schema.names, f"Table {table}, row {index}")
    columns = []
    for column in schema:
        check = _checker(column.type)
        for index, row in enumerate(rows):
            check(row[column.name], f"Table {table}, row {index}: {column.name}")
        values = [row[column.name] for row in rows]
        columns.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(columns, schema=schema)


Check = Callable[[Any, str], None]


def _checker(kind: pa.DataType) -> Check:
    if pa.types.is_list(kind):
        return _list_checker(_checker(kind.value_type))
    if pa.types.is_struct(kind):
        return _struct_checker({f.name: _checker(f.type) for f in kind})
    checks = {
        pa.string(): _check_text,
        pa.int64(): _check_int,
        pa.float64(): _check_number,
        pa.bool_(): _check_bool,
    }
    return checks[kind]


def _check_text(value: Any, where: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise _wrong(value, where, "text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _wrong(value, where, "valid Unicode") from error


def _check_int(value: Any, where: str) -> None:
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _wrong(value, where, "a whole number")
    if not -_INT64_LIMIT <= int(value) < _INT64_LIMIT:
        raise _wrong(value, where, "a whole number of at most 64 bits")


def _check_number(value: Any, where: str) -> None:
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise _wrong(value, where, "a number")
    if not math.isfinite(value):
        raise DatasetError(
            f"{where} is {float(value)}; a number that is not known is stored as NULL, never NaN.",
            hint="Write None instead.",
        )


def _check_bool(value: Any, where: str) -> None:
    if value is not None and not isinstance(value, bool):
        raise _wrong(value, where, "true or false")


def _list_checker(item: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, where, "a list (an empty one is [])")
        for index, entry in enumerate(value):
            item(entry, f"{where}[{index}]")

    return check


def _struct_checker(fields: Mapping[str, Check]) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(value, where, "a mapping")
        if value.keys() != fields.keys():
            raise _wrong_keys(value, list(fields), where)
        for name, entry in fields.items():
            entry(value[name], f"{where}.{name}")

    return check


def _checked_arrow(rows: pa.Table, schema: pa.Schema, table: str) -> pa.Table:
    if set(rows.schema.names) != set(schema.names) or rows.num_columns != len(schema):
        raise _wrong_keys(dict.fromkeys(rows.schema.names), schema.names, f"Table {table}")
    columns = []
    for column in schema:
        data = rows.column(column.name)
        where = f"Table {table}: column {column.name}"
        if not _same_type(data.type, column.type):
            raise DatasetError(f"{where} has the type {data.type}, must be {column.type}.")
        for chunk in data.chunks:
            _refuse_nan(chunk, where)
        columns.append(data.cast(column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _same_type(given: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        return bool(_plain(given, "") == _plain(wanted, ""))
    except DatasetError:
        return False


def _refuse_nan(array: pa.Array, where: str) -> None:
    if pa.types.is_floating(array.type):
        if not pc.all(pc.is_finite(array), min_count=0).as_py():
            raise DatasetError(
                f"{where} holds NaN or infinity; a number that is not known is stored as NULL.",
                hint="Replace it by NULL.",
            )
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        _refuse_nan(array.flatten(), where)
    elif pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            _refuse_nan(array.field(index), where)


def _wrong(value: Any, where: str, wanted: str) -> DatasetError:
    return DatasetError(f"{where} is {value!r}, must be {wanted}.")


def _wrong_keys(row: Mapping[str, Any], names: Sequence[str], where: str) -> DatasetError:
    unknown = [str(key) for key in row if key not in set(names)]
    if unknown:
        return DatasetError(
            f"{where} has the unknown column {unknown[0]!r}.", hint=nearest(unknown[0], names)
        )
    missing = [name for name in names if name not in row]
    return DatasetError(
        f"{where} lacks the column {missing[0]!r}.",
        hint="Every row names every column; None is NULL.",
    )
