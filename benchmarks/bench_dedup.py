"""Near-duplicates by the number of clips: cost, memory, candidates, and recall.

Four kinds of synthetic sets, the same every time:
- `rooms` (`dedup_footage.py`): as many rooms as a large collection has for so many clips, one clip
  in twenty a copy: encoded again, scaled, trimmed to 80 to 100 %, or mirrored.
- `strangers`: the same with three clips a room: what share a code do so by chance.
- `mixtures`: all clips from few scenes, each two thirds of one fingerprint of the real videos and
  one third of another, from a random place, at a random speed. However many there are, one pair
  in a hundred shares its larger part: the cost per clip must grow here.
- `cell`: takes of 20 s of one task before one fixed camera, whatever their number: so must it here.

Prediction, after a first look at 5,000 clips of rooms (2 ms of CPU a clip) and before any larger
run: at 1e5 clips of rooms at most 4 ms a clip and 3 candidates a clip, at least 0.995 of the copies
of every kind that are alike by definition found, at most 1 GiB of memory; at 1e4 mixtures at
least five times fewer candidates than the 100 a clip that one pair in a hundred made before.

The truth for a sample of clips is the distance to every other clip, as is and mirrored, at every
shift, by matrix products; real clips are all compared. Memory is what the search holds itself
(RssAnon); the fingerprints lie in a file, as they do in `egodojo dedup`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dedup_footage
import numpy as np
from common import RESULTS, arguments, cpu_seconds, report
from numpy.typing import NDArray

from curation import candidates as candidates_module
from curation.candidates import candidate_pairs
from curation.dedup import MAX_DISTANCE
from curation.fingerprint import COLUMN, mirrored, steps_of
from curation.matching import Places, best_match, has_texture, smoothed
from curation.prints import Fingerprints
from manifests.dataset import Dataset

Steps = NDArray[np.uint8]
SIZES = (1_000, 10_000, 100_000)
FEW_SCENES_SIZES = (1_000, 10_000)
LENGTHS = (4, 8, 16, 32, 60)
NUM_PLANTED_CHECKED = 4_000
NUM_VERIFIED = 2_000
STRANGERS_SIZES = (10_000,)
PER_ROOM = {"rooms": dedup_footage.CLIPS_PER_ROOM, "strangers": 3}
MAX_ASKED_AGAIN = 10_000
SLACK = 0.02
"""Pairs that float32 puts this far above the threshold are looked at exactly."""


def real_fingerprints(dataset: Path) -> list[Steps]:
    """Fingerprints of all written clips of a dataset, at least 4 s long ones."""
    query = f"SELECT {COLUMN} AS words FROM clips WHERE gate IS NULL ORDER BY clip_id"
    words = Dataset.open(dataset).sql(query)["words"].to_pylist()
    return [steps_of(found) for found in words if found]


def mixture(rng: np.random.Generator, real: list[Steps], num_steps: int) -> Steps:
    """A clip made of two real ones."""
    parts = []
    for weight in (0.67, 0.33):
        steps = real[rng.integers(len(real))]
        steps = mirrored(steps) if rng.random() < 0.5 else steps
        speed = rng.uniform(0.5, 2.0)
        at = rng.uniform(0, len(steps)) + speed * np.arange(num_steps)
        at = np.abs((at + len(steps)) % (2 * len(steps)) - len(steps)).clip(0, len(steps) - 1)
        low = at.astype(np.int64)
        high = np.minimum(low + 1, len(steps) - 1)
        share = (at - low)[:, None]
        parts.append(weight * ((1 - share) * steps[low] + share * steps[high]))
    return np.clip(np.round(parts[0] + parts[1]), 0, 255).astype(np.uint8)


def planted(clips: list[Steps], seed: int) -> Iterator[tuple[Steps, int, str]]:
    """Every clip, or in one case in twenty a copy of an earlier one: steps, of which, how made."""
    rng = np.random.default_rng(seed)
    made: list[Steps] = []
    for number, steps in enumerate(clips):
        of, kind = -1, ""
        if number % 20 == 19:
            of, kind = int(rng.integers(number)), dedup_footage.COPIES[number // 20 % 4]
            steps = dedup_footage.copy_of(rng, made[of], kind)
        made.append(steps)
        yield steps, of, kind


def synthetic(scenes: str, num_clips: int, real: list[Steps]) -> list[Steps]:
    """Clips of one kind of set, before copies take the place of some."""
    if scenes in PER_ROOM:
        return list(dedup_footage.clips_of(num_clips, seed=1, per_room=PER_ROOM[scenes]))
    rng = np.random.default_rng(num_clips)
    if scenes == "cell":
        room = dedup_footage.Room(kind="repeated", seed=1)
        sizes = [min(250, num_clips - start) for start in range(0, num_clips, 250)]
        return [steps for size in sizes for steps in room.film(rng, size)]
    lengths = np.where(rng.random(num_clips) < 0.5, 80, rng.choice(LENGTHS, num_clips))
    return [mixture(rng, real, int(length)) for length in lengths]


def write_set(folder: Path, scenes: str, num_clips: int, real: list[Steps]) -> None:
    """Fingerprints as `egodojo dedup` lays them out, and what was planted."""
    starts, copies = [0], []
    with (folder / "steps").open("wb") as file:
        for steps, of, kind in planted(synthetic(scenes, num_clips, real), num_clips):
            if of >= 0:
                copies.append((of, len(starts) - 1, kind))
            file.write(steps.tobytes())
            starts.append(starts[-1] + len(steps))
    np.save(folder / "starts.npy", np.array(starts, np.int64))
    (folder / "copies.json").write_text(json.dumps(copies))


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The most MiB that this process holds itself, mapped files apart, sampled."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            words = Path("/proc/self/status").read_text().split()
            peak[0] = max(peak[0], int(words[words.index("RssAnon:") + 1]) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def alike(clips: Fingerprints, first: int, second: int, *, is_mirrored: bool) -> bool:
    """What the search says of a pair, in the order it looks."""
    other = clips[second]
    one, two = smoothed(clips[first]), smoothed(mirrored(other) if is_mirrored else other)
    if not (has_texture(one) and has_texture(two)):
        return False
    match = best_match(one, two)
    return match is not None and match.distance <= MAX_DISTANCE


def near_by_pictures(clips: Fingerprints, sample: NDArray[np.int64]) -> set[tuple[int, int, bool]]:
    """Pairs of a sampled and any other clip whose pictures agree at some shift, float32.

    The correlation of pictures is the first of the two that `best_match` asks for, so every alike
    pair is among these; the second is asked exactly afterwards.
    """
    plain = [smoothed(clips[i]).astype(np.float32) for i in range(len(clips))]
    energy = [np.concatenate([[0.0], np.cumsum((x * x).sum(axis=1))]) for x in plain]
    lengths = np.array([len(x) for x in plain])
    found = set()
    for number in sample.tolist():
        for is_mirrored in (False, True):
            steps = mirrored(clips[number]) if is_mirrored else clips[number]
            one = smoothed(steps).astype(np.float32)
            own = np.concatenate([[0.0], np.cumsum((one * one).sum(axis=1))])
            for length in np.unique(lengths):
                group = np.flatnonzero(lengths == length)
                group = group[group != number]
                if len(one) < 4 or length < 4 or not len(group):
                    continue
                least = max(4, int(np.ceil(0.8 * min(len(one), length))))
                block = np.stack([plain[i] for i in group]).reshape(len(group), -1)
                sums = np.stack([energy[i] for i in group])
                for shift in range(least - length, len(one) - least + 1):
                    start, stop = max(shift, 0), min(shift + length, len(one))
                    a, b = start - shift, stop - shift
                    products = block[:, 48 * a : 48 * b] @ one[start:stop].ravel()
                    scale = np.sqrt((own[stop] - own[start]) * (sums[:, b] - sums[:, a]))
                    is_near = products >= (1 - MAX_DISTANCE - SLACK) * np.maximum(scale, 1.0)
                    for other in group[is_near].tolist():
                        pair = min(number, other), max(number, other)
                        found.add((*pair, is_mirrored))
    return found


@contextmanager
def looks() -> Iterator[list[int]]:
    """How many pairs of places with one code are looked at."""
    counts: list[int] = []
    look = candidates_module.roughly_alike

    def counted(prints: Fingerprints, first: Places, *args: Any, **kwargs: Any) -> Any:
        counts.append(len(first.steps))
        return look(prints, first, *args, **kwargs)

    candidates_module.roughly_alike = counted
    try:
        yield counts
    finally:
        candidates_module.roughly_alike = look


Candidates = set[tuple[int, int, bool]]


def searched(prints: Fingerprints, is_new: NDArray[np.bool_]) -> Candidates:
    """Candidates as smaller position, larger position, mirrored."""
    plain, flipped = candidate_pairs(prints, is_new)
    found = {(*pair, False) for pair in map(tuple, plain.tolist())}
    return found | {(*pair, True) for pair in map(tuple, flipped.tolist())}


def measure(folder: Path, num_sampled: int) -> dict[str, Any]:
    """Search once, in small sets again with one clip in a hundred new; then the truth."""
    starts = np.load(folder / "starts.npy")
    steps = np.asarray(np.memmap(folder / "steps", np.uint8, "r", shape=(int(starts[-1]), 48)))
    prints = Fingerprints(steps=steps, starts=starts)
    num_clips = len(prints)
    start, clock = cpu_seconds(), time.perf_counter()
    with peak_memory() as peak, looks() as looked:
        candidates = searched(prints, np.ones(num_clips, bool))
    search_s, wall_s = cpu_seconds() - start, time.perf_counter() - clock
    start = cpu_seconds()
    listed = sorted(candidates)[:: max(1, len(candidates) // NUM_VERIFIED)]
    num_alike = sum(alike(prints, i, j, is_mirrored=m) for i, j, m in listed)
    verify_s = (cpu_seconds() - start) / max(1, len(listed)) * len(candidates)
    return {
        "load_1min": round(os.getloadavg()[0], 2),
        "num_steps": len(steps),
        "fingerprints_mb": round(steps.nbytes / 1e6, 1),
        "search_cpu_s": round(search_s, 2),
        "search_wall_s": round(wall_s, 2),
        "search_ms_per_clip": round(1e3 * search_s / num_clips, 3),
        "looks_per_clip": round(sum(looked) / num_clips, 3),
        "num_candidates": len(candidates),
        "candidates_per_clip": round(len(candidates) / num_clips, 3),
        "alike_share_of_candidates": round(num_alike / max(1, len(listed)), 3),
        "verify_cpu_s": round(verify_s, 2),
        "verify_us_per_candidate": round(1e6 * verify_s / max(1, len(candidates)), 1),
        "all_ms_per_clip": round(1e3 * (search_s + verify_s) / num_clips, 3),
        **({} if num_clips > MAX_ASKED_AGAIN else added(prints, candidates)),
        "peak_mib": round(peak[0]),
        **recall(prints, candidates, num_sampled),
        "copies": recall_of_copies(folder, prints, candidates),
    }


def added(prints: Fingerprints, candidates: Candidates) -> dict[str, float]:
    """What it costs when one clip in a hundred is new; it must find the same."""
    is_new = np.zeros(len(prints), bool)
    is_new[-(len(prints) // 100) :] = True
    start = cpu_seconds()
    some = searched(prints, is_new)
    assert some == {(i, j, m) for i, j, m in candidates if is_new[i] or is_new[j]}
    return {"one_percent_new_cpu_s": round(cpu_seconds() - start, 2)}


def recall(prints: Fingerprints, candidates: Candidates, num_sampled: int) -> dict[str, Any]:
    """Of all that is alike to some clips, what is among the candidates."""
    rng = np.random.default_rng(1)
    size = min(len(prints), num_sampled)
    sample = np.sort(rng.choice(len(prints), size, replace=False))
    near = near_by_pictures(prints, sample)
    truth = {(i, j, m) for i, j, m in near if alike(prints, i, j, is_mirrored=m)}
    found = len(truth & candidates)
    return {"num_sampled": size, "truth": len(truth), "truth_found": found}


def recall_of_copies(
    folder: Path, prints: Fingerprints, candidates: Candidates
) -> dict[str, dict[str, int]]:
    """By kind: copies looked at, those that are alike by definition, and those found."""
    made, alike_ones, found = Counter[str](), Counter[str](), Counter[str]()
    copies = json.loads((folder / "copies.json").read_text())
    for i, j, kind in copies[:: max(1, len(copies) // NUM_PLANTED_CHECKED)]:
        made[kind] += 1
        pairs = {(i, j, m) for m in (False, True) if alike(prints, i, j, is_mirrored=m)}
        alike_ones[kind] += bool(pairs)
        found[kind] += bool(pairs & candidates)
    return {
        kind: {"made": made[kind], "alike": alike_ones[kind], "found": found[kind]}
        for kind in dedup_footage.COPIES
    }


def measure_real(real: list[Steps]) -> dict[str, Any]:
    """All pairs of the real clips against the search."""
    prints = Fingerprints.of(real)
    start = cpu_seconds()
    found = searched(prints, np.ones(len(real), bool))
    search_s = cpu_seconds() - start
    pairs = near_by_pictures(prints, np.arange(len(real)))
    truth = {(i, j, m) for i, j, m in pairs if alike(prints, i, j, is_mirrored=m)}
    return {
        "num_clips": len(real),
        "num_pairs": len(real) * (len(real) - 1) // 2,
        "search_cpu_s": round(search_s, 3),
        "num_candidates": len(found),
        "truth": len(truth),
        "truth_found": len(truth & found),
    }


def measured(scenes: str, num_clips: int, real: list[Steps], sampled: int) -> dict[str, Any]:
    """One set in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), scenes, num_clips, real)
        words = [sys.executable, __file__, folder, "--measure", "--sampled", str(sampled)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    print(scenes, num_clips, found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a curated dataset of real videos")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="clips of rooms")
    for scenes in ("mixtures", "cell"):
        parser.add_argument(f"--{scenes}", type=int, nargs="*", default=FEW_SCENES_SIZES)
    parser.add_argument("--sampled", type=int, default=20, help="clips compared with all others")
    parser.add_argument("--strangers", type=int, nargs="*", default=STRANGERS_SIZES)
    parser.add_argument("--more", action="store_true", help="keep saved sizes not asked for")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.dataset, args.sampled)))
        return
    real = real_fingerprints(args.dataset)
    result: dict[str, Any] = {"real": measure_real(real)}
    print("real", result["real"], file=sys.stderr, flush=True)
    usable = [steps for steps in real if len(steps) >= 16]
    sets = {"rooms": args.sizes, "strangers": args.strangers}
    sets |= {"mixtures": args.mixtures, "cell": args.cell}
    for scenes, sizes in sets.items():
        result[scenes] = {}
        for size in sizes:
            result[scenes][str(size)] = measured(scenes, size, usable, args.sampled)
    if args.more:
        saved = json.loads((RESULTS / "dedup.json").read_text())["result"]
        for scenes in sets:
            result[scenes] = {**saved.get(scenes, {}), **result[scenes]}
    report("dedup", {"result": result}, args)


if __name__ == "__main__":
    main()
