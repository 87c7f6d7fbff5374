"""The one writer of a dataset: appends in the order that makes every kill harmless."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from . import rows, schema, tables
from .deletion import Deleted, finish_deletion, journal_path
from .errors import DatasetError
from .records import UNIT_STATES, PlannedUnit
from .table_rewrite import LARGE, FileSizes, merge

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from .dataset import Dataset
    from .lock import Lock

_log = logging.getLogger(__name__)
_SHARD = re.compile(r"(clips-[0-9]+)(?:\.tar|\.idx\.parquet)\Z")
_TEMPORARY = re.compile(r".+\.tmp-([0-9a-f]+)\Z")

Row = Mapping[str, Any]
_UNITS_AT_ONCE = 128  # each may have hundreds of parts
MERGE_EVERY = 50
"""Commits to `clips`, `units` or `videos` after which the files of the table are merged."""
MERGED = FileSizes(file_bytes=4 * 2**20, group_bytes=2**20)
"""While a run works files are small, so that merging takes neither long nor much memory."""
MANY_FILES = 8
"""Files of a table that are worth merging when a run has ended."""
_GROWING = ("videos", "clips", "units")
_LOCKED = (*_GROWING, "plan")


class Writer:
    """Appends to a dataset while holding its lock; made by `Dataset.writer`.

    Clips are committed before their unit, and a clip counts only when its unit is there. After a
    commit that failed nothing more is written: the rerun looks at what is there and goes on. So
    it is when somebody else has committed: in object storage the last request of a killed writer
    may arrive late, after its successor looked, and the same unit would be there twice.
    """

    def __init__(self, dataset: Dataset, lock: Lock) -> None:
        self._dataset = dataset
        self._lock = lock
        self._has_failed = False
        self._first_free: str | None = None
        self._planned: set[str] = set()
        self._finished: set[str] = set()
        self._num_commits = dict.fromkeys(_GROWING, 0)
        self.finished_deletion: Deleted | None = None
        """What was left to do of a killed `manifest delete`, done on entering."""

    @property
    def token(self) -> str:
        """Ends the names of temporary files: `<final>.tmp-<token>`."""
        return self._lock.token

    def recover(self) -> None:
        """Make good what a killed writer left.

        Clips without a unit, units without their clips, other tokens' temporary files and shards
        that no unit names are removed, an unfinished deletion is finished.
        """
        self._planned = set(self._ids("plan"))
        self._finished = set(self._ids("units"))
        orphans = self._orphans()
        if orphans:
            _log.info("removing clips of %d units that were not committed", len(orphans))
            with self.commit("clips") as table:
                tables.delete(table, "unit_id", orphans)
        self._remove_temporary(lambda token: not token.startswith(self.token))
        if journal_path(self._dataset.path).is_file():
            self.finished_deletion = finish_deletion(self._dataset, self)
        hollow = self._hollow()
        if hollow:
            _log.info("%d units have no clips in the table clips: they are done again", len(hollow))
            with self.commit("units") as table:
                tables.delete(table, "unit_id", hollow)
            self._finished.difference_update(hollow)
        self._remove_unnamed_shards()  # a deletion under way has some of its own

    def remove_leftovers(self) -> None:
        """Remove temporary files of attempts of this run that were killed; none may be at work."""
        self._remove_temporary(lambda token: token.startswith(self.token))

    def append_videos(self, videos: Sequence[Row] | pa.Table) -> None:
        """Append rows of `videos`, in one commit."""
        self._append("videos", videos)

    def replace_videos(self, videos: Sequence[Row]) -> None:
        """Put rows of `videos` in the place of those with their URIs, in one commit."""
        if videos:
            uris = [str(row["uri"]) for row in videos]
            with self.commit("videos") as table:
                tables.replace_where(table, _checked("videos", videos), column="uri", values=uris)

    def append_plan(self, planned: Iterable[Row | PlannedUnit]) -> None:
        """Append rows of `plan`, in one commit, before any of their work begins.

        Raises:
            DatasetError: A unit that is planned already.
        """
        listed = (unit.row() if isinstance(unit, PlannedUnit) else unit for unit in planned)
        chunks = []
        while chunk := list(itertools.islice(listed, _UNITS_AT_ONCE)):
            chunks.append(_checked("plan", chunk))
        plan = pa.concat_tables(chunks) if chunks else schema.PLAN.empty_table()
        ids = plan.column("unit_id").to_pylist()
        _refuse_known(ids, self._planned, "planned")
        self._append("plan", plan)
        self._planned.update(ids)

    def commit_units(self, results: Sequence[tuple[Row, Sequence[Row]]]) -> None:
        """Commit finished units: all their clip rows first, then the units.

        Args:
            results: Per unit its row of `units` and its rows of `clips`.

        Raises:
            DatasetError: A row that does not fit its table or its unit; nothing was written then.
        """
        if not results:
            return
        for unit, clips in results:
            self._check_unit(unit, clips)
        ids = [unit["unit_id"] for unit, _ in results]
        _refuse_known(ids, self._finished, "finished")
        clips = _checked("clips", [clip for _, clips in results for clip in clips])
        units = _checked("units", [unit for unit, _ in results])
        if clips.num_rows:
            with self.commit("clips") as table:
                tables.append(table, clips, merge_schema=True, if_unchanged=True)
        if self._first_free is None:
            self._first_free = str(self._dataset.first_free_number())
        with self.commit("units") as table:
            known = {schema.FIRST_FREE_NUMBER: self._first_free}
            tables.append(table, units, metadata=known, if_unchanged=True)
        self._finished.update(ids)
        for name in ("clips", "units"):
            self._merge_now_and_then(name)

    def tidy(self) -> None:
        """Leave the tables that grew as few large files, which are read in half of the time."""
        for name in _GROWING:
            self._merge(name, LARGE, min_files=MANY_FILES)

    def _merge_now_and_then(self, name: str) -> None:
        """Keep commits cheap: their cost, in time and memory, grows with their number."""
        self._num_commits[name] += 1
        if self._num_commits[name] % MERGE_EVERY == 0:
            self._merge(name, MERGED, min_files=2)

    def _merge(self, name: str, sizes: FileSizes, *, min_files: int) -> None:
        with self.commit(name) as table:
            tables.check_unchanged(table)
            before = table.version()
            merge(table, sizes, min_files=min_files)
            if table.version() == before:
                return
            # What an open table knows of its log grows with every commit: it is opened anew.
            opened = tables.open_table(tables.folder_of(table), table.version())
        self._dataset._tables[name] = opened

    def _append(self, name: str, batch: Sequence[Row] | pa.Table) -> None:
        checked = _checked(name, batch)
        if checked.num_rows:
            with self.commit(name) as table:
                merge_schema = name == "videos"
                tables.append(table, checked, merge_schema=merge_schema, if_unchanged=True)
            if name in _GROWING:
                self._merge_now_and_then(name)

    @contextmanager
    def commit(self, name: str) -> Iterator[DeltaTable]:
        """One commit to a table: checks the lock, and stops all further ones when it fails.

        Raises:
            LockedError: Another command took the lock meanwhile.
            ConflictError: Somebody without the lock committed to a table that needs it.
            DatasetError: An earlier commit failed.
        """
        if self._has_failed:
            raise DatasetError(
                f"An earlier write to {self._dataset.path} failed; nothing more is written.",
                hint="Rerun the command: it goes on from what was committed.",
            )
        self._lock.check()
        table = self._dataset._tables[name]
        before = table.version()
        try:
            yield table
            if name in _LOCKED and table.version() > before + 1:
                raise tables.conflict(table)
        except BaseException:
            self._has_failed = True
            raise
        finally:
            self._dataset._con = None

    def _remove_temporary(self, is_dead: Callable[[str], bool]) -> None:
        for folder in (self._dataset.path, self._dataset.path / "shards"):
            # (A put to object storage leaves none.)
            for file in folder.iterdir() if isinstance(folder, Path) else ():
                found = _TEMPORARY.match(file.name)
                if found and is_dead(found[1]):
                    file.unlink(missing_ok=True)

    def _remove_unnamed_shards(self) -> None:
        """Remove shards that were finished, but whose unit was never committed.

        The rerun of a unit gives the same bytes again, unless its video is gone or was mended
        meanwhile: then nothing would ever replace or name what is there.
        """
        query = "SELECT shard FROM units WHERE shard IS NOT NULL"
        named = set(self._dataset.sql(query).column("shard").to_pylist())
        for file in (self._dataset.path / "shards").iterdir():
            found = _SHARD.match(file.name)
            if found and found[1] not in named:
                _log.info("removing %s, which no unit names", file.name)
                file.unlink(missing_ok=True)

    def _orphans(self) -> list[str]:
        query = "SELECT DISTINCT unit_id FROM _clips ANTI JOIN units USING (unit_id) ORDER BY 1"
        found: list[str] = self._dataset.sql(query).column("unit_id").to_pylist()
        return found

    def _hollow(self) -> list[str]:
        """Units whose commit arrived after a successor had removed their clips as orphans."""
        query = (
            "SELECT unit_id FROM units ANTI JOIN _clips USING (unit_id) "
            "WHERE num_clips + num_gated > 0 ORDER BY 1"
        )
        found: list[str] = self._dataset.sql(query).column("unit_id").to_pylist()
        return found

    def _ids(self, name: str) -> list[str]:
        data = tables.dataset_of(self._dataset._tables[name])
        found: list[str] = data.to_table(["unit_id"]).column("unit_id").to_pylist()
        return found

    def _check_unit(self, unit: Row, clips: Sequence[Row]) -> None:
        unit_id, number = unit.get("unit_id"), unit.get("number")
        if unit_id not in self._planned:
            raise DatasetError(f"Unit {number} ({unit_id}) is not in the plan.")
        if unit.get("state") not in UNIT_STATES:
            raise DatasetError(f"Unit {number}: the state {unit.get('state')!r} is unknown.")
        num_gated = sum(clip.get("gate") is not None for clip in clips)
        if (unit.get("num_clips"), unit.get("num_gated")) != (len(clips) - num_gated, num_gated):
            raise DatasetError(
                f"Unit {number} counts {unit.get('num_clips')} written and "
                f"{unit.get('num_gated')} gated clips, its rows {len(clips) - num_gated} and "
                f"{num_gated}."
            )
        for clip in clips:
            shard = None if clip.get("gate") is not None else unit.get("shard")
            if clip.get("unit_id") != unit_id or clip.get("shard") != shard:
                raise DatasetError(
                    f"Clip {clip.get('clip_id')} does not fit unit {number}: unit_id "
                    f"{clip.get('unit_id')!r}, shard {clip.get('shard')!r}.",
                    hint="A written clip names its unit's shard, a gated one none.",
                )


def _checked(name: str, batch: Sequence[Row] | pa.Table) -> pa.Table:
    return rows.checked_table(
        batch, schema.TABLES[name], table=name, required=schema.REQUIRED[name]
    )


def _refuse_known(ids: Sequence[str], known: set[str], what: str) -> None:
    seen: set[str] = set()
    for unit_id in ids:
        if unit_id in known or unit_id in seen:
            raise DatasetError(
                f"Unit {unit_id} is {what} already.", hint="Each unit is committed once."
            )
        seen.add(unit_id)
