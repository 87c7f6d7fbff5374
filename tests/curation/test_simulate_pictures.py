"""The renderer against plainer versions of itself, and its textures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from simulated import episode

from curation.simulation.bodies import BODIES, body_named
from curation.simulation.bounds import Bounds
from curation.simulation.render import Renderer
from curation.simulation.scenes import Texture, build_model
from curation.simulation.textures import PATTERNS, paint


def renderer_of(done, **options) -> Renderer:
    scene = done.episode.scene
    model = build_model(scene, body_named(done.episode.request.embodiment), timestep_s=0.002)
    return Renderer(model, scene, width=64, height=48, **options)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("camera", ["ego", "side", "moving"])
def test_rays_left_out_would_have_hit_nothing(body, camera, monkeypatch):
    done = episode(body, "lift", 0, camera)
    fast = renderer_of(done)
    states = [(done.trajectory.qpos[i], i / 10) for i in (0, 14)]
    quick = [fast.draw(qpos, time_s=time_s) for qpos, time_s in states]
    monkeypatch.setattr(Bounds, "mask", lambda *_args, shape, **_more: np.ones(shape, dtype=bool))
    plain = [renderer_of(done).draw(qpos, time_s=time_s) for qpos, time_s in states]
    np.testing.assert_array_equal(np.array(quick), np.array(plain))
    assert (quick[0] != quick[1]).any()


def test_shadows_only_darken():
    done = episode("sim_arm6", "lift")
    qpos = done.trajectory.qpos[-1]
    lit = renderer_of(done, shadows=False, smooth=False).draw(qpos, time_s=0).astype(int)
    dark = renderer_of(done, smooth=False).draw(qpos, time_s=0).astype(int)
    assert (dark <= lit).all()
    assert ((lit - dark).max(axis=2) > 30).mean() > 0.02


def test_smoothing_changes_edges_alone():
    done = episode("sim_arm6", "lift")
    qpos = done.trajectory.qpos[0]
    rough = renderer_of(done, smooth=False).draw(qpos, time_s=0)
    smooth = renderer_of(done).draw(qpos, time_s=0)
    changed = (rough != smooth).any(axis=2).mean()
    assert 0.01 < changed < 0.5


def test_moving_camera_moves_and_a_fixed_one_does_not():
    moving = episode("sim_arm7", "lift", 0, "moving").episode.scene.camera
    fixed = episode("sim_arm7", "lift").episode.scene.camera
    assert moving.is_moving
    assert not fixed.is_moving
    assert np.linalg.norm(moving.pose(0.0)[0] - moving.pose(0.7)[0]) > 0.002
    for camera in (moving, fixed):
        _, turn = camera.pose(0.3)
        np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [*PATTERNS, "plain"])
def test_textures_mix_their_two_colours(kind):
    first, second = (0.1, 0.2, 0.3), (0.9, 0.6, 0.4)
    texture = Texture(kind=kind, first=first, second=second, period_m=0.05, phase=1.0)
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (2000, 3)).astype(np.float32)
    colours = paint(texture, points)
    assert colours.shape == (2000, 3)
    assert (colours >= np.array(first) - 1e-5).all()
    assert (colours <= np.array(second) + 1e-5).all()
    assert (np.ptp(colours, axis=0) > 0.05).all() == (kind != "plain")
    np.testing.assert_array_equal(colours, paint(dataclasses.replace(texture), points))


@pytest.mark.parametrize("camera", ["ego", "side"])
def test_room_in_numpy_agrees_with_mujoco(camera):
    done = episode("sim_arm6", "lift", 0, camera)
    renderer = renderer_of(done)
    renderer.draw(done.trajectory.qpos[0], time_s=0)
    eye, turn = done.episode.scene.camera.pose(0.0)
    rays = np.ascontiguousarray(renderer.rays @ turn.T)
    geom, distance, normal = renderer.room_shapes.cast(eye, rays)
    groups = np.array([0, 1, 0, 0, 0, 0], np.uint8)
    wanted = renderer._cast(eye, rays, groups)
    same = geom == wanted.geom
    assert same[wanted.geom >= 0].mean() > 0.999
    assert len(np.unique(geom)) >= 3
    np.testing.assert_allclose(distance[same], wanted.distance[same], rtol=1e-4)
    np.testing.assert_allclose(normal[same], wanted.normal[same], atol=1e-5)
