"""Rows of the table `plan` as columns: a unit is made an object when it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .records import PlannedUnit
from .rows import rows_of


@dataclass(frozen=True, slots=True)
class PlannedUnits:
    """Planned units in some order, as columns: as objects they take ten times the memory.

    Attributes:
        table: Rows of `plan`.
    """

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[PlannedUnit]:
        return map(PlannedUnit.from_row, rows_of(self.table))

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Number of each unit."""
        return np.asarray(self.table.column("number").to_numpy(), np.int64)

    def take(self, places: NDArray[np.int64]) -> PlannedUnits:
        """The units at these places, in their order."""
        return PlannedUnits(self.table.take(pa.array(places)))

    def parts(self) -> tuple[NDArray[np.int64], pa.StructArray]:
        """The place of its unit, for every part, and the parts themselves."""
        lists = self.table.column("parts").combine_chunks()
        return pc.list_parent_indices(lists).to_numpy().astype(np.int64), lists.flatten()
