"""Pictures of latents: a map coloured by body and by motion, and actions carried to other scenes.

Shapes: N clips, H W pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..model import LatentActionModel

Floats = NDArray[np.float64]
INK, FAINT, PAPER = (28, 30, 34), (110, 114, 120), (252, 252, 250)
MAP_PX, DOT_PX, LEGEND_PX = 420, 4, 190


def plane(vectors_ND: Floats) -> Floats:
    """The two principal axes of clip vectors, each scaled to [0, 1]: (N, 2)."""
    centred = vectors_ND - vectors_ND.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    spots = centred @ vectors[:, ::-1][:, :2]
    low, high = spots.min(axis=0), spots.max(axis=0)
    scaled: Floats = (spots - low) / np.maximum(high - low, 1e-12)
    return scaled


def latent_map(vectors_ND: Floats, colourings: dict[str, Sequence[str]]) -> Image.Image:
    """One panel a colouring, side by side: where each clip lies, and what the colours mean."""
    spots = plane(vectors_ND)
    panel = MAP_PX + LEGEND_PX
    picture = Image.new("RGB", (panel * len(colourings), MAP_PX + 40), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, (title, labels) in enumerate(colourings.items()):
        left = number * panel
        names = sorted(set(labels))
        colours = dict(zip(names, _colours(len(names)), strict=True))
        draw.text((left + 12, 10), title, fill=INK, font=_font(16))
        draw.rectangle((left + 10, 34, left + MAP_PX - 10, MAP_PX + 14), outline=(224, 224, 220))
        for spot, label in zip(spots, labels, strict=True):
            x = left + 22 + spot[0] * (MAP_PX - 44)
            y = MAP_PX + 2 - spot[1] * (MAP_PX - 44)
            draw.ellipse((x - DOT_PX, y - DOT_PX, x + DOT_PX, y + DOT_PX), fill=colours[label])
        for row, name in enumerate(names):
            top = 40 + row * 22
            draw.ellipse((left + MAP_PX + 2, top + 3, left + MAP_PX + 14, top + 15), colours[name])
            draw.text((left + MAP_PX + 20, top), name or "unknown", fill=INK, font=_font(13))
    return picture


@torch.inference_mode()
def transfer_picture(
    model: LatentActionModel,
    givers: Sequence[tuple[str, NDArray[np.uint8]]],
    takers: Sequence[tuple[str, NDArray[np.uint8]]],
) -> Image.Image:
    """The change between a giver's two frames, applied to the first frame of each taker.

    Args:
        model: A model with its decoder.
        givers: Name and two frames (2, H, W, 3) of the model's size, one row each.
        takers: Name and one frame (H, W, 3), one column each.

    Returns:
        Rows: the giver's pair, then every taker as the model moves it; brighter is where it moved.
    """
    height, width = takers[0][1].shape[:2]
    cell_x, cell_y, head = width + 8, height + 8, 30
    picture = Image.new("RGB", (cell_x * (2 + len(takers)) + 8, head + cell_y * len(givers)), PAPER)
    draw = ImageDraw.Draw(picture)
    for column, (name, _) in enumerate(takers):
        draw.text((8 + cell_x * (2 + column), 8), name, fill=INK, font=_font(13))
    draw.text((8, 8), "action of", fill=FAINT, font=_font(13))
    first = torch.from_numpy(np.stack([frame for _, frame in takers]))[:, None].float() / 255
    for row, (name, pair) in enumerate(givers):
        top = head + row * cell_y
        mu, _ = model.encode(torch.from_numpy(pair)[None].float() / 255)
        moved = model.decode(first, mu.expand(len(takers), -1, -1))[:, 0]
        shown = [pair[0], pair[1]]
        for frame, before in zip(moved, first[:, 0], strict=True):
            now = frame.numpy()
            changed = np.abs(now - before.numpy()[: now.shape[0], : now.shape[1]]).mean(axis=-1)
            mark = np.clip(changed * 4, 0, 1)[..., None] * np.array([1.0, 0.55, 0.1])
            shown.append((np.clip(now * 0.75 + mark * 0.5, 0, 1) * 255).astype(np.uint8))
        for column, image in enumerate(shown):
            picture.paste(Image.fromarray(image), (8 + column * cell_x, top))
        draw.text((12, top + 4), name, fill=(255, 255, 255), font=_font(12))
    return picture


def _colours(number: int) -> list[tuple[int, int, int]]:
    colours = []
    for index in range(number):
        value = 0.82 if index % 2 == 0 else 0.6
        rgb = colorsys.hsv_to_rgb(index / max(1, number), 0.75, value)
        colours.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return colours


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
