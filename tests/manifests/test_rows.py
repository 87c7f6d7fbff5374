"""Every batch is checked against its full schema before anything is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from manifests import schema
from manifests.errors import DatasetError
from manifests.rows import checked_table, score_schema

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("count", pa.int64()),
        ("ratio", pa.float64()),
        ("is_on", pa.bool_()),
        ("parts", pa.list_(pa.struct([("uri", pa.string()), ("tick", pa.int64())]))),
    ]
)
GOOD: dict[str, Any] = {
    "name": "ä",
    "count": 3,
    "ratio": 0.5,
    "is_on": True,
    "parts": [{"uri": "u", "tick": None}],
}


def test_good_rows_become_exactly_the_schema() -> None:
    nothing = {**dict.fromkeys(GOOD), "parts": []}
    table = checked_table([GOOD, nothing], SCHEMA, table="t")
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == [GOOD, nothing]


def test_numpy_scalars_are_numbers() -> None:
    row = {**GOOD, "count": np.int32(3), "ratio": np.float32(0.5)}
    assert checked_table([row], SCHEMA, table="t").to_pylist() == [GOOD]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 1.5}, "row 0: count is 1.5, must be a whole number"),
        ({"count": True}, "count is True, must be a whole number"),
        ({"count": 1 << 63}, "at most 64 bits"),
        ({"ratio": float("nan")}, "stored as NULL, never NaN"),
        ({"ratio": float("inf")}, "stored as NULL, never NaN"),
        ({"ratio": "0.5"}, "ratio is '0.5', must be a number"),
        ({"is_on": 1}, "is_on is 1, must be true or false"),
        ({"name": 3}, "name is 3, must be text"),
        ({"name": "\udcff"}, "must be valid Unicode"),
        ({"parts": None}, "must be a list"),
        ({"parts": [3]}, r"parts\[0\] is 3, must be a mapping"),
        ({"parts": [{"uri": "u"}]}, r"parts\[0\] lacks the column 'tick'"),
        ({"parts": [{"uri": "u", "tick": 0.5}]}, r"parts\[0\].tick is 0.5"),
        ({"cuont": 1}, "unknown column 'cuont'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        checked_table([{**GOOD, **change}], SCHEMA, table="t")


def test_a_missing_column_is_refused() -> None:
    row = {key: value for key, value in GOOD.items() if key != "ratio"}
    with pytest.raises(DatasetError, match="Table t, row 1 lacks the column 'ratio'"):
        checked_table([GOOD, row], SCHEMA, table="t")


def test_required_columns_have_a_value() -> None:
    with pytest.raises(DatasetError, match="column name must have a value in every row"):
        checked_table([{**GOOD, "name": None}], SCHEMA, table="t", required=("name",))


def test_arrow_tables_are_checked_alike() -> None:
    table = pa.table({"clip_id": ["a"], "verdict": ["keep"], "reason": pa.array([None], "string")})
    assert checked_table(table, schema.DECISIONS, table="d").schema.equals(schema.DECISIONS)
    with pytest.raises(DatasetError, match="unknown column 'why'"):
        checked_table(table.append_column("why", [["x"]]), schema.DECISIONS, table="d")
    with pytest.raises(DatasetError, match="lacks the column 'reason'"):
        checked_table(table.drop_columns("reason"), schema.DECISIONS, table="d")
    wrong = table.set_column(1, "verdict", pa.array([1]))
    with pytest.raises(DatasetError, match="verdict has the type int64, must be string"):
        checked_table(wrong, schema.DECISIONS, table="d")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, float("nan")]),
        pa.array([[1.0], [float("inf")]]),
        pa.array([{"x": 1.0}, {"x": float("nan")}]),
    ],
)
def test_nan_hides_nowhere_in_an_arrow_table(column: pa.Array) -> None:
    table = pa.table({"clip_id": ["a", "b"], "score": column})
    with pytest.raises(DatasetError, match="holds NaN or infinity"):
        checked_table(table, score_schema(table, name="s"), table="s")


def test_score_columns_have_plain_types() -> None:
    table = pa.table({"x": pa.array(["a"], pa.large_string()), "clip_id": ["a"]})
    assert score_schema(table, name="s").types == [pa.string(), pa.string()]
    with pytest.raises(DatasetError, match=r"Column s.x has the type float, which tables"):
        score_schema(pa.table({"clip_id": ["a"], "x": pa.array([1.0], pa.float32())}), name="s")
    with pytest.raises(DatasetError, match="no column clip_id"):
        score_schema(pa.table({"x": [1]}), name="s")
    with pytest.raises(DatasetError, match="the column name verdict is taken"):
        score_schema(pa.table({"clip_id": ["a"], "verdict": ["keep"]}), name="s")


def test_schemas_hold_only_types_every_reader_knows() -> None:
    def plain(kind: pa.DataType) -> bool:
        if pa.types.is_list(kind):
            return plain(kind.value_type)
        if pa.types.is_struct(kind):
            return all(plain(field.type) for field in kind)
        return kind in (pa.string(), pa.int64(), pa.float64(), pa.bool_())

    for name, table_schema in schema.TABLES.items():
        assert all(plain(kind) for kind in table_schema.types), name
        assert set(schema.REQUIRED[name]) <= set(table_schema.names)
