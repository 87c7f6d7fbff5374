"""The half of the round trip that runs in lerobot's own environment: `make` and `check`.

Knows nothing of egodojo: it writes a dataset with lerobot, and reads one that egodojo wrote.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS, HEIGHT, WIDTH = 30, 120, 160
LENGTHS = (40, 60, 30)
TASKS = ("pick up the cup", "fold the towel", "open the drawer")
NAMES = ["shoulder", "elbow", "gripper"]
CAMERA, OTHER = "observation.images.top", "observation.images.wrist"


def picture(index: int) -> np.ndarray:
    """A bright bar, 16 pixels wide, that moves one pixel a frame."""
    found = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    found[:, index : index + 16] = 220
    return found


def vector(index: int) -> np.ndarray:
    """Row i of the dataset: i, i + 0.25, i + 0.5."""
    return (index + np.arange(3) / 4).astype(np.float32)


def make(root: Path) -> dict[str, Any]:
    """Write three episodes, seen by two cameras, with lerobot's own writer."""
    number = {"dtype": "float32", "shape": (3,), "names": NAMES}
    image = {
        "dtype": "video",
        "shape": (HEIGHT, WIDTH, 3),
        "names": ["height", "width", "channels"],
    }
    dataset = LeRobotDataset.create(
        "local/made",
        FPS,
        root=root,
        robot_type="toy",
        features={OTHER: image, CAMERA: image, "action": number, "observation.state": number},
    )
    index = 0
    for length, task in zip(LENGTHS, TASKS, strict=True):
        for _ in range(length):
            row = vector(index)
            seen = {CAMERA: picture(index), OTHER: 255 - picture(index)}
            dataset.add_frame({**seen, "action": row, "observation.state": -row, "task": task})
            index += 1
        dataset.save_episode()
    dataset.finalize()
    return {"num_frames": index}


def check(root: Path) -> dict[str, Any]:
    """Read every frame of a dataset with lerobot's own reader."""
    # PyAV brings its own FFmpeg; the default, torchcodec, needs one on the system.
    dataset = LeRobotDataset("local/curated", root=root, video_backend="pyav")
    rows = [dataset[index] for index in range(len(dataset))]
    camera = dataset.meta.camera_keys[0]
    return {
        "lerobot": importlib.metadata.version("lerobot"),
        "num_episodes": dataset.num_episodes,
        "num_frames": len(rows),
        "fps": dataset.fps,
        "tasks": [row["task"] for row in rows],
        "episodes": [int(row["episode_index"]) for row in rows],
        "timestamps": [float(row["timestamp"]) for row in rows],
        "actions": [row["action"].tolist() for row in rows],
        "states": [np.atleast_1d(row["observation.state"]).tolist() for row in rows],
        "picture_shape": list(rows[0][camera].shape),
        "column_means": [row[camera].mean(dim=(0, 1)).tolist() for row in rows],
        "stats": {key: np.asarray(v).tolist() for key, v in dataset.meta.stats["action"].items()},
    }


def main() -> None:
    """Run `make` or `check` and print what it found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["make", "check"])
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    asked = parser.parse_args()
    found = make(asked.root) if asked.action == "make" else check(asked.root)
    asked.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
