"""Pixels to latents and back: the interface every tokenizer has, and one that needs no weights.

Shapes: B batch, F = 1 + 4m frames, T = 1 + m latent frames, H W pixels, h w = H/8 W/8 latent rows
and columns, C latent channels, P = 4*8*8*3 numbers of one block. Pixels are float in [-1, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifests.errors import ConfigError, EgodojoError
from pipeline.training.checkpoint import load_pretrained, save_pretrained

SPACE = 8
"""Pixels along each side of a latent cell."""
TIME = 4
"""Frames of a latent frame, except the first, which is one frame."""


def pixels_to_model(frames: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1.0


def model_to_pixels(frames: Tensor) -> Tensor:
    """Float pixels, clamped to [-1, 1], to uint8."""
    return ((frames.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


class VideoTokenizer(nn.Module, ABC):
    """A tokenizer with 8x8 spatial and causal 4x temporal compression; frame 0 stands alone.

    Example:
        >>> tokenizer = PcaTokenizer.fit([torch.randint(256, (1, 3, 5, 16, 16)).byte()])
        >>> tokenizer.encode(torch.zeros(2, 3, 13, 32, 48)).shape
        torch.Size([2, 16, 4, 4, 6])
        >>> tokenizer.decode(torch.zeros(2, 16, 4, 4, 6)).shape
        torch.Size([2, 3, 13, 32, 48])
    """

    @abstractmethod
    def encode(self, frames_B3FHW: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w); that of frame 0 does not depend on later frames."""

    @abstractmethod
    def decode(self, latents_BCThw: Tensor) -> Tensor:
        """Pixels (B, 3, F, H, W); may leave [-1, 1]."""

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""

    @staticmethod
    def from_pretrained(folder: Path | str) -> VideoTokenizer:
        """Read any saved tokenizer.

        Raises:
            EgodojoError: The folder holds no tokenizer that this version knows.
        """
        config, tensors = load_pretrained(Path(folder))
        if config.get("kind") != PcaTokenizer.KIND:
            raise EgodojoError(
                f"{folder} holds a model of kind {config.get('kind')!r}, not a tokenizer.",
                hint=f"Give a folder of kind {PcaTokenizer.KIND!r}.",
            )
        return PcaTokenizer(**tensors)


class PcaTokenizer(VideoTokenizer):
    """The 16 strongest linear patterns of 4x8x8 blocks, each scaled to unit variance.

    Frame 0 is encoded by the same patterns as four equal frames, so that a still video has equal
    latents in all frames.

        frames     0 | 1 2 3 4 | 5 6 7 8 | ...
        blocks  0000 | 1 2 3 4 | 5 6 7 8 | ...
    """

    KIND = "pca_tokenizer"
    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, *, mean: Tensor, basis: Tensor, scale: Tensor) -> None:
        """Takes the mean block (P,), orthonormal patterns (C, P) and their deviations (C,)."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("scale", scale)

    @classmethod
    def fit(
        cls,
        videos: Iterable[Tensor],
        *,
        num_channels: int = 16,
        max_blocks_per_video: int = 4096,
    ) -> PcaTokenizer:
        """Find the patterns of some videos; the same videos give the same tokenizer.

        Args:
            videos: uint8 pixels (B, 3, F, H, W).
            num_channels: Patterns kept.
            max_blocks_per_video: Blocks read of each batch, evenly spread.

        Raises:
            ConfigError: There is no block in the videos.
        """
        size = TIME * SPACE * SPACE * 3
        total = torch.zeros(size, dtype=torch.float64)
        products = torch.zeros(size, size, dtype=torch.float64)
        count = 0
        for video in videos:
            blocks = _blocks(pixels_to_model(video.cpu())).reshape(-1, size)
            blocks = blocks[:: -(-len(blocks) // max_blocks_per_video) or 1]
            total += blocks.sum(0, dtype=torch.float64)
            products += (blocks.T @ blocks).double()
            count += len(blocks)
        if count < 2:
            raise ConfigError("The tokenizer needs videos of at least two blocks to be fitted on.")
        mean = total / count
        values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        basis = vectors.T.flip(0)[:num_channels]
        deviations = values.flip(0)[:num_channels].clamp(min=0).sqrt()
        return cls(
            mean=mean.float(),
            basis=(basis * _sign(basis)).float().contiguous(),
            scale=deviations.clamp(min=1e-3 * float(deviations[0]) + 1e-6).float(),
        )

    def encode(self, frames_B3FHW: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w)."""
        centred = _blocks(frames_B3FHW) - self.mean
        latents = centred @ self.basis.T / self.scale
        return latents.permute(0, 4, 1, 2, 3)

    def decode(self, latents_BCThw: Tensor) -> Tensor:
        """Pixels (B, 3, F, H, W)."""
        latents = latents_BCThw.permute(0, 2, 3, 4, 1).float()
        frames = _unblocks(latents * self.scale @ self.basis + self.mean)
        still = frames[:, :, :TIME].mean(dim=2, keepdim=True)
        return torch.cat([still, frames[:, :, TIME:]], dim=2)

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_pretrained(folder, self.config(), self.state_dict())

    def config(self) -> dict[str, Any]:
        """What `config.json` says."""
        return {"kind": self.KIND, "channels": len(self.basis), "space": SPACE, "time": TIME}


def tokenizer_files(folder: Path, *, prefix: str) -> dict[str, bytes]:
    """A saved tokenizer's files under `prefix`, for storing it inside a model folder."""
    return {f"{prefix}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def _blocks(frames: Tensor) -> Tensor:
    """(B, 3, F, H, W) to (B, T, h, w, P), frame 0 four times over."""
    num_frames, height, width = frames.shape[2:]
    if num_frames % TIME != 1 or height % SPACE or width % SPACE:
        raise ConfigError(
            f"The tokenizer cannot cut {num_frames} frames of {height}x{width}.",
            hint="Use 1 + 4m frames and sides in multiples of 16.",
        )
    first = frames[:, :, :1].expand(-1, -1, TIME, -1, -1)
    whole = torch.cat([first, frames[:, :, 1:]], dim=2)
    cut = whole.reshape(len(whole), 3, -1, TIME, height // SPACE, SPACE, width // SPACE, SPACE)
    return cut.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)


def _unblocks(blocks: Tensor) -> Tensor:
    """(B, T, h, w, P) to (B, 3, 4T, H, W)."""
    cut = blocks.reshape(*blocks.shape[:4], TIME, SPACE, SPACE, 3).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return cut.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _sign(basis: Tensor) -> Tensor:
    """(C, 1) signs that make the largest entry of every pattern positive."""
    largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(basis.dtype)
