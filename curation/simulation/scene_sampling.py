"""Draws scenes: rooms with wooden, white or coloured tables, objects, lamps and cameras."""

from __future__ import annotations

import math

import numpy as np

from .bodies import Body
from .motions import Motion
from .scenes import Camera, CameraKind, Light, Point, Scene, Texture, TextureKind, Thing

TABLE_TEXTURES: tuple[TextureKind, ...] = ("wood", "plain", "noise", "stripes", "tiles")
FLOOR_TEXTURES: tuple[TextureKind, ...] = ("checker", "tiles", "wood", "noise")
WALL_TEXTURES: tuple[TextureKind, ...] = ("plain", "stripes", "noise", "tiles")
OBJECT_TEXTURES: tuple[TextureKind, ...] = ("plain", "stripes", "checker", "dots", "noise")


def sample_scene(
    rng: np.random.Generator, body: Body, motion: Motion, *, camera: CameraKind
) -> Scene:
    """Draws a scene in which `motion` can happen in view of the camera."""
    side = 1 if rng.random() < 0.7 else -1
    table = _table_texture(rng)
    room = _room(rng, table)
    objects = _objects(rng, motion)
    warm = rng.uniform(-0.06, 0.06)
    light = Light(
        position=_point(rng.uniform((-0.5, -0.8, 1.3), (0.3, 0.8, 1.9))),
        colour=(1.0 + warm, 1.0, 1.0 - warm),
        sky=(0.40 - warm / 2, 0.41, 0.44 + warm / 2),
        ground=(0.21 + warm / 2, 0.20, 0.19),
    )
    return Scene(
        palette_index=int(rng.integers(len(body.palettes))),
        side=side,
        room=room,
        objects=objects,
        light=light,
        camera=sample_camera(rng, camera, motion, side=side),
    )


def sample_camera(
    rng: np.random.Generator, kind: CameraKind, motion: Motion, *, side: int
) -> Camera:
    """Draws a camera: at the head looking down at the hands, or standing beside the table."""
    places = [(*key.xy, key.height_m + 0.06 * key.is_above_grip) for key in motion.keys]
    target = np.array((0.02, 0.0, 0.07)) + np.mean(places, axis=0) * (0.5, 0.5, 0.5)
    if kind == "side":
        angle = math.radians(rng.uniform(40, 65)) * -side
        distance = rng.uniform(0.90, 1.05)
        position = (
            distance * math.cos(angle),
            -distance * math.sin(angle),
            rng.uniform(0.40, 0.60),
        )
        return Camera(
            kind=kind,
            position=_point(position),
            target=_point(target - (0.05, 0, 0)),
            fovy_deg=42.0,
        )
    head = rng.uniform((-0.50, 0.08, 0.60), (-0.44, 0.17, 0.68)) * (1, side, 1)
    target = target + rng.uniform(-0.015, 0.015, 3)
    fovy_deg = float(round(rng.uniform(42, 47), 3))
    if kind == "ego":
        return Camera(kind=kind, position=_point(head), target=_point(target), fovy_deg=fovy_deg)
    return Camera(
        kind=kind,
        position=_point(head),
        target=_point(target),
        fovy_deg=fovy_deg,
        sway_m=_point(rng.uniform(0.010, 0.030, 3)),
        gaze_m=_point(rng.uniform(0.015, 0.040, 3)),
        rate_hz=tuple(round(float(v), 4) for v in rng.uniform(0.2, 0.7, 6)),
        phase=tuple(round(float(v), 4) for v in rng.uniform(0, 2 * math.pi, 6)),
    )


def _table_texture(rng: np.random.Generator) -> Texture:
    """Mostly wood, sometimes white or grey, now and then coloured."""
    draw = rng.random()
    if draw < 0.55:
        hue, saturation, value = rng.uniform((0.055, 0.45, 0.45), (0.105, 0.70, 0.75))
        kinds: tuple[TextureKind, ...] = ("wood", "wood", "noise")
    elif draw < 0.8:
        hue, saturation, value = rng.uniform((0.0, 0.0, 0.38), (1.0, 0.06, 0.66))
        kinds = ("plain", "noise", "tiles")
    else:
        hue, saturation, value = rng.uniform((0.0, 0.25, 0.45), (1.0, 0.45, 0.70))
        kinds = TABLE_TEXTURES
    return _texture(
        rng, kinds, hue=hue, saturation=saturation, value=value, period_m=0.16, contrast=0.16
    )


def _room(rng: np.random.Generator, table: Texture) -> tuple[Thing, ...]:
    """Floor, walls, table and some furniture that nobody touches."""
    wall = _texture(
        rng, WALL_TEXTURES, hue=rng.random(), saturation=0.16, value=0.78, period_m=0.35
    )
    things = [
        Thing(
            name="floor",
            shape="floor",
            position=(0.0, 0.0, -0.74),
            yaw=0.0,
            size=(0.0, 0.0, 0.1),
            texture=_texture(
                rng,
                FLOOR_TEXTURES,
                hue=rng.uniform(0.03, 0.14),
                saturation=0.35,
                value=0.45,
                period_m=0.4,
            ),
        )
    ]
    for index, (turn, distance) in enumerate(
        zip((math.pi, -math.pi / 2, math.pi / 2, 0.0), rng.uniform(1.5, 2.3, 4), strict=True)
    ):
        place = (-math.cos(turn) * float(distance), -math.sin(turn) * float(distance), 0.0)
        things.append(
            Thing(
                name=f"wall{index}",
                shape="wall",
                position=_point(place),
                yaw=turn,
                size=(0.0, 0.0, 0.1),
                texture=wall,
            )
        )
    front, half_width = rng.uniform((0.42, 0.55), (0.62, 0.80))
    centre_x = (float(front) - 0.34) / 2
    things.append(
        Thing(
            name="table",
            shape="box",
            position=_point((centre_x, 0.0, -0.025)),
            yaw=0.0,
            size=_point(((float(front) + 0.34) / 2, float(half_width), 0.025)),
            texture=table,
        )
    )
    for index in range(int(rng.integers(2, 5))):
        size = rng.uniform((0.10, 0.12, 0.15), (0.25, 0.40, 0.6))
        x, y = rng.uniform((0.95, -1.2), (1.5, 1.2))
        things.append(
            Thing(
                name=f"furniture{index}",
                shape="box",
                position=_point((x, y, -0.74 + size[2])),
                yaw=round(float(rng.uniform(-0.4, 0.4)), 4),
                size=_point(size),
                texture=_texture(
                    rng, WALL_TEXTURES, hue=rng.random(), saturation=0.35, value=0.5, period_m=0.15
                ),
            )
        )
    return tuple(things)


def _objects(rng: np.random.Generator, motion: Motion) -> tuple[Thing, ...]:
    """The object the motion is about and a few that only stand there."""
    things = [_target(rng, motion, hue=float(rng.random()))]
    taken: list[tuple[tuple[float, ...], float]] = [(motion.object_xy, 0.09)]
    wanted = int(rng.integers(2, 5))
    for _ in range(60):
        if len(things) > wanted:
            break
        spot = tuple(float(v) for v in rng.uniform((-0.10, -0.42), (0.36, 0.42)))
        size = rng.uniform((0.022, 0.022, 0.025), (0.045, 0.045, 0.060))
        reach = float(max(size[:2])) * 1.5
        free = all(math.dist(spot, other) > reach + radius for other, radius in taken)
        if not free or motion.distance_to_track(spot) < 0.13 + reach:
            continue
        taken.append((spot, reach))
        kind = str(rng.choice(("box", "cylinder", "sphere", "ellipsoid")))
        things.append(_thing(rng, f"object{len(things)}", kind, spot, size, hue=rng.random()))
    return tuple(things)


def _target(rng: np.random.Generator, motion: Motion, *, hue: float) -> Thing:
    """Something a hand can take, or for a push something low that slides."""
    kind = "box" if rng.random() < 0.55 else "cylinder"
    if motion.primitive == "push":
        half = rng.uniform((0.030, 0.034, 0.026), (0.038, 0.045, 0.036))
    else:
        width = rng.uniform(0.021, 0.026)
        half = np.array((width, width * rng.uniform(0.95, 1.05), rng.uniform(0.036, 0.052)))
    return _thing(rng, "object0", kind, motion.object_xy, half, hue=hue, yaw=motion.object_yaw)


def _thing(
    rng: np.random.Generator,
    name: str,
    kind: str,
    spot: tuple[float, ...],
    half: np.ndarray,
    *,
    hue: float,
    yaw: float | None = None,
) -> Thing:
    if kind == "ellipsoid":
        half = np.sort(half)[::-1]  # it lies on its flat side
    size: tuple[float, ...] = _point(half)
    height = float(half[2])
    if kind == "cylinder":
        size = (round(float(half[0]), 5), round(height, 5))
    elif kind == "sphere":
        height = float(half[0])
        size = (round(height, 5),)
    return Thing(
        name=name,
        shape=kind,
        position=_point((spot[0], spot[1], height + 0.0005)),
        yaw=round(float(rng.uniform(0, math.pi) if yaw is None else yaw), 5),
        size=size,
        texture=_texture(
            rng, OBJECT_TEXTURES, hue=hue, saturation=0.85, value=0.8, period_m=0.03, contrast=0.5
        ),
        mass_kg=round(float(rng.uniform(0.06, 0.14)), 4),
    )


def _texture(
    rng: np.random.Generator,
    kinds: tuple[TextureKind, ...],
    *,
    hue: float,
    saturation: float,
    value: float,
    period_m: float,
    contrast: float = 0.25,
) -> Texture:
    saturation *= rng.uniform(0.6, 1.0)
    value *= rng.uniform(0.75, 1.15)
    other = value * (1 - contrast) if rng.random() < 0.6 else min(0.95, value * (1 + contrast))
    return Texture(
        kind=kinds[int(rng.integers(len(kinds)))],
        first=colour_of(hue, saturation, min(0.95, value)),
        second=colour_of((hue + rng.uniform(-0.06, 0.06)) % 1.0, saturation, other),
        period_m=round(float(period_m * rng.uniform(0.7, 1.4)), 4),
        phase=round(float(rng.uniform(0, 2 * math.pi)), 4),
    )


def colour_of(hue: float, saturation: float, value: float) -> Point:
    """Linear RGB of a hue, saturation and value, each in [0, 1]."""
    channels = []
    for shift in (5.0, 3.0, 1.0):
        k = (shift + hue * 6.0) % 6.0
        bright = value - value * saturation * max(0.0, min(k, 4.0 - k, 1.0))
        channels.append(round(float(bright) ** 2.0, 4))
    return (channels[0], channels[1], channels[2])


def _point(values: object) -> Point:
    x, y, z = (round(float(v), 5) for v in values)  # type: ignore[attr-defined]
    return (x, y, z)
