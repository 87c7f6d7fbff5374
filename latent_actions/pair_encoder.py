"""The encoder as extraction runs it: two frames a time, weights cast and laid out once.

It gives what `LatentActionModel.encode` gives for two frames, by fewer and larger products:

    frame 0: stem, spatial attention of block 0 -+
                                                 +- x (2, B, N, D): the rest of block 0, blocks
    frame 1: stem, spatial attention of block 0 -+  1 .. L-2, of L-1 only the action token

- What a frame goes through on its own is computed once for all pairs it belongs to (`look`).
- A softmax over two frames is a sigmoid: out_t = v0 + sigmoid(q_t . (k1 - k0)) (v1 - v0).
- Rotating frame 1 by its fixed angle is a part of its query and key weights; frame 0 is not turned.
- Query, key and value are one product, and the scale of the scores lies in the query weights.

Shapes: F frames, B pairs, N tokens of a frame, D width, H heads, E head width, A latent width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Attention, SpatioTemporalBlock
from .model import LatentActionModel, patchify

log = logging.getLogger(__name__)
Norm = tuple[Tensor, Tensor]
Linear = Callable[[Tensor], Tensor]


class PairEncoder(Protocol):
    """Gives the latents of pairs whose frames were looked at before."""

    def look(self, frames_FHWC: Tensor) -> Tensor:
        """What each frame, float32 in [0, 1] of the model's size, goes through on its own."""
        ...

    def relate(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Latents (B, A), float32, of pairs of looked-at frames."""
        ...


def pair_encoder(
    model: LatentActionModel,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    compiled: bool = False,
) -> PairEncoder:
    """Lay out a model's encoder for extraction; the model itself stays as it is.

    Args:
        model: Any latent action model; its decoder is not looked at.
        dtype: Number type of the large products. Stem, norms' statistics, softmax sums, output
            layer and latents are float32 always.
        device: Where the weights go.
        compiled: Fuse what lies between the products with `torch.compile`.
    """
    if model.config.input == "flow":
        return FlowEncoder(model, dtype=dtype, device=torch.device(device))
    return FramesEncoder(model, dtype=dtype, device=torch.device(device), compiled=compiled)


def compiled_or_not(
    make: Callable[..., PairEncoder], frame_1HWC: Tensor, num_pairs: int
) -> PairEncoder:
    """An encoder with `torch.compile` where it works, else without, and a warning that says why.

    Args:
        make: `make(compiled=True)` gives an encoder; nothing is compiled before it is used.
        frame_1HWC: One frame to try it on.
        num_pairs: Pairs of a batch, the shape it is compiled for.
    """
    try:
        encoder = make(compiled=True)
        with torch.inference_mode():
            seen = encoder.look(frame_1HWC).expand(num_pairs, -1, -1)
            encoder.relate(seen, seen)
    except Exception as error:  # whatever a compiler that is missing, old or broken makes of it
        log.warning("%s", not_compiled(error))
        return make()
    return encoder


def compile_fault(device: str) -> str | None:
    """Why `torch.compile` is no use on a device of this process; None when it works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # as above
        return not_compiled(error)
    return None


def not_compiled(error: Exception) -> str:
    """The sentence for a compiler that does not work."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = (lines or [type(error).__name__])[0].rstrip(".:")[:200]
    return f"torch.compile does not work here ({why}): latents are made without it."


class FlowEncoder:
    """A model of flow: the flow itself and the place part in float32, the network as asked for."""

    def __init__(self, model: Any, *, dtype: torch.dtype, device: torch.device) -> None:
        self.model = copy.deepcopy(model).to(device).eval()
        if dtype != torch.float32:
            for name in ("encoder", "fc"):
                setattr(self.model, name, _Cast(getattr(self.model, name), dtype))

    def look(self, frames_FHWC: Tensor) -> Tensor:
        """The frames themselves: flow belongs to a pair."""
        seen: Tensor = self.model.look(frames_FHWC)
        return seen

    def relate(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Latents (B, A) of pairs."""
        mu: Tensor = self.model.relate(earlier, later)
        return mu


class FramesEncoder:
    """A model of frames."""

    def __init__(
        self, model: Any, *, dtype: torch.dtype, device: torch.device, compiled: bool
    ) -> None:
        self.patch_size = model.config.patch_size
        self.dtype = dtype
        lay = _Layout(dtype=dtype, device=device)
        self.prompt = lay.exact(model.action_prompt)
        self.stem = copy.deepcopy(model.encoder.ffn).to(device, torch.float32)
        self.table = lay.exact(model.encoder.table)
        self.out = copy.deepcopy(model.encoder.out).to(device, torch.float32)
        self.fc = copy.deepcopy(model.fc).to(device, torch.float32)
        blocks: list[SpatioTemporalBlock] = list(model.encoder.transformer_blocks)
        *others, last = blocks
        self.alone = [_Spatial(others[0], lay)] if others else []
        together = [branch for block in others for branch in _branches(block, lay)]
        self.together = together[1:]  # the first spatial attention is done by `look`
        self.of_prompt = [_SpatialOfPrompt(last, lay), *_over_time(last, lay)]
        self.add_and_norm: Callable[..., tuple[Tensor, Tensor]] = _add_and_norm
        if compiled:
            self.add_and_norm = torch.compile(_add_and_norm, dynamic=False)
            mixing = torch.compile(_mix_two_frames, dynamic=False)
            for branch in (*self.together, *self.of_prompt):
                if isinstance(branch, _Temporal):
                    branch.mix = mixing

    def look(self, frames_FHWC: Tensor) -> Tensor:
        """Stem and spatial attention of the first block: (F, N, D).

        Of a single block everything depends on which tokens are kept, so only the stem is shared.
        """
        patches = patchify(frames_FHWC[None], self.patch_size)[0]
        prompt = self.prompt[0].expand(len(patches), -1, -1)
        x: Tensor = self.stem(torch.cat((prompt, patches), dim=1))
        x = (x + self.table[: x.shape[1]]).to(self.dtype)
        for branch in self.alone:
            x = x + branch(F.layer_norm(x, x.shape[-1:], *branch.norm))
        return x

    def relate(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Latents (B, A) of pairs."""
        x, change = torch.stack((earlier, later)), None
        for branch in self.together:
            x, normed = self.add_and_norm(x, change, *branch.norm)
            change = branch(normed)
        spatial, *over_time = self.of_prompt
        x, normed = self.add_and_norm(x, change, *spatial.norm)
        x, change = x[:, :, :1].contiguous(), spatial(normed)
        for branch in over_time:
            x, normed = self.add_and_norm(x, change, *branch.norm)
            change = branch(normed)
        tokens = (x[1, :, 0] + change[1, :, 0]).float()
        mu: Tensor = self.fc(self.out(tokens)).chunk(2, dim=-1)[0]
        return mu


class _Layout:
    """Weights of one number type on one device."""

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.packs = device.type == "cpu" and _packing_works(dtype)

    def exact(self, tensor: Tensor) -> Tensor:
        """A copy as it is."""
        return tensor.detach().to(self.device, torch.float32, copy=True)

    def cast(self, tensor: Tensor) -> Tensor:
        """A copy in the number type."""
        return tensor.detach().to(self.device, self.dtype, copy=True)

    def norm(self, norm: nn.LayerNorm) -> Norm:
        """Weight and bias of a norm."""
        return self.cast(norm.weight), self.cast(norm.bias)

    def layer(self, layer: nn.Module, *, then_gelu: bool = False) -> Linear:
        """A layer with its bias, and GELU after it."""
        assert isinstance(layer, nn.Linear)
        return self._made(self.cast(layer.weight), self.cast(layer.bias), then_gelu)

    def product(self, *weights: Tensor) -> Linear:
        """One product for several weights without bias, their outputs side by side."""
        return self._made(self.cast(torch.cat(weights)), None, False)

    def _made(self, weight: Tensor, bias: Tensor | None, then_gelu: bool) -> Linear:
        kind = _PackedLinear if self.packs else _PlainLinear
        return kind(weight, bias, then_gelu)


class _PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None, then_gelu: bool) -> None:
        self.weight, self.bias, self.then_gelu = weight, bias, then_gelu

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.then_gelu else y


class _PackedLinear:
    """The same by oneDNN with its weights in blocks, the form torch's own compiler uses.

    On AMD it is a sixth faster than `F.linear` in float32, where MKL leaves AVX-512 unused, and a
    tenth in bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, then_gelu: bool) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.bias = bias
        self.then = ("gelu", (), "none") if then_gelu else ("none", (), "")

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.then)
        return y


def _packing_works(dtype: torch.dtype) -> bool:
    """Whether this build and this CPU do it: the operators are torch's own and may go."""
    probe = torch.eye(16, dtype=dtype)
    try:
        made = _PackedLinear(probe, probe[0], True)(probe)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.allclose(made, F.gelu(probe + probe[0]), atol=1e-2)


class _Spatial:
    """Attention inside each frame: (..., N, D) normed -> its change."""

    def __init__(self, block: SpatioTemporalBlock, lay: _Layout) -> None:
        attn = block.spatial_attn
        self.num_heads = attn.num_heads
        self.norm = lay.norm(block.norm1)
        self.qkv = lay.product(_scaled_query(attn), attn.to_k.weight, attn.to_v.weight)
        self.out = lay.layer(attn.to_out[0])
        self.attend = _attend_by_matrices if _is_short_on_cpu(lay) else _attend

    def __call__(self, normed: Tensor) -> Tensor:
        qkv = self.qkv(normed).flatten(0, -3)
        mixed = self.attend(*_heads(qkv, 3, self.num_heads).unbind(-3))
        return self.out(mixed).view(normed.shape)


class _SpatialOfPrompt:
    """The same for the first token alone: (2, B, N, D) normed -> (2, B, 1, D)."""

    def __init__(self, block: SpatioTemporalBlock, lay: _Layout) -> None:
        attn = block.spatial_attn
        self.num_heads = attn.num_heads
        self.norm = lay.norm(block.norm1)
        self.q = lay.product(_scaled_query(attn))
        self.kv = lay.product(attn.to_k.weight, attn.to_v.weight)
        self.out = lay.layer(attn.to_out[0])

    def __call__(self, normed: Tensor) -> Tensor:
        frames = normed.flatten(0, -3)
        q = _heads(self.q(frames[:, :1].contiguous()), self.num_heads)
        k, v = _heads(self.kv(frames), 2, self.num_heads).unbind(-3)
        return self.out(_attend(q, k, v)).view(*normed.shape[:2], 1, -1)


class _Temporal:
    """Attention of each token over the two frames: (2, B, N, D) normed -> its change."""

    def __init__(self, block: SpatioTemporalBlock, lay: _Layout) -> None:
        attn = block.temporal_attn
        assert attn.rotary_embedding is not None
        self.num_heads = attn.num_heads
        self.norm = lay.norm(block.norm2)
        query, key, value = _scaled_query(attn), attn.to_k.weight, attn.to_v.weight
        freqs = attn.rotary_embedding.freqs
        self.first = lay.product(query, key, value)
        self.second = lay.product(_turned(query, freqs), _turned(key, freqs), value)
        self.out = lay.layer(attn.to_out[0])
        self.mix: Callable[..., Tensor] = _mix_two_frames

    def __call__(self, normed: Tensor) -> Tensor:
        first = _heads(self.first(normed[0]), 3, self.num_heads)
        second = _heads(self.second(normed[1]), 3, self.num_heads)
        return self.out(self.mix(first, second))


class _Mlp:
    """D -> 4D -> D with exact GELU: (2, B, N, D) normed -> its change."""

    def __init__(self, block: SpatioTemporalBlock, lay: _Layout) -> None:
        self.norm = lay.norm(block.norm3)
        self.up = lay.layer(block.ffn[0], then_gelu=True)
        self.down = lay.layer(block.ffn[3])

    def __call__(self, normed: Tensor) -> Tensor:
        return self.down(self.up(normed))


class _Cast(nn.Module):
    """A part of a network in another number type, float32 outside."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.part, self.dtype = part.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x.to(self.dtype)).float()
        return y


def _branches(block: SpatioTemporalBlock, lay: _Layout) -> list[Any]:
    return [_Spatial(block, lay), *_over_time(block, lay)]


def _over_time(block: SpatioTemporalBlock, lay: _Layout) -> list[Any]:
    return [_Temporal(block, lay), _Mlp(block, lay)]


def _is_short_on_cpu(lay: _Layout) -> bool:
    return lay.device.type == "cpu" and lay.dtype != torch.float32


def _scaled_query(attn: Attention) -> Tensor:
    """Query weights that give scaled scores; exact where the head width is a power of four."""
    head_width = attn.to_q.weight.shape[0] // attn.num_heads
    scaled: Tensor = attn.to_q.weight.detach().float() * head_width**-0.5
    return scaled


def _turned(weight: Tensor, freqs: Tensor) -> Tensor:
    """Weights whose output is that of `weight`, rotated as in frame 1 (see `blocks.rotate`)."""
    cos, sin = freqs.float().cos()[:, None], freqs.float().sin()[:, None]
    pairs = weight.detach().float().reshape(-1, len(freqs), 2, weight.shape[1])
    even, odd = pairs.unbind(2)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=2)
    return turned.reshape(weight.shape)


def _heads(x: Tensor, *parts: int) -> Tensor:
    """Split the last axis: (..., width) -> (..., *parts, rest)."""
    return x.view(*x.shape[:-1], *parts, -1)


def _add_and_norm(
    x: Tensor, change: Tensor | None, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum, and the sum normed."""
    if change is not None:
        x = x + change
    return x, F.layer_norm(x, x.shape[-1:], weight, bias)


def _mix_two_frames(first: Tensor, second: Tensor) -> Tensor:
    """Queries, keys and values (B, N, 3, H, E) of both frames -> attention (2, B, N, D)."""
    (query0, key0, value0), (query1, key1, value1) = first.unbind(-3), second.unbind(-3)
    key, value = key1 - key0, value1 - value0
    mixed = [
        torch.addcmul(value0, (query * key).sum(dim=-1, keepdim=True).sigmoid(), value)
        for query in (query0, query1)
    ]
    return torch.stack(mixed).flatten(-2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(F, M, H, E) queries, (F, N, H, E) keys and values -> (F, M, D), by the fused kernel."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(-2)


def _attend_by_matrices(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by plain products: torch's fused kernel for a CPU computes short numbers slowly."""
    frames, tokens, heads, width = query.shape
    q, k, v = (x.transpose(1, 2).reshape(-1, tokens, width) for x in (query, key, value))
    mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(dim=-1), v)
    return mixed.view(frames, heads, tokens, width).transpose(1, 2).flatten(-2)
