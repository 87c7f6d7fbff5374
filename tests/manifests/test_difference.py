"""A decision against the last one: gained and lost add up, rule by rule, and stay readable."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from dataset_helpers import SETTINGS, clip_row, planned_unit, toy_dataset, unit_row, video_row

from manifests import Dataset
from manifests.decide import decide, try_decision
from manifests.difference import RuleChange, last_difference
from manifests.errors import DatasetError
from manifests.recipe import DuplicateRule, Recipe, Rule

Cli = Callable[..., SimpleNamespace]


def recipe(name: str, **rules: str) -> Recipe:
    return Recipe(name=name, keep=tuple(Rule(name=n, keep_when=sql) for n, sql in rules.items()))


def clips(path: Path, brightness: list[float]) -> Dataset:
    dataset = Dataset.create(path, SETTINGS)
    add(dataset, 0, brightness)
    return dataset


def add(dataset: Dataset, number: int, brightness: list[float]) -> None:
    video = video_row(f"v{number}")
    unit = planned_unit(number, [video])
    rows = [
        clip_row(unit, unit.parts[0], index, brightness_mean_luma=value)
        for index, value in enumerate(brightness)
    ]
    with dataset.writer("test") as writer:
        writer.append_videos([video])
        writer.append_plan([unit])
        writer.commit_units([(unit_row(unit, rows), rows)])


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path: Path) -> None:
    dataset = clips(tmp_path / "d", [10.0, 50.0, 60.0, 90.0])
    decide(dataset, recipe("a", dark="brightness_mean_luma >= 40"))
    before, rows = dataset.versions, dataset.table("decisions")
    other = recipe("b", bright="brightness_mean_luma < 80")
    tried = decide(dataset, other, dry_run=True)
    assert tried.version is None
    again = Dataset.open(tmp_path / "d")
    assert (again.versions, again.table("decisions")) == (before, rows)
    done = decide(dataset, other)
    assert done.version == before["decisions"] + 1
    assert (tried.num_kept, tried.reasons, tried.difference) == (
        done.num_kept,
        done.reasons,
        done.difference,
    )
    assert tried.difference is not None
    assert (tried.difference.num_gained, tried.difference.num_lost) == (1, 1)


def test_a_trial_shows_the_dataset_as_it_would_be(tmp_path: Path) -> None:
    dataset = clips(tmp_path / "d", [10.0, 50.0, 60.0, 90.0])
    decide(dataset, recipe("a", dark="brightness_mean_luma >= 40"))
    before = dataset.versions
    other = recipe("b", bright="brightness_mean_luma < 80")
    summary, trial = try_decision(dataset, other)
    again = Dataset.open(tmp_path / "d")
    assert again.versions == before == trial.versions
    assert again.clips.count("*").fetchall() == [(3,)]
    shown = trial.sql("SELECT clip_id FROM kept ORDER BY 1"), trial.table("decisions")
    assert trial.metadata("decisions")["recipe"] == "b"
    assert last_difference(trial) == summary.difference
    with pytest.raises(DatasetError, match="read-only"):
        decide(trial, other)
    decide(dataset, other)
    assert dataset.sql("SELECT clip_id FROM kept ORDER BY 1") == shown[0]
    assert dataset.table("decisions").sort_by("clip_id") == shown[1].sort_by("clip_id")


def test_gained_and_lost_by_rule(tmp_path: Path) -> None:
    dataset = clips(tmp_path / "d", [10.0, 50.0, 60.0, 90.0])
    first = decide(dataset, recipe("a", dark="brightness_mean_luma >= 40"))
    assert first.difference is None
    assert last_difference(dataset) is None
    second = decide(
        dataset, recipe("b", bright="brightness_mean_luma < 80", odd="brightness_mean_luma <> 50")
    )
    found = second.difference
    assert found is not None
    assert (found.recipe, found.version) == ("a", first.version)
    assert (found.num_gained, found.num_lost, found.num_new) == (1, 2, 0)
    (length,) = dataset.sql("SELECT DISTINCT end_s - start_s AS s FROM clips").to_pylist()
    assert (found.gained_s, found.lost_s) == pytest.approx((length["s"], 2 * length["s"]))
    assert {change.rule: change for change in found.rules} == {
        "dark": RuleChange(rule="dark", num_before=1, num_gained=1, gained_s=found.gained_s),
        "bright": RuleChange(rule="bright", num_now=1, num_lost=1, lost_s=found.lost_s / 2),
        "odd": RuleChange(rule="odd", num_now=1, num_lost=1, lost_s=found.lost_s / 2),
    }
    assert second.num_kept == first.num_kept + found.num_gained - found.num_lost
    assert last_difference(Dataset.open(dataset.path)) == found


def test_a_clip_dropped_for_another_reason_is_neither_gained_nor_lost(tmp_path: Path) -> None:
    dataset = clips(tmp_path / "d", [10.0, 50.0])
    decide(dataset, recipe("a", dark="brightness_mean_luma >= 40"))
    found = decide(dataset, recipe("b", dim="brightness_mean_luma >= 30")).difference
    assert found is not None
    assert (found.num_gained, found.num_lost) == (0, 0)
    assert [(c.rule, c.num_before, c.num_now) for c in found.rules] == [
        ("dark", 1, 0),
        ("dim", 0, 1),
    ]


def test_clips_that_came_since_are_new(tmp_path: Path) -> None:
    dataset = clips(tmp_path / "d", [10.0, 50.0])
    decide(dataset, recipe("a", dark="brightness_mean_luma >= 40"))
    add(dataset, 1, [20.0, 70.0])
    found = decide(dataset, recipe("a", dark="brightness_mean_luma >= 40")).difference
    assert found is not None
    assert (found.num_gained, found.num_lost, found.num_new) == (0, 0, 2)
    assert [(c.rule, c.num_before, c.num_now) for c in found.rules] == [("dark", 1, 2)]


def test_the_command_says_it_in_words_and_json(tmp_path: Path, cli: Cli) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=2)
    (tmp_path / "all.yaml").write_text("name: all\n")
    (tmp_path / "late.yaml").write_text("name: late\nkeep: {early: start_s > 0}\n")
    done = cli("decide", dataset.path, "--recipe", tmp_path / "all.yaml")
    assert done.exit_code == 0, done.stderr
    assert "against" not in done.stdout
    version = Dataset.open(dataset.path).versions["decisions"]
    done = cli("decide", dataset.path, "--recipe", tmp_path / "late.yaml")
    assert f"against all (version {version}): 0 gained (0.0 s), 2 lost (4.0 s)" in done.stdout
    assert "early  drops 2 (before 0): 0 gained, 2 lost" in done.stdout
    done = cli("decide", dataset.path, "--recipe", tmp_path / "all.yaml", "--json")
    found = json.loads(done.stdout)["difference"]
    assert (found["recipe"], found["num_gained"], found["num_lost"]) == ("late", 2, 0)
    assert [rule["num_gained"] for rule in found["rules"] if rule["rule"] == "early"] == [2]


def test_verdicts_and_difference_are_those_of_the_plainest_reading(tmp_path: Path) -> None:
    """Two decisions over many clips in four files, with clusters, against Python's own answer."""
    rng = random.Random(5)
    light = [[float(rng.randrange(100)) for _ in range(40)] for _ in range(4)]
    dataset = clips(tmp_path / "d", light[0])
    for number in range(1, 4):
        add(dataset, number, light[number])
    rows = dataset.sql("SELECT clip_id, brightness_mean_luma AS luma FROM clips").to_pylist()
    rows = [row | {"cluster": rng.randrange(60), "rank": rng.randrange(3)} for row in rows]
    score = pa.table({name: [row[name] for row in rows] for name in ("clip_id", "cluster", "rank")})
    dataset.append_score("copies", score, metadata={})
    answers = [plain_answer(rows, least) for least in (30, 60)]
    for least, answer in zip((30, 60), answers, strict=True):
        rules = recipe(f"at_least_{least}", dark=f"brightness_mean_luma >= {least}").keep
        same = DuplicateRule(cluster="copies.cluster", rank="copies.rank")
        summary = decide(dataset, Recipe(name="r", keep=rules, near_duplicate=same))
        found = dataset.sql("SELECT clip_id, verdict, reason FROM decisions").to_pylist()
        assert {row["clip_id"]: row["reason"] for row in found} == answer
        assert all((row["verdict"] == "keep") == (row["reason"] is None) for row in found)
        assert len(found) == len(rows)
    before, now = answers
    assert summary.difference is not None
    gained = sum(before[i] is not None and now[i] is None for i in now)
    lost = sum(before[i] is None and now[i] is not None for i in now)
    assert gained > 0 < lost
    assert (summary.difference.num_gained, summary.difference.num_lost) == (gained, lost)
    for change in summary.difference.rules:
        counts = [sum(reason == change.rule for reason in answer.values()) for answer in answers]
        assert [change.num_before, change.num_now] == counts


def plain_answer(rows: list[dict[str, Any]], least: int) -> dict[str, str | None]:
    answer: dict[str, str | None] = {}
    seen = set()
    for row in sorted(rows, key=lambda row: (row["rank"], row["clip_id"])):
        reason = "dark" if row["luma"] < least else None
        if reason is None and row["cluster"] in seen:
            reason = "near_duplicate"
        if reason is None:
            seen.add(row["cluster"])
        answer[row["clip_id"]] = reason
    return answer
