"""The 384-wide action row every world model reads: robot slots first, the latent action last.

Legend: T window frames, R = T - 1 action rows, A a robot's own columns. All arrays are float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ACTION_WIDTH = 384
LATENT_START = 352
LATENT_WIDTH = 32
ROWS_PER_CHUNK = 4

Float32Array = NDArray[np.float32]


def normalise(actions: Float32Array, minimum: Float32Array, maximum: Float32Array) -> Float32Array:
    """Min-max normalisation per column to [-1, 1]; no clipping, 0 where minimum equals maximum."""
    span = maximum - minimum
    constant = span == 0
    scaled = 2.0 * (actions - minimum) / np.where(constant, 1.0, span) - 1.0
    return np.where(constant, 0.0, scaled).astype(np.float32)


def rebaseline(rows: Float32Array, *, rows_per_chunk: int = ROWS_PER_CHUNK) -> Float32Array:
    """Makes every action relative to the one just before its chunk.

        rows    b | 1 2 3 4 | 5 6 7 8 | ...      b: the row before the window
        minus     | b b b b | 4 4 4 4 | ...

    Args:
        rows: (R + 1, A) normalised rows, the first being the row before the window.
        rows_per_chunk: Rows that drive one latent frame.

    Returns:
        (R, A) differences, cumulative inside a chunk.
    """
    base = (np.arange(len(rows) - 1) // rows_per_chunk) * rows_per_chunk
    return (rows[1:] - rows[base]).astype(np.float32)


def place(deltas: Float32Array, *, start: int) -> Float32Array:
    """Puts (R, A) columns into their slot of otherwise zero (R, 384) action rows."""
    rows = np.zeros((len(deltas), ACTION_WIDTH), dtype=np.float32)
    rows[:, start : start + deltas.shape[1]] = deltas
    return rows
