"""Where training pairs come from: the sources of one dataset or of a mixture, and what is held out.

Clips stay columns of a table until one is drawn, so that millions of them fit in memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from manifests.dataset import Dataset
from manifests.errors import DatasetError
from manifests.locations import Location
from manifests.mixture import MixtureSpec
from manifests.mixture.build import chosen_clips
from pipeline.training.ranks import rank

from .clips import CLIP_COLUMNS, ClipRef, clip_table

_log = logging.getLogger(__name__)

COLUMNS = (
    "clip_id",
    "shard",
    "source",
    "embodiment",
    "num_frames",
    "video_id",
    "recording",
    "camera",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSource:
    """Clips that share one part of the draws."""

    name: str
    dataset: str
    """Folder or URI of the dataset they lie in."""
    table: pa.Table
    """Their `COLUMNS`, in order of `clip_id`."""
    weight: int | float | None = None
    """Share of the draws by the mixture; None in a dataset, where `data.balance` says it."""

    @property
    def num_clips(self) -> int:
        """How many there are."""
        return len(self.table)

    def clip(self, number: int) -> ClipRef:
        """One of them."""
        names = ("clip_id", "shard", "source", "num_frames")
        return ClipRef(**{name: self.table[name][number].as_py() for name in names})

    def embodiment(self, number: int) -> str:
        """Body that one of them shows; empty when it is unknown."""
        body: str = self.table["embodiment"][number].as_py()
        return body

    def camera(self, number: int) -> str | None:
        """Name of the camera that filmed one of them."""
        name: str | None = self.table["camera"][number].as_py()
        return name

    def videos(self) -> list[str]:
        """Ids of the videos they were cut from."""
        videos: list[str] = pc.unique(self.table["video_id"]).to_pylist()
        return videos


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a run trains on, with the table versions that make it repeatable."""

    sources: tuple[ClipSource, ...]
    versions: dict[str, dict[str, int]]
    """Table versions by dataset of the mixture, or under "" for a dataset alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraColumns:
    """SQL over the columns of clips that tells which of them several cameras filmed at once.

    Attributes:
        recording: The same for all videos of one recording, over all datasets of a mixture; cameras
            start together, so clips of one recording and one start show the same. NULL, or no
            expression: no other clip shows it.
        camera: Names the camera. Without an expression all have the same name.
    """

    recording: str = ""
    camera: str = ""

    def sql(self) -> str:
        """`CLIP_COLUMNS`, `recording` and `camera`."""
        name = f"({self.recording}) || ' at ' || round(start_s, 2)" if self.recording else "NULL"
        camera = f"({self.camera})" if self.camera else "''"
        return (
            f"{CLIP_COLUMNS}, CAST({name} AS VARCHAR) AS recording, "
            f"CAST({camera} AS VARCHAR) AS camera"
        )


ONE_CAMERA = CameraColumns()


def dataset_sources(
    path: Location | str,
    *,
    where: str,
    cameras: CameraColumns = ONE_CAMERA,
    versions: Mapping[str, Mapping[str, int]] | None = None,
) -> Sources:
    """The kept clips of a dataset, a source for each value of the column `source`.

    Raises:
        DatasetError: It has no kept clip of two frames, or an expression fails.
    """
    dataset = Dataset.open(path, versions=(versions or {}).get(""))
    table = _usable(clip_table(dataset, where=where, columns=cameras.sql()).select(COLUMNS))
    names = table["source"].to_numpy(zero_copy_only=False)
    sources = tuple(
        ClipSource(name=name, dataset=str(path), table=table.filter(pa.array(names == name)))
        for name in sorted(set(names.tolist()))
    )
    return Sources(sources=sources, versions={"": dict(dataset.versions)})


def mixture_sources(
    spec: MixtureSpec,
    *,
    cameras: CameraColumns = ONE_CAMERA,
    versions: Mapping[str, Mapping[str, int]] | None = None,
) -> Sources:
    """The clips that each source of a mixture chooses, at its pinned versions; weights are exact.

    Windows and stored latents of the mixture do not matter here.

    Raises:
        ConfigError: A predicate fails.
        DatasetError: A dataset is not there, or a source has no clip of two frames.
    """
    sources, read = [], {}
    for name, source in spec.sources.items():
        pinned = (versions or {}).get(name) or source.versions or None
        dataset = Dataset.open(source.dataset, versions=pinned)
        table = chosen_clips(dataset, name, source, columns=cameras.sql())
        table = _usable(table.sort_by("clip_id"), what=f"Source {name!r}: ")
        read[name] = dict(dataset.versions)
        sources.append(
            ClipSource(name=name, dataset=source.dataset, table=table, weight=source.weight)
        )
    return Sources(sources=tuple(sources), versions=read)


def split(
    sources: Sequence[ClipSource], share: float
) -> tuple[tuple[ClipSource, ...], tuple[ClipSource, ...]]:
    """Sources to train on, and what is held out of them: all clips of some videos.

    What other cameras filmed of a held out clip is held out too. The choice depends on the ids of
    the videos alone, which are digests of their content: other clips, weights or seeds do not move
    a video to the other side. Other videos do only where a source would lose its last one, or where
    the share is less than one video.
    """
    held = held_out_videos([source.videos() for source in sources], share)
    if share > 0 and not held and rank() == 0:
        _log.warning("nothing is held out for validation: every source shows one video alone")
    chosen = pa.array(sorted(held), type=pa.string())
    is_chosen = [pc.is_in(source.table["video_id"], value_set=chosen) for source in sources]
    seen = [
        source.table["recording"].filter(rows).unique()
        for source, rows in zip(sources, is_chosen, strict=True)
    ]
    recordings = pa.chunked_array(seen, pa.string()).drop_null().combine_chunks()
    sides: tuple[list[ClipSource], list[ClipSource]] = ([], [])
    for source, of_video in zip(sources, is_chosen, strict=True):
        is_held = pc.or_(of_video, pc.is_in(source.table["recording"], value_set=recordings))
        for side, rows in zip(sides, (pc.invert(is_held), is_held), strict=True):
            part = replace(source, table=source.table.filter(rows))
            if part.num_clips:
                side.append(part)
    return tuple(sides[0]), tuple(sides[1])


def held_out_videos(videos_by_source: Iterable[Sequence[str]], share: float) -> frozenset[str]:
    """Videos whose digest lies below `share`: one at least, but never all videos of a source."""
    if share <= 0:
        return frozenset()
    by_source = [set(videos) for videos in videos_by_source]
    place = {video: _place(video) for videos in by_source for video in videos}
    always_trained = {max(videos, key=place.__getitem__) for videos in by_source}
    ranked = sorted(place.keys() - always_trained, key=place.__getitem__)
    return frozenset([video for video in ranked if place[video] < share] or ranked[:1])


def _place(video_id: str) -> float:
    """Where a video stands in [0, 1)."""
    digest = hashlib.sha256(f"held out {video_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _usable(table: pa.Table, *, what: str = "") -> pa.Table:
    """Clips of two frames at least."""
    usable = table.filter(pa.array(table["num_frames"].to_numpy() > 1, type=pa.bool_()))
    if not len(usable):
        raise DatasetError(f"{what}No clip has two frames, so there is no pair to train on.")
    return usable.combine_chunks()
