"""Decide which clips are kept: a recipe's rules as one SQL query over measures and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from .difference import METADATA_KEY, Difference, difference_of
from .errors import ConfigError, DatasetError
from .recipe import DuplicateRule, OnMissing, Recipe

if TYPE_CHECKING:
    import duckdb

    from .dataset import Dataset

_NULL = "NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSummary:
    """What a decision did.

    Attributes:
        recipe: Name of the recipe.
        recipe_digest: Digest of its rules.
        num_clips: Candidate clips, written or not.
        num_kept: Clips kept.
        num_dropped: The others.
        num_changed: Clips whose verdict is not what it was before.
        kept_s: Length of the kept clips in seconds.
        reasons: Dropped clips by gate or rule, most frequent first.
        version: Version of the `decisions` table that holds them; None after a dry run.
        difference: What changed against the last decision; None when this is the first.
    """

    recipe: str
    recipe_digest: str
    num_clips: int
    num_kept: int
    num_dropped: int
    num_changed: int
    kept_s: float
    reasons: dict[str, int]
    version: int | None
    difference: Difference | None


def decide(dataset: Dataset, recipe: Recipe, *, dry_run: bool = False) -> DecisionSummary:
    """Give every committed clip a verdict and put the result in the place of the last decision.

    A gated clip is dropped under its gate. Otherwise the first rule that is not true names the
    reason; the duplicate rule comes last. Decodes nothing: seconds for a million clips.

    Args:
        dataset: Whose clips.
        recipe: The rules.
        dry_run: Write nothing; the summary says what would change.

    Raises:
        ConfigError: Other gates than the dataset was made with, a wrong predicate, or a score
            table that is not there under `on_missing: fail`.
        DatasetError: NULL under `on_missing: fail`.
    """
    if not dry_run:
        dataset.check_writable()
    dataset.refresh()
    _check_gates(dataset, recipe)
    decided = _decided(dataset, recipe)
    _refuse_null(dataset, recipe, decided.column("reason"))
    metadata = {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest,
        "recipe_text": recipe.text,
    }
    last, version = dataset.metadata("decisions").get("recipe"), dataset.versions["decisions"]
    difference = difference_of(decided, recipe=last, version=version) if last else None
    if dry_run:
        return _summary(dataset, recipe, decided, difference, is_written=False)
    if difference is not None:
        metadata[METADATA_KEY] = difference.to_json()
    dataset.replace_decisions(decided.select(["clip_id", "verdict", "reason"]), metadata=metadata)
    return _summary(dataset, recipe, decided, difference, is_written=True)


def check_recipe(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse a recipe that `decide` would refuse, whatever the rows: before hours of work.

    Raises:
        ConfigError: Other gates than the dataset's, a wrong predicate, a missing score table.
    """
    _check_gates(dataset, recipe)
    _query(dataset, recipe)


def _check_gates(dataset: Dataset, recipe: Recipe) -> None:
    if recipe.gates and recipe.gates != dataset.settings.gates:
        raise ConfigError(
            f"Recipe {recipe.name} has other gates than {dataset.path} was made with.",
            hint="Gates decide what was written; leave `gates` out of the recipe to decide over "
            "what is there, or curate into a new dataset.",
        )


def _decided(dataset: Dataset, recipe: Recipe) -> pa.Table:
    """One row per clip; a rule that fails on a clip's values is named."""
    query = _query(dataset, recipe)
    try:
        return dataset.sql(query)
    except DatasetError:
        import duckdb

        con = dataset.connection()
        for rule in recipe.keep:
            try:
                con.sql(f"SELECT count(({rule.keep_when})::BOOLEAN) FROM clips").fetchall()
            except duckdb.Error as error:
                if not _missing_tables(con, rule.keep_when):
                    raise _wrong(rule.name, error) from error
        raise


def _query(dataset: Dataset, recipe: Recipe) -> str:
    con = dataset.connection()
    rules = [(rule.name, rule.keep_when, rule.on_missing) for rule in recipe.keep]
    for name, sql, _ in rules:
        parsed = _parsed(con, sql)
        if parsed["error"]:  # brackets that close ours would reach into the query around it
            raise _wrong(name, parsed["error_message"])
    values = [_bound(con, f"({sql})::BOOLEAN", name, miss) for name, sql, miss in rules]
    cases = []
    for index, (name, _, on_missing) in enumerate(rules):
        cases.append(f"WHEN r{index} IS FALSE THEN '{name}'")
        if on_missing != "keep":
            mark = "?" if on_missing == "fail" else ""
            cases.append(f"WHEN r{index} IS NULL THEN '{mark}{name}'")
    judged = ", ".join(f"{value} AS r{index}" for index, value in enumerate(values))
    cluster, rank, duplicate = _duplicates(con, recipe.near_duplicate)
    return f"""
WITH judged AS (
    SELECT clip_id, gate, verdict AS old, reason AS old_reason, end_s - start_s AS length_s,
        {cluster} AS cluster, {rank} AS rank{", " if judged else ""}{judged}
    FROM clips
), named AS (
    SELECT *, CASE WHEN gate IS NOT NULL THEN gate {" ".join(cases)} END AS why FROM judged
), decided AS (
    SELECT *, CASE
        WHEN why IS NULL AND cluster IS NOT NULL AND row_number() OVER (
            PARTITION BY cluster, why IS NULL ORDER BY rank NULLS LAST, clip_id) > 1
        THEN '{duplicate}' ELSE why END AS reason
    FROM named
)
SELECT clip_id, CASE WHEN reason IS NULL THEN 'keep' ELSE 'drop' END AS verdict,
    reason, old, old_reason, length_s
FROM decided ORDER BY clip_id
"""


def _duplicates(con: duckdb.DuckDBPyConnection, rule: DuplicateRule | None) -> tuple[str, str, str]:
    if rule is None:
        return _NULL, _NULL, ""
    cluster = _bound(con, f"({rule.cluster})", rule.name, rule.on_missing)
    rank = _bound(con, f"({rule.rank})", rule.name, rule.on_missing)
    return cluster, rank, rule.name


def _bound(
    con: duckdb.DuckDBPyConnection, expression: str, name: str, on_missing: OnMissing
) -> str:
    """The expression, or NULL when it only fails for want of a score table that may be missing."""
    import duckdb

    try:
        con.sql(f"SELECT clip_id, {expression} FROM clips LIMIT 0")
    except duckdb.Error as error:
        missing = sorted(_missing_tables(con, expression))
        if missing and on_missing != "fail":
            return _NULL
        if missing:
            raise ConfigError(
                f"Rule {name} needs the score table {missing[0]!r}, which is not there.",
                hint="Compute the scores first, or say `on_missing: keep` or `drop` in the rule.",
            ) from error
        raise _wrong(name, error) from error
    return expression


def _wrong(name: str, error: object) -> ConfigError:
    return ConfigError(
        f"Rule {name} cannot be evaluated: {' '.join(str(error).split())}",
        hint="Rules are SQL over the columns of clips and <score>.<column>.",
    )


def _missing_tables(con: duckdb.DuckDBPyConnection, expression: str) -> set[str]:
    known = set(con.sql("SELECT * FROM clips LIMIT 0").columns)
    references = _references(_parsed(con, expression))
    return {names[0] for names in references if len(names) > 1 and names[0] not in known}


def _parsed(con: duckdb.DuckDBPyConnection, expression: str) -> dict[str, Any]:
    found = con.sql("SELECT json_serialize_sql($1)", params=[f"SELECT {expression}"])
    tree: dict[str, Any] = json.loads(found.fetchall()[0][0])
    return tree


def _references(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            yield node["column_names"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _references(child)


def _refuse_null(dataset: Dataset, recipe: Recipe, reasons: pa.ChunkedArray) -> None:
    for rule in recipe.keep:
        num_clips = pc.sum(pc.equal(reasons, f"?{rule.name}")).as_py()
        if num_clips:
            raise DatasetError(
                f"Rule {rule.name} ({rule.keep_when}) has no value for {num_clips} clips "
                f"of {dataset.path}.",
                hint="Compute what is missing, or say `on_missing: keep` or `drop` in the rule.",
            )


def _summary(
    dataset: Dataset,
    recipe: Recipe,
    decided: pa.Table,
    difference: Difference | None,
    *,
    is_written: bool,
) -> DecisionSummary:
    is_kept = pc.equal(decided.column("verdict"), "keep")
    is_same = pc.equal(decided.column("verdict"), decided.column("old"))
    dropped = decided.filter(pc.invert(is_kept))
    counted = dropped.group_by("reason").aggregate([("clip_id", "count")]).to_pylist()
    counts = {row["reason"]: row["clip_id_count"] for row in counted}
    return DecisionSummary(
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        num_clips=decided.num_rows,
        num_kept=decided.num_rows - dropped.num_rows,
        num_dropped=dropped.num_rows,
        num_changed=decided.num_rows - (pc.sum(is_same).as_py() or 0),
        kept_s=pc.sum(decided.filter(is_kept).column("length_s")).as_py() or 0.0,
        reasons=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        version=dataset.versions["decisions"] if is_written else None,
        difference=difference,
    )
