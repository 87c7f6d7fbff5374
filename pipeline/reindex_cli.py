"""`egodojo manifest reindex`: indexes of shards from the tars alone."""

from __future__ import annotations

from dataclasses import asdict

import click

from manifests.cli_support import LOCATION, emit, output_options
from manifests.errors import EXIT_FAILED
from manifests.locations import Location


@click.command(epilog="Example: egodojo manifest reindex DATASET")
@click.argument("dataset", type=LOCATION)
@output_options
def reindex(dataset: Location, as_json: bool, quiet: bool) -> None:
    """Rebuild missing or damaged shard indexes from the tars; exit 1 when a tar is damaged."""
    from .reindex import reindex as mend

    command = f"egodojo manifest reindex {dataset}"
    report = mend(dataset, command=command, quiet=quiet or as_json)
    lines = [f"mended      {m.shard}: its index was {m.reason}" for m in report.mended]
    lines += [f"not mended  {n.shard}: {n.error}" for n in report.failed]
    num_right = report.num_shards - len(report.mended) - len(report.failed)
    lines.append(
        f"{report.num_shards} shards: {num_right} indexes were right, {len(report.mended)} mended, "
        f"{len(report.failed)} not."
    )
    emit(asdict(report), as_json=as_json, text="\n".join(lines), quiet=quiet and not report.failed)
    if report.failed:
        raise click.exceptions.Exit(EXIT_FAILED)
