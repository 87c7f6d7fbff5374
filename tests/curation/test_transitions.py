"""Dissolves and fades are found and only they: not turns, not light, not a hand before the lens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.transitions import SETTLE_S, TransitionDetector

FPS = 30


def scene(seed: int) -> NDArray[np.float32]:
    """Cells of a made-up scene twice as wide as a picture, float32 (3, 60, 160)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 200, (3, 10, 28)).astype(np.float32)
    fine = np.kron(blocks, np.ones((6, 6), np.float32))[:, :, :160]
    smooth = (fine + np.roll(fine, 3, axis=1) + np.roll(fine, 3, axis=2)) / 3
    return np.asarray(smooth, np.float32)


def view(scene: NDArray[np.float32], x: float = 0.0) -> NDArray[np.float32]:
    low = int(x)
    share = x - low
    cells = scene[:, :, low : low + 80] * (1 - share) + scene[:, :, low + 1 : low + 81] * share
    return np.asarray(cells, np.float32)


def found_in(
    pictures: list[NDArray[np.float32]], fps: float = FPS, cuts: tuple[int, ...] = ()
) -> list[tuple[float, float]]:
    detector = TransitionDetector()
    rng = np.random.default_rng(0)
    found = []
    for number, cells in enumerate(pictures):
        noisy = (cells + rng.normal(0, 0.5, cells.shape)).round().astype(np.uint8)
        answer = detector.add(noisy, number / fps, is_cut=number in cuts)
        if answer is not None:
            assert number / fps - answer[1] <= SETTLE_S + 1 / min(fps, 10) + 1e-6
            found.append(answer)
    last = detector.finish()
    return found if last is None else [*found, last]


def mixed(
    length_s: float, *, fps: float = FPS, speed: float = 0.0, through_black: bool = False
) -> tuple[list[NDArray[np.float32]], float, float]:
    """Two scenes that move, `speed` cells a second, and dissolve; begin and end of the mixing."""
    before, after = scene(0), scene(1)
    start, count, num_frames = round(1.5 * fps), round(length_s * fps), round(4.5 * fps)
    pictures = []
    for number in range(num_frames):
        share = min(1.0, max(0.0, (number - start + 1) / (count + 1)))
        x = 10 + speed * number / fps
        first, second = view(before, x), view(after, x)
        if through_black:
            black = np.array([16, 128, 128], np.float32)[:, None, None]
            leave, come = max(0.0, 1 - 2 * share), max(0.0, 2 * share - 1)
            pictures.append(black + (first - black) * leave + (second - black) * come)
        else:
            pictures.append(first * (1 - share) + second * share)
    return pictures, start / fps, (start + count) / fps


@pytest.mark.parametrize(
    ("length_s", "speed"), [(0.3, 0.0), (0.7, 0.0), (1.5, 0.0), (0.3, 6.0), (0.7, 6.0)]
)
def test_a_dissolve_is_found_where_it_is(length_s: float, speed: float) -> None:
    pictures, start_s, end_s = mixed(length_s, speed=speed)
    ((found_start_s, found_end_s),) = found_in(pictures)
    assert found_start_s == pytest.approx(start_s, abs=0.21)
    assert found_end_s == pytest.approx(end_s, abs=0.21)


@pytest.mark.parametrize("fps", [10, 15, 24, 60])
def test_the_frame_rate_does_not_matter(fps: float) -> None:
    pictures, start_s, end_s = mixed(0.8, fps=fps)
    ((found_start_s, found_end_s),) = found_in(pictures, fps)
    assert found_start_s == pytest.approx(start_s, abs=0.21)
    assert found_end_s == pytest.approx(end_s, abs=0.21)


def test_a_fade_through_black_is_one_stretch_without_a_gap() -> None:
    pictures, start_s, end_s = mixed(1.2, through_black=True)
    found = found_in(pictures)
    assert found[0][0] == pytest.approx(start_s, abs=0.21)
    assert found[-1][1] == pytest.approx(end_s, abs=0.21)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))


def test_a_turn_of_the_head_is_none() -> None:
    for seconds in (0.4, 0.8, 1.5):
        count = round(seconds * FPS)
        way = [78 * (1 - np.cos(np.pi * step / count)) / 2 for step in range(count + 1)]
        pictures = [view(scene(0))] * 45 + [view(scene(0), x) for x in way]
        assert found_in(pictures + [pictures[-1]] * 45) == []


@pytest.mark.parametrize("gain", [0.4, 1.5])
def test_a_change_of_exposure_is_none(gain: float) -> None:
    gains = np.concatenate([np.ones(45), np.linspace(1, gain, 20), np.full(45, gain)])
    assert found_in([(view(scene(0)) - 16) * share + 16 for share in gains]) == []


def test_a_hand_that_covers_the_lens_is_none() -> None:
    rows = np.arange(60)[:, None]
    pictures = []
    for number in range(120):
        edge = 62 - 70 * min(1.0, max(0.0, (number - 40) / 14), max(0.0, (100 - number) / 14))
        mask = np.broadcast_to(1 / (1 + np.exp(-(rows - edge) / 2)), (60, 80))
        skin = np.array([90, 118, 140], np.float32)[:, None, None]
        pictures.append((view(scene(0)) * (1 - mask) + skin * mask).astype(np.float32))
    assert found_in(pictures) == []


def test_nothing_reaches_across_a_hard_cut() -> None:
    pictures, start_s, end_s = mixed(0.8)
    middle = round((start_s + end_s) / 2 * FPS)
    assert found_in(pictures, cuts=(middle,)) == []


def test_a_still_or_moving_shot_has_none() -> None:
    detector = TransitionDetector()
    for number in range(200):
        cells = view(scene(0), 70 * abs(np.sin(number / 40))).astype(np.uint8)
        assert detector.add(cells, number / FPS) is None
        assert detector.score < 1
    assert detector.finish() is None
