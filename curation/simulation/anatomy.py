"""What every body is made of: palettes, joints, actuators, and the XML that comes out.

World frame: metres, z up, x away from the viewer, y to the viewer's left; the origin lies on the
table top at the middle of the work space. Every body reaches it from negative x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .hands import HandColumn
from .mjcf import Colour, motor

Palette = Mapping[str, Colour]
ArmJoint = tuple[str, tuple[float, float]]
UPRIGHT_GROUP = 2  # torso and head: left out of pictures taken from that very head


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyXml:
    """MuJoCo XML of one body: its tree, its actuators, and what its hand's columns drive."""

    tree: str
    motors: str
    hand: tuple[HandColumn, ...]


def arm_motors(joints: tuple[ArmJoint, ...], stiffness: tuple[float, ...]) -> str:
    """One position actuator per joint; stiffness in N m per radian."""
    return "".join(
        motor(name, gain, limits) for (name, limits), gain in zip(joints, stiffness, strict=True)
    )
