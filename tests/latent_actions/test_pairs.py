"""Preprocessing of frames and the stateless order of training pairs."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from latent_actions.config import DataConfig
from latent_actions.data import PairBatches, PairSampler
from latent_actions.preprocess import crop_box, inference_frames, scale_frames, training_frames
from manifests.errors import DatasetError
from tests.latent_actions.helpers import MemoryClips


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((240, 320), (0, 0, 240, 320)),
        ((1080, 1920), (0, 240, 1080, 1440)),
        ((720, 405), (208, 0, 303, 405)),
        ((241, 401), (0, 40, 241, 321)),
    ],
)
def test_centre_crop_is_four_to_three(size: tuple[int, int], box: tuple[int, ...]) -> None:
    assert crop_box(*size) == box


def test_halving_is_the_mean_of_four_pixels() -> None:
    frames = torch.randint(0, 256, (2, 480, 640, 3), dtype=torch.uint8)
    mean = frames.float().reshape(2, 240, 2, 320, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(training_frames(frames), mean / 255)
    assert torch.equal(scale_frames(frames), mean.round().to(torch.uint8))
    assert torch.equal(inference_frames(frames), mean.round() / 255)


def test_frames_of_the_right_size_stay() -> None:
    frames = torch.randint(0, 256, (1, 240, 320, 3), dtype=torch.uint8)
    assert torch.equal(scale_frames(frames), frames)


def make_sampler(seed: int = 3, **changes: object) -> PairSampler:
    sources = MemoryClips([30, 2, 14, 40]).sources
    return PairSampler(sources, DataConfig(batch_size=2, **changes), seed=seed)  # type: ignore[arg-type]


def test_a_pair_is_a_function_of_seed_and_number() -> None:
    forward = [make_sampler().sample(i) for i in range(50)]
    backward = [make_sampler().sample(i) for i in reversed(range(50))]
    assert forward == backward[::-1]
    assert forward != [make_sampler(seed=4).sample(i) for i in range(50)]


def test_strides_are_uniform_and_pairs_stay_inside() -> None:
    sampler = make_sampler()
    pairs = [sampler.sample(i) for i in range(2000)]
    assert all(0 <= p.first <= p.second < p.clip.num_frames for p in pairs)
    assert all(abs(p.shift) <= 0.1 for p in pairs)
    long = Counter(p.second - p.first for p in pairs if p.clip.num_frames >= 14)
    assert set(long) == {1, 2, 3, 4}
    assert max(long.values()) < 1.3 * min(long.values())


@pytest.mark.parametrize(
    ("balance", "share"), [("source", 0.5), ("sample", 0.1), ("log", 0.2243), ("pi", 0.2800)]
)
def test_sources_share_the_draws(balance: str, share: float) -> None:
    few, many = MemoryClips([20]).sources[0], MemoryClips([20] * 9, names="x").sources[0]
    sampler = PairSampler([many, few], DataConfig(balance=balance), seed=0)  # type: ignore[arg-type]
    got = np.mean([sampler.sample(i).clip.source == "a" for i in range(3000)])
    assert got == pytest.approx(share, abs=0.03)


def test_batches_resume_at_their_position_for_any_number_of_threads() -> None:
    clips = MemoryClips([30, 20, 14])

    def batches(threads: int) -> PairBatches:
        config = DataConfig(batch_size=2, num_threads=threads)
        sampler = PairSampler(clips.sources, config, seed=5)
        return PairBatches(sampler, clips.readers, height=48, width=64)

    whole = list(itertools.islice(batches(1), 6))
    again = batches(3)
    list(itertools.islice(again, 2))
    assert again.state_dict() == {"pairs": 4}
    resumed = batches(2)
    resumed.load_state_dict(again.state_dict())
    for expected, got in zip(whole[2:], resumed, strict=False):
        assert torch.equal(expected["frames"], got["frames"])
        assert torch.equal(expected["index"], got["index"])
    assert whole[0]["frames"].shape == (2, 2, 48, 64, 3)
    assert torch.equal(whole[0]["frames"], whole[0]["frames"].clamp(0, 1))


def test_ranks_read_different_pairs_and_together_all() -> None:
    clips = MemoryClips([30, 20])
    sampler = PairSampler(clips.sources, DataConfig(batch_size=2), seed=5)
    size = {"height": 48, "width": 64}
    whole = PairBatches(sampler, clips.readers, **size)
    alone = [whole.batch(start)["index"].tolist() for start in (0, 2, 4, 6)]
    ranks = [PairBatches(sampler, clips.readers, **size, rank=r, world_size=2) for r in range(2)]
    both = [rank.batch(start)["index"].tolist() for start in (0, 4) for rank in ranks]
    assert both == alone == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_clips_of_one_frame_make_no_pair() -> None:
    with pytest.raises(DatasetError, match="No clip has two frames"):
        PairSampler([], DataConfig(), seed=0)
