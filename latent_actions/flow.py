"""Optical flow of frame pairs with the camera's own motion taken out.

What moved is the same for every body; what it looks like is not. So the `small` model sees motion
alone. Shapes: B batch, T frames, P = T - 1 pairs, H W pixels of a frame, h w half of them.
"""

from __future__ import annotations

import threading
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Flow = NDArray[np.float32]
FIT_EVERY_PX = 4
FIT_ROUNDS = 6
FIT_FLOOR_PX = 0.15
"""Residuals below this never count as moving: it is the noise of the flow itself."""
_local = threading.local()


def stabilised_flows(frames_BTHWC: Tensor) -> Tensor:
    """Motion between each frame and the next, less the camera's, float32 (B, P, 2, h, w).

    Values are pixels of the full-size frame, x to the right and y down, averaged over 2x2.

    Args:
        frames_BTHWC: Float frames in [0, 1], on any device; the flow is found on the CPU.
    """
    pixels = (frames_BTHWC.detach().cpu() * 255).round().to(torch.uint8).numpy()
    flows = np.stack([[stabilise(flow) for flow in _clip_flows(clip)] for clip in pixels])
    device_flows = torch.from_numpy(flows).to(frames_BTHWC.device).permute(0, 1, 4, 2, 3)
    halved = F.avg_pool2d(device_flows.flatten(0, 1), 2)
    return halved.reshape(*device_flows.shape[:2], *halved.shape[1:])


def pair_flow(earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Flow:
    """Dense inverse search flow (Kroeger 2016) of two grey pictures at full size: (H, W, 2)."""
    if not hasattr(_local, "search"):
        _local.search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        _local.search.setFinestScale(0)
    flow: Flow = _local.search.calc(earlier, later, None)
    return flow


def stabilise(flow: Flow) -> Flow:
    """Subtract the motion of the ground: a quadratic in the place, fitted to what most pixels do.

    Outliers, such as a hand, lose their weight in a few rounds of reweighted least squares.
    """
    whole, thin, chosen = _quadratics(*flow.shape[:2])
    points = flow.reshape(-1, 2)[chosen].astype(np.float64)
    weights = np.ones(len(points))
    for _ in range(FIT_ROUNDS):
        weighted = thin * weights[:, None]
        normal = weighted.T @ thin + 1e-6 * np.eye(thin.shape[1])
        motion = np.linalg.solve(normal, weighted.T @ points)
        residual = np.hypot(*(points - thin @ motion).T)
        scale = max(3.0 * float(np.median(residual)), 2 * FIT_FLOOR_PX)
        weights = 1 / (1 + (residual / scale) ** 2) ** 2
    return (flow - (whole @ motion).reshape(flow.shape)).astype(np.float32)


def grey_pictures(frames_THWC: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """RGB frames as grey pictures (H, W)."""
    grey: list[Any] = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_THWC]
    return grey


def farneback_flow(earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Flow:
    """Farneback's flow of two grey pictures (H, W, 2), the usual baseline."""
    flow: Any = cv2.calcOpticalFlowFarneback(earlier, later, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
    found: Flow = flow
    return found


def _clip_flows(frames: NDArray[np.uint8]) -> list[Flow]:
    return [pair_flow(earlier, later) for earlier, later in pairwise(grey_pictures(frames))]


@cache
def _quadratics(
    height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Monomials up to degree 2 at every pixel, at every fourth one, and the latters' numbers."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    whole = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    is_chosen = np.zeros((height, width), bool)
    is_chosen[FIT_EVERY_PX // 2 :: FIT_EVERY_PX, FIT_EVERY_PX // 2 :: FIT_EVERY_PX] = True
    chosen = np.flatnonzero(is_chosen)
    return whole, whole[chosen], chosen
