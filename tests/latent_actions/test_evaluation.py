"""Evaluation against made-up truth: scores, probes, features, and a whole report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latent_actions.evaluation.evaluate import statistics
from latent_actions.evaluation.features import pair_features
from latent_actions.evaluation.pictures import latent_map, plane
from latent_actions.evaluation.probes import probe, r_squared
from latent_actions.evaluation.retrieval import (
    Labels,
    best_normalisation,
    chance,
    interval,
    score,
)
from latent_actions.evaluation.truth import POSE, rotate, rotation_vectors, true_clips
from latent_actions.flow_features import join
from latent_actions.windows import clip_vectors
from manifests.dataset import Dataset
from manifests.errors import UsageError
from tests.latent_actions.datasets import FPS, make_dataset
from tests.latent_actions.helpers import small_model

Cli = Callable[..., SimpleNamespace]
BODIES = np.array(["a", "b"]).repeat(30)
MOTIONS = np.array(["up", "left", "turn"] * 20)


def clip_rows(*, noise: float, offset: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    """Latents whose direction is the motion's; body b is shifted by `offset`."""
    draw = np.random.default_rng(seed)
    way = dict(zip(("up", "left", "turn"), np.eye(8), strict=False))
    return [
        way[motion] + noise * draw.normal(size=(6, 8)) + offset * (body == "b")
        for body, motion in zip(BODIES, MOTIONS, strict=True)
    ]


def labels(**more: np.ndarray) -> Labels:
    return Labels(bodies=BODIES, motions=MOTIONS, **more)


def vectors(rows: list[np.ndarray], *, is_centred: bool = False) -> np.ndarray:
    return clip_vectors(rows, BODIES.tolist(), is_evened=False, is_centred=is_centred)


def test_perfect_latents_score_one_and_noise_scores_chance() -> None:
    perfect = score(vectors(clip_rows(noise=0.01)), labels()).means()
    assert perfect == {
        "precision_at_1": 1.0,
        "precision_at_10": 1.0,
        "mean_average_precision": 1.0,
    }
    draw = np.random.default_rng(1)
    noise = score(vectors([draw.normal(size=(6, 8)) for _ in BODIES]), labels()).means()
    assert chance(labels()) == pytest.approx(1 / 3)
    assert noise["precision_at_10"] == pytest.approx(1 / 3, abs=0.08)


def test_only_other_bodies_answer() -> None:
    rows = clip_rows(noise=0.01)
    for n in np.flatnonzero(BODIES == "b"):
        rows[n][:, :3] = np.roll(
            rows[n][:, :3], 1, axis=1
        )  # for b every motion looks like the next one
    assert score(vectors(rows), labels()).means()["precision_at_10"] == 0.0


def test_average_precision_by_hand() -> None:
    bodies, motions = np.array(["a", "b", "b", "b"]), np.array(["x", "x", "y", "x"])
    angles = np.array([0.0, 0.1, 0.2, 0.3])
    found = score(
        np.stack([np.cos(angles), np.sin(angles)], axis=1), Labels(bodies=bodies, motions=motions)
    )
    assert found.average_precision[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.precision_k[0] == pytest.approx(2 / 3)


def test_displacement_cosine_follows_the_true_way() -> None:
    ways = np.stack([{"up": (0, 0, 1), "left": (0, 1, 0), "turn": (1, 0, 0)}[m] for m in MOTIONS])
    found = score(vectors(clip_rows(noise=0.01)), labels(displacements=ways.astype(float)))
    assert found.means()["displacement_cosine"] == pytest.approx(1.0)


def test_the_best_normalisation_centres_shifted_bodies() -> None:
    rows = clip_rows(noise=0.2, offset=5.0)
    assert best_normalisation(rows, labels())[1] is True
    raw = score(vectors(rows), labels()).precision_k
    centred = score(vectors(rows, is_centred=True), labels()).precision_k
    low, _high = interval(centred - raw)
    assert low > 0


def test_intervals_cover_the_mean_and_shrink() -> None:
    draw = np.random.default_rng(2)
    few, many = draw.normal(0.3, 1, 50), draw.normal(0.3, 1, 5000)
    assert interval(few)[0] < few.mean() < interval(few)[1]
    assert np.ptp(interval(many)) < np.ptp(interval(few)) / 4


@pytest.mark.slow
def test_probes_find_what_is_there_on_a_body_they_did_not_see() -> None:
    draw = np.random.default_rng(3)
    latents = draw.normal(size=(900, 8))
    actions = np.concatenate([latents[:, :3] * 2, draw.normal(size=(900, 4))], axis=1)
    bodies = np.array(["a", "b", "c"]).repeat(300)
    found = probe(latents, actions, bodies.tolist())
    assert found["linear"]["r2"]["translation"] > 0.95
    assert found["mlp"]["r2"]["translation"] > 0.8
    assert found["linear"]["r2"]["rotation"] < 0.1
    assert set(found["linear"]["by_body"]) == {"a", "b", "c"}


def test_a_constant_column_counts_for_nothing() -> None:
    truth = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    assert r_squared(truth, truth) == 1.0
    assert r_squared(np.zeros((10, 1)), np.zeros((10, 1))) == 0.0


def test_turns_and_their_vectors() -> None:
    quarter = np.array([[np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)]])
    np.testing.assert_allclose(rotate(quarter, np.array([[1.0, 0, 0]])), [[0, 1, 0]], atol=1e-12)
    one = np.array([[1.0, 0, 0, 0]])
    np.testing.assert_allclose(rotation_vectors(one, quarter), [[0, 0, np.pi / 2]], atol=1e-12)
    np.testing.assert_allclose(rotation_vectors(one, -quarter), [[0, 0, np.pi / 2]], atol=1e-12)


def test_features_see_the_motion() -> None:
    draw = np.random.default_rng(4)
    ground = draw.integers(60, 140, (24, 32, 1), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = np.broadcast_to(ground, (12, 96, 128, 3)).copy()
    texture = draw.integers(60, 220, (24, 24, 3), dtype=np.uint8)
    for t in range(12):
        frames[t, 40:64, 20 + 2 * t : 44 + 2 * t] = texture
    found = pair_features(frames, step=4, every=2)
    assert {name: rows.shape for name, rows in found.items()} == {
        "pixel difference": (4, 192),
        "Farneback histogram": (4, 32),
        "DIS histogram": (4, 32),
        "DIS grid": (4, 96),
    }
    grid = found["DIS grid"][0].reshape(6, 8, 2)
    assert grid[2:4, 1:4, 0].max() > 1.0
    assert abs(grid[0]).max() < 0.2


def test_joined_features_have_equal_power_and_the_wanted_width() -> None:
    draw = np.random.default_rng(5)
    loud = [1000 * draw.normal(size=(n, 1)) for n in (3, 50)]
    quiet = [draw.normal(size=(n, 1)) for n in (3, 50)]
    rows = join([loud, quiet], width=2)
    assert [r.shape for r in rows] == [(3, 2), (50, 2)]
    spread = np.concatenate(rows).std(axis=0)
    assert spread.max() / spread.min() < 2


def test_statistics_count_the_dimensions_in_use() -> None:
    rows = np.zeros((100, 32))
    rows[:, :3] = np.random.default_rng(6).normal(size=(100, 3))
    found = statistics([rows])
    assert found["active_dimensions"] == 3
    assert 2.5 < found["effective_dimensions"] <= 3.01


def test_the_map_shows_every_clip_inside_its_frame() -> None:
    spots = plane(np.random.default_rng(7).normal(size=(40, 16)))
    assert spots.min() == 0
    assert spots.max() == 1
    picture = latent_map(np.eye(4), {"by body": list("aabb"), "by motion": list("xyxy")})
    colours = {tuple(rgb) for rgb in np.asarray(picture).reshape(-1, 3)[::7]}
    assert len(colours) > 4


def write_truth(videos: Path, number: int, *, motion: str, way: tuple[float, float, float]) -> None:
    times = np.arange(200) / FPS
    columns: dict[str, object] = {"time_s": times, "aperture_m": np.full(200, 0.05)}
    for what in ("hand", "camera"):
        for axis in POSE:
            columns[f"{what}_{axis}"] = np.full(200, 1.0 if axis == "qw" else 0.0)
    for axis, speed in zip(POSE, way, strict=False):
        columns[f"hand_{axis}"] = speed * times
    pq.write_table(
        pa.table({**columns, "primitive": [motion] * 200}), videos / f"{number}.truth.parquet"
    )


@pytest.fixture(scope="module")
def with_truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips in three videos of two bodies, two motions."""
    folder = tmp_path_factory.mktemp("eval")
    for number, (motion, way) in enumerate(
        [("up", (0, 0, 0.1)), ("left", (0, 0.1, 0)), ("up", (0, 0, 0.2))]
    ):
        write_truth(folder, number, motion=motion, way=way)
    return make_dataset(folder / "data", (30, 30, 30, 30, 30, 3), videos=folder).path


def test_truth_is_read_at_the_clips_own_times(with_truth: Path) -> None:
    clips = true_clips(Dataset.open(with_truth))
    assert {clip.motion for clip in clips} == {"up", "left"}
    assert not any(clip.is_camera_moving for clip in clips)
    lengths = {clip.ref.num_frames for clip in clips}
    assert lengths == {30, 3}
    for clip in clips:
        assert clip.displacement is not None
        speed = np.linalg.norm(clip.displacement) / ((clip.ref.num_frames - 1) / FPS)
        assert speed == pytest.approx(0.2, rel=1e-6) or speed == pytest.approx(0.1, rel=1e-6)
        actions = clip.actions(2, 1)
        assert actions is not None
        assert actions.shape == (clip.ref.num_frames - 2, 7)


def test_a_whole_report(with_truth: Path, tmp_path: Path, cli: Cli) -> None:
    small_model().save_pretrained(tmp_path / "model")
    args = (with_truth, "--model", tmp_path / "model", "--out", tmp_path / "eval")
    done = cli("latents", "eval", *args, "--step", 4, "--every", 2, "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["num_clips"] == 5  # the one of three frames is too short
    methods = [line["method"] for line in report["retrieval"]["table"]]
    assert methods[0] == "model"
    assert {"pixel difference", "DIS grid", "oracle (true actions)"} <= set(methods)
    assert "rotation" in report["probes"]["linear"]["r2"]
    assert report["left_out"] == {}
    page = (tmp_path / "eval" / "eval.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png") == 2
    assert "| model |" in (tmp_path / "eval" / "eval.md").read_text()
    assert json.loads((tmp_path / "eval" / "eval.json").read_text()) == report


def test_without_truth_the_report_says_what_is_left_out(tmp_path: Path, cli: Cli) -> None:
    made = make_dataset(tmp_path / "data", (30, 30))
    small_model().save_pretrained(tmp_path / "model")
    args = (made.path, "--model", tmp_path / "model", "--out", tmp_path / "eval")
    done = cli("latents", "eval", *args, "--step", 4, "--no-baselines", "--json", "--quiet")
    report = json.loads(done.stdout)
    assert set(report["left_out"]) == {"retrieval", "probes"}
    assert "retrieval" not in report
    done = cli("latents", "eval", *args, "--step", 40)
    assert done.exit_code == 2
    assert "No kept clip" in done.stderr


def test_a_truth_file_of_something_else_is_refused(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (30,), videos=tmp_path)
    pq.write_table(pa.table({"time_s": [0.0]}), tmp_path / "0.truth.parquet")
    with pytest.raises(UsageError, match="lacks the columns primitive"):
        true_clips(Dataset.open(made.path))
