"""The action-conditioned diffusion transformer that predicts the velocity of video latents.

Shapes: B batch, C latent channels, T latent frames, H W latent rows and columns, S = H/2 * W/2
tokens of one frame, D width, R = 4(T-1) action rows, A action width, L context rows, F text
features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manifests.config import load_config, to_dict
from manifests.errors import EgodojoError
from pipeline.training.checkpoint import load_pretrained, save_pretrained

from .blocks import ActionMlp, Block, FinalLayer, RMSNorm, linear_fp32
from .config import ModelConfig
from .rope import VideoRope
from .weights import load_network, network_state

PATCH = 2
KIND = "world_model"


class TimeMlp(nn.Module):
    """D -> D -> 3D without biases: the modulation offset shared by all blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.linear_2 = nn.Linear(width, 3 * width, bias=False)

    def forward(self, e: Tensor) -> Tensor:
        """(..., D) to (..., 3D), in float32."""
        return linear_fp32(self.linear_2, F.silu(linear_fp32(self.linear_1, e)))


class PatchEmbed(nn.Module):
    """2x2 patches of every frame to tokens; features are ordered channel, row, column."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Identity(), nn.Linear(channels * PATCH**2, width, bias=False))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, T, H/2, W/2, D)."""
        batch, channels, frames, height, width = x_BCTHW.shape
        x = x_BCTHW.reshape(batch, channels, frames, height // PATCH, PATCH, width // PATCH, PATCH)
        patches = x.permute(0, 2, 3, 5, 1, 4, 6).flatten(-3)
        dtype = next(self.proj.parameters()).dtype
        tokens: Tensor = self.proj(patches.to(dtype))
        return tokens


class WorldModel(nn.Module):
    """Diffusion transformer; state-dict names are those of the released weights.

    Example:
        >>> model = WorldModel(ModelConfig())
        >>> x, actions = torch.randn(1, 16, 4, 8, 8), torch.zeros(1, 12, 384)
        >>> model(x, torch.tensor([700.0]), actions).shape
        torch.Size([1, 16, 4, 8, 8])
    """

    def __init__(self, config: ModelConfig) -> None:
        """Random weights, unless made under `torch.device("meta")`."""
        super().__init__()
        self.config = config
        self.recompute = False
        width, action_in = config.width, config.action_width * config.actions_per_latent
        hidden = config.action_hidden or 4 * width
        channels = config.latent_channels + 2
        self.x_embedder = PatchEmbed(channels, width)
        self.pos_embedder = VideoRope(
            width // config.num_heads, config.rope, max_len=max(120, config.max_frames)
        )
        self.t_embedder = nn.Sequential(nn.Identity(), TimeMlp(width))
        self.t_embedding_norm = RMSNorm(width)
        self.crossattn_proj = nn.Sequential(
            nn.Linear(config.text_features, config.context_width), nn.GELU()
        )
        self.action_embedder_B_D = ActionMlp(action_in, hidden, width)
        self.action_embedder_B_3D = ActionMlp(action_in, hidden, 3 * width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                hidden=int(width * config.mlp_ratio),
                rank=config.modulation_rank,
                context_width=config.context_width,
            )
            for _ in range(config.num_blocks)
        )
        out = config.latent_channels * PATCH**2
        self.final_layer = FinalLayer(width, config.modulation_rank, out)
        for name in ("video_sample_counter", "image_sample_counter", "iteration"):
            self.register_buffer(f"accum_{name}", torch.zeros((), dtype=torch.int64))
        self.register_buffer("accum_train_in_hours", torch.zeros(()))
        if self.t_embedding_norm.weight.device.type != "meta":
            self.init_weights()

    def init_weights(
        self, *, zero_action_output: bool = False, generator: torch.Generator | None = None
    ) -> None:
        """Give every parameter its starting value.

        Args:
            zero_action_output: Zero the second layer of both action MLPs, so that actions begin
                without effect (pre-training).
            generator: Source of the draws; null is the global one.
        """
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, RMSNorm):
                    module.weight.fill_(1.0)
                elif isinstance(module, nn.Linear):
                    _truncated_normal(module.weight, generator)
            for mlp in (self.action_embedder_B_D, self.action_embedder_B_3D):
                _default_linear(mlp.fc1, generator)
                _default_linear(mlp.fc2, generator)
                if zero_action_output:
                    nn.init.zeros_(mlp.fc2.weight)
                    nn.init.zeros_(mlp.fc2.bias)
            _default_linear(self.crossattn_proj[0], generator)
            for name, parameter in self.named_parameters():
                if "adaln_modulation" in name and name.endswith(".2.weight"):
                    parameter.zero_()
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Give the buffers, which exist for the released names alone, their starting values."""
        self.pos_embedder.reset()
        for name, buffer in self.named_buffers(recurse=False):
            assert name.startswith("accum_")
            buffer.zero_()

    def forward(
        self,
        x_BCTHW: Tensor,
        timesteps: Tensor,
        actions_BRA: Tensor | None,
        *,
        condition_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
        context_BLD: Tensor | None = None,
        fps: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity `noise - clean` of every latent frame.

        Args:
            x_BCTHW: Noised latents; condition frames are clean.
            timesteps: (B,), (B, 1) or (B, T), in the unit that `timestep_scale` expects.
            actions_BRA: Four rows for each frame after the first; null means no action term.
            condition_mask: (B, 1, T, H, W), 1 where the input is clean; null is all 0.
            padding_mask: (B, 1, any, any), 1 where pixels are padding; null is all 0.
            context_BLD: Projected text from `project_text`; null is that of an all-zero text.
            fps: (B,) frames per second; only read with `rope.fps_modulation`.

        Returns:
            (B, C, T, H, W) in float32.
        """
        frames, rows, columns = self._check(x_BCTHW, actions_BRA)
        x = self.x_embedder(self._with_masks(x_BCTHW, condition_mask, padding_mask))
        e, lora = self.embed_conditions(timesteps, actions_BRA)
        context = self.empty_context() if context_BLD is None else context_BLD
        context = context.to(x.dtype)
        angles = self.pos_embedder((frames, rows, columns), x.device, fps)
        x = x.flatten(2, 3).float()
        for block in self.blocks:
            if self.recompute and self.training:
                x = checkpoint(
                    block, x, e, lora, context_BLD=context, angles=angles, use_reentrant=False
                )
            else:
                x = block(x, e, lora, context_BLD=context, angles=angles)
        patches = self.final_layer(x, e, lora)
        return _unpatchify(patches, rows, columns)

    def embed_time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Sinusoidal embedding (B, t, D), cosines first, and modulation offset (B, t, 3D).

        t is 1 or the number of latent frames, as in `timesteps`.
        """
        scaled = timesteps.float() * self.config.timestep_scale
        scaled = scaled[:, None] if scaled.ndim == 1 else scaled
        half = self.config.width // 2
        index = torch.arange(half, device=scaled.device, dtype=torch.float32)
        angles = scaled[..., None] * torch.exp(-math.log(10_000.0) * index / half)
        e = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return e, self.t_embedder[1](e)

    def embed_conditions(
        self, timesteps: Tensor, actions_BRA: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Normed embedding (B, t, D) and modulation offset (B, t, 3D) of time and actions together.

        Frame 0 gets no action term at all: zero, not the MLP's answer to zero.
        """
        e, lora = self.embed_time(timesteps)
        if actions_BRA is not None:
            per_frame = self.config.actions_per_latent * self.config.action_width
            chunks = actions_BRA.reshape(len(actions_BRA), -1, per_frame)
            e = e + F.pad(self.action_embedder_B_D(chunks), (0, 0, 1, 0))
            lora = lora + F.pad(self.action_embedder_B_3D(chunks), (0, 0, 1, 0))
        return self.t_embedding_norm(e), lora

    def project_text(self, text_BLF: Tensor) -> Tensor:
        """Context (B, L, context width) of text features; project a constant text only once."""
        context: Tensor = self.crossattn_proj(text_BLF)
        return context

    def empty_context(self) -> Tensor:
        """Context (1, 1, context width) of an all-zero text: GELU of the projection's bias.

        One row is enough: attention over 512 identical rows gives the same result.
        """
        projection = self.crossattn_proj[0]
        assert isinstance(projection, nn.Linear)
        return F.gelu(projection.bias)[None, None]

    def load_weights(self, state: Mapping[str, Tensor], *, prefix: str | None = None) -> None:
        """Load a state dict of this project or a released one; see `weights.network_state`."""
        load_network(self, network_state(state, prefix=prefix))

    def save_pretrained(
        self,
        folder: Path,
        *,
        state: Mapping[str, Tensor] | None = None,
        extra_files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write `config.json` and `model.safetensors`: its own weights, or others of its shape."""
        config = {"kind": KIND, **to_dict(self.config)}
        save_pretrained(folder, config, state or self.state_dict(), extra_files=extra_files)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Read a model folder, on the CPU and in evaluation mode."""
        values, state = load_pretrained(Path(folder))
        if values.pop("kind", KIND) != KIND:
            raise EgodojoError(f"{folder} holds another kind of model, not a world model.")
        with torch.device("meta"):
            model = cls(load_config(ModelConfig, values=values, where=f"{folder}/config.json"))
        model.to_empty(device="cpu")
        model.reset_buffers()
        model.load_weights(state, prefix="")
        return model.eval()

    def _check(self, x: Tensor, actions: Tensor | None) -> tuple[int, int, int]:
        frames, height, width = x.shape[2:]
        if height % PATCH or width % PATCH:
            raise ValueError(f"latents of {height}x{width} cannot be cut into 2x2 patches")
        rows = self.config.actions_per_latent * (frames - 1)
        if actions is not None and actions.shape[1:] != (rows, self.config.action_width):
            raise ValueError(
                f"{frames} latent frames need actions (B, {rows}, {self.config.action_width}), "
                f"not {tuple(actions.shape)}"
            )
        return frames, height // PATCH, width // PATCH

    def _with_masks(
        self, x: Tensor, condition_mask: Tensor | None, padding_mask: Tensor | None
    ) -> Tensor:
        plain = torch.zeros_like(x[:, :1])
        padding = plain
        if padding_mask is not None:
            resized = F.interpolate(padding_mask.float(), size=x.shape[-2:], mode="nearest")
            padding = resized[:, :, None].expand_as(plain)
        condition = plain if condition_mask is None else condition_mask
        return torch.cat([x, condition.to(x), padding.to(x)], dim=1)


def _unpatchify(patches_BTSP: Tensor, rows: int, columns: int) -> Tensor:
    """Patch numbers, ordered (row, column, channel), back to (B, C, T, H, W)."""
    batch, frames = patches_BTSP.shape[:2]
    x = patches_BTSP.reshape(batch, frames, rows, columns, PATCH, PATCH, -1)
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(-2).flatten(-3, -2)


def _truncated_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    sigma = weight.shape[1] ** -0.5
    nn.init.trunc_normal_(weight, std=sigma, a=-3 * sigma, b=3 * sigma, generator=generator)


def _default_linear(layer: nn.Module, generator: torch.Generator | None) -> None:
    assert isinstance(layer, nn.Linear)
    bound = layer.in_features**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
