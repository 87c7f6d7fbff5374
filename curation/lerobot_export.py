"""A curated subset written as a LeRobotDataset v3: each clip is an episode, its mp4 a video file.

Pictures are not encoded again: a video file is the very member of the shard. The folder appears
under its name when it is complete.
"""

from __future__ import annotations

import glob
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.dataset import Dataset
from manifests.errors import UsageError
from manifests.processes import boot_id, process_started
from pipeline.clips import ClipReader
from pipeline.progress import Progress

from .lerobot_plan import ExportPlan
from .lerobot_stats import FeatureStats, stats_of

CAMERA = "observation.images.ego"
ACTION, STATE = "action", "observation.state"
FILES_PER_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
PICTURES_PER_EPISODE = 8
_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_NUMBERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def export_lerobot(dataset: Dataset, plan: ExportPlan, out: Path, *, quiet: bool = False) -> None:
    """Write a plan as a LeRobotDataset v3.

    Raises:
        UsageError: `out` exists already.
        SampleError: A clip's bytes have changed.
    """
    if out.exists():
        raise UsageError(
            f"{out} exists already; nothing was written.", hint="Name a folder that does not."
        )
    building = _building(out)
    try:
        building.mkdir(parents=True)
        with Progress(len(plan.clips), "episodes", quiet=quiet) as progress:
            _Export(dataset, plan, building).run(progress)
        building.rename(out)
    except NotADirectoryError as error:
        raise UsageError(f"{out} cannot be made: a file is in its way.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


class _Export:
    """Writes one folder, clip after clip; holds one clip's rows."""

    def __init__(self, dataset: Dataset, plan: ExportPlan, root: Path) -> None:
        self._plan, self._root = plan, root
        self._reader = ClipReader(dataset.path)
        self._vectors = _vectors(plan.action_names)
        self._task_index = {text: index for index, text in enumerate(plan.tasks)}
        self._totals: dict[str, FeatureStats] = {}

    def run(self, progress: Progress) -> None:
        episodes: list[dict[str, Any]] = []
        with _RowFiles(self._root) as rows:
            for number, clip in enumerate(self._plan.clips):
                episodes.append(self._episode(number, clip, rows))
                progress.advance()
        _write_parquet(self._root / "meta/episodes" / _named(0), pa.Table.from_pylist(episodes))
        _write_tasks(self._root / "meta/tasks.parquet", self._plan.tasks)
        totals = {name: found.to_json() for name, found in self._totals.items()}
        _write_json(self._root / "meta/stats.json", totals)
        _write_json(self._root / "meta/info.json", self._info(rows.num_rows))

    def _episode(self, number: int, clip: Mapping[str, Any], rows: _RowFiles) -> dict[str, Any]:
        shard, clip_id = clip["shard"], clip["clip_id"]
        video = self._root / "videos" / CAMERA / _named(number, "mp4")
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(self._reader.member(shard, clip_id, "mp4"))
        first = rows.num_rows
        task = self._task_index[clip["text"] or ""]
        columns = self._columns(clip, number, first, task)
        place = rows.append(self._table(columns))
        found = {name: stats_of(values) for name, values in columns.items()}
        found[CAMERA] = self._pictures(clip)
        for name, own in found.items():
            self._totals[name] = self._totals[name].merged(own) if name in self._totals else own
        num_frames = clip["num_frames"]
        return {
            "episode_index": number,
            "tasks": [clip["text"] or ""],
            "length": num_frames,
            "data/chunk_index": place // FILES_PER_CHUNK,
            "data/file_index": place % FILES_PER_CHUNK,
            "dataset_from_index": first,
            "dataset_to_index": first + num_frames,
            f"videos/{CAMERA}/chunk_index": number // FILES_PER_CHUNK,
            f"videos/{CAMERA}/file_index": number % FILES_PER_CHUNK,
            f"videos/{CAMERA}/from_timestamp": 0.0,
            f"videos/{CAMERA}/to_timestamp": num_frames / self._plan.fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "clip_id": clip_id,
            **{
                f"stats/{name}/{key}": value
                for name, own in found.items()
                for key, value in own.to_json().items()
            },
        }

    def _columns(
        self, clip: Mapping[str, Any], number: int, first: int, task: int
    ) -> dict[str, NDArray[Any]]:
        count = clip["num_frames"]
        times_s = self._reader.times_s(clip["shard"], clip["clip_id"])
        columns: dict[str, NDArray[Any]] = {}
        if self._plan.action_names:
            data = self._reader.member(clip["shard"], clip["clip_id"], "actions.npy")
            recorded = np.load(io.BytesIO(data))
            columns = {key: recorded[:, places] for key, places in self._vectors.items()}
        return columns | {
            "timestamp": times_s.astype(np.float32),
            "frame_index": np.arange(count, dtype=np.int64),
            "episode_index": np.full(count, number, np.int64),
            "index": np.arange(first, first + count, dtype=np.int64),
            "task_index": np.full(count, task, np.int64),
        }

    def _table(self, columns: Mapping[str, NDArray[Any]]) -> pa.Table:
        arrays = {}
        for name, values in columns.items():
            width = 1 if values.ndim == 1 else values.shape[1]
            flat = pa.array(values.reshape(-1))
            arrays[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
        return pa.table(arrays)

    def _pictures(self, clip: Mapping[str, Any]) -> FeatureStats:
        """Statistics of a few pictures spread over the clip, per colour, 0..1."""
        count = clip["num_frames"]
        wanted = np.unique(np.linspace(0, count - 1, min(count, PICTURES_PER_EPISODE)).astype(int))
        frames = self._reader.frames(clip["shard"], clip["clip_id"], wanted.tolist())
        pixels = frames[:, ::4, ::4].reshape(-1, 3).astype(np.float64) / 255.0
        found = stats_of(pixels)
        return found.as_picture(num_pictures=len(wanted))

    def _info(self, num_rows: int) -> dict[str, Any]:
        plan = self._plan
        fps = plan.fps
        picture = {
            "dtype": "video",
            "shape": [plan.height, plan.width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": plan.height,
                "video.width": plan.width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
        features: dict[str, Any] = {CAMERA: picture}
        for key, places in self._vectors.items():
            names = [plan.action_names[place].removeprefix(f"{STATE}.") for place in places]
            features[key] = {"dtype": "float32", "shape": [len(names)], "names": names, "fps": fps}
        for name in _NUMBERS:
            kind = "float32" if name == "timestamp" else "int64"
            features[name] = {"dtype": kind, "shape": [1], "names": None, "fps": fps}
        return {
            "codebase_version": "v3.0",
            "robot_type": plan.robot_type,
            "total_episodes": len(plan.clips),
            "total_frames": num_rows,
            "total_tasks": len(plan.tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "fps": fps,
            "splits": {"train": f"0:{len(plan.clips)}"},
            "data_path": f"data/{_PLACE}.parquet",
            "video_path": f"videos/{{video_key}}/{_PLACE}.mp4",
            "features": features,
        }


class _RowFiles:
    """`data/`: episodes one after another, a new file when one is full."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writer: pq.ParquetWriter | None = None
        self._file, self._num_bytes = -1, 0
        self.num_rows = 0

    def __enter__(self) -> _RowFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def append(self, table: pa.Table) -> int:
        """Write an episode's rows; the number of the file they are in."""
        if self._writer is None or self._num_bytes + table.nbytes > DATA_FILE_MB << 20:
            if self._writer is not None:
                self._writer.close()
            self._file, self._num_bytes = self._file + 1, 0
            path = self._root / "data" / _named(self._file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema)
        self._writer.write_table(table)
        self._num_bytes += table.nbytes
        self.num_rows += table.num_rows
        return self._file


def _building(out: Path) -> Path:
    """A name beside `out` for the unfinished folder; what killed exports left there is removed."""
    boot, pid = boot_id()[:8], os.getpid()
    for old in out.parent.glob(f".{glob.escape(out.name)}.{boot}-*-*.unfinished"):
        _, number, started = old.suffixes[-2].split("-")
        if process_started(int(number)) != started:
            shutil.rmtree(old, ignore_errors=True)
    return out.with_name(f".{out.name}.{boot}-{pid}-{process_started(pid)}.unfinished")


def _vectors(names: Sequence[str]) -> dict[str, list[int]]:
    """Which columns make up `action` and `observation.state`."""
    state = [i for i, name in enumerate(names) if name.startswith(f"{STATE}.")]
    action = [i for i in range(len(names)) if i not in set(state)]
    return {key: places for key, places in ((ACTION, action), (STATE, state)) if places}


def _named(number: int, suffix: str = "parquet") -> str:
    chunk, file = divmod(number, FILES_PER_CHUNK)
    return f"{_PLACE.format(chunk_index=chunk, file_index=file)}.{suffix}"


def _write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Texts as the index of a data frame, which is how LeRobot reads them."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": own, "metadata": None}
        for name, kind, own in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    told = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    _write_parquet(path, table.replace_schema_metadata({"pandas": json.dumps(told)}))


def _write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
