"""EgoDex: `<n>.mp4` beside `<n>.hdf5` with the poses of camera, hands and fingers at 30 Hz.

Poses are recorded in a world frame that starts anew with every session; columns give them in the
frame of the camera at the same instant, which is what the picture shows.
"""

from __future__ import annotations

import importlib
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import ConfigError, SampleError
from pipeline.flaky import check_source

from ..sidecars import Actions, checked_actions

SUFFIX = ".hdf5"
RATE_HZ = 30.0
_NAMES = (b"transforms", b"camera", b"intrinsic")
_COLUMN = re.compile(r"(?P<joint>\w+)_(?P<part>[xyz]|r[1-6])")
_TRACKED = "confidence_"
_PARTS = ("x", "y", "z", "r1", "r2", "r3", "r4", "r5", "r6")


def pose_file(video: Path) -> Path | None:
    """The HDF5 file beside a video, when there is one."""
    path = video.with_name(video.stem + SUFFIX)
    return path if path.is_file() else None


def is_egodex(path: Path) -> bool:
    """Whether an HDF5 file has groups called as EgoDex publishes them.

    HDF5 keeps the names of groups as they are, so they are looked for among the bytes: opening a
    damaged file with the library may end the process.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            return all(held.find(name) >= 0 for name in _NAMES)
    except (OSError, ValueError):  # not there any more, or empty
        return False


def check_reader(path: Path) -> None:
    """Refuse poses that nothing could read.

    Raises:
        ConfigError: h5py is not installed.
    """
    try:
        importlib.import_module("h5py")
    except ImportError as error:
        raise ConfigError(
            f"{path} holds poses in HDF5, and h5py is not installed.",
            hint="pip install 'egodojo[hdf5]', or take the videos alone with --layout folder.",
        ) from error


def read_text(path: Path) -> str | None:
    """The task's description; of two, for a reversible task, the one this take shows.

    Raises:
        SampleError: The file cannot be read (`poses`).
    """
    with _opened(path) as file:
        which = _text(file.attrs.get("which_llm_description"))
        names = ["llm_description", "task"]
        if which == "2":
            names.insert(0, "llm_description2")
        for name in names:
            if text := _text(file.attrs.get(name)):
                return text
    return None


def read_poses(path: Path, names: Sequence[str]) -> Actions:
    """Columns of poses: row i belongs to file time i / 30.

    `<joint>_x`, `_y`, `_z` are metres, `<joint>_r1` to `_r6` the first two columns of the rotation
    matrix, all seen from the camera; of `camera` itself, from the session's world frame.
    `confidence_<joint>` is the tracker's, 0..1.

    Raises:
        SampleError: A column the file does not have, or unusable rows (`poses`).
    """
    with _opened(path) as file:
        poses: dict[str, NDArray[np.float64]] = {}
        columns = []
        for name in names:
            if name.startswith(_TRACKED):
                key = f"confidences/{name.removeprefix(_TRACKED)}"
                columns.append(_dataset(file, path, key).reshape(-1))
                continue
            match = _COLUMN.fullmatch(name)
            if match is None:
                raise SampleError(
                    f"{path} offers no column {name!r}.",
                    reason="poses",
                    hint="Columns are <joint>_x, _y, _z, _r1 to _r6 and confidence_<joint>.",
                )
            joint = match["joint"]
            if joint not in poses:
                poses[joint] = _seen_from_camera(file, path, joint)
            columns.append(poses[joint][:, _PARTS.index(match["part"])])
    if len({len(column) for column in columns}) != 1:
        raise SampleError(f"{path}: its poses differ in length.", reason="poses")
    values = np.stack(columns, axis=1).astype(np.float32)
    try:
        return checked_actions(path, np.arange(len(values)) / RATE_HZ, values)
    except ValueError as error:
        raise SampleError(f"{path}: {error}.", reason="poses") from error


def _seen_from_camera(file: Any, path: Path, joint: str) -> NDArray[np.float64]:
    """A joint's position and two rotation columns: (frames, 9)."""
    poses = _transforms(file, path, joint)
    if joint != "camera":
        camera = _transforms(file, path, "camera")
        if len(camera) != len(poses):
            raise SampleError(f"{path}: its poses differ in length.", reason="poses")
        turn = camera[:, :3, :3].transpose(0, 2, 1)
        moved = poses[:, :3, 3] - camera[:, :3, 3]
        position = np.einsum("nij,nj->ni", turn, moved)
        rotation = turn @ poses[:, :3, :3]
    else:
        position, rotation = poses[:, :3, 3], poses[:, :3, :3]
    return np.concatenate([position, rotation[:, :, 0], rotation[:, :, 1]], axis=1)


def _transforms(file: Any, path: Path, joint: str) -> NDArray[np.float64]:
    found = _dataset(file, path, f"transforms/{joint}")
    if found.ndim != 3 or found.shape[1:] != (4, 4):
        raise SampleError(
            f"{path}: transforms/{joint} has the shape {found.shape}, not (frames, 4, 4).",
            reason="poses",
        )
    return found


def _dataset(file: Any, path: Path, key: str) -> NDArray[np.float64]:
    if key not in file:
        raise SampleError(f"{path} has no {key}.", reason="poses")
    return np.asarray(file[key][()], dtype=np.float64)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value).strip() or None if value is not None else None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file; whatever the library makes of a damaged one is said as a SampleError."""
    check_reader(path)
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        check_source(path, error)
        why = " ".join(str(error).split()).strip("'\".")
        raise SampleError(f"{path} cannot be read as HDF5: {why}.", reason="poses") from error
