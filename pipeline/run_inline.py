"""One unit after another in this process: for debugging, and the law other engines must match.

There is no time limit and no protection here: a unit that kills its process kills the command.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any

from .outcome import Outcome, Unit, attempt


def run_inline(
    work: Callable[..., Any], units: Iterable[Unit], *, setup: Callable[[], Any] | None = None
) -> Generator[Outcome[Unit], None, None]:
    """Yield the outcome of each unit in the order given; `setup` runs once, before the first."""
    bound: Callable[..., Any] | None = None
    for unit in units:
        if bound is None:
            bound = work if setup is None else partial(work, setup())
        yield attempt(partial(bound, unit)).outcome(unit)
