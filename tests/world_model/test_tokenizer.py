"""The PCA tokenizer: round trip, causality, determinism."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from manifests.errors import ConfigError, EgodojoError
from pipeline.training.checkpoint import save_pretrained
from world_model.rollout import psnr
from world_model.tokenizer import (
    PcaTokenizer,
    VideoTokenizer,
    model_to_pixels,
    pixels_to_model,
    tokenizer_files,
)


@lru_cache
def smooth_video(seed: int, *, num_frames: int = 13) -> Tensor:
    """Drifting coloured waves, uint8 (1, 3, F, 48, 64)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:48, 0:64]
    frames = np.zeros((3, num_frames, 48, 64))
    for _ in range(4):
        (ky, kx), phase = rng.uniform(-0.12, 0.12, 2), rng.uniform(0, 6)
        speed, colour = rng.uniform(-0.15, 0.15), rng.uniform(-1, 1, 3)
        for t in range(num_frames):
            wave = np.sin(ky * y + kx * x + phase + speed * t)
            frames[:, t] += colour[:, None, None] * wave
    return torch.from_numpy((127 + 30 * frames).clip(0, 255).astype(np.uint8))[None]


@pytest.fixture(scope="module")
def tokenizer() -> PcaTokenizer:
    return PcaTokenizer.fit(smooth_video(seed) for seed in range(6))


def test_smooth_video_survives_the_round_trip(tokenizer: PcaTokenizer) -> None:
    video = smooth_video(100)
    latents = tokenizer.encode(pixels_to_model(video))
    assert latents.shape == (1, 16, 4, 6, 8)
    back = model_to_pixels(tokenizer.decode(latents))
    assert back.shape == video.shape
    for part in (slice(0, 1), slice(1, None)):
        ours, truth = (v[0, :, part].permute(1, 2, 3, 0).numpy() for v in (back, video))
        assert psnr(ours, truth) > 25


def test_latents_have_unit_scale(tokenizer: PcaTokenizer) -> None:
    videos = torch.cat([smooth_video(seed) for seed in range(6)])
    latents = tokenizer.encode(pixels_to_model(videos))
    deviations = latents.transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(deviations[:4], torch.ones(4), atol=0.02, rtol=0)
    assert bool((deviations < 1.05).all())


def test_first_latent_is_that_of_the_image_alone(tokenizer: PcaTokenizer) -> None:
    video = pixels_to_model(smooth_video(7))
    whole, image = tokenizer.encode(video), tokenizer.encode(video[:, :, :1])
    assert torch.equal(whole[:, :, :1], image)
    assert tokenizer.decode(image).shape == (1, 3, 1, 48, 64)
    shorter = tokenizer.encode(video[:, :, :9])
    torch.testing.assert_close(whole[:, :, :3], shorter, atol=1e-5, rtol=1e-5)


def test_still_video_has_equal_latents(tokenizer: PcaTokenizer) -> None:
    still = pixels_to_model(smooth_video(8)[:, :, :1]).expand(-1, -1, 13, -1, -1)
    latents = tokenizer.encode(still)
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents))


def test_fit_is_deterministic_and_patterns_orthonormal(tokenizer: PcaTokenizer) -> None:
    again = PcaTokenizer.fit(smooth_video(seed) for seed in range(6))
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    products = tokenizer.basis @ tokenizer.basis.T
    torch.testing.assert_close(products, torch.eye(16), atol=1e-5, rtol=0)


def test_folder_round_trip_and_foreign_folders(tokenizer: PcaTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = VideoTokenizer.from_pretrained(tmp_path / "tokenizer")
    video = pixels_to_model(smooth_video(1))
    assert torch.equal(again.encode(video), tokenizer.encode(video))
    files = tokenizer_files(tmp_path / "tokenizer", prefix="t")
    assert sorted(files) == ["t/config.json", "t/model.safetensors"]
    save_pretrained(tmp_path / "other", {"kind": "cat"}, {"a": torch.zeros(1)})
    with pytest.raises(EgodojoError, match="of kind 'cat', not a tokenizer"):
        VideoTokenizer.from_pretrained(tmp_path / "other")


def test_impossible_sizes_are_refused(tokenizer: PcaTokenizer) -> None:
    with pytest.raises(ConfigError, match="cannot cut 12 frames of 48x64"):
        tokenizer.encode(torch.zeros(1, 3, 12, 48, 64))
    with pytest.raises(ConfigError, match="cannot cut 13 frames of 48x60"):
        tokenizer.encode(torch.zeros(1, 3, 13, 48, 60))
    with pytest.raises(ConfigError, match="at least two blocks"):
        PcaTokenizer.fit([])


def test_pixels_survive_the_conversion() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(model_to_pixels(pixels_to_model(pixels)), pixels)
    assert model_to_pixels(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
