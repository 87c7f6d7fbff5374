"""Runs action rows under MuJoCo physics and measures what happened."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from .bodies import Body
from .scenes import Scene

Array = NDArray[np.float64]
STEP_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What the physics did, one row per frame.

    Attributes:
        qpos: Full state of positions (T, nq), enough to draw every frame.
        hand: Grip point and rotation as x, y, z, qw, qx, qy, qz (T, 7); metres.
        aperture_m: Distance between the two tips (T,).
        objects: Pose of every object (T, objects, 7).
        touching: Parts of the hand that touch the first object (T,).
    """

    qpos: Array
    hand: Array
    aperture_m: Array
    objects: Array
    touching: NDArray[np.int64]


def substeps_of(fps: float) -> int:
    """Physics steps per frame."""
    return max(1, round(1.0 / (fps * STEP_S)))


class World:
    """A model with the bookkeeping to drive it by action rows."""

    def __init__(self, model: mujoco.MjModel, body: Body, scene: Scene, *, substeps: int) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self.body = body
        self.scene = scene
        self.substeps = substeps
        self.site = model.site("grip").id
        self.tips = [model.site(name).id for name in body.tip_sites]
        bodies = [model.body(thing.name).id for thing in scene.objects]
        self.target, self.others = bodies[0], bodies[1:]
        self.object_at = [model.joint(f"{thing.name}_free").qposadr[0] for thing in scene.objects]
        hand = body.build(body.palettes[scene.palette_index], scene.side).hand
        self.gain = np.zeros((model.nu, len(body.joints) + len(hand)))
        self.offset = np.zeros(model.nu)
        for index, (name, _) in enumerate(body.joints):
            self.gain[model.actuator(name).id, index] = 1.0
        for index, column in enumerate(hand, start=len(body.joints)):
            for name, gain, offset in column.drives:
                self.gain[model.actuator(name).id, index] = gain
                self.offset[model.actuator(name).id] = offset

    def place(self, action: Array) -> Array:
        """Puts the body where an action row wants it, at rest, and returns that state's qpos."""
        mujoco.mj_resetData(self.model, self.data)
        targets = self.gain @ action + self.offset
        for index in range(self.model.nu):
            joint = self.model.actuator_trnid[index, 0]
            self.data.qpos[self.model.jnt_qposadr[joint]] = targets[index]
        return np.array(self.data.qpos)

    def run(
        self, start: tuple[Array, Array], actions: Array
    ) -> tuple[Trajectory, tuple[Array, Array]]:
        """Drives the world from a state (qpos, qvel) through actions (T, columns).

        Returns:
            The states at frames 0 .. T-1, and the state after the last row.
        """
        data, model = self.data, self.model
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = start
        rows: list[tuple[Array, Array, float, Array, int]] = []
        last = actions[0]
        for action in actions:
            mujoco.mj_forward(model, data)
            rows.append(self._look())
            for step in range(1, self.substeps + 1):
                share = step / self.substeps
                data.ctrl[:] = self.gain @ (last + (action - last) * share) + self.offset
                mujoco.mj_step(model, data)
            last = action
        qpos, hand, aperture, objects, touching = (
            np.array(column) for column in zip(*rows, strict=True)
        )
        trajectory = Trajectory(
            qpos=qpos, hand=hand, aperture_m=aperture, objects=objects, touching=touching
        )
        return trajectory, (data.qpos.copy(), data.qvel.copy())

    def _look(self) -> tuple[Array, Array, float, Array, int]:
        data = self.data
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, data.site_xmat[self.site])
        hand = np.concatenate((data.site_xpos[self.site], quat))
        aperture = float(np.linalg.norm(np.subtract(*data.site_xpos[self.tips])))
        objects = np.array([data.qpos[at : at + 7] for at in self.object_at])
        return data.qpos.copy(), hand, aperture, objects, self._count_touching()

    def _count_touching(self) -> int:
        """Bodies of the hand in contact with the first object; palm and every finger count one."""
        body_of = self.model.geom_bodyid[self.data.contact.geom]
        pairs = body_of[(body_of == self.target).any(axis=1)]
        others = {int(b) for b in pairs.ravel()} - {0, self.target, *self.others}
        return len({self.model.body(b).name.split("_")[0] for b in others})
