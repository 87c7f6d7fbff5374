"""Curate a folder of labelled videos and compare every file's fate with its label.

The folder holds INDEX.csv with columns `path` and `expect` (`keep`, `drop:<why>`, `any`,
`content`), and CUTS.csv with `path` and `cut_time_s`.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import arguments, report

MUST_NOT_KEEP = ("unreadable", "black", "frozen", "too_short", "duplicate")
CUT_TOLERANCE_S = 0.06


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def compare(videos: Path, dataset_path: Path) -> dict[str, Any]:
    """Confusion of verdicts, files that miss their label, and cuts found, missed and extra."""
    from manifests.dataset import Dataset

    dataset = Dataset.open(dataset_path)
    expected = {row["path"]: row["expect"] for row in read_csv(videos / "INDEX.csv")}
    confusion: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    missed: list[dict[str, Any]] = []
    num_broken_promises = 0
    for row in dataset.sql("SELECT * FROM files ORDER BY uri").to_pylist():
        path = str(Path(row["uri"]).relative_to(videos.resolve()))
        expect = expected[path]
        kind, _, why = expect.partition(":")
        is_copy = kind == "keep" and row["reason"] == "near_duplicate"  # its like is kept
        confusion[f"{kind} -> {'copy of a kept file' if is_copy else row['verdict']}"] += 1
        if kind == "drop" and row["verdict"] == "drop":
            reasons[f"{why} -> {row['reason']}"] += 1
        if kind in ("keep", "drop") and row["verdict"] != kind and not is_copy:
            missed.append({"path": path, "expect": expect, "reason": row["reason"]})
        must_drop = why in MUST_NOT_KEEP and row["verdict"] == "keep"
        must_read = kind == "keep" and row["state"] in ("unreadable", "failed", "quarantined")
        num_broken_promises += must_drop or must_read
    return {
        "num_files": sum(confusion.values()),
        "num_labelled": len(expected),
        "states": dict(Counter(dataset.sql("SELECT state FROM files").column("state").to_pylist())),
        "confusion": dict(sorted(confusion.items())),
        "drop_reasons": dict(sorted(reasons.items())),
        "against_label": missed,
        "num_broken_promises": num_broken_promises,
        "cuts": compare_cuts(videos, dataset),
    }


def compare_cuts(videos: Path, dataset: Any) -> dict[str, Any]:
    """Cuts of the labelled files that were found, and those found in files without any label."""
    labelled: dict[str, list[float]] = {}
    for row in read_csv(videos / "CUTS.csv"):
        labelled.setdefault(str((videos / row["path"]).resolve()), []).append(
            float(row["cut_time_s"])
        )
    found = dataset.sql("SELECT uri, end_s FROM clips WHERE ends_at = 'cut'").to_pylist()
    num_found = sum(
        any(row["uri"] == uri and abs(row["end_s"] - cut_s) <= CUT_TOLERANCE_S for row in found)
        for uri, cuts in labelled.items()
        for cut_s in cuts
    )
    elsewhere = Counter(
        str(Path(row["uri"]).relative_to(videos.resolve()))
        for row in found
        if not any(
            abs(row["end_s"] - cut_s) <= CUT_TOLERANCE_S for cut_s in labelled.get(row["uri"], [])
        )
    )
    return {
        "num_labelled": sum(map(len, labelled.values())),
        "num_found": num_found,
        "not_labelled": dict(elsewhere.most_common()),
    }


def main() -> None:
    """Curate, unless a dataset is given, then compare."""
    parser = arguments(__doc__ or "")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--recipe", default="egocentric")
    parser.add_argument("--dataset", type=Path, help="curated already")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="egodojo-real-") as folder:
        out = options.dataset or Path(folder, "ds")
        words = [sys.executable, "-m", "manifests.cli", "curate", str(options.videos)]
        started = time.monotonic()
        if options.dataset is None:
            words += ["--out", str(out), "--recipe", options.recipe, "--quiet"]
            subprocess.run(words, check=True)
        result = compare(options.videos, out)
        seconds = None if options.dataset else round(time.monotonic() - started, 1)
    report("real_videos", {"result": {"seconds": seconds, **result}}, options)
    sys.exit(1 if result["num_broken_promises"] else 0)


if __name__ == "__main__":
    main()
