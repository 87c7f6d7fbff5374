"""A pass that only measures: the rows of a real one, no bytes; and levels of full-range input."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.ingest import probe_input
from curation.part import PartWorker, Sink
from manifests.measures import MEASURES
from manifests.records import Part
from manifests.settings import DatasetSettings
from pipeline.testing import make_video
from pipeline.video import write_video


def rows_of(path: Path, shard: Path | None, *, is_trial: bool) -> list[dict[str, Any]]:
    video = probe_input(str(path), source="s", embodiment="unknown")
    sink = Sink(shard, name="clips-000000", token="t")
    worker = PartWorker(
        part=Part(uri=str(path), video_id=video["video_id"], start_tick=None, end_tick=None),
        video=video,
        settings=DatasetSettings(name="t", clip_len_s=1.0),
        action_names=(),
        unit_id="u",
        sink=sink,
        is_trial=is_trial,
    )
    rows = worker.run()
    sink.finish()
    return rows


@pytest.mark.parametrize("size", [(640, 480), (480, 270)])
def test_a_trial_gives_the_rows_of_a_run_without_bytes(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    path = make_video(
        tmp_path / "a.mp4", num_frames=32, width=width, height=height, kind="pan", fps=15
    )
    shard = tmp_path / "clips-000000.tar"
    written = rows_of(path, shard, is_trial=False)
    assert shard.exists()
    trial = rows_of(path, tmp_path / "none.tar", is_trial=True)
    assert not (tmp_path / "none.tar").exists()
    assert [row["shard"] for row in trial] == [None] * len(written)
    assert len(written) == 2 + 1  # two of a second, one too short
    for left, right in zip(written, trial, strict=True):
        for name in left.keys() - MEASURES.keys() - {"shard"}:
            assert left[name] == right[name], name
        for name in MEASURES.keys() - {"fingerprint_luma", "sharpness_luma"}:
            assert (left[name] is None) == (right[name] is None), name
            if left[name] is None:
                continue
            assert right[name] == pytest.approx(left[name], rel=0.05, abs=0.02), name
        assert right["sharpness_luma"] == pytest.approx(left["sharpness_luma"], rel=0.25)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("is_trial", [False, True])
def test_black_and_white_have_their_levels_whatever_the_range(
    tmp_path: Path, pix_fmt: str, is_trial: bool
) -> None:
    """The left half is black, the right half white: the darkest and brightest of any range."""
    picture: NDArray[np.uint8] = np.zeros((20, 240, 320, 3), np.uint8)
    picture[:, :, 160:] = 255
    write_video(tmp_path / "a.mp4", picture, 20, pix_fmt=pix_fmt, crf=1)
    (row,) = rows_of(tmp_path / "a.mp4", None, is_trial=is_trial)
    assert row["brightness_mean_luma"] == pytest.approx((16 + 235) / 2, abs=1)
    assert row["contrast_luma"] == pytest.approx((235 - 16) / 2, abs=1)
    assert row["underexposed_ratio"] == pytest.approx(0.5, abs=0.02)
    assert row["overexposed_ratio"] == pytest.approx(0.5, abs=0.02)
    assert row["pillarbox_ratio"] == pytest.approx(0.5, abs=0.03)


def test_non_square_pixels_are_measured_as_displayed(tmp_path: Path) -> None:
    """A picture stored at half its width fills what is measured: no borders of our own."""
    picture: NDArray[np.uint8] = np.zeros((20, 240, 160, 3), np.uint8)
    picture[:, :, 40:120] = np.random.default_rng(0).integers(60, 200, (20, 240, 80, 1))
    write_video(tmp_path / "a.mp4", picture, 20, crf=1, sample_aspect=Fraction(2))
    (row,) = rows_of(tmp_path / "a.mp4", None, is_trial=True)
    assert (row["source_width_px"], row["source_height_px"]) == (320, 240)
    assert row["pillarbox_ratio"] == pytest.approx(0.5, abs=0.03)
    assert row["letterbox_ratio"] == 0.0
