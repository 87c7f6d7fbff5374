"""Counts of a dataset: inputs by fate, clips by verdict and reason; sums equal the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .label_stats import label_counts, label_lines

if TYPE_CHECKING:
    from .dataset import Dataset

# One pass over the clips and one over the files; everything else counts these.
_SUMS = """
CREATE OR REPLACE TEMP TABLE _sums AS SELECT source, embodiment, gate, verdict, reason,
    count(*) AS num_clips, sum(end_s - start_s) AS length_s
FROM _decided GROUP BY ALL
"""
_FATES = """
CREATE OR REPLACE TEMP TABLE _fates AS SELECT state, reason, count(*) AS num_files,
    count(*) FILTER (is_damaged) AS num_damaged, sum(duration_s) AS duration_s
FROM files GROUP BY ALL
"""

_CLIPS = {
    "num_candidates": "true",
    "num_written": "gate IS NULL",
    "num_gated": "gate IS NOT NULL",
    "num_kept": "verdict = 'keep'",
    "num_dropped": "verdict = 'drop'",
    "num_undecided": "verdict IS NULL",
}


def _sum(number: str, when: str) -> str:
    return f"coalesce(sum({number}) FILTER ({when}), 0)"


_SECONDS = f"""{_sum("length_s", "gate IS NULL")}::DOUBLE AS written_s,
    {_sum("length_s", "verdict = 'keep'")}::DOUBLE AS kept_s"""

_GROUPS = f"""
SELECT {{column}} AS name, {_sum("num_clips", "gate IS NULL")}::BIGINT AS num_written,
    {_sum("num_clips", "verdict = 'keep'")}::BIGINT AS num_kept, {_SECONDS}
FROM _sums GROUP BY 1 ORDER BY 1
"""

_COUNTS = ", ".join(f"{_sum('num_clips', when)}::BIGINT AS {n}" for n, when in _CLIPS.items())
_TOTALS = f"SELECT {_COUNTS}, {_SECONDS} FROM _sums"


def stats(dataset: Dataset) -> dict[str, Any]:
    """Counts and lengths of a dataset as plain values, ready for JSON.

    Keys: `name`, `path`, `files` (count, by state, by reason of those not processed, damaged,
    seconds of video), `clips` (counts and seconds), `drop_reasons` (clips by gate or rule),
    `sources`, `embodiments`, `units`, `shard_bytes`, `recipe`, `labels` (None without
    captions), `versions`.
    """
    dataset.sql(_SUMS)
    dataset.sql(_FATES)
    first = dataset.sql(
        "SELECT coalesce(sum(num_files), 0)::BIGINT AS num_files, "
        "coalesce(sum(num_damaged), 0)::BIGINT AS num_damaged, "
        "coalesce(sum(duration_s), 0.0) AS duration_s FROM _fates"
    ).to_pylist()[0]
    lost = (
        "SELECT state || ': ' || coalesce(reason, 'unknown'), sum(num_files)::BIGINT FROM _fates "
        "WHERE state NOT IN ('processed', 'pending') GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    dropped = (
        "SELECT coalesce(gate, reason), sum(num_clips)::BIGINT FROM _sums "
        "WHERE gate IS NOT NULL OR verdict = 'drop' GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    by_state = "SELECT state, sum(num_files)::BIGINT FROM _fates GROUP BY 1 ORDER BY 2 DESC, 1"
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
