"""What the preview page shows, as small records; counted in SQL, so a million clips are fine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import yaml

from manifests.dataset import Dataset
from manifests.errors import DatasetError
from manifests.measures import MEASURES
from manifests.recipe import closed
from manifests.trial import Trial

from .predicates import Node, Opaque, comparisons, parse, rebuilt

NUM_BINS = 36
MAX_LISTED = 300
NUM_RANGED = 100_000
GROUPS = ("kept", "dropped", "gated", "undecided")
_ROWS_AT_ONCE = 100_000
_GROUP = """CASE WHEN gate IS NOT NULL THEN 'gated' WHEN verdict = 'keep' THEN 'kept'
    WHEN verdict = 'drop' THEN 'dropped' ELSE 'undecided' END"""
_ENDLESS = "1e308"
_COLUMN = re.compile(r"[\w.]+")
_WORST_FIRST = (
    "quarantined", "failed", "unreadable", "pending", "processed", "no_clips", "duplicate",
)  # fmt: skip
# Worked out once: several queries look at it.
_FILES = """
CREATE OR REPLACE TEMP TABLE _files_drawn AS SELECT uri, source, embodiment, state, reason, detail,
    is_damaged, duration_s, num_clips, num_kept, written_s, kept_s FROM files
"""
_FACTS = {
    "end_s - start_s": ("duration_s", "s", "Length of the clip."),
    "fps": ("fps", "frames/s", "Frame rate of the clip."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleText:
    """One rule as the page names it; `tree` is its predicate taken apart, `why` may be empty."""

    name: str
    keep_when: str
    is_gate: bool
    on_missing: str
    tree: Node
    why: str = ""

    def comparisons(self) -> Iterator[tuple[str, str, float]]:
        """(column or expression, operator, number) of every comparison with a number."""
        for found in comparisons(self.tree):
            yield found.sql, found.operator, found.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Where a rule cuts a measure; `operator` is what a kept clip fulfils.

    `key` names it in the page's address: the rule, and from its second comparison on a number.
    """

    key: str
    rule: str
    is_gate: bool
    operator: str
    value: float

    @property
    def keeps_above(self) -> bool:
        """Whether larger values are kept."""
        return self.operator.startswith(">")


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of one measure.

    Attributes:
        name: Column, `<score>.<column>`, or the expression that a rule compares.
        sql: Its value in SQL.
        unit: What the number counts.
        description: One sentence.
        low: Left edge of the first bin.
        high: Right edge of the last bin, which also holds everything beyond it.
        has_beyond: Whether values lie beyond `high`.
        num_missing: Clips without a value.
        bins: Per bin the clips kept, dropped, gated and undecided.
        thresholds: Rules that cut here.
    """

    name: str
    sql: str
    unit: str
    description: str
    low: float
    high: float
    has_beyond: bool
    num_missing: int
    bins: tuple[tuple[int, ...], ...]
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything on the page but the pictures."""

    name: str
    is_trial: bool
    recipe: str | None
    recipe_text: str
    rules: tuple[RuleText, ...]
    duplicate_rule: Mapping[str, str]
    shortest: str
    groups: dict[str, dict[str, Any]]
    reasons: list[dict[str, Any]]
    fates: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    troubles: list[dict[str, Any]]
    num_troubles: int
    gated: list[dict[str, Any]]
    num_gated: int
    histograms: list[Histogram]

    @property
    def compared(self) -> list[str]:
        """What rules compare with numbers, in SQL."""
        return [found.sql for found in self.histograms if found.thresholds]


def collect(dataset: Dataset) -> Facts:
    """Count everything; decodes nothing."""
    settings, metadata = dataset.settings, dataset.metadata("decisions")
    recipe: Mapping[str, Any] = yaml.safe_load(metadata.get("recipe_text", "")) or {}
    rules = _rules(dataset, recipe)
    groups = _rows(
        dataset,
        f"""
        SELECT {_GROUP} AS name, count(*) AS clips, sum(end_s - start_s) AS seconds
        FROM _decided GROUP BY 1""",
    )
    dataset.sql(_FILES)
    troubles = "state <> 'processed' OR is_damaged"
    return Facts(
        name=settings.name,
        is_trial=isinstance(dataset, Trial),
        recipe=metadata.get("recipe"),
        recipe_text=metadata.get("recipe_text", ""),
        rules=rules,
        duplicate_rule=recipe.get("near_duplicate") or {},
        shortest=f"{settings.min_frames} frames and {settings.min_duration_s:g} s or more",
        groups={row["name"]: row for row in groups},
        reasons=_rows(
            dataset,
            """
            SELECT coalesce(gate, reason) AS reason, gate IS NOT NULL AS is_gate,
                count(*) AS clips, sum(end_s - start_s) AS seconds
            FROM _decided WHERE gate IS NOT NULL OR verdict = 'drop'
            GROUP BY 1, 2 ORDER BY clips DESC, reason""",
        ),
        fates=_rows(
            dataset,
            """
            SELECT state, count(*) AS files, coalesce(sum(duration_s), 0.0) AS seconds,
                sum(kept_s) AS kept_s FROM _files_drawn GROUP BY 1 ORDER BY files DESC, state""",
        ),
        sources=_rows(
            dataset,
            """
            SELECT source, embodiment, count(*) AS files,
                coalesce(sum(duration_s) FILTER (state <> 'duplicate'), 0.0) AS seconds,
                sum(num_clips) AS clips, sum(written_s) AS written_s,
                sum(num_kept) AS kept, sum(kept_s) AS kept_s
            FROM _files_drawn GROUP BY 1, 2 ORDER BY kept_s DESC, source, embodiment""",
        ),
        troubles=_rows(
            dataset,
            f"""
            SELECT uri, source, state, reason, detail, is_damaged, duration_s FROM _files_drawn
            WHERE {troubles}
            ORDER BY list_position({list(_WORST_FIRST)}, state), reason, uri
            LIMIT {MAX_LISTED}""",
        ),
        num_troubles=_count(dataset, f"SELECT count(*) AS n FROM _files_drawn WHERE {troubles}"),
        gated=_rows(
            dataset,
            f"""
            SELECT gate, uri, start_s, end_s, num_frames FROM _committed WHERE gate IS NOT NULL
            ORDER BY gate, uri, start_s LIMIT {MAX_LISTED}""",
        ),
        num_gated=_count(dataset, "SELECT count(*) AS n FROM _committed WHERE gate IS NOT NULL"),
        histograms=_histograms(dataset, rules),
    )


def sample_clips(
    dataset: Dataset, *, num_kept: int, num_per_reason: int, compared: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Clips for the contact sheets: written ones, spread over the sources, the same every time.

    Args:
        dataset: Whose clips.
        num_kept: At most so many kept ones.
        num_per_reason: At most so many dropped for one reason.
        compared: Expressions whose values are added under `values`.
    """
    chosen = dataset.sql(
        f"""
        WITH ranked AS (
            SELECT clip_id, verdict, reason, source, row_number() OVER (
                PARTITION BY verdict, reason, source ORDER BY clip_id) AS place
            FROM _decided WHERE gate IS NULL
        ), numbered AS (
            SELECT *, row_number() OVER (
                PARTITION BY verdict, reason ORDER BY place, source, clip_id) AS number
            FROM ranked WHERE place <= {max(num_kept, num_per_reason)}
        )
        SELECT clip_id, number FROM numbered
        WHERE number <= CASE WHEN verdict = 'drop' THEN {num_per_reason} ELSE {num_kept} END
        ORDER BY verdict, reason, number"""
    )
    numbers = dict(zip(*(column.to_pylist() for column in chosen.columns), strict=True))
    rows = {row["clip_id"]: row for row in clips_of(dataset, list(numbers), compared)}
    return [{**rows[clip_id], "number": number} for clip_id, number in numbers.items()]


def clips_of(
    dataset: Dataset, clip_ids: Sequence[str], compared: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Whole rows of a few clips, scores included, in any order; `compared` as for the samples."""
    values = "".join(f", {finite(sql)} AS value_{i}" for i, sql in enumerate(compared))
    listed = ", ".join(f"'{clip_id}'" for clip_id in clip_ids) or "NULL"
    rows = _rows(dataset, f"SELECT *{values} FROM clips WHERE clip_id IN ({listed})")
    for row in rows:
        row["values"] = {sql: row.pop(f"value_{i}") for i, sql in enumerate(compared)}
    return rows


def kept_copies(
    dataset: Dataset, rule: Mapping[str, str], clips: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Of clips that the duplicate rule dropped: `uri` and `start_s` of the kept one, by clip_id."""
    listed = ", ".join(f"'{c['clip_id']}'" for c in clips if c["reason"] == "near_duplicate")
    if not listed or not is_bound(dataset, f"({rule['cluster']})"):
        return {}
    members = f"SELECT clip_id, uri, start_s, verdict, ({rule['cluster']}) AS cluster FROM clips"
    rows = _rows(
        dataset,
        f"""
        SELECT c.clip_id, k.uri, k.start_s FROM ({members}) AS c JOIN ({members}) AS k
            ON k.cluster = c.cluster AND k.verdict = 'keep'
        WHERE c.clip_id IN ({listed})""",
    )
    return {row["clip_id"]: row for row in rows}


def _rules(dataset: Dataset, recipe: Mapping[str, Any]) -> tuple[RuleText, ...]:
    """The gates the dataset was made with, then the rules of the recipe."""
    gates = {gate.name: asdict(gate) for gate in dataset.settings.gates}
    for name, rule in (recipe.get("gates") or {}).items():
        if name in gates and isinstance(rule, Mapping):
            gates[name]["why"] = rule.get("why", "")
    rules = [
        _rule_text(dataset, name, rule, is_gate=is_gate)
        for rules, is_gate in ((gates, True), (recipe.get("keep") or {}, False))
        for name, rule in rules.items()
    ]
    return _with_true_trees(dataset, rules)


def _with_true_trees(dataset: Dataset, rules: Sequence[RuleText]) -> tuple[RuleText, ...]:
    """Leave a predicate whole if what was made of its parts says anything else of any clip.

    SQL that is taken apart and put together again may lose a bracket; then it has no thresholds.
    """
    differences = [
        f"(({rule.keep_when})::BOOLEAN) IS DISTINCT FROM ({rebuilt(rule.tree)}::BOOLEAN)"
        for rule in rules
    ]
    is_whole = [not is_bound(dataset, difference) for difference in differences]
    asked = [
        f"count_if({'false' if whole else difference}) AS n{i}"
        for i, (difference, whole) in enumerate(zip(differences, is_whole, strict=True))
    ]
    counts = _rows(dataset, f"SELECT {', '.join(asked)} FROM clips")[0].values() if asked else ()
    return tuple(
        replace(rule, tree=Opaque(sql=rule.keep_when)) if whole or count else rule
        for rule, whole, count in zip(rules, is_whole, counts, strict=True)
    )


def _rule_text(
    dataset: Dataset, name: str, rule: str | Mapping[str, Any], *, is_gate: bool
) -> RuleText:
    fields = {"keep_when": rule} if isinstance(rule, str) else rule
    text = closed(str(fields["keep_when"]))
    return RuleText(
        name=name,
        keep_when=text,
        is_gate=is_gate,
        on_missing=fields.get("on_missing", "fail"),
        tree=parse(dataset, text),
        why=" ".join(str(fields.get("why", "")).split()),
    )


def threshold_keys(rule: RuleText, rules: Sequence[RuleText]) -> list[str]:
    """How the page's address names the thresholds of a rule: `dark`, then `dark.2`, ..."""
    is_taken = rule.is_gate and any(r.name == rule.name for r in rules if not r.is_gate)
    prefix = f"gate.{rule.name}" if is_taken else rule.name
    number = sum(1 for _ in rule.comparisons())
    return [prefix if i == 0 else f"{prefix}.{i + 1}" for i in range(number)]


def _histograms(dataset: Dataset, rules: Sequence[RuleText]) -> list[Histogram]:
    """One per measure; those that a rule cuts come first, in the order of the rules."""
    cuts: dict[str, list[Threshold]] = {}
    for rule in rules:
        for key, (sql, operator, value) in zip(
            threshold_keys(rule, rules), rule.comparisons(), strict=True
        ):
            cut = Threshold(
                key=key, rule=rule.name, is_gate=rule.is_gate, operator=operator, value=value
            )
            cuts.setdefault(sql, []).append(cut)
    known = set(dataset.relation("clips", verdict="all").columns)
    named = {
        name: (name, m.unit, m.description)
        for name, m in MEASURES.items()
        if name in known and m.type != "list<int64>"
    }
    everything = {**_FACTS, **named}
    for sql, found in cuts.items():
        if sql not in everything and is_bound(dataset, f"CAST({sql} AS DOUBLE)"):
            table, _, column = sql.replace('"', "").partition(".")
            about = (
                f"Column {column} of the score table {table}."
                if table in dataset.scores
                else f"What rule {found[0].rule} compares."
            )
            everything[sql] = (sql, "", about)
    order = [*(sql for sql in cuts if sql in everything)]
    order += [sql for sql in everything if sql not in cuts]
    return _drawn(dataset, [(sql, everything[sql], tuple(cuts.get(sql, ()))) for sql in order])


def finite(sql: str) -> str:
    """An expression as a number; infinity and NaN as the largest number, which compares alike.

    Tables hold neither, but a division may give one.
    """
    value = f"CAST({sql} AS DOUBLE)"
    if _COLUMN.fullmatch(sql):
        return value
    return (
        f"CASE WHEN isfinite({value}) THEN {value} WHEN {value} > 0 THEN {_ENDLESS} "
        f"WHEN {value} < 0 THEN -{_ENDLESS} END"
    )


def is_bound(dataset: Dataset, sql: str) -> bool:
    """Whether expressions can be evaluated for each clip: their score table may not be there."""
    try:
        dataset.sql(f"SELECT {sql} FROM clips LIMIT 0")
    except DatasetError:
        return False
    return True


def _drawn(
    dataset: Dataset,
    asked: Sequence[tuple[str, tuple[str, str, str], tuple[Threshold, ...]]],
) -> list[Histogram]:
    """Histograms of what has values, in two passes over the clips for all of them together."""
    ranges = _ranges(dataset, [sql for sql, _, _ in asked])
    drawn, bins_sql = [], []
    for (sql, (name, unit, description), cuts), found in zip(asked, ranges, strict=True):
        if found["low"] is None:
            continue
        values = [cut.value for cut in cuts]
        low, high = _range(found["low"], found["high"], found["most"], values)
        if unit == "ratio" and found["high"] <= 1.0 < high and all(v <= 1.0 for v in values):
            low, high = (low if low < 1.0 else 0.0), 1.0
        place = f"(({finite(sql)}) - {low!r}) / {high - low!r} * {NUM_BINS}"
        bins_sql.append(f"CAST(greatest(0, least({NUM_BINS - 1}, floor({place}))) AS INTEGER)")
        histogram = Histogram(
            name=name,
            sql=sql,
            unit=unit,
            description=description,
            low=low,
            high=high,
            has_beyond=found["high"] > high,
            num_missing=found["missing"],
            bins=(),
            thresholds=cuts,
        )
        drawn.append(histogram)
    bins = _bins(dataset, bins_sql)
    return [replace(histogram, bins=bins[i]) for i, histogram in enumerate(drawn)]


def _ranges(dataset: Dataset, expressions: Sequence[str]) -> list[dict[str, Any]]:
    """Lowest and highest value of each, where nearly all of them end, and how many are missing.

    Where nearly all end is told by an even sample of the clips: those whose ids begin low.
    """
    num_clips = _count(dataset, "SELECT count(*) AS n FROM _committed")
    share = min(1.0, NUM_RANGED / max(1, num_clips))
    drawn = f"WHERE clip_id < '{round(share * 0xFFFFFF):06x}g'"
    where = f"FILTER (abs({{v}}) < {_ENDLESS})"
    ends = _of_each(dataset, expressions, f"approx_quantile({{v}}, 0.995) {where}", drawn)
    limits = (
        f"struct_pack(low := min({{v}}) {where}, high := max({{v}}) {where}, "
        "missing := count(*) - count({v}))"
    )
    found = _of_each(dataset, expressions, limits)
    return [
        {**limit, "most": limit["high"] if most is None else most}
        for limit, most in zip(found, ends, strict=True)
    ]


def _of_each(
    dataset: Dataset, expressions: Sequence[str], aggregate: str, where: str = ""
) -> list[Any]:
    """An aggregate of the value `{v}` of each expression, over all clips or some."""
    values = [f"{finite(sql)} AS v{i}" for i, sql in enumerate(expressions)]
    asked = [f"{aggregate.format(v=f'v{i}')} AS s{i}" for i in range(len(expressions))]
    query = f"SELECT {', '.join(asked)} FROM (SELECT {', '.join(values)} FROM clips {where})"
    (row,) = _rows(dataset, query)
    return list(row.values())


def _bins(dataset: Dataset, bins_sql: Sequence[str]) -> list[tuple[tuple[int, ...], ...]]:
    """Clips of each group (as `GROUPS`) in each bin, for each expression that gives a bin.

    Counted here, some clips at a time: in SQL it would be one row per clip and expression.
    """
    if not bins_sql:
        return []
    num_groups, shape = len(GROUPS), (NUM_BINS + 1, len(GROUPS))
    counts = np.zeros((len(bins_sql), *shape), np.int64)  # the last bin has those without a value
    group = f"list_position({list(GROUPS)}, {_GROUP}) - 1"
    named = ", ".join(
        f"coalesce(greatest(0, {sql}), {NUM_BINS})::USMALLINT AS b{i}"
        for i, sql in enumerate(bins_sql)
    )
    query = f"SELECT ({group})::USMALLINT AS place, {named} FROM clips"
    for batch in dataset.connection().sql(query).to_arrow_reader(_ROWS_AT_ONCE):
        place, *bins = (column.to_numpy() for column in batch.columns)
        for into, found in zip(counts, bins, strict=True):
            cells = np.bincount(found * num_groups + place, minlength=into.size)
            into += cells.reshape(shape)
    return [tuple(map(tuple, table[:NUM_BINS].tolist())) for table in counts]


def _range(low: float, high: float, most: float, cuts: Sequence[float]) -> tuple[float, float]:
    """Edges that hold nearly all values and every threshold; zero when it is near."""
    low = min([low, *cuts])
    right = min(high, most * 1.25) if most > 0 else high
    right = max([right, *(cut + 0.15 * abs(cut) for cut in cuts)])
    if low > 0 and low < 0.5 * right:
        low = 0.0
    if low == right == 0:
        right = 1.0
    if right <= low:
        margin = abs(low) * 0.1 or 0.5
        low, right = low - margin, right + margin
    return low, right


def _rows(dataset: Dataset, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dataset.sql(query).to_pylist()
    return found


def _count(dataset: Dataset, query: str) -> int:
    return int(_rows(dataset, query)[0]["n"])
