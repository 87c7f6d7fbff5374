"""Choosing thresholds from labelled videos (`benchmarks/thresholds.py`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "thresholds.py"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("thresholds", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["thresholds"] = module
    spec.loader.exec_module(module)
    return module


def video(made: ModuleType, path: str, expect: str, source: str, *dark: float, **row: Any) -> Any:
    clips = [
        {"clip_id": f"{path}{i}", "seconds": 2.0, "gate": None, "cluster": None, "rank": None,
         "dark": value, **row}
        for i, value in enumerate(dark)
    ]  # fmt: skip
    return made.Labelled(
        path=path, expect=expect, source_repo=source, state="processed", why_lost=None,
        clips=tuple(clips),
    )  # fmt: skip


def test_the_threshold_lies_half_way_on_a_ratio_scale(made: ModuleType) -> None:
    (dark,) = made.bounds_of([("dark", "brightness_mean_luma >= 50")])
    videos = [
        video(made, "a", "keep", "x", 20.0, 80.0),  # its best clip counts
        video(made, "b", "keep", "y", 150.0),
        video(made, "c", "drop:dark", "z", 20.0, 10.0),
        video(made, "d", "drop:black", "z", 60.0),  # another fault
        video(made, "e", "content", "z", 30.0),
    ]
    assert made.fit(dark, videos).value == 40.0
    assert made.fit(dark, videos[:2]).value == pytest.approx((80 * 16) ** 0.5, rel=0.05)


def test_an_upper_bound_and_rules_that_cannot_be_fitted(made: ModuleType) -> None:
    (over,) = made.bounds_of([("overexposed", "overexposed_ratio < 0.5")])
    assert not over.keeps_above
    assert over.passes(0.49)
    assert not over.passes(0.5)
    assert over.passes(None)
    (gate,) = made.bounds_of([("black", "black_frames_ratio < 0.95")], are_gates=True)
    assert made.fit(gate, []) == gate
    with pytest.raises(ValueError, match=r"Rule odd .* cannot be fitted"):
        made.bounds_of([("odd", "fps > 1 OR fps < 9")])


def test_a_source_is_judged_by_thresholds_that_never_saw_it(made: ModuleType) -> None:
    bounds = made.bounds_of([("dark", "brightness_mean_luma >= 50")])
    videos = [
        video(made, "a", "keep", "x", 25.0),
        video(made, "b", "keep", "y", 100.0),
        video(made, "c", "drop:dark", "z", 20.0),
    ]
    found, fitted = made.leave_one_out(videos, bounds)
    assert {source: own[0].value for source, own in fitted.items()} == {"x": 45, "y": 22, "z": 20}
    assert {path: fate.verdict for path, fate in found.items()} == {
        "a": "drop", "b": "keep", "c": "keep",
    }  # fmt: skip
    rates = made.judged(videos, found)
    assert (rates["keep_dropped_ratio"], rates["drop_kept_ratio"]) == (0.5, 1.0)
    assert [row["path"] for row in rates["against_label"]] == ["a", "c"]


def test_of_a_cluster_the_best_kept_clip_stays_and_a_copy_counts_as_kept(made: ModuleType) -> None:
    bounds = made.bounds_of([("dark", "brightness_mean_luma >= 50")])
    videos = [
        video(made, "a", "keep", "x", 10.0, cluster="c", rank=0),
        video(made, "b", "keep", "y", 90.0, cluster="c", rank=1),
        video(made, "c", "keep", "z", 90.0, cluster="c", rank=2),
    ]
    found = made.fates(videos, bounds)
    assert [found[path].reason for path in "abc"] == ["dark", None, "near_duplicate"]
    assert made.judged(videos, found)["confusion"] == {
        "keep -> copy of a kept file": 1, "keep -> drop": 1, "keep -> keep": 1,
    }  # fmt: skip


def test_area_under_the_curve_and_odds_of_a_separable_measure(made: ModuleType) -> None:
    assert made.auc([3.0, 4.0], [1.0, 3.0]) == 0.875
    values = np.arange(12.0)[:, None]
    odds = made.content_odds(values, np.arange(12) >= 6, ["a", "b", "c"] * 4)
    assert (odds[:5] < 0.5).all()
    assert (odds[7:] > 0.5).all()
