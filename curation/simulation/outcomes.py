"""Whether a motion did what its name says, judged from the physics alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .motions import DIRECTIONS, Motion
from .physics import Array, Trajectory

REACH_M = 0.20
TURN_RAD = math.radians(60)
RISE_M = 0.12
PUSH_M = 0.08
STILL_M = 0.03
HELD_STILL_M = 0.05  # a thing turned in the hand moves a little with the fingers
MIN_TOUCHING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a motion.

    Attributes:
        is_success: Whether the motion did what its name says.
        reason: The first thing that went wrong; empty on success.
        hand_moved_m: Way of the grip point from first to last frame (x, y, z).
        object_moved_m: Way of the first object.
        hand_turned_rad: Turn of the hand about the vertical.
        touching: Parts of the hand that touch the object in the last frame.
    """

    is_success: bool
    reason: str
    hand_moved_m: tuple[float, float, float]
    object_moved_m: tuple[float, float, float]
    hand_turned_rad: float
    touching: int


def judge(motion: Motion, trajectory: Trajectory) -> Outcome:
    """Compares first and last frame with what the primitive promises."""
    hand = trajectory.hand[-1, :3] - trajectory.hand[0, :3]
    thing = trajectory.objects[-1, 0, :3] - trajectory.objects[0, 0, :3]
    turned = _turn(trajectory.hand[-1, 3:]) - _turn(trajectory.hand[0, 3:])
    turned = (turned + math.pi) % (2 * math.pi) - math.pi
    reason = _fault(motion, trajectory, hand=hand, thing=thing, turned=turned)
    return Outcome(
        is_success=not reason,
        reason=reason,
        hand_moved_m=_rounded(hand),
        object_moved_m=_rounded(thing),
        hand_turned_rad=round(turned, 5),
        touching=int(trajectory.touching[-1]),
    )


def _fault(
    motion: Motion, trajectory: Trajectory, *, hand: Array, thing: Array, turned: float
) -> str:
    name = motion.primitive
    first, last = trajectory.touching[0], trajectory.touching[-1]
    moved = float(np.linalg.norm(thing))
    if name.startswith("reach_"):
        along = float(hand @ np.array(DIRECTIONS[name.removeprefix("reach_")]))
        return _first(
            (along < REACH_M, f"the hand moved {along:.2f} m"),
            (moved > 0.01, f"the object was moved by {moved:.2f} m"),
        )
    if name.startswith("rotate_"):
        sign = 1 if name == "rotate_ccw" else -1
        return _first(
            (turned * sign < TURN_RAD, f"the hand turned by {turned:.2f} rad"),
            (motion.is_held and last < MIN_TOUCHING, "the object was lost"),
            (moved > HELD_STILL_M, f"the object was moved by {moved:.2f} m"),
        )
    if name in ("lift", "grasp"):
        rise = float(thing[2])
        return _first(
            (name == "lift" and rise < RISE_M, f"the object rose by {rise:.2f} m"),
            (name == "grasp" and moved > STILL_M, f"the object was moved by {moved:.2f} m"),
            (name == "grasp" and first > 0, "the object was touched from the start"),
            (last < MIN_TOUCHING, "the object is not held"),
        )
    if name == "push":
        heading = np.array((math.cos(motion.object_yaw), math.sin(motion.object_yaw)))
        along = float(thing[:2] @ heading)
        fell = _tilt(trajectory.objects[-1, 0, 3:]) > math.radians(25)
        return _first(
            (along < PUSH_M, f"the object was pushed {along:.2f} m"),
            (fell, "the object was tipped over"),
        )
    fall = -float(thing[2])
    return _first(
        (first < MIN_TOUCHING, "the object is not held at first"),
        (last > 0, "the object still touches the hand"),
        (name == "drop" and fall < RISE_M, f"the object fell by {fall:.2f} m"),
        (name == "release" and moved > STILL_M, f"the object was moved by {moved:.2f} m"),
    )


def _first(*faults: tuple[bool, str]) -> str:
    return next((text for is_wrong, text in faults if is_wrong), "")


def _turn(quat: Array) -> float:
    """Angle about the vertical of a hand that points down, from its closing direction."""
    w, x, y, z = quat
    return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))


def _tilt(quat: Array) -> float:
    """Angle between a thing's own third axis and the vertical."""
    _, x, y, _ = quat
    return math.acos(max(-1.0, min(1.0, 1 - 2 * (x * x + y * y))))


def _rounded(values: Array) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 5) for v in values)
    return (x, y, z)
