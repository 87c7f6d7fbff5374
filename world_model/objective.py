"""The rectified-flow objective: noise levels, interpolation, conditioning on the first frame, loss.

Shapes: B batch, C latent channels, T latent frames, H W latent rows and columns. Random numbers are
arguments, so that a loss is a pure function; `draw` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NUM_TIMES = 1000


VelocityNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Velocity (B, C, T, H, W) from latents, timesteps (B, 1) and condition mask (B, 1, T, H, W)."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one training step."""

    noise_BCTHW: Tensor
    """Standard normal, shaped as the latents."""
    normal_B: Tensor
    """Standard normal; decides the noise level of each sample."""


@dataclass(frozen=True, slots=True)
class FlowLoss:
    """A loss and its parts; scalars that carry gradients."""

    total: Tensor
    """`flow + weight * consistency`."""
    flow: Tensor
    """Mean squared error of the velocity."""
    consistency: Tensor
    """Mean squared error of the velocity's differences."""


def draw(latents: Tensor, generator: torch.Generator) -> Draws:
    """Random numbers for one step from a CPU generator: the same on every device."""
    noise = torch.randn(latents.shape, generator=generator)
    normal = torch.randn(latents.shape[0], generator=generator)
    return Draws(noise.to(latents.device), normal.to(latents.device))


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Noise level moved towards 1: `shift * s / (1 + (shift - 1) * s)`."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_table(shift: float) -> Tensor:
    """The 1000 noise levels of training, from 1 down, in float32."""
    return shifted(torch.arange(NUM_TIMES, 0, -1, dtype=torch.float32) / NUM_TIMES, shift)


def sigma_of(normal_B: Tensor, *, shift: float) -> Tensor:
    """Noise level for each standard normal draw: the table at `floor(1000 * sigmoid(n))`."""
    index = (torch.sigmoid(normal_B) * NUM_TIMES).long().clamp(max=NUM_TIMES - 1)
    return sigma_table(shift).to(normal_B.device)[index]


def interpolate(clean: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """`sigma * noise + (1 - sigma) * clean`, one noise level per sample."""
    sigma = sigma_B.reshape(-1, *[1] * (clean.ndim - 1))
    return sigma * noise + (1 - sigma) * clean


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """The direction from clean to noise, which the network learns."""
    return noise - clean


def first_frame_mask(latents: Tensor) -> Tensor:
    """(B, 1, T, H, W), 1 on the condition frame."""
    mask = torch.zeros_like(latents[:, :1])
    mask[:, :, 0] = 1
    return mask


def conditioned_velocity(
    network: VelocityNetwork, x: Tensor, timesteps_B: Tensor, *, clean: Tensor, noise: Tensor
) -> Tensor:
    """The network's velocity with frame 0 clean at the input and true at the output.

    All frames, the clean one too, get the timestep of their sample. Of `clean` and `noise` only
    frame 0 is read.
    """
    mask = first_frame_mask(x)
    timesteps = timesteps_B[:, None]
    predicted = network(torch.where(mask.bool(), clean[:, :, :1], x), timesteps, mask)
    true = velocity(clean[:, :, :1], noise[:, :, :1])
    return torch.where(mask.bool(), true, predicted)


def flow_loss(
    network: VelocityNetwork,
    latents: Tensor,
    draws: Draws,
    *,
    shift: float = 5.0,
    consistency_weight: float = 0.1,
    compat: Literal["none", "as_coded"] = "none",
) -> FlowLoss:
    """Rectified-flow loss with the temporal-consistency term; frame 0 counts with zero error.

    The consistency term compares the differences of neighbouring latent frames. `compat="as_coded"`
    takes them between neighbouring channels instead, as the released weights were trained.
    """
    sigma = sigma_of(draws.normal_B, shift=shift)
    noised = interpolate(latents, draws.noise_BCTHW, sigma)
    target = velocity(latents, draws.noise_BCTHW)
    predicted = conditioned_velocity(
        network, noised, NUM_TIMES * sigma, clean=latents, noise=draws.noise_BCTHW
    )
    flow = (predicted - target).pow(2).mean()
    consistency = consistency_term(predicted, target, axis=1 if compat == "as_coded" else 2)
    return FlowLoss(flow + consistency_weight * consistency, flow, consistency)


def consistency_term(predicted: Tensor, target: Tensor, *, axis: int = 2) -> Tensor:
    """Mean squared error between the differences along `axis`; 0 for a single frame."""
    if predicted.shape[axis] < 2:
        return torch.zeros((), device=predicted.device)
    return (predicted.diff(dim=axis) - target.diff(dim=axis)).pow(2).mean()
