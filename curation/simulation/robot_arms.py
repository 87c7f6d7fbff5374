"""Robot arms: two on a pedestal after well-known machines, a small one on the table, a bent one."""

from __future__ import annotations

import itertools
import math

from .anatomy import ArmJoint, BodyXml, Palette, arm_motors
from .hands import claw, jaw_gripper, parallel_gripper
from .mjcf import Colour, Vector, capsule, cylinder, element, hinge, shape

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
ARM5_JOINTS: tuple[ArmJoint, ...] = (
    ("pan", (-1.92, 1.92)),
    ("lift", (-1.20, 1.75)),
    ("elbow", (0.05, 2.75)),
    ("wrist_pitch", (-0.60, 2.50)),
    ("wrist_roll", (-2.80, 2.80)),
)
CLAW_JOINTS: tuple[ArmJoint, ...] = (
    ("base_turn", (-3.14, 3.14)),
    ("shoulder", (-1.60, 2.10)),
    ("elbow", (0.10, 2.70)),
    ("forearm_turn", (-3.14, 3.14)),
    ("wrist_bend", (-0.40, 2.40)),
    ("wrist_turn", (-3.14, 3.14)),
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


def arm5(palette: Palette, side: int) -> BodyXml:
    """A five-joint hobby arm of printed plates and servo blocks that stands on the table.

    With the hand pointing down its five joints reach every place and every turn about the vertical.
    """
    printed, servo, accent = palette["shell"], palette["joint"], palette["accent"]
    gripper, hand_motors, columns = jaw_gripper(
        housing=printed, servo=servo, accent=accent, pad=palette["rubber"]
    )
    axes = ((0.0, 0.0, 1.0), *((0.0, 1.0, 0.0),) * 3, (0.0, 0.0, 1.0))
    joints = [
        hinge(name, axis, limits, armature=0.03, damping=0.8)
        for (name, limits), axis in zip(ARM5_JOINTS, axes, strict=True)
    ]
    looks = (
        cylinder((0, 0, -0.004), (0, 0, 0.006), 0.034, accent)
        + shape("box", (0, 0, 0.010), (0.030, 0.042, 0.005), printed)
        + _plates((0, 0, 0.045), (0.024, 0.0035, 0.038), 0.039, printed)
        + shape("box", (0, 0, 0.048), (0.021, 0.026, 0.022), servo),
        _plates((0, 0, 0.155), (0.019, 0.0035, 0.175), 0.031, printed)
        + shape("box", (0.004, 0, 0.075), (0.006, 0.030, 0.020), printed)
        + shape("box", (-0.006, 0, 0.165), (0.006, 0.030, 0.026), printed)
        + shape("box", (0.004, 0, 0.245), (0.006, 0.030, 0.014), printed)
        + cylinder((0, -0.037, 0.0), (0, 0.037, 0.0), 0.017, accent)
        + shape("box", (0, 0, 0.318), (0.021, 0.027, 0.024), servo),
        _plates((0, 0, 0.045), (0.020, 0.0035, 0.066), 0.038, printed)
        + cylinder((0, -0.044, 0.0), (0, 0.044, 0.0), 0.017, accent)
        + shape("box", (0, 0, 0.110), (0.020, 0.041, 0.006), printed)
        + shape("box", (0, 0, 0.190), (0.015, 0.020, 0.080), printed)
        + shape("box", (0, 0, 0.205), (0.018, 0.012, 0.045), accent)
        + shape("box", (0, 0, 0.305), (0.019, 0.023, 0.037), servo),
        _plates((0, 0, 0.014), (0.017, 0.003, 0.030), 0.028, printed)
        + cylinder((0, -0.034, 0.0), (0, 0.034, 0.0), 0.014, accent)
        + shape("box", (0, 0, 0.041), (0.022, 0.031, 0.004), printed)
        + shape("box", (0, 0, 0.056), (0.018, 0.021, 0.013), servo),
        cylinder((0, 0, 0.007), (0, 0, 0.015), 0.022, accent),
    )
    base = (-0.27, -side * 0.26)
    places = ((*base, 0.085), (0, 0, 0.060), (0, 0, 0.320), (0, 0, 0.320), (0, 0, 0.063))
    links: list[tuple[dict[str, object], str]] = [
        ({"name": f"link{index + 1}", "pos": place}, joints[index] + looks[index])
        for index, place in enumerate(places)
    ]
    foot = (
        shape("box", (*base, 0.007), (0.056, 0.062, 0.007), printed)
        + shape("box", (*base, 0.045), (0.030, 0.026, 0.034), servo)
        + shape("box", (base[0], base[1], 0.028), (0.040, 0.040, 0.014), printed)
    )
    stiffness = (1200.0, 1200.0, 1000.0, 400.0, 200.0)
    return BodyXml(
        tree=foot + _chain(links, _sideways_hand(gripper, side)),
        motors=arm_motors(ARM5_JOINTS, stiffness) + hand_motors,
        hand=columns,
    )


def claw_arm(palette: Palette, side: int) -> BodyXml:
    """A six-axis arm of bent, smooth links set off to the side, with a three-fingered claw."""
    shell, joint, accent = palette["shell"], palette["joint"], palette["accent"]
    fingers, hand_motors, columns = claw(
        shell=shell, joint=palette["metal"], accent=accent, pad=palette["rubber"]
    )
    upright, across = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
    axes = (upright, across, across, upright, across, upright)
    joints = [
        hinge(name, axis, limits, armature=0.05, damping=1.0)
        for (name, limits), axis in zip(CLAW_JOINTS, axes, strict=True)
    ]
    off = side * 0.075  # the upper arm runs beside the base, the forearm comes back
    looks = (
        capsule((0, 0, -0.02), (0, 0, 0.07), 0.056, shell)
        + capsule((0, 0, 0.075), (0, off * 0.6, 0.080), 0.052, shell),
        cylinder((0, -off * 0.32, 0), (0, -off * 0.22, 0), 0.055, accent)
        + _bow((0, 0, 0), (-0.10, 0, 0.20), (0, 0, 0.410), (0.052, 0.044), shell),
        cylinder((0, -off * 0.62, 0), (0, -off * 0.50, 0), 0.047, accent)
        + capsule((0, 0, 0), (0, -off, 0), 0.043, joint)
        + _bow((0, -off, 0), (0.055, -off, 0.10), (0, -off, 0.205), (0.042, 0.034), shell),
        cylinder((0, 0, -0.006), (0, 0, 0.006), 0.037, accent)
        + _bow((0, 0, 0.01), (-0.06, 0, 0.075), (0, 0, 0.150), (0.034, 0.031), joint),
        capsule((0, -0.016, 0), (0, 0.016, 0), 0.034, shell)
        + capsule((0, 0, 0.0), (0, 0, 0.040), 0.030, shell),
        cylinder((0, 0, -0.004), (0, 0, 0.016), 0.031, joint),
    )
    base = (-0.41, -side * 0.35)  # behind the edge of the table
    places = (
        (*base, 0.160),
        (0, off, 0.080),
        (0, 0, 0.410),
        (0, -off, 0.215),
        (0, 0, 0.155),
        (0, 0, 0.062),
    )
    links: list[tuple[dict[str, object], str]] = [
        ({"name": f"link{index + 1}", "pos": place}, joints[index] + looks[index])
        for index, place in enumerate(places)
    ]
    foot = (
        capsule((*base, 0.0), (*base, 0.10), 0.060, joint)
        + cylinder((*base, 0.118), (*base, 0.130), 0.063, accent)
        + cylinder((*base, -0.74), (*base, 0.0), 0.052, palette["metal"])
    )
    stiffness = (1500.0, 1500.0, 1200.0, 600.0, 400.0, 300.0)
    return BodyXml(
        tree=foot + _chain(links, _sideways_hand(fingers, side)),
        motors=arm_motors(CLAW_JOINTS, stiffness) + hand_motors,
        hand=columns,
    )


def _sideways_hand(looks: str, side: int) -> str:
    """A hand that closes across the plane of its arm, mirrored for a left arm."""
    quat = (QUARTER, 0.0, 0.0, side * QUARTER)
    return element("body", looks, name="hand", pos=(0.0, 0.0, 0.016), quat=quat, gravcomp=1)


def _plates(middle: Vector, half: Vector, apart_m: float, colour: Colour) -> str:
    """Two equal boxes `apart_m` to the left and to the right of `middle`."""
    x, y, z = middle
    return "".join(shape("box", (x, y + sign * apart_m, z), half, colour) for sign in (1, -1))


def _bow(
    start: Vector, bend: Vector, end: Vector, radii: tuple[float, float], colour: Colour
) -> str:
    """A tapering tube along a quadratic curve that is drawn towards `bend`, as four capsules."""
    count = 4
    points = []
    for index in range(count + 1):
        t = index / count
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
        points.append(
            tuple(
                sum(w * p for w, p in zip(weights, column, strict=True))
                for column in zip(start, bend, end, strict=True)
            )
        )
    first, last = radii
    return "".join(
        capsule(a, b, first + (last - first) * (index + 0.5) / count, colour)
        for index, (a, b) in enumerate(itertools.pairwise(points))
    )
