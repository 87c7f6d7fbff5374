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
        order: Where in the table each unit stands.
    """

    table: pa.Table
    order: NDArray[np.int64]

    @classmethod
    def by_number(cls, table: pa.Table) -> PlannedUnits:
        """All units of a table."""
        numbers = table.column("number").to_numpy()
        return cls(table.combine_chunks(), np.argsort(numbers, kind="stable"))

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[PlannedUnit]:
        return map(PlannedUnit.from_row, rows_of(self.table, self.order))

    def sorted_by(self, weights: NDArray[np.float64]) -> PlannedUnits:
        """The units with the largest weight first, those of equal weight as they stand.

        Args:
            weights: Of each row of the table.
        """
        return PlannedUnits(self.table, self.order[np.argsort(-weights[self.order], kind="stable")])

    def parts(self) -> tuple[NDArray[np.int64], pa.StructArray]:
        """The row of its unit in the table, for every part, and the parts themselves."""
        lists = self.table.column("parts").combine_chunks()
        return pc.list_parent_indices(lists).to_numpy().astype(np.int64), lists.flatten()
