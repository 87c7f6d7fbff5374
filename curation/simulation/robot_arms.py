"""Robot arms on a pedestal; link lengths follow well-known seven- and six-axis machines."""

from __future__ import annotations

import math

from .anatomy import ArmJoint, BodyXml, Palette, arm_motors
from .hands import parallel_gripper
from .mjcf import Colour, capsule, cylinder, element, hinge, shape

ARM7_JOINTS: tuple[ArmJoint, ...] = (
    ("joint1", (-2.74, 2.74)),
    ("joint2", (-1.78, 1.78)),
    ("joint3", (-2.90, 2.90)),
    ("joint4", (-3.04, -0.15)),
    ("joint5", (-2.81, 2.81)),
    ("joint6", (0.54, 4.52)),
    ("joint7", (-3.02, 3.02)),
)
ARM6_JOINTS: tuple[ArmJoint, ...] = (
    ("shoulder_pan", (-6.28, 6.28)),
    ("shoulder_lift", (-6.28, 6.28)),
    ("elbow", (-3.14, 3.14)),
    ("wrist_1", (-6.28, 6.28)),
    ("wrist_2", (-6.28, 6.28)),
    ("wrist_3", (-6.28, 6.28)),
)
QUARTER = math.sqrt(0.5)


def _chain(links: list[tuple[dict[str, object], str]], hand: str) -> str:
    """Nests links (attributes, joint and shapes) around a finished hand, outermost last."""
    inner = hand
    for attributes, looks in reversed(links):
        inner = element("body", looks, inner, gravcomp=1, **attributes)
    return inner


def _pedestal(base: tuple[float, float], radius_m: float, colour: Colour, metal: Colour) -> str:
    x, y = base
    return cylinder((x, y, -0.70), (x, y, -0.03), radius_m, colour) + cylinder(
        (x, y, -0.03), (x, y, 0.0), radius_m * 1.25, metal
    )


def arm7(palette: Palette, side: int) -> BodyXml:
    """A seven-axis arm with a slim parallel gripper."""
    gripper, hand_motors, columns = parallel_gripper(
        travel_m=0.088,
        body=palette["shell"],
        metal=palette["metal"],
        pad=palette["rubber"],
        is_round=False,
    )
    shell, joint, accent = palette["shell"], palette["joint"], palette["accent"]
    turn = (QUARTER, QUARTER, 0.0, 0.0)
    back = (QUARTER, -QUARTER, 0.0, 0.0)
    joints = [
        hinge(name, (0.0, 0.0, 1.0), limits, armature=0.05, damping=1.0)
        for name, limits in ARM7_JOINTS
    ]
    base = (-0.36, -side * 0.44)
    looks = (
        capsule((0, 0, -0.17), (0, 0, -0.02), 0.062, shell)
        + cylinder((0, 0, -0.19), (0, 0, -0.175), 0.068, accent),
        capsule((0, 0, -0.065), (0, 0, 0.065), 0.061, shell)
        + capsule((0, -0.02, 0), (0, -0.18, 0), 0.056, shell),
        capsule((0, 0, -0.10), (0.0, 0, -0.02), 0.056, shell)
        + capsule((0.01, 0, -0.03), (0.075, 0, 0.0), 0.050, joint),
        capsule((0, 0, -0.06), (0, 0, 0.06), 0.054, shell)
        + capsule((-0.02, 0.02, 0), (-0.078, 0.09, 0), 0.047, joint),
        capsule((0, 0, -0.27), (0, 0, -0.16), 0.055, shell)
        + capsule((0, 0.035, -0.19), (0, 0.055, -0.04), 0.036, shell)
        + capsule((0, 0, -0.04), (0, 0, 0.0), 0.050, joint),
        capsule((0, 0, -0.055), (0, 0, 0.025), 0.049, shell)
        + capsule((0.02, 0, 0), (0.085, 0.0, 0), 0.046, shell),
        capsule((0, 0, -0.02), (0, 0, 0.03), 0.047, shell)
        + cylinder((0, 0, 0.06), (0, 0, 0.082), 0.042, joint)
        + cylinder((0, 0, 0.082), (0, 0, 0.105), 0.044, shell),
    )
    places: tuple[dict[str, object], ...] = (
        {"pos": (base[0], base[1], 0.333)},
        {"quat": back},
        {"pos": (0.0, -0.316, 0.0), "quat": turn},
        {"pos": (0.0825, 0.0, 0.0), "quat": turn},
        {"pos": (-0.0825, 0.384, 0.0), "quat": back},
        {"quat": turn},
        {"pos": (0.088, 0.0, 0.0), "quat": turn},
    )
    links = [
        ({"name": f"link{index + 1}", **place}, joints[index] + looks[index])
        for index, place in enumerate(places)
    ]
    hand = element(
        "body",
        gripper,
        name="hand",
        pos=(0.0, 0.0, 0.115),
        quat=(math.cos(-math.pi / 8), 0.0, 0.0, math.sin(-math.pi / 8)),
        gravcomp=1,
    )
    foot = cylinder((*base, 0.0), (*base, 0.15), 0.075, shell) + _pedestal(
        base, 0.085, joint, accent
    )
    stiffness = (1500.0, 1500.0, 1000.0, 1000.0, 500.0, 400.0, 300.0)
    return BodyXml(
        tree=foot + _chain(links, hand),
        motors=arm_motors(ARM7_JOINTS, stiffness) + hand_motors,
        hand=columns,
    )


def arm6(palette: Palette, side: int) -> BodyXml:
    """A six-axis arm of straight tubes with a round, chunky gripper."""
    gripper, hand_motors, columns = parallel_gripper(
        travel_m=0.100,
        body=palette["joint"],
        metal=palette["metal"],
        pad=palette["rubber"],
        is_round=True,
    )
    tube, cap, joint = palette["shell"], palette["accent"], palette["joint"]
    axes = ((0, 0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 0, 1), (0, 1, 0))
    joints = [
        hinge(name, tuple(float(v) for v in axis), limits, armature=0.05, damping=1.0)
        for (name, limits), axis in zip(ARM6_JOINTS, axes, strict=True)
    ]
    base = (-0.34, -side * 0.46)
    pitch = (QUARTER, 0.0, QUARTER, 0.0)
    looks = (
        cylinder((0, 0, -0.09), (0, 0, 0.055), 0.060, tube)
        + cylinder((0, 0.0, 0), (0, 0.075, 0), 0.058, tube)
        + cylinder((0, -0.068, 0), (0, -0.055, 0), 0.056, cap)
        + shape("sphere", (0, 0, 0.045), (0.060,), tube),
        cylinder((0, -0.06, 0), (0, 0.055, 0), 0.058, tube)
        + cylinder((0, 0.055, 0), (0, 0.075, 0), 0.057, cap)
        + cylinder((0, 0, 0.04), (0, 0, 0.385), 0.044, joint)
        + cylinder((0, -0.05, 0.425), (0, 0.055, 0.425), 0.052, tube)
        + cylinder((0, 0.055, 0.425), (0, 0.072, 0.425), 0.051, cap),
        cylinder((0, -0.055, 0), (0, 0.06, 0), 0.047, tube)
        + cylinder((0, 0, 0.035), (0, 0, 0.36), 0.036, joint)
        + cylinder((0, -0.05, 0.392), (0, 0.05, 0.392), 0.040, tube)
        + cylinder((0, -0.064, 0.392), (0, -0.05, 0.392), 0.039, cap),
        cylinder((0, 0.03, 0), (0, 0.165, 0), 0.038, tube)
        + cylinder((0, 0.165, 0), (0, 0.177, 0), 0.037, cap),
        cylinder((0, 0, -0.045), (0, 0, 0.140), 0.038, tube)
        + cylinder((0, 0, -0.057), (0, 0, -0.045), 0.037, cap),
        cylinder((0, 0.02, 0), (0, 0.095, 0), 0.036, joint),
    )
    places: tuple[dict[str, object], ...] = (
        {"pos": (base[0], base[1], 0.163)},
        {"pos": (0.0, 0.138, 0.0), "quat": pitch},
        {"pos": (0.0, -0.131, 0.425)},
        {"pos": (0.0, 0.0, 0.392), "quat": pitch},
        {"pos": (0.0, 0.127, 0.0)},
        {"pos": (0.0, 0.0, 0.1)},
    )
    links = [
        ({"name": f"link{index + 1}", **place}, joints[index] + looks[index])
        for index, place in enumerate(places)
    ]
    hand = element(
        "body",
        gripper,
        name="hand",
        pos=(0.0, 0.105, 0.0),
        quat=(-QUARTER, QUARTER, 0.0, 0.0),
        gravcomp=1,
    )
    foot = cylinder((*base, 0.0), (*base, 0.075), 0.075, joint) + _pedestal(
        base, 0.095, palette["metal"], joint
    )
    stiffness = (1500.0, 1500.0, 1200.0, 500.0, 400.0, 300.0)
    return BodyXml(
        tree=foot + _chain(links, hand),
        motors=arm_motors(ARM6_JOINTS, stiffness) + hand_motors,
        hand=columns,
    )
