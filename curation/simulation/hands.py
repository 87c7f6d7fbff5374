"""Hands and grippers from primitive shapes.

Every hand is drawn in its own frame: z along the pointing hand, x out of the palm, y towards the
thumb of a right hand (`side=+1`; a left hand is its mirror, `side=-1`). All share the site `grip`,
where things are held: its z axis is the direction of approach, its x axis the closing direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .mjcf import Colour, capsule, cylinder, element, hinge, motor, shape

FINGER_GRIP, THUMB_GRIP = (1.5, 0.25), (2.5, 0.45)  # N m/rad, N m
PAD = {"friction": (1.6, 0.02, 0.002), "condim": 4, "solref": (0.01, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HandColumn:
    """One action column of a hand and the actuators it moves.

    `open` and `closed` are the column's values in its own unit; an actuator's target is
    `offset + gain * value`.
    """

    name: str
    open: float
    closed: float
    drives: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandShape:
    """Size and looks of a five-fingered hand.

    `fingers` holds per finger: name, sideways place and height of its knuckle, and the lengths of
    its three bones, all in metres.
    """

    fingers: tuple[tuple[str, float, float, tuple[float, float, float]], ...]
    radius_m: float
    palm: tuple[float, float, float]
    is_machine: bool


HUMAN_HAND = HandShape(
    fingers=(
        ("index", 0.030, 0.092, (0.044, 0.027, 0.021)),
        ("middle", 0.009, 0.096, (0.048, 0.030, 0.022)),
        ("ring", -0.012, 0.092, (0.044, 0.028, 0.021)),
        ("little", -0.032, 0.083, (0.035, 0.021, 0.018)),
    ),
    radius_m=0.0092,
    palm=(0.015, 0.043, 0.052),
    is_machine=False,
)
MACHINE_HAND = HandShape(
    fingers=(
        ("index", 0.033, 0.100, (0.046, 0.032, 0.024)),
        ("middle", 0.0, 0.104, (0.046, 0.032, 0.024)),
        ("ring", -0.033, 0.100, (0.046, 0.032, 0.024)),
    ),
    radius_m=0.0112,
    palm=(0.019, 0.046, 0.050),
    is_machine=True,
)

# Angles of knuckle, middle and end joint with the hand open and closed, radians.
FINGER_OPEN = (0.10, 0.22, 0.15)
FINGER_CLOSED = (1.05, 0.95, 0.50)
THUMB_OPEN = (-0.30, 0.05, 0.05)
THUMB_CLOSED = (0.35, 0.45, 0.30)
GRIP_TILT = math.radians(58)


def five_fingers(
    design: HandShape, *, side: int, skin: Colour, joint: Colour, nail: Colour
) -> tuple[str, str, tuple[HandColumn, ...]]:
    """Builds a hand with fingers and an opposing thumb.

    Returns:
        Shapes and joints, actuators, and the action columns: one closure in [0, 1] per finger.
    """
    parts = [_palm(design, side=side, skin=skin, joint=joint)]
    motors: list[str] = []
    columns: list[HandColumn] = []
    for name, sideways, height, bones in design.fingers:
        spread = 0.10 * sideways / 0.03 * -side
        parts.append(
            _digit(
                name,
                design,
                (0.004, side * sideways, height),
                (0.0, 0.0, 0.0) if design.is_machine else (spread, 0.0, 0.0),
                bones,
                skin=skin,
                joint=joint,
                nail=nail,
                flex=(0.0, 1.0, 0.0),
            )
        )
        column, actuators = _closure(name, FINGER_OPEN, FINGER_CLOSED)
        motors.append(actuators)
        columns.append(column)
    # The thumb leaves the palm near the wrist, points out of it and bends towards the fingers.
    parts.append(
        _digit(
            "thumb",
            design,
            (0.016, side * 0.034, 0.030),
            (side * 0.28, 1.05, 0.0),
            (0.046, 0.036, 0.028),
            skin=skin,
            joint=joint,
            nail=nail,
            flex=(0.0, -1.0, 0.0),
        )
    )
    column, actuators = _closure("thumb", THUMB_OPEN, THUMB_CLOSED)
    motors.append(actuators)
    columns.append(column)
    parts.append(
        element(
            "site",
            name="grip",
            pos=(0.079, side * 0.012, 0.104),
            quat=(math.cos(GRIP_TILT / 2), 0.0, math.sin(GRIP_TILT / 2), 0.0),
            size=0.004,
        )
    )
    return "".join(parts), "".join(motors), tuple(columns)


def _palm(design: HandShape, *, side: int, skin: Colour, joint: Colour) -> str:
    """The back of the hand with its knuckles."""
    depth, width, half_length = design.palm
    if design.is_machine:
        return "".join(
            (
                shape("box", (0.0, 0.0, half_length), (depth, width, half_length - 0.006), skin),
                shape("box", (-0.012, 0.0, 0.05), (0.013, width * 0.62, 0.032), joint),
                cylinder((0.0, 0.0, -0.012), (0.0, 0.0, 0.012), 0.031, joint),
            )
        )
    knuckles = "".join(
        shape("sphere", (-0.001, side * sideways, height - 0.002), (0.0115,), skin)
        for _, sideways, height, _ in design.fingers
    )
    return knuckles + "".join(
        (
            shape("ellipsoid", (0.0, -side * 0.001, 0.050), (depth, width, half_length), skin),
            shape("ellipsoid", (0.0, -side * 0.001, 0.075), (depth * 0.85, width, 0.030), skin),
            shape("ellipsoid", (0.009, side * 0.026, 0.034), (0.016, 0.019, 0.032), skin),
            shape("ellipsoid", (0.0, 0.0, 0.006), (0.021, 0.029, 0.030), skin),
        )
    )


def _digit(
    name: str,
    design: HandShape,
    place: tuple[float, float, float],
    euler: tuple[float, float, float],
    bones: tuple[float, float, float],
    *,
    skin: Colour,
    joint: Colour,
    nail: Colour,
    flex: tuple[float, float, float],
) -> str:
    """One finger: three nested bodies, innermost written first."""
    radius = design.radius_m * (1.12 if name == "thumb" else 0.93 if name == "little" else 1.0)
    inner = ""
    for index in (2, 1, 0):
        thickness = radius * (1.0, 0.93, 0.86)[index]
        length = bones[index]
        joint_name = f"{name}_{('mcp', 'pip', 'dip')[index]}"
        looks = _bone(design, length, thickness, skin=skin, joint=joint)
        if index == 2:
            looks += _finger_tip(name, design, length, thickness, nail=nail, flex=flex)
        inner = element(
            "body",
            hinge(joint_name, flex, (-0.5, 1.7), damping=0.01, armature=0.0008),
            looks,
            inner,
            name=joint_name,
            pos=place if index == 0 else (0.0, 0.0, bones[index - 1]),
            euler=euler if index == 0 else None,
            gravcomp=1,
        )
    return inner


def _bone(
    design: HandShape, length: float, thickness: float, *, skin: Colour, joint: Colour
) -> str:
    if not design.is_machine:
        return capsule((0.0, 0.0, 0.0), (0.0, 0.0, length), thickness, skin, **PAD)
    return "".join(
        (
            cylinder((0.0, -0.0125, 0.0), (0.0, 0.0125, 0.0), thickness * 0.95, joint),
            shape(
                "box",
                (0.0, 0.0, length / 2 + 0.002),
                (thickness * 0.82, thickness * 0.95, length / 2 - 0.003),
                skin,
                **PAD,
            ),
        )
    )


def _finger_tip(
    name: str,
    design: HandShape,
    length: float,
    thickness: float,
    *,
    nail: Colour,
    flex: tuple[float, float, float],
) -> str:
    """Nail or rubber tip, and the site where apertures are measured."""
    out = flex[1]  # +1: the inner side of the finger is +x
    site = element("site", name=f"{name}_tip", pos=(out * thickness, 0.0, length * 0.8), size=0.002)
    if design.is_machine:
        return site + capsule(
            (0.0, -0.004, length), (0.0, 0.004, length), thickness * 0.95, nail, **PAD
        )
    return site + shape(
        "ellipsoid",
        (-out * thickness * 0.62, 0.0, length + 0.001),
        (thickness * 0.45, thickness * 0.66, thickness * 0.85),
        nail,
        contype=0,
        conaffinity=0,
        mass=0.0001,
    )


def _closure(
    name: str, opened: tuple[float, ...], closed: tuple[float, ...]
) -> tuple[HandColumn, str]:
    stiffness, torque = THUMB_GRIP if name == "thumb" else FINGER_GRIP
    joints = [f"{name}_{part}" for part in ("mcp", "pip", "dip")]
    drives = tuple(
        (joint, end - start, start)
        for joint, start, end in zip(joints, opened, closed, strict=True)
    )
    motors = "".join(
        motor(joint, stiffness, (-0.5, 1.7), forcerange=(-torque, torque)) for joint in joints
    )
    return HandColumn(name=f"{name}_closure", open=0.0, closed=1.0, drives=drives), motors


def parallel_gripper(
    *, travel_m: float, body: Colour, metal: Colour, pad: Colour, is_round: bool
) -> tuple[str, str, tuple[HandColumn, ...]]:
    """Builds a gripper with two sliding fingers.

    Args:
        travel_m: Full opening between the pads, metres.
        body: Colour of the housing.
        metal: Colour of the fingers.
        pad: Colour of the rubber pads.
        is_round: A cylindrical housing with chunky fingers instead of a box with slim ones.

    Returns:
        Shapes and joints, actuators, and one action column: the opening in metres.
    """
    half = travel_m / 2
    if is_round:
        housing = cylinder((0.0, 0.0, -0.005), (0.0, 0.0, 0.055), 0.037, body) + shape(
            "box", (0.0, 0.0, 0.068), (0.062, 0.024, 0.016), body
        )
    else:
        housing = shape("box", (0.0, 0.0, 0.032), (0.098, 0.030, 0.032), body) + cylinder(
            (0.0, 0.0, -0.012), (0.0, 0.0, 0.004), 0.043, metal
        )
    width = 0.014 if is_round else 0.010
    fingers = ""
    for sign, name in ((1, "left_finger"), (-1, "right_finger")):
        slide = element(
            "joint",
            name=name,
            type="slide",
            axis=(float(sign), 0.0, 0.0),
            range=(0.0, half + 0.002),
            damping=2.0,
            armature=0.05,
        )
        knuckle = sign * (0.022 if is_round else 0.012)
        looks = "".join(
            (
                shape("box", (knuckle, 0.0, 0.082), (0.012 + width / 2, width, 0.012), metal),
                capsule((knuckle * 1.4, 0, 0.080), (sign * 0.014, 0, 0.112), 0.010, metal)
                if is_round
                else shape("box", (sign * 0.013, 0.0, 0.098), (0.007, width, 0.020), metal),
                shape("box", (sign * 0.007, 0.0, 0.124), (0.007, width, 0.018), pad, **PAD),
                element("site", name=f"{name}_pad", pos=(0.0, 0.0, 0.126), size=0.002),
            )
        )
        fingers += element("body", slide, looks, name=name, gravcomp=1)
    grip = element("site", name="grip", pos=(0.0, 0.0, 0.126), size=0.004)
    motors = "".join(
        motor(name, 900.0, (0.0, half + 0.002), forcerange=(-40.0, 40.0))
        for name in ("left_finger", "right_finger")
    )
    column = HandColumn(
        name="gripper_opening_m",
        open=travel_m,
        closed=0.0,
        drives=(("left_finger", 0.5, 0.0), ("right_finger", 0.5, 0.0)),
    )
    return housing + fingers + grip, motors, (column,)


def jaw_gripper(
    *, housing: Colour, servo: Colour, accent: Colour, pad: Colour
) -> tuple[str, str, tuple[HandColumn, ...]]:
    """Builds a gripper whose one jaw swings on a hinge against a jaw that stands still.

    The fixed jaw lies 33 mm from the grip point, room for the widest thing, so a narrow one is
    pushed a little before it is held. The jaws are parallel around something 47 mm wide.

    Returns:
        Shapes and joints, actuators, and one action column: the jaw's angle in radians, 0 closed.
    """
    opened, parallel = 1.20, 0.68
    fixed = "".join(
        (
            shape("box", (0.004, 0.0, 0.026), (0.036, 0.021, 0.026), servo),
            shape("box", (-0.004, 0.0, 0.056), (0.041, 0.024, 0.004), housing),
            shape("box", (-0.043, 0.0, 0.094), (0.004, 0.019, 0.042), housing),
            shape("box", (-0.030, 0.0, 0.068), (0.010, 0.004, 0.010), housing),
            shape("box", (-0.036, 0.0, 0.119), (0.003, 0.016, 0.021), pad, **PAD),
            element("site", name="fixed_jaw_pad", pos=(-0.033, 0.0, 0.122), size=0.002),
            element("site", name="grip", pos=(0.0, 0.0, 0.122), size=0.004),
        )
    )
    moving = "".join(
        (
            hinge("jaw", (0.0, 1.0, 0.0), (0.0, opened + 0.02), damping=0.02, armature=0.002),
            cylinder((0.0, -0.027, 0.0), (0.0, 0.027, 0.0), 0.013, accent),
            shape("box", (0.003, 0.0, 0.030), (0.009, 0.017, 0.032), accent),
            shape("box", (-0.009, 0.0, 0.072), (0.005, 0.019, 0.022), accent),
            shape("box", (0.002, 0.0, 0.072), (0.007, 0.004, 0.020), accent),
            shape("box", (-0.016, 0.0, 0.073), (0.002, 0.016, 0.020), pad, **PAD),
            element("site", name="moving_jaw_pad", pos=(-0.018, 0.0, 0.074), size=0.002),
        )
    )
    jaw = element(
        "body", moving, name="jaw", pos=(0.032, 0.0, 0.048), euler=(0.0, -parallel, 0.0), gravcomp=1
    )
    column = HandColumn(name="jaw_rad", open=opened, closed=0.0, drives=(("jaw", 1.0, 0.0),))
    actuator = motor("jaw", 6.0, (0.0, opened + 0.02), forcerange=(-1.6, 1.6))
    return fixed + jaw, actuator, (column,)


# Knuckle (outwards) and tip (inwards, from the knuckle's bone) of a claw open and closed, radians.
CLAW_OPEN, CLAW_CLOSED = (0.60, -0.40), (-0.25, -0.45)


def claw(
    *, shell: Colour, joint: Colour, accent: Colour, pad: Colour
) -> tuple[str, str, tuple[HandColumn, ...]]:
    """Builds a claw of two fingers against a thumb, all alike, with two joints each.

    Returns:
        Shapes and joints, actuators, and the action columns: one closure in [0, 1] per finger.
    """
    parts = [
        capsule((0.0, 0.0, 0.010), (0.0, 0.0, 0.030), 0.036, shell),
        cylinder((0.0, 0.0, 0.002), (0.0, 0.0, 0.012), 0.038, accent),
        shape("ellipsoid", (0.0, 0.0, 0.048), (0.046, 0.042, 0.026), shell),
    ]
    motors, columns = "", []
    for name, place, turn in (
        ("left", (0.036, 0.022), 0.20),
        ("right", (0.036, -0.022), -0.20),
        ("thumb", (-0.036, 0.0), math.pi),
    ):
        parts.append(_claw_finger(name, place, turn, bone=joint, accent=accent, pad=pad))
        strength = 2.0 if name == "thumb" else 1.0  # it holds out against two
        drives = []
        for part, opened, closed in zip(("knuckle", "tip"), CLAW_OPEN, CLAW_CLOSED, strict=True):
            drives.append((f"{name}_{part}", closed - opened, opened))
            torque = 0.9 * strength
            motors += motor(
                f"{name}_{part}", 3.0 * strength, (-0.9, 0.9), forcerange=(-torque, torque)
            )
        columns.append(
            HandColumn(name=f"{name}_closure", open=0.0, closed=1.0, drives=tuple(drives))
        )
    parts.append(element("site", name="grip", pos=(0.0, 0.0, 0.162), size=0.004))
    return "".join(parts), motors, tuple(columns)


def _claw_finger(
    name: str,
    place: tuple[float, float],
    turn: float,
    *,
    bone: Colour,
    accent: Colour,
    pad: Colour,
) -> str:
    """One finger in its own frame: x outwards, so that it closes towards negative x."""
    tip = element(
        "body",
        hinge(f"{name}_tip", (0.0, 1.0, 0.0), (-0.9, 0.9), damping=0.01, armature=0.0008),
        capsule((0.0, 0.0, 0.0), (0.001, 0.0, 0.024), 0.0095, bone, **PAD),
        capsule((0.001, 0.0, 0.024), (-0.003, 0.0, 0.046), 0.0085, pad, **PAD),
        element("site", name=f"{name}_pad", pos=(-0.010, 0.0, 0.036), size=0.002),
        name=f"{name}_tip",
        pos=(0.0, 0.0, 0.055),
        gravcomp=1,
    )
    return element(
        "body",
        hinge(f"{name}_knuckle", (0.0, 1.0, 0.0), (-0.9, 0.9), damping=0.01, armature=0.0015),
        cylinder((0.0, -0.013, 0.0), (0.0, 0.013, 0.0), 0.0125, accent),
        capsule((0.0, 0.0, 0.0), (0.006, 0.0, 0.028), 0.0115, bone, **PAD),
        capsule((0.006, 0.0, 0.028), (0.0, 0.0, 0.055), 0.0105, bone, **PAD),
        tip,
        name=f"{name}_knuckle",
        pos=(*place, 0.066),
        euler=(0.0, 0.0, turn),
        gravcomp=1,
    )
