"""The encoder of extraction gives the numbers of `encode`, in every number type, by every way."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from latent_actions import pair_encoder as module
from latent_actions.config import ModelConfig
from latent_actions.flow_model import FlowActionModel
from latent_actions.model import LatentActionModel
from latent_actions.pair_encoder import compile_fault, compiled_or_not, pair_encoder
from tests.latent_actions.helpers import SMALL

FLOW = ModelConfig(name="lam-flow", input="flow", width=48, frame_height=48, frame_width=64)
EARLIER, LATER = [0, 1, 0, 2], [1, 2, 3, 0]


def pairs_and_latents(model: LatentActionModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Four frames, and what `encode` gives for the pairs EARLIER, LATER."""
    height, width = model.config.frame_height, model.config.frame_width
    frames = torch.rand(4, height, width, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        mu, _ = model.encode(torch.stack((frames[EARLIER], frames[LATER]), dim=1))
    return frames, mu[:, 0]


def latents(encoder: module.PairEncoder, frames: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        seen = encoder.look(frames)
        return encoder.relate(seen[EARLIER], seen[LATER])


def model_of(**changes: Any) -> LatentActionModel:
    torch.manual_seed(0)
    return LatentActionModel(dataclasses.replace(SMALL, **changes), encoder_only=True).eval()


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
@pytest.mark.parametrize("num_heads", [1, 2, 8])
def test_pairs_get_the_numbers_of_encode(num_blocks: int, num_heads: int) -> None:
    model = model_of(num_encoder_blocks=num_blocks, num_heads=num_heads)
    frames, expected = pairs_and_latents(model)
    torch.testing.assert_close(latents(pair_encoder(model), frames), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
def test_short_numbers_stay_close(dtype: torch.dtype, tolerance: float) -> None:
    model = model_of(num_encoder_blocks=6, num_heads=2)
    frames, expected = pairs_and_latents(model)
    found = latents(pair_encoder(model, dtype=dtype), frames)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert F.cosine_similarity(found, expected).min() > 0.999
    assert not torch.equal(found, expected), "the number type was used"


def test_plain_products_give_what_packed_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    frames, expected = pairs_and_latents(model)
    monkeypatch.setattr(module, "_packing_works", lambda dtype: False)
    torch.testing.assert_close(latents(pair_encoder(model), frames), expected, atol=2e-6, rtol=1e-5)


def test_operators_that_are_gone_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any) -> Any:
        raise AttributeError("no such operator")

    monkeypatch.setattr(module._PackedLinear, "__call__", gone)
    assert not module._packing_works(torch.float32)


def test_the_model_is_left_as_it_is_and_its_weights_are_copied() -> None:
    model = model_of()
    frames, expected = pairs_and_latents(model)
    encoder = pair_encoder(model, dtype=torch.bfloat16)
    before = latents(encoder, frames)
    with torch.inference_mode():
        mu, _ = model.encode(torch.stack((frames[EARLIER], frames[LATER]), dim=1))
    assert torch.equal(mu[:, 0], expected)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(latents(encoder, frames), before)


def test_a_flow_model_computes_its_network_alone_in_short_numbers() -> None:
    torch.manual_seed(0)
    model = FlowActionModel(FLOW, encoder_only=True).eval()
    frames, expected = pairs_and_latents(model)
    assert torch.equal(latents(pair_encoder(model), frames), expected)
    found = latents(pair_encoder(model, dtype=torch.bfloat16), frames)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    assert not torch.equal(found, expected)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_without_a_compiler_extraction_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiled(function: Any, **options: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise RuntimeError("Failed to find C++ compiler.\nPlease set CXX.")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    model = model_of()
    frames, expected = pairs_and_latents(model)

    def make(*, compiled: bool = False) -> module.PairEncoder:
        return pair_encoder(model, compiled=compiled)

    with caplog.at_level(logging.WARNING):
        encoder = compiled_or_not(make, frames[:1], 2)
    torch.testing.assert_close(latents(encoder, frames), expected, atol=2e-6, rtol=1e-5)
    said = "torch.compile does not work here (Failed to find C++ compiler): latents are made "
    assert said + "without it." in caplog.text
    assert compile_fault("cpu") == said + "without it."


@pytest.mark.slow
def test_compiled_pieces_give_the_same_numbers() -> None:
    model = model_of(num_encoder_blocks=3)
    frames, expected = pairs_and_latents(model)
    encoder = pair_encoder(model, compiled=True)
    torch.testing.assert_close(latents(encoder, frames), expected, atol=5e-6, rtol=1e-4)
