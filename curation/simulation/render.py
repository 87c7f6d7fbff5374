"""Pictures by ray casting on the CPU: `mj_multiRay` finds what each pixel sees, numpy shades it.

Three passes per frame: eye rays (hit, distance, normal), rays from the lamp for shadows, and a few
more eye rays where two shapes meet, so that edges are smooth. Room and table are told from the
rest by their geom group: they receive shadows but throw none, `room.py` traces them in numpy, and
a fixed camera does so only once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from .anatomy import UPRIGHT_GROUP
from .bounds import Bounds
from .room import Room
from .scenes import BACKGROUND_GROUP, Scene, Texture
from .textures import paint

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
FAR_M = 50.0
SHADOW_SLACK_M = 0.004
SHADOW_LIGHT = np.float32(0.15)  # what still arrives where the lamp is hidden
NOTHING = (0.55, 0.60, 0.66)
LAMP_VIEW = 3.0  # tangent of half the lamp's field of view; beyond it nothing is in shadow
LAMP_CELLS = 384
EDGE_OFFSETS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
C = TypeVar("C", "Hits", "Surface")


@dataclass(slots=True)
class Hits:
    """What N rays met: geom (-1: nothing), distance, unit normal, and the rays themselves."""

    geom: NDArray[np.int32]
    distance: Doubles
    normal: Doubles
    rays: Doubles


@dataclass(slots=True)
class Surface:
    """What N rays see before shadows.

    Attributes:
        geom: The geom, -1 for none.
        distance: From the eye, metres.
        ambient: Light (N, 3) that comes from everywhere.
        direct: Light (N, 3) that comes from the lamp.
        from_lamp: Way (N, 3) from the lamp to the point.
        cell: Where the lamp's coarse view shows the point; -1 when no shadow can matter.
    """

    geom: NDArray[np.int32]
    distance: Doubles
    ambient: Floats
    direct: Floats
    from_lamp: Floats
    cell: NDArray[np.int32]


def _take(columns: C, rows: Rows) -> C:
    return type(columns)(*(getattr(columns, f.name)[rows] for f in fields(columns)))


def _in_front(found: Hits, room: Hits) -> Rows:
    """Rows in which something was found, and nearer than the room."""
    hidden = (room.geom >= 0) & (room.distance < found.distance)
    return np.flatnonzero((found.geom >= 0) & ~hidden)


def _replaced(columns: C, rows: Rows, new: C) -> C:
    """A copy in which some rows are others."""
    copy = type(columns)(*(getattr(columns, f.name).copy() for f in fields(columns)))
    for field in fields(columns):
        getattr(copy, field.name)[rows] = getattr(new, field.name)
    return copy


class Renderer:
    """Draws one scene.

    Args:
        model: The compiled scene.
        scene: Its textures, light and camera.
        width: Pixels across.
        height: Pixels down.
        shadows: Whether the lamp throws shadows.
        smooth: Whether edges get more rays.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        scene: Scene,
        *,
        width: int,
        height: int,
        shadows: bool = True,
        smooth: bool = True,
    ) -> None:
        self.model, self.scene = model, scene
        self.width, self.height = width, height
        self.shadows, self.smooth = shadows, smooth
        self.data = mujoco.MjData(model)
        self.tangent = math.tan(math.radians(scene.camera.fovy_deg) / 2)
        rows, columns = np.mgrid[0:height, 0:width]
        self.pixels = np.stack((columns.ravel() + 0.5, rows.ravel() + 0.5), axis=1)
        self.rays = self._camera_rays(self.pixels)
        self.is_room = model.geom_group == BACKGROUND_GROUP
        self.colour = model.geom_rgba[:, :3].astype(np.float32) ** 2
        self.gloss = np.where(self.is_room, 0.0, 0.16).astype(np.float32)
        self.textures: dict[int, Texture] = {
            model.geom(thing.name).id: thing.texture for thing in (*scene.room, *scene.objects)
        }
        self.label = _labels(model, set(self.textures))
        own = () if scene.camera.kind != "side" else (UPRIGHT_GROUP,)
        self.room_shapes = Room(model, scene)
        self.seen = _groups(0, *own)
        self.throwing = _groups(0, UPRIGHT_GROUP)
        self.visible = Bounds(model, np.flatnonzero(np.isin(model.geom_group, (0, *own))))
        self.opaque = Bounds(model, np.flatnonzero(~self.is_room))
        self.lamp = np.array(scene.light.position)
        self.lamp_turn = _look(self.lamp)
        self.room: tuple[Hits, Surface] | None = None

    def draw(self, qpos: Doubles, *, time_s: float) -> NDArray[np.uint8]:
        """One picture (height, width, 3) of a state at a time (the camera may move)."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        eye, turn = self.scene.camera.pose(time_s)
        surface = self._see(eye, turn)
        darkening = self._lamp_mask() if self.shadows else None
        light = self._lighten(surface, darkening)
        if self.smooth:
            chosen = self._edges(surface.geom)
            spots = (self.pixels[chosen, None] + np.array(EDGE_OFFSETS)).reshape(-1, 2)
            hits = self._cast_all(eye, np.ascontiguousarray(self._camera_rays(spots) @ turn.T))
            more = np.clip(self._lighten(self._surface(eye, hits), darkening), 0.0, 1.0)
            light[chosen] = more.reshape(len(chosen), len(EDGE_OFFSETS), 3).mean(axis=1)
        picture = np.sqrt(np.clip(light, 0.0, 1.0, out=light)) * np.float32(255) + np.float32(0.5)
        return picture.astype(np.uint8).reshape(self.height, self.width, 3)

    def _see(self, eye: Doubles, turn: Doubles) -> Surface:
        """What every pixel shows: the room, and before it whatever may move."""
        if self.room is None or self.scene.camera.is_moving:
            rays = np.ascontiguousarray(self.rays @ turn.T)
            hits = Hits(*self.room_shapes.cast(eye, rays), rays)
            self.room = hits, self._surface(eye, hits)
        hits, surface = self.room
        mask = self.visible.mask(
            self.data,
            eye,
            turn,
            half_extent=(self.tangent * self.width / self.height, self.tangent),
            shape=(self.height, self.width),
        )
        near = np.flatnonzero(mask.ravel())
        found = self._cast(eye, hits.rays[near], self.seen)
        front = _in_front(found, _take(hits, near))
        return _replaced(surface, near[front], self._surface(eye, _take(found, front)))

    def _cast_all(self, eye: Doubles, rays: Doubles) -> Hits:
        """First hits among the room and all that may move."""
        hits = Hits(*self.room_shapes.cast(eye, rays), rays)
        found = self._cast(eye, rays, self.seen)
        front = _in_front(found, hits)
        return _replaced(hits, front, _take(found, front))

    def _camera_rays(self, pixels: Doubles) -> Doubles:
        """Unit rays in the camera's frame through points of the picture."""
        scale = 2 * self.tangent / self.height
        rays = np.empty((len(pixels), 3))
        rays[:, 0] = (pixels[:, 0] - self.width / 2) * scale
        rays[:, 1] = (self.height / 2 - pixels[:, 1]) * scale
        rays[:, 2] = -1.0
        return np.asarray(rays / np.sqrt(np.einsum("ij,ij->i", rays, rays))[:, None])

    def _cast(self, origin: Doubles, rays: Doubles, groups: NDArray[np.uint8]) -> Hits:
        count = len(rays)
        hits = Hits(
            geom=np.empty(count, np.int32),
            distance=np.empty(count),
            normal=np.empty((count, 3)),
            rays=np.ascontiguousarray(rays),
        )
        if count:
            mujoco.mj_multiRay(
                self.model,
                self.data,
                origin,
                hits.rays.reshape(-1),
                groups,
                1,
                -1,
                hits.geom,
                hits.distance,
                hits.normal.reshape(-1),
                count,
                FAR_M,
            )
        return hits

    def _surface(self, eye: Doubles, hits: Hits) -> Surface:
        """Paints and lights what rays met, all but the shadows."""
        rays = hits.rays.astype(np.float32)
        normal = hits.normal.astype(np.float32)
        points = eye.astype(np.float32) + rays * hits.distance.astype(np.float32)[:, None]
        albedo = self._albedo(hits.geom, points)
        from_lamp = points - self.lamp.astype(np.float32)
        way = np.sqrt(np.einsum("ij,ij->i", from_lamp, from_lamp))
        to_lamp = from_lamp / -way[:, None]
        facing = np.clip(np.einsum("ij,ij->i", normal, to_lamp), 0.0, None)
        light = self.scene.light
        sky, ground = np.array(light.sky, np.float32), np.array(light.ground, np.float32)
        up = (normal[:, 2:] + np.float32(1)) * np.float32(0.5)
        direct = albedo * facing[:, None]
        shiny = np.flatnonzero((facing > 0.2) & (self.gloss[hits.geom] > 0) & (hits.geom >= 0))
        half = to_lamp[shiny] - rays[shiny]
        half /= np.sqrt(np.einsum("ij,ij->i", half, half))[:, None]
        mirror = np.clip(np.einsum("ij,ij->i", half, normal[shiny]), 0.0, 1.0)
        direct[shiny] += (self.gloss[hits.geom[shiny]] * mirror**24)[:, None]
        return Surface(
            geom=hits.geom,
            distance=hits.distance,
            ambient=albedo * (ground + up * (sky - ground)),
            direct=direct * np.array(light.colour, np.float32),
            from_lamp=from_lamp,
            cell=self._lamp_cells(from_lamp, facing),
        )

    def _albedo(self, geom: NDArray[np.int32], points: Floats) -> Floats:
        """Colour of the surface at each point, before light."""
        albedo: Floats = self.colour[geom]
        albedo[geom < 0] = NOTHING
        for index in np.flatnonzero(np.bincount(geom + 1)[1:]):
            texture = self.textures.get(int(index))
            if texture is None:
                continue
            chosen = np.flatnonzero(geom == index)
            place = points[chosen]
            if not self.is_room[index]:
                turn = self.data.geom_xmat[index].reshape(3, 3).astype(np.float32)
                place = (place - self.data.geom_xpos[index].astype(np.float32)) @ turn
            albedo[chosen] = paint(texture, place)
        return albedo

    def _lamp_cells(self, from_lamp: Floats, facing: Floats) -> NDArray[np.int32]:
        """Cells of the lamp's view that hold the points; -1 outside and where it does not shine."""
        right, up, back = (from_lamp @ self.lamp_turn.astype(np.float32)).T
        ahead = np.maximum(-back, np.float32(1e-6))
        half = np.float32(LAMP_CELLS / 2)
        scale = half / np.float32(LAMP_VIEW)
        column, row = right / ahead * scale + half, half - up / ahead * scale
        limit = np.float32(LAMP_CELLS - 0.01)
        inside = (facing > 0.01) & (back < 0)
        inside &= (column >= 0) & (column < limit) & (row >= 0) & (row < limit)
        cell = np.full(len(back), -1, np.int32)
        cell[inside] = row[inside].astype(np.int32) * LAMP_CELLS + column[inside].astype(np.int32)
        return cell

    def _lamp_mask(self) -> NDArray[np.bool_]:
        """Cells of the lamp's view in which something may throw a shadow; the last one is none."""
        mask = self.opaque.mask(
            self.data,
            self.lamp,
            self.lamp_turn,
            half_extent=(LAMP_VIEW, LAMP_VIEW),
            shape=(LAMP_CELLS, LAMP_CELLS),
        )
        return np.append(mask.ravel(), False)

    def _lighten(self, surface: Surface, darkening: NDArray[np.bool_] | None) -> Floats:
        """Linear light (N, 3) of a surface; `darkening` None leaves shadows out."""
        light = surface.ambient + surface.direct
        if darkening is None:
            return light
        chosen = np.flatnonzero(darkening[surface.cell])
        if not len(chosen):
            return light
        ways = surface.from_lamp[chosen].astype(np.float64)
        distance = np.sqrt(np.einsum("ij,ij->i", ways, ways))
        reached = np.empty(len(chosen))
        mujoco.mj_multiRay(
            self.model,
            self.data,
            self.lamp,
            (ways / distance[:, None]).reshape(-1),
            self.throwing,
            1,
            -1,
            np.empty(len(chosen), np.int32),
            reached,
            None,
            len(chosen),
            FAR_M,
        )
        dark = chosen[(reached >= 0) & (reached < distance - SHADOW_SLACK_M)]
        light[dark] -= surface.direct[dark] * (1 - SHADOW_LIGHT)
        return light

    def _edges(self, geom: NDArray[np.int32]) -> Rows:
        """Pixels whose neighbour to the right or below shows another thing, and that neighbour."""
        label = self.label[geom].reshape(self.height, self.width)
        edge = np.zeros(label.shape, bool)
        across, down = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= down
        edge[:-1] |= down
        return np.flatnonzero(edge.ravel())


def _labels(model: mujoco.MjModel, textured: set[int]) -> NDArray[np.int32]:
    """One number per look: shapes of one body and colour share it; the last one is nothing."""
    looks: dict[tuple[float, ...], int] = {}
    labels = []
    for geom in range(model.ngeom):
        own = geom if geom in textured else -1
        look = (model.geom_bodyid[geom], own, *model.geom_rgba[geom])
        labels.append(looks.setdefault(look, len(looks)))
    return np.array([*labels, -1], np.int32)


def _groups(*groups: int) -> NDArray[np.uint8]:
    """Which of MuJoCo's six geom groups rays can hit."""
    mask = np.zeros(6, np.uint8)
    mask[list(groups)] = 1
    return mask


def _look(lamp: Doubles) -> Doubles:
    """Rotation of a view from the lamp down to the work space (right, up, backwards)."""
    back = lamp / np.linalg.norm(lamp)
    right = np.cross((0.0, 1.0, 0.0), back)
    right /= np.linalg.norm(right)
    return np.stack((right, np.cross(back, right), back), axis=1)
