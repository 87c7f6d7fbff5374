"""Inline and isolated runs: every way a unit can end, without Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from manifests.errors import EgodojoError, SampleError, UsageError
from pipeline import testing_work
from pipeline.outcome import MAX_ERROR_CHARS, describe
from pipeline.ray_worker import make_worker
from pipeline.runner import available_cpus, engine_started, run_isolated, run_units


def test_inline_records_an_exception_and_goes_on() -> None:
    outcomes = list(run_units(testing_work.misbehave, ["a", "raise", "b"], engine="inline"))
    assert [(o.unit, o.kind, o.result) for o in outcomes] == [
        ("a", "ok", "A"),
        ("raise", "raised", None),
        ("b", "ok", "B"),
    ]
    assert outcomes[1].error == "ValueError: a deliberate error"
    assert "misbehave" in (outcomes[1].traceback or "")


def test_inline_makes_the_state_once_and_only_when_needed() -> None:
    made = []

    def setup() -> dict[str, int]:
        made.append(1)
        return {"calls": 0}

    assert list(run_units(testing_work.tagged, [], engine="inline", setup=setup)) == []
    assert made == []
    outcomes = list(run_units(testing_work.tagged, "abc", engine="inline", setup=setup))
    assert [o.result[1:] for o in outcomes] == [(1, "A"), (2, "B"), (3, "C")]
    assert made == [1]


def test_inline_setup_errors_end_the_run() -> None:
    with pytest.raises(EgodojoError, match="no weights at 'nowhere'"):
        list(
            run_units(testing_work.tagged, ["a"], engine="inline", setup=testing_work.broken_setup)
        )


def test_inline_reads_units_lazily() -> None:
    pulled: list[int] = []

    def units() -> Iterator[int]:
        for n in range(100):
            pulled.append(n)
            yield n

    outcomes = run_units(testing_work.double, units(), engine="inline")
    assert next(outcomes).result == 0
    assert pulled == [0]


def test_ctrl_c_passes_through_inline() -> None:
    def interrupt(unit: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_units(interrupt, [1], engine="inline"))


def test_inline_needs_no_engine() -> None:
    with engine_started("inline"):
        assert available_cpus() >= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "spark"}, "There is no engine 'spark'."),
        ({"slots": 0}, "slots must be at least 1, not 0."),
        ({"attempts": 0}, "attempts must be at least 1, not 0."),
        ({"timeout_s": 0}, "timeout_s must be positive, not 0."),
        ({"num_cpus": -1}, "num_cpus must not be negative, not -1."),
    ],
)
def test_impossible_arguments_are_refused_before_any_work(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        run_units(testing_work.double, [1], **options)  # type: ignore[arg-type]


def test_an_error_becomes_one_line_with_its_notes() -> None:
    error = SampleError("The file\n is bad.", reason="bad")
    error.add_note("stage decode, shard 7")
    assert describe(error) == "The file is bad. stage decode, shard 7"
    assert len(describe(ValueError("x" * 9999))) == MAX_ERROR_CHARS
    assert describe(ValueError()) == "ValueError"


def test_isolated_returns_the_result() -> None:
    outcome = run_isolated(testing_work.double, 21)
    assert (outcome.kind, outcome.result, outcome.attempts) == ("ok", 42, 1)


@pytest.mark.parametrize(
    ("unit", "kind", "words"),
    [
        ("raise", "raised", "ValueError: a deliberate error"),
        ("sigkill", "died", "its process was killed by SIGKILL (often: out of memory)"),
        ("segv", "died", "its process was killed by SIGSEGV"),
        ("exit", "died", "its process exited with status 3 before its answer"),
    ],
)
def test_isolated_tells_raised_from_died(unit: str, kind: str, words: str) -> None:
    outcome = run_isolated(testing_work.misbehave, unit)
    assert (outcome.kind, outcome.error) == (kind, words)


@pytest.mark.parametrize("unit", ["hang", "spin"])
def test_isolated_stops_a_unit_at_its_limit(unit: str) -> None:
    started = time.perf_counter()
    outcome = run_isolated(testing_work.misbehave, unit, timeout_s=0.7)
    assert (outcome.kind, outcome.error) == ("timeout", "stopped after its time limit of 0.7 s")
    assert time.perf_counter() - started < 5


def test_isolated_takes_partials_and_reports_results_that_cannot_travel(tmp_path: Path) -> None:
    assert run_isolated(partial(max, 3), 5).result == 5
    outcome = run_isolated(testing_work.unpicklable, 3)
    assert outcome.kind == "raised"
    assert "the result cannot be pickled" in (outcome.error or "")


def test_a_worker_with_other_code_says_so_before_it_imports_any(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "other.py").write_text("x = 1\n")
    words = list(make_worker(str(tmp_path))(b"never read", b"never read"))
    assert words[0] == ("started", None)
    word, sentence = words[1]
    assert word == "foreign"
    assert "has other egodojo code at" in sentence
    assert str(tmp_path) in sentence


def test_memory_that_runs_out_counts_as_a_death(tmp_path: Path) -> None:
    (outcome,) = run_units(testing_work.misbehave, ["memory"], engine="inline")
    assert outcome.kind == "died"
    assert (outcome.error or "").startswith("MemoryError")
    assert run_isolated(testing_work.misbehave, "memory").kind == "died"
