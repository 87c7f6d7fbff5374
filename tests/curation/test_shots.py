"""From a video to clips without dissolves and, when asked for, without idle stretches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.curate import CurateRequest, curate, prepare
from curation.idle import IdleDetector
from curation.shots import HOLD_S, MAX_HELD_FRAMES, ShotFinder
from curation.small import SmallPicture, reduce_picture
from manifests.dataset import Dataset
from manifests.errors import ConfigError
from manifests.settings import DatasetSettings
from pipeline.video import write_video

FPS = 15


def scene(seed: int, x: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 215, (8, 30, 3))
    wide = np.kron(blocks, np.ones((15, 15, 1)))
    return wide[:, x : x + 160].astype(np.uint8)


def curated(folder: Path, pictures: list[NDArray[np.uint8]], *sets: str) -> list[dict[str, Any]]:
    write_video(folder / "video.mp4", np.stack(pictures), FPS)
    (folder / "video.spans.json").write_text('[{"start_s": 0, "end_s": 99, "text": "wipes"}]')
    request = CurateRequest(
        inputs=(str(folder / "video.mp4"),),
        out=folder / "ds",
        recipe="permissive",
        sets=("encode.width=160", "encode.height=120", *sets),
        engine="inline",
        quiet=True,
    )
    curate(prepare(request))
    rows = Dataset.open(folder / "ds").sql("SELECT * FROM clips ORDER BY start_tick")
    return list(rows.to_pylist())


def test_a_dissolve_is_a_piece_of_its_own_that_is_not_written(tmp_path: Path) -> None:
    shares = np.concatenate([np.zeros(30), np.linspace(0.1, 0.9, 9), np.ones(30)])
    mixed = [
        scene(1, n % 4) * (1 - share) + scene(2, n % 4) * share for n, share in enumerate(shares)
    ]
    rows = curated(tmp_path, [picture.round().astype(np.uint8) for picture in mixed])
    assert [(row["ends_at"], row["gate"], row["shot_index"]) for row in rows] == [
        ("transition", None, 0), ("transition", "transition", 0), ("end", None, 1)
    ]  # fmt: skip
    assert rows[1]["start_s"] == pytest.approx(2.0, abs=0.21)
    assert rows[1]["end_s"] == pytest.approx(2.6, abs=0.21)
    assert rows[1]["shard"] is None
    assert sum(row["num_frames"] for row in rows) == 69
    assert all(row["transition_score"] < 1 and row["shot_cut_score"] < 1 for row in rows[::2])


def stop_and_go() -> list[NDArray[np.uint8]]:
    """2 s of movement, 3 s without, 2 s of movement."""
    return [scene(3, 4 * min(n, max(30, n - 45))) for n in range(105)]


def test_idle_stretches_stay_in_unless_asked_for(tmp_path: Path) -> None:
    rows = curated(tmp_path, stop_and_go())
    assert [(row["ends_at"], row["gate"]) for row in rows] == [("end", None)]


def test_idle_stretches_are_taken_out_and_the_text_goes_on(tmp_path: Path) -> None:
    rows = curated(tmp_path, stop_and_go(), "idle_min_s=2")
    assert [(row["ends_at"], row["gate"]) for row in rows] == [
        ("idle", None), ("idle", "idle"), ("end", None)
    ]  # fmt: skip
    assert rows[1]["start_s"] == pytest.approx(2.0, abs=0.15)
    assert rows[1]["end_s"] == pytest.approx(5.0, abs=0.3)
    assert {row["text"] for row in rows} == {"wipes"}
    assert {row["shot_index"] for row in rows} == {0}


@pytest.mark.parametrize("idle_min_s", [0.2, 11.0, -1.0])
def test_an_impossible_idle_length_is_refused(idle_min_s: float) -> None:
    with pytest.raises(ConfigError, match=r"idle_min_s is .*, must lie in 0.5..10 seconds, or be"):
        DatasetSettings(name="a", idle_min_s=idle_min_s)


def test_a_dataset_older_than_the_setting_keeps_its_digest() -> None:
    plain, idle = DatasetSettings(name="a"), DatasetSettings(name="a", idle_min_s=2.0)
    assert plain.digest == "26bc6077580f3d8b280d7d94866b01299c813e3c1f0a344fee21dd16c98dc5cc"
    assert idle.digest != plain.digest


def picture(level: int) -> SmallPicture:
    luma = np.full((240, 320), level, np.uint8)
    return reduce_picture(luma, np.full((2, 120, 160), 128, np.uint8))


def test_marks_come_in_order_and_few_wait() -> None:
    for fps in (2, 30, 240):
        finder, marks, waiting = ShotFinder(), [], 0
        for number in range(300):
            marks += finder.add(picture(100), number / fps)
            waiting = max(waiting, number + 1 - len(marks))
        marks += finder.finish()
        assert [mark.time_s for mark in marks] == [number / fps for number in range(300)]
        assert waiting <= min(MAX_HELD_FRAMES, HOLD_S * fps + 2) + 8


def idle_of(levels: list[int], min_s: float) -> list[float]:
    detector = IdleDetector(min_s=min_s)
    answers = [
        detector.add(picture(level).cells, number / 10) for number, level in enumerate(levels)
    ]
    return sorted({answer for answer in answers if answer is not None})


def test_idle_begins_with_the_last_movement_and_lasts_long_enough() -> None:
    moving = [60 + 20 * (number % 2) for number in range(15)]
    assert idle_of(moving + [60] * 15, 1.0) == [pytest.approx(1.4, abs=0.11)]
    assert idle_of(moving + [60] * 15, 2.0) == []
    assert idle_of(moving * 3, 1.0) == []


def test_an_idle_stretch_reaches_to_the_end_of_its_shot() -> None:
    finder = ShotFinder(idle_min_s=1.0)
    marks = []
    for number in range(70):
        marks += finder.add(picture(60 if number < 47 else 180), number / 30)
    marks += finder.finish()
    assert marks[47].is_cut
    assert all(mark.is_idle for mark in marks[:47])
    assert not any(mark.is_idle for mark in marks[47:])
