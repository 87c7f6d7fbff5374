"""`egodojo manifest join|compact|delete`: add columns, merge files, take clips out for good."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .cli_support import LOCATION, emit, output_options
from .errors import UsageError
from .locations import Location

if TYPE_CHECKING:
    from .compaction import CompactedTable
    from .deletion import Deleted, Deletion
    from .join import JoinReport

_NOTHING = "No clip matches; nothing was deleted."

_dataset = click.argument("dataset", type=LOCATION)


@click.command(epilog="Example: egodojo manifest join DATASET --columns ratings.csv --name ratings")
@_dataset
@click.option(
    "--columns",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Parquet or CSV with clip_id, or video_id (or uri) with start_s and end_s.",
)
@click.option("--name", required=True, help="The score table; recipes read NAME.COLUMN.")
@click.option(
    "--min-overlap",
    type=click.FloatRange(0.0, 1.0),
    default=0.5,
    show_default=True,
    help="Share of a clip that a span must cover to speak for it.",
)
@click.option("--replace", is_flag=True, help="Put the rows in the place of all older ones.")
@click.option("--dry-run", is_flag=True, help="Match and check only, write nothing.")
@output_options
def join(
    dataset: Location,
    file: Path,
    name: str,
    min_overlap: float,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Bring columns made elsewhere in as scores/NAME, by clip or by video and time span."""
    from .dataset import Dataset
    from .join import join_columns

    report = join_columns(
        Dataset.open(dataset),
        file,
        name=name,
        min_overlap=min_overlap,
        replace=replace,
        dry_run=dry_run,
    )
    data = {**asdict(report), "is_dry_run": dry_run}
    emit(data, as_json=as_json, text=lambda: _joined(report, dry_run), quiet=quiet)


@click.command(epilog="Example: egodojo manifest compact DATASET --vacuum --yes")
@_dataset
@click.option("--vacuum", is_flag=True, help="Also remove the files of older versions.")
@click.option("--yes", is_flag=True, help="Yes, those versions may be lost.")
@click.option("--dry-run", is_flag=True, help="Only name the versions a vacuum would lose.")
@output_options
def compact(
    dataset: Location, vacuum: bool, yes: bool, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Merge the small files of every table; no row changes, older versions stay readable."""
    from .compaction import compact as merge
    from .compaction import versions_at_stake
    from .dataset import Dataset
    from .table_history import spans

    opened = Dataset.open(dataset)
    at_stake = versions_at_stake(opened) if vacuum or dry_run else {}
    listed = "; ".join(f"{name} {spans(numbers)}" for name, numbers in at_stake.items())
    if dry_run:
        data = {"dataset": str(opened.path), "versions_at_stake": at_stake}
        text = f"A vacuum would lose these versions: {listed or 'none'}."
        emit(data, as_json=as_json, text=text, quiet=quiet)
        return
    if vacuum and at_stake and not yes:
        raise UsageError(
            f"Nothing was done: a vacuum of {opened.path} loses these versions: {listed}.",
            hint="What is pinned to them (mixture plans, notes) cannot be opened any more; "
            "add --yes to go on.",
        )
    done = merge(opened, command=f"egodojo manifest compact {dataset}", vacuum=vacuum)
    result = {"dataset": str(opened.path), "tables": [asdict(table) for table in done]}
    emit(result, as_json=as_json, text=lambda: _compacted(done), quiet=quiet)


@click.command(
    epilog="Example: egodojo manifest delete DATASET --where \"uri LIKE '%/anna/%'\" --yes"
)
@_dataset
@click.option("--where", required=True, help="SQL over the columns of clips, scores included.")
@click.option("--yes", is_flag=True, help="Yes, for good.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@output_options
def delete(
    dataset: Location, where: str, yes: bool, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Delete clips for good: bytes, rows, scores, latents; a rerun finishes a killed one."""
    from .dataset import Dataset
    from .deletion import delete as delete_clips
    from .deletion import journal_path, plan_deletion

    opened = Dataset.open(dataset)
    has_unfinished = journal_path(opened.path).is_file()
    if dry_run or not yes:
        planned = plan_deletion(opened, where)
        facts = {
            "dataset": str(opened.path),
            "is_dry_run": True,
            "num_clips": planned.num_clips,
            "num_written": planned.num_written,
            "num_videos": planned.num_videos,
            "length_s": planned.length_s,
            "shards": planned.shards,
            "has_unfinished": has_unfinished,
        }
        if not dry_run and (planned.clips or has_unfinished):
            also = " and finish an earlier deletion" if has_unfinished else ""
            raise UsageError(
                f"Nothing was done: this would delete {_counted(planned)} for good{also}.",
                hint="Look with --dry-run; add --yes to go on.",
            )
        emit(facts, as_json=as_json, text=lambda: _planned(planned), quiet=quiet)
        return
    earlier, done = delete_clips(
        opened, where, command=f"egodojo manifest delete {dataset} --where ..."
    )
    facts = {
        "dataset": str(opened.path),
        "is_dry_run": False,
        **asdict(done),
        "finished_before": asdict(earlier) if earlier else None,
    }

    def text() -> str:
        lines = ["An earlier deletion was finished.", *_deleted(earlier)] if earlier else []
        return "\n".join([*lines, *_deleted(done)])

    emit(facts, as_json=as_json, text=text, quiet=quiet)


def _joined(report: JoinReport, dry_run: bool) -> str:
    verb = "would have" if dry_run else "have"
    lines = [
        f"{report.num_clips_scored} of {report.num_clips} clips {verb} scores "
        f"{report.name}.{{{', '.join(report.columns)}}}, matched by {report.key}.",
        f"{report.num_matched} of {report.num_rows} rows were used, {report.num_unmatched} match "
        "no clip" + (":" if report.unmatched else "."),
    ]
    return "\n".join([*lines, *(f"  {row}" for row in report.unmatched)])


def _compacted(done: list[CompactedTable]) -> str:
    from .table_history import spans

    lines = []
    for table in done:
        line = f"{table.name}: {table.num_files_before} files, now {table.num_files_after}"
        if table.num_files_removed:
            line += f"; {table.num_files_removed} old ones removed"
        if table.versions_lost:
            line += f", versions {spans(table.versions_lost)} are lost"
        lines.append(line)
    return "\n".join(lines)


def _counted(found: Deletion | Deleted) -> str:
    return (
        f"{found.num_clips} clips ({found.num_written} of them written, {found.length_s:.1f} s "
        f"in all) of {found.num_videos} videos"
    )


def _planned(planned: Deletion) -> str:
    if not planned.clips:
        return _NOTHING
    lines = [f"Would delete {_counted(planned)}, for good."]
    lines += [f"  {old} -> {new or 'removed whole'}" for old, new in planned.shards.items()]
    lines.append(
        "Their decisions, scores, latents and tokens go too; the preview and indexes that hold "
        "them are removed; earlier versions of the tables cannot be opened any more, and mixture "
        "plans that name these shards are refused."
    )
    return "\n".join(lines)


def _deleted(done: Deleted) -> list[str]:
    from .table_history import spans

    if not done.num_clips:
        return [_NOTHING]
    lines = [f"Deleted {_counted(done)}."]
    lines += [f"  {old} -> {new or 'removed whole'}" for old, new in done.shards.items()]
    lines += [f"  {name}: {number} rows" for name, number in done.rows.items()]
    lines += [f"  {name}: rewritten" for name in done.latents]
    lines += [
        f"  {name}: versions {spans(numbers)} are lost"
        for name, numbers in done.versions_lost.items()
    ]
    lines += [f"  {name} was removed; again: {command}" for name, command in done.redo.items()]
    return lines
