"""What a motion may look like without being another one: seen from elsewhere, faster, less steady.

Two views of a pair of clips are altered apart, so that only what survives can bring them together.
Shapes: V views, T transitions of a view, h w flow pixels. Flow is in pixels of the full-size frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import NeighbourConfig


def altered(flows_VT2hw: Tensor, config: NeighbourConfig, *, generator: torch.Generator) -> Tensor:
    """Each view turned, scaled, shifted and sped up as a whole, with leftover camera motion."""
    num_views, num_steps, _, height, width = flows_VT2hw.shape
    flows = _turned(flows_VT2hw, config, generator)
    flows = flows * torch.exp(config.speed * _normal(generator, num_views, 1, 1, 1, 1))
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    terms = torch.stack([torch.ones_like(x), x, y, x * y, x * x, y * y])
    motion = _normal(generator, num_views, num_steps, 2, len(terms)) * config.camera_px
    flows = flows + torch.einsum("vtck,khw->vtchw", motion, terms)
    # Ground at two depths: beyond a random line it moves a little differently.
    angle = torch.rand(num_views, 1, 1, generator=generator) * 2 * torch.pi
    offset = torch.rand(num_views, 1, 1, generator=generator) - 0.5
    beyond = torch.sigmoid((torch.cos(angle) * x + torch.sin(angle) * y - offset) * 20)
    parallax = _normal(generator, num_views, num_steps, 2, 1, 1) * config.parallax_px
    flows = flows + parallax * beyond[:, None, None]
    return flows + config.noise_px * _normal(generator, *flows.shape)


def ground_of(flows_VT2hw: Tensor, config: NeighbourConfig) -> Tensor:
    """What is left of the camera's motion where nothing else moves; zero elsewhere."""
    is_ground = flows_VT2hw.square().sum(dim=2, keepdim=True) < config.ground_px**2
    return flows_VT2hw * is_ground


def _turned(flows_VT2hw: Tensor, config: NeighbourConfig, generator: torch.Generator) -> Tensor:
    """One similarity a view, of the picture and of the motion in it."""
    num_views, num_steps, _, height, width = flows_VT2hw.shape
    angle, log_scale, *shift = (config.turn * _normal(generator, 4, num_views)).unbind()
    cosine, sine, scale = torch.cos(angle), torch.sin(angle), torch.exp(log_scale)
    # Places are in [-1, 1] on both axes, so a turn has to know the picture's shape.
    shape = height / width
    back = torch.stack(
        [
            torch.stack([cosine / scale, -sine / scale * shape, shift[0]], dim=-1),
            torch.stack([sine / scale / shape, cosine / scale, shift[1]], dim=-1),
        ],
        dim=1,
    )
    back = back[:, None].expand(-1, num_steps, -1, -1).flatten(0, 1)
    flat = flows_VT2hw.flatten(0, 1)
    grid = F.affine_grid(back, list(flat.shape), align_corners=False)
    u, v = F.grid_sample(flat, grid, align_corners=False).view_as(flows_VT2hw).unbind(dim=2)
    c, s, k = (value[:, None, None, None] for value in (cosine, sine, scale))
    return torch.stack([(c * u + s * v) * k, (c * v - s * u) * k], dim=2)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)
