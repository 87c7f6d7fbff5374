"""Pairs of frames beside what a model paints of them: one row a pair, one column a way of painting.

Shapes: B pairs, 2 frames, P = 1 transition, H W C pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = ("first", "later", "painted", "shuffled", "zeroed")
GAP_PX = 4
TITLE_PX = 18


def picture_grid(frames_B2HWC: Tensor, painted_BPHWC: Sequence[Tensor]) -> NDArray[np.uint8]:
    """One RGB picture (rows, columns, 3) of the pairs and of what was painted with three latents.

    Frames are cut to the size that the model paints.
    """
    height, width = painted_BPHWC[0].shape[2:4]
    cut = frames_B2HWC[:, :, :height, :width]
    columns = [cut[:, 0], cut[:, 1], *(painted[:, 0] for painted in painted_BPHWC)]
    size = (
        len(columns) * (width + GAP_PX) + GAP_PX,
        TITLE_PX + len(cut) * (height + GAP_PX),
    )
    grid = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(11)
    for number, (title, column) in enumerate(zip(COLUMNS, columns, strict=True)):
        left = GAP_PX + number * (width + GAP_PX)
        draw.text((left, 2), title, fill="black", font=font)
        for row, picture in enumerate(_pixels(column)):
            grid.paste(Image.fromarray(picture), (left, TITLE_PX + row * (height + GAP_PX)))
    return np.asarray(grid)


def _pixels(frames_BHWC: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (frames_BHWC.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return pixels
