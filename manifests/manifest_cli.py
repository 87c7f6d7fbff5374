"""`egodojo manifest`: query, count and verify a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from .cli_support import LOCATION, PAGE, LazyGroup, emit, output_options
from .errors import EXIT_FAILED, DatasetError
from .locations import Location

_MAX_WIDTH = 60

_dataset = click.argument("dataset", type=LOCATION)


@click.group(
    cls=LazyGroup,
    commands_at={
        "preview": ("curation.preview_cli:preview", "Draw what was kept and dropped as a page."),
        "export": ("curation.export_cli:export", "Write kept clips as a LeRobotDataset v3."),
        "join": ("manifests.tidy_cli:join", "Bring columns made elsewhere in as a score table."),
        "reindex": ("pipeline.reindex_cli:reindex", "Rebuild damaged shard indexes from the tars."),
        "compact": ("manifests.tidy_cli:compact", "Merge the small files of the tables."),
        "delete": ("manifests.tidy_cli:delete", "Delete clips for good: bytes, rows, all of it."),
    },
    epilog="Example: egodojo manifest stats DATASET",
)
def manifest() -> None:
    """Query, count, verify and draw a dataset."""


@manifest.command(
    epilog='Example: egodojo manifest sql DATASET "SELECT state, count(*) FROM files GROUP BY 1"'
)
@_dataset
@click.argument("query")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows printed; --json prints all.",
)
@output_options
def sql(dataset: Location, query: str, limit: int, as_json: bool, quiet: bool) -> None:
    """Run one SQL query (DuckDB) over files, videos, clips, kept, units, plan and scores."""
    from .dataset import Dataset

    found = Dataset.open(dataset).sql(query)
    _refuse_equal_names(found.schema.names)
    rows = (found if as_json else found.slice(0, limit)).to_pylist()

    def text() -> str:
        more = found.num_rows - len(rows)
        note = f"\n({more} more rows; --limit shows more)" if more > 0 else ""
        return aligned(found.schema.names, rows) + note

    emit(_plain(rows), as_json=as_json, text=text, quiet=quiet)


@manifest.command(epilog="Example: egodojo manifest stats DATASET --html stats.html")
@_dataset
@click.option(
    "--html",
    "page",
    type=PAGE,
    help="Also draw hours, trajectories, scenes, tasks, objects and skills as a page.",
)
@output_options
def stats(dataset: Location, page: Path | None, as_json: bool, quiet: bool) -> None:
    """Count files by fate, clips by verdict and reason, hours by source."""
    from . import stats as counting
    from .dataset import Dataset

    opened = Dataset.open(dataset)
    found = counting.stats(opened)
    if page is not None:
        from .stats_page import write_stats_page

        found["page"] = str(write_stats_page(opened, page))

    def text() -> str:
        drawn = "" if page is None else f"\n  page    {page}"
        return counting.stats_text(found) + drawn

    emit(found, as_json=as_json, text=text, quiet=quiet)


@manifest.command(epilog="Example: egodojo manifest validate DATASET")
@_dataset
@output_options
def validate(dataset: Location, as_json: bool, quiet: bool) -> None:
    """Verify every reference between tables and every digest of the shards; exit 1 on problems."""
    from .dataset import Dataset
    from .validate import validate as find_problems

    opened = Dataset.open(dataset)
    problems = find_problems(opened)
    result = {
        "is_valid": not problems,
        "num_problems": len(problems),
        "problems": [asdict(problem) for problem in problems],
        "versions": opened.versions,
    }

    def text() -> str:
        if not problems:
            return f"{opened.path} is valid."
        lines = [f"{p.kind}  {p.where}: {p.detail}" for p in problems]
        return "\n".join([*lines, f"{len(problems)} problems in {opened.path}."])

    emit(result, as_json=as_json, text=text, quiet=quiet and not problems)
    if problems:
        raise click.exceptions.Exit(EXIT_FAILED)


def _refuse_equal_names(names: Sequence[str]) -> None:
    """A row is a mapping: of two columns with one name, one would be lost."""
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise DatasetError(
                f"The result has {names.count(name)} columns called {name!r}.",
                hint="Give each a name of its own: SELECT a.x AS x_of_a, b.x AS x_of_b ...",
            )


def _plain(value: Any) -> Any:
    """A value of a result as JSON has it: sums of whole numbers as numbers, NaN as null."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def aligned(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a plain text table; long values are cut."""
    table = [list(names), *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(names))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_WIDTH else text[: _MAX_WIDTH - 1] + "…"
