"""Noise levels, losses and samplers against golden numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers import Golden, golden_fixtures
from tests.world_model.reference import assert_near, golden_model
from world_model.objective import (
    NUM_TIMES,
    Draws,
    consistency_term,
    flow_loss,
    interpolate,
    sigma_of,
    sigma_table,
    velocity,
)
from world_model.sample import noise_levels, timestep_of, unipc


@pytest.mark.parametrize("golden", golden_fixtures("rf_schedule"))
def test_golden_training_noise_levels(golden: Golden) -> None:
    tensors, shift = golden.tensors(), golden.info["shift"]
    tolerance = golden.info["tolerance"]["tables"]
    assert_near("sigmas", sigma_table(shift), tensors["train.sigmas_table"], tolerance)
    table = NUM_TIMES * sigma_table(shift)
    assert_near("timesteps", table, tensors["train.timesteps_table"], tolerance)
    drawn = NUM_TIMES * sigma_of(tensors["train.normal_draws"], shift=shift)
    assert_near("drawn timesteps", drawn, tensors["train.timesteps"], tolerance)
    xt = interpolate(tensors["interp.clean"], tensors["interp.noise"], tensors["interp.sigma"])
    assert_near("interpolation", xt, tensors["interp.xt"], tolerance)
    v = velocity(tensors["interp.clean"], tensors["interp.noise"])
    assert_near("velocity", v, tensors["interp.v"], tolerance)


@pytest.mark.parametrize("golden", golden_fixtures("rf_schedule"))
def test_golden_unipc_trajectories(golden: Golden) -> None:
    tensors = golden.tensors()
    for num_steps in golden.info["unipc_steps"]:
        name = f"unipc{num_steps}"
        levels = noise_levels(num_steps, shift=golden.info["shift"])
        assert [timestep_of(level) for level in levels[:-1]] == tensors[
            f"{name}.timesteps"
        ].tolist()
        tables = golden.info["tolerance"]["tables"]
        assert_near("sigmas", torch.tensor(levels), tensors[f"{name}.sigmas"], tables)

        def field(x: Tensor, level: float) -> Tensor:
            mixed = torch.tanh(tensors["unipc.A"] @ x.flatten()).reshape(x.shape)
            return mixed - 0.3 * x + 0.2 * timestep_of(level) / 1000

        path = torch.stack(unipc(field, tensors["unipc.z0"], levels))
        expected = tensors[f"{name}.trajectory"]
        assert_near(name, path, expected, golden.info["tolerance"]["trajectory"])


@pytest.mark.parametrize("golden", golden_fixtures("train_step"))
@pytest.mark.parametrize("compat", ["none", "as_coded"])
def test_golden_training_step(golden: Golden, compat: str) -> None:
    tensors, info = golden.tensors(), golden.info
    model = golden_model(info, golden.state_dict()).train()
    intended = compat == "none"
    action = tensors["mid.action_intended" if intended else "mid.action_as_coded"]
    context = model.project_text(tensors["in.text"])
    kept: dict[str, Tensor] = {}

    def network(x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        kept.update(timesteps=timesteps, x=x)
        return model(x, timesteps, action, condition_mask=mask, context_BLD=context)

    loss = flow_loss(
        network,
        tensors["in.latents"],
        Draws(tensors["draw.noise"], tensors["draw.time_normal"]),
        shift=info["shift"],
        consistency_weight=info["lambda_consistency"],
        compat="none" if intended else "as_coded",
    )
    tolerance = info["tolerance"]
    assert_near("timestep", kept["timesteps"], tensors["mid.timestep"], tolerance)
    later = (slice(None), slice(None), slice(1, None))
    assert_near("noised", kept["x"][later], tensors["mid.xt"][later], tolerance)
    assert_near("clean", kept["x"][:, :, 0], tensors["in.latents"][:, :, 0], tolerance)
    prefix, axis = ("intended", "time") if intended else ("out", "channel")
    expected = tensors["intended.loss" if intended else "out.loss_as_coded"]
    assert_near("total", loss.total, expected, tolerance["losses"])
    assert_near("flow", loss.flow, tensors[f"{prefix}.flow_term"], tolerance["losses"])
    expected = tensors[f"{prefix}.consistency_{axis}_axis"]
    assert_near("consistency", loss.consistency, expected, tolerance["losses"])
    if not intended:
        loss.total.backward()
        parameters = dict(model.named_parameters())
        stored = [key for key in tensors if key.startswith("out.grad_as_coded.")]
        assert stored
        for name in stored:
            gradient = parameters[name.removeprefix("out.grad_as_coded.")].grad
            assert gradient is not None
            assert_near(name, gradient, tensors[name], tolerance["grads"])


@pytest.mark.parametrize("golden", golden_fixtures("train_step"))
def test_golden_consistency_of_a_given_prediction(golden: Golden) -> None:
    tensors = golden.tensors()
    ours = consistency_term(tensors["mid.v_pred_after_replace"], tensors["mid.v_target"])
    expected = tensors["out.consistency_time_axis"]
    assert_near("consistency", ours, expected, golden.info["tolerance"]["losses"])
