"""From uint8 frames to what the latent action model sees: centre 4:3, 240x320, floats in [0, 1].

Shapes: T frames (any leading axis), H W pixels, 3 colours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the centre 4:3 of a picture, all rounded down."""
    if width * 3 > height * 4:
        new_width = height * 4 // 3
        return 0, (width - new_width) // 2, height, new_width
    new_height = width * 3 // 4
    return (height - new_height) // 2, 0, new_height, width


def _resize(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """Crop and scale to float32 in the input's range; bilinear, half-pixel, no antialiasing."""
    top, left, rows, columns = crop_box(*frames_THWC.shape[1:3])
    cut = frames_THWC[:, top : top + rows, left : left + columns].permute(0, 3, 1, 2).float()
    if (rows, columns) != (height, width):
        cut = F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)
    return cut.permute(0, 2, 3, 1)


def training_frames(frames_THWC: Tensor, *, height: int = 240, width: int = 320) -> Tensor:
    """uint8 (T, H, W, 3) -> float32 (T, height, width, 3) in [0, 1], as the model is trained."""
    return _resize(frames_THWC, height, width) / 255


def scale_frames(frames_THWC: Tensor, *, height: int = 240, width: int = 320) -> Tensor:
    """uint8 (T, H, W, 3) -> uint8 (T, height, width, 3): cropped, scaled, rounded.

    Divided by 255 this is the form inside world-model training; stored latents are made from it.
    """
    return _resize(frames_THWC, height, width).round_().clamp_(0, 255).to(torch.uint8)


def inference_frames(frames_THWC: Tensor, *, height: int = 240, width: int = 320) -> Tensor:
    """`scale_frames` as float32 in [0, 1]."""
    return scale_frames(frames_THWC, height=height, width=width).float() / 255


def jitter(frames: Tensor, shift: float) -> Tensor:
    """Add one brightness shift to all pixels and clamp to [0, 1]."""
    return torch.clamp(frames + shift, 0, 1)
