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
AFFINE_SCALES_PX = (3.0, 2.0, 1.0)
QUADRATIC_SCALES_PX = (1.0, 0.7, 0.4, 0.4)
"""What still counts as ground, round by round; the last is a few times the flow's own noise."""
OUTLIER_PX = 0.5
STILL_BONUS = 1e-3
RIDGE = 1e-3
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
    """Subtract the camera's motion: the quadratic in the place that most pixels follow best.

    A fit that begins with least squares is drawn towards a large hand and gives the still ground a
    motion of its own. So several begin where the ground probably is, at rest and at the median,
    each narrows what it still counts as ground, and the one that explains most pixels is taken;
    no motion at all is taken where nothing explains clearly more.
    """
    whole, thin, chosen = _quadratics(*flow.shape[:2])
    points = flow.reshape(-1, 2)[chosen].astype(np.float64)
    still = np.zeros((thin.shape[1], 2))
    shifted = still.copy()
    shifted[0] = np.median(points, axis=0)
    fits = [still]
    for start in (still, shifted):
        bent = _narrowed(thin, points, start, AFFINE_SCALES_PX, num_terms=3)
        fits += [
            _narrowed(thin, points, begin, QUADRATIC_SCALES_PX, num_terms=thin.shape[1])
            for begin in (bent, start)
        ]
    costs = [_outlier_share(points - thin @ fit) for fit in fits]
    costs[0] -= STILL_BONUS
    motion = fits[int(np.argmin(costs))]
    return (flow - (whole @ motion).reshape(flow.shape)).astype(np.float32)


def _narrowed(
    thin: NDArray[np.float64],
    points: NDArray[np.float64],
    motion: NDArray[np.float64],
    scales_px: tuple[float, ...],
    *,
    num_terms: int,
) -> NDArray[np.float64]:
    """Reweighted least squares (Geman-McClure) with the first terms, at ever smaller scales."""
    terms = thin[:, :num_terms]
    for scale in scales_px:
        weights = 1 / (1 + np.square(points - thin @ motion).sum(axis=1) / scale**2) ** 2
        weighted = terms * weights[:, None]
        motion = np.zeros_like(motion)
        motion[:num_terms] = np.linalg.solve(
            weighted.T @ terms + RIDGE * np.eye(num_terms), weighted.T @ points
        )
    return motion


def _outlier_share(residuals: NDArray[np.float64]) -> float:
    """How much of the picture does not follow a fit, in [0, 1]."""
    squares = np.square(residuals).sum(axis=1)
    return float((squares / (squares + OUTLIER_PX**2)).mean())


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
