"""How many samples a training run may fail to read before it stops."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import OverBudgetError

BAD_ALLOWED = 10
"""Bad samples that never stop a run, however short it is."""
MAX_ATTEMPTS = 16
"""Substitutes that are tried in place of one bad sample."""


def check_budget(num_bad: int, num_samples: int, max_ratio: float, record: Path) -> None:
    """Stop a run in which too much of what it should learn from had to be replaced.

    Raises:
        OverBudgetError: More than BAD_ALLOWED samples and more than `max_ratio` of all are bad.
    """
    if num_bad > max(BAD_ALLOWED, max_ratio * num_samples):
        raise OverBudgetError(
            f"{num_bad} of {num_samples} training samples could not be read, more than "
            f"{max_ratio:.2%} and more than {BAD_ALLOWED}; {record} lists them.",
            hint="Look at the datasets with egodojo manifest validate, or raise "
            "loop.max_bad_ratio.",
        )
