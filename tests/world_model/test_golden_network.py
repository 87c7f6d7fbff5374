"""The network against golden numbers: outputs, features, rotary table and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import Golden, golden_fixtures
from tests.world_model.reference import assert_near, golden_model
from world_model.model import WorldModel
from world_model.rope import frequencies


def run_case(model: WorldModel, inputs: dict[str, Tensor], case: dict[str, str]) -> Tensor:
    mask = inputs["in.condition_mask"]
    return model(
        inputs["in.x"],
        inputs[f"in.{case['timesteps']}"],
        inputs["in.action"],
        condition_mask=torch.zeros_like(mask) if case["mask"] == "zeros" else mask,
        padding_mask=inputs[f"in.{case['padding']}"],
        context_BLD=model.project_text(inputs["in.crossattn"]),
        fps=inputs["in.fps"],
    )


@pytest.mark.parametrize("golden", golden_fixtures("dit_tiny"))
def test_golden_outputs_of_every_case(golden: Golden) -> None:
    tensors = golden.tensors()
    model = golden_model(golden.info, golden.state_dict())
    for name, case in golden.info["cases"].items():
        with torch.no_grad():
            out = run_case(model, tensors, case)
        assert_near(name, out, tensors[f"{name}.out"], golden.info["tolerance"])


@pytest.mark.parametrize("golden", golden_fixtures("dit_tiny"))
def test_golden_features_of_every_stage(golden: Golden) -> None:
    tensors = golden.tensors()
    model = golden_model(golden.info, golden.state_dict())
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: kept.__setitem__(name, output)

    model.x_embedder.register_forward_hook(keep("x_embed"))
    model.action_embedder_B_D.register_forward_hook(keep("action_emb_D"))
    model.action_embedder_B_3D.register_forward_hook(keep("action_emb_3D"))
    model.crossattn_proj.register_forward_hook(keep("context"))
    model.t_embedding_norm.register_forward_hook(keep("t_emb_normed"))
    model.final_layer.register_forward_hook(keep("final_layer"))
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(keep(f"block{number}"))
    case = golden.info["cases"]["main"]
    with torch.no_grad():
        run_case(model, tensors, case)
        e, lora = model.embed_time(tensors[f"in.{case['timesteps']}"])
    kept |= {"t_sincos": e, "t_emb_raw": e, "adaln_lora": lora}
    stored = [key for key in tensors if key.startswith("main.feat.")]
    assert stored
    for name in stored:
        ours = kept[name.removeprefix("main.feat.")]
        assert_near(
            name, ours.reshape(tensors[name].shape), tensors[name], golden.info["tolerance"]
        )


@pytest.mark.parametrize("golden", golden_fixtures("dit_tiny"))
def test_golden_rope_and_first_attention(golden: Golden) -> None:
    tensors, shape = golden.tensors(), golden.info["shape"]
    model = golden_model(golden.info, golden.state_dict())
    grid = (shape["T"], shape["H"] // 2, shape["W"] // 2)
    angles = model.pos_embedder(grid, torch.device("cpu"), tensors["in.fps"][:1])
    table = tensors["rope_L_1_1_D"]
    both = torch.cat([angles[0], angles[0]], dim=-1)
    assert_near("rope", both, table[:, 0, 0], golden.info["tolerance"])
    x = tensors["attn0.in"]
    with torch.no_grad():
        ours = model.blocks[0].self_attn.qkv(x, x, angles)
    for name, value in zip("qkv", ours, strict=True):
        assert_near(name, value, tensors[f"attn0.{name}"], golden.info["tolerance"])


@pytest.mark.parametrize("golden", golden_fixtures("dit_tiny"))
def test_golden_gradients(golden: Golden) -> None:
    tensors = golden.tensors()
    model = golden_model(golden.info, golden.state_dict())
    inputs = {**tensors, "in.x": tensors["in.x"].clone().requires_grad_()}
    out = run_case(model, inputs, golden.info["cases"]["main"])
    (out * tensors["grad.weight_on_out"]).sum().backward()
    tolerance = golden.info["tolerance"]["grads"]
    assert inputs["in.x"].grad is not None
    assert_near("grad.x", inputs["in.x"].grad, tensors["grad.x"], tolerance)
    parameters = dict(model.named_parameters())
    stored = [key for key in tensors if key.startswith("grad.param.")]
    assert stored
    for name in stored:
        gradient = parameters[name.removeprefix("grad.param.")].grad
        assert gradient is not None
        assert_near(name, gradient, tensors[name], tolerance)


@pytest.mark.parametrize("golden", golden_fixtures("dit_tiny"))
def test_golden_names_and_buffers_are_ours(golden: Golden) -> None:
    state = golden.state_dict()
    own = golden_model(golden.info, state).state_dict()
    assert own.keys() == state.keys()
    for name in [key for key in state if key.startswith("pos_embedder.")]:
        assert_near(name, own[name], state[name], golden.info["tolerance"])


def test_frequencies_begin_at_one_and_fall() -> None:
    steps = frequencies(44, 1.0, torch.device("cpu"))
    assert steps.shape == (22,)
    assert steps[0] == 1.0
    assert bool((steps.diff() < 0).all())
