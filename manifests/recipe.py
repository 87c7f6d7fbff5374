"""Recipes: named SQL predicates; `gates` decide what is written, `keep` what is seen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from .config import digest, nearest, read_yaml
from .errors import ConfigError

if TYPE_CHECKING:
    import duckdb

OnMissing = Literal["keep", "drop", "fail"]
MIN_FRAMES = 14
MIN_DURATION_S = 0.9
RECIPES_DIR = Path(__file__).parent / "recipes"

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RULE_KEYS = ("keep_when", "on_missing", "why")
_KEYS = ("name", "about", "gates", "keep", "near_duplicate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A named predicate; a clip for which it is false is dropped under the rule's name.

    Attributes:
        name: snake_case; becomes `gate` or `reason`.
        keep_when: SQL over the columns of `clips` and `<score>.<column>`.
        on_missing: What NULL, or a score table that is not there, means.
    """

    name: str
    keep_when: str
    on_missing: OnMissing = "fail"

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ConfigError(f"Rule name {self.name!r} must be snake_case, such as too_small.")
        if not self.keep_when.strip():
            raise ConfigError(f"Rule {self.name} has an empty predicate.")
        if self.on_missing not in get_args(OnMissing):
            raise ConfigError(
                f"Rule {self.name}: on_missing is {self.on_missing!r}, must be keep, drop or fail."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateRule:
    """Keep the best-ranked clip of each cluster, among those that all other rules keep.

    Attributes:
        cluster: SQL for the cluster of a clip; NULL = alone.
        rank: SQL; the smallest is kept, ties go to the smaller clip_id.
        on_missing: What a score table that is not there means; `keep` switches the rule off.
    """

    cluster: str
    rank: str
    on_missing: Literal["keep", "fail"] = "fail"
    name: str = "near_duplicate"

    def __post_init__(self) -> None:
        if self.on_missing not in ("keep", "fail"):
            raise ConfigError(
                f"Rule {self.name}: on_missing is {self.on_missing!r}, must be keep or fail."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to write and what to keep.

    Attributes:
        name: For people.
        gates: Decide what is written.
        keep: Decide what is seen.
        near_duplicate: Looks at what all others keep.
        about: One sentence.
        text: The YAML that a decision's commit records.
        reasons: Why a rule is there, by its name, where the recipe says so.
    """

    name: str
    gates: tuple[Rule, ...] = ()
    keep: tuple[Rule, ...] = ()
    near_duplicate: DuplicateRule | None = None
    about: str = ""
    text: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, rules in (("gates", self.gates), ("keep", self.keep)):
            names = [rule.name for rule in rules]
            if len(set(names)) < len(names):
                raise ConfigError(f"Recipe {self.name}: two {what} have the same name.")

    @property
    def digest(self) -> str:
        """64 hex digits over the rules; reasons, comments and spacing do not matter."""
        return digest({"gates": self.gates, "keep": self.keep, "dup": self.near_duplicate})


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or any recipe file by path.

    Args:
        name_or_path: `egocentric`, or a path that ends in .yaml or .yml.
        sets: `keep.dark=brightness_mean_luma >= 30` replaces or adds a rule,
            `keep.dark=null` removes it.

    Raises:
        ConfigError: No such recipe, unknown key, malformed rule.
    """
    path = _recipe_path(name_or_path)
    data = read_yaml(path)
    text = path.read_text(encoding="utf-8")
    if sets:
        data = _with_sets(data, sets)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return _parse(data, where=str(name_or_path), default_name=path.stem, text=text)


def gate_of(
    gates: Sequence[Rule],
    row: Mapping[str, Any],
    *,
    min_frames: int = MIN_FRAMES,
    min_duration_s: float = MIN_DURATION_S,
) -> str | None:
    """Name of the first gate a clip fails, or None when its bytes are to be written.

    `too_short` is built in and comes first; the rules follow in their order. A measure that is
    absent from `row` counts as NULL. About half a millisecond.

    Args:
        gates: The dataset's gate rules (`settings.gates`).
        row: Columns of `clips`: facts and measures.
        min_frames: Fewer frames are `too_short`.
        min_duration_s: A shorter span, in seconds, is `too_short`.

    Raises:
        ConfigError: A predicate that does not parse, or NULL under `on_missing: fail`.
    """
    duration_s = row["end_s"] - row["start_s"]
    if row["num_frames"] < min_frames or duration_s < min_duration_s - 1e-6:
        return "too_short"
    for rule, value in zip(gates, _evaluate(gates, row, _named_in(gates)), strict=True):
        if value is None and rule.on_missing == "fail":
            raise ConfigError(
                f"Gate {rule.name} ({rule.keep_when}) has no value for clip {row.get('clip_id')}.",
                hint="Say `on_missing: keep` or `drop` for this gate in the recipe.",
            )
        if value is False or (value is None and rule.on_missing == "drop"):
            return rule.name
    return None


def closed(sql: str) -> str:
    """A predicate that can stand in brackets: a comment at its end would swallow the last one."""
    last = sql.rstrip().rpartition("\n")[2]
    return f"{sql.rstrip()}\n" if "--" in last else sql


def check_gates(gates: Sequence[Rule]) -> None:
    """Refuse gates that do not parse or name unknown columns, before any work.

    Raises:
        ConfigError: Names the gate and what is wrong with it.
    """
    _, columns = _evaluator()
    for rule in gates:
        _evaluate((rule,), {}, columns)


def _evaluate(
    gates: Sequence[Rule], row: Mapping[str, Any], columns: Mapping[str, str]
) -> list[bool | None]:
    """What each gate says of a row, of which it may name these columns, with their SQL types."""
    if not gates:
        return []
    con, _ = _evaluator()
    predicates = ", ".join(f"(({rule.keep_when}))::BOOLEAN" for rule in gates)
    sources = ", ".join(f'?::{sql_type} AS "{name}"' for name, sql_type in columns.items())
    import duckdb

    query = f"SELECT {predicates} FROM (SELECT {sources})"
    try:
        found = con.execute(query, [row.get(name) for name in columns]).fetchall()
    except duckdb.Error as error:
        names = ", ".join(rule.name for rule in gates)
        first = " ".join(str(error).split("\n\n")[0].split())
        raise ConfigError(
            f"Gate {names} cannot be evaluated: {first}",
            hint="Gates are SQL over the columns of clips; see docs/formats.md for their names.",
        ) from error
    return list(found[0])


def _named_in(gates: Sequence[Rule]) -> dict[str, str]:
    """The columns whose names occur in gates: to bind the others takes most of a query's time."""
    text = " ".join(rule.keep_when for rule in gates).lower()
    _, columns = _evaluator()
    named = {name: sql_type for name, sql_type in columns.items() if name.lower() in text}
    return named or columns


@lru_cache(maxsize=1)
def _evaluator() -> tuple[duckdb.DuckDBPyConnection, dict[str, str]]:
    """A DuckDB connection, and the SQL type of every column a gate may name."""
    import pyarrow as pa

    from .schema import CLIPS
    from .tables import connect

    con = connect()
    sql_types = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}
    columns = {
        f.name: sql_types.get(f.type, "BOOLEAN") for f in CLIPS if not pa.types.is_list(f.type)
    }
    return con, columns


def _recipe_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path
    shipped = RECIPES_DIR / f"{name_or_path}.yaml"
    if path.name == str(name_or_path) and shipped.is_file():
        return shipped
    raise ConfigError(
        f"There is no recipe {str(name_or_path)!r}.",
        hint=f"{nearest(str(name_or_path), recipe_names())} A file of your own ends in .yaml.",
    )


def _with_sets(data: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    changed = {key: dict(v) if isinstance(v, Mapping) else v for key, v in data.items()}
    for item in sets:
        path, found, text = item.partition("=")
        section, _, name = path.strip().partition(".")
        if not found or section not in {"gates", "keep"} or not name:
            raise ConfigError(
                f"--set {item!r} does not fit a recipe.",
                hint="Write --set keep.NAME='SQL' or --set gates.NAME='SQL'; null removes a rule.",
            )
        rules = changed.setdefault(section, {})
        if text.strip() == "null":
            if rules.pop(name, None) is None:
                raise ConfigError(
                    f"--set {item!r}: there is no rule {name}.", hint=nearest(name, list(rules))
                )
        elif isinstance(rules.get(name), Mapping):
            rules[name] = {**rules[name], "keep_when": text.strip()}
        else:
            rules[name] = text.strip()
    return changed


def _parse(data: Mapping[str, Any], *, where: str, default_name: str, text: str) -> Recipe:
    for key in data:
        if key not in _KEYS:
            raise ConfigError(
                f"Recipe {where}: unknown key {key!r}.", hint=nearest(str(key), _KEYS)
            )
    duplicate = data.get("near_duplicate")
    return Recipe(
        name=str(data.get("name", default_name)),
        about=str(data.get("about", "")),
        gates=_rules(data.get("gates") or {}, where=f"{where}: gates"),
        keep=_rules(data.get("keep") or {}, where=f"{where}: keep"),
        near_duplicate=None if duplicate is None else _duplicate_rule(duplicate, where),
        text=text,
        reasons=_reasons(data),
    )


def _reasons(data: Mapping[str, Any]) -> dict[str, str]:
    """`why` of every rule that has one."""
    rules = {**(data.get("gates") or {}), **(data.get("keep") or {})}
    rules["near_duplicate"] = data.get("near_duplicate")
    return {
        name: " ".join(str(rule["why"]).split())
        for name, rule in rules.items()
        if isinstance(rule, Mapping) and "why" in rule
    }


def _rules(section: Any, *, where: str) -> tuple[Rule, ...]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"Recipe {where} must be a mapping of rule name to SQL predicate.")
    return tuple(_rule(str(name), value, where) for name, value in section.items())


def _rule(name: str, value: Any, where: str) -> Rule:
    if isinstance(value, str):
        return Rule(name=name, keep_when=closed(value))
    if not isinstance(value, Mapping) or "keep_when" not in value:
        raise ConfigError(
            f"Recipe {where}.{name} must be an SQL predicate or a mapping with keep_when.",
            hint="For instance `dark: brightness_mean_luma >= 40`.",
        )
    for key in value:
        if key not in _RULE_KEYS:
            raise ConfigError(
                f"Recipe {where}.{name}: unknown key {key!r}.", hint=nearest(str(key), _RULE_KEYS)
            )
    return Rule(
        name=name,
        keep_when=closed(str(value["keep_when"])),
        on_missing=value.get("on_missing", "fail"),
    )


def _duplicate_rule(value: Any, where: str) -> DuplicateRule:
    allowed = {"cluster", "rank", "on_missing", "why"}
    if not isinstance(value, Mapping) or not {"cluster", "rank"} <= set(value) <= allowed:
        raise ConfigError(
            f"Recipe {where}: near_duplicate needs cluster and rank; it may have on_missing, why.",
            hint="For instance {cluster: clusters.cluster_id, rank: clusters.rank}.",
        )
    return DuplicateRule(
        cluster=closed(str(value["cluster"])),
        rank=closed(str(value["rank"])),
        on_missing=value.get("on_missing", "fail"),
    )
