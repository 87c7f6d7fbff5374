"""Decide which clips are kept: a recipe's rules as one SQL query over measures and scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .difference import METADATA_KEY, Difference, difference_of
from .errors import ConfigError, DatasetError
from .recipe import DuplicateRule, OnMissing, Recipe
from .trial import Trial
from .views import quoted, scored_clips

if TYPE_CHECKING:
    import duckdb

    from .dataset import Dataset

_NULL = "NULL"
_ROWS_AT_ONCE = 100_000


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
    reason; the duplicate rule comes last. Decodes nothing: seconds for ten million clips.

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
    _judge(dataset, recipe)
    dataset.sql(_REPEATED)
    counts = dataset.sql(_counts_query(recipe)).to_pylist()
    _refuse_several(dataset, recipe, counts)
    _refuse_null(dataset, recipe, counts)
    last, version = dataset.metadata("decisions").get("recipe"), dataset.versions["decisions"]
    difference = difference_of(counts, recipe=last, version=version) if last else None
    if dry_run:
        return _summary(dataset, recipe, counts, difference, is_written=False)
    con = dataset.connection()
    dataset.replace_decisions(
        lambda: con.sql(_decided(recipe)).to_arrow_reader(_ROWS_AT_ONCE),
        metadata=_metadata(recipe, difference),
    )
    con.close()
    return _summary(dataset, recipe, counts, difference, is_written=True)


def try_decision(dataset: Dataset, recipe: Recipe) -> tuple[DecisionSummary, Trial]:
    """A dry run of `decide`, and the dataset as it would show itself then, held in memory.

    Raises:
        ConfigError, DatasetError: As `decide`.
    """
    summary = decide(dataset, recipe, dry_run=True)
    decisions = dataset.sql(_decided(recipe))
    return summary, Trial(dataset, decisions, _metadata(recipe, summary.difference))


def _metadata(recipe: Recipe, difference: Difference | None) -> dict[str, str]:
    """What the commit of a decision says."""
    found = {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest,
        "recipe_text": recipe.text,
    }
    return found if difference is None else {**found, METADATA_KEY: difference.to_json()}


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


def _judge(dataset: Dataset, recipe: Recipe) -> None:
    """Make the table `_judged`; a rule that fails on a clip's values is named."""
    found = dataset.sql("SELECT DISTINCT reason FROM decisions WHERE reason IS NOT NULL ORDER BY 1")
    query = _query(dataset, recipe, found["reason"].to_pylist())
    try:
        dataset.sql(f"CREATE OR REPLACE TEMP TABLE _judged AS {query}")
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


def _query(dataset: Dataset, recipe: Recipe, last_reasons: Sequence[str] = ()) -> str:
    """Per clip what every rule but the last one says, and where it stands among its duplicates."""
    con = dataset.outline()
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
    judged = "".join(f", {value} AS r{index}" for index, value in enumerate(values))
    cluster, rank = _duplicates(con, recipe.near_duplicate)
    columns = {name: con.sql(f"SELECT * FROM {quoted(name)}").columns for name in dataset.scores}
    used = _used_scores(con, columns, [*values, cluster, rank])
    con.close()
    scores = {name: sorted(fields) or columns[name] for name, fields in used.items()}
    clips = scored_clips(scores, by_field={name for name in used if used[name]})
    return f"""
SELECT clip_id, old, old_reason, length_s, cluster, rank,
    CASE WHEN gate IS NOT NULL THEN gate {" ".join(cases)} END AS why
FROM (
    SELECT clip_id, gate, verdict AS old, reason AS old_reason, end_s - start_s AS length_s,
        {cluster} AS cluster, {rank} AS rank{judged}
    FROM ({_clips_and_last(clips, last_reasons)}) AS clips)
"""


def _clips_and_last(clips: str, reasons: Sequence[str]) -> str:
    """Like the view `clips`, made to be joined in little memory: ten million clips in 2 GB.

    Words go as enumerations, ids as they are: turning them into bytes costs more than it saves.
    The condition that always holds makes DuckDB expect fewer decisions than clips, and so hold
    the narrow decisions in memory for the join instead of the wide clips.
    """
    words = ", ".join("'" + name.replace("'", "''") + "'" for name in reasons)
    reason = f"reason::ENUM({words})" if words else _NULL
    return f"""
SELECT c.*, last.verdict, last.reason
FROM ({clips}) AS c LEFT JOIN (
    SELECT clip_id, verdict::ENUM('keep', 'drop') AS verdict, {reason} AS reason
    FROM decisions WHERE verdict IN ('keep', 'drop')) AS last ON c.clip_id = last.clip_id
"""


# Of the clips that all other rules keep: those that are not the first of their cluster.
_REPEATED = """
CREATE OR REPLACE TEMP TABLE _repeated AS SELECT rowid AS place FROM _judged
WHERE why IS NULL AND cluster IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY cluster ORDER BY rank NULLS LAST, clip_id) > 1
"""


def _reason(recipe: Recipe) -> str:
    if recipe.near_duplicate is None:
        return "why"
    name = recipe.near_duplicate.name
    return f"CASE WHEN rowid IN (SELECT place FROM _repeated) THEN '{name}' ELSE why END"


def _decided(recipe: Recipe) -> str:
    """The rows of `decisions`."""
    return f"""
SELECT clip_id, CASE WHEN reason IS NULL THEN 'keep' ELSE 'drop' END AS verdict, reason
FROM (SELECT clip_id, {_reason(recipe)} AS reason FROM _judged)
"""


def _counts_query(recipe: Recipe) -> str:
    """Clips and seconds by what they were and what they are."""
    return f"""
SELECT reason, old, old_reason, count(*) AS num_clips, round(sum(length_s), 6) AS length_s
FROM (SELECT {_reason(recipe)} AS reason, old, old_reason, length_s FROM _judged)
GROUP BY reason, old, old_reason ORDER BY ALL
"""


def _used_scores(
    con: duckdb.DuckDBPyConnection, known: Mapping[str, Sequence[str]], expressions: Sequence[str]
) -> dict[str, set[str]]:
    """Score tables that some expressions name, with the columns; none: the row as a whole."""
    columns = {name: set(names) for name, names in known.items()}
    used: dict[str, set[str]] = {}
    whole = set()
    for names in _references(_parsed(con, ", ".join(expressions))):
        for name, field in zip(map(str.lower, names), [*names[1:], ""], strict=True):
            if name in columns:
                used.setdefault(name, set()).add(field)
                if field not in columns[name]:
                    whole.add(name)
    return {name: set() if name in whole else fields for name, fields in used.items()}


def _duplicates(con: duckdb.DuckDBPyConnection, rule: DuplicateRule | None) -> tuple[str, str]:
    if rule is None:
        return _NULL, _NULL
    cluster = _bound(con, f"({rule.cluster})", rule.name, rule.on_missing)
    rank = _bound(con, f"({rule.rank})", rule.name, rule.on_missing)
    return cluster, rank


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


def _refuse_several(dataset: Dataset, recipe: Recipe, counts: Sequence[Mapping[str, Any]]) -> None:
    """Some SQL, such as unnest(), makes several rows of one: a clip has one verdict."""
    (known,) = dataset.sql("SELECT count(*) AS clips FROM _committed").to_pylist()
    if sum(row["num_clips"] for row in counts) == known["clips"]:
        return
    for rule in recipe.keep:
        query = f"SELECT count(*) AS clips FROM (SELECT ({rule.keep_when}) AS answer FROM clips)"
        if dataset.sql(query).to_pylist() != [known]:
            raise _wrong(rule.name, "it does not give one answer for each clip.")
    raise _wrong("near_duplicate", "it does not give one answer for each clip.")


def _refuse_null(dataset: Dataset, recipe: Recipe, counts: Sequence[Mapping[str, Any]]) -> None:
    for rule in recipe.keep:
        num_clips = sum(row["num_clips"] for row in counts if row["reason"] == f"?{rule.name}")
        if num_clips:
            raise DatasetError(
                f"Rule {rule.name} ({rule.keep_when}) has no value for {num_clips} clips "
                f"of {dataset.path}.",
                hint="Compute what is missing, or say `on_missing: keep` or `drop` in the rule.",
            )


def _summary(
    dataset: Dataset,
    recipe: Recipe,
    counts: Sequence[Mapping[str, Any]],
    difference: Difference | None,
    *,
    is_written: bool,
) -> DecisionSummary:
    num_clips = num_kept = num_changed = 0
    kept_s, reasons = 0.0, Counter[str]()
    for row in counts:
        verdict = "keep" if row["reason"] is None else "drop"
        num_clips += row["num_clips"]
        num_changed += row["num_clips"] if row["old"] != verdict else 0
        if verdict == "keep":
            num_kept += row["num_clips"]
            kept_s += row["length_s"]
        else:
            reasons[row["reason"]] += row["num_clips"]
    return DecisionSummary(
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        num_clips=num_clips,
        num_kept=num_kept,
        num_dropped=num_clips - num_kept,
        num_changed=num_changed,
        kept_s=kept_s,
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        version=dataset.versions["decisions"] if is_written else None,
        difference=difference,
    )
