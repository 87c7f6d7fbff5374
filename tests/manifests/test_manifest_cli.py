"""`egodojo manifest`: what it prints for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from dataset_helpers import toy_dataset

from manifests.decide import decide
from manifests.recipe import Recipe, Rule

Cli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = toy_dataset(tmp_path_factory.mktemp("cli") / "d", num_videos=2)
    late = Rule(name="late", keep_when="start_s < 1")
    decide(dataset, Recipe(name="mine", keep=(late,)))
    return dataset.path


def test_sql_prints_a_table_or_json(path: Path, cli: Cli) -> None:
    query = "SELECT clip_id, gate, end_s FROM clips ORDER BY gate NULLS FIRST, clip_id"
    shown = cli("manifest", "sql", path, query, "--limit", 2)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["clip_id", "gate", "end_s"]
    assert lines[1].split()[1] == "-"
    assert lines[-1] == "(4 more rows; --limit shows more)"
    rows = json.loads(cli("manifest", "sql", path, query, "--json").stdout)
    assert len(rows) == 6
    assert rows[-1]["gate"] == "black"
    assert cli("manifest", "sql", path, query, "--quiet").stdout == ""


def test_sql_errors_are_one_sentence(path: Path, cli: Cli) -> None:
    wrong = cli("manifest", "sql", path, "SELECT nothing FROM files")
    assert wrong.exit_code == 1
    assert "egodojo: The query failed: Binder Error" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_stats_count_everything_once(path: Path, cli: Cli) -> None:
    found = json.loads(cli("manifest", "stats", path, "--json").stdout)
    assert found["files"]["num_files"] == sum(found["files"]["by_state"].values()) == 2
    clips = found["clips"]
    assert (clips["num_candidates"], clips["num_written"], clips["num_kept"]) == (6, 4, 2)
    assert clips["kept_s"] == pytest.approx(4.0)
    assert found["drop_reasons"] == {"black": 2, "late": 2}
    assert sum(found["drop_reasons"].values()) + clips["num_kept"] == clips["num_candidates"]
    assert found["recipe"] == "mine"
    assert found["sources"][0]["name"] == "toy"
    text = cli("manifest", "stats", path).stdout
    assert "2 files" in text
    assert "2 processed" in text
    assert "2 black, 2 late" in text


def test_validate_as_json(path: Path, cli: Cli) -> None:
    found = json.loads(cli("manifest", "validate", path, "--json").stdout)
    assert found["is_valid"] is True
    assert found["problems"] == []
    assert found["versions"]["clips"] == 1


@pytest.mark.parametrize("command", ["stats", "validate"])
def test_a_folder_that_is_no_dataset(tmp_path: Path, cli: Cli, command: str) -> None:
    found = cli("manifest", command, tmp_path)
    assert found.exit_code == 1
    assert "is not a dataset" in found.stderr


@pytest.mark.parametrize(
    "words", [("manifest", "preview", "--out"), ("manifest", "stats", "--html"), ("decide",)]
)
def test_a_page_that_cannot_be_written_is_refused_before_any_work(
    path: Path, tmp_path: Path, cli: Cli, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    page = tmp_path / "file" / "sub" / "page.html"
    if words == ("decide",):
        words = ("decide", "--recipe", "permissive", "--preview")
    found = cli(*words, page, path)
    assert found.exit_code == 2
    assert (
        f"{str(page)!r} cannot be written: {str(tmp_path / 'file')!r} is no folder." in found.stderr
    )


@pytest.mark.parametrize("command", ["sql", "stats", "validate"])
def test_help_has_an_example(cli: Cli, command: str) -> None:
    shown = cli("manifest", command, "--help")
    assert shown.exit_code == 0
    assert f"Example: egodojo manifest {command}" in shown.stdout


def test_json_of_a_query_has_plain_numbers_and_is_json(path: Path, cli: Cli) -> None:
    query = "SELECT sum(num_frames) AS n, 1.5::DECIMAL(3,1) AS d, ['nan'::DOUBLE] AS x FROM clips"
    text = cli("manifest", "sql", path, query, "--json").stdout
    assert "NaN" not in text
    assert json.loads(text) == [{"n": 360, "d": 1.5, "x": [None]}]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["SELECT 1 AS a, 2 AS a"], 1, "The result has 2 columns called 'a'."),
        ([" "], 1, "The query is empty."),
        (["SELECT '\udcff'"], 1, "The query failed:"),
        (["SELECT 1", "--limit", "-1"], 2, "-1 is not in the range"),
    ],
)
def test_queries_that_would_mislead_are_refused(
    path: Path, cli: Cli, arguments: list[str], code: int, message: str
) -> None:
    wrong = cli("manifest", "sql", path, *arguments)
    assert wrong.exit_code == code
    assert message in wrong.stderr
    assert wrong.stdout == ""
