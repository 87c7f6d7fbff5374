"""Solid textures: patterns that are functions of a point in space, so nothing needs unwrapping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .scenes import Texture

Floats = NDArray[np.float32]
TAU = np.float32(2 * np.pi)


def paint(texture: Texture, points: Floats) -> Floats:
    """Colours (N, 3), linear RGB, of points (N, 3) in metres in the thing's own frame."""
    first = np.array(texture.first, np.float32)
    if texture.kind == "plain":
        return np.broadcast_to(first, points.shape)
    share = PATTERNS[texture.kind](points / np.float32(texture.period_m), texture.phase)
    return np.asarray(
        first + share[:, None] * (np.array(texture.second, np.float32) - first), np.float32
    )


def _checker(points: Floats, phase: float) -> Floats:
    cells = np.floor(points + np.float32(0.01 + phase)).astype(np.int32)
    return np.asarray((cells[:, 0] + cells[:, 1] + cells[:, 2]) & 1, np.float32)


def _stripes(points: Floats, phase: float) -> Floats:
    cos, sin = np.cos(phase), np.sin(phase)
    along = points @ np.array((cos, sin, 0.6), np.float32)
    return np.asarray(np.clip(np.sin(TAU * along) * 4 + 0.5, 0, 1), np.float32)


def _noise(points: Floats, phase: float) -> Floats:
    """A few crossing waves, bent by each other: cheap and without visible period."""
    x, y, z = points.T * np.float32(3.0)
    bend = np.sin(1.3 * x + 0.7 * z + phase) + np.sin(1.1 * y - 0.9 * x - phase)
    wave = np.sin(1.9 * x + bend) + np.sin(2.3 * y - bend) + np.sin(2.1 * z + x + bend)
    return np.asarray(np.clip(wave * 0.22 + 0.5, 0, 1), np.float32)


def _wood(points: Floats, phase: float) -> Floats:
    """Long grain along the second axis, in boards."""
    x, y, z = points.T
    board = np.floor(x * np.float32(1.0) + phase)
    ring = (x * 9 + np.sin(y * 0.8 + board * 2.4) * 1.2 + np.sin(y * 2.3 + x * 6) * 0.3 + z * 7) * 2
    grain = np.float32(0.5) + np.float32(0.35) * np.sin(ring + board * 1.7)
    seam = np.abs(x + phase - board - 0.5) > np.float32(0.485)
    return np.asarray(np.clip(grain + seam * np.float32(0.6), 0, 1), np.float32)


def _tiles(points: Floats, phase: float) -> Floats:
    inside = points + np.float32(0.013 + phase)
    edge = np.abs(inside - np.floor(inside) - np.float32(0.5)) > np.float32(0.465)
    return np.asarray(edge.any(axis=1), np.float32)


def _dots(points: Floats, phase: float) -> Floats:
    inside = points + np.float32(phase)
    centre = inside - np.floor(inside) - np.float32(0.5)
    return np.asarray(np.einsum("ij,ij->i", centre, centre) < 0.11, np.float32)


PATTERNS: dict[str, Callable[[Floats, float], Floats]] = {
    "checker": _checker,
    "stripes": _stripes,
    "noise": _noise,
    "wood": _wood,
    "tiles": _tiles,
    "dots": _dots,
}
