"""Films episodes into a folder: plans them, runs them on the engine, writes video and sidecars."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.config import to_dict
from manifests.errors import EgodojoError, UsageError
from pipeline.progress import Progress
from pipeline.runner import run_units
from pipeline.video import write_video

from .bodies import BODIES, body_named
from .episode import Episode, Replay, Request, make_episode
from .motions import PRIMITIVES, check_primitives
from .scenes import Camera, CameraKind

CameraChoice = Literal["ego", "side", "moving", "mixed"]
CAMERAS: tuple[CameraChoice, ...] = ("ego", "side", "moving", "mixed")
MIXED: tuple[CameraKind, ...] = ("ego", "moving", "ego", "side")
PARTIAL = ".partial"
MIN_SIZE_PX, MAX_SIZE_PX = 32, 2160


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `egodojo simulate` is asked for."""

    embodiments: tuple[str, ...] = tuple(BODIES)
    """Bodies to film."""
    episodes: int = 13
    """Episodes of each body; they go round the primitives, then on to the next seed."""
    seed: int = 0
    """First seed."""
    width: int = 320
    """Pixels across; even."""
    height: int = 240
    """Pixels down; even."""
    fps: float = 20.0
    """Frames per second."""
    seconds: float = 3.0
    """Length of an episode."""
    primitives: tuple[str, ...] = ()
    """Motions in this order; empty: all of them."""
    camera: CameraChoice = "mixed"
    """ego, side, moving, or a mixture."""
    shadows: bool = True
    """Whether the lamp throws shadows."""

    def __post_init__(self) -> None:
        for name in self.embodiments:
            body_named(name)
        check_primitives(self.primitives)
        for side, pixels in (("width", self.width), ("height", self.height)):
            if not MIN_SIZE_PX <= pixels <= MAX_SIZE_PX or pixels % 2:
                raise UsageError(
                    f"The {side} of {pixels} pixels cannot be filmed: "
                    f"it must be even and between {MIN_SIZE_PX} and {MAX_SIZE_PX}.",
                    hint="For instance --size 320x240.",
                )
        if self.episodes < 1 or self.seed < 0:
            raise UsageError("There must be at least one episode, and the seed is at least 0.")
        if not 1 <= self.fps <= 120:
            raise UsageError(f"{self.fps:g} frames per second is out of range: 1 to 120.")
        if not 1 <= self.seconds <= 60:
            raise UsageError(f"An episode of {self.seconds:g} s is out of range: 1 to 60 s.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One unit of work: film a request into a folder."""

    request: Request
    folder: str


def plan(settings: Settings) -> list[Request]:
    """All episodes, bodies innermost: every body gets the same motions under the same seeds."""
    names = check_primitives(settings.primitives)
    requests = []
    for index in range(settings.episodes):
        primitive, seed = names[index % len(names)], settings.seed + index // len(names)
        for embodiment in dict.fromkeys(settings.embodiments):
            requests.append(
                Request(
                    embodiment=embodiment,
                    primitive=primitive,
                    seed=seed,
                    camera=_camera(settings.camera, embodiment, primitive, seed),
                    width=settings.width,
                    height=settings.height,
                    fps=settings.fps,
                    seconds=settings.seconds,
                    shadows=settings.shadows,
                )
            )
    return requests


def _camera(choice: CameraChoice, embodiment: str, primitive: str, seed: int) -> CameraKind:
    """The camera of an episode: in a mixture it hangs on the episode's name alone."""
    if choice != "mixed":
        return choice
    return MIXED[(list(BODIES).index(embodiment) + PRIMITIVES.index(primitive) + seed) % len(MIXED)]


def run(
    requests: Sequence[Request], out: Path, *, workers: int = 1, quiet: bool = False
) -> dict[str, object]:
    """Films the requests that `out` does not hold yet.

    Returns:
        Counts and, per episode, its file, caption, outcome and frames; failures with their reason.

    Raises:
        UsageError: The folder holds an episode of the same name, filmed with other settings.
        EgodojoError: The folder cannot be written.
    """
    refuse_others(requests, out)
    prepare_folder(out)
    todo = [request for request in requests if not is_filmed(request, out)]
    jobs = [Job(request=request, folder=str(out.resolve())) for request in todo]
    engine: Literal["inline", "ray"] = "inline" if workers <= 1 else "ray"
    failed: list[dict[str, str]] = []
    try:
        with Progress(len(jobs), "episodes", quiet=quiet) as progress:
            outcomes = run_units(
                film, jobs, engine=engine, slots=None if workers <= 1 else workers, timeout_s=1800.0
            )
            for outcome in outcomes:
                if outcome.error is not None:
                    failed.append(
                        {"episode": outcome.unit.request.stem, "error": str(outcome.error)}
                    )
                progress.advance()
    finally:
        shutil.rmtree(out / PARTIAL, ignore_errors=True)
    lost = {item["episode"] for item in failed}
    episodes = [describe(request, out) for request in requests if request.stem not in lost]
    return {
        "out": str(out),
        "num_episodes": len(episodes),
        "num_new": len(todo) - len(failed),
        "num_failed": len(failed),
        "num_frames": sum(request.num_frames for request in requests if request.stem not in lost),
        "episodes": episodes,
        "failed": failed,
    }


def film(job: Job) -> str:
    """Makes one episode and writes its files; the episode file comes last and completes it."""
    replayed = make_episode(job.request)
    write_episode(replayed, Path(job.folder))
    return job.request.stem


def write_episode(replayed: Replay, folder: Path) -> None:
    """Writes video, actions, truth, caption and episode file under the episode's stem."""
    request = replayed.episode.request
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder / PARTIAL) as name:
        making = Path(name)
        write_video(making / f"{request.stem}.mp4", replayed.frames(), request.fps)
        pq.write_table(actions_table(replayed), making / f"{request.stem}.actions.parquet")
        pq.write_table(truth_table(replayed), making / f"{request.stem}.truth.parquet")
        (making / f"{request.stem}.txt").write_text(replayed.episode.caption + "\n")
        episode_file = f"{request.stem}.episode.json"
        (making / episode_file).write_text(replayed.episode.to_json())
        (folder / episode_file).unlink(missing_ok=True)
        for path in sorted(making.iterdir(), key=lambda p: (p.name == episode_file, p.name)):
            os.replace(path, folder / path.name)


def actions_table(replayed: Replay) -> pa.Table:
    """`time_s` and the body's own action columns, one row per frame."""
    times = _times(replayed)
    columns = {
        name: replayed.actions[:, index] for index, name in enumerate(replayed.episode.columns)
    }
    return pa.table({"time_s": times, **columns})


def truth_table(replayed: Replay) -> pa.Table:
    """What really happened, one row per frame: metres, quaternions as w, x, y, z."""
    path, scene = replayed.trajectory, replayed.episode.scene
    times = _times(replayed)
    columns: dict[str, object] = {"time_s": times}
    axes = ("x_m", "y_m", "z_m", "qw", "qx", "qy", "qz")
    columns.update({f"hand_{axis}": path.hand[:, i] for i, axis in enumerate(axes)})
    columns["aperture_m"] = path.aperture_m
    columns["touching"] = path.touching
    for number, thing in enumerate(scene.objects):
        for i, axis in enumerate(axes):
            columns[f"{thing.name}_{axis}"] = path.objects[:, number, i]
    columns.update(_camera_columns(scene.camera, times, axes))
    columns["primitive"] = [replayed.episode.motion.primitive] * len(times)
    return pa.table(columns)


def _camera_columns(camera: Camera, times: np.ndarray, axes: tuple[str, ...]) -> dict[str, object]:
    rows = []
    for time_s in times:
        eye, turn = camera.pose(float(time_s))
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, turn.ravel())
        rows.append((*eye, *quat))
    table = np.array(rows)
    columns: dict[str, object] = {f"camera_{axis}": table[:, i] for i, axis in enumerate(axes)}
    columns["camera_fovy_deg"] = np.full(len(times), camera.fovy_deg)
    return columns


def _times(replayed: Replay) -> np.ndarray:
    return np.arange(len(replayed.actions)) / replayed.episode.request.fps


def prepare_folder(out: Path) -> None:
    """Creates the folder, clears what a killed run left, and makes sure it can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / PARTIAL, ignore_errors=True)
        (out / PARTIAL).mkdir()
    except OSError as error:
        raise EgodojoError(
            f"The folder {out} cannot be written: {error.strerror or error}.",
            hint="Give another --out.",
        ) from error


def refuse_others(requests: Sequence[Request], folder: Path) -> None:
    """Refuse to film over episodes that were asked for with other settings.

    Raises:
        UsageError: There are some; names the first and what differs.
    """
    others = [(request, held) for request in requests if (held := filmed(request, folder))]
    others = [(request, held) for request, held in others if held != request]
    if others:
        asked, held = map(to_dict, others[0])
        differing = [key for key in asked if asked[key] != held[key]]
        what = ", ".join(f"{key} {held[key]}, not {asked[key]}" for key in differing)
        more = f", and {len(others) - 1} others" if len(others) > 1 else ""
        raise UsageError(
            f"{folder} holds the episode {others[0][0].stem} filmed with {what}{more}.",
            hint="Give another --out, or remove those files to film them anew.",
        )


def is_filmed(request: Request, folder: Path) -> bool:
    """Whether the folder holds exactly this episode, complete."""
    return filmed(request, folder) == request


def filmed(request: Request, folder: Path) -> Request | None:
    """What the complete episode of this name was asked to be; None when there is none."""
    path = folder / f"{request.stem}.episode.json"
    if not path.exists() or not (folder / f"{request.stem}.mp4").exists():
        return None
    try:
        return Episode.load(path).request
    except EgodojoError:
        return None


def describe(request: Request, folder: Path) -> dict[str, object]:
    """One line about a finished episode."""
    episode = Episode.load(folder / f"{request.stem}.episode.json")
    return {
        "episode": request.stem,
        "file": str(folder / f"{request.stem}.mp4"),
        "embodiment": request.embodiment,
        "primitive": request.primitive,
        "camera": request.camera,
        "caption": episode.caption,
        "num_frames": len(episode.actions),
    }
