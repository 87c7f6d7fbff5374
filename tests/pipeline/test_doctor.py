"""`egodojo doctor`: each finding with its next step, and an exit code scripts can use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import preflight
from pipeline.outcome import Outcome
from pipeline.preflight import Check

Cli = Callable[..., SimpleNamespace]
FAILING = Check(name="disk", status="fail", detail="full", next_step="Free some space.")
WARNING = Check(name="decord", status="warn", detail="missing", next_step="Nothing.")


def plan_checks(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(preflight, "run_checks", lambda: list(checks))


@pytest.mark.ray
def test_this_machine_is_ready(cli: Cli) -> None:
    done = cli("doctor", "--json")
    report = json.loads(done.stdout)
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert {"python", "package names", "libraries", "video codecs", "Ray", "GPU"} <= set(statuses)
    assert report["ready"] is (done.exit_code == 0)
    assert statuses["Ray"] == "ok", report
    assert statuses["video codecs"] == "ok", report
    assert all(check["next_step"] for check in report["checks"] if check["status"] != "ok")


def test_a_broken_machine_exits_with_1_and_says_what_to_do(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_checks(monkeypatch, WARNING, FAILING)
    done = cli("doctor")
    assert done.exit_code == 1
    assert "fail  disk    full" in done.stdout
    assert "-> Free some space." in done.stdout
    assert "Not ready: 1 broken, 1 with a limit." in done.stdout


def test_a_warning_is_no_failure_and_quiet_prints_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_checks(monkeypatch, WARNING)
    assert cli("doctor").exit_code == 0
    done = cli("doctor", "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")


def test_help_shows_an_example(cli: Cli) -> None:
    done = cli("doctor", "--help")
    assert done.exit_code == 0
    assert "Example: egodojo doctor --json" in done.stdout


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PACKAGES", ("click", "no-such-library"))
    check = preflight.check_packages()
    assert (check.status, check.detail) == ("fail", "not installed: no-such-library")
    assert (check.next_step or "").endswith("-m pip install no-such-library")


def test_a_missing_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_CODECS", {"H.266 encoder": ("w", ["nothing"])})
    check = preflight.check_codecs()
    assert (check.status, check.detail) == ("warn", "this PyAV has no H.266 encoder")
    monkeypatch.setattr(preflight, "_CODECS", {"H.264 encoder": ("w", ["nothing"])})
    assert preflight.check_codecs().status == "fail"


def test_libraries_that_crash_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.ask_child("print('[1]')") == ([1], "")
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert preflight.ask_child(crash) == (None, "importing it ends the process with signal 9")
    assert preflight.ask_child("import nothing_like_it")[1].startswith("ModuleNotFoundError")
    monkeypatch.setattr(preflight, "CHILD_LIMIT_S", 0.2)
    assert preflight.ask_child("import time; time.sleep(9)") == (None, "no answer within 0.2 s")


def test_little_space_warns_and_none_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert preflight.check_disk("disk", tmp_path).status in ("ok", "warn")
    for free, status in ((5 * preflight.GIB, "warn"), (1000, "fail")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda folder, u=usage: u)
        check = preflight.check_disk("disk", tmp_path)
        assert check.status == status
        assert "10 GiB or more is comfortable" in check.detail


def test_a_folder_that_cannot_be_written_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert preflight.check_disk("disk", tmp_path).detail == f"{tmp_path} cannot be written"


def test_an_unreachable_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check = preflight.check_ray()
    assert check.status == "fail"
    assert "No Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in check.detail
    assert "unset RAY_ADDRESS" in (check.next_step or "")


def test_ray_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    late = Outcome(unit=21, kind="timeout", error="stopped after its time limit of 90 s")
    monkeypatch.setattr(preflight, "run_isolated", lambda *args, **options: late)
    check = preflight.check_ray()
    assert check.detail == "started on this machine: stopped after its time limit of 90 s"
    assert "--inline" in (check.next_step or "")
