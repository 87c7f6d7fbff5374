"""Random scenes as plain data: room, table, objects, textures, light and camera.

A `Scene` is everything around a motion. It is sampled from a seed, written into the episode file
and turned into a MuJoCo model; the model is a pure function of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from .bodies import Body
from .mjcf import element

TextureKind = Literal["plain", "checker", "stripes", "noise", "wood", "tiles", "dots"]
CameraKind = Literal["ego", "moving", "side"]
Point = tuple[float, float, float]

BACKGROUND_GROUP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Texture:
    """A solid texture: two colours mixed by a pattern in space.

    Attributes:
        kind: The pattern.
        first: Main colour, linear RGB in [0, 1].
        second: Other colour.
        period_m: Size of the pattern, metres.
        phase: Shifts the pattern, radians.
    """

    kind: TextureKind
    first: Point
    second: Point
    period_m: float
    phase: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One box, cylinder, sphere or ellipsoid, or a floor or wall; metres, half sizes.

    A wall's `yaw` says which way it faces.
    """

    name: str
    shape: str
    position: Point
    yaw: float
    size: tuple[float, ...]
    texture: Texture
    mass_kg: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera that looks at a point and may sway.

    Attributes:
        kind: ego (from the head), moving (the same head, swaying) or side.
        position: Mean place of the lens, metres.
        target: Mean point it looks at, metres.
        fovy_deg: Vertical field of view.
        sway_m: Amplitudes of the lens along x, y, z.
        gaze_m: Amplitudes of the point it looks at.
        rate_hz: Frequencies of the six oscillations.
        phase: Their phases, radians.
    """

    kind: CameraKind
    position: Point
    target: Point
    fovy_deg: float
    sway_m: Point = (0.0, 0.0, 0.0)
    gaze_m: Point = (0.0, 0.0, 0.0)
    rate_hz: tuple[float, ...] = (0.0,) * 6
    phase: tuple[float, ...] = (0.0,) * 6

    @property
    def is_moving(self) -> bool:
        """Whether its pose changes with time."""
        return any((*self.sway_m, *self.gaze_m))

    def pose(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Lens position (3,) and rotation (3, 3) whose columns are right, up and backwards."""
        wave = np.sin(
            2 * math.pi * np.array(self.rate_hz) * time_s + np.array(self.phase)
        ) * np.array((*self.sway_m, *self.gaze_m))
        eye = np.array(self.position) + wave[:3]
        back = eye - (np.array(self.target) + wave[3:])
        back /= np.linalg.norm(back)
        right = np.cross((0.0, 0.0, 1.0), back)
        right /= np.linalg.norm(right)
        return eye, np.stack((right, np.cross(back, right), back), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """A lamp at a point and the light that comes from everywhere; colours are linear RGB."""

    position: Point
    colour: Point
    sky: Point
    ground: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything around a motion; `objects[0]` is the one the motion is about."""

    palette_index: int
    side: int
    room: tuple[Thing, ...]
    objects: tuple[Thing, ...]
    light: Light
    camera: Camera


def build_model(scene: Scene, body: Body, *, timestep_s: float) -> mujoco.MjModel:
    """Compiles scene and body into a MuJoCo model."""
    parts = body.build(body.palettes[scene.palette_index], scene.side)
    room = "".join(_fixed(thing) for thing in scene.room)
    movable = "".join(_movable(thing) for thing in scene.objects)
    xml = element(
        "mujoco",
        element("compiler", angle="radian", autolimits=True),
        element(
            "option",
            timestep=timestep_s,
            cone="elliptic",
            impratio=10.0,
            integrator="implicitfast",
            noslip_iterations=2,
        ),
        element(
            "default", element("geom", contype=2, conaffinity=0, density=300.0, friction=(1, 0, 0))
        ),
        element("worldbody", room, parts.tree, movable),
        element("actuator", parts.motors),
    )
    return mujoco.MjModel.from_xml_string(xml)


def _fixed(thing: Thing) -> str:
    solid = thing.name == "table"
    common = {
        "name": thing.name,
        "pos": thing.position,
        "size": thing.size,
        "group": BACKGROUND_GROUP,
        "contype": 0,
        "conaffinity": 3 if solid else 0,
        "friction": (0.35, 0.005, 0.002),
        "priority": 1,
    }
    if thing.shape == "wall":
        facing = (math.cos(thing.yaw), math.sin(thing.yaw), 0.0)
        return element("geom", type="plane", zaxis=facing, **common)
    if thing.shape == "floor":
        return element("geom", type="plane", **common)
    return element("geom", type=thing.shape, euler=(0.0, 0.0, thing.yaw), **common)


def _movable(thing: Thing) -> str:
    looks = element(
        "geom",
        name=thing.name,
        type=thing.shape,
        size=thing.size,
        mass=thing.mass_kg,
        contype=1,
        conaffinity=3,
        condim=6,
        friction=(1.0, 0.01, 0.002),
    )
    joint = element("freejoint", name=f"{thing.name}_free")
    half = thing.yaw / 2
    return element(
        "body",
        joint,
        looks,
        name=thing.name,
        pos=thing.position,
        quat=(math.cos(half), 0.0, 0.0, math.sin(half)),
    )
