"""SQL views over a dataset's tables: clips with their verdict and scores, and one fate per file."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import duckdb
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from .records import DELETED_STAGE, NOTE_STAGES, WORKER_DIED_STAGE
from .tables import connect

RESERVED = ("videos", "plan", "units", "clips", "kept", "files", "decisions")
"""Names of views, which no score table may take."""

FILE_STATES = (
    "unreadable",
    "duplicate",
    "pending",
    "quarantined",
    "failed",
    "processed",
    "no_clips",
)
"""What becomes of an input; the first that fits."""

_PATTERN = re.compile(r"[*?\[\]{}]")  # DuckDB would look for other files

_NOTES = ", ".join(f"'{stage}'" for stage in NOTE_STAGES)

# A clip counts only when its unit is in `units`: the rows of a killed commit stay invisible.
_COMMITTED = """
CREATE TEMP VIEW _committed AS
SELECT * FROM _clips WHERE unit_id IN (SELECT unit_id FROM units)
"""

# The view `clips` without scores: for counts, which would join every score table for nothing.
_DECIDED = """
CREATE TEMP VIEW _decided AS
SELECT c.*, d.verdict, d.reason FROM _committed AS c LEFT JOIN decisions AS d USING (clip_id)
"""

_KEPT = "CREATE TEMP VIEW kept AS SELECT * FROM clips WHERE verdict = 'keep'"

_FILES = f"""
CREATE TEMP VIEW files AS
WITH parts AS (
    SELECT unit_id, unnest(parts) AS part FROM plan
), planned AS (
    SELECT
        part.uri AS uri,
        any_value(part.video_id) AS video_id,
        bool_or(u.unit_id IS NULL) AS is_pending,
        coalesce(bool_or(u.state = 'quarantined'), false) AS in_quarantined_unit,
        coalesce(bool_or(u.state = 'failed'), false) AS in_failed_unit
    FROM parts LEFT JOIN units AS u USING (unit_id)
    GROUP BY part.uri
), planned_once AS (
    SELECT video_id, min(uri) AS uri FROM planned GROUP BY video_id
), problems AS (
    SELECT number, unnest(problems) AS problem FROM units
), problem_of AS (
    SELECT
        problem.video_id AS video_id,
        bool_or(problem.stage = '{WORKER_DIED_STAGE}') AS worker_died,
        bool_or(problem.stage NOT IN ({_NOTES})) AS has_failed,
        bool_or(problem.stage = '{DELETED_STAGE}') AS was_deleted,
        first(problem ORDER BY problem.stage <> '{WORKER_DIED_STAGE}', number, problem.stage)
            FILTER (problem.stage NOT IN ({_NOTES})) AS worst,
        first(problem.error ORDER BY number, problem.stage)
            FILTER (problem.stage IN ({_NOTES})) AS note,
        coalesce(sum(problem.num_frames_expected - problem.num_frames_decoded), 0) > 0
            AS is_damaged
    FROM problems GROUP BY problem.video_id
), totals AS MATERIALIZED (
    SELECT uri, gate, verdict, reason, count(*) AS num_clips, sum(end_s - start_s) AS length_s
    FROM _decided GROUP BY ALL
), clip_counts AS (
    SELECT
        uri,
        coalesce(sum(num_clips) FILTER (gate IS NULL), 0)::BIGINT AS num_clips,
        coalesce(sum(num_clips) FILTER (gate IS NOT NULL), 0)::BIGINT AS num_gated,
        coalesce(sum(num_clips) FILTER (verdict = 'keep'), 0)::BIGINT AS num_kept,
        coalesce(sum(num_clips) FILTER (verdict IS NOT NULL), 0)::BIGINT AS num_decided,
        coalesce(sum(length_s) FILTER (gate IS NULL), 0.0) AS written_s,
        coalesce(sum(length_s) FILTER (verdict = 'keep'), 0.0) AS kept_s
    FROM totals GROUP BY uri
), drops AS (
    SELECT
        uri,
        coalesce(gate, reason) AS why,
        round(sum(length_s), 6) AS dropped_s,
        coalesce(sum(num_clips) FILTER (gate IS NOT NULL), 0)::BIGINT AS num_gated
    FROM totals WHERE gate IS NOT NULL OR verdict = 'drop'
    GROUP BY ALL
), drop_reason AS (
    SELECT
        uri,
        first(why ORDER BY dropped_s DESC, why) AS most_seconds,
        first(why ORDER BY num_gated DESC, why) AS most_gated
    FROM drops GROUP BY uri
), fates AS (
    SELECT
        v.*,
        CASE
            WHEN v.state = 'unreadable' THEN 'unreadable'
            WHEN p.uri IS NULL AND o.uri IS NOT NULL THEN 'duplicate'
            WHEN p.uri IS NULL OR p.is_pending THEN 'pending'
            WHEN coalesce(q.worker_died, false) THEN 'quarantined'
            WHEN p.in_quarantined_unit AND NOT coalesce(q.has_failed, false) THEN 'quarantined'
            WHEN p.in_failed_unit OR coalesce(q.has_failed, false) THEN 'failed'
            WHEN coalesce(c.num_clips, 0) > 0 THEN 'processed'
            ELSE 'no_clips'
        END AS fate,
        o.uri AS planned_uri, q.worst, q.note, q.is_damaged, q.was_deleted,
        c.num_clips, c.num_gated, c.num_kept, c.num_decided, c.written_s, c.kept_s,
        d.most_seconds, d.most_gated
    FROM videos AS v
    LEFT JOIN planned AS p ON p.uri = v.uri
    LEFT JOIN planned_once AS o ON o.video_id = v.video_id
    LEFT JOIN problem_of AS q ON q.video_id = v.video_id
    LEFT JOIN clip_counts AS c ON c.uri = v.uri
    LEFT JOIN drop_reason AS d ON d.uri = v.uri
)
SELECT
    uri, source, embodiment, video_id,
    fate AS state,
    CASE fate
        WHEN 'unreadable' THEN reason
        WHEN 'duplicate' THEN 'duplicate'
        WHEN 'quarantined' THEN coalesce(worst.stage, 'unit')
        WHEN 'failed' THEN coalesce(worst.stage, 'unit')
        WHEN 'processed' THEN most_seconds
        WHEN 'no_clips' THEN CASE WHEN was_deleted THEN '{DELETED_STAGE}' ELSE most_gated END
    END AS reason,
    CASE fate
        WHEN 'unreadable' THEN detail
        WHEN 'duplicate' THEN planned_uri
        WHEN 'quarantined' THEN worst.error
        WHEN 'failed' THEN worst.error
        WHEN 'processed' THEN note
        WHEN 'no_clips' THEN note
    END AS detail,
    fate NOT IN ('unreadable', 'duplicate') AND coalesce(is_damaged, false) AS is_damaged,
    duration_s,
    num_frames_declared,
    coalesce(num_clips, 0) AS num_clips,
    coalesce(num_gated, 0) AS num_gated,
    coalesce(num_kept, 0) AS num_kept,
    coalesce(written_s, 0.0) AS written_s,
    coalesce(kept_s, 0.0) AS kept_s,
    CASE
        WHEN num_kept > 0 THEN 'keep'
        WHEN fate = 'pending' THEN NULL
        WHEN coalesce(num_clips, 0) > 0 AND num_decided = 0 THEN NULL
        ELSE 'drop'
    END AS verdict
FROM fates
"""


_MOST_FILES = 2000
"""DuckDB looks into every file of a table for each query; above this pyarrow reads them, late."""


def open_views(
    tables: Mapping[str, pads.Dataset], scores: Mapping[str, pads.Dataset]
) -> duckdb.DuckDBPyConnection:
    """A DuckDB in which the tables, the score tables and the views of `RESERVED` can be queried.

    In `clips`, `kept` and so in recipes, every score table is one struct column of its name:
    `hands.hands_ratio` reads a score with no join written by hand, NULL where a clip has none.
    """
    con = connect()
    for name, data in tables.items():
        _show(con, "_clips" if name == "clips" else name, data)
    for name, data in scores.items():
        _show(con, name, data)
    con.execute(_COMMITTED)
    con.execute(_DECIDED)
    con.execute(clips_view({name: data.schema.names for name, data in scores.items()}))
    con.execute(_KEPT)
    con.execute(_FILES)
    return con


def _show(con: duckdb.DuckDBPyConnection, name: str, data: pads.Dataset) -> None:
    """Make a table a view: by DuckDB's own Parquet reader where it can, which is twice as fast.

    Only so does DuckDB know how many rows a table has, and build its joins from the smaller one.
    The columns are those of the dataset, whatever older files lack.
    """
    files = data.files if isinstance(data, pads.FileSystemDataset) else []
    is_plain = isinstance(getattr(data, "filesystem", None), pafs.LocalFileSystem)
    if not (files and is_plain) or len(files) > _MOST_FILES or _PATTERN.search("".join(files)):
        con.register(name, data)
        return
    empty = f"_no_{name.removeprefix('_')}"
    con.register(empty, data.schema.empty_table())
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    con.execute(
        f"CREATE TEMP VIEW {quoted(name)} AS SELECT * FROM {quoted(empty)} UNION ALL BY NAME "
        f"SELECT * FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    )


def clips_view(scores: Mapping[str, list[str]]) -> str:
    """SQL of the view `clips`: committed clips, their decision and a struct per score table."""
    query = f"""
        SELECT clips.*, decisions.verdict, decisions.reason FROM ({scored_clips(scores)}) AS clips
        LEFT JOIN decisions USING (clip_id)"""
    return f"CREATE TEMP VIEW clips AS {query}"


def scored_clips(scores: Mapping[str, list[str]], *, by_field: Container[str] = ()) -> str:
    """A query of committed clips with a struct per score table, of these columns of it.

    Args:
        scores: Columns by score table.
        by_field: Tables of which only single values are asked for. Rows without any of these are
            left out of the join, which is smaller by as much: their struct is NULL then, as the
            values in it are.
    """
    columns, joins = [], []
    for index, (name, names) in enumerate(scores.items()):
        listed = [quoted(n) for n in names if n != "clip_id"]
        packed = f"struct_pack({', '.join(f'{n} := {n}' for n in listed)})" if listed else "true"
        known = " OR ".join(f"{n} IS NOT NULL" for n in listed)
        where = f" WHERE {known}" if name in by_field and known else ""
        columns.append(f", s{index}.packed AS {quoted(name)}")
        joins.append(
            f"LEFT JOIN (SELECT clip_id, {packed} AS packed FROM {quoted(name)}{where}) "
            f"AS s{index} USING (clip_id)"
        )
    return f"SELECT c.*{''.join(columns)} FROM _committed AS c {' '.join(joins)}"


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
