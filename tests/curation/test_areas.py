"""Borders, masks, overlays, colour and stills on pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from test_measures import CHROMA, measure, texture

from curation.small import SmallPicture, reduce_picture

BLACK = 16


def panning(number: int = 40, speed: int = 6) -> list[NDArray[np.uint8]]:
    big = texture(11)
    return [big[100:340, 40 + speed * n : 360 + speed * n].copy() for n in range(number)]


def row_of(pictures: list[NDArray[np.uint8]], fps: float = 30.0) -> dict[str, float]:
    return measure([reduce_picture(luma, CHROMA) for luma in pictures], fps)


def test_an_ordinary_pan_has_no_border_mask_overlay_or_stills() -> None:
    row = row_of(panning())
    for name in ("letterbox", "pillarbox", "round_mask", "overlay", "stills"):
        assert row[f"{name}_ratio"] == 0.0, name


def test_black_borders_are_measured() -> None:
    pictures = panning()
    for luma in pictures:
        luma[:32] = luma[-28:] = BLACK
        luma[:, :16] = BLACK
    row = row_of(pictures)
    assert row["letterbox_ratio"] == pytest.approx(60 / 240)
    assert row["pillarbox_ratio"] == pytest.approx(16 / 320)
    assert row["round_mask_ratio"] == 0.0


def test_a_border_that_opens_or_a_dark_corner_is_none() -> None:
    opening = panning()
    for luma in opening[:20]:
        luma[:32] = BLACK
    assert row_of(opening)["letterbox_ratio"] == 0.0
    cornered = panning()
    for luma in cornered:
        luma[:60, :60] = BLACK
    row = row_of(cornered)
    assert (row["letterbox_ratio"], row["pillarbox_ratio"], row["round_mask_ratio"]) == (0, 0, 0)


def test_a_round_lens_mask_fills_the_corners() -> None:
    y, x = np.mgrid[:240, :320]
    outside = (x - 160) ** 2 + (y - 120) ** 2 > 160**2
    pictures = panning()
    for luma in pictures:
        luma[outside] = BLACK
    row = row_of(pictures)
    assert row["round_mask_ratio"] > 0.7
    assert row["letterbox_ratio"] == 0.0
    assert row["overlay_ratio"] == 0.0


def test_an_all_black_clip_is_all_border() -> None:
    row = row_of([np.full((240, 320), BLACK, np.uint8)] * 20)
    assert row["letterbox_ratio"] == row["pillarbox_ratio"] == 1.0
    assert np.isnan(row["round_mask_ratio"])


def test_text_over_moving_pictures_is_an_overlay() -> None:
    pictures, rng = panning(), np.random.default_rng(3)
    text = np.kron(rng.choice(np.array([30, 220]), (6, 30)), np.ones((4, 4))).astype(np.uint8)
    for luma in pictures:
        luma[200:224, 100:220] = text
    share = row_of(pictures)["overlay_ratio"]
    assert 0.7 * text.size / 76800 < share < 1.3 * text.size / 76800


def test_nothing_can_be_said_about_overlays_while_little_moves() -> None:
    big = texture(11)
    assert np.isnan(row_of([big[:240, :320]] * 30)["overlay_ratio"])


def coloured(chroma: NDArray[np.uint8]) -> dict[str, float]:
    return measure([reduce_picture(luma, chroma) for luma in panning(8)])


def test_grey_and_tinted_pictures_have_no_chroma_spread() -> None:
    tinted = np.stack([np.full((120, 160), 105, np.uint8), np.full((120, 160), 150, np.uint8)])
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, tinted.shape)
    assert coloured(CHROMA)["chroma_spread_levels"] == 0.0
    assert coloured(tinted)["chroma_spread_levels"] == 0.0
    noisy = (tinted + noise).astype(np.uint8)
    assert coloured(noisy)["chroma_spread_levels"] < 3
    halves = CHROMA.copy()
    halves[:, :, :80] += 20
    assert coloured(halves)["chroma_spread_levels"] == pytest.approx(10 * 2**0.5)


def test_skin_tones_are_a_share_of_the_picture() -> None:
    quarter = CHROMA.copy()
    quarter[0, :60, :80], quarter[1, :60, :80] = 105, 150
    assert coloured(quarter)["skin_fraction"] == pytest.approx(0.25)
    assert coloured(CHROMA)["skin_fraction"] == 0.0


def test_a_slideshow_is_stills_and_a_pause_is_not() -> None:
    slides = [texture(seed)[:240, :320] for seed in range(4) for _ in range(15)]
    row = row_of(slides)
    assert row["stills_ratio"] == 1.0
    assert row["longest_frozen_s"] == pytest.approx(0.5)
    big = texture(11)
    start = panning(10, speed=1)
    pause = start + [start[-1]] * 30
    pause += [big[100:340, 50 + n : 370 + n] for n in range(30)]
    assert row_of(pause)["stills_ratio"] == 0.0


def test_both_sizes_give_the_same_cells() -> None:
    """A 640x480 picture and its half say the same, whatever lies between."""
    rng = np.random.default_rng(5)
    smooth = np.kron(rng.integers(40, 220, (60, 80)), np.ones((8, 8))).astype(np.uint8)
    chroma = np.kron(rng.integers(90, 160, (2, 60, 80)), np.ones((1, 4, 4))).astype(np.uint8)
    large: SmallPicture = reduce_picture(smooth, list(chroma))
    small = reduce_picture(smooth[::2, ::2].copy(), chroma[:, ::2, ::2].copy())
    for name in ("luma", "cells", "blocks", "profile"):
        assert np.array_equal(getattr(large, name), getattr(small, name)), name
    assert np.array_equal(large.cells[0], smooth[::8, ::8])
    assert np.array_equal(large.cells[1:], chroma[:, ::4, ::4])
    halved = smooth.reshape(240, 2, 320, 2).mean(axis=(1, 3))
    means = halved.mean(axis=0), halved.mean(axis=1)
    assert large.profile == pytest.approx(np.concatenate(means))
