"""The bodies: a human arm, a humanoid's and four robot arms, all from primitive shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manifests.config import nearest
from manifests.errors import UsageError

from .anatomy import ArmJoint, BodyXml, Palette
from .limbs import LIMB_JOINTS, LIMB_REST, human, humanoid
from .mjcf import Colour
from .robot_arms import (
    ARM5_JOINTS,
    ARM6_JOINTS,
    ARM7_JOINTS,
    CLAW_JOINTS,
    arm5,
    arm6,
    arm7,
    claw_arm,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One embodiment that can be simulated.

    Attributes:
        name: Name of the embodiment, also of its YAML file.
        noun: How captions call it.
        joints: Arm joints from the base outwards with their limits in radians.
        rest: Arm posture the inverse kinematics starts from and prefers, radians, for a right arm.
        mirror: Signs that turn this posture into the one of a left arm.
        yaw_offset: Turn of a right hand about the vertical in its usual grasp, radians.
        turn_weights: How much turns about the closing, sideways and approach axis of the hand
            matter beside its place, metres per radian.
        tip_sites: Two sites whose distance is the aperture.
        grip_span_m: Widest object the hand takes, metres.
        clearance_m: Lowest height of the grip point above the table.
        palettes: Choices of colours.
        build: Makes the XML from a palette and a side (+1: a right arm, -1: its mirror).
    """

    name: str
    noun: str
    joints: tuple[ArmJoint, ...]
    rest: tuple[float, ...]
    mirror: tuple[float, ...]
    yaw_offset: float
    turn_weights: tuple[float, float, float]
    tip_sites: tuple[str, str]
    grip_span_m: float
    clearance_m: float
    palettes: tuple[Palette, ...]
    build: Callable[[Palette, int], BodyXml]

    def columns(self) -> tuple[str, ...]:
        """Names of the action columns: joint targets in radians, then the hand's columns."""
        hand = self.build(self.palettes[0], 1).hand
        return tuple(f"{name}_rad" for name, _ in self.joints) + tuple(c.name for c in hand)


def body_named(name: str) -> Body:
    """Looks up a body; an unknown name is a `UsageError` that suggests the nearest one."""
    if name not in BODIES:
        raise UsageError(
            f"Unknown embodiment {name!r}. {nearest(name, list(BODIES))}",
            hint=f"Bodies that can be simulated: {', '.join(BODIES)}.",
        )
    return BODIES[name]


def _skin(skin: Colour, sleeve: Colour, cuff: Colour, hair: Colour) -> Palette:
    nail = tuple(min(1.0, 0.55 * channel + 0.42) for channel in skin)
    return {"skin": skin, "sleeve": sleeve, "cuff": cuff, "hair": hair, "nail": nail}  # type: ignore[dict-item]


def _machine(
    shell: Colour, joint: Colour, accent: Colour, metal: Colour = (0.60, 0.62, 0.65)
) -> Palette:
    rubber = (0.07, 0.07, 0.08)
    return {"shell": shell, "joint": joint, "accent": accent, "metal": metal, "rubber": rubber}


WHITE, GREY, BLACK = (0.90, 0.90, 0.88), (0.46, 0.48, 0.51), (0.09, 0.09, 0.10)
BODIES: dict[str, Body] = {
    body.name: body
    for body in (
        Body(
            name="sim_human",
            noun="a human hand",
            joints=LIMB_JOINTS,
            rest=LIMB_REST,
            mirror=(1.0,) * 7,
            yaw_offset=0.35,
            turn_weights=(0.06, 0.02, 0.08),
            tip_sites=("thumb_tip", "index_tip"),
            grip_span_m=0.056,
            clearance_m=0.035,
            palettes=(
                _skin(
                    (0.88, 0.66, 0.54), (0.16, 0.27, 0.52), (0.92, 0.92, 0.90), (0.2, 0.13, 0.08)
                ),
                _skin(
                    (0.55, 0.36, 0.25), (0.72, 0.20, 0.18), (0.30, 0.08, 0.08), (0.06, 0.05, 0.05)
                ),
                _skin(
                    (0.95, 0.77, 0.66), (0.14, 0.42, 0.36), (0.08, 0.25, 0.22), (0.55, 0.36, 0.16)
                ),
                _skin(
                    (0.36, 0.22, 0.15), (0.90, 0.76, 0.30), (0.55, 0.40, 0.10), (0.04, 0.04, 0.04)
                ),
                _skin(
                    (0.75, 0.53, 0.39), (0.30, 0.30, 0.33), (0.12, 0.12, 0.14), (0.08, 0.06, 0.05)
                ),
            ),
            build=human,
        ),
        Body(
            name="sim_arm7",
            noun="a seven-axis robot arm",
            joints=ARM7_JOINTS,
            rest=(0.85, 0.15, 0.10, -2.15, 0.0, 2.30, 0.0),
            mirror=(-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0),
            yaw_offset=-math.pi / 2,
            turn_weights=(0.25, 0.25, 0.25),
            tip_sites=("left_finger_pad", "right_finger_pad"),
            grip_span_m=0.070,
            clearance_m=0.022,
            palettes=(
                _machine(WHITE, BLACK, (0.62, 0.64, 0.66)),
                _machine((0.86, 0.88, 0.92), (0.20, 0.22, 0.26), (0.15, 0.45, 0.75)),
                _machine((0.93, 0.86, 0.72), (0.22, 0.20, 0.19), (0.85, 0.45, 0.12)),
            ),
            build=arm7,
        ),
        Body(
            name="sim_arm6",
            noun="a six-axis robot arm",
            joints=ARM6_JOINTS,
            rest=(0.85, -1.75, 2.05, -1.87, -1.5708, 0.0),
            mirror=(-1.0, 1.0, 1.0, 1.0, 1.0, -1.0),
            yaw_offset=math.pi / 2,
            turn_weights=(0.25, 0.25, 0.25),
            tip_sites=("left_finger_pad", "right_finger_pad"),
            grip_span_m=0.080,
            clearance_m=0.022,
            palettes=(
                _machine((0.70, 0.72, 0.74), (0.24, 0.25, 0.27), (0.36, 0.58, 0.76)),
                _machine((0.96, 0.55, 0.14), (0.18, 0.18, 0.19), (0.12, 0.12, 0.13)),
                _machine((0.93, 0.83, 0.20), (0.30, 0.31, 0.33), (0.14, 0.14, 0.16)),
            ),
            build=arm6,
        ),
        Body(
            name="sim_humanoid",
            noun="a humanoid robot hand",
            joints=LIMB_JOINTS,
            rest=LIMB_REST,
            mirror=(1.0,) * 7,
            yaw_offset=0.35,
            turn_weights=(0.06, 0.02, 0.08),
            tip_sites=("thumb_tip", "middle_tip"),
            grip_span_m=0.056,
            clearance_m=0.038,
            palettes=(
                _machine(WHITE, BLACK, (0.20, 0.55, 0.85)),
                _machine((0.28, 0.30, 0.34), (0.10, 0.10, 0.11), (0.90, 0.35, 0.15)),
                _machine((0.80, 0.82, 0.86), (0.25, 0.22, 0.32), (0.45, 0.25, 0.70)),
            ),
            build=humanoid,
        ),
        Body(
            name="sim_arm5",
            noun="a small desk arm",
            joints=ARM5_JOINTS,
            rest=(0.77, 0.30, 1.78, 1.06, 0.77),
            mirror=(-1.0, 1.0, 1.0, 1.0, -1.0),
            yaw_offset=-math.pi / 2,
            turn_weights=(0.25, 0.25, 0.25),
            tip_sites=("fixed_jaw_pad", "moving_jaw_pad"),
            grip_span_m=0.060,
            clearance_m=0.024,
            palettes=(
                _machine((0.98, 0.80, 0.14), BLACK, (0.20, 0.45, 0.90)),
                _machine((0.96, 0.40, 0.12), (0.13, 0.13, 0.15), (0.94, 0.94, 0.90)),
                _machine((0.30, 0.80, 0.45), (0.10, 0.10, 0.11), (0.95, 0.30, 0.55)),
            ),
            build=arm5,
        ),
        Body(
            name="sim_claw",
            noun="a robot arm with a claw",
            joints=CLAW_JOINTS,
            rest=(0.71, 0.59, 1.65, 0.0, 0.90, 0.71),
            mirror=(-1.0, 1.0, 1.0, -1.0, 1.0, -1.0),
            yaw_offset=-math.pi / 2,
            turn_weights=(0.25, 0.25, 0.25),
            tip_sites=("thumb_pad", "left_pad"),
            grip_span_m=0.060,
            clearance_m=0.032,
            palettes=(
                _machine((0.17, 0.17, 0.19), (0.10, 0.10, 0.11), (0.80, 0.16, 0.14)),
                _machine((0.24, 0.26, 0.31), (0.13, 0.14, 0.17), (0.20, 0.62, 0.72)),
                _machine((0.20, 0.17, 0.16), (0.11, 0.10, 0.10), (0.86, 0.62, 0.20)),
            ),
            build=claw_arm,
        ),
    )
}
