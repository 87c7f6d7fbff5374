"""Laws of the network that hold without golden numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from manifests.errors import ConfigError, EgodojoError
from world_model.config import ModelConfig, load_pretrain_config, model_2b, tiny
from world_model.model import WorldModel

SMALL = ModelConfig(
    width=32, num_blocks=2, num_heads=2, modulation_rank=8, text_features=24, context_width=16
)


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(SMALL).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("modulation.2.weight") or "adaln" in name:
                parameter.normal_(std=0.05)
    return model


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, 4, 4, 6, generator=generator)
    times = 1000 * torch.rand(batch, generator=generator)
    return x, times, torch.randn(batch, 12, 384, generator=generator)


def test_2b_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = WorldModel(model_2b())
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_151_474_176
    assert sum(p.numel() for p in model.blocks[0].parameters()) == 69_206_528
    assert sum(p.numel() for p in model.crossattn_proj.parameters()) == 102_761_472
    assert tuple(model.pos_embedder.seq.shape) == (128,)


def test_every_parameter_and_buffer_is_initialised() -> None:
    marker = -77.0
    with torch.device("meta"):
        model = WorldModel(SMALL)
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(marker)
    model.init_weights(zero_action_output=True)
    assert [k for k, v in model.state_dict().items() if bool((v == marker).any())] == []
    zero = {name for name, value in model.named_parameters() if not value.any()}
    expected = {name for name, _ in model.named_parameters() if "adaln" in name and ".2." in name}
    actions = {f"action_embedder_B_{n}.fc2.{p}" for n in ("D", "3D") for p in ("weight", "bias")}
    assert zero == expected | actions


def test_weights_are_cut_at_three_deviations() -> None:
    model = WorldModel(ModelConfig(width=256, num_blocks=1))
    weight = model.blocks[0].mlp.layer1.weight.detach()
    sigma = 256**-0.5
    assert float(weight.abs().max()) <= 3 * sigma
    assert float(weight.std()) == pytest.approx(0.9867 * sigma, rel=0.01)


def test_sample_does_not_depend_on_its_batch(model: WorldModel) -> None:
    x, times, actions = inputs()
    with torch.no_grad():
        together = model(x, times, actions)
        single = [model(x[i : i + 1], times[i : i + 1], actions[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=1e-4)


def test_zero_text_is_one_row_and_never_a_product(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, times, actions = inputs()
    with torch.no_grad():
        context = model.project_text(torch.zeros(2, 512, 24))
        full = model(x, times, actions, context_BLD=context)

    def refuse(text: Tensor) -> Tensor:
        raise AssertionError("the text projection was called in a step")

    monkeypatch.setattr(model.crossattn_proj[0], "forward", refuse)
    model.train()
    out = model(x, times, actions)
    torch.testing.assert_close(out, full, atol=1e-5, rtol=1e-4)
    model.crossattn_proj[0].weight.requires_grad_(False)
    out.pow(2).mean().backward()
    bias = model.crossattn_proj[0].bias
    assert bias.grad is not None
    assert bool(bias.grad.any())


def test_later_actions_reach_the_output_and_none_means_no_term(model: WorldModel) -> None:
    x, times, actions = inputs()
    with torch.no_grad():
        base = model(x, times, actions)
        changed = actions.clone()
        changed[:, 8:] += 1.0
        assert not torch.allclose(model(x, times, changed), base)
        e_none, _ = model.embed_conditions(times, None)
        e_some, _ = model.embed_conditions(times, actions)
        assert torch.equal(e_some[:, 0], e_none[:, 0])
        assert not torch.allclose(e_some[:, 1], e_none[:, 0])


def test_recomputed_blocks_give_the_same_gradients(model: WorldModel) -> None:
    x, times, actions = inputs()
    model.train()
    gradients = []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        model(x, times, actions).pow(2).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_half_precision_weights_run(model: WorldModel) -> None:
    x, times, actions = inputs()
    with torch.no_grad():
        exact = model(x, times, actions)
        rough = model.to(torch.bfloat16)(x, times, actions)
    assert rough.dtype == torch.float32
    assert float((rough - exact).abs().mean() / exact.abs().mean()) < 0.05


def test_model_folder_round_trip(model: WorldModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    again = WorldModel.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(*inputs()), model(*inputs()))


def test_released_names_are_understood(model: WorldModel) -> None:
    state = {name: value + 1 for name, value in model.state_dict().items()}
    released = {f"net.{name}": value for name, value in model.state_dict().items()}
    released |= {f"net_ema.{name}": value for name, value in state.items()}
    released["net_ema.blocks.0.self_attn.q_norm._extra_state"] = torch.zeros(1)
    released["net_ema.pos_embedder.seq"] = torch.zeros(256)
    WorldModel(SMALL).load_weights(released)
    averaged, plain = WorldModel(SMALL), WorldModel(SMALL)
    averaged.load_weights(released)
    plain.load_weights(released, prefix="net.")
    name = "blocks.1.mlp.layer1.weight"
    assert torch.equal(averaged.state_dict()[name], state[name])
    assert torch.equal(plain.state_dict()[name], model.state_dict()[name])
    assert torch.equal(averaged.pos_embedder.seq, model.pos_embedder.seq)


def test_misfitting_weights_are_named(model: WorldModel, tmp_path: Path) -> None:
    state = model.state_dict()
    with pytest.raises(EgodojoError, match=r"no network under 'net_ema\.' or"):
        model.load_weights({"foo": torch.zeros(1)})
    missing = {k: v for k, v in state.items() if k != "t_embedding_norm.weight"}
    with pytest.raises(EgodojoError, match=r"t_embedding_norm\.weight is missing"):
        model.load_weights(missing)
    with pytest.raises(EgodojoError, match="bar is unknown"):
        model.load_weights({**state, "bar": torch.zeros(1)})
    with pytest.raises(EgodojoError, match=r"has shape \(3,\) instead of \(32,\)"):
        model.load_weights({**state, "t_embedding_norm.weight": torch.zeros(3)})
    (tmp_path / "model").mkdir()
    with pytest.raises(EgodojoError, match="not a model folder"):
        WorldModel.from_pretrained(tmp_path / "model")


def test_wrong_shapes_are_refused(model: WorldModel) -> None:
    x, times, actions = inputs()
    with pytest.raises(ValueError, match=r"need actions \(B, 12, 384\)"):
        model(x, times, actions[:, :8])
    with pytest.raises(ValueError, match="2x2 patches"):
        model(x[..., :5], times, actions)


def test_presets_settings_and_their_errors(tmp_path: Path) -> None:
    assert load_pretrain_config("tiny") == tiny()
    assert load_pretrain_config("2b").model == model_2b()
    config = load_pretrain_config("tiny", ("loop.steps=7", "model.num_blocks=1"))
    assert (config.loop.steps, config.model.num_blocks) == (7, 1)
    file = tmp_path / "mine.yaml"
    file.write_text("batch_size: 3\n")
    assert load_pretrain_config(str(file)).batch_size == 3
    with pytest.raises(ConfigError, match="neither a preset nor a file") as error:
        load_pretrain_config("tinny")
    assert "tiny" in str(error.value.hint)
    with pytest.raises(ConfigError, match=r"model\.width is 130"):
        ModelConfig(width=130)
    for name in ("num_heads", "num_blocks", "modulation_rank", "action_hidden"):
        with pytest.raises(ConfigError, match=rf"model\.{name} is 0; it must be at least 1"):
            load_pretrain_config("tiny", (f"model.{name}=0",))
    with pytest.raises(ConfigError, match=r"model\.mlp_ratio is 0\.0"):
        ModelConfig(mlp_ratio=0.0)
    with pytest.raises(ConfigError, match=r"model\.action_width is 100, training data have 384"):
        load_pretrain_config("tiny", ("model.action_width=100",))
    with pytest.raises(ConfigError, match=r"model\.actions_per_latent is 2, training data have 4"):
        load_pretrain_config("tiny", ("model.actions_per_latent=2",))
    with pytest.raises(ConfigError, match="num_workers is -1"):
        load_pretrain_config("tiny", ("num_workers=-1",))
    with pytest.raises(ConfigError, match="needs at least 16"):
        ModelConfig(width=32)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        load_pretrain_config("tiny", ("batch_size=0",))
    with pytest.raises(ConfigError, match="fit_windows is 0"):
        load_pretrain_config("tiny", ("tokenizer.fit_windows=0",))


def test_tiny_model_is_tiny() -> None:
    assert sum(p.numel() for p in WorldModel(tiny().model).parameters()) < 5_000_000
    assert isinstance(WorldModel(tiny().model), nn.Module)
