"""LeRobotDataset v2.0, v2.1 and v3: episodes, tasks and recorded rows beside each camera's videos.

v2 keeps one episode per file (`meta/episodes.jsonl`), v3 packs several into one mp4 and one
Parquet file (`meta/episodes/`). GR-1 teleoperation folders are v2 with `meta/modality.json`, which
names slices of the action and state vectors and the column that holds the language.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import ConfigError

INFO = "meta/info.json"
MODALITY = "meta/modality.json"
ACTION, STATE = "action", "observation.state"
_EGO_WORDS = frozenset({"ego", "egocentric", "head", "top"})
_DEPTH_FLAGS = ("video.is_depth_map", "is_depth_map")
_VERSIONS = ("v2.0", "v2.1", "v3.")
_V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One episode as one camera saw it.

    Attributes:
        index: Its number in the dataset.
        num_rows: Recorded rows, one per frame.
        start_s: Time in the video file at which it begins.
        tasks: Its task texts.
        data: The Parquet file of its rows.
    """

    index: int
    num_rows: int
    start_s: float
    tasks: tuple[str, ...]
    data: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One number of a recorded vector: element `index` of the Parquet column `key`."""

    key: str
    index: int


class LeRobotFolder:
    """One dataset folder, its tables read on use."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        info = _read_json(self.root / INFO)
        version = str(info.get("codebase_version", ""))
        if not version.startswith(_VERSIONS):
            raise ConfigError(
                f"{self.root / INFO} says codebase_version {version or 'nothing'}; v2.0, v2.1 and "
                "v3 can be read.",
                hint="Convert it with the script that comes with lerobot.",
            )
        if not isinstance(info.get("features"), dict) or not info.get("fps"):
            raise ConfigError(f"{self.root / INFO} lacks features or fps.")
        self.is_v3 = version.startswith("v3.")
        self.robot_type = info.get("robot_type")
        self._info = info
        has_modality = (self.root / MODALITY).is_file()
        self._modality = _read_json(self.root / MODALITY) if has_modality else {}
        with _as_published(self.root / INFO):
            self.fps = float(info["fps"])
            if not (math.isfinite(self.fps) and self.fps > 0):
                raise ValueError(f"fps is {info['fps']}")
            self._features = {key: dict(told) for key, told in info["features"].items()}
            for key in (ACTION, STATE):
                self._width(key)
        with _as_published(self.root / MODALITY):
            for key in (ACTION, STATE):
                self._named(key, "")
            self._cameras_named, self._language = self._modality_cameras(), self._annotation()

    @property
    def has_actions(self) -> bool:
        """Whether rows hold an action."""
        return ACTION in self._features

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys of all cameras with videos, in the order the dataset lists them."""
        return tuple(k for k, f in self._features.items() if f.get("dtype") == "video")

    def choose_cameras(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The cameras asked for, by key or by its last word; else the first egocentric one.

        Egocentric is a camera with `ego`, `egocentric`, `head` or `top` as a word of its key; with
        none of these the first one listed is taken. A depth map comes only when nothing else has
        the name; cameras that `modality.json` names come before others.

        Raises:
            ConfigError: No camera with videos, or none of that name.
        """
        if not self.cameras:
            raise ConfigError(
                f"{self.root} has no camera with videos.",
                hint="Pictures inside Parquet are not read; convert them to videos with lerobot.",
            )
        named = self._cameras_named
        if not wanted:
            offered = self._without_depth(self.cameras)
            offered = [key for key in offered if key in named.values()] or offered
            egocentric = [key for key in offered if _EGO_WORDS & _words(key)]
            return tuple([*egocentric, *offered][:1])
        chosen: list[str] = []
        for name in wanted:
            found = [name] if name in self.cameras else []
            found += [named[name]] if name in named else []
            found = found or [key for key in self.cameras if name == key.rsplit(".", 1)[-1]]
            if not found:
                raise ConfigError(
                    f"{self.root} has no camera {name!r}.",
                    hint=f"It has {', '.join(self.cameras)}.",
                )
            chosen += found if name in self.cameras else self._without_depth(found)
        return tuple(dict.fromkeys(chosen))

    def _without_depth(self, keys: Sequence[str]) -> Sequence[str]:
        """Cameras that show colours, by what is said of them or by their names, if any does."""
        return [key for key in keys if not self._is_depth(key)] or keys

    def _is_depth(self, key: str) -> bool:
        told = self._features[key]
        more = [part for part in (told.get("info"), told.get("video_info")) if part]
        return "depth" in _words(key) or any(
            part.get(flag) is True for part in more for flag in _DEPTH_FLAGS
        )

    def _modality_cameras(self) -> dict[str, str]:
        """Keys of cameras by the short names that `modality.json` gives them."""
        found = {}
        for name, told in self._modality.get("video", {}).items():
            key = str((told or {}).get("original_key") or f"observation.images.{name}")
            if key in self.cameras:
                found[name] = key
        return found

    def videos(self, camera: str) -> Mapping[str, tuple[Episode, ...]]:
        """Episodes of every video file of a camera, by the file's resolved path."""
        if camera not in self._videos:
            files: dict[str, list[Episode]] = {}
            resolved = cache(os.path.realpath)
            for path, episode in self._episodes(camera):
                files.setdefault(resolved(path), []).append(episode)
            self._videos[camera] = {
                path: tuple(sorted(found, key=lambda e: e.start_s)) for path, found in files.items()
            }
        return self._videos[camera]

    @cached_property
    def _videos(self) -> dict[str, dict[str, tuple[Episode, ...]]]:
        return {}

    def columns(self, names: Sequence[str]) -> list[Column]:
        """Where an embodiment's action columns are in the recorded rows.

        A column of the action goes by the name that `features` or `modality.json` (`<part>_<i>`)
        gives it, one of the state by the same with `observation.state.` before it. When the
        dataset names nothing and the width is right, columns are taken in order.

        Raises:
            ConfigError: A name the dataset does not know.
        """
        offered = {**self._named(STATE, f"{STATE}."), **self._named(ACTION, "")}
        if all(name in offered for name in names):
            return [offered[name] for name in names]
        width = self._width(ACTION)
        has_names = any(column.key == ACTION for column in offered.values())
        if not has_names and width == len(names):
            return [Column(key=ACTION, index=index) for index in range(width)]
        missing = [name for name in names if name not in offered]
        known = ", ".join(offered) or f"no names, {width} columns"
        raise ConfigError(
            f"{self.root} records no column {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}, which the embodiment asks for.",
            hint=f"Its columns: {known}. A YAML file with these action_names is an embodiment too.",
        )

    @property
    def language_column(self) -> str | None:
        """The column of rows that holds task numbers by frame, where `modality.json` names one."""
        return self._language

    def _annotation(self) -> str | None:
        names = [name for name in self._modality.get("annotation", {}) if "validity" not in name]
        names.sort(key=lambda name: (not name.endswith("task_description"), name))
        if not names:
            return None
        declared = self._modality["annotation"][names[0]] or {}
        return str(declared.get("original_key", f"annotation.{names[0]}"))

    @cached_property
    def tasks(self) -> Mapping[int, str]:
        """Task texts by number."""
        if not self.is_v3:
            rows = _read_lines(self.root / "meta/tasks.jsonl")
            with _as_published(self.root / "meta/tasks.jsonl"):
                return {int(row["task_index"]): str(row["task"]) for row in rows}
        table = _read_parquet(self.root / "meta/tasks.parquet")
        texts = [f.name for f in table.schema if _is_text(f.type)]
        if "task_index" not in table.schema.names or not texts:
            raise ConfigError(f"{self.root}/meta/tasks.parquet lacks task_index or the texts.")
        numbers = table.column("task_index").to_pylist()
        return dict(zip(numbers, table.column(texts[0]).to_pylist(), strict=True))

    def _episodes(self, camera: str) -> Iterator[tuple[Path, Episode]]:
        read = self._episodes_v3 if self.is_v3 else self._episodes_v2
        with _as_published(self.root / "meta"):
            yield from read(camera)

    def _episodes_v2(self, camera: str) -> Iterator[tuple[Path, Episode]]:
        size = int(self._info.get("chunks_size") or 1000)
        for row in _read_lines(self.root / "meta/episodes.jsonl"):
            index = int(row["episode_index"])
            place = {"episode_index": index, "episode_chunk": index // size, "video_key": camera}
            yield (
                self._file("video_path", _V2_VIDEO, place),
                Episode(
                    index=index,
                    num_rows=int(row["length"]),
                    start_s=0.0,
                    tasks=_texts(row.get("tasks")),
                    data=self._file("data_path", _V2_DATA, place),
                ),
            )

    def _episodes_v3(self, camera: str) -> Iterator[tuple[Path, Episode]]:
        """Episodes that this camera saw; the others have no place in its videos."""
        video, data = (
            [f"{prefix}/{name}" for name in ("chunk_index", "file_index")]
            for prefix in (f"videos/{camera}", "data")
        )
        begins = f"videos/{camera}/from_timestamp"
        names = ["episode_index", "length", *data, *video, begins]
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise ConfigError(f"{self.root}/meta/episodes holds no Parquet file.")

        @cache  # hundreds of episodes share a file
        def file_at(key: str, default: str, chunk_index: int, file_index: int) -> Path:
            values = {"video_key": camera, "chunk_index": chunk_index, "file_index": file_index}
            return self._file(key, default, values)

        tables = (_read_parquet(file, names, optional=["tasks"]) for file in files)
        for row in (row for table in tables for row in table.to_pylist()):
            if any(row[name] is None for name in (*video, begins)):
                continue
            yield (
                file_at("video_path", _V3_VIDEO, *(int(row[name]) for name in video)),
                Episode(
                    index=int(row["episode_index"]),
                    num_rows=int(row["length"]),
                    start_s=_finite(row[begins]),
                    tasks=_texts(row.get("tasks")),
                    data=file_at("data_path", _V3_DATA, *(int(row[name]) for name in data)),
                ),
            )

    def _file(self, key: str, default: str, values: Mapping[str, Any]) -> Path:
        template = str(self._info.get(key) or default)
        try:
            relative = Path(os.path.normpath(template.format(**values)))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(f"{self.root / INFO}: {key} {template!r} has no {error}.") from error
        if relative.is_absolute() or relative.parts[:1] == ("..",):
            raise ConfigError(f"{self.root / INFO}: {key} leads out of the folder.")
        return self.root / relative

    def _named(self, key: str, prefix: str) -> dict[str, Column]:
        names = _flat_names(self._features.get(key, {}).get("names"))
        width = self._width(key)
        found: dict[str, Column] = {}
        if len(names) == width:
            found = {f"{prefix}{n}": Column(key=key, index=i) for i, n in enumerate(names)}
        group = "action" if key == ACTION else "state"
        for part, place in self._modality.get(group, {}).items():
            start, stop = int(place["start"]), int(place["end"])
            column = str(place.get("original_key") or key)
            for index in range(start, stop):
                name = f"{prefix}{part}_{index - start}"
                found[name] = Column(key=column, index=index)
        return found

    def _width(self, key: str) -> int:
        """Numbers in a vector; one of several dimensions is laid out row after row."""
        shape = self._features.get(key, {}).get("shape") or [0]
        return math.prod(int(n) for n in (shape if isinstance(shape, list) else [shape]))


def open_lerobot(root: str) -> LeRobotFolder:
    """A folder, read once per process as long as its `meta/info.json` stays the same.

    Raises:
        ConfigError: Not a LeRobotDataset of a version that can be read.
    """
    path = Path(root, INFO)
    stamp = path.stat() if path.is_file() else None
    return _opened(root, (stamp.st_mtime_ns, stamp.st_size) if stamp else None)


@lru_cache(maxsize=64)
def _opened(root: str, stamp: tuple[int, int] | None) -> LeRobotFolder:
    return LeRobotFolder(root)


@contextmanager
def _as_published(path: Path) -> Iterator[None]:
    """Turn what trips over a table that is not built as LeRobot publishes it into a sentence."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} is not built as LeRobot writes it: {why}.") from error


def _flat_names(names: Any) -> list[str]:
    """Names of a vector's elements: a list, lists in a list or by group, or places by name."""
    if isinstance(names, Mapping):
        if names and all(type(place) is int for place in names.values()):
            return [str(name) for name in sorted(names, key=lambda name: names[name])]
        return [text for group in names.values() for text in _flat_names(group)]
    if isinstance(names, list):
        return [text for item in names for text in _flat_names(item)]
    return [] if names is None else [str(names)]


def _words(key: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", key.lower()))


def _texts(tasks: Any) -> tuple[str, ...]:
    """An episode's tasks: a list, or one text."""
    return (tasks,) if isinstance(tasks, str) else tuple(str(task) for task in tasks or ())


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"a time is {value}")
    return float(value)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must be a JSON object.")
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def _read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, optional: Sequence[str] = ()
) -> pa.Table:
    try:
        table = pq.ParquetFile(path)
        there = table.schema_arrow.names
        missing = [name for name in columns or () if name not in there]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        more = [name for name in optional if name in there]
        return table.read(columns=None if columns is None else [*columns, *more])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
