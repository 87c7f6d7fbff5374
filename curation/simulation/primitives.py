"""From a motion to joint targets: keys become a smooth hand path, inverse kinematics does the rest.

Actions are causal: row t is the command that holds while the world goes from frame t to t + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from .bodies import Body
from .hands import HandColumn
from .motions import OPEN, Key, Motion
from .scenes import Scene

Array = NDArray[np.float64]
# Of the free-falling hand: closing direction, sideways and approach as columns, before its yaw.
HAND_DOWN = np.diag((-1.0, 1.0, -1.0))
GRIP_BELOW_TOP_M = 0.022


@dataclass(frozen=True, slots=True, kw_only=True)
class HandPath:
    """Where the hand should be at each row: (T, 3) metres, (T,) radians, (T,) in [0, 1]."""

    position: Array
    yaw: Array
    closure: Array


def grip_height(body: Body, scene: Scene) -> float:
    """Height of the grip point when this body holds the scene's first object on the table."""
    target = scene.objects[0]
    top = 2 * target.position[2]
    return max(body.clearance_m, top - GRIP_BELOW_TOP_M)


def follow_keys(keys: tuple[Key, ...], at: Array, *, grip_height_m: float) -> HandPath:
    """Samples a path at shares `at` of its length; it rests before and after its keys."""
    times = np.array([key.at for key in keys])
    values = np.array(
        [
            (
                *key.xy,
                key.height_m + (grip_height_m if key.is_above_grip else 0.0),
                key.yaw,
                key.closure,
            )
            for key in keys
        ]
    )
    index = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(keys) - 2)
    share = np.clip((at - times[index]) / (times[index + 1] - times[index]), 0.0, 1.0)
    smooth = share**3 * (10 - 15 * share + 6 * share**2)  # least jerk
    rows = values[index] + (values[index + 1] - values[index]) * smooth[:, None]
    return HandPath(position=rows[:, :3], yaw=rows[:, 3], closure=rows[:, 4])


def opening_keys(motion: Motion) -> tuple[Key, ...]:
    """Keys of what happens before the first frame of a motion that begins with a full hand."""
    first = motion.keys[0]
    spot = motion.object_xy

    def key(at: float, height_m: float, closure: float) -> Key:
        return Key(
            at=at, xy=spot, height_m=height_m, yaw=first.yaw, closure=closure, is_above_grip=True
        )

    return (
        key(0.0, 0.0, OPEN),
        key(0.5, 0.0, 1.0),
        key(0.6, 0.0, 1.0),
        key(1.0, first.height_m, 1.0),
    )


def hand_values(columns: tuple[HandColumn, ...], closure: Array) -> Array:
    """Hand columns (T, n) in their own units for closures (T,) in [0, 1]."""
    opened = np.array([column.open for column in columns])
    closed = np.array([column.closed for column in columns])
    return np.asarray(opened + (closed - opened) * closure[:, None])


class Solver:
    """Damped least-squares inverse kinematics of one body in one scene."""

    def __init__(self, model: mujoco.MjModel, body: Body, scene: Scene) -> None:
        self.model = model
        self.yaw_offset = body.yaw_offset * scene.side
        self.data = mujoco.MjData(model)
        self.site = model.site("grip").id
        ids = [model.joint(name).id for name, _ in body.joints]
        self.qpos_at = np.array([model.jnt_qposadr[i] for i in ids])
        self.dof_at = np.array([model.jnt_dofadr[i] for i in ids])
        self.low = np.array([limits[0] for _, limits in body.joints]) + 0.01
        self.high = np.array([limits[1] for _, limits in body.joints]) - 0.01
        self.rest = np.array(body.rest) * (body.mirror if scene.side < 0 else 1.0)
        self.weights = np.array(body.turn_weights)

    def solve(self, path: HandPath) -> tuple[Array, float]:
        """Joint targets (T, joints) for a path, and the largest error of place in metres."""
        joints = self._search(path.position[0], self.rotation(path.yaw[0]))
        rows, worst = np.empty((len(path.yaw), len(joints))), 0.0
        for index, (position, yaw) in enumerate(zip(path.position, path.yaw, strict=True)):
            joints, error = self._descend(joints, position, self.rotation(yaw), steps=12)
            rows[index] = joints
            worst = max(worst, error)
        return rows, worst

    def rotation(self, yaw: float) -> Array:
        """Rotation (3, 3) of a hand that points down and is turned by `yaw`."""
        angle = yaw + self.yaw_offset
        cos, sin = math.cos(angle), math.sin(angle)
        turn: Array = np.array(((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0))) @ HAND_DOWN
        return turn

    def _search(self, position: Array, rotation: Array) -> Array:
        """The first posture: from rest, by way of places in between."""
        joints = self.rest.copy()
        begin, _ = self._pose(joints)
        for share in np.linspace(0.1, 1.0, 10):
            joints, _ = self._descend(
                joints, begin + (position - begin) * share, rotation, steps=20
            )
        return self._descend(joints, position, rotation, steps=60)[0]

    def _pose(self, joints: Array) -> tuple[Array, Array]:
        self.data.qpos[self.qpos_at] = joints
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        return (
            self.data.site_xpos[self.site].copy(),
            self.data.site_xmat[self.site].reshape(3, 3).copy(),
        )

    def _descend(
        self, joints: Array, position: Array, rotation: Array, *, steps: int
    ) -> tuple[Array, float]:
        jacobian = np.zeros((6, self.model.nv))
        error = np.zeros(6)
        for _ in range(steps):
            place, turn = self._pose(joints)
            error[:3] = position - place
            # Turns are measured in the hand's own frame, where the body says which ones matter.
            weigh = self.weights[:, None] * turn.T
            error[3:] = weigh @ (0.5 * np.cross(turn.T, rotation.T).sum(axis=0))
            distance = float(np.linalg.norm(error[:3]))
            if distance < 2e-4 and np.linalg.norm(error[3:]) < 2e-3:
                break
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self.site)
            active = jacobian[:, self.dof_at]
            active[3:] = weigh @ active[3:]
            joints = self._step(joints, active, error)
        return joints, distance

    def _step(self, joints: Array, jacobian: Array, error: Array) -> Array:
        """One damped step towards the goal; joints that would leave their range stay out of it."""
        free = np.ones(len(joints), dtype=bool)
        for _ in range(3):
            active = jacobian * free
            inverse = active.T @ np.linalg.inv(active @ active.T + 2e-4 * np.eye(6))
            step = inverse @ error
            step += free * ((np.eye(len(joints)) - inverse @ active) @ (self.rest - joints)) * 0.1
            wanted = joints + np.clip(step, -0.25, 0.25)
            leaving = free & ((wanted < self.low) | (wanted > self.high))
            if not leaving.any():
                break
            free &= ~leaving
        return np.clip(wanted, self.low, self.high)
