"""Attention, feed-forward and transformer stacks, with the published parameter names.

Shapes: B batch, T frames, N tokens of a frame, D width, H heads, E head width.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

TABLE_LENGTH = 5000


@lru_cache(maxsize=4)
def position_table(width: int, *, length: int = TABLE_LENGTH) -> Tensor:
    """Table (length, width): even columns sine, odd cosine, of n * 10000^(-2i/width).

    Encoder and decoder share it, so nobody may write into it.
    """
    position = torch.arange(length, dtype=torch.float64, device="cpu")[:, None]
    index = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    angle = position * torch.exp(index * (-math.log(10000.0) / width))
    table = torch.zeros(length, width, dtype=torch.float64, device="cpu")
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : width // 2]
    return table.float()


def rotate(x_BHTE: Tensor, freqs: Tensor) -> Tensor:
    """Rotate interleaved pairs (2i, 2i+1) of frame t by the angle t * freqs[i], in float32."""
    with torch.autocast(x_BHTE.device.type, enabled=False):
        time = torch.arange(x_BHTE.shape[-2], device=x_BHTE.device, dtype=torch.float32)
        angle = time[:, None] * freqs.float()
        cos, sin = angle.cos(), angle.sin()
        pairs = x_BHTE.float().reshape(*x_BHTE.shape[:-1], -1, 2)
        even, odd = pairs.unbind(-1)
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned.flatten(-2).to(x_BHTE.dtype)


class Rotary(nn.Module):
    """Holder of the rotary frequencies: a frozen parameter, as published checkpoints store it."""

    def __init__(self, head_width: int) -> None:
        """Frequencies 10000^(-2i/head_width) for i in 0 .. head_width/2 - 1."""
        super().__init__()
        # On the meta device this power would import torch's compiler, which takes seconds.
        index = torch.arange(0, head_width, 2, device="cpu").float()
        freqs = (10000.0 ** (-index / head_width)).to(torch.get_default_device())
        self.freqs = nn.Parameter(freqs, requires_grad=False)

    def forward(self, x_BHTE: Tensor) -> Tensor:
        """Rotate by the frame number."""
        return rotate(x_BHTE, self.freqs)


class Attention(nn.Module):
    """Fused multi-head attention; `rotary` turns queries and keys by their position."""

    def __init__(self, width: int, num_heads: int, *, rotary: bool = False) -> None:
        """Projections without bias in, with bias out."""
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.rotary_embedding = Rotary(width // num_heads) if rotary else None

    def forward(self, x_BND: Tensor, *, num_queries: int | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); every row of B attends on its own.

        `num_queries` gives only the first so many of the N tokens, at the price of those.
        """
        query, key, value = (
            linear(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear, tokens in (
                (self.to_q, x_BND[:, :num_queries]),
                (self.to_k, x_BND),
                (self.to_v, x_BND),
            )
        )
        if self.rotary_embedding is not None:
            query, key = self.rotary_embedding(query), self.rotary_embedding(key)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(-2))
        return out


def feed_forward(width: int) -> nn.Sequential:
    """D -> 4D -> D with exact GELU; the identity keeps the published numbering (0 and 3)."""
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width)
    )


class SpatioTemporalBlock(nn.Module):
    """Encoder block: attention inside each frame, over the frames of each token, then the MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Three pre-norm residual branches."""
        super().__init__()
        self.spatial_attn = Attention(width, num_heads)
        self.temporal_attn = Attention(width, num_heads, rotary=True)
        self.ffn = feed_forward(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x_BTND: Tensor, *, num_kept: int | None = None) -> Tensor:
        """(B, T, N, D) -> (B, T, N, D), or only the first `num_kept` tokens of each frame."""
        seen = self.look(x_BTND.flatten(0, 1), num_kept=num_kept)
        return self.relate(seen.reshape(*x_BTND.shape[:2], *seen.shape[1:]))

    def look(self, x_FND: Tensor, *, num_kept: int | None = None) -> Tensor:
        """The part inside each of F frames, which no other frame changes."""
        change: Tensor = self.spatial_attn(self.norm1(x_FND), num_queries=num_kept)
        return x_FND[:, :num_kept] + change

    def relate(self, x_BTND: Tensor) -> Tensor:
        """The part over time, then the MLP."""
        over_time = self.norm2(x_BTND).transpose(1, 2).flatten(0, 1)
        change = self.temporal_attn(over_time).unflatten(0, (len(x_BTND), -1))
        x = x_BTND + change.transpose(1, 2)
        out: Tensor = x + self.ffn(self.norm3(x))
        return out


class SpatialBlock(nn.Module):
    """Decoder block: attention inside each frame, then the MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Two pre-norm residual branches."""
        super().__init__()
        self.spatial_attn = Attention(width, num_heads)
        self.ffn = feed_forward(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x_BND + self.spatial_attn(self.norm1(x_BND))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Stem, blocks and output layer: encoder or decoder, told apart by `block`."""

    def __init__(
        self,
        block: type[SpatioTemporalBlock] | type[SpatialBlock],
        *,
        in_width: int,
        width: int,
        out_width: int,
        num_blocks: int,
        num_heads: int,
    ) -> None:
        """`ffn` is the stem: norm, linear, norm; the position table follows it."""
        super().__init__()
        self.ffn = nn.Sequential(
            nn.LayerNorm(in_width), nn.Linear(in_width, width), nn.LayerNorm(width)
        )
        self.transformer_blocks = nn.ModuleList(block(width, num_heads) for _ in range(num_blocks))
        self.out = nn.Linear(width, out_width)
        self.recompute = False  # keep no activations inside blocks while training
        self.table: Tensor
        self.register_buffer("table", position_table(width), persistent=False)

    def rebuild_table(self, device: torch.device) -> None:
        """Fill the position table after the module was made without storage (meta device)."""
        self.table = position_table(self.out.in_features).to(device)

    def stem(self, x: Tensor) -> Tensor:
        """Tokens with their position code, which runs along the second-last axis."""
        x = self.ffn(x)
        return x + self.table[: x.shape[-2]].to(x.dtype)

    def forward(self, x: Tensor, *, num_kept: int | None = None) -> Tensor:
        """(..., N, in_width) -> (..., N, out_width).

        With `num_kept` (encoder only) the last block and the output layer work only for the first
        tokens of each frame; their values are the same, and of two blocks nearly one is saved.
        """
        *others, last = self.transformer_blocks
        x = self.stem(x)
        for block in others:
            if self.recompute and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        x = last(x) if num_kept is None else last(x, num_kept=num_kept)
        out: Tensor = self.out(x)
        return out
