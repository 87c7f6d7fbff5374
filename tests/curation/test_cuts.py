"""The cut detector on made-up pictures: cuts, flashes, short shots, repeats, motion, light."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.cuts import LAG_FRAMES, LOOK_BACK_FRAMES, CutDetector
from curation.small import SmallPicture, reduce_picture


def scene(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(30, 220, (24, 32))
    return np.kron(blocks, np.ones((20, 20))).astype(np.uint8)


def view(big: NDArray[np.uint8], x: int = 0, noise: int = 0) -> SmallPicture:
    luma = big[60:300, x + 60 : x + 380].astype(np.int16)
    if noise:
        luma = luma + np.random.default_rng(x).integers(-noise, noise + 1, luma.shape)
    return reduce_picture(
        np.clip(luma, 16, 235).astype(np.uint8), np.full((2, 120, 160), 128, np.uint8)
    )


def cuts_of(pictures: list[SmallPicture]) -> list[int]:
    detector = CutDetector()
    answers = [detector.add(picture) for picture in pictures]
    assert answers[:LAG_FRAMES] == [None] * min(LAG_FRAMES, len(pictures))
    decided = [answer for answer in answers if answer is not None] + detector.finish()
    assert len(decided) == len(pictures)
    return [index for index, score in enumerate(decided) if score >= 1]


@pytest.mark.parametrize("speed", [0, 1, 3])
def test_finds_cuts_between_still_and_moving_shots(speed: int) -> None:
    pictures = [
        view(scene(shot), x=(speed * number) % 200, noise=3)
        for shot in range(4)
        for number in range(20)
    ]
    assert cuts_of(pictures) == [20, 40, 60]


def test_a_cut_near_either_end_is_found() -> None:
    pictures = [view(scene(0))] * 2 + [view(scene(1))] * 10 + [view(scene(2))]
    assert cuts_of(pictures) == [2, 12]


@pytest.mark.parametrize(("length", "cuts"), [(1, []), (2, []), (3, [10, 13])])
def test_a_flash_of_fewer_than_three_frames_is_no_cut(length: int, cuts: list[int]) -> None:
    still = view(scene(0))
    pictures = [still] * 10 + [view(scene(1))] * length + [still] * 10
    assert cuts_of(pictures) == cuts


def test_a_black_frame_inside_a_shot_is_no_cut() -> None:
    pictures = [view(scene(0), x=number) for number in range(30)]
    pictures[12] = reduce_picture(
        np.full((240, 320), 16, np.uint8), np.full((2, 120, 160), 128, np.uint8)
    )
    assert cuts_of(pictures) == []


def test_a_fast_steady_camera_is_no_cut() -> None:
    pictures = [view(scene(0), x=12 * number) for number in range(15)]
    assert cuts_of(pictures) == []


def test_ten_pictures_a_second_stored_at_thirty_are_no_cuts() -> None:
    pictures = [view(scene(0), x=12 * (number // 3)) for number in range(45)]
    assert cuts_of(pictures) == []


def test_a_change_of_colour_alone_is_a_cut() -> None:
    luma = np.full((240, 320), 100, np.uint8)
    red = reduce_picture(
        luma, np.stack([np.full((120, 160), level, np.uint8) for level in (90, 200)])
    )
    blue = reduce_picture(
        luma, np.stack([np.full((120, 160), level, np.uint8) for level in (200, 90)])
    )
    assert cuts_of([red] * 10 + [blue] * 10) == [10]


def test_a_cut_from_a_still_shot_into_a_fast_one_is_found() -> None:
    still = [view(scene(0), noise=3)] * 12
    fast = [view(scene(1), x=8 * number) for number in range(12)]
    assert cuts_of(still + fast) == [12]
    assert cuts_of(fast + still) == [12]


def test_a_camera_that_starts_to_move_fast_is_no_cut() -> None:
    still = [view(scene(0))] * 12
    moving = [view(scene(0), x=16 * number) for number in range(1, 12)]
    assert cuts_of(still + moving) == []


@pytest.mark.parametrize("every", [2, 3, 6])
def test_repeats_of_a_moving_camera_are_no_cuts_at_any_rate(every: int) -> None:
    steps = np.random.default_rng(0).integers(10, 13, 60 // every)
    places = np.cumsum(steps) % 200
    wraps = {every * int(at) for at in np.flatnonzero(np.diff(places) < 0) + 1}
    pictures = [view(scene(0), x=int(places[number // every])) for number in range(60)]
    assert set(cuts_of(pictures)) <= wraps


def test_light_that_is_switched_down_is_no_cut() -> None:
    big = scene(0)
    dim = (16 + (big.astype(np.int16) - 16) * 0.6).astype(np.uint8)
    pictures = [view(big, noise=2)] * 12 + [view(dim, noise=2)] * 12
    assert cuts_of(pictures) == []


def test_few_or_no_frames() -> None:
    assert cuts_of([]) == []
    assert cuts_of([view(scene(0))]) == []
    assert cuts_of([view(scene(0)), view(scene(0))]) == []


def test_memory_does_not_grow_with_the_video() -> None:
    detector = CutDetector()
    for number in range(100):
        detector.add(view(scene(0), x=number))
    assert len(detector._entries) == LOOK_BACK_FRAMES + 1 + LAG_FRAMES
