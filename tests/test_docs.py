"""The documentation is true: its readers run, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from manifests.cli import egodojo
from manifests.measures import MEASURES
from pipeline.testing import make_video

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
READERS = re.compile(r"<!-- test: (\w+) -->\n```python\n(.*?)```", re.DOTALL)


def readers() -> dict[str, str]:
    return dict(READERS.findall((ROOT / "docs" / "formats.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset made by the real command, in a folder called DATASET."""
    folder = tmp_path_factory.mktemp("docs")
    make_video(folder / "a.mp4", num_frames=40)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "manifests.cli", "curate", str(folder / "a.mp4"), "--inline"),
            *("--out", "DATASET", "--recipe", "permissive", "--embodiment", "human", "--quiet"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "DATASET"


@pytest.mark.parametrize("name", ["webdataset", "duckdb", "polars"])
def test_three_line_readers_open_a_dataset_without_us(dataset: Path, name: str) -> None:
    code = readers()[name]
    assert len(code.strip().splitlines()) == 3
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=dataset.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "egodojo" not in code
    assert "manifests" not in code
    assert done.stdout.strip(), "it prints something"
    if name != "webdataset":
        assert "human" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def documented_commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        if page.name in {"cli.md"}:
            continue
        for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                while words and not words[0].endswith("egodojo"):
                    words = words[1:]
                if words:
                    yield page.name, words[1:]


@pytest.mark.parametrize(("page", "words"), list(documented_commands()), ids=str)
def test_documented_commands_parse(page: str, words: list[str]) -> None:
    """Each `egodojo ...` in a console block names a command and only options that it has."""
    command: click.Command = egodojo
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{page}: no command {words[0]}"
        command, words = found, words[1:]
    with click.Context(command, resilient_parsing=False) as context:
        parser = command.make_parser(context)
        parser.parse_args(args=list(words))


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_demo_leaves_foreign_folders_alone(
    cli: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = cli("demo", "--out", tmp_path)
    assert done.exit_code == 2
    assert "holds files that no demo wrote; nothing was touched" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_named_in_the_text_exist(page: Path) -> None:
    for name in re.findall(r"`((?:\w+/)+\w*\.?(?:py|yaml|html)?)`", page.read_text("utf-8")):
        if name.split("/")[0] in {
            "manifests",
            "pipeline",
            "curation",
            "latent_actions",
            "world_model",
        }:
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_measure_says_how_it_is_taken_and_what_it_costs() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    section = text.partition("## Measures\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    patterns = [p for row in rows for p in re.findall(r"`([\w*]+)`", row[0])]
    for name in MEASURES:
        assert any(fnmatchcase(name, pattern) for pattern in patterns), name
    for _, looked_at, span, how, cost in rows:
        assert looked_at.strip()
        assert span.strip()
        assert how.strip()
        assert re.fullmatch(r"[\d ]+(to [\d ]+)?", cost.strip())
