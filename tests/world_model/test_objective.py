"""Laws of the loss and of the samplers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from world_model.config import ModelConfig
from world_model.model import WorldModel
from world_model.objective import (
    Draws,
    conditioned_velocity,
    consistency_term,
    draw,
    first_frame_mask,
    flow_loss,
    sigma_of,
    sigma_table,
)
from world_model.sample import SOLVERS, noise_levels, sample, start_noise


def latents(batch: int = 3) -> Tensor:
    return torch.randn(batch, 16, 4, 4, 4, generator=torch.Generator().manual_seed(3))


def network(x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
    return torch.tanh(x) + timesteps[:, :, None, None, None] / 1000 + mask


def test_loss_of_a_batch_is_the_mean_of_its_samples() -> None:
    clean = latents()
    draws = draw(clean, torch.Generator().manual_seed(5))
    whole = flow_loss(network, clean, draws)
    parts = [
        flow_loss(
            network,
            clean[i : i + 1],
            Draws(draws.noise_BCTHW[i : i + 1], draws.normal_B[i : i + 1]),
        ).total
        for i in range(3)
    ]
    torch.testing.assert_close(whole.total, torch.stack(parts).mean())


def test_permuting_channels_leaves_the_consistency_term_unchanged() -> None:
    predicted, target = latents(), latents().flip(0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    plain = consistency_term(predicted, target)
    torch.testing.assert_close(consistency_term(predicted[:, order], target[:, order]), plain)
    coded = consistency_term(predicted, target, axis=1)
    permuted = consistency_term(predicted[:, order], target[:, order], axis=1)
    assert not torch.allclose(permuted, coded)
    assert consistency_term(predicted[:, :, :1], target[:, :, :1]) == 0


def test_first_frame_is_clean_in_and_true_out() -> None:
    clean, noise = latents(), latents().flip(1)
    seen = {}

    def spy(x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        seen.update(x=x, timesteps=timesteps, mask=mask)
        return torch.zeros_like(x)

    times = torch.tensor([100.0, 500.0, 900.0])
    out = conditioned_velocity(spy, noise, times, clean=clean, noise=noise)
    assert torch.equal(seen["x"][:, :, 0], clean[:, :, 0])
    assert torch.equal(seen["x"][:, :, 1:], noise[:, :, 1:])
    assert torch.equal(seen["timesteps"], times[:, None])
    assert torch.equal(seen["mask"], first_frame_mask(clean))
    assert torch.equal(out[:, :, 0], (noise - clean)[:, :, 0])
    assert not out[:, :, 1:].any()


def test_times_favour_noise_as_observed() -> None:
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    times = 1000 * sigma_of(normal, shift=5.0)
    assert float(times.mean()) == pytest.approx(790, abs=10)
    quartiles = times.quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([713.0, 829.0, 907.0]), atol=8, rtol=0)
    extremes = sigma_of(torch.tensor([-100.0, 100.0]), shift=5.0)
    assert torch.equal(extremes, sigma_table(5.0)[[0, -1]])


def test_draws_depend_on_the_generator_alone() -> None:
    first, second = (draw(latents(), torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first.noise_BCTHW, second.noise_BCTHW)
    assert torch.equal(first.normal_B, second.normal_B)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_samplers_solve_a_field_with_a_known_end(solver: str) -> None:
    """If all data are one point c, the exact velocity is (x - c) / s, and every path ends in c."""
    point = torch.linspace(-1, 1, 8)
    path = SOLVERS[solver](lambda x, level: (x - point) / level, torch.ones(8) * 3, noise_levels(6))
    assert len(path) == 7
    torch.testing.assert_close(path[-1], point, atol=1e-5, rtol=0)


def test_euler_converges_to_the_exact_flow() -> None:
    """Gaussian data of deviation d: x(s) / sqrt(s^2 + (1-s)^2 d^2) is constant."""
    d, start = 0.5, torch.tensor([2.0])

    def spread(level: float) -> float:
        return (level**2 + (1 - level) ** 2 * d**2) ** 0.5

    def field(x: Tensor, level: float) -> Tensor:
        return x * (level - (1 - level) * d**2) / spread(level) ** 2

    def error(solver: str, num_steps: int) -> float:
        levels = noise_levels(num_steps)
        end = SOLVERS[solver](field, start, levels)[-1]
        return abs(float(end - start * d / spread(levels[0])))

    assert error("euler", 400) < 0.02
    assert error("euler", 400) < 0.6 * error("euler", 200) < 0.36 * error("euler", 100)
    assert error("unipc", 35) < error("euler", 35)


def test_sampling_keeps_the_first_frame_and_follows_its_seed() -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=32, num_blocks=1, num_heads=2, modulation_rank=8)
    model = WorldModel(config).eval()
    first, actions = latents(2)[:, :, 0], torch.zeros(2, 12, 384)
    one, again, other = (
        sample(model, first, actions, num_steps=2, seed=seed) for seed in (0, 0, 5)
    )
    assert one.shape == (2, 16, 4, 4, 4)
    assert torch.equal(one[:, :, 0], first)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    single = sample(model, first[1:], actions[1:], num_steps=2, seed=1)
    torch.testing.assert_close(single, one[1:], atol=1e-5, rtol=1e-4)
    assert torch.equal(start_noise((3,), 7), start_noise((3,), 7))
