"""Real videos: what must be dropped is, what must be kept is readable and kept, cuts are found.

Only short files, so that the suite stays quick; `benchmarks/check_real_videos.py` takes all.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from curation.curate import CurateRequest, curate, prepare
from manifests.dataset import Dataset

MAX_SECONDS = 5.0
MAX_PIXELS = 640 * 540
MUST_DROP = ("unreadable", "black", "frozen", "too_short", "duplicate", "dark", "low_fps")
CUT_TOLERANCE_S = 0.06


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def is_small(row: dict[str, str]) -> bool:
    seconds = min(float(row["duration_s"] or 0), int(row["n_frames"] or 0) / 15)
    return is_modest(row) and seconds <= MAX_SECONDS


def is_modest(row: dict[str, str]) -> bool:
    return int(row["width"] or 0) * int(row["height"] or 0) <= MAX_PIXELS


@pytest.mark.slow
def test_short_real_videos_meet_their_expectations(test_videos: Path, tmp_path: Path) -> None:
    index = {row["path"]: row for row in rows_of(test_videos / "INDEX.csv")}
    chosen = {
        path: row["expect"]
        for path, row in index.items()
        if row["expect"].removeprefix("drop:") in (*MUST_DROP, "keep") and is_small(row)
    }
    assert chosen
    request = CurateRequest(
        inputs=tuple(str(test_videos / path) for path in chosen),
        out=tmp_path / "ds",
        sets=("encode.width=160", "encode.height=120"),
        engine="inline",
        quiet=True,
    )
    report = curate(prepare(request))
    assert sum(report.inputs["by_state"].values()) == len(chosen)
    assert not {"failed", "quarantined", "pending"} & set(report.inputs["by_state"])
    rows = Dataset.open(tmp_path / "ds").sql("SELECT uri, state, reason, verdict FROM files")
    fates = {str(Path(row["uri"]).relative_to(test_videos)): row for row in rows.to_pylist()}
    for path, expect in chosen.items():
        wanted = "keep" if expect == "keep" else "drop"
        assert fates[path]["verdict"] == wanted, fates[path]
        assert (fates[path]["state"] == "duplicate") == (expect == "drop:duplicate")


def test_labelled_cuts_are_found(test_videos: Path, tmp_path: Path) -> None:
    index = {row["path"]: row for row in rows_of(test_videos / "INDEX.csv")}
    cuts: dict[str, list[float]] = {}
    for row in rows_of(test_videos / "CUTS.csv"):
        if int(index[row["path"]]["n_frames"]) <= 330 and is_modest(index[row["path"]]):
            cuts.setdefault(row["path"], []).append(float(row["cut_time_s"]))
    assert cuts
    request = CurateRequest(
        inputs=tuple(str(test_videos / path) for path in cuts),
        out=tmp_path / "ds",
        sets=("encode.width=160", "encode.height=120"),
        engine="inline",
        quiet=True,
    )
    curate(prepare(request))
    found = Dataset.open(tmp_path / "ds").sql("SELECT uri, end_s FROM clips WHERE ends_at = 'cut'")
    for path, times in cuts.items():
        ends = sorted(
            row["end_s"] for row in found.to_pylist() if row["uri"] == str(test_videos / path)
        )
        assert ends == pytest.approx(times, abs=CUT_TOLERANCE_S), path
