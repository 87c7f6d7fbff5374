"""Golden numbers of the latent action model: outputs, losses, gradients, odd sizes, tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latent_actions.blocks import position_table, rotate
from latent_actions.config import ModelConfig
from latent_actions.model import LatentActionModel, patchify
from latent_actions.objective import lam_loss, psnr, ssim
from latent_actions.weights import PREFIX, check_state
from tests.helpers import Golden, golden_fixtures


class Case:
    """A fixture with its network built and its tolerances at hand."""

    def __init__(self, golden: Any) -> None:
        self.info = golden.info
        self.tensors = golden.tensors()
        known = {
            "lam_model_dim": "width",
            "lam_latent_dim": "latent_dim",
            "lam_patch_size": "patch_size",
            "lam_enc_blocks": "num_encoder_blocks",
            "lam_dec_blocks": "num_decoder_blocks",
            "lam_num_heads": "num_heads",
        }
        config = self.info["config"]
        sizes = {ours: config[theirs] for theirs, ours in known.items()}
        frame = next(iter(self.info["cases"].values()))
        self.model = LatentActionModel(
            ModelConfig(frame_height=frame["height"], frame_width=frame["width"], **sizes)
        )
        state = {key.removeprefix(PREFIX): v for key, v in golden.state_dict("sd.").items()}
        check_state(self.model.state_dict(), state, where=golden.path.name)
        self.model.load_state_dict(state)

    def close(self, actual: torch.Tensor, name: str, *, kind: str | None = None) -> None:
        tolerance = self.info["tolerance"]
        tolerance = tolerance.get(kind, tolerance) if kind else tolerance
        expected = self.tensors[name]
        torch.testing.assert_close(
            actual.detach().reshape(expected.shape),
            expected,
            atol=tolerance["atol"],
            rtol=tolerance["rtol"],
            msg=lambda text: f"{name}: {text}",
        )


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


every_fixture = pytest.mark.parametrize("case", golden_fixtures("lam_tiny"), indirect=True)


@every_fixture
def test_golden_eval(case: Case) -> None:
    beta = case.info["config"]["beta"]
    for name in case.info["cases"]:
        frames = case.tensors[f"{name}.videos"]
        case.close(patchify(frames, case.model.config.patch_size), f"{name}.patches")
        with torch.no_grad():
            result = case.model.eval()(frames)
            losses = lam_loss(result, beta=beta)
        case.close(result.mu, f"{name}.eval.z_mu")
        case.close(result.log_var, f"{name}.eval.z_logvar")
        case.close(result.z, f"{name}.eval.z_rep")
        case.close(result.recon, f"{name}.eval.recon")
        case.close(losses.loss, f"{name}.eval.loss")
        case.close(losses.mse, f"{name}.eval.mse_loss")
        case.close(losses.kl, f"{name}.eval.kl_loss")
        case.close(psnr(result.recon, result.target), f"{name}.eval.psnr")
        case.close(ssim(result.recon, result.target), f"{name}.eval.ssim")


@every_fixture
def test_golden_train_and_gradients(case: Case) -> None:
    beta = case.info["config"]["beta"]
    for name in case.info["cases"]:
        frames = case.tensors[f"{name}.videos"]
        eps = case.tensors[f"{name}.train.eps"]
        eps = eps.reshape(frames.shape[0], frames.shape[1] - 1, -1)
        case.model.zero_grad()
        result = case.model.train()(frames, eps_BPA=eps)
        losses = lam_loss(result, beta=beta)
        losses.loss.backward()
        case.close(result.z, f"{name}.train.z_rep")
        case.close(result.recon, f"{name}.train.recon")
        case.close(losses.loss, f"{name}.train.loss")
        case.close(losses.mse, f"{name}.train.mse_loss")
        case.close(losses.kl, f"{name}.train.kl_loss")
        parameters = dict(case.model.named_parameters())
        prefix = f"{name}.train.grad.{PREFIX}"
        stored = [key for key in case.tensors if key.startswith(prefix)]
        assert stored
        for key in stored:
            gradient = parameters[key.removeprefix(prefix)].grad
            assert gradient is not None
            case.close(gradient, key, kind="grads")


@every_fixture
def test_golden_odd_size(case: Case) -> None:
    if "odd.videos" not in case.tensors:
        pytest.skip("this fixture has no odd size")
    frames = case.tensors["odd.videos"]
    case.close(patchify(frames, case.model.config.patch_size), "odd.patches")
    with torch.no_grad():
        result = case.model.eval()(frames)
    case.close(result.mu, "odd.eval.z_mu")
    case.close(result.log_var, "odd.eval.z_logvar") if "odd.eval.z_logvar" in case.tensors else None
    p = case.model.config.patch_size
    height, width = frames.shape[2] // p * p, frames.shape[3] // p * p
    assert result.recon.shape[2:4] == result.target.shape[2:4] == (height, width)
    assert torch.equal(result.target, frames[:, 1:, :height, :width])


@every_fixture
def test_golden_position_table(case: Case) -> None:
    keys = [key for key in case.tensors if key.startswith("pos_enc_first_")]
    for key in keys:
        rows, width = case.tensors[key].shape
        case.close(position_table(width)[:rows], key)
        case.close(case.model.encoder.table[:rows], key)
    assert keys


@every_fixture
def test_golden_rotary(case: Case) -> None:
    x = case.tensors["rotary.in"]
    freqs = case.model.encoder.transformer_blocks[0].temporal_attn.rotary_embedding.freqs
    case.close(rotate(x, freqs), "rotary.out")


@every_fixture
def test_golden_encoder_only_gives_the_same_mean(case: Case) -> None:
    half = LatentActionModel(case.model.config, encoder_only=True)
    full = case.model.state_dict()
    half.load_state_dict({key: full[key] for key in half.state_dict()})
    name = next(iter(case.info["cases"]))
    with torch.no_grad():
        mu, _ = half.eval().encode(case.tensors[f"{name}.videos"])
    case.close(mu, f"{name}.eval.z_mu")


@pytest.mark.parametrize("golden", golden_fixtures("train_step"))
def test_golden_latents_of_a_batch_stay_in_the_order_of_its_samples(golden: Golden) -> None:
    info, tensors = golden.info, golden.tensors()
    sizes, frames = info["lam_config"], tensors["in.lam_frames"]
    config = ModelConfig(
        width=sizes["model_dim"],
        latent_dim=sizes["latent_dim"],
        patch_size=sizes["patch_size"],
        num_encoder_blocks=sizes["enc_blocks"],
        num_heads=sizes["num_heads"],
        frame_height=frames.shape[2],
        frame_width=frames.shape[3],
    )
    model = LatentActionModel(config, encoder_only=True).eval()
    state = golden.state_dict("lam_sd.")
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    pairs = torch.stack((frames[:, :-1], frames[:, 1:]), dim=2)
    assert torch.equal(pairs.flatten(1, 2), tensors["in.lam_video_pairs"])
    with torch.no_grad():
        mu, _ = model.encode(pairs.flatten(0, 1))
    latents = mu.reshape(tensors["mid.lam_mu"].shape)
    actions = tensors["in.action"].clone()
    actions[..., -sizes["latent_dim"] :] *= latents
    limits = {key: info["tolerance"][key] for key in ("atol", "rtol")}
    torch.testing.assert_close(latents, tensors["mid.lam_mu"], **limits)
    torch.testing.assert_close(actions, tensors["mid.action_intended"], **limits)
