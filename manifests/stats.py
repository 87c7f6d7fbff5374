"""Counts of a dataset: inputs by fate, clips by verdict and reason; sums equal the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .label_stats import label_counts, label_lines

if TYPE_CHECKING:
    from .dataset import Dataset

_GROUPS = """
SELECT {column} AS name, count(*) FILTER (gate IS NULL) AS num_written,
    count(*) FILTER (verdict = 'keep') AS num_kept,
    coalesce(sum(end_s - start_s) FILTER (gate IS NULL), 0.0) AS written_s,
    coalesce(sum(end_s - start_s) FILTER (verdict = 'keep'), 0.0) AS kept_s
FROM clips GROUP BY 1 ORDER BY 1
"""

_TOTALS = """
SELECT count(*) AS num_candidates,
    count(*) FILTER (gate IS NULL) AS num_written,
    count(*) FILTER (gate IS NOT NULL) AS num_gated,
    count(*) FILTER (verdict = 'keep') AS num_kept,
    count(*) FILTER (verdict = 'drop') AS num_dropped,
    count(*) FILTER (verdict IS NULL) AS num_undecided,
    coalesce(sum(end_s - start_s) FILTER (gate IS NULL), 0.0) AS written_s,
    coalesce(sum(end_s - start_s) FILTER (verdict = 'keep'), 0.0) AS kept_s
FROM clips
"""


def stats(dataset: Dataset) -> dict[str, Any]:
    """Counts and lengths of a dataset as plain values, ready for JSON.

    Keys: `name`, `path`, `files` (count, by state, by reason of those not processed, damaged,
    seconds of video), `clips` (counts and seconds), `drop_reasons` (clips by gate or rule),
    `sources`, `embodiments`, `units`, `shard_bytes`, `recipe`, `labels` (None without
    captions), `versions`.
    """
    first = dataset.sql(
        "SELECT count(*) AS num_files, count(*) FILTER (is_damaged) AS num_damaged, "
        "coalesce(sum(duration_s), 0.0) AS duration_s FROM files"
    ).to_pylist()[0]
    lost = (
        "SELECT state || ': ' || coalesce(reason, 'unknown'), count(*) FROM files "
        "WHERE state NOT IN ('processed', 'pending') GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    dropped = (
        "SELECT coalesce(gate, reason), count(*) FROM clips "
        "WHERE gate IS NOT NULL OR verdict = 'drop' GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    by_state = "SELECT state, count(*) FROM files GROUP BY 1 ORDER BY 2 DESC, 1"
    num_bytes = dataset.sql("SELECT coalesce(sum(shard_bytes), 0)::BIGINT AS n FROM units")
    return {
        "name": dataset.settings.name,
        "path": str(dataset.path),
        "files": {
            **first,
            "by_state": _counts(dataset, by_state),
            "by_reason": _counts(dataset, lost),
        },
        "clips": dataset.sql(_TOTALS).to_pylist()[0],
        "drop_reasons": _counts(dataset, dropped),
        "sources": dataset.sql(_GROUPS.format(column="source")).to_pylist(),
        "embodiments": dataset.sql(_GROUPS.format(column="embodiment")).to_pylist(),
        "units": {
            "num_planned": dataset.sql("SELECT count(*) AS n FROM plan").column("n")[0].as_py(),
            "by_state": _counts(dataset, "SELECT state, count(*) FROM units GROUP BY 1 ORDER BY 1"),
        },
        "shard_bytes": num_bytes.column("n")[0].as_py(),
        "recipe": dataset.metadata("decisions").get("recipe"),
        "labels": label_counts(dataset),
        "versions": dataset.versions,
    }


def stats_text(found: dict[str, Any]) -> str:
    """The same for people, a few lines."""
    files, clips = found["files"], found["clips"]
    lines = [
        f"{found['name']}: {files['num_files']} files, {_hours(files['duration_s'])} of video",
        f"  files   {_listed(files['by_state'])}; {files['num_damaged']} damaged",
    ]
    if files["by_reason"]:
        lines.append(f"          {_listed(files['by_reason'])}")
    lines += [
        f"  clips   {clips['num_candidates']} candidates, {clips['num_written']} written "
        f"({_hours(clips['written_s'])}), {clips['num_kept']} kept ({_hours(clips['kept_s'])}), "
        f"{clips['num_undecided']} undecided",
        f"  dropped {_listed(found['drop_reasons'])}",
        f"  recipe  {found['recipe'] or 'none yet'}",
    ]
    for title in ("sources", "embodiments"):
        for row in found[title]:
            lines.append(
                f"  {title[:-1]} {row['name']}: {row['num_kept']} of {row['num_written']} clips "
                f"kept ({_hours(row['kept_s'])})"
            )
    units = found["units"]
    lines.append(
        f"  units   {units['num_planned']} planned: {_listed(units['by_state'])}; "
        f"{found['shard_bytes'] / 1e6:.1f} MB in shards"
    )
    if found["labels"] is not None:
        lines += label_lines(found["labels"])
    return "\n".join(lines)


def _counts(dataset: Dataset, query: str) -> dict[str, int]:
    found = dataset.sql(query)
    names, counts = (column.to_pylist() for column in found.columns)
    return dict(zip(names, counts, strict=True))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
