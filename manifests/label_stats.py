"""What was filmed, counted from the labels of `scores/captions`: scenes, tasks, objects, skills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .views import quoted

if TYPE_CHECKING:
    from .dataset import Dataset

LABEL_TABLE = "captions"
LABEL_COLUMNS = ("task", "scene", "objects", "skill")

# A trajectory is one stretch of doing one task: clips of a file that follow each other with less
# than half a second between them and have the same task.
_COUNTS = """
WITH labelled AS (
    SELECT k.source, k.uri, k.start_s, k.end_s, l.task, l.scene, l.objects, l.skill
    FROM kept AS k JOIN {table} AS l USING (clip_id)
), marked AS (
    SELECT *,
        (lag(task) OVER w IS NOT DISTINCT FROM task
            AND start_s - lag(end_s) OVER w < 0.5) IS NOT TRUE AS begins
    FROM labelled WINDOW w AS (PARTITION BY source, uri ORDER BY start_s)
), things AS (
    SELECT source, unnest(objects) AS object FROM labelled
), num_things AS (
    SELECT source, count(DISTINCT object) AS num_objects
    FROM things GROUP BY GROUPING SETS ((source), ())
)
SELECT m.source, m.num_clips, m.hours, m.num_trajectories, m.num_scenes, m.num_tasks,
    coalesce(o.num_objects, 0) AS num_objects, m.num_skills
FROM (
    SELECT source, count(*) AS num_clips,
        coalesce(sum(end_s - start_s), 0.0) / 3600 AS hours,
        count(*) FILTER (begins) AS num_trajectories,
        count(DISTINCT scene) AS num_scenes,
        count(DISTINCT task) AS num_tasks,
        count(DISTINCT skill) AS num_skills
    FROM marked GROUP BY GROUPING SETS ((source), ())
) AS m LEFT JOIN num_things AS o ON o.source IS NOT DISTINCT FROM m.source
ORDER BY m.source NULLS LAST
"""


def label_counts(dataset: Dataset) -> dict[str, Any] | None:
    """Counts over kept clips with labels; None for a dataset without such a table.

    Keys: `num_clips`, `hours`, `num_trajectories`, `num_scenes`, `num_tasks`, `num_objects`,
    `num_skills`, all over the whole dataset, and `sources`: the same for each source.
    """
    if LABEL_TABLE not in dataset.scores:
        return None
    columns = dataset.table(f"scores/{LABEL_TABLE}").schema.names
    if not set(LABEL_COLUMNS) <= set(columns):
        return None
    rows = dataset.sql(_COUNTS.format(table=quoted(LABEL_TABLE))).to_pylist()
    sources = [row for row in rows if row["source"] is not None]
    total = {key: value for key, value in rows[-1].items() if key != "source"}
    return {**total, "sources": sources}


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
