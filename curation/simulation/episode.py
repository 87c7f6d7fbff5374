"""One episode: a body does one motion in one scene, fully described by a JSON file.

`make_episode` draws it from a seed, `replay` runs it again, with its own actions or with others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manifests.config import load_config, to_dict
from manifests.errors import SampleError, UsageError

from .bodies import Body, body_named
from .captions import caption_of
from .motions import PRIMITIVES, Key, Motion, sample_motion
from .outcomes import Outcome, judge
from .physics import Array, Trajectory, World, substeps_of
from .primitives import Solver, follow_keys, grip_height, hand_values, opening_keys
from .render import Renderer
from .scene_sampling import sample_scene
from .scenes import CameraKind, Scene, build_model

FORMAT_VERSION = 1
ATTEMPTS = 8
OPENING_S = 1.6
SETTLE_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to film: every episode is a pure function of this."""

    embodiment: str
    primitive: str
    seed: int
    camera: CameraKind
    width: int = 320
    height: int = 240
    fps: float = 20.0
    seconds: float = 3.0
    shadows: bool = True

    @property
    def num_frames(self) -> int:
        """Pictures in the video."""
        return max(2, round(self.fps * self.seconds))

    @property
    def stem(self) -> str:
        """Name of the episode's files, without suffix."""
        return f"{self.embodiment}-{self.seed}-{self.primitive}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """State of the physics at the first frame."""

    qpos: tuple[float, ...]
    qvel: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Everything needed to film an episode again; the content of `<stem>.episode.json`.

    `actions` has one row per frame with the values of `columns`; row t holds from frame t to t + 1.
    """

    format_version: int
    request: Request
    caption: str
    motion: Motion
    scene: Scene
    start: Start
    columns: tuple[str, ...]
    actions: tuple[tuple[float, ...], ...]
    outcome: Outcome

    def to_json(self) -> str:
        """JSON text; numbers survive exactly."""
        return json.dumps(to_dict(self), indent=1) + "\n"

    @staticmethod
    def load(path: Path | str) -> Episode:
        """Reads an episode file; a damaged or newer one is a `UsageError`."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"Cannot read the episode file {path}: {error}.") from error
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise UsageError(
                f"{path} is not an episode file of format version {FORMAT_VERSION}.",
                hint="Make it again with `egodojo simulate`.",
            )
        return load_config(Episode, values=values, where=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """An episode that has been run: its trajectory, and its pictures on demand."""

    episode: Episode
    actions: Array
    trajectory: Trajectory
    outcome: Outcome

    def frames(
        self, *, width: int | None = None, height: int | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Draws the pictures (height, width, 3) one by one, in the episode's size by default."""
        request, scene = self.episode.request, self.episode.scene
        renderer = Renderer(
            build_model(scene, body_named(request.embodiment), timestep_s=_timestep(request)),
            scene,
            width=width or request.width,
            height=height or request.height,
            shadows=request.shadows,
        )
        for index, qpos in enumerate(self.trajectory.qpos):
            yield renderer.draw(qpos, time_s=index / request.fps)


def make_episode(request: Request) -> Replay:
    """Draws and runs an episode; scenes in which the motion fails are drawn again.

    The motion depends on seed and primitive alone, the scene also on the body.

    Raises:
        SampleError: With reason `motion_failed` when no scene out of eight lets it succeed.
    """
    body = body_named(request.embodiment)
    number = PRIMITIVES.index(request.primitive)
    motion = sample_motion(np.random.default_rng((request.seed, number)), request.primitive)
    faults: list[str] = []
    for attempt in range(ATTEMPTS):
        key = (request.seed, number, _key_of(request.embodiment), attempt)
        scene = sample_scene(np.random.default_rng(key), body, motion, camera=request.camera)
        replayed = _act(request, body, motion, scene)
        if replayed.outcome.is_success:
            return replayed
        faults.append(replayed.outcome.reason)
    raise SampleError(
        f"{request.stem}: the motion failed in {ATTEMPTS} scenes "
        f"({'; '.join(sorted(set(faults)))})",
        reason="motion_failed",
        hint="Use another --seed, or a longer --seconds.",
    )


def replay(episode: Episode, actions: ArrayLike | None = None) -> Replay:
    """Runs an episode again, with its own actions or with others of the same columns.

    Args:
        episode: What to run.
        actions: Rows (T, columns) in the units of `episode.columns`; any T of at least 2. A target
            beyond a joint's limit is held at the limit.

    Raises:
        UsageError: The actions have another number of columns or are not finite.
    """
    rows = np.array(episode.actions if actions is None else actions, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(episode.columns) or len(rows) < 2:
        raise UsageError(
            f"Actions have the shape {rows.shape}, must be (frames, {len(episode.columns)}).",
            hint=f"The columns are {', '.join(episode.columns)}.",
        )
    if not np.isfinite(rows).all():
        raise UsageError("Actions hold a value that is not a finite number.")
    body = body_named(episode.request.embodiment)
    world = _world(episode.request, body, episode.scene)
    start = (np.array(episode.start.qpos), np.array(episode.start.qvel))
    trajectory, _ = world.run(start, rows)
    return Replay(
        episode=episode,
        actions=rows,
        trajectory=trajectory,
        outcome=judge(episode.motion, trajectory),
    )


def _act(request: Request, body: Body, motion: Motion, scene: Scene) -> Replay:
    """Plans the actions of a motion in a scene and runs them."""
    world = _world(request, body, scene)
    solver = Solver(world.model, body, scene)
    height = grip_height(body, scene)
    hand = body.build(body.palettes[scene.palette_index], scene.side).hand

    def plan(keys: tuple[Key, ...], rows: int) -> Array:
        path = follow_keys(keys, np.linspace(0, 1, rows), grip_height_m=height)
        joints, _ = solver.solve(path)
        return np.hstack((joints, hand_values(hand, path.closure)))

    actions = plan(motion.keys, request.num_frames)
    if motion.is_held:
        opening = plan(opening_keys(motion), max(8, round(OPENING_S * request.fps)))
    else:
        opening = np.repeat(actions[:1], max(2, round(SETTLE_S * request.fps)), axis=0)
    start = (world.place(opening[0]), np.zeros(world.model.nv))
    _, start = world.run(start, opening)
    trajectory, _ = world.run(start, actions)
    outcome = judge(motion, trajectory)
    episode = Episode(
        format_version=FORMAT_VERSION,
        request=request,
        caption=caption_of(body, motion, scene),
        motion=motion,
        scene=scene,
        start=Start(qpos=tuple(start[0].tolist()), qvel=tuple(start[1].tolist())),
        columns=body.columns(),
        actions=tuple(tuple(row) for row in actions.tolist()),
        outcome=outcome,
    )
    return Replay(episode=episode, actions=actions, trajectory=trajectory, outcome=outcome)


def _world(request: Request, body: Body, scene: Scene) -> World:
    model = build_model(scene, body, timestep_s=_timestep(request))
    return World(model, body, scene, substeps=substeps_of(request.fps))


def _timestep(request: Request) -> float:
    return 1.0 / (request.fps * substeps_of(request.fps))


def _key_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
