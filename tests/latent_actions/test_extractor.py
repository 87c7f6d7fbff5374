"""The laws of extraction: one row per pair, the same numbers in any company and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latent_actions.extract import Extractor
from latent_actions.preprocess import inference_frames
from tests.latent_actions.helpers import SMALL, MemoryClips, small_model

CLOSE = {"atol": 2e-3, "rtol": 2e-3}  # two roundings of float16 for values around one


def everything(clips: MemoryClips, steps: tuple[int, ...]) -> dict[int, set[str]]:
    return {step: {ref.clip_id for ref in clips.refs} for step in steps}


def test_row_t_is_the_latent_of_frames_t_and_t_plus_step() -> None:
    clips, model = MemoryClips([9]), small_model()
    frames = clips.data["clip0"]
    latents = Extractor(model, batch_size=4).extract(frames, steps=(1, 3))
    assert latents[1].shape == (8, 32)
    assert latents[3].shape == (6, 32)
    assert latents[1].dtype == np.float16
    size = {"height": SMALL.frame_height, "width": SMALL.frame_width}
    seen = inference_frames(torch.from_numpy(frames), **size)
    with torch.no_grad():
        expected, _ = model.encode(torch.stack((seen[2], seen[5]))[None])
    np.testing.assert_allclose(latents[3][2], expected[0, 0].numpy(), **CLOSE)


def test_latents_do_not_depend_on_company_or_order() -> None:
    clips, extractor = MemoryClips([20, 3, 55, 14]), Extractor(small_model(), batch_size=8)
    wanted = everything(clips, (2,))
    together = extractor.extract_clips(clips.refs, clips, wanted).latents[2]
    reverse = extractor.extract_clips(clips.refs[::-1], clips, wanted).latents[2]
    for ref in clips.refs:
        alone = extractor.extract(clips.data[ref.clip_id], steps=(2,))[2]
        np.testing.assert_allclose(together[ref.clip_id], alone, **CLOSE)
        np.testing.assert_allclose(reverse[ref.clip_id], alone, **CLOSE)
        assert alone.shape == (max(0, ref.num_frames - 2), 32)


def test_batch_size_does_not_change_the_numbers() -> None:
    clips = MemoryClips([13])
    one, many = (
        Extractor(small_model(), batch_size=b).extract(clips.data["clip0"]) for b in (1, 7)
    )
    np.testing.assert_allclose(one[1], many[1], **CLOSE)


def test_every_n_keeps_every_nth_row() -> None:
    clips, extractor = MemoryClips([13]), Extractor(small_model())
    frames = clips.data["clip0"]
    full = extractor.extract(frames, steps=(2,))[2]
    thin = extractor.extract(frames, steps=(2,), every=4)[2]
    assert thin.shape == (3, 32)
    np.testing.assert_allclose(thin, full[::4], **CLOSE)


def test_a_clip_too_short_for_a_step_has_no_rows() -> None:
    clips = MemoryClips([3, 6])
    found = Extractor(small_model()).extract_clips(clips.refs, clips, everything(clips, (1, 4)))
    assert found.latents[4]["clip0"].shape == (0, 32)
    assert found.latents[4]["clip1"].shape == (2, 32)
    assert found.latents[1]["clip0"].shape == (2, 32)


def test_a_damaged_clip_costs_only_itself() -> None:
    clips = MemoryClips([9, 9, 9], broken=["clip1"])
    found = Extractor(small_model()).extract_clips(clips.refs, clips, everything(clips, (1,)))
    assert found.problems == {"clip1": "clip1 is damaged"}
    assert sorted(found.latents[1]) == ["clip0", "clip2"]
    whole = MemoryClips([9, 9, 9])
    alone = Extractor(small_model()).extract(whole.data["clip2"])[1]
    np.testing.assert_allclose(found.latents[1]["clip2"], alone, **CLOSE)


@pytest.mark.gpu
def test_gpu_gives_the_numbers_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible")
    frames = MemoryClips([40]).data["clip0"]
    cpu = Extractor(small_model()).extract(frames)[1]
    gpu = Extractor(small_model(), device="cuda").extract(frames)[1]
    np.testing.assert_allclose(gpu, cpu, atol=2e-2, rtol=2e-2)
