"""Samplers that follow a learned velocity from noise to clean latents: Euler, and UniPC of order 2.

Legend: s noise level, alpha = 1 - s, lam = ln(alpha / s) half the log signal-to-noise ratio,
m = x - s * v the clean sample that the velocity points at. Levels are computed in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .model import WorldModel
from .objective import NUM_TIMES, conditioned_velocity

Velocity = Callable[[Tensor, float], Tensor]
"""Velocity at a sample and a noise level."""
Solver = Literal["euler", "unipc"]


def noise_levels(num_steps: int, *, shift: float = 5.0) -> list[float]:
    """The `num_steps` noise levels of a run from 0.9998 (shift 5) down, and a last 0."""
    grid = np.linspace(1 - 1 / NUM_TIMES, 0, num_steps + 1)[:-1]
    return [*(shift * grid / (1 + (shift - 1) * grid)).tolist(), 0.0]


def timestep_of(level: float) -> int:
    """The whole timestep that released networks are given for a noise level."""
    return int(np.float32(NUM_TIMES) * np.float32(level))


def euler(velocity: Velocity, noise: Tensor, levels: list[float]) -> list[Tensor]:
    """Plain Euler steps; the samples at all levels, `noise` first."""
    path = [noise]
    for level, following in itertools.pairwise(levels):
        path.append(path[-1] + (following - level) * velocity(path[-1], level))
    return path


def unipc(velocity: Velocity, noise: Tensor, levels: list[float]) -> list[Tensor]:
    """Multistep predictor-corrector of order 2; the samples at all levels, `noise` first.

    One evaluation of `velocity` a step: it first corrects the step before, then predicts the next.
    """
    num_steps = len(levels) - 1
    path, clean, start, order = [noise], list[Tensor](), noise, 1
    for step, level in enumerate(levels[:-1]):
        x = path[-1]
        clean.append(x - level * velocity(x, level))
        if step > 0:
            x = _correct(start, clean, levels, step=step, order=order)
        start, order = x, min(2, num_steps - step, step + 1)
        path.append(_predict(start, clean, levels, step=step, order=order))
    return path


SOLVERS: dict[str, Callable[[Velocity, Tensor, list[float]], list[Tensor]]] = {
    "euler": euler,
    "unipc": unipc,
}


def start_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers that depend on the seed alone, not on machine or device."""
    draws = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(draws.astype(np.float32))


@torch.no_grad()
def sample(
    model: WorldModel,
    first_latent_BCHW: Tensor,
    actions_BRA: Tensor,
    *,
    num_steps: int = 35,
    solver: Solver = "euler",
    shift: float = 5.0,
    seed: int = 0,
) -> Tensor:
    """Latents (B, C, T, H, W) of a clip that begins with a given frame and follows its actions.

    Args:
        model: The network, in evaluation mode.
        first_latent_BCHW: Latent of the first frame; returned unchanged as frame 0.
        actions_BRA: `actions_per_latent` rows for every later latent frame.
        num_steps: Evaluations of the network.
        solver: `euler` or `unipc`.
        shift: Shift of the noise levels.
        seed: Seed of the start noise; sample b of the batch takes seed + b.
    """
    frames = 1 + actions_BRA.shape[1] // model.config.actions_per_latent
    batch, channels, height, width = first_latent_BCHW.shape
    shape = (channels, frames, height, width)
    noise = torch.stack([start_noise(shape, seed + number) for number in range(batch)])
    noise = noise.to(first_latent_BCHW)
    clean = first_latent_BCHW[:, :, None]

    def network(x: Tensor, timesteps_B1: Tensor, condition_mask: Tensor) -> Tensor:
        v: Tensor = model(x, timesteps_B1, actions_BRA, condition_mask=condition_mask)
        return v

    def velocity(x: Tensor, level: float) -> Tensor:
        timesteps = x.new_full((batch,), timestep_of(level))
        return conditioned_velocity(network, x, timesteps, clean=clean, noise=noise)

    last = SOLVERS[solver](velocity, noise, noise_levels(num_steps, shift=shift))[-1]
    return torch.cat([clean, last[:, :, 1:]], dim=2)


def _lam(level: float) -> float:
    return math.log((1 - level) / level) if level > 0 else math.inf


def _predict(
    x: Tensor, clean: list[Tensor], levels: list[float], *, step: int, order: int
) -> Tensor:
    level, following = levels[step], levels[step + 1]
    h = _lam(following) - _lam(level)
    shrink = (1 - following) * math.expm1(-h)
    predicted = following / level * x - shrink * clean[-1]
    if order == 2:
        ratio = (_lam(levels[step - 1]) - _lam(level)) / h
        predicted = predicted - shrink * 0.5 * (clean[-2] - clean[-1]) / ratio
    return predicted


def _correct(
    start: Tensor, clean: list[Tensor], levels: list[float], *, step: int, order: int
) -> Tensor:
    before, level = levels[step - 1], levels[step]
    h = _lam(level) - _lam(before)
    e = math.expm1(-h)
    shrink = (1 - level) * e
    corrected = level / before * start - shrink * clean[-2]
    if order == 1:
        return corrected - shrink * 0.5 * (clean[-1] - clean[-2])
    k = -h
    b1 = (e / k - 1) / e
    b2 = 2 * ((e / k - 1) / k - 0.5) / e
    ratio = (_lam(levels[step - 2]) - _lam(before)) / h
    c1 = (b2 - b1) / (ratio - 1)
    return corrected - shrink * (
        c1 * (clean[-3] - clean[-2]) / ratio + (b1 - c1) * (clean[-1] - clean[-2])
    )
