"""`manifest compact`: many small files of a table become few; only a vacuum takes anything away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import table_history, tables
from .deletion import UNLOCKED_GRACE_S
from .schema import TABLES
from .table_rewrite import merge

if TYPE_CHECKING:
    from .dataset import Dataset

_UNLOCKED = ("decisions",)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactedTable:
    """One table before and after.

    Attributes:
        name: As in `Dataset.versions`.
        num_files_before: Data files of its newest version.
        num_files_after: The same afterwards.
        num_files_removed: Files of older versions that a vacuum took away.
        num_bytes_removed: Their size.
        versions_lost: Versions that could be opened before and cannot any more.
    """

    name: str
    num_files_before: int
    num_files_after: int
    num_files_removed: int = 0
    num_bytes_removed: int = 0
    versions_lost: tuple[int, ...] = ()


def versions_at_stake(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Per table the versions that `compact --vacuum` would make unreadable, where there are any."""
    catalog = dataset.path / "catalog"
    found = {name: table_history.lost_versions(catalog / name) for name in dataset.versions}
    return {name: versions for name, versions in sorted(found.items()) if versions}


def compact(dataset: Dataset, *, command: str, vacuum: bool = False) -> list[CompactedTable]:
    """Merge the small files of every table, under the writer's lock; no row changes.

    Args:
        dataset: An open dataset.
        command: What the lock says to others.
        vacuum: Also remove the files of older versions, which are lost by it.

    Raises:
        LockedError: Another command writes the dataset.
    """
    done: list[CompactedTable] = []
    with dataset.writer(command) as writer:
        for name in sorted(dataset.versions):
            with writer.commit(name) as table:
                tables.refresh(table)
                before = len(tables.live_files(table))
                if before > 1:
                    merge(table)
                after = len(tables.live_files(table))
            removed = table_history.Vacuumed(num_files=0, num_bytes=0, versions=())
            if vacuum:
                is_locked = name in TABLES and name not in _UNLOCKED
                grace_s = 0.0 if is_locked else UNLOCKED_GRACE_S
                removed = table_history.vacuum(dataset.path / "catalog" / name, grace_s=grace_s)
            done.append(
                CompactedTable(
                    name=name,
                    num_files_before=before,
                    num_files_after=after,
                    num_files_removed=removed.num_files,
                    num_bytes_removed=removed.num_bytes,
                    versions_lost=removed.versions,
                )
            )
    return done
