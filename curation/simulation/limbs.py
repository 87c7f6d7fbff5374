"""Arms with a shoulder, an elbow and a wrist: the human's and the humanoid's.

At zero the arm hangs down; limb frames have z along the limb, x backwards and y towards the middle
of the trunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .anatomy import UPRIGHT_GROUP, ArmJoint, BodyXml, Palette, arm_motors
from .hands import HUMAN_HAND, MACHINE_HAND, five_fingers
from .mjcf import capsule, cylinder, element, hinge, shape

LIMB_JOINTS: tuple[ArmJoint, ...] = (
    ("shoulder_flex", (-1.0, 2.6)),
    ("shoulder_abduct", (-0.9, 2.0)),
    ("shoulder_turn", (-1.6, 1.6)),
    ("elbow", (0.05, 2.5)),
    ("forearm_roll", (-1.9, 1.9)),
    ("wrist_flex", (-1.3, 1.5)),
    ("wrist_tilt", (-0.9, 0.9)),
)
LIMB_REST = (0.35, 0.30, 0.25, 1.15, 0.0, 0.25, 0.0)
LIMB_STIFFNESS = (1500.0, 1500.0, 900.0, 1100.0, 400.0, 300.0, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limb:
    """Shapes and lengths of a shoulder-elbow-wrist arm."""

    shoulder: tuple[float, float, float]
    upper_m: float
    lower_m: float
    upper_looks: Callable[[Palette], str]
    lower_looks: Callable[[Palette], str]
    trunk: Callable[[Palette, int], str]


def _limb(design: Limb, palette: Palette, side: int, hand: str) -> str:
    """Nests shoulder, elbow and wrist bodies around a finished hand."""
    axes = (
        (0.0, -1.0, 0.0),
        (1.0 * side, 0.0, 0.0),
        (0.0, 0.0, 1.0 * side),
        (0.0, -1.0, 0.0),
        (0.0, 0.0, 1.0 * side),
        (0.0, 1.0, 0.0),
        (1.0 * side, 0.0, 0.0),
    )
    joints = [
        hinge(name, axis, limits, armature=0.03, damping=0.5)
        for (name, limits), axis in zip(LIMB_JOINTS, axes, strict=True)
    ]
    wrist = element(
        "body",
        "".join(joints[5:]),
        hand,
        name="hand",
        pos=(0.0, 0.0, design.lower_m),
        gravcomp=1,
    )
    lower = element(
        "body",
        "".join(joints[3:5]),
        design.lower_looks(palette),
        wrist,
        name="forearm",
        pos=(0.0, 0.0, design.upper_m),
        gravcomp=1,
    )
    upper = element(
        "body",
        "".join(joints[:3]),
        design.upper_looks(palette),
        lower,
        name="upper_arm",
        pos=(design.shoulder[0], -side * design.shoulder[1], design.shoulder[2]),
        quat=(0.0, 0.0, 1.0, 0.0),
        gravcomp=1,
    )
    return upper + design.trunk(palette, side)


def human(palette: Palette, side: int) -> BodyXml:
    """A human arm in a sleeve, with a five-fingered hand."""
    tree, hand_motors, columns = five_fingers(
        HUMAN_HAND,
        side=side,
        skin=palette["skin"],
        joint=palette["skin"],
        nail=palette["nail"],
    )
    design = Limb(
        shoulder=(-0.36, 0.19, 0.39),
        upper_m=0.29,
        lower_m=0.25,
        upper_looks=lambda p: (
            capsule((0, 0, 0), (0, 0, 0.28), 0.056, p["sleeve"])
            + shape("ellipsoid", (-0.012, 0, 0.12), (0.058, 0.056, 0.11), p["sleeve"])
        ),
        lower_looks=lambda p: (
            shape("ellipsoid", (0, 0, 0.07), (0.050, 0.046, 0.11), p["sleeve"])
            + capsule((0, 0, 0.0), (0, 0, 0.12), 0.044, p["sleeve"])
            + cylinder((0, 0, 0.135), (0, 0, 0.160), 0.043, p["cuff"])
            + shape("ellipsoid", (0, 0, 0.165), (0.029, 0.034, 0.095), p["skin"])
            + capsule((0, 0, 0.14), (0, 0, 0.245), 0.0255, p["skin"])
        ),
        trunk=_human_trunk,
    )
    return BodyXml(
        tree=_limb(design, palette, side, tree),
        motors=arm_motors(LIMB_JOINTS, LIMB_STIFFNESS) + hand_motors,
        hand=columns,
    )


def _human_trunk(palette: Palette, side: int) -> str:
    still = {"group": UPRIGHT_GROUP, "contype": 0, "conaffinity": 0}
    x = -0.45
    return element(
        "body",
        shape("ellipsoid", (x, 0, 0.12), (0.12, 0.18, 0.36), palette["sleeve"], **still),
        capsule((x, 0, 0.40), (x + 0.08, 0.18, 0.385), 0.066, palette["sleeve"], **still),
        capsule((x, 0, 0.40), (x + 0.08, -0.18, 0.385), 0.066, palette["sleeve"], **still),
        capsule(
            (x + 0.08, side * 0.19, 0.38),
            (x + 0.10, side * 0.24, 0.10),
            0.055,
            palette["sleeve"],
            **still,
        ),
        capsule((x, 0, 0.45), (x + 0.01, 0, 0.55), 0.052, palette["skin"], **still),
        shape("ellipsoid", (x + 0.03, 0, 0.66), (0.095, 0.078, 0.115), palette["skin"], **still),
        shape("ellipsoid", (x + 0.008, 0, 0.695), (0.10, 0.085, 0.105), palette["hair"], **still),
        name="trunk",
    )


def humanoid(palette: Palette, side: int) -> BodyXml:
    """A humanoid's arm with shells over dark joints, and a hand of three fingers and a thumb."""
    tree, hand_motors, columns = five_fingers(
        MACHINE_HAND,
        side=side,
        skin=palette["shell"],
        joint=palette["joint"],
        nail=palette["rubber"],
    )
    design = Limb(
        shoulder=(-0.37, 0.21, 0.40),
        upper_m=0.28,
        lower_m=0.26,
        upper_looks=lambda p: (
            shape("sphere", (0, 0, 0), (0.068,), p["joint"])
            + cylinder((0, 0, 0.06), (0, 0, 0.215), 0.053, p["shell"])
            + cylinder((0, 0, 0.215), (0, 0, 0.235), 0.048, p["accent"])
            + cylinder((0, -0.056, 0.28), (0, 0.056, 0.28), 0.046, p["joint"])
        ),
        lower_looks=lambda p: (
            shape("box", (0, 0, 0.125), (0.036, 0.041, 0.075), p["shell"])
            + shape("box", (-0.030, 0, 0.125), (0.010, 0.026, 0.060), p["accent"])
            + cylinder((0, 0, 0.19), (0, 0, 0.225), 0.034, p["joint"])
            + cylinder((0, -0.034, 0.252), (0, 0.034, 0.252), 0.024, p["joint"])
        ),
        trunk=_humanoid_trunk,
    )
    return BodyXml(
        tree=_limb(design, palette, side, tree),
        motors=arm_motors(LIMB_JOINTS, LIMB_STIFFNESS) + hand_motors,
        hand=columns,
    )


def _humanoid_trunk(palette: Palette, side: int) -> str:
    still = {"group": UPRIGHT_GROUP, "contype": 0, "conaffinity": 0}
    x = -0.46
    shell, joint, accent = palette["shell"], palette["joint"], palette["accent"]
    return element(
        "body",
        shape("box", (x, 0, 0.28), (0.10, 0.155, 0.17), shell, **still),
        shape("box", (x + 0.085, 0, 0.32), (0.03, 0.10, 0.07), accent, **still),
        cylinder((x, 0, -0.20), (x, 0, 0.11), 0.09, joint, **still),
        cylinder((x, -0.20, 0.41), (x, 0.20, 0.41), 0.05, joint, **still),
        cylinder((x, side * 0.22, 0.40), (x, side * 0.22, 0.12), 0.05, shell, **still),
        cylinder((x, 0, 0.45), (x, 0, 0.53), 0.042, joint, **still),
        shape("ellipsoid", (x + 0.02, 0, 0.65), (0.10, 0.085, 0.12), shell, **still),
        shape("ellipsoid", (x + 0.07, 0, 0.66), (0.06, 0.07, 0.055), joint, **still),
        name="trunk",
    )
