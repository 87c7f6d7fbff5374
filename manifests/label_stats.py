"""What was filmed, counted from the labels of `scores/captions`: scenes, tasks, objects, skills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .views import quoted

if TYPE_CHECKING:
    from .dataset import Dataset

LABEL_TABLE = "captions"
LABEL_COLUMNS = ("task", "scene", "objects", "skill")

KINDS = {"scenes": "scene", "tasks": "task", "objects": "object", "skills": "skill"}

_KEPT = """
SELECT k.source, k.embodiment, k.uri, k.start_s, k.end_s, {columns} FROM (
    SELECT * FROM _decided WHERE verdict = 'keep') AS k {join}
"""

# A trajectory is one stretch of doing one task: clips of a file that follow each other with less
# than half a second between them and have the same task.
_MARKED = """
WITH labelled AS ({labelled}), marked AS (
    SELECT *,
        (lag(task) OVER w IS NOT DISTINCT FROM task
            AND start_s - lag(end_s) OVER w < 0.5) IS NOT TRUE AS begins
    FROM labelled WINDOW w AS (PARTITION BY source, uri ORDER BY start_s)
)
"""

_COUNTS = (
    _MARKED
    + """, things AS (
    SELECT {keys}, unnest(objects) AS object FROM labelled
), num_things AS (
    SELECT {keys}, count(DISTINCT object) AS num_objects
    FROM things GROUP BY GROUPING SETS (({keys}), ())
)
SELECT m.*, coalesce(o.num_objects, 0) AS num_objects
FROM (
    SELECT {keys}, count(*) AS num_clips,
        coalesce(sum(end_s - start_s), 0.0) AS seconds,
        coalesce(sum(end_s - start_s), 0.0) / 3600 AS hours,
        count(*) FILTER (begins) AS num_trajectories,
        count(DISTINCT scene) AS num_scenes,
        count(DISTINCT task) AS num_tasks,
        count(DISTINCT skill) AS num_skills
    FROM marked GROUP BY GROUPING SETS (({keys}), ())
) AS m LEFT JOIN num_things AS o ON {same}
ORDER BY {order}
"""
)


def has_labels(dataset: Dataset) -> bool:
    """Whether there is a table of labels."""
    if LABEL_TABLE not in dataset.scores:
        return False
    return set(LABEL_COLUMNS) <= set(dataset.relation(LABEL_TABLE).columns)


def label_counts(dataset: Dataset) -> dict[str, Any] | None:
    """Counts over kept clips with labels; None for a dataset without such a table.

    Keys: `num_clips`, `seconds`, `hours`, `num_trajectories`, `num_scenes`, `num_tasks`,
    `num_objects`, `num_skills`, all over the whole dataset, and `sources`: the same for each
    source.
    """
    if not has_labels(dataset):
        return None
    join = f"JOIN {quoted(LABEL_TABLE)} AS l USING (clip_id)"
    labelled = _KEPT.format(columns="l.task, l.scene, l.objects, l.skill", join=join)
    rows = _counts(dataset, labelled, ("source",))
    total = {key: value for key, value in rows[-1].items() if key != "source"}
    return {**total, "sources": rows[:-1]}


def contents(dataset: Dataset) -> list[dict[str, Any]]:
    """The same counts over all kept clips: a row per source and embodiment, the total last.

    A clip without a label has its own text as task, and no scene, objects or skill.
    """
    return _counts(dataset, _all_kept(dataset), ("source", "embodiment"))


def trajectory_lengths(dataset: Dataset) -> list[float]:
    """Seconds of every trajectory of the kept clips."""
    query = (
        _MARKED.format(labelled=_all_kept(dataset))
        + """
        SELECT sum(end_s - start_s) AS seconds FROM (
            SELECT *, sum(begins::INT) OVER (PARTITION BY source, uri ORDER BY start_s) AS number
            FROM marked
        ) GROUP BY source, uri, number ORDER BY seconds
    """
    )
    found: list[float] = dataset.sql(query).column("seconds").to_pylist()
    return found


def label_tails(dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """Per kind, every label of kept clips: `label`, `num_clips`, `seconds`; most frequent first."""
    tails = {}
    for kind, name in KINDS.items():
        each = f"SELECT {name} AS label, end_s - start_s AS s FROM labelled"
        if kind == "objects":
            each = (
                "SELECT unnest(list_distinct(objects)) AS label, end_s - start_s AS s FROM labelled"
            )
        tails[kind] = dataset.sql(
            f"WITH labelled AS ({_all_kept(dataset)}) "
            f"SELECT label, count(*) AS num_clips, sum(s) AS seconds FROM ({each}) "
            "WHERE label IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1"
        ).to_pylist()
    return tails


def _all_kept(dataset: Dataset) -> str:
    if has_labels(dataset):
        return _KEPT.format(
            columns="coalesce(l.task, k.text) AS task, l.scene, l.objects, l.skill",
            join=f"LEFT JOIN {quoted(LABEL_TABLE)} AS l USING (clip_id)",
        )
    none = "NULL::VARCHAR AS scene, []::VARCHAR[] AS objects, NULL::VARCHAR AS skill"
    return _KEPT.format(columns=f"k.text AS task, {none}", join="")


def _counts(dataset: Dataset, labelled: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A row per combination of keys, in order; the last one is the total."""
    query = _COUNTS.format(
        labelled=labelled,
        keys=", ".join(keys),
        same=" AND ".join(f"o.{key} IS NOT DISTINCT FROM m.{key}" for key in keys),
        order=", ".join(f"m.{key} NULLS LAST" for key in keys),
    )
    rows: list[dict[str, Any]] = dataset.sql(query).to_pylist()
    return rows


def label_lines(found: dict[str, Any]) -> list[str]:
    """The same as an aligned text table, one line per source and one for all."""
    heads = ("hours", "trajectories", "scenes", "tasks", "objects", "skills")
    rows = [*found["sources"], {"source": "all", **found}]
    cells = [
        [str(row["source"]), f"{row['hours']:.2f}", *(str(row[f"num_{h}"]) for h in heads[1:])]
        for row in rows
    ]
    table = [["labels", *heads], *cells]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = []
    for first, *rest in table:
        padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  " + "  ".join([first.ljust(widths[0]), *padded]))
    return lines
