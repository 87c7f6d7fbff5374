"""A rule's predicate taken apart: where it compares something with a number, and what is around."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from manifests.dataset import Dataset
from manifests.views import quoted

_DIGITS = rb"\d+(?:_\d+)*"
_NUMBER = re.compile(
    rb"-?(?:%(d)b(?:\.(?:%(d)b)?)?|\.%(d)b)(?:[eE][+-]?\d+)?(?![\w.])" % {b"d": _DIGITS}
)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_OPERATORS = {
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHAN": "<",
}
_MIRRORED = {">=": "<=", "<=": ">=", ">": "<", "<": ">"}
_BEFORE = "SELECT ("


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`sql operator value`; `start` and `end` bound the number in the predicate's text."""

    sql: str
    operator: str
    value: float
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A part of a predicate that is no comparison with a number; true, false or NULL."""

    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Parts joined by AND or OR, or one part under NOT."""

    kind: Literal["and", "or", "not"]
    parts: tuple[Node, ...]


Node = Comparison | Opaque | Combination


def parse(dataset: Dataset, predicate: str) -> Node:
    """Take a predicate apart; a text that does not parse comes back whole, as `Opaque`."""
    query = f"{_BEFORE}{predicate})"
    (row,) = dataset.sql(f"SELECT json_serialize_sql({_quoted(query)})::VARCHAR AS ast").to_pylist()
    parsed = json.loads(row["ast"])
    if parsed.get("error") or len(parsed["statements"]) != 1:
        return Opaque(sql=predicate)
    (expression,) = parsed["statements"][0]["node"]["select_list"]
    return _node(_Source(dataset=dataset, text=predicate, parsed=parsed), expression)


def comparisons(node: Node) -> Iterator[Comparison]:
    """All comparisons with a number, from left to right."""
    if isinstance(node, Comparison):
        yield node
    elif isinstance(node, Combination):
        for part in node.parts:
            yield from comparisons(part)


def rebuilt(node: Node) -> str:
    """SQL of a predicate that was taken apart."""
    if isinstance(node, Comparison):
        return f"(({node.sql}) {node.operator} {node.value!r})"
    if isinstance(node, Opaque):
        return f"({node.sql})"
    parts = [rebuilt(part) for part in node.parts]
    if node.kind == "not":
        return f"(NOT {parts[0]})"
    return f"({f' {node.kind.upper()} '.join(parts)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What is needed to give a piece of the syntax tree its text again."""

    dataset: Dataset
    text: str
    parsed: dict[str, Any]

    def sql(self, expression: dict[str, Any]) -> str:
        if expression["class"] == "COLUMN_REF":
            return _column(expression["column_names"])
        statement = self.parsed["statements"][0]
        node = {**statement["node"], "select_list": [expression]}
        whole = json.dumps({**self.parsed, "statements": [{**statement, "node": node}]})
        query = f"SELECT json_deserialize_sql({_quoted(whole)}::JSON) AS sql"
        text = str(self.dataset.sql(query).to_pylist()[0]["sql"]).removeprefix("SELECT ")
        return text[1:-1] if _is_wrapped(text) else text

    def number(self, expression: dict[str, Any]) -> tuple[float, int, int] | None:
        """(value, start, end) of a constant that stands in the text as a plain number."""
        if expression["class"] != "CONSTANT":
            return None
        data = self.text.encode("utf-8")  # DuckDB counts bytes
        start = int(expression.get("query_location", -1)) - len(_BEFORE)
        found = _NUMBER.match(data, start) if 0 <= start < len(data) else None
        if found is None:
            return None
        before, number = data[: found.start()].decode("utf-8"), found[0].decode("ascii")
        return float(number), len(before), len(before) + len(number)


def _node(source: _Source, expression: dict[str, Any]) -> Node:
    kind = expression["type"]
    if kind in ("CONJUNCTION_AND", "CONJUNCTION_OR", "OPERATOR_NOT"):
        parts = tuple(_node(source, child) for child in expression["children"])
        name: Literal["and", "or", "not"] = "not" if kind == "OPERATOR_NOT" else "and"
        return Combination(kind="or" if kind == "CONJUNCTION_OR" else name, parts=parts)
    if kind == "COMPARE_BETWEEN":
        return _between(source, expression)
    if kind in _OPERATORS:
        left, right, operator = expression["left"], expression["right"], _OPERATORS[kind]
        for measured, constant, sign in (
            (left, right, operator),
            (right, left, _MIRRORED[operator]),
        ):
            number = source.number(constant)
            if number is not None and measured["class"] != "CONSTANT":
                value, start, end = number
                sql = source.sql(measured)
                return Comparison(sql=sql, operator=sign, value=value, start=start, end=end)
    return Opaque(sql=source.sql(expression))


def _between(source: _Source, expression: dict[str, Any]) -> Node:
    """`x BETWEEN 3 AND 5` as its two comparisons; other bounds than numbers leave it whole."""
    measured = expression["input"]
    low, high = source.number(expression["lower"]), source.number(expression["upper"])
    if low is None or high is None or measured["class"] == "CONSTANT":
        return Opaque(sql=source.sql(expression))
    sql = source.sql(measured)
    parts = tuple(
        Comparison(sql=sql, operator=operator, value=value, start=start, end=end)
        for operator, (value, start, end) in ((">=", low), ("<=", high))
    )
    return Combination(kind="and", parts=parts)


def _column(names: Sequence[str]) -> str:
    """A column as it is called elsewhere: `FPS` and `clips.fps` are `fps`."""
    if len(names) > 1 and names[0].lower() == "clips":
        names = names[1:]
    lower = [name.lower() for name in names]
    return ".".join(name if _PLAIN.fullmatch(name) else quoted(name) for name in lower)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _is_wrapped(text: str) -> bool:
    """Whether the first parenthesis closes at the very end."""
    if not text.startswith("("):
        return False
    depth = 0
    for index, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth == 0:
            return index == len(text) - 1
    return False
