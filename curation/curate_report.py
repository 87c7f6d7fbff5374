"""What a run of `egodojo curate` did, and whether it counts as failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifests.errors import EgodojoError, OverBudgetError
from manifests.storage import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateReport:
    """What a run did.

    Attributes:
        dataset: Its folder.
        inputs: This command's inputs by fate, with those ignored and those that changed.
        stats: Counts of the whole dataset (`manifests.stats`).
        num_units: Units committed by this run.
        seconds: Wall time by stage.
        preview: The page to look at.
        run: The run's record.
        num_failed_allowed: The failure budget in inputs.
    """

    dataset: Location
    inputs: dict[str, Any]
    stats: dict[str, Any]
    num_units: int
    seconds: dict[str, float]
    preview: Location
    run: Location
    num_failed_allowed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = {
            name: getattr(self, name) for name in ("inputs", "stats", "num_units", "seconds")
        }
        paths = {name: str(getattr(self, name)) for name in ("dataset", "preview", "run")}
        return {**paths, **plain, "num_failed_allowed": self.num_failed_allowed}

    def check(self) -> None:
        """Raise when the run as a whole counts as failed.

        Raises:
            EgodojoError: No input was readable.
            OverBudgetError: More inputs failed than the budget allows.
        """
        by_state = self.inputs["by_state"]
        total = sum(by_state.values()) + len(self.inputs["changed"])
        num_lost = by_state.get("unreadable", 0) + len(self.inputs["changed"])
        if num_lost == total:
            raise EgodojoError(
                f"None of the {total} inputs could be read.",
                hint=f"Why: egodojo manifest sql {self.dataset} "
                '"SELECT uri, reason, detail FROM files"',
            )
        num_failed = by_state.get("failed", 0) + by_state.get("quarantined", 0)
        if num_failed > self.num_failed_allowed:
            raise OverBudgetError(
                f"{num_failed} of {total} inputs failed; the budget allows "
                f"{self.num_failed_allowed}.",
                hint=f'Why: egodojo manifest sql {self.dataset} "SELECT uri, reason, detail '
                "FROM files WHERE state IN ('failed', 'quarantined')\"",
            )
