"""Run a pure work function over units: bounded in flight, bounded attempts, a time limit for each.

The inline engine is the specification (one process, one unit after another); the Ray engine must
give the same results. A unit that raises is recorded at once; one that kills its worker or runs
past its limit is tried again, then handed back for `run_isolated`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from manifests.errors import UsageError

from .isolated import run_isolated
from .outcome import Kind, Outcome, Unit

__all__ = [
    "Engine",
    "Kind",
    "Outcome",
    "available_cpus",
    "cluster_has_gpu",
    "engine_started",
    "run_isolated",
    "run_units",
]

Engine = Literal["ray", "inline"]


def run_units(
    work: Callable[..., Any],
    units: Iterable[Unit],
    *,
    engine: Engine = "ray",
    slots: int | None = None,
    attempts: int = 2,
    timeout_s: float | Callable[[Any], float] = 3600.0,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    setup: Callable[[], Any] | None = None,
) -> Generator[Outcome[Unit], None, None]:
    """Yield one outcome per unit, as units finish; they are handed out in the order given.

    Args:
        work: `work(unit) -> result`, or `work(state, unit) -> result` when `setup` is given. It may
            run twice for one unit, so it must be pure or replace its own output.
        units: Read lazily: never more than `slots` ahead of what is finished.
        engine: `inline` runs here, one by one, without a time limit; for debugging. `ray` runs in
            worker processes; it starts Ray on this machine when none is running and stops it again.
        slots: Units in flight. Default: as many as the CPUs (and GPUs) can hold.
        attempts: Starts allowed for a unit whose process dies or runs past its limit.
        timeout_s: Wall time limit of one attempt, counted from the moment its process begins; or
            what gives it for a unit.
        num_cpus: CPUs a unit occupies; fractions are fine.
        num_gpus: GPUs a unit occupies.
        setup: Makes the state that one long-lived worker keeps, for instance a loaded model. Its
            errors end the run.

    Raises:
        UsageError: The arguments cannot work, or no node is large enough for a unit.
        EgodojoError: Ray cannot be reached or its workers run other code.

    Example:
        >>> from pipeline.testing_work import double
        >>> sorted(o.result for o in run_units(double, [1, 2, 3], engine="inline"))
        [2, 4, 6]
    """
    _check(engine=engine, slots=slots, attempts=attempts, timeout_s=timeout_s, num_cpus=num_cpus)
    if engine == "inline":
        from .run_inline import run_inline

        return run_inline(work, units, setup=setup)
    from .run_ray import RayJob, run_on_ray

    job = RayJob(
        work=work,
        setup=setup,
        slots=slots,
        attempts=attempts,
        timeout_s=timeout_s if callable(timeout_s) else lambda unit: timeout_s,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    return run_on_ray(job, units)


def engine_started(engine: Engine, *, num_cpus: int | None = None) -> AbstractContextManager[None]:
    """Keep one engine up over several `run_units`, so that Ray starts only once.

    Args:
        engine: `inline` needs nothing.
        num_cpus: CPUs Ray may use when it is started here; default `available_cpus()`.
    """
    if engine == "inline":
        return nullcontext()
    from .run_ray import ray_started

    return ray_started(num_cpus=num_cpus)


def cluster_has_gpu() -> bool:
    """Whether a node of the cluster that RAY_ADDRESS names has a GPU; False without one.

    Raises:
        EgodojoError: No cluster answers there.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return False
    from .run_ray import largest_of_nodes, ray_started

    with ray_started():
        return largest_of_nodes("GPU") >= 1


def available_cpus() -> int:
    """CPUs this process may use: its affinity mask, cut by the container's quota; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _quota_cpus(count)))


def _quota_cpus(default: int) -> int:
    """CPUs allowed by cgroup version 2 or 1, rounded down; `default` when there is no quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return default if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return quota_us // period_us if quota_us > 0 else default
    except (OSError, ValueError, ZeroDivisionError):
        return default


def _check(
    *,
    engine: str,
    slots: int | None,
    attempts: int,
    timeout_s: float | Callable[[Any], float],
    num_cpus: float,
) -> None:
    if engine not in ("ray", "inline"):
        raise UsageError(f"There is no engine {engine!r}.", hint="Use 'ray' or 'inline'.")
    for name, value, least in (("slots", slots, 1), ("attempts", attempts, 1)):
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}.")
    if not callable(timeout_s) and not timeout_s > 0:
        raise UsageError(f"timeout_s must be positive, not {timeout_s}.")
    if num_cpus < 0:
        raise UsageError(f"num_cpus must not be negative, not {num_cpus}.")
