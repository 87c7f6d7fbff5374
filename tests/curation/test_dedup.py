"""Near-duplicates: copies are found however they were made, different footage is not, and the
result does not depend on the order in which clips arrived."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dataset_helpers import SETTINGS, clip_row, planned_unit, unit_row, video_row
from numpy.typing import NDArray

from curation import candidates, codes, shelf
from curation.candidates import candidate_pairs
from curation.clusters import Alike, ClipFacts, cluster
from curation.dedup import MAX_DISTANCE, dedup
from curation.fingerprint import NUM_FIELDS, Fingerprint, mirrored, steps_of
from curation.matching import Places, best_match, has_texture, roughly_alike, smoothed
from curation.prints import Fingerprints
from curation.small import SmallPicture, reduce_picture
from manifests.dataset import Dataset
from manifests.decide import decide
from manifests.errors import DatasetError, UsageError
from manifests.recipe import Recipe, Rule, load_recipe, recipe_names
from pipeline.video import write_video

Cli = Callable[..., SimpleNamespace]
Steps = NDArray[np.uint8]

GREY = np.full((2, 120, 160), 128, np.uint8)
SETS = ("--set", "encode.width=160", "--set", "encode.height=120")


def footage(seed: int, seconds: float = 5.0, *, scene: int | None = None) -> Steps:
    """Steps of a scene before a fixed camera in which a few things move about for themselves."""
    rng = np.random.default_rng(seed if scene is None else scene)
    picture = rng.uniform(60, 190, (6, 8))
    rng = np.random.default_rng(seed)
    times = np.arange(round(4 * seconds))
    rows, columns = np.mgrid[0:6, 0:8]
    steps = np.repeat(picture[None], len(times), axis=0)
    for _ in range(3):
        phase, speed, level = rng.uniform(0, 6, 4), rng.uniform(0.15, 0.6, 4), rng.choice([-80, 80])
        y = 2.5 + 1.3 * np.sin(speed[0] * times + phase[0]) + np.sin(speed[1] * times + phase[1])
        x = 3.5 + 2 * np.sin(speed[2] * times + phase[2]) + np.sin(speed[3] * times + phase[3])
        away = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
        steps = steps + level * np.exp(-away / 1.5)
    return np.clip(np.round(steps), 16, 235).astype(np.uint8).reshape(-1, 48)


def copied(steps: Steps, seed: int = 0) -> Steps:
    """As after another encoder: a little noise, a little less contrast."""
    noise = np.random.default_rng(seed).normal(0, 1, steps.shape)
    return np.clip(np.round(126 + 0.9 * (steps - 126.0) + noise), 16, 235).astype(np.uint8)


def distance(first: Steps, second: Steps) -> float:
    match = best_match(smoothed(first), smoothed(second))
    return 2.0 if match is None else match.distance


def toy(path: Path, clips: Mapping[str, Steps], **changes: Mapping[str, Any]) -> Dataset:
    """A dataset with one clip per name; `changes` of columns by name."""
    dataset = Dataset.create(path, SETTINGS)
    add(dataset, clips, **changes)
    return dataset


def add(dataset: Dataset, clips: Mapping[str, Steps], **changes: Mapping[str, Any]) -> None:
    first = dataset.table("plan").num_rows
    with dataset.writer("toy") as writer:
        videos = [video_row(name) for name in clips]
        units = [planned_unit(first + number, [video]) for number, video in enumerate(videos)]
        writer.append_videos(videos)
        writer.append_plan(units)
        for unit, name in zip(units, clips, strict=True):
            words = clips[name].view("<i8").ravel().tolist()
            row = clip_row(unit, unit.parts[0], fingerprint_luma=words, **changes.get(name, {}))
            writer.commit_units([(unit_row(unit, [row]), [row])])


def scores(dataset: Dataset) -> list[dict[str, Any]]:
    return sorted(dataset.table("scores/duplicates").to_pylist(), key=lambda row: row["clip_id"])


def clusters(dataset: Dataset) -> dict[str, tuple[str | None, int | None]]:
    """Name of each clip to the name of the best of its cluster, and its rank."""
    found = dataset.sql("SELECT clip_id, uri FROM clips").to_pylist()
    names = {row["clip_id"]: Path(row["uri"]).stem for row in found}
    return {
        names[row["clip_id"]]: (names.get(row["cluster_id"]), row["rank"])
        for row in scores(dataset)
    }


def small(luma: NDArray[np.uint8]) -> SmallPicture:
    return reduce_picture(luma, GREY)


def test_a_fingerprint_is_the_mean_of_each_field_over_each_quarter_second() -> None:
    fingerprint = Fingerprint()
    for number in range(30):
        luma = np.full((240, 320), 100, np.uint8)
        luma[:40, :40] = 50 if number % 2 else 150
        luma[200:, 280:] = 200 if number < 15 else 20
        fingerprint.add(small(luma), 7.0 + number / 30)
    steps = steps_of(fingerprint.words())
    assert steps.shape == (4, 48)
    assert abs(int(steps[0, 0]) - 100) <= 10
    assert steps[:, 47].tolist() == [200, 200, 20, 20]
    assert set(steps[:, 1:47].ravel().tolist()) == {100}
    assert mirrored(steps)[0, 40] == 200
    assert np.array_equal(mirrored(mirrored(steps)), steps)


def test_a_slow_video_has_as_many_steps_as_a_fast_one() -> None:
    luma = np.random.default_rng(0).integers(16, 235, (240, 320)).astype(np.uint8)
    counts = []
    for fps in (1, 5, 30):
        fingerprint = Fingerprint()
        for number in range(3 * fps + 1):
            fingerprint.add(small(luma), number / fps)
        counts.append(len(steps_of(fingerprint.words())))
    assert counts == [13, 13, 13]


def test_every_kind_of_copy_is_near_and_everything_else_far() -> None:
    original = footage(1)
    copies = [original, copied(original), copied(original)[3:], copied(original)[2:-2]]
    assert max(distance(original, copy) for copy in copies) <= 0.5 * MAX_DISTANCE
    assert distance(original, mirrored(original)) > 2 * MAX_DISTANCE
    assert distance(original, mirrored(copied(mirrored(original)))) <= 0.5 * MAX_DISTANCE
    others = [footage(seed) for seed in range(2, 30)]
    same_room = [footage(seed, scene=1) for seed in range(2, 30)]
    assert min(distance(original, other) for other in others + same_room) > 2 * MAX_DISTANCE


def test_the_shift_between_two_clips_is_found() -> None:
    original = footage(1)
    match = best_match(smoothed(original), smoothed(copied(original)[3:]))
    assert match is not None
    assert (match.shift, match.num_common) == (3, 17)
    back = best_match(smoothed(copied(original)[3:]), smoothed(original))
    assert back is not None
    assert (back.shift, back.num_common) == (-3, 17)


def test_clips_without_texture_or_change_are_like_no_other() -> None:
    still = np.repeat(footage(1)[:1], 20, axis=0)
    noisy = [copied(still, seed) for seed in range(2)]
    assert distance(*noisy) > MAX_DISTANCE
    assert not any(has_texture(smoothed(steps)) for steps in (still, *noisy))
    dim = (126 + 0.02 * (footage(1) - 126.0)).astype(np.uint8)
    assert not has_texture(smoothed(dim))
    assert not has_texture(smoothed(footage(1)[:3]))
    assert has_texture(smoothed(footage(1)))


@pytest.mark.parametrize("seconds", [1.0, 2.0, 5.0])
def test_candidates_hold_every_copy_and_few_others(seconds: float) -> None:
    originals = [footage(seed, seconds) for seed in range(40)]
    copies = [copied(steps, seed) for seed, steps in enumerate(originals)]
    prints = Fingerprints.of([*originals, *copies, *map(mirrored, copies)])
    plain, flipped = candidate_pairs(prints, np.ones(len(prints), bool))
    found = {tuple(pair) for pair in plain.tolist()}
    assert {(i, 40 + i) for i in range(40)} <= found
    assert {(i, 80 + i) for i in range(40)} <= {tuple(pair) for pair in flipped.tolist()}
    assert len(found) < 120 * 119 / 2 / 10


def test_candidates_of_new_clips_are_those_of_all_that_hold_a_new_one() -> None:
    prints = Fingerprints.of([footage(seed, scene=seed % 3) for seed in range(60)])
    everything = candidate_pairs(prints, np.ones(60, bool))
    for seed in range(3):
        is_new = np.random.default_rng(seed).random(60) < 0.3
        for found, whole in zip(candidate_pairs(prints, is_new), everything, strict=True):
            wanted = [pair for pair in whole.tolist() if is_new[pair[0]] or is_new[pair[1]]]
            assert found.tolist() == wanted
    nothing = candidate_pairs(prints, np.zeros(60, bool))
    assert [len(pairs) for pairs in nothing] == [0, 0]


def mixed(seed: int, num_clips: int) -> Fingerprints:
    """Takes in few rooms, of 1 to 15 s, a third of them copies: trimmed or mirrored."""
    rng = np.random.default_rng(seed)
    clips: list[Steps] = []
    for number in range(num_clips):
        if number % 3 == 2:
            steps = copied(clips[int(rng.integers(number))], number)
            steps = steps[len(steps) // 10 :] if number % 2 else steps
            clips.append(mirrored(steps) if number % 4 == 0 else steps)
        else:
            clips.append(footage(number, rng.uniform(1, 15), scene=number % 4))
    return Fingerprints.of(clips)


def test_still_clips_of_every_length_have_no_candidates() -> None:
    lengths = (1, 3, 4, 7, 15, 16, 17, 39, 40, 41, 90)
    prints = Fingerprints.of([np.full((n, NUM_FIELDS), 99, np.uint8) for n in lengths])
    for found in candidate_pairs(prints, np.ones(len(lengths), bool)):
        assert found.shape == (0, 2)


def test_clips_of_all_lengths_are_compared_whichever_came_first() -> None:
    prints = mixed(0, 60)
    everything = candidate_pairs(prints, np.ones(60, bool))
    assert [len(pairs) > 0 for pairs in everything] == [True, True]
    wanted = {
        (i, j, is_mirrored)
        for i, j in itertools.combinations(range(60), 2)
        for is_mirrored in (False, True)
        if distance(prints[i], mirrored(prints[j]) if is_mirrored else prints[j]) <= MAX_DISTANCE
    }
    found = {
        (i, j, is_mirrored)
        for pairs, is_mirrored in zip(everything, (False, True), strict=True)
        for i, j in pairs.tolist()
    }
    assert len(wanted) > 20
    assert wanted <= found
    assert len(found) < 3 * len(wanted)
    is_new = np.random.default_rng(1).random(60) < 0.3
    for some, whole in zip(candidate_pairs(prints, is_new), everything, strict=True):
        assert some.tolist() == whole[is_new[whole].any(axis=1)].tolist()


def test_candidates_do_not_depend_on_parts_of_files_and_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prints = mixed(1, 30)
    wanted = [pairs.tolist() for pairs in candidate_pairs(prints, np.ones(30, bool))]
    assert min(map(len, wanted)) > 0
    monkeypatch.setattr(shelf, "_PART_RECORDS", 300)
    monkeypatch.setattr(shelf, "_HITS_AT_ONCE", 7)
    monkeypatch.setattr(codes, "_BLOCK_STEPS", 50)
    monkeypatch.setattr(candidates, "available_cpus", lambda: 1)
    assert shelf.Shelf(1, 1_000, files=ExitStack()).num_parts == 4
    assert [pairs.tolist() for pairs in candidate_pairs(prints, np.ones(30, bool))] == wanted


def test_hits_are_all_places_with_one_code() -> None:
    rng = np.random.default_rng(0)
    one, two = (np.sort(rng.integers(0, 20, n, np.uint64) << np.uint64(32)) for n in (50, 70))
    one, two = one + np.arange(50, dtype=np.uint64), two + np.arange(70, dtype=np.uint64)
    found = [pair for some in shelf.hits(one, two) for pair in zip(*map(list, some), strict=True)]
    assert sorted(found) == [
        (i, j) for i in range(50) for j in range(70) if int(one[i]) >> 32 == int(two[j]) >> 32
    ]
    assert list(shelf.hits(one[:0], two)) == list(shelf.hits(one, two[:0])) == []


def test_a_look_at_few_steps_agrees_with_a_look_at_all() -> None:
    """At the right shift copies pass, at others and with other takes they do not."""
    clips = [footage(seed, 10, scene=seed % 3) for seed in range(30)]
    copies = [copied(steps, seed)[5:] for seed, steps in enumerate(clips)]
    prints = Fingerprints.of([*clips, *copies])
    numbers = np.arange(30)

    def agree(moved: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
        one = Places(prints.starts[numbers] + 9, numbers)
        two = Places(prints.starts[30 + others] + 4 + moved, 30 + others)
        found = roughly_alike(prints, one, two)
        assert found.tolist() == roughly_alike(prints, two, one).tolist()
        return found

    assert agree(0, numbers).all()
    assert agree(6, numbers).sum() <= 1
    assert not agree(0, np.roll(numbers, 3)).any()
    assert not agree(10, numbers).any(), "less than four fifths in common"


def test_more_footage_than_a_search_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = toy(tmp_path / "ds", {"a": footage(1)})
    monkeypatch.setattr(shelf, "MAX_STEPS", 19)
    with pytest.raises(DatasetError, match="has 20 quarter seconds of fingerprints") as caught:
        dedup(dataset)
    assert caught.value.hint == (
        "Curate sources that cannot share footage into datasets of their own."
    )


def facts(name: str, **changes: Any) -> ClipFacts:
    plain = {"uri": name, "start_s": 0.0, "num_pixels": 100, "is_damaged": False, "num_steps": 20}
    return ClipFacts(clip_id=name, **{**plain, **changes})


def alike(first: str, second: str, num_common: int = 20) -> Alike:
    return Alike(
        first=first, second=second, distance=0.01, num_common=num_common, shift=0,
        is_mirrored=False,
    )  # fmt: skip


def ranks(clips: Sequence[ClipFacts], pairs: Sequence[Alike]) -> dict[str, tuple[str, int]]:
    found = cluster(clips, pairs)
    return {name: (place.cluster_id, place.rank) for name, place in sorted(found.items())}


def test_the_undamaged_clip_with_most_pixels_is_the_best_then_the_smallest_uri() -> None:
    pairs = [alike("a", "b"), alike("a", "c"), alike("b", "c")]
    clips = [facts("a"), facts("b"), facts("c")]
    assert ranks(clips, pairs) == {"a": ("a", 0), "b": ("a", 1), "c": ("a", 2)}
    clips = [facts("a"), facts("b"), facts("c", num_pixels=101)]
    assert ranks(clips, pairs) == {"a": ("c", 1), "b": ("c", 2), "c": ("c", 0)}
    clips = [facts("a", is_damaged=True), facts("b"), facts("c", is_damaged=True, num_pixels=900)]
    assert ranks(clips, pairs) == {"a": ("b", 2), "b": ("b", 0), "c": ("b", 1)}


def test_likeness_is_not_passed_on() -> None:
    """a is like b, b like c, ... as in a slow change: no clip stands for one it is not like."""
    names = "abcdef"
    clips = [facts(name) for name in names]
    chain = [alike(x, y) for x, y in itertools.pairwise(names)]
    found = ranks(clips, chain)
    assert found == {
        "a": ("a", 0), "b": ("a", 1), "c": ("c", 0), "d": ("c", 1), "e": ("e", 0), "f": ("e", 1),
    }  # fmt: skip


def test_a_clip_is_no_duplicate_of_one_that_shows_less_than_half_of_it() -> None:
    excerpt, whole = facts("a", num_steps=8), facts("b")
    pairs = [alike("a", "b", num_common=8)]
    assert ranks([excerpt, whole], pairs) == {"a": ("b", 1), "b": ("b", 0)}
    sharp = facts("a", num_steps=8, num_pixels=900)
    assert ranks([sharp, whole], pairs) == {}, "neither can stand for the other"


def test_clusters_do_not_depend_on_order() -> None:
    rng = random.Random(0)
    names = [f"{number:02d}" for number in range(30)]
    clips = [facts(name, num_pixels=rng.choice([100, 200])) for name in names]
    pairs = [alike(x, y) for x in names for y in names if x < y and rng.random() < 0.1]
    wanted = ranks(clips, pairs)
    for _ in range(5):
        rng.shuffle(clips)
        rng.shuffle(pairs)
        assert ranks(clips, pairs) == wanted


def library() -> dict[str, Steps]:
    """Two originals with copies of all kinds, different takes in one room, and a still."""
    clips = {f"take{seed}": footage(seed, scene=7) for seed in range(8)}
    clips["take0_copy"] = copied(clips["take0"])
    clips["take0_late"] = copied(clips["take0"], 1)[3:]
    clips["take1_turned"] = mirrored(copied(clips["take1"]))
    clips["still one"] = np.repeat(footage(9)[:1], 20, axis=0)
    clips["still two"] = copied(clips["still one"])
    return clips


def test_copies_are_found_in_a_dataset(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "ds", library(), take0_copy={"source_width_px": 51})
    summary = dedup(dataset)
    assert (summary.num_clusters, summary.num_duplicates) == (2, 3)
    assert summary.num_new == summary.num_compared == summary.num_clips == 13
    found = clusters(dataset)
    assert {name: place for name, place in found.items() if place[0] is not None} == {
        "take0_copy": ("take0_copy", 0),
        "take0": ("take0_copy", 1),
        "take0_late": ("take0_copy", 2),
        "take1": ("take1", 0),
        "take1_turned": ("take1", 1),
    }
    by_id = {row["clip_id"]: row for row in scores(dataset)}
    for row in by_id.values():
        if row["duplicate_of"] is not None:
            assert row["duplicate_of"] == row["cluster_id"] != row["clip_id"]
            assert 0 < row["distance"] <= MAX_DISTANCE
    assert sum(bool(row["is_mirrored"]) for row in by_id.values()) == 1


@pytest.mark.slow
def test_adding_step_by_step_gives_what_comparing_all_gives(tmp_path: Path) -> None:
    clips = list(library().items())
    whole = toy(tmp_path / "whole", dict(clips))
    dedup(whole)
    random.Random(1).shuffle(clips)
    grown = Dataset.create(tmp_path / "grown", SETTINGS)
    for start in range(0, len(clips), 4):
        add(grown, dict(clips[start : start + 4]))
        assert dedup(grown).num_new == len(clips[start : start + 4])
    assert scores(grown) == scores(whole)
    version = grown.versions["scores/duplicates"]
    assert dedup(grown).num_new == 0
    assert grown.versions["scores/duplicates"] == version, "nothing changed, nothing written"
    assert dedup(grown, redo=True).num_new == len(clips)
    assert scores(grown) == scores(whole)


def test_a_threshold_stays_until_another_is_given(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "ds", library())
    assert dedup(dataset, max_distance=1e-6).num_duplicates == 0
    assert dedup(dataset).max_distance == 1e-6
    again = dedup(dataset, max_distance=MAX_DISTANCE)
    assert (again.num_new, again.num_duplicates) == (13, 3)
    for wrong in (0.0, 1.0, -3.0):
        with pytest.raises(UsageError, match="must lie between 0 and 1"):
            dedup(dataset, max_distance=wrong)


def test_an_empty_dataset_and_clips_without_fingerprint_are_fine(tmp_path: Path) -> None:
    empty = Dataset.create(tmp_path / "empty", SETTINGS)
    assert dedup(empty).num_clips == 0
    assert empty.table("scores/duplicates").num_rows == 0
    old = toy(tmp_path / "old", {"a": np.empty((0, 48), np.uint8), "b": footage(1)})
    summary = dedup(old)
    assert (summary.num_clips, summary.num_compared, summary.num_duplicates) == (2, 1, 0)


def test_the_rule_keeps_the_best_that_other_rules_keep(tmp_path: Path) -> None:
    """Every shipped recipe has the same rule; it is silent before the search."""
    clips = {"a": footage(1), "b": copied(footage(1)), "c": footage(2)}
    dark = {"source_width_px": 900, "brightness_mean_luma": 10.0}
    dataset = toy(tmp_path / "ds", clips, a=dark)
    rules = [load_recipe(name).near_duplicate for name in recipe_names()]
    assert rules[0] is not None
    assert rules == [rules[0]] * len(rules)

    def kept(keep: Sequence[Rule] = ()) -> list[str]:
        decide(dataset, Recipe(name="r", keep=tuple(keep), near_duplicate=rules[0]))
        rows = dataset.sql("SELECT uri FROM kept ORDER BY uri").to_pylist()
        return [Path(row["uri"]).stem for row in rows]

    assert kept() == ["a", "b", "c"], "no table yet"
    dedup(dataset)
    assert kept() == ["a", "c"]
    reasons = dataset.sql("SELECT uri FROM clips WHERE reason = 'near_duplicate'").to_pylist()
    assert [Path(row["uri"]).stem for row in reasons] == ["b"]
    light = Rule(name="dark", keep_when="brightness_mean_luma > 20")
    assert kept([light]) == ["b", "c"], "the best one is dark: the next best stays"


def scene(path: Path, *, width: int, height: int, seed: int, **options: Any) -> Path:
    """Film a `footage`, with `skip` frames left out at the start and `flip` for a mirror.

    A standing pattern lies over it, or slow changes all over would be taken for a dissolve.
    """
    fps, skip, flip = options.get("fps", 15), options.get("skip_s", 0.0), options.get("flip", False)
    steps = footage(seed, 5.0).reshape(-1, 6, 8).astype(np.float64)
    signs = np.random.default_rng(seed).choice([-45.0, 45.0], (6, 8))
    pattern = np.kron(signs, np.array([[1, -1], [-1, 1]]))

    def frames() -> Any:
        for number in range(round(skip * fps), round(4.5 * fps)):
            at = number / fps * 4
            low = int(at)
            field = steps[low] + (at - low) * (steps[low + 1] - steps[low])
            field = np.kron(field, np.ones((2, 2))) + pattern
            picture = np.kron(field, np.ones((height // 12, width // 16)))[..., None]
            picture = np.repeat(picture.clip(0, 255), 3, axis=2).astype(np.uint8)
            yield np.ascontiguousarray(picture[:, ::-1] if flip else picture)

    write_video(path, frames(), fps, crf=options.get("crf", 18))
    return path


def test_curate_drops_copies_of_every_kind(
    tmp_path: Path, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "footage"
    folder.mkdir()
    scene(folder / "a.mp4", width=320, height=240, seed=1)
    scene(folder / "b scaled.mp4", width=160, height=120, seed=1, crf=30, fps=10)
    scene(folder / "c trimmed.mp4", width=160, height=120, seed=1, skip_s=0.6)
    scene(folder / "d mirrored.mp4", width=160, height=120, seed=1, flip=True)
    scene(folder / "e other.mp4", width=160, height=120, seed=2)
    out = tmp_path / "ds"
    words = ("--out", out, "--inline", "--recipe", "permissive", "--quiet", *SETS)
    done = cli("curate", folder, *words)
    assert done.exit_code == 0, done.stderr
    rows = Dataset.open(out).sql("SELECT uri, verdict, reason FROM files").to_pylist()
    fates = {Path(row["uri"]).name[0]: (row["verdict"], row["reason"]) for row in rows}
    gone = ("drop", "near_duplicate")
    assert fates == {"a": ("keep", None), "b": gone, "c": gone, "d": gone, "e": ("keep", None)}
    scene(folder / "f larger.mp4", width=480, height=360, seed=1)
    done = cli("curate", folder, *words)
    assert done.exit_code == 0, done.stderr
    rows = Dataset.open(out).sql("SELECT uri FROM kept ORDER BY uri").to_pylist()
    assert [Path(row["uri"]).name[0] for row in rows] == ["e", "f"]
    done = cli("curate", folder, *words, "--set", "dedup_max_clips=5")
    assert "6 clips are more than dedup_max_clips=5: no near-duplicates were" in caplog.text
    done = cli("dedup", out, "--threshold", "0.000001", "--json")
    assert json.loads(done.stdout)["num_duplicates"] == 0


def test_the_command_says_what_it_found(tmp_path: Path, cli: Cli) -> None:
    toy(tmp_path / "ds", {**library(), "old": np.empty((0, 48), np.uint8)})
    done = cli("dedup", tmp_path / "ds")
    assert done.exit_code == 0
    assert "3 of 13 clips are near-duplicates, in 2 clusters (13 clips compared anew" in done.stdout
    assert "1 clips were written before fingerprints existed: not compared" in done.stdout
    found = json.loads(cli("dedup", tmp_path / "ds", "--json").stdout)
    assert (found["num_new"], found["num_duplicates"]) == (0, 3)
    assert cli("dedup", tmp_path / "ds", "--quiet").stdout == ""
    wrong = cli("dedup", tmp_path / "ds", "--threshold", "7")
    assert wrong.exit_code == 2
    assert "The threshold is 7.0, must lie between 0 and 1." in wrong.stderr
