"""The motion primitives as plain data: where the hand goes, how it turns and when it closes.

A `Motion` depends on the seed and the primitive alone, so every body gets the same list. Heights
named `grip` are filled in per body and object, when the path is made (`primitives.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manifests.config import nearest
from manifests.errors import UsageError

DIRECTIONS: dict[str, tuple[float, float, float]] = {
    "left": (0.0, 1.0, 0.0),
    "right": (0.0, -1.0, 0.0),
    "up": (0.0, 0.0, 1.0),
    "down": (0.0, 0.0, -1.0),
    "forward": (1.0, 0.0, 0.0),
    "back": (-1.0, 0.0, 0.0),
}
PRIMITIVES: tuple[str, ...] = (
    *(f"reach_{name}" for name in DIRECTIONS),
    "rotate_cw",
    "rotate_ccw",
    "grasp",
    "release",
    "lift",
    "push",
    "drop",
)
OPEN, RELAXED, CLOSED = 0.0, 0.35, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One point of a path.

    Attributes:
        at: When, as a share of the episode in [0, 1].
        xy: Grip point over the table, metres.
        height_m: Its height; with `is_above_grip` counted from the height of a grasp.
        yaw: Turn of the hand about the vertical, radians, seen from above.
        closure: 0 open, 1 closed.
        is_above_grip: See `height_m`.
    """

    at: float
    xy: tuple[float, float]
    height_m: float
    yaw: float
    closure: float
    is_above_grip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A primitive with its numbers: the path and where the object is.

    `is_held` says that the object is in the hand when the episode begins.
    """

    primitive: str
    keys: tuple[Key, ...]
    object_xy: tuple[float, float]
    object_yaw: float
    is_held: bool

    def distance_to_track(self, spot: tuple[float, ...]) -> float:
        """Distance on the table from a spot to the path and to the line from it to the viewer."""
        stops = [*(key.xy for key in self.keys), self.object_xy]
        x0, x1 = min(p[0] for p in stops) - 0.12, max(p[0] for p in stops)
        y0, y1 = min(p[1] for p in stops), max(p[1] for p in stops)
        return math.hypot(
            max(x0 - spot[0], 0.0, spot[0] - x1), max(y0 - spot[1], 0.0, spot[1] - y1)
        )


def check_primitives(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names, all of them for an empty list; an unknown one is a `UsageError`."""
    for name in names:
        if name not in PRIMITIVES:
            raise UsageError(
                f"Unknown primitive {name!r}. {nearest(name, list(PRIMITIVES))}",
                hint=f"Primitives: {', '.join(PRIMITIVES)}.",
            )
    return names or PRIMITIVES


def sample_motion(rng: np.random.Generator, primitive: str) -> Motion:
    """Draws the numbers of a primitive."""
    centre = rng.uniform((-0.03, -0.03), (0.03, 0.03))
    x, y = (round(float(v), 4) for v in centre)
    if primitive.startswith("reach_"):
        return _reach(rng, primitive, (x, y))
    if primitive.startswith("rotate_"):
        return _rotate(rng, primitive, (x, y))
    yaw = round(float(rng.uniform(-0.25, 0.25)), 4)
    if primitive == "push":
        return _push(rng, (x - 0.05, y))
    return _handle(rng, primitive, (x, y), yaw)


def _reach(rng: np.random.Generator, primitive: str, centre: tuple[float, float]) -> Motion:
    direction = np.array(DIRECTIONS[primitive.removeprefix("reach_")])
    length = rng.uniform(0.25, 0.29)
    low = 0.09 if direction[2] == 0 else 0.07
    middle = np.array((*centre, low + (length / 2 if direction[2] else rng.uniform(0.0, 0.05))))
    drift = rng.uniform(-0.025, 0.025, 3) * (1 - np.abs(direction))
    drift[2] = abs(drift[2])
    start, end = middle - direction * length / 2, middle + direction * length / 2 + drift
    yaw = round(float(rng.uniform(-0.25, 0.25)), 4)
    aside = 0.17 if rng.random() < 0.5 else -0.17
    if direction[2]:
        spot = (middle[0] + 0.06, middle[1] + aside)
    else:
        spot = (end[0] + direction[0] * 0.12 + 0.03, end[1] + direction[1] * 0.12)
        if primitive == "reach_back":
            spot = (end[0] + 0.05, end[1] + aside)
    return Motion(
        primitive=primitive,
        keys=(
            _key(0.08, start, yaw, RELAXED),
            _key(0.90, end, yaw + float(rng.uniform(-0.15, 0.15)), RELAXED),
        ),
        object_xy=_spot(spot),
        object_yaw=round(float(rng.uniform(0, 1.5)), 4),
        is_held=False,
    )


def _rotate(rng: np.random.Generator, primitive: str, centre: tuple[float, float]) -> Motion:
    sign = 1.0 if primitive == "rotate_ccw" else -1.0
    half = sign * rng.uniform(0.65, 0.80)
    is_held = bool(rng.random() < 0.7)
    place = (*centre, rng.uniform(0.07, 0.11) if is_held else rng.uniform(0.09, 0.12))
    closure = CLOSED if is_held else RELAXED
    aside = 0.16 if rng.random() < 0.5 else -0.16
    return Motion(
        primitive=primitive,
        keys=(
            _key(0.08, place, -half, closure, is_above_grip=is_held),
            _key(0.90, place, half, closure, is_above_grip=is_held),
        ),
        object_xy=_spot(centre if is_held else (centre[0] + 0.08, centre[1] + aside)),
        object_yaw=round(-half if is_held else float(rng.uniform(0, 1.5)), 4),
        is_held=is_held,
    )


def _push(rng: np.random.Generator, centre: tuple[float, float]) -> Motion:
    heading = rng.uniform(-0.25, 0.25)
    way = np.array((math.cos(heading), math.sin(heading)))
    start = np.array(centre) - way * 0.10
    end = start + way * rng.uniform(0.25, 0.29)
    return Motion(
        primitive="push",
        keys=(
            _key(0.08, (*start, 0.004), heading, 0.8, is_above_grip=True),
            _key(0.90, (*end, 0.004), heading, 0.8, is_above_grip=True),
        ),
        object_xy=_spot(centre),
        object_yaw=round(float(heading), 4),
        is_held=False,
    )


def _handle(
    rng: np.random.Generator, primitive: str, centre: tuple[float, float], yaw: float
) -> Motion:
    """Grasp, release, lift and drop: above and around one object."""
    rise = float(rng.uniform(0.21, 0.26))
    above = float(rng.uniform(0.07, 0.10))
    paths: dict[str, tuple[tuple[float, float, float], ...]] = {
        # time, height above the grip, closure
        "grasp": ((0.06, above, OPEN), (0.48, 0.0, OPEN), (0.55, 0.0, OPEN), (0.92, 0.0, CLOSED)),
        "release": ((0.08, 0.0, CLOSED), (0.45, 0.0, OPEN), (0.52, 0.0, OPEN), (0.94, above, OPEN)),
        "lift": ((0.08, 0.0, CLOSED), (0.90, rise, CLOSED)),
        "drop": ((0.30, rise, CLOSED), (0.42, rise, OPEN), (0.90, rise + 0.02, OPEN)),
    }
    return Motion(
        primitive=primitive,
        keys=tuple(
            _key(at, (*centre, height), yaw, closure, is_above_grip=True)
            for at, height, closure in paths[primitive]
        ),
        object_xy=_spot(centre),
        object_yaw=yaw,
        is_held=primitive != "grasp",
    )


def _key(
    at: float, place: object, yaw: float, closure: float, *, is_above_grip: bool = False
) -> Key:
    x, y, z = (round(float(v), 5) for v in place)  # type: ignore[attr-defined]
    return Key(
        at=at,
        xy=(x, y),
        height_m=z,
        yaw=round(float(yaw), 5),
        closure=closure,
        is_above_grip=is_above_grip,
    )


def _spot(place: object) -> tuple[float, float]:
    x, y = (round(float(v), 5) for v in place)  # type: ignore[attr-defined]
    return (x, y)
