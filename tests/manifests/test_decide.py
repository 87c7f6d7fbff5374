"""Decisions: rules in order, gates first, duplicates last, missing values never silent."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from dataset_helpers import (
    GATES,
    SETTINGS,
    clip_row,
    planned_unit,
    toy_dataset,
    unit_row,
    video_row,
)

from manifests import Dataset
from manifests.decide import check_recipe, decide
from manifests.errors import ConfigError, DatasetError
from manifests.recipe import DuplicateRule, OnMissing, Recipe, Rule, load_recipe
from manifests.validate import validate


def rule(name: str, keep_when: str, on_missing: OnMissing = "fail") -> Rule:
    return Rule(name=name, keep_when=keep_when, on_missing=on_missing)


def bright_clips(path: Path, brightness: list[float | None]) -> tuple[Dataset, list[str]]:
    """One unit of clips that differ in brightness; gives their ids in order."""
    dataset = Dataset.create(path, SETTINGS)
    video = video_row("v")
    unit = planned_unit(0, [video])
    clips = [
        clip_row(unit, unit.parts[0], index, brightness_mean_luma=value)
        for index, value in enumerate(brightness)
    ]
    with dataset.writer("test") as writer:
        writer.append_videos([video])
        writer.append_plan([unit])
        writer.commit_units([(unit_row(unit, clips), clips)])
    return dataset, [clip["clip_id"] for clip in clips]


def reasons(dataset: Dataset, ids: list[str]) -> list[str | None]:
    found = {row["clip_id"]: row for row in dataset.table("decisions").to_pylist()}
    assert len(found) == len(ids)
    for row in found.values():
        assert row["verdict"] == ("keep" if row["reason"] is None else "drop")
    return [found[clip_id]["reason"] for clip_id in ids]


def test_the_first_failing_rule_names_the_reason_and_gates_come_before(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=2)
    recipe = Recipe(
        name="mine",
        gates=GATES,
        keep=(rule("early", "start_s > 0"), rule("dark", "brightness_mean_luma > 99")),
        text="the text",
    )
    summary = decide(dataset, recipe)
    assert (summary.num_clips, summary.num_kept, summary.num_dropped) == (6, 0, 6)
    assert summary.reasons == {"black": 2, "dark": 2, "early": 2}
    assert summary.num_changed == 6
    assert summary.kept_s == 0
    wanted = {"recipe": "mine", "recipe_digest": recipe.digest, "recipe_text": "the text"}
    assert Dataset.open(dataset.path).metadata("decisions") == wanted
    assert validate(dataset) == []


def test_each_decision_replaces_the_last_and_older_ones_stay_reachable(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    first = decide(dataset, Recipe(name="all"))
    pins = dataset.versions
    second = decide(dataset, Recipe(name="none", keep=(rule("no", "false"),)))
    assert (first.num_kept, second.num_kept, second.num_changed) == (2, 0, 2)
    assert first.difference is None
    assert second.difference is not None
    assert (second.difference.recipe, second.difference.version) == ("all", pins["decisions"])
    assert first.kept_s == pytest.approx(4.0)
    assert dataset.clips.fetchall() == []
    assert dataset.table("decisions").num_rows == 3
    pinned = Dataset.open(dataset.path, versions=pins)
    assert pinned.sql("SELECT count(*) AS n FROM kept").to_pylist() == [{"n": 2}]
    assert pinned.metadata("decisions")["recipe"] == "all"
    with pytest.raises(DatasetError, match="read-only"):
        decide(pinned, Recipe(name="all"))


@pytest.mark.parametrize(
    ("on_missing", "wanted"), [("keep", ["dark", None, None]), ("drop", ["dark", None, "dark"])]
)
def test_null_means_what_the_rule_says(
    tmp_path: Path, on_missing: OnMissing, wanted: list[str | None]
) -> None:
    dataset, ids = bright_clips(tmp_path / "d", [10.0, 50.0, None])
    bright = rule("dark", "brightness_mean_luma > 40", on_missing)
    decide(dataset, Recipe(name="r", keep=(bright,)))
    assert reasons(dataset, ids) == wanted


def test_null_fails_by_default_but_only_where_the_rule_is_reached(tmp_path: Path) -> None:
    dataset, ids = bright_clips(tmp_path / "d", [10.0, 50.0, None])
    dark = rule("dark", "brightness_mean_luma > 40")
    with pytest.raises(DatasetError, match=r"Rule dark .* has no value for 1 clips"):
        decide(dataset, Recipe(name="r", keep=(dark,)))
    assert dataset.table("decisions").num_rows == 0
    decide(dataset, Recipe(name="r", keep=(rule("late", "start_s < 3"), dark)))
    assert reasons(dataset, ids) == ["dark", None, "late"]


def test_a_score_table_that_is_not_there(tmp_path: Path) -> None:
    dataset, ids = bright_clips(tmp_path / "d", [50.0, 50.0])
    for on_missing, wanted in (("keep", None), ("drop", "no_hands")):
        hands = rule("no_hands", "hands.ratio > 0.2", on_missing)  # type: ignore[arg-type]
        decide(dataset, Recipe(name="r", keep=(hands,)))
        assert reasons(dataset, ids) == [wanted, wanted]
    needs = Recipe(name="r", keep=(rule("no_hands", "hands.ratio > 0.2"),))
    with pytest.raises(ConfigError, match="Rule no_hands needs the score table 'hands'"):
        decide(dataset, needs)
    score = pa.table({"clip_id": ids, "ratio": [0.1, 0.5]})
    dataset.append_score("hands", score, metadata={"model": "m"})
    decide(dataset, needs)
    assert reasons(dataset, ids) == ["no_hands", None]


@pytest.mark.parametrize("predicate", ["brightnes > 3", "fps >", "fps"])
@pytest.mark.parametrize("on_missing", ["keep", "fail"])
def test_a_misspelt_predicate_is_never_silent(
    tmp_path: Path, predicate: str, on_missing: OnMissing
) -> None:
    dataset, _ = bright_clips(tmp_path / "d", [50.0])
    recipe = Recipe(name="r", keep=(rule("dark", predicate, on_missing),))
    if predicate == "fps":
        assert decide(dataset, recipe).num_kept == 1  # a number casts to true
        return
    with pytest.raises(ConfigError, match="Rule dark cannot be evaluated"):
        decide(dataset, recipe)


def test_a_predicate_may_end_in_a_comment(tmp_path: Path) -> None:
    dataset, ids = bright_clips(tmp_path / "d", [20.0, 50.0])
    path = tmp_path / "r.yaml"
    path.write_text("keep: {dark: 'brightness_mean_luma >= 40 -- dim kitchens', odd: 'fps > 1'}\n")
    decide(dataset, load_recipe(path))
    assert reasons(dataset, ids) == ["dark", None]
    decide(dataset, load_recipe(path, ["keep.dark=brightness_mean_luma >= 60 -- more"]))
    assert reasons(dataset, ids) == ["dark", "dark"]


@pytest.mark.parametrize(
    ("predicate", "cause"),
    [
        ("count(*) > 3", "Binder Error"),
        ("fps > 3) OR (fps < 9", "syntax error"),
        ("uri::INTEGER > 3", "Conversion Error"),
        ("unnest([1, 2]) > 1", "not give one answer for each clip"),
    ],
)
def test_a_predicate_that_only_fails_in_the_whole_query_or_on_values_names_its_rule(
    tmp_path: Path, predicate: str, cause: str
) -> None:
    dataset, _ = bright_clips(tmp_path / "d", [50.0])
    fine = rule("dark", "brightness_mean_luma > 3")
    with pytest.raises(ConfigError, match=f"Rule odd cannot be evaluated: .*{cause}"):
        decide(dataset, Recipe(name="r", keep=(fine, rule("odd", predicate))))
    assert dataset.table("decisions").num_rows == 0


def test_of_each_cluster_the_best_ranked_clip_that_other_rules_keep_is_kept(
    tmp_path: Path,
) -> None:
    dataset, ids = bright_clips(tmp_path / "d", [10.0, 50.0, 60.0, 70.0, 80.0])
    clusters = pa.table(
        {
            "clip_id": ids,
            "id": pa.array([1, 1, 1, 2, None], pa.int64()),
            "rank": pa.array([0, 2, 1, 0, 0], pa.int64()),
        }
    )
    same = DuplicateRule(cluster="clusters.id", rank="clusters.rank")
    recipe = Recipe(
        name="r", keep=(rule("dark", "brightness_mean_luma > 40"),), near_duplicate=same
    )
    with pytest.raises(ConfigError, match="Rule near_duplicate needs the score table 'clusters'"):
        decide(dataset, recipe)
    dataset.append_score("clusters", clusters, metadata={})
    decide(dataset, recipe)
    assert reasons(dataset, ids) == ["dark", "near_duplicate", None, None, None]


def test_other_gates_than_the_datasets_are_refused(tmp_path: Path) -> None:
    dataset, ids = bright_clips(tmp_path / "d", [50.0])
    with pytest.raises(ConfigError, match="Recipe r has other gates than") as caught:
        decide(dataset, Recipe(name="r", gates=(rule("black", "fps > 3"),)))
    with pytest.raises(ConfigError, match="has other gates than"):
        check_recipe(dataset, Recipe(name="r", gates=(rule("black", "fps > 3"),)))
    with pytest.raises(ConfigError, match="Rule dark cannot be evaluated"):
        check_recipe(dataset, Recipe(name="r", keep=(rule("dark", "nothing > 3"),)))
    check_recipe(dataset, Recipe(name="r", gates=GATES))
    assert dataset.versions["decisions"] == 0
    assert "leave `gates` out" in str(caught.value.hint)
    decide(dataset, Recipe(name="r", gates=GATES))
    assert reasons(dataset, ids) == [None]


def test_a_recipe_is_checked_without_reading_a_row(tmp_path: Path) -> None:
    dataset, _ = bright_clips(tmp_path / "d", [50.0])
    for file in (tmp_path / "d" / "catalog").rglob("*.parquet"):
        file.write_bytes(b"nothing that could be read")
    check_recipe(dataset, Recipe(name="r", keep=(rule("dark", "brightness_mean_luma > 4"),)))
    with pytest.raises(ConfigError, match="Rule dark cannot be evaluated"):
        check_recipe(dataset, Recipe(name="r", keep=(rule("dark", "nothing > 3"),)))


def test_an_empty_dataset_can_be_decided(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    summary = decide(dataset, Recipe(name="r", keep=(rule("dark", "brightness_mean_luma > 4"),)))
    assert (summary.num_clips, summary.num_kept, summary.kept_s) == (0, 0, 0.0)


def test_a_rule_may_ask_for_a_value_of_a_score_or_whether_there_is_a_row(tmp_path: Path) -> None:
    """Only what a rule names of a score table is joined; a row of NULLs is a row all the same."""
    dataset, ids = bright_clips(tmp_path / "d", [50.0] * 4)
    table = pa.table(
        {
            "clip_id": ids[:3],
            "hands_ratio": pa.array([0.9, 0.1, None]),
            "note": pa.array([None, "seen", None], pa.string()),
        }
    )
    dataset.append_score("hands", table, metadata={})
    value = rule("value", "HANDS.hands_ratio > 0.5", "keep")
    decide(dataset, Recipe(name="r", keep=(value,)))
    assert reasons(dataset, ids) == [None, "value", None, None]
    row = rule("row", "hands IS NOT NULL")
    decide(dataset, Recipe(name="r", keep=(row, value)))
    assert reasons(dataset, ids) == [None, "value", None, "row"]
