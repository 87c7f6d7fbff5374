"""Semantic duplicates: one representative near each clip, no chains, the same in any order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_helpers import SETTINGS, clip_row, planned_unit, unit_row, video_row
from numpy.typing import NDArray

from curation import dedup_semantic
from curation.dedup_semantic import Known, representatives
from curation.dedup_semantic import dedup_semantic as search
from manifests.dataset import Dataset
from manifests.decide import decide
from manifests.errors import DatasetError, UsageError
from manifests.recipe import Recipe, Rule

Cli = Callable[..., SimpleNamespace]


def direction(degrees: float) -> list[float]:
    angle = np.deg2rad(degrees)
    return [float(np.cos(angle)), float(np.sin(angle)), 0.0]


def within(degrees: float) -> float:
    """The threshold just above the cosine distance of so many degrees."""
    return float(1.0 - np.cos(np.deg2rad(degrees + 0.01)))


def plain(vectors: NDArray[np.float32], limit: float) -> list[int]:
    """The definition, one clip after the other: clips come best first."""
    kept: list[int] = []
    found = []
    for place, vector in enumerate(vectors):
        apart = [1.0 - float(vectors[k].astype(float) @ vector.astype(float)) for k in kept]
        nearest = int(np.argmin(apart)) if apart else 0
        if apart and apart[nearest] <= limit:
            found.append(kept[nearest])
        else:
            kept.append(place)
            found.append(place)
    return found


def crowd(seed: int, num_clips: int = 400, *, num_scenes: int = 60) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scenes = rng.normal(size=(num_scenes, 16))
    vectors = scenes[rng.integers(0, num_scenes, num_clips)]
    vectors = vectors + rng.choice([0.05, 0.3], (num_clips, 1)) * rng.normal(size=vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_every_clip_belongs_to_the_nearest_better_representative(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup_semantic, "_BLOCK", block)
    vectors = crowd(0)
    best, distance = representatives(vectors, np.arange(400), limit=0.05)
    assert best.tolist() == plain(vectors, 0.05)
    assert 40 < len(set(best.tolist())) < 390
    assert distance.max() <= 0.05
    assert not distance[best == np.arange(400)].any()


@pytest.mark.parametrize("block", [5, 1024])
def test_what_is_known_never_changes_the_result(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the clips were compared before, some representatives are gone by now."""
    monkeypatch.setattr(dedup_semantic, "_BLOCK", block)
    vectors = crowd(1)
    rng = np.random.default_rng(2)
    for _ in range(5):
        old = np.flatnonzero(rng.random(400) < 0.6)
        best, distance = representatives(vectors, old, limit=0.05)
        kept = old[rng.random(len(old)) < 0.8]
        now = np.sort(np.union1d(kept, np.flatnonzero(rng.random(400) < 0.3)))
        place_of = {int(clip): place for place, clip in enumerate(now)}
        known = Known(
            is_known=np.isin(now, old), best=np.full(len(now), -1), distance=np.zeros(len(now))
        )
        for place, clip in enumerate(now):
            if clip in old:
                row = int(np.searchsorted(old, clip))
                known.best[place] = place_of.get(int(old[best[row]]), -1)
                known.distance[place] = distance[row]
        grown = representatives(vectors, now, limit=0.05, known=known)
        whole = representatives(vectors, now, limit=0.05)
        assert grown[0].tolist() == whole[0].tolist()
        assert grown[1].tolist() == whole[1].tolist()


def test_many_clips_are_searched_through_an_inverted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = crowd(3, 3000, num_scenes=300)
    exact, _ = representatives(vectors, np.arange(3000), limit=0.05)
    monkeypatch.setattr(dedup_semantic, "MAX_EXACT", 1000)
    found, distance = representatives(vectors, np.arange(3000), limit=0.05)
    assert distance.max() <= 0.05
    assert (found == exact).mean() >= 0.99
    assert representatives(vectors, np.arange(3000), limit=0.05)[0].tolist() == found.tolist()
    known = Known(is_known=np.ones(3000, bool), best=found, distance=distance)
    again, _ = representatives(vectors, np.arange(3000), limit=0.05, known=known)
    assert again.tolist() == found.tolist()


def toy(path: Path, embeddings: Mapping[str, Any], **changes: Mapping[str, Any]) -> Dataset:
    dataset = Dataset.create(path, SETTINGS)
    add(dataset, embeddings, **changes)
    return dataset


def add(dataset: Dataset, embeddings: Mapping[str, Any], **changes: Mapping[str, Any]) -> None:
    """A clip per name and its embedding; None: a clip that was not scored."""
    first = dataset.table("plan").num_rows
    scored = []
    with dataset.writer("toy") as writer:
        videos = [video_row(name) for name in embeddings]
        units = [planned_unit(first + number, [video]) for number, video in enumerate(videos)]
        writer.append_videos(videos)
        writer.append_plan(units)
        for unit, name in zip(units, embeddings, strict=True):
            row = clip_row(unit, unit.parts[0], **changes.get(name, {}))
            writer.commit_units([(unit_row(unit, [row]), [row])])
            scored.append({"clip_id": row["clip_id"], "embedding": embeddings[name]})
    rows = pa.Table.from_pylist([row for row in scored if row["embedding"] is not None])
    dataset.append_score("clip_b32", rows, metadata={"scorer": "embedding", "digest": "d"})


def clusters(dataset: Dataset) -> dict[str, tuple[str | None, int | None]]:
    """Name of each clip to the name of the best of its cluster, and its rank."""
    found = dataset.sql("SELECT clip_id, uri FROM clips").to_pylist()
    names = {row["clip_id"]: Path(row["uri"]).stem for row in found}
    rows = dataset.table("scores/semantic").to_pylist()
    return {names[r["clip_id"]]: (names.get(r["cluster_id"]), r["rank"]) for r in rows}


def test_a_chain_does_not_collapse_into_one_cluster(tmp_path: Path) -> None:
    """A slow turn through a scene, six degrees a clip; ten are allowed to the representative."""
    dataset = toy(tmp_path / "ds", {f"c{i}": direction(6 * i) for i in range(6)})
    summary = search(dataset, "clip_b32", max_distance=within(10))
    assert (summary.num_clusters, summary.num_duplicates) == (3, 3)
    assert clusters(dataset) == {
        "c0": ("c0", 0), "c1": ("c0", 1), "c2": ("c2", 0), "c3": ("c2", 1), "c4": ("c4", 0),
        "c5": ("c4", 1),
    }  # fmt: skip


def test_the_order_is_that_of_near_duplicates(tmp_path: Path) -> None:
    same = {"a": direction(0), "b": direction(1), "c": direction(2), "d": direction(90)}
    dataset = toy(tmp_path / "ds", same, b={"source_width_px": 900})
    search(dataset, "clip_b32")
    assert clusters(dataset) == {"b": ("b", 0), "a": ("b", 1), "c": ("b", 2), "d": (None, None)}
    rows = {r["clip_id"]: r for r in dataset.table("scores/semantic").to_pylist()}
    copies = [r for r in rows.values() if r["duplicate_of"] is not None]
    assert len(copies) == 2
    assert all(r["distance"] == pytest.approx(1 - np.cos(np.deg2rad(1)), abs=1e-6) for r in copies)


def test_growing_gives_what_comparing_all_gives(tmp_path: Path) -> None:
    turns = {f"c{i:02d}": direction(3.7 * ((i * 7) % 20)) for i in range(20)}
    sizes = {name: {"source_width_px": 50 + 7 * (i % 3)} for i, name in enumerate(turns)}
    whole = toy(tmp_path / "whole", turns, **sizes)
    search(whole, "clip_b32")
    names = list(turns)
    grown = toy(tmp_path / "grown", {n: turns[n] for n in names[12:]}, **sizes)
    assert search(grown, "clip_b32").num_new == 8
    add(grown, {n: turns[n] for n in names[:12]}, **sizes)
    assert search(grown, "clip_b32").num_new == 12
    order = [("clip_id", "ascending")]
    tables = [d.table("scores/semantic").sort_by(order) for d in (grown, whole)]
    assert tables[0].equals(tables[1])
    version = grown.versions["scores/semantic"]
    assert search(grown, "clip_b32").num_new == 0
    assert grown.versions["scores/semantic"] == version, "nothing changed, nothing written"
    assert search(grown, "clip_b32", redo=True).num_new == 20
    assert search(grown, "clip_b32", max_distance=0.2).num_new == 20, "another threshold"


def test_a_rule_can_drop_what_means_the_same(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "ds", {"a": direction(0), "b": direction(1), "c": None})
    rule = Rule(name="same_scene", keep_when="semantic.duplicate_of IS NULL")
    search(dataset, "clip_b32")
    decide(dataset, Recipe(name="r", keep=(rule,)))
    rows = dataset.sql("SELECT uri, reason FROM clips ORDER BY uri").to_pylist()
    assert [row["reason"] for row in rows] == [None, "same_scene", None]


def test_the_command_says_what_it_found(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "ds"
    toy(path, {"a": direction(0), "b": direction(1), "c": direction(60), "d": None})
    done = cli("dedup", path, "--semantic", "clip_b32")
    assert done.exit_code == 0, done.stderr
    assert "1 of 3 clips mean the same as another, in 1 clusters" in done.stdout
    assert "1 clips have no row in scores/clip_b32: not compared" in done.stdout
    found = json.loads(cli("dedup", path, "--semantic", "clip_b32", "--json").stdout)
    assert (found["num_new"], found["num_duplicates"], found["max_distance"]) == (0, 1, 0.05)


def test_wrong_tables_and_thresholds_are_refused(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "ds", {"a": direction(0), "b": [1.0, 0.0]})
    with pytest.raises(DatasetError, match="have 2 and 3 numbers"):
        search(dataset, "clip_b32")
    with pytest.raises(DatasetError, match="no score table 'clip_l14'"):
        search(dataset, "clip_l14")
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        search(dataset, "clip_b32", max_distance=1.5)
    ids = dataset.table("clips").column("clip_id")
    hands = pa.table({"clip_id": ids, "hands_ratio": [0.5] * len(ids)})
    dataset.append_score("hands", hands, metadata={})
    with pytest.raises(DatasetError, match="has no column 'embedding'; it has"):
        search(dataset, "hands")


def test_no_embeddings_are_no_duplicates(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "ds", {"a": [0.0, 0.0, 0.0]})
    assert search(dataset, "clip_b32").num_compared == 0
    assert dataset.table("scores/semantic").num_rows == 0
