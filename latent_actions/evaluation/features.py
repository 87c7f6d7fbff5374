"""Features without learning that a latent has to beat: pixels, Farneback and DIS flow.

Every feature gives one row per frame pair. Shapes: R pairs, H W pixels, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..flow import Flow, farneback_flow, grey_pictures, pair_flow, stabilise

Rows = NDArray[np.float32]
Frames = NDArray[np.uint8]
GRID_ROWS, GRID_COLUMNS = 6, 8
DIRECTIONS = 8
JOINED_WIDTH = 32


def pair_features(frames: Frames, *, step: int, every: int) -> dict[str, Rows]:
    """All features of one clip, uint8 (T, H, W, 3): name -> (R, D)."""
    grey = grey_pictures(frames)
    pairs = [(grey[t], grey[t + step]) for t in range(0, len(frames) - step, every)]
    dis = [stabilise(pair_flow(*pair)) for pair in pairs]
    farneback = [farneback_flow(*pair) for pair in pairs]
    differences = [
        later.astype(np.float32) - earlier.astype(np.float32) for earlier, later in pairs
    ]
    return {
        "pixel difference": np.stack([_fields(d[..., None], 12, 16) for d in differences]),
        "Farneback histogram": np.stack([_histogram(flow) for flow in farneback]),
        "DIS histogram": np.stack([_histogram(flow) for flow in dis]),
        "DIS grid": np.stack([_fields(flow, GRID_ROWS, GRID_COLUMNS) for flow in dis]),
    }


def join(parts: Sequence[Sequence[Rows]], *, width: int = JOINED_WIDTH) -> list[Rows]:
    """Features of the same clips side by side, each of equal power, cut to principal axes.

    Args:
        parts: Feature by feature, the clips' rows.
        width: Axes kept.
    """
    lengths = [len(rows) for rows in parts[0]]
    scaled = []
    for feature in parts:
        rows = np.concatenate(feature).astype(np.float64)
        rows -= rows.mean(axis=0)
        scaled.append(rows / max(1e-12, float(np.sqrt(np.square(rows).sum(axis=1).mean()))))
    joined = np.concatenate(scaled, axis=1)
    _, vectors = np.linalg.eigh(joined.T @ joined)
    cut = (joined @ vectors[:, ::-1][:, :width]).astype(np.float32)
    return np.split(cut, np.cumsum(lengths)[:-1])


def _fields(values_HWC: NDArray[Any], rows: int, columns: int) -> Rows:
    """Means over a grid of equal fields, flattened; a rest at the bottom and right is left out."""
    height, width = values_HWC.shape[0] // rows, values_HWC.shape[1] // columns
    cut = values_HWC[: rows * height, : columns * width].astype(np.float32)
    means: Rows = cut.reshape(rows, height, columns, width, -1).mean(axis=(1, 3)).ravel()
    return means


def _histogram(flow: Flow) -> Rows:
    """Flow by direction in each quarter of the picture: mean length, 4 x 8 numbers."""
    length = np.hypot(flow[..., 0], flow[..., 1])
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    direction = ((angle + np.pi) / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
    by_direction = np.stack([length * (direction == d) for d in range(DIRECTIONS)], axis=-1)
    return _fields(by_direction, 2, 2)
