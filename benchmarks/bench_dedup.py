"""Near-duplicates by the number of clips: cost, candidates and recall against comparing all pairs.

Prediction before the first run: CPU time grows with the number of clips (at most 12x for 10x), at
least 0.99 of what comparing all pairs finds is found, and 1e5 clips take minutes.

Synthetic clips are mixtures of two fingerprints of the real videos (two thirds and one third, each
from a random place, at a random speed, mirrored or not), so they move and look as footage does;
half are 20 s long, the others 1 to 15 s. One in twenty is a copy of another clip: with noise and
contrast changed, every second one trimmed by an eighth, every third one mirrored. The truth for a
sample of clips is the distance to every other clip, as is and mirrored, at every shift, by matrix
products; real clips are all compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, cpu_seconds, report
from numpy.typing import NDArray

from curation.candidates import candidate_pairs
from curation.dedup import MAX_DISTANCE
from curation.fingerprint import COLUMN, mirrored, steps_of
from curation.matching import best_match, has_texture, smoothed
from curation.prints import Fingerprints
from manifests.dataset import Dataset

Steps = NDArray[np.uint8]
SIZES = (1_000, 10_000, 100_000)
LENGTHS = (4, 8, 16, 32, 60)
NUM_PLANTED_CHECKED = 2_000
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


def copy_of(rng: np.random.Generator, steps: Steps, number: int) -> Steps:
    """As after another encoder, perhaps trimmed, perhaps mirrored."""
    if number % 2:
        steps = steps[max(0, len(steps) // 8) :]
    noisy = 126 + rng.uniform(0.85, 1.1) * (steps - 126.0) + rng.normal(0, 1, steps.shape)
    made: Steps = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return mirrored(made) if number % 3 == 0 else made


def synthetic(real: list[Steps], num_clips: int) -> tuple[list[Steps], list[tuple[int, int]]]:
    """Clips, the same every time, and which are copies of which."""
    rng = np.random.default_rng(num_clips)
    clips: list[Steps] = []
    planted = []
    for number in range(num_clips):
        if number % 20 == 19:
            first = int(rng.integers(number))
            clips.append(copy_of(rng, clips[first], number))
            planted.append((first, number))
        else:
            num_steps = 80 if rng.random() < 0.5 else int(rng.choice(LENGTHS))
            clips.append(mixture(rng, real, num_steps))
    return clips, planted


def alike(clips: list[Steps], first: int, second: int, *, is_mirrored: bool) -> bool:
    """What the search says of a pair, in the order it looks."""
    other = clips[second]
    one, two = smoothed(clips[first]), smoothed(mirrored(other) if is_mirrored else other)
    if not (has_texture(one) and has_texture(two)):
        return False
    match = best_match(one, two)
    return match is not None and match.distance <= MAX_DISTANCE


def near_by_pictures(clips: list[Steps], sample: NDArray[np.int64]) -> set[tuple[int, int, bool]]:
    """Pairs of a sampled and any other clip whose pictures agree at some shift, float32.

    The correlation of pictures is the first of the two that `best_match` asks for, so every alike
    pair is among these; the second is asked exactly afterwards.
    """
    plain = [smoothed(steps).astype(np.float32) for steps in clips]
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


def measure(real: list[Steps], num_clips: int, num_sampled: int) -> dict[str, Any]:
    """Search once, then again with one clip in a hundred new; then the truth."""
    clips, planted = synthetic(real, num_clips)
    prints = Fingerprints.of(clips)
    start = cpu_seconds()
    plain, flipped = candidate_pairs(prints, np.ones(num_clips, bool))
    search_s = cpu_seconds() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    candidates = {(*pair, False) for pair in map(tuple, plain.tolist())}
    candidates |= {(*pair, True) for pair in map(tuple, flipped.tolist())}
    start = cpu_seconds()
    listed = sorted(candidates)[:: max(1, len(candidates) // 2_000)]
    num_alike = sum(alike(clips, i, j, is_mirrored=m) for i, j, m in listed)
    verify_s = (cpu_seconds() - start) / max(1, len(listed))
    is_new = np.zeros(num_clips, bool)
    is_new[-(num_clips // 100) :] = True
    start = cpu_seconds()
    candidate_pairs(prints, is_new)
    more_s = cpu_seconds() - start
    rng = np.random.default_rng(1)
    size = min(num_clips, num_sampled)
    sample = np.sort(rng.choice(num_clips, size, replace=False))
    truth = {
        (i, j, m)
        for i, j, m in near_by_pictures(clips, sample)
        if alike(clips, i, j, is_mirrored=m)
    }
    true_copies = [
        (i, j, m)
        for i, j in planted[:: max(1, len(planted) // NUM_PLANTED_CHECKED)]
        for m in (False, True)
        if alike(clips, i, j, is_mirrored=m)
    ]
    return {
        "num_steps": len(prints.steps),
        "fingerprints_mb": round(prints.steps.nbytes / 1e6, 1),
        "search_cpu_s": round(search_s, 2),
        "search_us_per_clip": round(1e6 * search_s / num_clips, 1),
        "one_percent_new_cpu_s": round(more_s, 2),
        "num_candidates": len(candidates),
        "candidates_per_clip": round(len(candidates) / num_clips, 3),
        "alike_share_of_candidates": round(num_alike / max(1, len(listed)), 3),
        "verify_us_per_candidate": round(1e6 * verify_s, 1),
        "verify_cpu_s": round(verify_s * len(candidates), 2),
        "peak_search_mib": round(peak_mib),
        "num_sampled": size,
        "truth": len(truth),
        "truth_found": len(truth & candidates),
        "recall": round(len(truth & candidates) / max(1, len(truth)), 4),
        "copies_checked": len(true_copies),
        "copies_found": len(set(true_copies) & candidates),
        "recall_of_copies": round(len(set(true_copies) & candidates) / max(1, len(true_copies)), 4),
    }


def measure_real(real: list[Steps]) -> dict[str, Any]:
    """All pairs of the real clips against the search."""
    prints = Fingerprints.of(real)
    start = cpu_seconds()
    plain, flipped = candidate_pairs(prints, np.ones(len(real), bool))
    search_s = cpu_seconds() - start
    found = {(*pair, False) for pair in map(tuple, plain.tolist())}
    found |= {(*pair, True) for pair in map(tuple, flipped.tolist())}
    pairs = near_by_pictures(real, np.arange(len(real)))
    truth = {(i, j, m) for i, j, m in pairs if alike(real, i, j, is_mirrored=m)}
    return {
        "num_clips": len(real),
        "num_pairs": len(real) * (len(real) - 1) // 2,
        "search_cpu_s": round(search_s, 3),
        "num_candidates": len(found),
        "truth": len(truth),
        "truth_found": len(truth & found),
        "recall": round(len(truth & found) / max(1, len(truth)), 4),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a curated dataset of real videos")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of clips")
    parser.add_argument("--sampled", type=int, default=20, help="clips compared with all others")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    real = real_fingerprints(args.dataset)
    if args.measure:
        usable = [steps for steps in real if len(steps) >= 16]
        print(json.dumps(measure(usable, args.measure, args.sampled)))
        return
    result: dict[str, Any] = {"real": measure_real(real)}
    print("real", result["real"], file=sys.stderr, flush=True)
    for num_clips in args.sizes:
        words = [sys.executable, __file__, str(args.dataset), "--measure", str(num_clips)]
        words += ["--sampled", str(args.sampled)]
        with tempfile.TemporaryFile() as output:
            subprocess.run(words, check=True, stdout=output)
            output.seek(0)
            result[str(num_clips)] = json.loads(output.read())
        print(num_clips, result[str(num_clips)], file=sys.stderr, flush=True)
    report("dedup", {"result": result}, args)


if __name__ == "__main__":
    main()
