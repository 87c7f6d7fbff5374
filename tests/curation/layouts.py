"""Small folders written to the published layouts: LeRobot v2.1 and v3, GR-1, EgoDex."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.testing import make_video

FPS = 30
NAMES = ["shoulder", "elbow", "gripper"]
TASKS = ["pick up the cup", "fold the towel"]
TOP, WRIST = "observation.images.top", "observation.images.wrist"
SMALL: dict[str, Any] = {"width": 160, "height": 120, "fps": FPS}


def write_body(folder: Path, names: Sequence[str] = NAMES, name: str = "toy_arm") -> Path:
    """An embodiment of one's own."""
    path = folder / f"{name}.yaml"
    units = ", ".join("rad" for _ in names)
    text = f"name: {name}\ndescription: A toy.\naction_names: [{', '.join(names)}]\n"
    path.write_text(text + f"action_units: [{units}]\n")
    return path


def actions_of(first: int, count: int, width: int = 3) -> np.ndarray:
    """Row i of a dataset: i, i + 0.25, i + 0.5, ..."""
    rows = np.arange(first, first + count, dtype=np.float32)[:, None]
    return rows + np.arange(width, dtype=np.float32) / 4


def rows_table(episode: int, first: int, count: int, task: int, **more: Any) -> pa.Table:
    """One episode's rows as LeRobot writes them."""
    vectors = more.pop("action", actions_of(first, count))
    return pa.table(
        {
            "action": pa.array(list(vectors), pa.list_(pa.float32())),
            "observation.state": pa.array(list(-vectors), pa.list_(pa.float32())),
            "timestamp": pa.array(np.arange(count, dtype=np.float32) / FPS),
            "frame_index": pa.array(range(count), pa.int64()),
            "episode_index": pa.array([episode] * count, pa.int64()),
            "index": pa.array(range(first, first + count), pa.int64()),
            "task_index": pa.array([task] * count, pa.int64()),
            **more,
        }
    )


def info(version: str, *, names: Any = NAMES, width: int = 3, cameras: Sequence[str]) -> dict:
    """`meta/info.json`."""
    is_v3 = version == "v3.0"
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    old = "{episode_chunk:03d}"
    vector = {"dtype": "float32", "shape": [width], "names": names}
    return {
        "codebase_version": version,
        "robot_type": "toy",
        "total_episodes": 2,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": "0:2"},
        "data_path": f"data/{place}.parquet"
        if is_v3
        else f"data/chunk-{old}/episode_{{episode_index:06d}}.parquet",
        "video_path": f"videos/{{video_key}}/{place}.mp4"
        if is_v3
        else f"videos/chunk-{old}/{{video_key}}/episode_{{episode_index:06d}}.mp4",
        "features": {
            **{key: {"dtype": "video", "shape": [120, 160, 3]} for key in cameras},
            "action": vector,
            "observation.state": vector,
        },
    }


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_v3(root: Path, lengths: Sequence[int] = (40, 30), **changes: Any) -> Path:
    """Two episodes in one mp4 and one Parquet file; a wrist and a top camera."""
    cameras = [WRIST, TOP]
    write_json(root / "meta/info.json", {**info("v3.0", cameras=cameras), **changes})
    tables, episodes, first = [], [], 0
    for number, count in enumerate(lengths):
        tables.append(rows_table(number, first, count, number))
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [TASKS[number]],
            "length": count,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": first,
            "dataset_to_index": first + count,
        }
        for key in cameras:
            row |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": first / FPS,
                f"videos/{key}/to_timestamp": (first + count) / FPS,
            }
        episodes.append(row)
        first += count
    write_table(root / "data/chunk-000/file-000.parquet", pa.concat_tables(tables))
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(episodes))
    tasks = {"task_index": range(len(TASKS)), "__index_level_0__": TASKS}
    write_table(root / "meta/tasks.parquet", pa.table({k: list(v) for k, v in tasks.items()}))
    for seed, key in enumerate(cameras):
        make_video(_folder(root / f"videos/{key}/chunk-000") / "file-000.mp4", num_frames=first,
                   seed=seed, **SMALL)  # fmt: skip
    return root


def write_v21(root: Path, lengths: Sequence[int] = (40, 30), **changes: Any) -> Path:
    """One file per episode and camera."""
    cameras = changes.pop("cameras", [WRIST, TOP])
    rows = changes.pop("rows", [{}] * len(lengths))
    write_json(root / "meta/info.json", {**info("v2.1", cameras=cameras), **changes})
    lines, first = [], 0
    for number, count in enumerate(lengths):
        table = rows_table(number, first, count, number, **rows[number])
        write_table(root / f"data/chunk-000/episode_{number:06d}.parquet", table)
        lines.append({"episode_index": number, "tasks": [TASKS[number]], "length": count})
        for seed, key in enumerate(cameras):
            folder = _folder(root / f"videos/chunk-000/{key}")
            make_video(folder / f"episode_{number:06d}.mp4", num_frames=count,
                       seed=2 * number + seed, **SMALL)  # fmt: skip
        first += count
    tasks = [{"task_index": n, "task": text} for n, text in enumerate(TASKS)]
    _write_lines(root / "meta/episodes.jsonl", lines)
    _write_lines(root / "meta/tasks.jsonl", tasks)
    return root


def write_gr1(root: Path) -> Path:
    """A v2 folder whose vectors have 6 unnamed columns cut into parts by `modality.json`."""
    ego = "observation.images.ego_view"
    language = "annotation.human.action.task_description"
    rows = [
        {"action": actions_of(0, 40, 6), language: pa.array([1] * 40, pa.int64())},
        {"action": actions_of(40, 30, 6), language: pa.array([0] * 30, pa.int64())},
    ]
    made = info("v2.0", names=None, width=6, cameras=[ego])
    write_v21(
        root, cameras=[ego], rows=rows, **{k: made[k] for k in ("codebase_version", "features")}
    )
    parts = {"left_arm": {"start": 0, "end": 2}, "neck": {"start": 2, "end": 4},
             "waist": {"start": 4, "end": 6}}  # fmt: skip
    modality = {
        "state": parts,
        "action": parts,
        "video": {"ego_view": {"original_key": ego}},
        "annotation": {"human.validity": {}, "human.action.task_description": {}},
    }
    write_json(root / "meta/modality.json", modality)
    return root


def write_egodex(root: Path, *, count: int = 40) -> Path:
    """One task folder with two takes, the second of a reversible task."""
    folder = _folder(root / "fold_towel")
    for number in range(2):
        make_video(folder / f"{number}.mp4", num_frames=count, seed=number, **SMALL)
        with h5py.File(folder / f"{number}.hdf5", "w") as file:
            file["camera/intrinsic"] = np.eye(3, dtype=np.float32)
            for joint, place in poses(count).items():
                file[f"transforms/{joint}"] = place
            file["confidences/leftHand"] = np.linspace(0, 1, count, dtype=np.float32)
            file.attrs["llm_description"] = "folds the towel"
            file.attrs["llm_description2"] = "unfolds the towel"
            file.attrs["which_llm_description"] = str(number + 1)
    return root


def poses(count: int) -> dict[str, np.ndarray]:
    """A camera that turns about z and a hand that moves along x: (frames, 4, 4)."""
    angle = np.arange(count) / 20
    camera = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    camera[:, 0, 0], camera[:, 0, 1] = np.cos(angle), -np.sin(angle)
    camera[:, 1, 0], camera[:, 1, 1] = np.sin(angle), np.cos(angle)
    camera[:, :3, 3] = [0.0, 1.5, 0.0]
    hand = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    hand[:, 0, 3] = np.arange(count) / 100
    return {"camera": camera, "leftHand": hand}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
