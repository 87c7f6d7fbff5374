"""The front door: help, unknown commands, how errors end, and names that are not ours."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from manifests.cli import COMMANDS, egodojo
from manifests.cli_support import run
from manifests.errors import EgodojoError, SampleError, UsageError
from manifests.origins import check_origins, origins

Cli = Callable[..., SimpleNamespace]


def leaf_commands() -> list[list[str]]:
    def walk(command: click.Command, path: list[str]) -> list[list[str]]:
        if not isinstance(command, click.Group):
            return [path]
        context = click.Context(command)
        found = []
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += walk(child, [*path, name])
        return found

    return walk(egodojo, [])


def test_help_lists_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("path", leaf_commands(), ids=" ".join)
def test_every_command_has_help_an_example_and_json(cli: Cli, path: list[str]) -> None:
    done = cli(*path, "--help")
    assert done.exit_code == 0
    assert "Example" in done.stdout, "help shows an example"
    assert "--json" in done.stdout


def test_unknown_command_suggests(cli: Cli) -> None:
    done = cli("currate")
    assert done.exit_code == 2
    assert "Did you mean 'curate'?" in done.stderr


def test_errors_become_one_sentence_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def fails() -> None:
        raise UsageError("It broke here.", hint="Do that.")

    assert run(fails, []) == 2
    assert capsys.readouterr().err == "egodojo: It broke here.\n  hint: Do that.\n"

    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run(interrupted, []) == 130


def test_errors_cross_processes_whole() -> None:
    error = SampleError("bad", reason="checksum", hint="look")
    error.add_note("in shard 3")
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.reason, again.hint) == ("bad", "checksum", "look")
    assert again.__notes__ == ["in shard 3"]


def test_origins_are_ours() -> None:
    check_origins()


def test_origins_names_the_intruder(tmp_path: Path) -> None:
    found = origins()
    found["pipeline"] = str(tmp_path / "pipeline.py")
    with pytest.raises(EgodojoError, match="The name 'pipeline' is taken by") as caught:
        check_origins(found)
    assert caught.value.hint
    found["pipeline"] = None
    with pytest.raises(EgodojoError, match="cannot be imported"):
        check_origins(found)


def test_a_users_own_pipeline_module_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the wrong pipeline ran')\n")
    code = "from manifests.cli import main; import sys; sys.argv=['egodojo','--help']; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "The name 'pipeline' is taken by" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_machine_refuses_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    assert run(full, []) == 1
    assert capsys.readouterr().err.startswith("egodojo: /data/x: No space left on device.\n  hint:")

    @click.command()
    def ours() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x")

    with pytest.raises(FileNotFoundError):
        run(ours, [])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_in_order(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = signal.Signals[name]
    tidied: list[str] = []

    @click.command()
    def wait() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            tidied.append(name)

    before = signal.signal(number, signal.SIG_DFL)  # nohup, for one, leaves SIGHUP ignored
    try:
        assert run(wait, []) == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert tidied == [name]
    assert f"egodojo: ended by {name}; rerun the same command" in capsys.readouterr().err
