"""A dataset folder: open it at pinned versions, query it, and get the one writer of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from . import rows, schema, storage, tables, views
from .errors import ConfigError, DatasetError
from .locations import Location, ObjectPath, location
from .planned import PlannedUnits
from .records import Clip
from .settings import (
    SETTINGS_FILE,
    DatasetSettings,
    EncodeSettings,
    check_same_settings,
    read_settings,
    settings_text,
)

if TYPE_CHECKING:
    import duckdb
    from deltalake import DeltaTable

    from .writer import Writer

__all__ = ["Dataset", "DatasetSettings", "EncodeSettings"]

Verdict = Literal["keep", "drop", "all"]

_CATALOG = "catalog"
_SCORES = "scores"
# Units before clips: a clip is shown only when its unit was seen. Plan and videos last, decisions
# (and scores) first: so whatever one table refers to is seen in the other.
_OPEN_ORDER = ("decisions", "units", "clips", "plan", "videos")
_OWN_ENTRIES = {"catalog", "shards", "runs", "latents", "tokens", "index", "preview"}
_SCORE_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Dataset:
    """A dataset folder at fixed versions of its tables.

    Example:
        >>> dataset = Dataset.open("DATASET")  # doctest: +SKIP
        >>> dataset.clips.count("*")  # kept clips, a DuckDB relation  # doctest: +SKIP
        >>> dataset.sql("SELECT state, count(*) FROM files GROUP BY 1")  # doctest: +SKIP
    """

    def __init__(
        self,
        path: Location,
        settings: DatasetSettings,
        opened: dict[str, DeltaTable],
        *,
        pinned: bool,
    ) -> None:
        """Use `Dataset.open` or `Dataset.create`."""
        self.path = path
        self.settings = settings
        self._tables = opened
        self._is_pinned = pinned
        self._con: duckdb.DuckDBPyConnection | None = None

    @classmethod
    def create(cls, path: Location | str, settings: DatasetSettings) -> Dataset:
        """Make an empty dataset: all tables first, `dataset.yaml` last, so a kill can be redone.

        Raises:
            DatasetError: The folder is a dataset already, holds other things, or its path has
                a character that tables cannot handle.
        """
        folder = cls.check_new(path)
        for name, table_schema in schema.TABLES.items():
            tables.create(folder / _CATALOG / name, table_schema)
        for name in ("shards", "runs"):
            (folder / name).mkdir(exist_ok=True)
        text = settings_text(settings)
        if not storage.write_new(folder / SETTINGS_FILE, text.encode("utf-8")):
            raise DatasetError(
                f"{folder} was made a dataset by another command just now.",
                hint="Rerun the command: it goes on with it.",
            )
        return cls.open(folder)

    @staticmethod
    def check_new(path: Location | str) -> Location:
        """The absolute folder a dataset can be made in; makes nothing.

        Raises:
            DatasetError: As `create`.
        """
        folder = _resolved(path)
        if (folder / SETTINGS_FILE).exists():
            raise DatasetError(
                f"{folder} is a dataset already.", hint="Open it, or choose another."
            )
        _refuse_foreign(folder)
        return folder

    @classmethod
    def open(cls, path: Location | str, versions: Mapping[str, int] | None = None) -> Dataset:
        """Open a dataset at its newest state, or exactly at `versions`.

        Args:
            path: The dataset folder.
            versions: Table name (`clips`, `scores/hands`, ...) to version, as in `.versions`;
                a table not named is opened at its newest. Such a dataset is read-only.

        Raises:
            DatasetError: Not a dataset, a table missing, or a version that is lost.
        """
        folder = _resolved(path)
        settings = read_settings(folder)
        wanted = versions or {}
        _check_versions(wanted)
        scores = {*_score_tables(folder), *(name for name in wanted if name not in _OPEN_ORDER)}
        opened = {
            name: tables.open_table(folder / _CATALOG / name, wanted.get(name))
            for name in (*sorted(scores), *_OPEN_ORDER)
        }
        return cls(folder, settings, opened, pinned=versions is not None)

    @classmethod
    def open_or_create(cls, path: Location | str, settings: DatasetSettings) -> Dataset:
        """Open a dataset made with the same settings, or make it.

        Raises:
            ConfigError: It was made with another gate, clip or encode setting.
        """
        folder = _resolved(path)
        if not (folder / SETTINGS_FILE).exists():
            return cls.create(folder, settings)
        dataset = cls.open(folder)
        check_same_settings(dataset.settings, settings, folder)
        return dataset

    @property
    def versions(self) -> dict[str, int]:
        """Version of every table this dataset shows; pass it to `open` to see the same again."""
        return {name: table.version() for name, table in self._tables.items()}

    @property
    def scores(self) -> list[str]:
        """Names of the score tables."""
        prefix = f"{_SCORES}/"
        return [name.removeprefix(prefix) for name in self._tables if name.startswith(prefix)]

    def refresh(self) -> None:
        """See the newest state; a dataset opened at given versions stays where it is."""
        if not self._is_pinned:
            self._tables = Dataset.open(self.path)._tables
            self._con = None

    def table(self, name: str) -> pa.Table:
        """All rows of a table (`clips`: of committed units, facts only; `scores/hands`: a score).

        Raises:
            DatasetError: There is no such table.
        """
        if name not in self._tables:
            from .config import nearest

            hint = nearest(name, [*self._tables])
            raise DatasetError(f"{self.path} has no table {name!r}.", hint=hint)
        if name == "clips":
            return self._query("SELECT * FROM _committed")
        with self._reading():
            return tables.dataset_of(self._tables[name], schema.TABLES.get(name)).to_table()

    def metadata(self, name: str) -> dict[str, str]:
        """What the newest commit with metadata says about a table: recipe, model, digest, ..."""
        path = self.path / _CATALOG / name
        return tables.metadata_of(path, self._tables[name].version())

    def sql(self, query: str) -> pa.Table:
        """Run one SQL query over videos, plan, units, clips, kept, files, decisions and scores.

        Raises:
            DatasetError: The query is wrong; DuckDB's words are passed on.
        """
        import duckdb

        if not query.strip():
            raise DatasetError("The query is empty.", hint="For instance: SELECT * FROM files")
        try:
            return self._query(query)
        except (duckdb.Error, UnicodeError) as error:
            raise DatasetError(
                f"The query failed: {' '.join(str(error).split())}",
                hint=f"Views: {', '.join([*views.RESERVED, *self.scores])}.",
            ) from error

    def relation(self, name: str, verdict: Verdict = "keep") -> duckdb.DuckDBPyRelation:
        """A view or score table as a DuckDB relation; `clips` only those with this verdict.

        Raises:
            DatasetError: There is no such view, or no such verdict.
        """
        from .config import nearest

        for what, value, known in (
            ("view", name, [*views.RESERVED, *self.scores]),
            ("verdict", verdict, [*get_args(Verdict)]),
        ):
            if value not in known:
                hint = nearest(value, known)
                raise DatasetError(f"{self.path} has no {what} {value!r}.", hint=hint)
        where = ""
        if name == "clips" and verdict != "all":
            where = f" WHERE verdict = '{verdict}'"
        relation = self.connection().sql(f"SELECT * FROM {views.quoted(name)}{where}")
        assert relation is not None
        return relation

    @property
    def videos(self) -> duckdb.DuckDBPyRelation:
        """One row per input file: header facts."""
        return self.relation("videos")

    @property
    def clips(self) -> duckdb.DuckDBPyRelation:
        """Kept clips with facts, measures, verdict and a struct per score table."""
        return self.relation("clips")

    @property
    def files(self) -> duckdb.DuckDBPyRelation:
        """One row per input file: what became of it and why."""
        return self.relation("files")

    def clip(self, clip_id: str) -> Clip:
        """One clip, whatever its verdict.

        Raises:
            DatasetError: There is no such clip.
        """
        cursor = self.connection()
        query = "SELECT c.*, d.verdict, d.reason FROM _committed c LEFT JOIN decisions d"
        found = cursor.sql(f"{query} USING (clip_id) WHERE clip_id = $1", params=[clip_id])
        listed = found.to_arrow_table().to_pylist()
        if not listed:
            raise DatasetError(
                f"{self.path} has no clip {clip_id!r}.",
                hint="`egodojo manifest sql DATASET 'SELECT clip_id FROM clips'` lists them.",
            )
        return Clip.from_row(listed[0])

    def pending_units(self) -> PlannedUnits:
        """Planned units without a row in `units`, by number: what is left to do."""
        plan = self.table("plan")
        done = self._query("SELECT unit_id FROM units").column("unit_id").combine_chunks()
        is_done = pc.is_in(plan.column("unit_id"), value_set=done)
        if pc.any(is_done).as_py():
            plan = plan.filter(pc.invert(is_done))
        return PlannedUnits.by_number(plan)

    def first_free_number(self) -> int:
        """The number of the next unit or shard: never one that was used, even by a deleted shard.

        Numbers of shards that are gone are kept in the metadata of commits to `units`.
        """
        used = self._query(
            "SELECT number FROM plan UNION ALL SELECT "
            "CAST(split_part(shard, '-', 2) AS BIGINT) FROM units WHERE shard IS NOT NULL"
        )
        highest = pc.max(used.column("number")).as_py()
        kept = int(self.metadata("units").get(schema.FIRST_FREE_NUMBER, 0))
        return max(kept, 0 if highest is None else highest + 1)

    @contextmanager
    def writer(self, command: str) -> Iterator[Writer]:
        """Hold the dataset's lock, tidy what a killed writer left, and write.

        Args:
            command: What the sentence says to whoever is refused meanwhile.

        Raises:
            LockedError: Another command writes this dataset.
            DatasetError: This dataset was opened at given versions.
        """
        from .lock import locked
        from .writer import Writer

        self.check_writable()
        with locked(self.path, command) as lock:
            self.refresh()
            writer = Writer(self, lock)
            writer.recover()
            yield writer

    def replace_decisions(
        self,
        decided: pa.Table | Callable[[], pa.RecordBatchReader],
        *,
        metadata: Mapping[str, str],
    ) -> None:
        """Put new decisions in the place of the old ones, in one commit. Needs no lock.

        Args:
            decided: All rows, or what gives a reader of them: again if somebody else was faster.
            metadata: The recipe.
        """
        self.check_writable()

        def checked() -> pa.RecordBatchReader:
            given = decided() if callable(decided) else decided.to_reader()
            batches = (_checked_decisions(batch) for batch in given)
            return pa.RecordBatchReader.from_batches(schema.DECISIONS, batches)

        tables.replace(self._tables["decisions"], checked, metadata=metadata)
        self._con = None

    def append_score(
        self,
        name: str,
        table: pa.Table,
        *,
        metadata: Mapping[str, str],
        replace: bool = False,
        dry_run: bool = False,
    ) -> None:
        """Add rows to `scores/<name>`, one per clip; the first call makes the table. No lock.

        Args:
            name: snake_case; SQL and recipes read `<name>.<column>`.
            table: `clip_id` and columns of string, int64, double, bool, lists and structs.
            metadata: What made it: model or command, and its digest.
            replace: Put these rows in the place of all older ones.
            dry_run: Check the rows only.

        Raises:
            DatasetError: A taken name, a clip scored twice, an unfit column, NaN.
        """
        self.check_writable()
        check_score_name(name)
        key, path = f"{_SCORES}/{name}", self.path / _CATALOG / _SCORES / name
        wanted = rows.score_schema(table, name=name)
        checked = rows.checked_table(table, wanted, table=key, required=("clip_id",))
        if dry_run:
            _refuse_twice(checked, key)
            return
        if not tables.exists(path):
            tables.create(path, wanted)
        opened = tables.open_table(path)
        if replace:
            _refuse_twice(checked, key)
            tables.replace(opened, checked, metadata=metadata)
        else:
            _add_scores(opened, checked, key=key, metadata=metadata)
        self._tables[key] = opened
        self._con = None

    def check_writable(self) -> None:
        """Raise DatasetError when this dataset was opened at given versions."""
        if self._is_pinned:
            raise DatasetError(
                f"{self.path} was opened at given versions, which are read-only.",
                hint="Open it without versions to write.",
            )

    def connection(self) -> duckdb.DuckDBPyConnection:
        """The private DuckDB in which the views live, for code that must bind expressions."""
        if self._con is None:
            self._con = views.open_views(*self._data())
        return self._con

    def outline(self) -> duckdb.DuckDBPyConnection:
        """The same views without rows: expressions are bound in it without opening a file."""
        rowless = [
            {name: pads.dataset(data.schema.empty_table()) for name, data in group.items()}
            for group in self._data()
        ]
        return views.open_views(*rowless)

    def _data(self) -> tuple[dict[str, pads.Dataset], dict[str, pads.Dataset]]:
        known = schema.TABLES
        with self._reading():
            data = {n: tables.dataset_of(self._tables[n], known[n]) for n in known}
            scores = {n: tables.dataset_of(self._tables[f"{_SCORES}/{n}"]) for n in self.scores}
        return data, scores

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say in one sentence that a file of the catalogue is gone or damaged."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"A table of {self.path} cannot be read: {' '.join(str(error).split())}",
                hint="A file below catalog/ is gone or damaged; restore it from a copy.",
            ) from error

    def _query(self, query: str) -> pa.Table:
        found = self.connection().sql(query)
        if found is None:
            return pa.table({})
        return found.to_arrow_table()


def check_score_name(name: str) -> None:
    """Raise DatasetError when no score table can have this name."""
    if not _SCORE_NAME.match(name) or name in (*views.RESERVED, *schema.CLIPS.names):
        raise DatasetError(
            f"A score table cannot be called {name!r}.",
            hint="Choose a snake_case name that is no view and no column of clips.",
        )


def _checked_decisions(batch: pa.RecordBatch) -> pa.RecordBatch:
    required = schema.REQUIRED["decisions"]
    checked = rows.checked_table(
        pa.Table.from_batches([batch]), schema.DECISIONS, table="decisions", required=required
    )
    return checked.combine_chunks().to_batches()[0]


def _resolved(path: Location | str) -> Location:
    folder = location(path).expanduser().resolve()
    tables.check_path(folder)
    return folder


def _check_versions(versions: Mapping[str, int]) -> None:
    for name, version in versions.items():
        if name not in _OPEN_ORDER and not name.startswith(f"{_SCORES}/"):
            from .config import nearest

            raise DatasetError(
                f"There is no table {name!r} to open at version {version}.",
                hint=nearest(name, _OPEN_ORDER),
            )
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise DatasetError(f"The version of table {name} is {version!r}, not a whole number.")


def _refuse_foreign(folder: Location) -> None:
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file, not a folder for a dataset.")
    present = (entry.name for entry in folder.iterdir()) if folder.is_dir() else iter(())
    for name in sorted(present):
        if name not in _OWN_ENTRIES and not name.startswith(SETTINGS_FILE):
            raise DatasetError(
                f"{folder} is not empty and not a dataset: it holds {name!r}.",
                hint="Choose a new or an empty folder.",
            )


def _score_tables(folder: Location) -> list[str]:
    scores = folder / _CATALOG / _SCORES
    if isinstance(scores, ObjectPath):
        found = [f"{_SCORES}/{entry.name}" for entry in scores.iterdir()]
    else:
        logs = scores.glob("*/_delta_log")
        found = [f"{_SCORES}/{log.parent.name}" for log in logs if tables.exists(log.parent)]
    return found


def _add_scores(table: DeltaTable, new: pa.Table, *, key: str, metadata: Mapping[str, str]) -> None:
    """Append after a look at what is there, again whenever somebody else was faster."""
    while True:
        _check_score_columns(tables.schema_of(table), new.schema, key)
        old = tables.dataset_of(table).to_table(["clip_id"])
        _refuse_twice(pa.concat_tables([old, new.select(["clip_id"])]), key)
        try:
            tables.append(table, new, metadata=metadata, merge_schema=True, if_unchanged=True)
            return
        except tables.ConflictError:
            tables.refresh(table)


def _check_score_columns(old: pa.Schema, new: pa.Schema, key: str) -> None:
    for column in new:
        if column.name in old.names and not old.field(column.name).type.equals(column.type):
            raise ConfigError(
                f"Table {key}: column {column.name} has the type {old.field(column.name).type} "
                f"there and {column.type} here.",
                hint="Give the new column another name, or replace the table.",
            )


def _refuse_twice(table: pa.Table, key: str) -> None:
    counts = table.group_by("clip_id").aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts.column("count_all"), 1)).column("clip_id")
    if len(twice):
        raise DatasetError(
            f"Table {key}: clip {twice[0].as_py()} would have two rows.",
            hint="Score each clip once, or replace the table.",
        )
