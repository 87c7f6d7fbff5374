"""Training loss of the latent action model, and the picture measures that watch over it.

Shapes: B batch, P transitions, H W C pixels, A latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .model import Reconstruction

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """`loss` = `mse` + beta * `kl`, all scalars."""

    loss: Tensor
    mse: Tensor
    kl: Tensor


def lam_loss(result: Reconstruction, *, beta: float, is_flow: bool = False) -> Losses:
    """Mean squared error plus `beta` times the KL divergence from the unit normal.

    Flow has outliers, so with `is_flow` its error is squared up to half a unit and linear beyond.
    """
    if is_flow:
        mse = F.smooth_l1_loss(result.recon, result.target, beta=0.5)
    else:
        mse = (result.target - result.recon).square().mean()
    mu, log_var = result.mu.float(), result.log_var.float()  # a sum that half precision blurs
    rows = 1 + log_var - mu.square() - log_var.exp()
    kl = -0.5 * rows.sum(-1).mean()
    return Losses(loss=mse + beta * kl, mse=mse, kl=kl)


def explained(result: Reconstruction) -> Tensor:
    """Share of the target's mean square that the reconstruction explains; 1 is all of it."""
    error = (result.recon.float() - result.target).square().mean()
    return 1 - error / result.target.square().mean().clamp_min(1e-12)


def _as_images(frames_BPHWC: Tensor) -> Tensor:
    return frames_BPHWC.flatten(0, 1).permute(0, 3, 1, 2).clamp(0, 1)


def psnr(recon_BPHWC: Tensor, target_BPHWC: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for values in [0, 1], mean over the frames."""
    difference = _as_images(recon_BPHWC) - _as_images(target_BPHWC)
    return (-10 * torch.log10(difference.square().mean(dim=(1, 2, 3)) + 1e-8)).mean()


def ssim(recon_BPHWC: Tensor, target_BPHWC: Tensor) -> Tensor:
    """Structural similarity with an 11-pixel Gaussian window (sigma 1.5), mean over the frames.

    Frames are first shrunk by round(shorter side / 256), as the measure's authors advise.
    """
    with torch.autocast(recon_BPHWC.device.type, enabled=False):
        return _ssim(_as_images(recon_BPHWC).float(), _as_images(target_BPHWC).float())


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    factor = max(1, round(min(x.shape[-2:]) / 256))
    if factor > 1:
        x, y = F.avg_pool2d(x, factor), F.avg_pool2d(y, factor)
    offset = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - (SSIM_WINDOW - 1) / 2
    line = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    window = (line[:, None] * line).div(line.sum().square()).expand(x.shape[1], 1, -1, -1)

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(image, window, groups=x.shape[1])

    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x.square()
    var_y = blur(y * y) - mean_y.square()
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * contrast).mean(dim=(1, 2, 3)).mean()
