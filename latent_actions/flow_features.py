"""What flow says without learning: where it goes on a coarse grid, and how much in each direction.

Shapes: H W pixels of a flow field, D numbers of a feature, R rows (frame pairs) of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .flow import Flow

Rows = NDArray[np.float32]
GRID_ROWS, GRID_COLUMNS = 6, 8
DIRECTIONS = 8
JOINED_WIDTH = 32


def flow_grid(flow: Flow) -> Rows:
    """Mean flow of 6x8 fields, 96 numbers in pixels."""
    return field_means(flow, GRID_ROWS, GRID_COLUMNS)


def flow_histogram(flow: Flow) -> Rows:
    """Flow by direction in each quarter of the picture: mean length, 4 x 8 numbers in pixels."""
    length = np.hypot(flow[..., 0], flow[..., 1])
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    direction = ((angle + np.pi) / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
    by_direction = np.stack([length * (direction == d) for d in range(DIRECTIONS)], axis=-1)
    return field_means(by_direction, 2, 2)


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


def field_means(values_HWC: NDArray[Any], rows: int, columns: int) -> Rows:
    """Means over a grid of equal fields, flattened; a rest at the bottom and right is left out."""
    height, width = values_HWC.shape[0] // rows, values_HWC.shape[1] // columns
    cut = values_HWC[: rows * height, : columns * width].astype(np.float32)
    means: Rows = cut.reshape(rows, height, columns, width, -1).mean(axis=(1, 3)).ravel()
    return means
