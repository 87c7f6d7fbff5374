"""What the page's script needs to decide again: per clip its length and each rule's numbers, small.

A measure is stored with 16 bits a clip: the place of its value in a list where there are few
values, else its place in the histogram's range, moved so that no clip changes sides at a
threshold of the recipe.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.dataset import Dataset
from manifests.recipe import Recipe, load_recipe, recipe_names

from .facts import Facts, Histogram, RuleText, finite, is_bound, threshold_keys
from .predicates import Combination, Comparison, Node

MAX_CLIPS = 10_000
MAX_LEVELS = 1024
MISSING = 65535
TOP = 65534
_OPERATORS = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}


def script_data(dataset: Dataset, facts: Facts) -> dict[str, Any]:
    """The JSON that stands in the page; above `MAX_CLIPS` clips an even sample by clip_id."""
    total = sum(group["clips"] for group in facts.groups.values())
    collector = _Collector(dataset, facts, is_sample=total > MAX_CLIPS)
    rules = [collector.rule(rule) for rule in facts.rules]
    groups = collector.duplicates(facts.duplicate_rule)
    lengths, fixed, measured, opaque, pairs = collector.read(groups)
    return {
        "total": total,
        "count": len(lengths),
        "totalSeconds": sum(group["seconds"] for group in facts.groups.values()),
        "isDecided": facts.recipe is not None,
        "command": base_command(dataset, facts),
        "gateCommand": gate_command(dataset, facts),
        "lengths": _packed(lengths.astype("<f4")),
        "fixed": _packed(fixed),
        "columns": measured,
        "opaque": opaque,
        "rules": rules,
        "duplicates": pairs,
    }


def clip_places(dataset: Dataset) -> dict[str, int]:
    """Number of each clip that the script knows, by `clip_id`."""
    ids = dataset.sql(f"SELECT clip_id FROM _committed ORDER BY clip_id LIMIT {MAX_CLIPS}")
    return {clip_id: i for i, clip_id in enumerate(ids.column("clip_id").to_pylist())}


def script_json(data: Mapping[str, Any]) -> str:
    """Compact JSON that can stand inside a script element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def base_command(dataset: Dataset, facts: Facts) -> str:
    """The command that makes the present decision again, to which more `--set` are added."""
    return f"egodojo decide {quote(str(dataset.path))} {_recipe_words(dataset, facts)}"


def gate_command(dataset: Dataset, facts: Facts) -> str:
    """The command that writes clips by the same recipe anew, with `--set` for other gates."""
    return f"egodojo curate INPUT... --out NEW_DATASET {_recipe_words(dataset, facts)}"


def _recipe_words(dataset: Dataset, facts: Facts) -> str:
    name, sets = _named_recipe(facts, dataset.metadata("decisions").get("recipe_digest"))
    return " ".join(["--recipe", quote(name), *(f"--set {quote(item)}" for item in sets)])


def _named_recipe(facts: Facts, wanted: str | None) -> tuple[str, list[str]]:
    """What `--recipe` and `--set` say to get the recorded recipe, which has this digest.

    One that is no shipped recipe with some rules replaced is called by a file of its name.
    """
    if facts.recipe is None:
        return "egocentric", []
    if facts.recipe in recipe_names():
        sets = _sets(facts, load_recipe(facts.recipe))
        if load_recipe(facts.recipe, sets).digest == wanted:
            return facts.recipe, sets
    return f"{facts.recipe}.yaml", []


def _sets(facts: Facts, shipped: Recipe) -> list[str]:
    """What the recorded recipe has changed in the shipped one of its name."""
    sets = []
    for section, rules in (("gates", shipped.gates), ("keep", shipped.keep)):
        old = {rule.name: rule.keep_when for rule in rules}
        new = {r.name: r.keep_when for r in facts.rules if r.is_gate == (section == "gates")}
        sets += [f"{section}.{name}={sql}" for name, sql in new.items() if old.get(name) != sql]
        sets += [f"{section}.{name}=null" for name in old if name not in new]
    return sets


class _Collector:
    """Gathers the SQL of everything that is stored per clip, then reads it in one query."""

    def __init__(self, dataset: Dataset, facts: Facts, *, is_sample: bool) -> None:
        self._dataset = dataset
        self._facts = facts
        self._is_sample = is_sample
        self._columns = {h.sql: h for h in facts.histograms}
        self._opaque: list[str] = []

    def rule(self, rule: RuleText) -> dict[str, Any]:
        """A rule as the script reads it; thresholds lie in the order of the text."""
        keys = iter(threshold_keys(rule, self._facts.rules))
        return {
            "name": rule.name,
            "isGate": rule.is_gate,
            "onMissing": rule.on_missing,
            "text": rule.keep_when,
            "tree": self._tree(rule, rule.tree, keys),
        }

    def duplicates(self, rule: Mapping[str, str]) -> tuple[str, str]:
        """SQL of the cluster and of the rank; in a sample the recorded decision stands."""
        if not rule or not is_bound(self._dataset, f"({rule['cluster']}), ({rule['rank']})"):
            return "NULL", "NULL"
        if self._is_sample:
            return "CASE WHEN reason = 'near_duplicate' THEN -1 END", "0"
        return f"({rule['cluster']})", f"({rule['rank']})"

    def read(
        self, groups: tuple[str, str]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], list[dict[str, Any]], list[str], Any]:
        """Lengths, fixed gates, columns, opaque parts, and (cluster, place) of duplicates."""
        gates = [rule.name for rule in self._facts.rules if rule.is_gate]
        known = ", ".join(f"'{name}'" for name in gates) or "''"
        picked = [f"{finite(h.sql)} AS m{i}" for i, h in enumerate(self._columns.values())]
        picked += [f"CAST(({sql}) AS BOOLEAN) AS o{i}" for i, sql in enumerate(self._opaque)]
        cluster, rank = groups
        last = self._dataset.sql(
            "SELECT max(clip_id) AS last FROM ("
            f"SELECT clip_id FROM _committed ORDER BY clip_id LIMIT {MAX_CLIPS})"
        )["last"][0].as_py()
        table = self._dataset.sql(
            f"""
            SELECT end_s - start_s AS length_s, (gate IS NOT NULL AND gate NOT IN ({known})) AS
                is_fixed, {cluster} AS cluster, row_number() OVER (ORDER BY {rank} NULLS LAST,
                clip_id) AS place {"".join(", " + sql for sql in picked)}
            FROM clips WHERE clip_id <= '{last}' ORDER BY clip_id"""
        )
        lengths = table.column("length_s").to_numpy()
        fixed = table.column("is_fixed").to_numpy().astype(np.uint8)
        columns = [
            _column(histogram, table.column(f"m{i}").to_numpy())
            for i, histogram in enumerate(self._columns.values())
        ]
        opaque = [_packed(_tristate(table.column(f"o{i}"))) for i in range(len(self._opaque))]
        pairs = None
        if cluster != "NULL":
            names = table.column("cluster").to_pylist()
            numbers = {name: i + 1 for i, name in enumerate(dict.fromkeys(names)) if name != -1}
            codes = [0 if n is None else -1 if n == -1 else numbers[n] for n in names]
            places = np.argsort(np.argsort(table.column("place").to_numpy(), kind="stable"))
            pairs = {
                "cluster": _packed(np.array(codes, "<i4")),
                "place": _packed(places.astype("<i4")),
            }
        return lengths, fixed, columns, opaque, pairs

    def _tree(self, rule: RuleText, node: Node, keys: Any) -> Any:
        if isinstance(node, Combination):
            parts = [self._tree(rule, part, keys) for part in node.parts]
            return {"kind": node.kind, "parts": parts}
        if isinstance(node, Comparison):
            key = next(keys)
            if node.sql in self._columns:
                return {
                    "kind": "compare",
                    "key": key,
                    "column": list(self._columns).index(node.sql),
                    "operator": node.operator,
                    "value": node.value,
                    "start": _script_place(rule.keep_when, node.start),
                    "end": _script_place(rule.keep_when, node.end),
                }
            return self._hidden(f"({node.sql}) {node.operator} {node.value!r}")
        return self._hidden(node.sql)

    def _hidden(self, sql: str) -> dict[str, Any]:
        """A part that has no threshold to move: its value is stored, NULL when it has none."""
        self._opaque.append(sql if is_bound(self._dataset, f"CAST(({sql}) AS BOOLEAN)") else "NULL")
        return {"kind": "opaque", "index": len(self._opaque) - 1}


def _script_place(text: str, place: int) -> int:
    """A place in a text as JavaScript counts it: most emoji are two."""
    return len(text[:place].encode("utf-16-le")) // 2


def _column(histogram: Histogram, values: NDArray[np.float64]) -> dict[str, Any]:
    """Values as 16-bit codes; `levels` lists them when there are few."""
    values = np.asarray(values, np.float64)
    is_missing = np.isnan(values)
    shown = values[~is_missing]
    levels, places = np.unique(shown, return_inverse=True)
    codes = np.full(len(values), MISSING, "<u2")
    is_short = len(levels) <= MAX_LEVELS
    codes[~is_missing] = places if is_short else _codes(histogram, shown)
    return {
        "name": histogram.name,
        "sql": histogram.sql,
        "unit": histogram.unit,
        "low": histogram.low,
        "high": histogram.high,
        "levels": levels.tolist() if is_short else None,
        "hasMissing": histogram.num_missing > 0,
        "codes": _packed(codes),
    }


def _codes(histogram: Histogram, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places in the range; those beyond lie at its edge, where no threshold can be dragged."""
    width = histogram.high - histogram.low
    inside = np.clip(values, histogram.low, histogram.high)
    places = np.clip(np.rint((inside - histogram.low) / width * TOP), 0, TOP).astype(np.int64)
    for cut in histogram.thresholds:
        compare = _OPERATORS[cut.operator]
        is_right = compare(values, cut.value)
        upward = np.where(is_right == cut.keeps_above, 1, -1)
        for _ in range(2):
            decoded = histogram.low + places / TOP * width
            is_wrong = compare(decoded, cut.value) != is_right
            places = np.clip(places + np.where(is_wrong, upward, 0), 0, TOP)
    return places


def _tristate(column: Any) -> NDArray[np.uint8]:
    """0 false, 1 true, 2 NULL."""
    return np.array([2 if v is None else int(v) for v in column.to_pylist()], np.uint8)


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
