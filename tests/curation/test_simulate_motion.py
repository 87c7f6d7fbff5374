"""Every body does every motion: checked in the truth of the physics, not in what was planned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from simulated import episode, in_picture

from curation.simulation.bodies import BODIES
from curation.simulation.episode import Episode, replay
from curation.simulation.motions import DIRECTIONS, PRIMITIVES
from manifests.embodiment import load_embodiment
from manifests.errors import UsageError

all_bodies = pytest.mark.parametrize("body", BODIES)
REACHES = [name for name in PRIMITIVES if name.startswith("reach_")]


def hand_way(replayed) -> np.ndarray:
    return replayed.trajectory.hand[-1, :3] - replayed.trajectory.hand[0, :3]


def object_way(replayed) -> np.ndarray:
    return replayed.trajectory.objects[-1, 0, :3] - replayed.trajectory.objects[0, 0, :3]


@all_bodies
@pytest.mark.parametrize("primitive", REACHES)
def test_reach_moves_the_hand_its_way_across_a_fifth_of_the_picture(body, primitive):
    done = episode(body, primitive)
    way = hand_way(done)
    direction = np.array(DIRECTIONS[primitive.removeprefix("reach_")])
    assert way @ direction > 0.20
    assert np.linalg.norm(way - (way @ direction) * direction) < 0.08
    assert np.linalg.norm(object_way(done)) < 0.01
    first, last = (in_picture(done, done.trajectory.hand[i, :3], time_s=0) for i in (0, -1))
    assert np.linalg.norm(last - first) > 0.2


@all_bodies
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_hand_and_object_stay_in_the_picture(body, primitive):
    done = episode(body, primitive)
    for index in (0, -1):
        for point in (done.trajectory.hand[index, :3], done.trajectory.objects[index, 0, :3]):
            x, y = in_picture(done, point, time_s=0)
            assert 0 < x < 4 / 3
            assert 0 < y < 1


@all_bodies
def test_grasp_closes_on_the_object(body):
    path = episode(body, "grasp").trajectory
    assert path.touching[0] == 0
    assert path.touching[-1] >= 2
    assert path.aperture_m[-1] < path.aperture_m[0] - 0.02
    assert np.linalg.norm(path.objects[-1, 0, :3] - path.hand[-1, :3]) < 0.06


@all_bodies
def test_lift_takes_the_object_up(body):
    path = episode(body, "lift").trajectory
    assert path.objects[-1, 0, 2] - path.objects[0, 0, 2] > 0.15
    assert path.touching.min() >= 2


@all_bodies
def test_push_moves_the_object_along_the_table(body):
    way = object_way(episode(body, "push"))
    assert way[0] > 0.08
    assert abs(way[2]) < 0.01


@all_bodies
def test_drop_lets_the_object_fall_to_the_table(body):
    path = episode(body, "drop").trajectory
    assert path.objects[-1, 0, 2] - path.objects[0, 0, 2] < -0.12
    assert path.objects[-1, 0, 2] < 0.07
    assert path.touching[-1] == 0
    assert path.hand[-1, 2] > 0.15


@all_bodies
def test_release_leaves_the_object_where_it_is(body):
    done = episode(body, "release")
    assert done.trajectory.touching[0] >= 2
    assert done.trajectory.touching[-1] == 0
    assert np.linalg.norm(object_way(done)) < 0.03


@all_bodies
@pytest.mark.parametrize(("primitive", "sign"), [("rotate_cw", -1), ("rotate_ccw", 1)])
def test_rotate_turns_the_hand_as_seen_from_above(body, primitive, sign):
    done = episode(body, primitive)
    w, x, y, z = done.trajectory.hand.T[3:]
    yaw = np.unwrap(np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)))
    assert sign * (yaw[-1] - yaw[0]) > np.radians(60)
    assert np.linalg.norm(hand_way(done)) < 0.05


def test_the_order_of_the_bodies_is_kept():
    """The camera of a mixed episode hangs on its body's place: new bodies come last."""
    first = ["sim_human", "sim_arm7", "sim_arm6", "sim_humanoid", "sim_arm5", "sim_claw"]
    assert list(BODIES)[: len(first)] == first


def test_a_claw_holds_with_three_fingers():
    path = episode("sim_claw", "lift").trajectory
    assert path.touching.tolist() == [3] * len(path.touching)


def test_a_hinged_jaw_pushes_the_object_to_the_one_that_stands_still():
    path = episode("sim_arm5", "grasp").trajectory
    assert path.touching[-1] == 2
    pushed = np.linalg.norm(path.objects[-1, 0, :2] - path.objects[0, 0, :2])
    assert 0.002 < pushed < 0.02


def test_every_body_gets_the_same_motion_in_a_scene_of_its_own():
    human, robot = episode("sim_human", "lift").episode, episode("sim_arm7", "lift").episode
    assert human.motion == robot.motion
    assert human.scene != robot.scene


def test_another_seed_gives_another_motion_and_scene():
    first, second = episode("sim_arm7", "lift").episode, episode("sim_arm7", "lift", 1).episode
    assert first.motion != second.motion
    assert first.scene.room != second.scene.room


@all_bodies
def test_actions_are_the_columns_of_the_embodiment_file(body):
    described = load_embodiment(body)
    replayed = episode(body, "grasp")
    assert described.action_names == replayed.episode.columns
    low, high = (np.array(s) for s in (described.statistics.minimum, described.statistics.maximum))
    assert (replayed.actions >= low - 1e-9).all()
    assert (replayed.actions <= high + 1e-9).all()


def test_episode_file_replays_to_the_same_states(tmp_path: Path):
    done = episode("sim_arm6", "lift")
    path = tmp_path / "a.episode.json"
    path.write_text(done.episode.to_json())
    again = replay(Episode.load(path))
    assert again.episode == done.episode
    np.testing.assert_array_equal(again.trajectory.qpos, done.trajectory.qpos)


def test_replay_with_an_open_hand_lifts_nothing():
    done = episode("sim_arm7", "lift")
    actions = done.actions.copy()
    actions[:, done.episode.columns.index("gripper_opening_m")] = 0.088
    other = replay(done.episode, actions)
    assert not other.outcome.is_success
    assert "rose" in other.outcome.reason
    np.testing.assert_allclose(hand_way(other), hand_way(done), atol=0.01)


def test_replay_refuses_actions_that_do_not_fit():
    done = episode("sim_arm7", "lift").episode
    with pytest.raises(UsageError, match=r"shape \(3, 2\), must be \(frames, 8\)"):
        replay(done, np.zeros((3, 2)))
    bad = np.array(done.actions)
    bad[2, 1] = np.nan
    with pytest.raises(UsageError, match="not a finite number"):
        replay(done, bad)


def test_damaged_episode_files_are_refused(tmp_path: Path):
    path = tmp_path / "a.episode.json"
    path.write_text("{")
    with pytest.raises(UsageError, match="Cannot read the episode file"):
        Episode.load(path)
    path.write_text(json.dumps({"format_version": 99}))
    with pytest.raises(UsageError, match="not an episode file of format version 1"):
        Episode.load(path)


def test_request_is_a_plain_value():
    request = episode("sim_arm7", "lift").episode.request
    assert request.stem == "sim_arm7-0-lift"
    assert dataclasses.replace(request, seconds=2.0).num_frames == 20
