"""Features without learning that a latent has to beat: pixels, Farneback and DIS flow.

Every feature gives one row per frame pair. Shapes: R pairs, H W pixels, D feature width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..flow import farneback_flow, grey_pictures, pair_flow, stabilise
from ..flow_features import Rows, field_means, flow_grid, flow_histogram

Frames = NDArray[np.uint8]


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
        "pixel difference": np.stack([field_means(d[..., None], 12, 16) for d in differences]),
        "Farneback histogram": np.stack([flow_histogram(flow) for flow in farneback]),
        "DIS histogram": np.stack([flow_histogram(flow) for flow in dis]),
        "DIS grid": np.stack([flow_grid(flow) for flow in dis]),
    }
