"""Rotary position code over (time, height, width) in the half-split convention.

Shapes: B batch (1 unless frame rates are modulated), N tokens (time-major, then rows, then
columns), h heads, d width of one head. Component i of a head turns together with component i + d/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Frequencies of the three axes."""

    height_ratio: float = 3.0
    """Extrapolation ratio of the rows."""
    width_ratio: float = 3.0
    """Extrapolation ratio of the columns."""
    time_ratio: float = 1.0
    """Extrapolation ratio of the frames."""
    fps_modulation: bool = False
    """Count time in units of 1/24 s instead of frames; needs the frame rate."""
    base_fps: float = 24.0
    """Frame rate at which modulated and plain positions agree."""


class VideoRope(nn.Module):
    """Angles for a grid of tokens, cached by grid.

    The buffers exist for the released state-dict names alone: they are written, never read.
    """

    seq: Tensor
    dim_spatial_range: Tensor
    dim_temporal_range: Tensor

    def __init__(self, head_dim: int, config: RopeConfig, *, max_len: int = 128) -> None:
        """`max_len` is the length of the `seq` buffer of the released files."""
        super().__init__()
        self.config, self.max_len = config, max_len
        self.space_dim = 2 * (head_dim // 6)
        self.time_dim = head_dim - 2 * self.space_dim
        self.register_buffer("seq", torch.empty(max_len))
        self.register_buffer("dim_spatial_range", torch.empty(self.space_dim // 2))
        self.register_buffer("dim_temporal_range", torch.empty(self.time_dim // 2))
        self._cache: dict[tuple[int, int, int, torch.device], Tensor] = {}
        if self.seq.device.type != "meta":
            self.reset()

    def reset(self) -> None:
        """Fill the buffers with their fixed values."""
        self.seq.copy_(torch.arange(self.max_len))
        self.dim_spatial_range.copy_(torch.arange(0, self.space_dim, 2) / self.space_dim)
        self.dim_temporal_range.copy_(torch.arange(0, self.time_dim, 2) / self.time_dim)

    def forward(
        self, grid: tuple[int, int, int], device: torch.device, fps: Tensor | None
    ) -> Tensor:
        """Angles in radians, (B, N, d/2) in float32.

        Args:
            grid: Latent frames, token rows, token columns.
            device: Where the angles are wanted.
            fps: Frames per second of each sample, (B,); only read with `fps_modulation`.
        """
        if self.config.fps_modulation and fps is not None:
            times = torch.arange(grid[0], device=device) / fps[:, None] * self.config.base_fps
            return self._angles(times, grid, device)
        key = (*grid, device)
        if key not in self._cache:
            self._cache.clear()
            times = torch.arange(grid[0], device=device, dtype=torch.float32)[None]
            self._cache[key] = self._angles(times, grid, device)
        return self._cache[key]

    def _angles(self, times: Tensor, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        frames, rows, columns = grid
        config = self.config
        time = times[..., None] * frequencies(self.time_dim, config.time_ratio, device)
        row = torch.arange(rows, device=device)[:, None]
        column = torch.arange(columns, device=device)[:, None]
        height = row * frequencies(self.space_dim, config.height_ratio, device)
        width = column * frequencies(self.space_dim, config.width_ratio, device)
        shape = (times.shape[0], frames, rows, columns, -1)
        return torch.cat(
            [
                time[:, :, None, None].expand(shape),
                height[None, None, :, None].expand(shape),
                width[None, None, None].expand(shape),
            ],
            dim=-1,
        ).flatten(1, 3)


def frequencies(dim: int, ratio: float, device: torch.device) -> Tensor:
    """Angular step per position of one axis: `theta ** (-2i/dim)`, i = 0 .. dim/2 - 1.

    theta is `10000 * ratio ** (dim / (dim - 2))`.
    """
    theta = 10_000.0 * ratio ** (dim / (dim - 2))
    powers = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
    return torch.pow(theta, -powers)


def rotate(x_BNhd: Tensor, angles_BNd: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) by its angle; float32 in between, the input's type outside."""
    cos, sin = angles_BNd.cos()[:, :, None], angles_BNd.sin()[:, :, None]
    first, second = x_BNhd.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.type_as(x_BNhd)
