"""What a decision changed against the one before: clips gained, clips lost, rule by rule."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset import Dataset

METADATA_KEY = "difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """One rule or gate, before and now.

    Attributes:
        rule: Its name.
        num_before: Clips that the last decision dropped under this name.
        num_now: Clips that this decision drops under it.
        num_gained: Clips that it had dropped and that are kept now.
        gained_s: Their length in seconds.
        num_lost: Clips that were kept and that it drops now.
        lost_s: Their length in seconds.
    """

    rule: str
    num_before: int = 0
    num_now: int = 0
    num_gained: int = 0
    gained_s: float = 0.0
    num_lost: int = 0
    lost_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A decision against the last one; both are versions of the table `decisions`.

    Attributes:
        recipe: Recipe of the last decision.
        version: Version that holds the last decision.
        num_gained: Clips that were dropped and are kept now.
        gained_s: Their length in seconds.
        num_lost: Clips that were kept and are dropped now.
        lost_s: Their length in seconds.
        num_new: Clips that had no verdict yet.
        rules: Every rule that dropped a clip in either decision, most changed first.
    """

    recipe: str
    version: int
    num_gained: int
    gained_s: float
    num_lost: int
    lost_s: float
    num_new: int
    rules: tuple[RuleChange, ...]

    def to_json(self) -> str:
        """Text for the commit of the decision."""
        return json.dumps(asdict(self), separators=(",", ":"))


def difference_of(counts: Iterable[Mapping[str, Any]], *, recipe: str, version: int) -> Difference:
    """Compare verdicts with those before.

    Args:
        counts: `num_clips` and `length_s` by `reason`, `old` (the last verdict) and `old_reason`.
        recipe: Recipe of the last decision.
        version: Version of the table that holds it.
    """
    rules: dict[str, dict[str, Any]] = {}
    totals = {"num_gained": 0, "gained_s": 0.0, "num_lost": 0, "lost_s": 0.0, "num_new": 0}
    for row in counts:
        count, seconds = row["num_clips"], row["length_s"]
        now, before = row["reason"], row["old_reason"]
        if now is not None:
            _add(_rule(rules, now), num_now=count)
        if before is not None:
            _add(_rule(rules, before), num_before=count)
        if row["old"] is None:
            _add(totals, num_new=count)
        elif now is None and before is not None:
            for into in (_rule(rules, before), totals):
                _add(into, num_gained=count, gained_s=seconds)
        elif now is not None and before is None:
            for into in (_rule(rules, now), totals):
                _add(into, num_lost=count, lost_s=seconds)
    changes = [RuleChange(rule=name, **counts) for name, counts in rules.items()]
    changes.sort(key=lambda c: (-c.num_gained - c.num_lost, -c.num_now - c.num_before, c.rule))
    return Difference(recipe=recipe, version=version, rules=tuple(changes), **totals)  # type: ignore[arg-type]


def last_difference(dataset: Dataset) -> Difference | None:
    """What the dataset's present decision changed; None when it was the first."""
    text = dataset.metadata("decisions").get(METADATA_KEY)
    if not text:
        return None
    data: Mapping[str, Any] = json.loads(text)
    rules = tuple(RuleChange(**rule) for rule in data["rules"])
    return Difference(**{**data, "rules": rules})


def _rule(rules: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return rules.setdefault(name, {})


def _add(into: dict[str, Any], **amounts: float) -> None:
    for key, amount in amounts.items():
        into[key] = into.get(key, 0) + amount
