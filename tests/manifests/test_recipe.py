"""Recipes are data: read, checked, changed by --set, and evaluated clip by clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.errors import ConfigError
from manifests.recipe import (
    Recipe,
    Rule,
    check_gates,
    gate_of,
    load_recipe,
    recipe_names,
)

CLIP: dict[str, Any] = {
    "clip_id": "c",
    "num_frames": 60,
    "start_s": 0.0,
    "end_s": 2.0,
    "fps": 30.0,
    "gate": None,
    "brightness_mean_luma": 50.0,
}
GATES = (
    Rule(name="too_small", keep_when="scale_ratio <= 4", on_missing="keep"),
    Rule(name="black", keep_when="brightness_mean_luma > 20"),
    Rule(name="frozen", keep_when="frozen_ratio < 0.9", on_missing="drop"),
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_share_their_gates(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert recipe.text
    assert recipe.gates == load_recipe("egocentric").gates
    check_gates(recipe.gates)
    assert {"egocentric", "robot", "permissive", "strict"} <= set(recipe_names())


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"frozen_ratio": 0.1}, None),
        ({"frozen_ratio": 0.1, "num_frames": 13}, "too_short"),
        ({"frozen_ratio": 0.1, "end_s": 0.89}, "too_short"),
        ({"frozen_ratio": 0.1, "end_s": 0.9}, None),
        ({"frozen_ratio": 0.95, "brightness_mean_luma": 3.0}, "black"),
        ({"frozen_ratio": 0.95, "scale_ratio": 5.0}, "too_small"),
        ({"frozen_ratio": None}, "frozen"),
        ({}, "frozen"),
    ],
)
def test_the_first_gate_that_hits_names_it(changes: dict[str, Any], gate: str | None) -> None:
    assert gate_of(GATES, {**CLIP, **changes}) == gate


def test_no_gates_leave_only_too_short() -> None:
    assert gate_of((), CLIP) is None
    assert gate_of((), CLIP, min_frames=61) == "too_short"
    assert gate_of((), CLIP, min_duration_s=2.1) == "too_short"


def test_a_missing_measure_fails_unless_said_otherwise() -> None:
    with pytest.raises(ConfigError, match=r"Gate black .* has no value for clip c"):
        gate_of(GATES, {**CLIP, "brightness_mean_luma": None})


@pytest.mark.parametrize("predicate", ["brightnes > 3", "fps >", "hands.ratio > 0"])
def test_gates_that_cannot_be_evaluated_are_refused_before_any_work(predicate: str) -> None:
    with pytest.raises(ConfigError, match="Gate black cannot be evaluated"):
        check_gates((Rule(name="black", keep_when=predicate),))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "keep:\n  dark: brightness_mean_luma >= 40\n"
        "  hands: {keep_when: hands.ratio > 0.2, on_missing: keep}\n"
        "near_duplicate: {cluster: clusters.id, rank: clusters.rank}\n",
    )
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert recipe.gates == ()
    assert [rule.name for rule in recipe.keep] == ["dark", "hands"]
    assert recipe.keep[1].on_missing == "keep"
    assert recipe.near_duplicate is not None
    assert recipe.text == path.read_text()


def test_set_replaces_adds_and_removes_rules(tmp_path: Path) -> None:
    path = written(
        tmp_path, "keep:\n  dark: fps > 1\n  blurred: {keep_when: fps > 2, on_missing: keep}\n"
    )
    sets = ["keep.dark=null", "keep.blurred=fps > 3", "keep.new=fps = 4", "gates.black=fps > 5"]
    recipe = load_recipe(path, sets)
    assert recipe.keep == (
        Rule(name="blurred", keep_when="fps > 3", on_missing="keep"),
        Rule(name="new", keep_when="fps = 4"),
    )
    assert recipe.gates == (Rule(name="black", keep_when="fps > 5"),)
    again = load_recipe(written(tmp_path, recipe.text))
    assert again.digest == recipe.digest
    assert recipe.digest != load_recipe(written(tmp_path, "keep: {dark: fps > 1}")).digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kep: {}", "unknown key 'kep'"),
        ("keep: [a]", "keep must be a mapping of rule name"),
        ("keep: {dark: 3}", "keep.dark must be an SQL predicate"),
        ("keep: {dark: {keep_when: x, onmissing: keep}}", "unknown key 'onmissing'"),
        ("keep: {dark: {keep_when: x, on_missing: maybe}}", "on_missing is 'maybe'"),
        ("keep: {Too Dark: x}", "'Too Dark' must be snake_case"),
        ("keep:\n  dark: fps > 1\n  dark: fps > 9\n", "key 'dark' stands twice, again in line 3"),
        ("keep: {}\nkeep: {}\n", "is not valid YAML: the key 'keep' stands twice"),
        ("keep: {dark: ''}", "Rule dark has an empty predicate"),
        ("near_duplicate: {cluster: x}", "near_duplicate needs cluster and rank"),
        ("near_duplicate: {cluster: x, rank: y, on_missing: kepe}", "on_missing is 'kepe'"),
    ],
)
def test_malformed_recipes_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("dark=fps > 1", "does not fit a recipe"),
        ("keep.dark", "does not fit a recipe"),
        ("keep.drak=null", "there is no rule drak"),
    ],
)
def test_malformed_sets_are_refused(item: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe("egocentric", [item])


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="There is no recipe 'egocentrik'") as caught:
        load_recipe("egocentrik")
    assert "Did you mean 'egocentric'?" in str(caught.value.hint)


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two keep have the same name"):
        Recipe(name="r", keep=(Rule(name="a", keep_when="x"), Rule(name="a", keep_when="y")))


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_rule_says_why_and_its_digest_does_not_depend_on_it(
    tmp_path: Path, name: str
) -> None:
    recipe = load_recipe(name)
    rules = {rule.name for rule in (*recipe.gates, *recipe.keep)}
    assert recipe.reasons.keys() == rules | {"near_duplicate"}
    assert all(len(reason) > 30 for reason in recipe.reasons.values())
    silent = yaml.safe_load(recipe.text)
    for rule in (*silent["gates"].values(), *silent["keep"].values(), silent["near_duplicate"]):
        del rule["why"]
    again = load_recipe(written(tmp_path, yaml.safe_dump(silent, sort_keys=False)))
    assert again.digest == recipe.digest
    assert again.reasons == {}
