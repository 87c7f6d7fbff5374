"""`make setup-browser` does nothing where a browser is, and says in a sentence why it cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "setup_browser.sh"


def setup_browser(tools: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only these programs are: name to what their shell script does."""
    tools.mkdir()
    for name, body in programs.items():
        program = tools / name
        program.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        program.chmod(0o755)
    return subprocess.run(
        [str(shutil.which("bash")), str(SCRIPT)],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_to_do_with_a_browser(tmp_path: Path) -> None:
    done = setup_browser(tmp_path / "bin", chromium="exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({}, "there is no apt-get here"),
        ({"apt-get": "exit 9", "id": "echo 1000"}, "installing Chromium needs root"),
        (
            {"apt-get": "exit 9", "id": "echo 0", "env": "exit 9"},
            "apt-get could not install the package 'chromium'",
        ),
    ],
)
def test_why_it_cannot(tmp_path: Path, programs: dict[str, str], sentence: str) -> None:
    done = setup_browser(tmp_path / "bin", **programs)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_installs_one_package_as_root(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = setup_browser(
        tmp_path / "bin",
        **{"apt-get": f'echo "$@" >>{log}', "id": "echo 0", "env": 'shift; "$@"'},
    )
    assert done.returncode == 0, done.stderr
    update, install = log.read_text().splitlines()
    assert update == "update -qq"
    assert install == "install -y -qq --no-install-recommends chromium"
