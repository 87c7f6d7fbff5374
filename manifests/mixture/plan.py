"""A mixture worked out: one immutable Arrow file that says what every training sample is.

`plan.sample(i)` is a pure function of the whole number i: no state, no communication, the same
on every rank and worker, and as quick for i = 2^40 as for i = 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import canonical_json, to_dict
from ..embodiment import Embodiment, embodiment_from_dict
from ..errors import DatasetError
from . import plan_file
from .cycle import WeightCycle
from .order import Int64Array, SourceOrder
from .permutation import hash64, key_of, permute


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSource:
    """One source as the plan found it."""

    name: str
    """Name in the mixture."""
    dataset: str
    """The dataset's folder."""
    versions: dict[str, int]
    """Version of every table that was read."""
    where: str
    """The SQL predicate; empty for all kept clips."""
    weight: int
    """Samples of this source in every cycle."""
    first_row: int
    """First row of this source in the plan."""
    num_clips: int
    """Clips that hold at least one window."""
    num_windows: int
    """Windows on the grid of possible starts, over all those clips."""
    hours: float
    """Length of those clips together."""
    left_out: dict[str, int]
    """Clips the predicate chose that hold no window, by reason."""
    shards: tuple[str, ...]
    """Names of the shards, in row order."""
    shard_rows: tuple[int, ...]
    """First row of each shard, counted from `first_row`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHeader:
    """All of a plan but its rows."""

    format_version: int
    seed: int
    unit: str
    """`clip` or `window`."""
    num_frames: int
    """Frames of a window."""
    frame_size: tuple[int, int]
    """Height and width in pixels."""
    start_step: int
    """Distance in frames between possible starts of a window."""
    shard_block: int
    """Shards per shuffled block; 0: whole source."""
    latents: str | None
    """Model id of the stored latents, or None."""
    sources: tuple[PlanSource, ...]
    embodiments: tuple[Embodiment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training sample: a window of one clip."""

    index: int
    """Position in the whole run."""
    source: str
    """Name of the source."""
    epoch: int
    """Pass over that source; -1 for a substitute."""
    dataset: str
    """Folder of the dataset."""
    shard: str
    """Name of the shard, for instance clips-000000."""
    clip_id: str
    """The clip."""
    embodiment: str
    """Name of the body."""
    first_frame: int
    """First frame of the window, counted in the clip."""
    stride: int
    """Clip frames from one window frame to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Many samples as arrays, all of one length."""

    index: Int64Array
    source: Int64Array
    """Number of the source in `plan.sources`."""
    epoch: Int64Array
    row: Int64Array
    """Row of the clip in the plan."""
    first_frame: Int64Array
    stride: Int64Array


class MixturePlan:
    """A compiled mixture.

    Example:
        plan = MixturePlan.open("mixture.plan")
        plan.sample(12_345).clip_id
        plan.samples(0, 13).source          # (13,): exactly 1, 2 and 10 of the three sources
    """

    def __init__(
        self, header: PlanHeader, columns: Mapping[str, NDArray[Any]], *, path: Path | None = None
    ) -> None:
        """Takes a header and the columns of `plan_file.COLUMNS`; use `open` for a file."""
        self.header = header
        self.columns = dict(columns)
        self.path = path
        self._seed_key = key_of(f"egodojo mixture {header.seed}")
        self._feeds_actions = np.array([body.feeds_actions for body in header.embodiments])
        weights = [source.weight for source in header.sources]
        self.cycle = WeightCycle(weights, key=self._seed_key)
        self._keys = [
            int(hash64(self._seed_key, key_of(source.name))[0]) for source in header.sources
        ]
        self._orders = [self._order(number) for number in range(len(header.sources))]

    @classmethod
    def open(cls, path: Path | str) -> MixturePlan:
        """Maps a plan file into memory.

        Raises:
            DatasetError: There is no such file, or it is no plan of this format.
        """
        header, columns = plan_file.read(Path(path))
        return cls(_header_of(header), columns, path=Path(path).absolute())

    def save(self, path: Path | str) -> MixturePlan:
        """Writes the plan once; a file with the same samples at most learns new folders.

        Raises:
            DatasetError: Another plan is there already: plans never change.
        """
        final = Path(path)
        if final.exists():
            present = MixturePlan.open(final)
            if present.digest != self.digest:
                raise DatasetError(
                    f"{final} holds another plan, and plans are never changed.",
                    hint="Choose another --out, or remove the file when nothing trains on it.",
                )
            if present.header == self.header:  # else the datasets lie elsewhere now
                return present
        plan_file.write(final, to_dict(self.header), self.columns)
        return MixturePlan.open(final)

    @property
    def sources(self) -> tuple[PlanSource, ...]:
        """The sources, in the order of the mixture."""
        return self.header.sources

    @cached_property
    def digest(self) -> str:
        """64 hex digits over all but the folders: plans of one digest give the same samples."""
        sources = tuple(replace(source, dataset="") for source in self.sources)
        state = hashlib.sha256(
            canonical_json(replace(self.header, sources=sources)).encode("ascii")
        )
        for name in plan_file.COLUMNS:
            state.update(np.ascontiguousarray(self.columns[name]).tobytes())
        return state.hexdigest()

    def sample(self, index: int) -> Sample:
        """The index-th training sample of the whole run."""
        return self.describe(self.samples(index, 1), 0)

    def samples(self, start: int, count: int) -> Samples:
        """Samples start .. start + count - 1 as arrays; equal to `sample` one by one."""
        return self.samples_at(np.arange(start, start + count, dtype=np.int64))

    def samples_at(self, index: Int64Array) -> Samples:
        """Samples at any positions, in any order."""
        if index.size and int(index.min()) < 0:
            raise ValueError("sample positions begin at 0")
        source, draw = self.cycle.locate(index)
        epoch, row, first_frame = (np.empty_like(index) for _ in range(3))
        for number in np.unique(source):
            chosen = np.flatnonzero(source == number)
            epochs, units = self._orders[number].locate(draw[chosen])
            epoch[chosen] = epochs
            row[chosen], first_frame[chosen] = self._window(int(number), units, epochs)
        return self._samples(index, source, epoch, row, first_frame)

    def substitute(self, index: int, attempt: int) -> Sample:
        """What takes the place of a bad sample: same source, pure, attempt 1, 2, ... .

        The attempts of one position visit every unit of its source once before any comes again.
        """
        if attempt < 1:
            raise ValueError("attempts count from 1")
        positions = np.array([index], dtype=np.int64)
        source, _ = self.cycle.locate(positions)
        number = int(source[0])
        size = self._orders[number].num_units
        key = hash64(self._keys[number], 0x5AB, index)
        unit = permute((attempt - 1) % size, size, key)
        row, first_frame = self._window(number, unit, hash64(key, attempt).astype(np.int64))
        epoch = np.array([-1], dtype=np.int64)
        return self.describe(self._samples(positions, source, epoch, row, first_frame), 0)

    def describe(self, samples: Samples, position: int) -> Sample:
        """One entry of `samples` in words."""
        row = int(samples.row[position])
        source = self.sources[int(samples.source[position])]
        return Sample(
            index=int(samples.index[position]),
            source=source.name,
            epoch=int(samples.epoch[position]),
            dataset=source.dataset,
            shard=source.shards[int(self.columns["shard"][row])],
            clip_id=bytes(self.columns["clip_id"][row]).hex(),
            embodiment=self.embodiment(row).name,
            first_frame=int(samples.first_frame[position]),
            stride=int(samples.stride[position]),
        )

    def embodiment(self, row: int) -> Embodiment:
        """The body of a row's clip."""
        return self.header.embodiments[int(self.columns["embodiment"][row])]

    def body(self, name: str) -> Embodiment:
        """A body of this plan by name."""
        return next(body for body in self.header.embodiments if body.name == name)

    def check_files(self) -> None:
        """Looks for every shard the plan names.

        Raises:
            DatasetError: A dataset or a shard is gone.
        """
        for source in self.sources:
            plan_file.check_shards(source.name, source.dataset, source.shards)

    def _order(self, number: int) -> SourceOrder:
        source = self.sources[number]
        first, size = np.array(source.shard_rows, dtype=np.int64), source.num_clips
        if self.header.unit == "window":
            first, size = self._windows_before(number)[first], source.num_windows
        units = np.append(first, size)
        return SourceOrder(units, key=self._keys[number], shard_block=self.header.shard_block)

    def _windows_before(self, number: int) -> Int64Array:
        """(num_clips,) windows of this source before each of its rows."""
        source = self.sources[number]
        first: Int64Array = self.columns["first_window"]
        return first[source.first_row : source.first_row + source.num_clips]

    def _window(
        self, number: int, unit: Int64Array, salt: Int64Array
    ) -> tuple[Int64Array, Int64Array]:
        """Row and first frame of units of one source; `salt` varies the starts of clips."""
        first_row = self.sources[number].first_row
        if self.header.unit == "window":
            before = self._windows_before(number)
            row = np.searchsorted(before, unit, side="right") - 1
            start = unit - before[row]
            row = row + first_row
        else:
            row = unit + first_row
            starts = self.columns["num_starts"][row].astype(np.uint64)
            start = (hash64(self._keys[number], salt, unit) % starts).astype(np.int64)
        return row, self._lead(row) + start * self.header.start_step

    def _lead(self, row: Int64Array) -> Int64Array:
        """Frames before the earliest start: room for the action row before a window."""
        stride = self.columns["stride"][row].astype(np.int64)
        return np.where(self._feeds_actions[self.columns["embodiment"][row]], stride, 0)

    def _samples(
        self,
        index: Int64Array,
        source: Int64Array,
        epoch: Int64Array,
        row: Int64Array,
        first_frame: Int64Array,
    ) -> Samples:
        return Samples(
            index=index,
            source=source,
            epoch=epoch,
            row=row,
            first_frame=first_frame,
            stride=self.columns["stride"][row].astype(np.int64),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A saved plan travels to other processes as its path, another one with its rows."""
        if self.path is not None:
            return MixturePlan.open, (str(self.path),)
        return MixturePlan, (self.header, self.columns)


def make_plan(header: PlanHeader, rows: Sequence[Mapping[str, NDArray[Any]]]) -> MixturePlan:
    """Joins the rows of each source (without `first_window`) under a header."""
    names = [name for name in plan_file.COLUMNS if name != "first_window"]
    columns = {name: np.concatenate([part[name] for part in rows]) for name in names}
    counts = [part["num_starts"].astype(np.int64) for part in rows]
    columns["first_window"] = np.concatenate([np.cumsum(count) - count for count in counts])
    kinds = {name: kind.to_pandas_dtype() for name, kind in plan_file.COLUMNS.items()}
    kinds["clip_id"] = np.uint8
    return MixturePlan(header, {name: columns[name].astype(kinds[name]) for name in kinds})


def _header_of(values: Mapping[str, Any]) -> PlanHeader:
    """A header from its JSON; built by hand, since sources may name a million shards."""
    sources = tuple(
        PlanSource(
            **{
                **source,
                "shards": tuple(source["shards"]),
                "shard_rows": tuple(source["shard_rows"]),
            }
        )
        for source in values["sources"]
    )
    bodies = tuple(embodiment_from_dict(body) for body in values["embodiments"])
    size = tuple(values["frame_size"])
    return PlanHeader(**{**values, "frame_size": size, "sources": sources, "embodiments": bodies})
