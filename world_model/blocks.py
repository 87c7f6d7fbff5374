"""Layers of the diffusion transformer, with the module names of the released weights.

Shapes: B batch, T latent frames, S tokens of one frame, N = T*S tokens, D width, h heads, d head
width, L context rows. Modulation is computed in float32 whatever the rest runs in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import rotate


class RMSNorm(nn.Module):
    """`x * rsqrt(mean(x^2) + eps) * weight` over the last axis, computed in float32."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as `x`."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).type_as(x)


def linear_fp32(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer in float32, also inside autocast and with half-precision weights."""
    with torch.autocast(x.device.type, enabled=False):
        bias = layer.bias.float() if layer.bias is not None else None
        return F.linear(x.float(), layer.weight.float(), bias)


class LowRankModulation(nn.Sequential):
    """SiLU, D -> rank -> k*D without biases; the two linears are entries 1 and 2."""

    def __init__(self, width: int, rank: int, num_parts: int) -> None:
        super().__init__(
            nn.SiLU(),
            nn.Linear(width, rank, bias=False),
            nn.Linear(rank, num_parts * width, bias=False),
        )
        self.num_parts = num_parts

    def parts(self, e_BTD: Tensor, lora: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale (and gate) per latent frame, each (B, T, 1, D) in float32.

        `lora` is the offset shared by all layers, (B, T, 3D); its first `num_parts` parts are used.
        """
        down, up = self[1], self[2]
        assert isinstance(down, nn.Linear)
        assert isinstance(up, nn.Linear)
        offset = lora[..., : up.out_features]
        whole = linear_fp32(up, linear_fp32(down, F.silu(e_BTD))) + offset
        return whole[:, :, None].chunk(self.num_parts, dim=-1)


def modulate(x_BTSD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then `* (1 + scale) + shift`, in float32."""
    with torch.autocast(x_BTSD.device.type, enabled=False):
        normed = F.layer_norm(x_BTSD.float(), x_BTSD.shape[-1:], eps=1e-6)
        return normed * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention with normed queries and keys; over itself, or over a context."""

    def __init__(self, width: int, num_heads: int, *, context_width: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        source = context_width or width
        self.q_proj = nn.Linear(width, width, bias=False)
        self.q_norm = RMSNorm(width // num_heads)
        self.k_proj = nn.Linear(source, width, bias=False)
        self.k_norm = RMSNorm(width // num_heads)
        self.v_proj = nn.Linear(source, width, bias=False)
        self.output_proj = nn.Linear(width, width, bias=False)

    def qkv(self, x_BND: Tensor, source_BLD: Tensor, angles: Tensor | None) -> tuple[Tensor, ...]:
        """Queries (B, N, h, d), keys and values (B, L, h, d); normed and, with angles, rotated."""
        q, k, v = (
            layer(tokens).reshape(*tokens.shape[:2], self.num_heads, -1)
            for layer, tokens in (
                (self.q_proj, x_BND),
                (self.k_proj, source_BLD),
                (self.v_proj, source_BLD),
            )
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, k, v

    def forward(
        self, x_BND: Tensor, *, context_BLD: Tensor | None = None, angles: Tensor | None = None
    ) -> Tensor:
        """Attend over `context_BLD` when given (batch 1 is shared by all), else over `x` itself."""
        source = x_BND if context_BLD is None else context_BLD
        q, k, v = self.qkv(x_BND, source, angles)
        if len(k) == 1 and len(q) > 1:
            k, v = k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        out: Tensor = self.output_proj(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Linear, GELU, linear; without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, hidden, bias=False)
        self.layer2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        out: Tensor = self.layer2(F.gelu(self.layer1(x)))
        return out


class ActionMlp(nn.Module):
    """Four action rows, flattened, to an offset of one latent frame's embedding."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, out_features)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out), in float32."""
        return linear_fp32(self.fc2, F.gelu(linear_fp32(self.fc1, rows), approximate="tanh"))


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, each modulated and gated per frame."""

    def __init__(
        self, width: int, num_heads: int, *, hidden: int, rank: int, context_width: int
    ) -> None:
        super().__init__()
        self.self_attn = Attention(width, num_heads)
        self.cross_attn = Attention(width, num_heads, context_width=context_width)
        self.mlp = FeedForward(width, hidden)
        self.adaln_modulation_self_attn = LowRankModulation(width, rank, 3)
        self.adaln_modulation_cross_attn = LowRankModulation(width, rank, 3)
        self.adaln_modulation_mlp = LowRankModulation(width, rank, 3)

    def forward(
        self, x_BTSD: Tensor, e_BTD: Tensor, lora: Tensor, *, context_BLD: Tensor, angles: Tensor
    ) -> Tensor:
        """Same shape as `x`; the residual stream is float32."""
        shape, dtype = x_BTSD.shape, self.mlp.layer1.weight.dtype
        shift, scale, gate = self.adaln_modulation_self_attn.parts(e_BTD, lora)
        y = modulate(x_BTSD, shift, scale).to(dtype).flatten(1, 2)
        x_BTSD = x_BTSD + gate * self.self_attn(y, angles=angles).reshape(shape)
        shift, scale, gate = self.adaln_modulation_cross_attn.parts(e_BTD, lora)
        y = modulate(x_BTSD, shift, scale).to(dtype).flatten(1, 2)
        x_BTSD = x_BTSD + gate * self.cross_attn(y, context_BLD=context_BLD).reshape(shape)
        shift, scale, gate = self.adaln_modulation_mlp.parts(e_BTD, lora)
        out: Tensor = self.mlp(modulate(x_BTSD, shift, scale).to(dtype))
        return x_BTSD + gate * out


class FinalLayer(nn.Module):
    """Modulated norm and the linear map to the numbers of one patch, all in float32."""

    def __init__(self, width: int, rank: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_features, bias=False)
        self.adaln_modulation = LowRankModulation(width, rank, 2)

    def forward(self, x_BTSD: Tensor, e_BTD: Tensor, lora: Tensor) -> Tensor:
        """(B, T, S, D) to (B, T, S, out)."""
        shift, scale = self.adaln_modulation.parts(e_BTD, lora)
        return linear_fp32(self.linear, modulate(x_BTSD, shift, scale))
