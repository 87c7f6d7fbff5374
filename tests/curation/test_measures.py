"""Measures on pictures whose light, motion and stillness are known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.measures import ClipMeasures, FrameMeter
from curation.motion import motions_of, residual_change
from curation.small import SmallPicture, reduce_picture
from manifests.measures import MEASURES

CHROMA = np.full((2, 120, 160), 128, np.uint8)


def texture(seed: int = 0, cell: int = 10) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 220, (600 // cell, 800 // cell))
    return np.kron(blocks, np.ones((cell, cell))).astype(np.uint8)


def view(big: NDArray[np.uint8], x: int = 100, y: int = 100, noise: float = 0.0) -> SmallPicture:
    luma = big[y : y + 240, x : x + 320].astype(np.float64)
    if noise:
        luma = luma + np.random.default_rng(x + y).normal(0, noise, luma.shape)
    return reduce_picture(np.clip(np.rint(luma), 16, 235).astype(np.uint8), CHROMA)


def flat(level: int) -> SmallPicture:
    return reduce_picture(np.full((240, 320), level, np.uint8), CHROMA)


def row_of(
    pictures: list[SmallPicture], fps: float, *, at_once: int
) -> dict[str, int | float | None]:
    meter, measures = FrameMeter(), ClipMeasures()
    for start in range(0, len(pictures), at_once):
        group = pictures[start : start + at_once]
        times_s = [(start + index) / fps for index in range(len(group))]
        for frame, time_s in zip(meter.measure(group), times_s, strict=True):
            measures.add(frame, time_s)
    return measures.row(end_s=len(pictures) / fps)


def measure(pictures: list[SmallPicture], fps: float = 30.0) -> dict[str, float]:
    row = row_of(pictures, fps, at_once=16)
    assert all(value is None or math.isfinite(value) for value in row.values())
    return {name: math.nan if value is None else value for name, value in row.items()}


def shift(before: SmallPicture, after: SmallPicture) -> tuple[float, float]:
    (motion,) = motions_of([before, after])
    return motion.x, motion.y


def test_how_frames_are_grouped_makes_no_difference() -> None:
    big = texture(7)
    pictures = [view(big, 100 + 3 * (n % 7), 90 + n, noise=2) for n in range(40)]
    pictures[20:28] = [flat(18)] * 8
    alone = row_of(pictures, 30, at_once=1)
    assert all(row_of(pictures, 30, at_once=count) == alone for count in (2, 7, 16, 40))


def test_every_measure_is_documented_and_none_is_missing() -> None:
    taken = set(ClipMeasures().row(end_s=0.0))
    assert taken < set(MEASURES)
    assert all(measure.unit and measure.description for measure in MEASURES.values())


@pytest.mark.parametrize("seed", range(4))
def test_measures_stay_in_the_range_that_is_documented(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wild = [
        np.full((240, 320), 255, np.uint8), np.zeros((240, 320), np.uint8),
        rng.choice(np.array([0, 255], np.uint8), (240, 320)), rng.integers(0, 256, (240, 320)),
        np.indices((240, 320)).sum(0) % 2 * 255, texture(seed)[100:340, 90:410],
    ]  # fmt: skip
    chroma = [CHROMA, rng.choice(np.array([0, 255], np.uint8), (2, 120, 160))]
    pictures = [
        reduce_picture(wild[rng.integers(len(wild))].astype(np.uint8), chroma[rng.integers(2)])
        for _ in range(40)
    ]
    for name, value in measure(pictures, fps=float(rng.choice([1, 10, 60]))).items():
        high = MEASURES[name].high
        assert math.isnan(value) or 0 <= value <= (math.inf if high is None else high), name


@pytest.mark.parametrize("seed", [1, 3, 10, 25])
def test_rows_that_come_and_go_move_no_columns_of_a_smooth_picture(seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(30, 220, (4, 5)).astype(np.float32)
    big = cv2.resize(coarse, (400, 320), interpolation=cv2.INTER_CUBIC).clip(16, 235)
    before, after = (view(big.astype(np.uint8), 40, y) for y in (40, 46))
    assert shift(before, after) == pytest.approx((0, -6), abs=0.05)
    big = cv2.resize(coarse.T, (400, 320), interpolation=cv2.INTER_CUBIC).clip(16, 235)
    before, after = (view(big.astype(np.uint8), x, 40) for x in (40, 46))
    assert shift(before, after) == pytest.approx((-6, 0), abs=0.05)


def test_an_empty_or_single_frame_clip_has_null_not_nan() -> None:
    assert set(ClipMeasures().row(end_s=1.0).values()) == {None}
    measures = ClipMeasures()
    measures.add(FrameMeter().measure([flat(100)])[0], 0.0)
    row = measures.row(end_s=0.0)
    assert row["camera_motion_width_per_s"] is None
    assert row["frozen_ratio"] is None
    assert row["brightness_mean_luma"] == 100


def test_light() -> None:
    black, white = measure([flat(16)] * 20), measure([flat(235)] * 20)
    assert black["black_frames_ratio"] == 1.0
    assert black["underexposed_ratio"] == 1.0
    assert white["black_frames_ratio"] == 0.0
    assert white["overexposed_ratio"] == 1.0
    assert white["contrast_luma"] == 0.0


def test_a_defocused_picture_is_less_sharp() -> None:
    sharp = texture()
    soft = sharp.astype(np.float64)
    for axis in (0, 1, 0, 1):
        soft = (np.roll(soft, 1, axis) + soft + np.roll(soft, -1, axis)) / 3
    blurred = measure([view(soft.astype(np.uint8))] * 5)["sharpness_luma"]
    assert blurred < 0.6 * measure([view(sharp)] * 5)["sharpness_luma"]


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (-3, 2), (7, -5), (20, 0), (-38, 30)])
def test_camera_shift_is_found(dx: int, dy: int) -> None:
    big = texture(3)
    before, after = view(big, 200, 200), view(big, 200 - dx, 200 - dy)
    assert shift(before, after) == pytest.approx((dx, dy), abs=0.1)


def test_half_pixel_shifts_are_found() -> None:
    big = texture(5).astype(np.float64)
    smooth = (big + np.roll(big, 1, 1) + np.roll(big, 2, 1) + np.roll(big, 3, 1)) / 4
    half = (smooth + np.roll(smooth, 1, 1)) / 2
    before, after = (view(picture.astype(np.uint8)) for picture in (smooth, half))
    assert shift(before, after)[0] == pytest.approx(0.5, abs=0.15)


def test_exposure_change_and_noise_are_no_camera_motion() -> None:
    big = texture(1)
    brighter = np.clip(big.astype(np.int16) + 15, 16, 235).astype(np.uint8)
    before = view(big, noise=4)
    for after in (view(brighter, noise=4), view(big, noise=4)):
        assert shift(before, after) == pytest.approx((0.0, 0.0), abs=0.1)
    assert shift(flat(80), flat(90)) == (0.0, 0.0)


def test_speed_does_not_depend_on_frame_rate() -> None:
    big = texture(2)
    slow = measure([view(big, 100 + 4 * n) for n in range(20)], fps=15)
    fast = measure([view(big, 100 + 2 * n) for n in range(40)], fps=30)
    expected = 4 * 15 / 320
    assert slow["camera_motion_width_per_s"] == pytest.approx(expected, rel=0.05)
    assert fast["camera_motion_width_per_s"] == pytest.approx(expected, rel=0.05)
    assert fast["camera_shake_width_per_s"] < 0.05 * expected


def test_a_shaken_camera_shakes() -> None:
    big = texture(2)
    row = measure([view(big, 150 + 5 * (n % 2)) for n in range(30)])
    assert row["camera_shake_width_per_s"] > 0.8 * row["camera_motion_width_per_s"]


def test_residual_motion_ignores_the_camera() -> None:
    big = texture(4, cell=16)
    pan = measure([view(big, 100 + 3 * n, 100 + n) for n in range(30)])
    hand = [big.copy() for _ in range(30)]
    for number, picture in enumerate(hand):
        picture[200:280, 150 + 4 * number : 210 + 4 * number] = 30
    moved = measure([view(picture) for picture in hand])
    assert pan["residual_motion_luma"] < 0.2
    assert moved["residual_motion_luma"] > 5 * pan["residual_motion_luma"]
    assert moved["camera_motion_width_per_s"] < 0.2 * pan["camera_motion_width_per_s"]


@pytest.mark.parametrize("move", [(5, -3), (-9, 16), (0, 1), (40, -40)])
def test_residual_of_a_pure_shift_is_zero(move: tuple[int, int]) -> None:
    big = texture(6)
    before, after = view(big, 200, 200), view(big, 200 - move[0], 200 - move[1])
    change = residual_change(before.luma, after.blocks, *move)
    assert change < 1.0
    assert residual_change(before.luma, after.blocks, 0, 0) > 3 * change


def noisy(luma: NDArray[np.uint8], level: float, seed: int) -> SmallPicture:
    noise = np.random.default_rng(seed).normal(0, level, luma.shape)
    return reduce_picture(np.clip(np.rint(luma + noise), 16, 235).astype(np.uint8), CHROMA)


@pytest.mark.parametrize("level", [2.0, 5.0])
def test_the_longest_frozen_run_holds_under_sensor_noise(level: float) -> None:
    big = texture(7)
    row = measure([noisy(big[100:340, 100:420], level, seed) for seed in range(90)])
    assert row["still_ratio"] == 1.0
    assert row["changing_blocks_ratio"] < 0.001
    assert row["longest_frozen_s"] == 3.0
    assert level < 5 or row["frozen_ratio"] < 0.2


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_a_slow_pan_and_a_small_hand_are_not_frozen(level: float) -> None:
    big = texture(7)
    pan = [noisy(big[100:340, 100 + n // 8 : 420 + n // 8], level, n) for n in range(60)]
    hands = [big[100:340, 100:420].copy() for _ in range(60)]
    for number, picture in enumerate(hands):
        picture[200:224, 2 * number : 2 * number + 24] = 30
    hand = [noisy(picture, level, seed) for seed, picture in enumerate(hands)]
    for pictures in (pan, hand):
        assert measure(pictures)["longest_frozen_s"] < 0.3


def test_longest_frozen_run() -> None:
    big = texture(8)
    moving = [view(big, 100 + 4 * n) for n in range(30)]
    row = measure(moving + [moving[-1]] * 60 + [view(big, 220 + 4 * n) for n in range(10)])
    assert row["longest_frozen_s"] == pytest.approx(61 / 30, abs=0.01)
    assert row["frozen_ratio"] == pytest.approx(61 / 100, abs=0.01)
    assert measure([moving[0]] * 30)["frozen_ratio"] == 1.0
