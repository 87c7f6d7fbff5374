"""Sizes, shapes, saving and loading of the latent action model, and what a wrong file is told."""

from __future__ import annotations

import dataclasses
import doctest
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import latent_actions.extract
import latent_actions.index
import latent_actions.model
from latent_actions.config import ModelConfig, TrainConfig, preset
from latent_actions.model import LatentActionModel, count_parameters, patchify, unpatchify
from latent_actions.objective import lam_loss
from latent_actions.weights import read_state
from manifests.config import load_config
from manifests.errors import ConfigError, EgodojoError

SMALL = ModelConfig(
    name="lam-test",
    width=32,
    patch_size=8,
    num_encoder_blocks=2,
    num_decoder_blocks=1,
    num_heads=2,
    frame_height=24,
    frame_width=32,
)


def small_model(seed: int = 0) -> LatentActionModel:
    torch.manual_seed(seed)
    return LatentActionModel(SMALL).eval()


def test_base_has_the_published_number_of_parameters() -> None:
    config = preset("base").model
    assert count_parameters(config) == 709_778_240
    assert count_parameters(config, encoder_only=True) == 404_880_448
    with torch.device("meta"):
        model = LatentActionModel(config)
    frozen = [p.numel() for p in model.parameters() if not p.requires_grad]
    assert sum(frozen) == 768
    assert len(model.state_dict()) == 839


def test_key_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = LatentActionModel(preset("base").model).state_dict()
    rotary = "encoder.transformer_blocks.23.temporal_attn.rotary_embedding.freqs"
    expected = {
        "action_prompt": (1, 1, 1, 768),
        "encoder.ffn.0.weight": (768,),
        "encoder.ffn.1.weight": (1024, 768),
        "encoder.transformer_blocks.0.ffn.3.weight": (1024, 4096),
        "encoder.transformer_blocks.0.spatial_attn.to_out.0.bias": (1024,),
        rotary: (32,),
        "fc.weight": (64, 1024),
        "decoder.ffn.1.weight": (1024, 1024),
        "decoder.out.weight": (768, 1024),
    }
    assert {key: tuple(state[key].shape) for key in expected} == expected
    assert "decoder.transformer_blocks.0.norm3.weight" not in state
    assert not any("table" in key for key in state)


def test_many_frames_give_one_latent_per_transition() -> None:
    model = small_model()
    with torch.no_grad():
        result = model(torch.rand(2, 5, 24, 32, 3))
    assert result.mu.shape == result.log_var.shape == (2, 4, 32)
    assert result.recon.shape == result.target.shape == (2, 4, 24, 32, 3)
    assert torch.equal(result.recon, result.recon.clamp(0, 1))


def test_transitions_are_decoded_on_their_own() -> None:
    model = small_model()
    first, z = torch.rand(1, 3, 24, 32, 3), torch.randn(1, 3, 32)
    with torch.no_grad():
        together = model.decode(first, z)
        alone = model.decode(first[:, 1:2], z[:, 1:2])
    torch.testing.assert_close(together[:, 1:2], alone, atol=1e-5, rtol=1e-5)


def test_patches_go_back_to_the_cropped_picture() -> None:
    frames = torch.rand(2, 3, 21, 35, 3)
    patches = patchify(frames, 8)
    assert patches.shape == (2, 3, 2 * 4, 8 * 8 * 3)
    again = unpatchify(patches, 8, height=21, width=35)
    assert torch.equal(again, frames[:, :, :16, :32])


def test_half_precision_stays_close() -> None:
    model, frames = small_model(), torch.rand(2, 2, 24, 32, 3)
    with torch.no_grad():
        expected, _ = model.encode(frames)
        with torch.autocast("cpu", torch.bfloat16):
            got, _ = model.encode(frames)
    torch.testing.assert_close(got.float(), expected, atol=3e-2, rtol=3e-2)


def test_examples_in_the_documentation_run() -> None:
    for module in (latent_actions.model, latent_actions.extract, latent_actions.index):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


def test_encoding_needs_two_frames() -> None:
    with pytest.raises(ValueError, match="at least two frames"):
        small_model().encode(torch.rand(1, 1, 24, 32, 3))


def test_every_trainable_weight_has_a_gradient() -> None:
    model = LatentActionModel(SMALL)
    result = model(torch.rand(1, 2, 24, 32, 3), eps_BPA=torch.randn(1, 1, 32))
    lam_loss(result, beta=1e-2).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_saved_model_loads_with_the_same_numbers_and_id(tmp_path: Path) -> None:
    model, frames = small_model(), torch.rand(2, 2, 24, 32, 3)
    model.save_pretrained(tmp_path / "m")
    keys = load_file(tmp_path / "m" / "model.safetensors").keys()
    assert all(key.startswith("lam.") for key in keys)
    again = LatentActionModel.from_pretrained(tmp_path / "m")
    half = LatentActionModel.from_pretrained(tmp_path / "m", encoder_only=True)
    assert again.config == SMALL
    assert again.model_id == half.model_id == model.model_id
    assert again.model_id.startswith("lam-test-")
    assert len(again.model_id) == len("lam-test-") + 8
    with torch.no_grad():
        expected = model(frames)
        assert torch.equal(again(frames).recon, expected.recon)
        assert torch.equal(half.encode(frames)[0], expected.mu)
    assert not hasattr(half, "decoder")
    with pytest.raises(ValueError, match="cannot decode"):
        half(frames)


def test_model_id_follows_the_weights() -> None:
    assert small_model(0).model_id == small_model(0).model_id
    assert small_model(0).model_id != small_model(1).model_id


def test_lightning_checkpoint_loads_by_published_keys(tmp_path: Path) -> None:
    model = small_model()
    state = {f"lam.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "LAM.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, path)
    again = LatentActionModel.from_pretrained(path, config=SMALL)
    assert again.model_id == model.model_id
    half = read_state(path, encoder_only=True)
    assert half.keys() == LatentActionModel(SMALL, encoder_only=True).state_dict().keys()


def test_keys_without_prefix_load_too(tmp_path: Path) -> None:
    model = small_model()
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    again = LatentActionModel.from_pretrained(tmp_path / "plain.safetensors", config=SMALL)
    assert again.model_id == model.model_id


def test_weights_that_do_not_fit_are_reported_by_name(tmp_path: Path) -> None:
    state = small_model().state_dict()
    state["fc.weight"] = torch.zeros(4, 32)
    state["lam.extra"] = torch.zeros(1)
    del state["action_prompt"]
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ConfigError) as caught:
        LatentActionModel.from_pretrained(tmp_path / "odd.safetensors", config=SMALL)
    text = str(caught.value)
    assert "1 missing (action_prompt)" in text
    assert "1 unknown (extra)" in text
    assert "fc.weight is (4, 32) instead of (64, 32)" in text


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "width": 64}))
    with pytest.raises(ConfigError, match=r"do not fit this model: \d+ of wrong size \("):
        LatentActionModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "is no model folder"),
        ("safetensors", "no readable safetensors"),
        ("ckpt", "is no checkpoint"),
    ],
)
def test_unreadable_weights_are_said_in_a_sentence(
    tmp_path: Path, content: str | None, text: str
) -> None:
    path = tmp_path
    if content is not None:
        path = tmp_path / f"weights.{content}"
        path.write_bytes(b"these are not weights")
    with pytest.raises(EgodojoError, match=text):
        LatentActionModel.from_pretrained(path, config=SMALL if content else None)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{oops", r"config\.json is damaged"),
        (b"\xff\xfe\x00", r"config\.json is damaged"),
        (b'{"kind": "world_model"}', "of kind 'world_model', not a latent action model"),
    ],
)
def test_a_config_that_is_none_is_said_in_a_sentence(
    tmp_path: Path, content: bytes, text: str
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(EgodojoError, match=text):
        LatentActionModel.from_pretrained(tmp_path)


def test_half_precision_files_load_as_full_precision(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in small_model().state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    model = LatentActionModel.from_pretrained(tmp_path / "half.safetensors", config=SMALL)
    mu, _ = model.encode(torch.rand(1, 2, 48, 64, 3))
    assert mu.dtype == torch.float32


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not split into 3 heads of even width"):
        dataclasses.replace(SMALL, num_heads=3)
    with pytest.raises(ConfigError, match="holds no patch of 64"):
        dataclasses.replace(SMALL, patch_size=64)
    with pytest.raises(ConfigError, match="must be at least 1"):
        load_config(ModelConfig, values={"num_decoder_blocks": 0})
    for name in ("../../elsewhere", "", "a/b"):
        with pytest.raises(ConfigError, match="names a folder"):
            dataclasses.replace(SMALL, name=name)
    with pytest.raises(ConfigError, match=r"data\.brightness is -1"):
        load_config(TrainConfig, sets=["data.brightness=-1"])
    with pytest.raises(ConfigError, match="no model size 'tinny'"):
        preset("tinny")
