"""Two more sections with pictures: clusters of duplicates, and what the last decision changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from manifests.dataset import Dataset
from manifests.difference import Difference, last_difference
from manifests.errors import DatasetError
from manifests.markup import length, plural, table

from .facts import Facts, clips_of
from .sheets import TileMaker, measured, sheet

TABLES = {"duplicates": "that show the same", "semantic": "of the same content"}
"""Tables of clusters, and what their members have in common."""

NUM_CLUSTERS = 10
NUM_PER_CLUSTER = 4
NUM_CHANGED = 8
_ROWS_AT_ONCE = 100_000
_CHANGED = f"""
SELECT clip_id, now.verdict, now.reason, before.reason AS reason_before
FROM decisions AS now JOIN _decided_before AS before USING (clip_id)
WHERE now.verdict <> before.verdict
QUALIFY row_number() OVER (PARTITION BY now.verdict ORDER BY clip_id) <= {NUM_CHANGED}
ORDER BY clip_id
"""
_COLUMNS = {"clip_id", "cluster_id", "duplicate_of", "distance"}


def clusters(dataset: Dataset, tiles: TileMaker) -> str:
    """The largest clusters of every table of duplicates with pictures; empty without one."""
    found = [name for name in TABLES if _has_clusters(dataset, name)]
    return "".join(_clusters_of(dataset, name, tiles) for name in found)


def _clusters_of(dataset: Dataset, table: str, tiles: TileMaker) -> str:
    alike = TABLES[table]
    (total,) = dataset.sql(
        f"""
        WITH sizes AS (
            SELECT cluster AS id, count(*) AS clips,
                count(*) FILTER (original IS NOT NULL) AS copies,
                coalesce(sum(end_s - start_s) FILTER (original IS NOT NULL), 0.0) AS seconds
            FROM ({_members(dataset, table)}) GROUP BY 1 HAVING clips > 1
        )
        SELECT count(*) AS clusters, coalesce(sum(clips), 0) AS clips,
            coalesce(sum(copies), 0) AS copies, coalesce(sum(seconds), 0.0) AS seconds FROM sizes"""
    ).to_pylist()
    if not total["clusters"]:
        return f'<p class="note">There are no two clips {alike}.</p>'
    rows: list[dict[str, Any]] = dataset.sql(
        f"""
        WITH members AS (
            SELECT *, count(*) OVER (PARTITION BY cluster) AS size,
                row_number() OVER (PARTITION BY cluster ORDER BY
                    original IS NOT NULL, distance, clip_id) AS place
            FROM ({_members(dataset, table)})
        ), largest AS (
            SELECT cluster FROM members WHERE size > 1 GROUP BY cluster, size
            ORDER BY size DESC, min(clip_id) LIMIT {NUM_CLUSTERS}
        )
        SELECT * FROM members WHERE cluster IN (SELECT cluster FROM largest)
            AND place <= {NUM_PER_CLUSTER} ORDER BY size DESC, cluster, place"""
    ).to_pylist()
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["cluster"], []).append(row)
    drawn = [_cluster(members, alike, tiles) for members in found.values() if not tiles.is_spent]
    words = (
        f"{plural(total['clusters'], 'cluster')} with {plural(total['clips'], 'clip')} {alike}; "
        f"{plural(total['copies'], 'clip')} ({length(total['seconds'])}) repeat another. "
        f"The largest {len(drawn)} are shown, the original first."
    )
    return f'<p class="note">{words}</p>{"".join(drawn)}'


def _members(dataset: Dataset, table: str) -> str:
    """A query of the clips in clusters of a table."""
    has_mirrored = "is_mirrored" in dataset.relation(table).columns
    return f"""
        SELECT c.clip_id, uri, source, start_s, end_s, num_frames, shard, gate, verdict, reason,
            source_width_px AS width, source_height_px AS height,
            {"d.is_mirrored" if has_mirrored else "NULL"} AS is_mirrored,
            d.cluster_id AS cluster, d.duplicate_of AS original, d.distance AS distance
        FROM _decided AS c JOIN {table} AS d USING (clip_id) WHERE d.cluster_id IS NOT NULL"""


def _has_clusters(dataset: Dataset, table: str) -> bool:
    """Whether a table is there with the columns this page reads."""
    if table not in dataset.scores:
        return False
    return set(dataset.relation(table).columns) >= _COLUMNS


def _cluster(members: Sequence[Mapping[str, Any]], alike: str, tiles: TileMaker) -> str:
    size = members[0]["size"]
    shown = [tiles.tile(clip, why=_member_words(clip)) for clip in members]
    more = f", {size - len(members)} more not shown" if size > len(members) else ""
    return (
        f"<details open><summary><h3>{plural(size, 'clip')}</h3> "
        f"<span>{alike}{more}</span></summary>{sheet(shown)}</details>"
    )


def _member_words(clip: Mapping[str, Any]) -> str:
    """What decides between copies, and what became of this one."""
    words = ["original" if clip["original"] is None else "duplicate"]
    if clip["width"] and clip["height"]:
        words.append(f"{clip['width']}x{clip['height']}")
    if clip["original"] is not None and clip["distance"] is not None:
        words.append(f"distance {clip['distance']:.3f}")
    if clip["is_mirrored"]:
        words.append("mirrored")
    verdict = {"keep": "kept", "drop": f"dropped: {clip['gate'] or clip['reason']}"}
    return ", ".join([*words, verdict.get(clip["verdict"], "not decided")])


def difference(dataset: Dataset, facts: Facts, tiles: TileMaker) -> str:
    """What the present decision changed against the one before; empty when it was the first."""
    found = last_difference(dataset)
    if found is None:
        return ""
    new = f" {plural(found.num_new, 'clip')} decided for the first time." if found.num_new else ""
    words = (
        f"Against recipe <strong>{escape(found.recipe)}</strong> (version {found.version} of "
        f"the decisions): <strong>{found.num_gained:,} gained</strong> "
        f"({length(found.gained_s)}), <strong>{found.num_lost:,} lost</strong> "
        f"({length(found.lost_s)}).{new}"
    )
    if not found.num_gained + found.num_lost:
        return f'<p class="note">{words}</p>'
    return f'<p class="note">{words}</p>{_rules(found)}{_changed(dataset, facts, found, tiles)}'


def _rules(found: Difference) -> str:
    rows = [
        [
            escape(rule.rule),
            f"{rule.num_before:,}",
            f"{rule.num_now:,}",
            _signed("+", rule.num_gained, rule.gained_s),
            _signed("−", rule.num_lost, rule.lost_s),
        ]
        for rule in found.rules
        if rule.num_before != rule.num_now or rule.num_gained or rule.num_lost
    ]
    heads = ["Rule", "#Dropped before", "#Dropped now", "#Gained", "#Lost"]
    return table("What each rule changed", heads, rows)


def _signed(sign: str, count: int, seconds: float) -> str:
    return f"{sign}{count:,} <small>{length(seconds)}</small>" if count else "–"


def _changed(dataset: Dataset, facts: Facts, found: Difference, tiles: TileMaker) -> str:
    """Pictures of clips that changed sides, when the last decision can still be read."""
    try:
        before = Dataset.open(dataset.path, versions={"decisions": found.version})
        old = before.relation("decisions").select("clip_id, verdict, reason")
    except DatasetError:
        return ""
    con = dataset.connection()
    con.register("_decided_before", old.to_arrow_reader(_ROWS_AT_ONCE))
    changed = con.sql(_CHANGED).to_arrow_table().to_pylist()
    con.unregister("_decided_before")
    sections = []
    for verdict, title, total in (
        ("keep", "Gained", found.num_gained),
        ("drop", "Lost", found.num_lost),
    ):
        rows = [row for row in changed if row["verdict"] == verdict]
        shown = _changed_tiles(dataset, facts, rows, tiles)
        if shown:
            sections.append(
                f"<details open><summary><h3>{title}</h3> <span>{len(shown)} of "
                f"{plural(total, 'clip')}</span></summary>{sheet(shown)}</details>"
            )
    return "".join(sections)


def _changed_tiles(
    dataset: Dataset, facts: Facts, changed: Sequence[Mapping[str, Any]], tiles: TileMaker
) -> list[str]:
    clips = clips_of(dataset, [row["clip_id"] for row in changed], facts.compared)
    found = {clip["clip_id"]: clip for clip in clips}
    rules = {rule.name: rule for rule in facts.rules if not rule.is_gate}
    shown = []
    for row in changed:
        clip = found.get(row["clip_id"])
        if clip is None or tiles.is_spent:
            continue
        why = f"was dropped: {row['reason_before']}"
        if row["verdict"] == "drop":
            numbers = measured(clip, rules.get(row["reason"]))
            why = f"now dropped: {row['reason']}{numbers and f'; {numbers}'}"
        shown.append(tiles.tile(clip, why=why))
    return shown
