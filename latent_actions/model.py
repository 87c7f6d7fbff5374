"""The latent action model: 32 numbers that say what changed between two frames of a video.

Shapes: B batch, T frames, P = T - 1 transitions, H W C pixels, N patches, K patch width,
A latent width, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifests.config import load_config, to_dict
from pipeline.training.checkpoint import save_pretrained

from .blocks import SpatialBlock, SpatioTemporalBlock, Transformer
from .config import ModelConfig
from .weights import PREFIX, check_state, model_digest, model_folder, read_config, read_state


def patchify(frames_BTHWC: Tensor, patch_size: int) -> Tensor:
    """Cut frames into (B, T, N, K) patches, row-major; a rest at the bottom and right is lost."""
    batch, frames, height, width, channels = frames_BTHWC.shape
    rows, columns = height // patch_size, width // patch_size
    grid = frames_BTHWC[:, :, : rows * patch_size, : columns * patch_size].reshape(
        batch, frames, rows, patch_size, columns, patch_size, channels
    )
    return grid.permute(0, 1, 2, 4, 3, 5, 6).reshape(
        batch, frames, rows * columns, patch_size * patch_size * channels
    )


def unpatchify(patches_BTNK: Tensor, patch_size: int, *, height: int, width: int) -> Tensor:
    """Put patches together to frames of `height` x `width` less the rest `patchify` left out."""
    batch, frames = patches_BTNK.shape[:2]
    rows, columns = height // patch_size, width // patch_size
    grid = patches_BTNK.reshape(batch, frames, rows, columns, patch_size, patch_size, -1)
    return grid.permute(0, 1, 2, 4, 3, 5, 6).reshape(
        batch, frames, rows * patch_size, columns * patch_size, -1
    )


@dataclass(slots=True, kw_only=True)
class Reconstruction:
    """A forward pass: `recon` and `target` (B, P, H, W, C), `mu`, `log_var` and `z` (B, P, A)."""

    recon: Tensor
    target: Tensor
    mu: Tensor
    log_var: Tensor
    z: Tensor = field(repr=False)


class LatentActionModel(nn.Module):
    """Variational autoencoder of frame transitions.

    Example:
        >>> from .config import tiny
        >>> model = LatentActionModel(tiny().model)
        >>> mu, log_var = model.encode(torch.rand(2, 3, 48, 64, 3))
        >>> mu.shape, log_var.shape
        (torch.Size([2, 2, 32]), torch.Size([2, 2, 32]))
    """

    def __init__(self, config: ModelConfig, *, encoder_only: bool = False) -> None:
        """Build with fresh weights; `encoder_only` leaves out what `encode` does not need."""
        super().__init__()
        self.config = config
        stack = {"width": config.width, "num_heads": config.num_heads}
        self.action_prompt = nn.Parameter(torch.empty(1, 1, 1, config.patch_width).uniform_(-1, 1))
        self.encoder: Any = Transformer(
            SpatioTemporalBlock,
            in_width=config.patch_width,
            out_width=config.width,
            num_blocks=config.num_encoder_blocks,
            **stack,
        )
        self.fc = nn.Linear(config.width, 2 * config.latent_dim)
        self.encoder_only = encoder_only
        if encoder_only:
            return
        self.patch_up = nn.Linear(config.patch_width, config.width)
        self.action_up = nn.Linear(config.latent_dim, config.width)
        self.decoder: Any = Transformer(
            SpatialBlock,
            in_width=config.width,
            out_width=config.patch_width,
            num_blocks=config.num_decoder_blocks,
            **stack,
        )

    def encode(self, frames_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, T-1, A) of the change into every frame after the first.

        Frames are channel-last floats in [0, 1], at least two; all frames of a clip see each other.
        """
        return self._encode_patches(patchify(frames_BTHWC, self.config.patch_size))

    def decode(self, first_BPHWC: Tensor, z_BPA: Tensor) -> Tensor:
        """Paint the frames that follow `first_BPHWC` by the changes `z_BPA`, each on its own.

        Returns frames in [0, 1] of the size cut down to whole patches.
        """
        height, width = first_BPHWC.shape[2:4]
        patches = patchify(first_BPHWC, self.config.patch_size)
        return self._decode_patches(patches, z_BPA, height=height, width=width)

    def forward(self, frames_BTHWC: Tensor, *, eps_BPA: Tensor | None = None) -> Reconstruction:
        """Encode and decode; `eps_BPA` is the noise of the sampled latent, without it z = mu."""
        height, width = frames_BTHWC.shape[2:4]
        patches = patchify(frames_BTHWC, self.config.patch_size)
        mu, log_var = self._encode_patches(patches)
        z = mu if eps_BPA is None else mu + eps_BPA * torch.exp(0.5 * log_var)
        recon = self._decode_patches(patches[:, :-1], z, height=height, width=width)
        target = frames_BTHWC[:, 1:, : recon.shape[2], : recon.shape[3]]
        return Reconstruction(recon=recon, target=target, mu=mu, log_var=log_var, z=z)

    def _encode_patches(self, patches_BTNK: Tensor) -> tuple[Tensor, Tensor]:
        if patches_BTNK.shape[1] < 2:
            raise ValueError(
                f"A latent action needs at least two frames, got {patches_BTNK.shape[1]}."
            )
        # Only the prompt tokens leave the encoder, and of those only the later frames'.
        prompts = self.encoder(self._prompted(patches_BTNK), num_kept=1)[:, 1:, 0]
        mu, log_var = self.fc(prompts).chunk(2, dim=-1)
        return mu, log_var

    def _prompted(self, patches_BTNK: Tensor) -> Tensor:
        prompt = self.action_prompt.to(patches_BTNK.dtype)
        return torch.cat((prompt.expand(*patches_BTNK.shape[:2], -1, -1), patches_BTNK), dim=2)

    def _decode_patches(
        self, patches_BPNK: Tensor, z_BPA: Tensor, *, height: int, width: int
    ) -> Tensor:
        if self.encoder_only:
            raise ValueError("This model was built with encoder_only=True and cannot decode.")
        tokens = self.patch_up(patches_BPNK) + self.action_up(z_BPA)[:, :, None]
        painted = self.decoder(tokens.flatten(0, 1)).sigmoid()
        return unpatchify(
            painted.unflatten(0, tokens.shape[:2]),
            self.config.patch_size,
            height=height,
            width=width,
        )

    @property
    def model_id(self) -> str:
        """Name and 8 hex digits of the digest of the weights that latents depend on."""
        return f"{self.config.name}-{model_digest(self.state_dict())[:8]}"

    def save_pretrained(self, path: Path | str) -> None:
        """Write the folder `path`: `config.json`, `model.safetensors` (published key names)."""
        state = {PREFIX + key: value for key, value in self.state_dict().items()}
        save_pretrained(Path(path), to_dict(self.config), state)

    @classmethod
    def from_pretrained(
        cls, path: Path | str, *, config: ModelConfig | None = None, encoder_only: bool = False
    ) -> LatentActionModel:
        """Load a folder of `save_pretrained`, a run folder, or a weights file that fits `config`.

        `encoder_only` reads and holds only what `encode` needs.

        Raises:
            ConfigError: Tensors are missing, unknown or of another size; the message names them.
            EgodojoError: Nothing readable is there.
        """
        path = model_folder(Path(path))
        if config is None:
            config = load_config(ModelConfig, values=read_config(path), where=str(path))
        with torch.device("meta"):
            model = build_model(config, encoder_only=encoder_only)
        state = read_state(path, encoder_only=encoder_only)
        check_state(model.state_dict(), state, where=str(path))
        state = {key: value.float() for key, value in state.items()}  # a half-precision export
        model.load_state_dict(state, assign=True)
        model.freeze_and_fill()
        return model.eval()

    def freeze_and_fill(self) -> None:
        """Restore what a state dict does not hold: position tables and which tensors train."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.endswith("rotary_embedding.freqs"))
        for module in self.modules():
            if isinstance(module, Transformer):
                module.rebuild_table(self.fc.weight.device)


def build_model(config: ModelConfig, *, encoder_only: bool = False) -> LatentActionModel:
    """The network of a configuration with fresh weights: of frames or of flow."""
    from .flow_model import FlowActionModel  # it extends this module's class

    kind = FlowActionModel if config.input == "flow" else LatentActionModel
    return kind(config, encoder_only=encoder_only)


def count_parameters(config: ModelConfig, *, encoder_only: bool = False) -> int:
    """Number of parameters of a model of this size, found without allocating it."""
    with torch.device("meta"):
        model = build_model(config, encoder_only=encoder_only)
    return sum(parameter.numel() for parameter in model.parameters())
