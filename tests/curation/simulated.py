"""Episodes that several tests look at, made once."""

from __future__ import annotations

from functools import cache

import numpy as np

from curation.simulation.episode import Replay, Request, make_episode


@cache
def episode(embodiment: str, primitive: str, seed: int = 0, camera: str = "ego") -> Replay:
    request = Request(
        embodiment=embodiment,
        primitive=primitive,
        seed=seed,
        camera=camera,  # type: ignore[arg-type]
        width=64,
        height=48,
        fps=10.0,
        seconds=1.5,
    )
    return make_episode(request)


def in_picture(replayed: Replay, point: np.ndarray, *, time_s: float) -> np.ndarray:
    """Where a point (x, y, z) appears: (0, 0) top left, (width / height, 1) bottom right."""
    camera = replayed.episode.scene.camera
    eye, turn = camera.pose(time_s)
    right, up, back = (point - eye) @ turn
    scale = 2 * np.tan(np.radians(camera.fovy_deg) / 2)
    return np.array((right / -back / scale + 2 / 3, 0.5 - up / -back / scale))
