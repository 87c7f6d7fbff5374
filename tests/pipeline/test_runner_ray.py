"""The Ray engine against the inline one, with workers that die, hang and misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.errors import EgodojoError, UsageError
from pipeline import run_ray, testing_work
from pipeline.runner import run_units

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
HOME = Path(__file__).resolve().parents[2]


def test_ray_gives_what_inline_gives() -> None:
    units = [*"abcdefgh", "raise"]
    inline = run_units(testing_work.misbehave, units, engine="inline")
    on_ray = run_units(testing_work.misbehave, units)
    assert {(o.unit, o.kind, o.result, o.error) for o in on_ray} == {
        (o.unit, o.kind, o.result, o.error) for o in inline
    }


def test_units_that_kill_or_block_their_worker_end_alone() -> None:
    units = ["a", "sigkill", "hang", "segv", "b", "exit", "memory", "raise", "c"]
    found = {o.unit: o for o in run_units(testing_work.misbehave, units, timeout_s=2)}
    kinds = {unit: (outcome.kind, outcome.attempts) for unit, outcome in found.items()}
    assert kinds == {
        "a": ("ok", 1),
        "b": ("ok", 1),
        "c": ("ok", 1),
        "raise": ("raised", 1),
        "sigkill": ("died", 2),
        "segv": ("died", 2),
        "exit": ("died", 2),
        "memory": ("died", 2),
        "hang": ("timeout", 2),
    }
    assert found["hang"].error == "stopped after its time limit of 2 s"
    assert (found["sigkill"].error or "").startswith("its worker process died")


def test_a_unit_that_dies_once_succeeds_at_its_second_attempt(tmp_path: Path) -> None:
    (outcome,) = run_units(testing_work.die_once, [str(tmp_path / "mark")])
    assert (outcome.kind, outcome.result, outcome.attempts) == ("ok", "second", 2)


def test_units_are_handed_out_in_order_and_never_far_ahead() -> None:
    pulled: list[int] = []

    def units() -> Iterator[int]:
        for n in range(12):
            pulled.append(n)
            yield n

    seen = []
    for outcome in run_units(testing_work.double, units(), slots=1):
        seen.append(outcome.unit)
        assert len(pulled) <= len(seen) + 1
    assert seen == list(range(12))


def test_workers_with_state_keep_it_and_are_replaced_when_they_die() -> None:
    job = {"slots": 1, "attempts": 1, "timeout_s": 2, "setup": testing_work.make_counter}
    units = ["a", "b", "sigkill", "c", "hang", "d"]
    outcomes = run_units(testing_work.tagged, units, **job)  # type: ignore[arg-type]
    found = {o.unit: o for o in outcomes}
    assert {u: o.kind for u, o in found.items()} == {
        **dict.fromkeys("abcd", "ok"),
        "sigkill": "died",
        "hang": "timeout",
    }
    assert found["b"].result[:2] == (found["a"].result[0], 2)
    assert found["c"].result[1] == 1  # a new worker, a new state
    assert found["c"].result[0] != found["a"].result[0]


def test_a_broken_setup_ends_the_run_with_its_own_error() -> None:
    with pytest.raises(EgodojoError, match="no weights at 'nowhere'") as caught:
        list(run_units(testing_work.tagged, ["a"], setup=testing_work.broken_setup))
    assert caught.value.hint == "Train them first."


def test_an_answer_that_cannot_travel_is_an_error_of_its_unit() -> None:
    (outcome,) = run_units(testing_work.unpicklable, [3])
    assert (outcome.kind, outcome.attempts) == ("raised", 1)
    assert "cannot pickle" in (outcome.error or "")


def test_leaving_early_stops_the_rest_and_keeps_the_callers_ray() -> None:
    import ray

    outcomes = run_units(testing_work.misbehave, ["a", "hang", "hang"], slots=3, num_cpus=0.5)
    assert next(outcomes).unit == "a"
    outcomes.close()  # type: ignore[attr-defined]
    assert ray.is_initialized()
    (outcome,) = run_units(testing_work.double, [4])
    assert outcome.result == 8


def test_a_unit_larger_than_every_node_is_refused() -> None:
    with pytest.raises(UsageError, match="A unit needs 9999 CPU, but the largest Ray node has"):
        list(run_units(testing_work.double, [1], num_cpus=9999))


def test_an_address_nobody_answers_at_is_named() -> None:
    with pytest.raises(EgodojoError, match="No Ray cluster answers at RAY_ADDRESS=127"):
        run_ray._check_address("127.0.0.1:1")
    with pytest.raises(UsageError, match="is a Ray Client address"):
        run_ray._check_address("ray://somewhere:10001")


def test_a_cluster_that_wants_a_token_is_recognised() -> None:
    hidden = ConnectionError("Failed to connect")
    hidden.__cause__ = RuntimeError("ray.exceptions.AuthenticationError: InvalidAuthToken")
    assert run_ray._wants_token(hidden)
    assert not run_ray._wants_token(ConnectionError("Failed to connect"))


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pipeline import testing_work
from pipeline.runner import run_units
for outcome in run_units(testing_work.misbehave, ["sigkill", "a", "hang", "hang"], attempts=1):
    print(outcome.unit, outcome.kind, flush=True)
"""


def test_ctrl_c_stops_cleanly_and_ray_writes_nothing_into_our_output() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HOME,
        env=environment,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        first = sorted(child.stdout.readline().strip() for _ in range(2))
        assert first == ["a ok", "sigkill died"]
        started = time.perf_counter()
        os.killpg(child.pid, signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert stdout == ""
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert "(raylet)" not in stderr
    assert child.returncode != 0
    assert time.perf_counter() - started < 20
    assert not list(Path("/tmp").glob(f"ej-{child.pid}-*"))
