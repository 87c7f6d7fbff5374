"""What really happened in a clip: its motion's name, the hand's pose, the camera, from sidecars.

Shapes: T frames of a clip. Truth lies beside a simulated video as `<stem>.truth.parquet`; other
datasets may bring actions (`actions.npy`), which serve the probes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.dataset import Dataset
from manifests.errors import DatasetError, UsageError

from ..clips import ClipRef

Floats = NDArray[np.float64]
MOVING_CAMERA_M = 0.005
"""A camera that wanders at least this far during a clip is a moving one."""
POSE = ("x_m", "y_m", "z_m", "qw", "qx", "qy", "qz")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueClip:
    """A kept clip with what is known of it.

    Attributes:
        ref: Where its frames are.
        embodiment: Its body.
        fps: Frames per second.
        motion: Name of what is done; None when it is unknown or changes within the clip.
        hand_T8: Place (m), turn (quaternion w, x, y, z) and aperture (m) of the hand in the
            camera's frame at each frame; None without truth.
        is_camera_moving: None without truth.
    """

    ref: ClipRef
    embodiment: str
    fps: float
    motion: str | None
    hand_T8: Floats | None
    is_camera_moving: bool | None

    @property
    def displacement(self) -> Floats | None:
        """Way of the hand from the first frame to the last in the camera's frame, metres (3,)."""
        return None if self.hand_T8 is None else self.hand_T8[-1, :3] - self.hand_T8[0, :3]

    def actions(self, step: int, every: int) -> Floats | None:
        """True action of each latent row: way (3), turn as a rotation vector (3), aperture (1)."""
        if self.hand_T8 is None:
            return None
        starts = np.arange(0, len(self.hand_T8) - step, every)
        earlier, later = self.hand_T8[starts], self.hand_T8[starts + step]
        turn = rotation_vectors(earlier[:, 3:7], later[:, 3:7])
        return np.concatenate(
            [later[:, :3] - earlier[:, :3], turn, later[:, 7:] - earlier[:, 7:]], axis=1
        )


def true_clips(dataset: Dataset, *, where: str = "true") -> list[TrueClip]:
    """Kept clips in order of their id, with the truth that lies beside their videos.

    Raises:
        DatasetError: There is no kept clip.
        UsageError: A truth file lacks columns.
    """
    rows = dataset.sql(
        "SELECT clip_id, shard, coalesce(source, '') AS source, coalesce(embodiment, '') AS "
        f"embodiment, num_frames, fps, uri, start_s FROM kept WHERE ({where}) ORDER BY clip_id"
    ).to_pylist()
    if not rows:
        raise DatasetError(
            f"{dataset.path} has no kept clip to evaluate on.",
            hint="Decide again with a milder recipe.",
        )
    return [_true_clip(row) for row in rows]


def _true_clip(row: dict[str, Any]) -> TrueClip:
    found = _truth(Path(row["uri"]), row["start_s"], row["num_frames"], row["fps"])
    return TrueClip(
        ref=ClipRef(**{key: row[key] for key in ("clip_id", "shard", "source", "num_frames")}),
        embodiment=row["embodiment"],
        fps=row["fps"],
        **found,
    )


def _truth(video: Path, start_s: float, num_frames: int, fps: float) -> dict[str, Any]:
    path = video.with_name(f"{video.stem}.truth.parquet")
    if not path.is_file():
        return {"motion": None, "hand_T8": None, "is_camera_moving": None}
    table = pq.read_table(path, partitioning=None)
    needed = ["time_s", "primitive", "aperture_m"]
    needed += [f"{what}_{axis}" for what in ("hand", "camera") for axis in POSE]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise UsageError(
            f"{path} lacks the columns {', '.join(missing[:4])}.",
            hint="Truth files come from `egodojo simulate`; move this one away to go without.",
        )
    times = table["time_s"].to_numpy()
    nearest = np.abs(times[None] - (start_s + np.arange(num_frames) / fps)[:, None]).argmin(axis=1)
    table = table.take(pa.array(nearest))
    hand, camera = (_poses(table, what) for what in ("hand", "camera"))
    motions = set(table["primitive"].to_pylist())
    return {
        "motion": motions.pop() if len(motions) == 1 else None,
        "hand_T8": np.concatenate(
            [_seen_from(camera, hand), table["aperture_m"].to_numpy()[:, None]], axis=1
        ),
        "is_camera_moving": bool(np.ptp(camera[:, :3], axis=0).max() >= MOVING_CAMERA_M),
    }


def _poses(table: pa.Table, what: str) -> Floats:
    return np.stack([table[f"{what}_{axis}"].to_numpy() for axis in POSE], axis=1)


def _seen_from(camera_T7: Floats, pose_T7: Floats) -> Floats:
    """Poses in the frame of the camera at the clip's beginning, so its own motion adds nothing."""
    inverse = _conjugate(camera_T7[:1, 3:])
    place = rotate(inverse, pose_T7[:, :3] - camera_T7[:1, :3])
    return np.concatenate([place, multiply(inverse, pose_T7[:, 3:])], axis=1)


def _conjugate(quaternions: Floats) -> Floats:
    turned: Floats = quaternions * np.array([1.0, -1.0, -1.0, -1.0])
    return turned


def multiply(a: Floats, b: Floats) -> Floats:
    """Product of quaternions (n, 4) or (1, 4), w first."""
    a, b = np.broadcast_arrays(a, b)
    real = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(axis=1, keepdims=True)
    vector = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + np.cross(a[:, 1:], b[:, 1:])
    return np.concatenate([real, vector], axis=1)


def rotate(quaternions: Floats, vectors: Floats) -> Floats:
    """Vectors (n, 3) turned by quaternions (n, 4) or (1, 4)."""
    pure = np.concatenate([np.zeros((len(vectors), 1)), vectors], axis=1)
    return multiply(multiply(quaternions, pure), _conjugate(quaternions))[:, 1:]


def rotation_vectors(earlier: Floats, later: Floats) -> Floats:
    """The turn from one orientation to another, axis times angle in radians: (n, 3)."""
    turn = multiply(later, _conjugate(earlier))
    turn = turn * np.where(turn[:, :1] < 0, -1.0, 1.0)
    length = np.linalg.norm(turn[:, 1:], axis=1, keepdims=True)
    angle = 2 * np.arctan2(length, turn[:, :1])
    vectors: Floats = turn[:, 1:] / np.maximum(length, 1e-12) * angle
    return vectors


def with_motion(clips: Sequence[TrueClip]) -> list[TrueClip]:
    """Those whose motion has a name."""
    return [clip for clip in clips if clip.motion is not None]
