"""The clips of a dataset as this package sees them, and where their frames come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import DatasetError

if TYPE_CHECKING:
    from manifests.dataset import Dataset


CLIP_COLUMNS = (
    "clip_id, shard, coalesce(source, '') AS source, coalesce(embodiment, '') AS embodiment, "
    "num_frames, video_id"
)
"""What this package asks of a clip, in SQL."""


class FrameReader(Protocol):
    """Where frames come from; `pipeline.clips.ClipReader` is one."""

    def frames(self, shard: str, clip_id: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB frames (n, H, W, 3) of one clip."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRef:
    """A stored clip as training and extraction see it."""

    clip_id: str
    shard: str
    source: str
    num_frames: int


def list_clips(
    dataset: Dataset, *, where: str = "true", every_written: bool = False
) -> list[ClipRef]:
    """Clips in order of their id: the kept ones, or every one whose bytes were written.

    Raises:
        DatasetError: There are none.
    """
    table = clip_table(dataset, where=where, every_written=every_written)
    names = ["clip_id", "shard", "source", "num_frames"]
    return [ClipRef(**row) for row in table.select(names).to_pylist()]


def clip_table(
    dataset: Dataset,
    *,
    where: str = "true",
    every_written: bool = False,
    columns: str = CLIP_COLUMNS,
) -> pa.Table:
    """`list_clips` as a table with these columns."""
    view = "clips" if every_written else "kept"
    rows = dataset.sql(
        f"SELECT {columns} FROM {view} WHERE gate IS NULL AND ({where}) ORDER BY clip_id"
    )
    if not len(rows):
        raise DatasetError(
            f"{dataset.path} has no {'written' if every_written else 'kept'} clip"
            + (f" where {where}." if where != "true" else "."),
            hint="Look at `egodojo manifest stats` and decide again with a milder recipe."
            if not every_written
            else "Run `egodojo curate` first.",
        )
    return rows
