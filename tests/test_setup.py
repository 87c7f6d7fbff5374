"""`make setup` says in one sentence why it cannot work: Python, disk, network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def setup(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "tools/setup.sh"],
        cwd=checkout,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_python(checkout: Path) -> None:
    tools = checkout / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "sha256sum", "cut", "cat"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = setup(checkout, PATH=str(tools), PYTHON="no-such-python")
    assert done.returncode == 1
    assert "no Python 3.11 or newer was found" in done.stderr
    assert done.stderr.count("\n") == 1


def test_too_little_disk(checkout: Path) -> None:
    done = setup(checkout, PYTHON=sys.executable, EGODOJO_SETUP_DISK_GB="99999999")
    assert done.returncode == 1
    assert "GB are free here and 99999999 GB are needed" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_network(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)  # what `python -m venv` makes, but at once
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = setup(
        checkout,
        PYTHON=sys.executable,
        EGODOJO_SETUP_DISK_GB="0",
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_FIND_LINKS="",
        PIP_EXTRA_INDEX_URL="",
    )
    assert done.returncode == 1
    assert "the package index cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_do_when_done(checkout: Path) -> None:
    import hashlib

    (checkout / ".venv").mkdir()
    wanted = hashlib.sha256((checkout / "pyproject.toml").read_bytes()).hexdigest()
    (checkout / ".venv" / ".egodojo-setup").write_text(wanted + "\n")
    done = setup(checkout)
    assert (done.returncode, done.stdout) == (0, "")
