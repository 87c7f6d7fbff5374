"""The Ray engine: tasks, or actors when a worker keeps state, under a small driver of our own.

Ray is a place to run processes; attempts, time limits and accounting are ours. A unit is a stream
of two items, "started" and its answer, so that a time limit counts from the real start.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from manifests.errors import EgodojoError, UsageError

from .outcome import Attempt, Outcome, Unit, describe
from .ray_worker import make_worker
from .runner import available_cpus

log = logging.getLogger(__name__)
NO_RAY_HINT = "Run 'egodojo doctor', or use --inline to work without Ray."
TOKEN_HINT = (
    "The cluster wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless "
    "~/.ray/auth_token holds it."
)
OBJECT_STORE_BYTES = 128 * 2**20  # units and rows only; frames never go through it
POLL_S = 0.5
CONNECT_TIMEOUT_S = 5.0
STALE_FOLDER_S = 120.0  # a killed driver's Ray needs some ten seconds to notice
KILL_WAIT_S = 5.0  # an attempt that outlives it does no harm: it shares no file with another
NO_START_WARNING_S = 30.0
COUNT_SLOTS_EVERY_S = 10.0
# An overloaded machine is slow, not dead: without this Ray gives up its only node, and the driver
# with it, when a busy laptop does not answer for a minute.
PATIENT = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What to run and within which bounds; the fields are the arguments of `run_units`.

    Attributes:
        timeout_s: Gives the limit of a unit.
    """

    work: Callable[..., Any]
    setup: Callable[[], Any] | None
    slots: int | None
    attempts: int
    timeout_s: Callable[[Any], float]
    num_cpus: float
    num_gpus: float


@contextmanager
def ray_started(*, num_cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of the block; does nothing where it already runs, stops what it started.

    A cluster named by RAY_ADDRESS is joined; otherwise one is started on this machine, never one
    that happens to be found running.

    Raises:
        EgodojoError: No cluster answers at RAY_ADDRESS, or Ray does not start here.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    folder = _session_folder() if address == "local" else None
    try:
        _connect(address, folder=folder, num_cpus=num_cpus)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def run_on_ray(job: RayJob, units: Iterable[Unit]) -> Generator[Outcome[Unit], None, None]:
    """Yield outcomes as units finish; leaving early stops whatever is in flight."""
    with ray_started():
        workers: _Workers = _Actors(job) if job.setup is not None else _Tasks(job)
        driver = _Driver(job=job, workers=workers, slots=_slots(job), queue=iter(units))
        try:
            yield from driver.outcomes()
        finally:
            driver.close()


# --- the driver ------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class _Flight:
    """One attempt that is under way."""

    unit: Any
    attempts: int
    stream: Any
    actor: Any = None
    started_at: float | None = None


class _Workers(Protocol):
    """Where attempts run: pooled tasks or our own actors."""

    def launch(self, unit: Any, attempts: int) -> _Flight: ...
    def stop(self, flight: _Flight, deadline: float) -> None: ...
    def release(self, flight: _Flight, *, is_alive: bool) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Driver:
    """Keeps `slots` attempts in flight, ends those past their limit, counts the rest.

    Nodes may come and go: how many attempts the cluster holds is asked again now and then.
    """

    job: RayJob
    workers: _Workers
    slots: int
    queue: Iterator[Any]
    retries: deque[tuple[Any, int]] = field(default_factory=deque)
    flights: dict[Any, _Flight] = field(default_factory=dict)
    waiting_since: float = field(default_factory=time.monotonic)
    counted_at: float = field(default_factory=time.monotonic)

    def outcomes(self) -> Iterator[Outcome[Any]]:
        self._fill()
        while self.flights:
            finished = self._step()
            self._fill()  # before handing out, so that a slow caller leaves no slot idle
            yield from finished

    def close(self) -> None:
        deadline = time.monotonic() + KILL_WAIT_S
        for flight in self.flights.values():
            self.workers.stop(flight, deadline)
        self.flights.clear()
        self.workers.close()

    def _fill(self) -> None:
        self._count_slots()
        while len(self.flights) < self.slots:
            if self.retries:
                unit, attempts = self.retries.popleft()
            else:
                try:
                    unit, attempts = next(self.queue), 0
                except StopIteration:
                    return
            flight = self.workers.launch(unit, attempts + 1)
            self.flights[flight.stream] = flight

    def _count_slots(self) -> None:
        if time.monotonic() - self.counted_at < COUNT_SLOTS_EVERY_S:
            return
        with suppress(UsageError):  # no node is large enough just now: one may come back
            self.slots = _slots(self.job)
        self.counted_at = time.monotonic()

    def _step(self) -> list[Outcome[Any]]:
        """Wait a little for news, then look at every attempt that has some or is late."""
        ready, _ = ray.wait(list(self.flights), num_returns=1, timeout=POLL_S, fetch_local=False)
        found = [self._advance(self.flights[stream]) for stream in ready]
        now = time.monotonic()
        for flight in list(self.flights.values()):
            if flight.started_at is None:
                continue
            if now - flight.started_at > self.job.timeout_s(flight.unit):
                found.append(self._stop_late(flight))
        if any(flight.started_at is not None for flight in self.flights.values()):
            self.waiting_since = now
        elif now - self.waiting_since > NO_START_WARNING_S:
            log.warning("Still waiting for free CPUs on the Ray cluster.")
            self.waiting_since = now
        return [outcome for outcome in found if outcome is not None]

    def _advance(self, flight: _Flight) -> Outcome[Any] | None:
        """Read the next item of an attempt's stream."""
        try:
            word, value = ray.get(next(flight.stream))
        except RayTaskError as error:  # the answer could not be sent, for instance
            return self._finish(flight, Attempt(error=describe(error.cause), kind="raised"))
        except (RayError, StopIteration) as error:
            return self._lose(flight, kind="died", error=_why_died(error))
        if word == "started":
            flight.started_at = time.monotonic()
            return None
        if word == "answer":
            if value.kind == "died":
                return self._lose(flight, kind="died", error=value.error, is_alive=True)
            return self._finish(flight, value)
        if word == "foreign":
            raise EgodojoError(value, hint="Install the same egodojo on every node, then rerun.")
        raise pickle.loads(value)  # "refused": no unit can work, so the run ends

    def _stop_late(self, flight: _Flight) -> Outcome[Any] | None:
        self.workers.stop(flight, time.monotonic() + KILL_WAIT_S)
        error = f"stopped after its time limit of {self.job.timeout_s(flight.unit):g} s"
        return self._lose(flight, kind="timeout", error=error)

    def _finish(self, flight: _Flight, answer: Attempt) -> Outcome[Any]:
        del self.flights[flight.stream]
        self.workers.release(flight, is_alive=True)
        return answer.outcome(flight.unit, flight.attempts)

    def _lose(
        self, flight: _Flight, *, kind: Any, error: str, is_alive: bool = False
    ) -> Outcome[Any] | None:
        """The attempt is gone: try the unit again, or give it back when its attempts are spent."""
        del self.flights[flight.stream]
        self.workers.release(flight, is_alive=is_alive)
        if flight.attempts < self.job.attempts:
            log.info("attempt %d of a unit: %s; trying again", flight.attempts, error)
            self.retries.append((flight.unit, flight.attempts))
            return None
        seconds = time.monotonic() - flight.started_at if flight.started_at else 0.0
        return Outcome(
            unit=flight.unit, error=error, kind=kind, attempts=flight.attempts, seconds=seconds
        )


def _why_died(error: BaseException) -> str:
    if isinstance(error, OutOfMemoryError):
        return "its worker was stopped by Ray because the machine ran out of memory"
    return f"its worker process died ({type(error).__name__})"


class _Tasks:
    """One Ray task per attempt, in Ray's own pool of worker processes."""

    def __init__(self, job: RayJob) -> None:
        self.job = ray.put(_dump((job.work, None)))
        self.call = ray.remote(
            num_cpus=job.num_cpus, num_gpus=job.num_gpus, max_retries=0, num_returns="streaming"
        )(make_worker())

    def launch(self, unit: Any, attempts: int) -> _Flight:
        stream = self.call.remote(self.job, _dump(unit))
        return _Flight(unit=unit, attempts=attempts, stream=stream)

    def stop(self, flight: _Flight, deadline: float) -> None:
        ray.cancel(flight.stream, force=True)
        _wait_for_end(flight.stream, deadline)

    def release(self, flight: _Flight, *, is_alive: bool) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing to end."""


class _Actors:
    """Long-lived workers, each with the state that `setup` made; a dead one is replaced."""

    def __init__(self, job: RayJob) -> None:
        self.job = ray.put(_dump((job.work, job.setup)))
        self.idle: list[Any] = []
        run = make_worker()

        class Worker:
            def run(self, job: bytes, unit: bytes) -> Iterator[tuple[str, Any]]:
                yield from run(job, unit)

        self.new: Any = ray.remote(
            num_cpus=job.num_cpus, num_gpus=job.num_gpus, max_restarts=0, max_task_retries=0
        )(Worker)

    def launch(self, unit: Any, attempts: int) -> _Flight:
        actor = self.idle.pop() if self.idle else self.new.remote()
        stream = actor.run.options(num_returns="streaming").remote(self.job, _dump(unit))
        return _Flight(unit=unit, attempts=attempts, stream=stream, actor=actor)

    def stop(self, flight: _Flight, deadline: float) -> None:
        ray.kill(flight.actor)
        _wait_for_end(flight.stream, deadline)

    def release(self, flight: _Flight, *, is_alive: bool) -> None:
        if is_alive:
            self.idle.append(flight.actor)

    def close(self) -> None:
        for actor in self.idle:
            ray.kill(actor)
        self.idle.clear()


def _dump(value: Any) -> bytes:
    """Pickle for a worker, functions of scripts and notebooks included."""
    data: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return data


def _wait_for_end(stream: Any, deadline: float) -> None:
    """Return when a stopped attempt has really ended, so that two never write at once.

    `next(stream)` alone can block for ever on an attempt that never began.
    """
    while (left := deadline - time.monotonic()) > 0:
        ready, _ = ray.wait([stream], timeout=min(left, POLL_S), fetch_local=False)
        if not ready:
            continue
        try:
            ray.get(next(stream), timeout=left)
        except (RayError, StopIteration, GetTimeoutError):
            return


# --- starting Ray -----------------------------------------------------------------------------


def _connect(address: str, *, folder: str | None, num_cpus: int | None) -> None:
    """Start or join Ray without its usual chatter."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": False,
        "configure_logging": False,
    }
    if address == "local":
        options |= {
            "num_cpus": num_cpus or available_cpus(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": folder,
            "_system_config": PATIENT,
        }
    else:
        _check_address(address)
    try:
        with _silent_listener(), _own_sigterm():
            ray.init(**options)
    except Exception as error:  # a bare one when a busy machine takes more than 30 s to start it
        where = "on this machine" if address == "local" else f"at RAY_ADDRESS={address}"
        raise EgodojoError(
            f"Ray does not start {where}: {describe(error)}",
            hint=TOKEN_HINT if _wants_token(error) else NO_RAY_HINT,
        ) from error


def _wants_token(error: BaseException | None) -> bool:
    """Whether a cluster refused us for want of its token; Ray hides that three causes deep."""
    while error is not None:
        if "AuthenticationError" in f"{type(error).__name__} {error}":
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_address(address: str) -> None:
    """Refuse an address nobody answers at, within seconds rather than after Ray's own minute."""
    if address.startswith("ray://"):
        raise UsageError(
            f"RAY_ADDRESS={address} is a Ray Client address, which cannot stop a stuck unit.",
            hint="Run the command on a node of the cluster, with RAY_ADDRESS=HOST:6379.",
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return  # 'auto' and the like
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise EgodojoError(
            f"No Ray cluster answers at RAY_ADDRESS={address} ({error}).",
            hint="Start it (ray start --head), or unset RAY_ADDRESS to use this machine alone.",
        ) from error


@contextmanager
def _silent_listener() -> Iterator[None]:
    """Keep Ray from printing worker deaths on stdout, where our results go; we report them.

    Ray offers no switch: `log_to_driver=False` does not reach this thread.
    """
    module = importlib.import_module("ray._private.worker")
    loud = getattr(module, "listen_error_messages", None)
    if loud is None:
        yield
        return
    module.listen_error_messages = lambda worker, threads_stopped: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.listen_error_messages = loud  # type: ignore[attr-defined]


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM, in the place of which a driver's Ray puts its own."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _session_folder() -> str:
    """A new folder with a short path (Ray's sockets lie in it and have at most 107 characters).

    Folders of drivers that were killed are removed on the way.
    """
    parent = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    for old in parent.glob("ej-*-*"):
        pid = old.name.split("-")[1]
        try:
            is_old = time.time() - old.stat().st_mtime > STALE_FOLDER_S
        except OSError:
            continue
        if pid.isdigit() and is_old and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"ej-{os.getpid()}-", dir=parent)


def largest_of_nodes(resource: str) -> float:
    """The most of a resource that one node has, used or not; Ray must be up."""
    return max((node.get(resource, 0.0) for node in _nodes()), default=0.0)


def _nodes() -> list[dict[str, float]]:
    """Resources of the nodes that are alive."""
    return [
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def _slots(job: RayJob) -> int:
    """How many units are worked on at once: as asked for, else what the cluster holds.

    Raises:
        UsageError: Not a single node is large enough; Ray would wait for ever.
    """
    wants = {"CPU": job.num_cpus, "GPU": job.num_gpus}
    nodes = _nodes()
    for name, amount in wants.items():
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if amount > largest:
            raise UsageError(
                f"A unit needs {amount:g} {name}, but the largest Ray node has {largest:g}.",
                hint="Lower what one unit takes, or use a larger machine.",
            )
    held = [
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wants.items() if amount)
        if any(wants.values())
        else available_cpus()
        for node in nodes
    ]
    return job.slots or max(1, sum(held))
