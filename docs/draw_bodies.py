"""Draws docs/img/bodies.jpg: the six simulated bodies doing one motion, two bodies in a row.

`python docs/draw_bodies.py FOOTAGE` reads the videos that `egodojo simulate` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.video import decode

BODIES = ("sim_human", "sim_humanoid", "sim_arm7", "sim_arm6", "sim_arm5", "sim_claw")
NUM_PICTURES, NUM_COLUMNS, WIDTH, HEIGHT, GAP = 3, 6, 240, 180, 4


def pictures(video: Path) -> list[Image.Image]:
    """Pictures spread evenly over a video."""
    frames = [decoded.frame for decoded in decode(video)]
    chosen = np.linspace(0, len(frames) - 1, NUM_PICTURES).round().astype(int)
    return [frames[i].to_image().resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS) for i in chosen]


def main() -> None:
    """Tile one video of each body."""
    footage, motion = Path(sys.argv[1]), "lift"
    videos = [sorted(footage.glob(f"{body}-*-{motion}.mp4"))[0] for body in BODIES]
    tiles = [picture for video in videos for picture in pictures(video)]
    width, height = NUM_COLUMNS * (WIDTH + GAP), len(tiles) // NUM_COLUMNS * (HEIGHT + GAP)
    sheet = Image.new("RGB", (width - GAP, height - GAP), "white")
    for index, tile in enumerate(tiles):
        y, x = divmod(index, NUM_COLUMNS)
        sheet.paste(tile, (x * (WIDTH + GAP), y * (HEIGHT + GAP)))
    out = Path(__file__).parent / "img" / "bodies.jpg"
    out.parent.mkdir(exist_ok=True)
    sheet.save(out, quality=88, optimize=True)


if __name__ == "__main__":
    main()
