"""Where shapes can appear from a point of view, so that rays are only sent where they may hit.

A shape is covered by a few balls, each ball by a rectangle of the view; the union of the
rectangles is a safe, cheap over-estimate.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
MAX_BALLS = 5
STEEPEST = math.radians(86)


class Bounds:
    """Balls around some geoms of a model, fixed in the frames of the geoms."""

    def __init__(self, model: mujoco.MjModel, geoms: NDArray[np.intp]) -> None:
        balls = [ball for geom in geoms for ball in _balls_of(model, int(geom))]
        self.geom = np.array([geom for geom, _, _ in balls], np.intp)
        self.along = np.array([along for _, along, _ in balls])
        self.radius = np.array([radius for _, _, radius in balls])

    def mask(
        self,
        data: mujoco.MjData,
        origin: Doubles,
        turn: Doubles,
        *,
        half_extent: tuple[float, float],
        shape: tuple[int, int],
    ) -> NDArray[np.bool_]:
        """Cells (rows, columns) of a view in which any of the geoms may be seen.

        Args:
            data: Poses of the geoms.
            origin: Point of view.
            turn: Rotation whose columns are right, up and backwards.
            half_extent: Tangents of half the horizontal and vertical field of view.
            shape: Rows and columns of the view.
        """
        axis = data.geom_xmat[self.geom][:, (2, 5, 8)]
        centres = data.geom_xpos[self.geom] + axis * self.along[:, None]
        x, y, back = ((centres - origin) @ turn).T
        ahead = -back
        mask = np.zeros(shape, bool)
        left, right = _range(x, ahead, self.radius, half_extent[0], shape[1])
        bottom, top = _range(-y, ahead, self.radius, half_extent[1], shape[0])
        for index in np.flatnonzero(ahead > -self.radius):
            mask[bottom[index] : top[index], left[index] : right[index]] = True
        return mask


def _range(
    offset: Doubles, ahead: Doubles, radius: Doubles, half_extent: float, cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and one past the last cell that balls cover along one axis of the view."""
    distance = np.hypot(offset, ahead)
    spread = np.where(
        distance > radius, np.arcsin(np.clip(radius / np.maximum(distance, 1e-9), 0, 1)), math.pi
    )
    middle = np.arctan2(offset, ahead)
    low = np.tan(np.clip(middle - spread, -STEEPEST, STEEPEST))
    high = np.tan(np.clip(middle + spread, -STEEPEST, STEEPEST))
    scale = cells / (2 * half_extent)
    first = np.floor((low + half_extent) * scale) - 1
    last = np.ceil((high + half_extent) * scale) + 1
    return (
        np.clip(first, 0, cells).astype(np.intp),
        np.clip(last, 0, cells).astype(np.intp),
    )


def _balls_of(model: mujoco.MjModel, geom: int) -> list[tuple[int, float, float]]:
    """Balls (geom, place along its third axis, radius) that cover one geom."""
    kind, size = model.geom_type[geom], model.geom_size[geom]
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return [(geom, 0.0, float(size[0]))]
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        across, half = float(max(size[0], size[1])), float(size[2])
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        across, half = math.hypot(size[0], size[1]), float(size[2])
    else:
        across, half = float(size[0]), float(size[1])
    count = min(MAX_BALLS, max(1, math.ceil(half / across)))
    piece = half / count
    is_capsule = kind == mujoco.mjtGeom.mjGEOM_CAPSULE
    cover = piece + across if is_capsule else math.hypot(piece, across)
    return [(geom, piece * (2 * index + 1) - half, cover) for index in range(count)]
