"""What the page's script is given: rules taken apart, measures in 16 bits, commands that work."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from preview_helpers import make_dataset, make_many

from curation.dedup_semantic import dedup_semantic
from curation.preview import charts, write_preview
from curation.preview.facts import Histogram, Threshold, collect
from curation.preview.predicates import Combination, Comparison, Opaque, comparisons, parse
from curation.preview.whatif import (
    MAX_CLIPS,
    TOP,
    _codes,
    base_command,
    script_data,
    script_json,
)
from manifests.dataset import Dataset
from manifests.decide import decide
from manifests.recipe import load_recipe

Cli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_many(tmp_path_factory.mktemp("whatif") / "many", 400)


def test_comparisons_are_read_from_predicates(many: Dataset) -> None:
    text = "hands.ratio>=.5 OR hands.area > 0.25 AND 6e1>=fps AND NOT least(a, b) < -2"
    found = list(comparisons(parse(many, text)))
    assert [(c.sql, c.operator, c.value) for c in found] == [
        ("hands.ratio", ">=", 0.5),
        ("hands.area", ">", 0.25),
        ("fps", "<=", 60.0),
        ("least(a, b)", "<", -2.0),
    ]
    assert [text[c.start : c.end] for c in found] == [".5", "0.25", "6e1", "-2"]


def test_comparisons_are_found_however_they_are_written(many: Dataset) -> None:
    text = """source <> '😀é' AND clips.FPS BETWEEN 5 AND 1_000 -- größer
    AND Hands."Left Ratio" >= 2_5.5"""
    found = list(comparisons(parse(many, text)))
    assert [(c.sql, c.operator, c.value) for c in found] == [
        ("fps", ">=", 5.0),
        ("fps", "<=", 1000.0),
        ('hands."left ratio"', ">=", 25.5),
    ]
    assert [text[c.start : c.end] for c in found] == ["5", "1_000", "2_5.5"]


def test_what_is_no_comparison_with_a_number_stays_whole(many: Dataset) -> None:
    tree = parse(many, "ends_at <> 'cut' AND (fps > 3 OR fps IS NULL)")
    assert isinstance(tree, Combination)
    first, second = tree.parts
    assert first == Opaque(sql="ends_at != 'cut'")
    assert isinstance(second, Combination)
    assert isinstance(second.parts[0], Comparison)
    assert second.parts[1] == Opaque(sql="fps IS NULL")
    assert parse(many, "fps BETWEEN 3 AND end_s") == Opaque(sql="fps BETWEEN 3 AND end_s")
    assert parse(many, "fps >") == Opaque(sql="fps >")
    assert parse(many, "100 > 1") == Opaque(sql="100 > 1")


@pytest.mark.parametrize("operator", [">=", ">", "<=", "<"])
def test_sixteen_bits_move_no_clip_across_a_threshold(operator: str) -> None:
    values = np.concatenate([np.nextafter(40.0, [0.0, 99.0]), [40.0, -3.0, 999.0]])
    values = np.concatenate([values, np.random.default_rng(0).uniform(39.99, 40.01, 3000)])
    cut = Threshold(key="x", rule="x", is_gate=False, operator=operator, value=40.0)
    histogram = Histogram(
        name="m", sql="m", unit="", description="", low=0.0, high=235.0, has_beyond=True,
        num_missing=0, bins=(), thresholds=(cut,),
    )  # fmt: skip
    decoded = _codes(histogram, values) / TOP * 235.0
    compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}
    assert (compare[operator](decoded, 40.0) == compare[operator](values, 40.0)).all()
    inside = (values >= 0) & (values <= 235)
    assert np.abs(decoded - values)[inside].max() <= 2 * 235 / TOP


def test_every_rule_and_its_thresholds_are_there(many: Dataset) -> None:
    data = script_data(many, collect(many))
    assert [(rule["name"], rule["isGate"]) for rule in data["rules"]] == [
        ("black", True), ("dark", False), ("dull", False), ("brief", False),
    ]  # fmt: skip
    dull = data["rules"][2]
    keys = re.findall(r'"key": "([\w.]+)"', json.dumps(dull))
    assert keys == ["dull", "dull.2", "dull.3"]
    assert dull["onMissing"] == "drop"
    assert data["count"] == data["total"] == 400
    fixed = np.frombuffer(base64.b64decode(data["fixed"]), np.uint8)
    (short,) = many.sql("SELECT count(*) AS n FROM clips WHERE gate = 'too_short'").to_pylist()
    assert fixed.sum() == short["n"] > 0


def test_data_cannot_close_its_element() -> None:
    assert "<" not in script_json({"a": "</script><!--"})
    assert json.loads(script_json({"a": "</script>&"})) == {"a": "</script>&"}


def test_the_command_repeats_the_present_decision(tmp_path: Path, cli: Cli) -> None:
    dataset = make_dataset(tmp_path / "it's here")
    sets = [
        "gates.too_small=null",
        "gates.frozen=null",
        "keep.dark=brightness_mean_luma >= 15",
        "keep.overexposed=null",
    ]
    decide(dataset, load_recipe("permissive", sets))
    dataset = Dataset.open(dataset.path)
    before = dataset.table("decisions").sort_by("clip_id").to_pylist()
    words = shlex.split(base_command(dataset, collect(dataset)))
    assert words[:5] == ["egodojo", "decide", str(dataset.path), "--recipe", "permissive"]
    assert words[6::2] == sets
    done = cli(*words[1:], "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["num_changed"] == 0
    after = Dataset.open(dataset.path).table("decisions").sort_by("clip_id").to_pylist()
    assert after == before


def test_divisions_by_zero_and_thresholds_at_the_edge_have_a_page(tmp_path: Path) -> None:
    recipe = (
        "name: edges\nkeep:\n"
        "  over_zero: {keep_when: 'fps / black_frames_ratio > 5', on_missing: keep}\n"
        "  negative: brightness_mean_luma - 500 < -2\n"
        "  all: overlay_ratio <= 1 AND overlay_ratio >= 1\n"
    )
    dataset = make_many(tmp_path / "d", 30, recipe=recipe, overlay_ratio=1.0)
    facts = collect(dataset)
    for found in facts.histograms:
        assert found.low < found.high < 1e300
        assert all(found.low <= cut.value <= found.high for cut in found.thresholds)
    overlay = next(h for h in facts.histograms if h.name == "overlay_ratio")
    assert (overlay.low, overlay.high) == (0.0, 1.0)
    assert all(charts.histogram(found, 0) for found in facts.histograms)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(script_json(script_data(dataset, facts)), parse_constant=refuse)


def test_a_recipe_that_sets_cannot_say_is_called_by_a_file(tmp_path: Path) -> None:
    dataset = make_many(tmp_path / "d", 5)
    recipe = tmp_path / "other.yaml"
    recipe.write_text(
        "name: permissive\nkeep:\n"
        "  dark: {keep_when: brightness_mean_luma >= 24, on_missing: keep}\n"
    )
    decide(dataset, load_recipe(recipe))
    dataset = Dataset.open(dataset.path)
    assert base_command(dataset, collect(dataset)).endswith("--recipe permissive.yaml")


def test_a_rule_on_a_score_table_that_is_not_there_still_has_a_page(tmp_path: Path) -> None:
    recipe = "name: r\nkeep:\n  h: {keep_when: hands.ratio > 0.2, on_missing: keep}\n"
    dataset = make_many(tmp_path / "d", 30, recipe=recipe)
    data = script_data(dataset, collect(dataset))
    assert data["rules"][1]["tree"] == {"kind": "opaque", "index": 0}
    assert set(base64.b64decode(data["opaque"][0])) == {2}


@pytest.mark.slow
def test_ten_thousand_clips_stay_small_and_more_are_sampled(tmp_path: Path) -> None:
    dataset = make_many(tmp_path / "d", MAX_CLIPS + 50)
    data = script_data(dataset, collect(dataset))
    assert (data["count"], data["total"]) == (MAX_CLIPS, MAX_CLIPS + 50)
    text = write_preview(dataset).read_text(encoding="utf-8")
    assert "an even sample of 10,000 of 10,050 clips" in text
    assert len(script_json(data)) < 3_000_000
    assert len(text) < 4_000_000  # pictures add at most 6 MB


def test_clusters_are_shown_when_there_is_a_table_of_them(many: Dataset) -> None:
    text = write_preview(many).read_text(encoding="utf-8")
    assert '<h2 id="clusters-head">Duplicates</h2>' in text
    (count,) = many.sql(
        "SELECT count(*) AS n FROM duplicates WHERE duplicate_of IS NOT NULL"
    ).to_pylist()
    assert f"{count['n']} clips (" in text
    assert "duplicate, 50x50, distance 0.010, mirrored, " in text
    assert "original, 50x50, " in text
    assert '<span class="why">same as many.mp4 from ' in text
    assert '<a href="#clusters">' in text


def test_a_score_table_that_was_taken_away_spoils_no_page(tmp_path: Path) -> None:
    dataset = make_many(tmp_path / "d", 30)
    shutil.rmtree(dataset.path / "catalog" / "scores" / "duplicates")
    text = write_preview(Dataset.open(dataset.path)).read_text(encoding="utf-8")
    assert '<details open id="drop-near_duplicate">' in text
    assert "same as" not in text


def test_clusters_of_one_meaning_stand_beside_those_that_show_the_same(tmp_path: Path) -> None:
    dataset = make_many(tmp_path / "d", 60)
    ids = dataset.sql("SELECT clip_id FROM clips WHERE gate IS NULL ORDER BY 1")["clip_id"]
    turns = np.deg2rad(np.where(np.arange(len(ids)) < 3, 1.0, 6.0) * np.arange(len(ids)))
    vectors = pa.array(np.stack([np.cos(turns), np.sin(turns)], axis=1).tolist())
    dataset.append_score("clip_b32", pa.table({"clip_id": ids, "embedding": vectors}), metadata={})
    found = dedup_semantic(dataset, "clip_b32", max_distance=1e-3)
    assert (found.num_clusters, found.num_duplicates) == (1, 2)
    text = write_preview(dataset).read_text(encoding="utf-8")
    assert "1 cluster with 3 clips of the same content; 2 clips (" in text
    assert "clips that show the same; " in text
