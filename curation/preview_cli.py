"""`egodojo manifest preview`: draw what was kept and dropped."""

from __future__ import annotations

from pathlib import Path

import click

from manifests.cli_support import LOCATION, PAGE, emit, output_options
from manifests.locations import Location


@click.command(epilog="Example: egodojo manifest preview DATASET")
@click.argument("dataset", type=LOCATION)
@click.option(
    "--out",
    type=PAGE,
    help="The page to write.  [default: DATASET/preview/index.html]",
)
@output_options
def preview(dataset: Location, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Draw what was kept and dropped as one page that opens anywhere, offline."""
    from manifests.dataset import Dataset

    from .preview import write_preview

    page = write_preview(Dataset.open(dataset), out, quiet=quiet or as_json)
    data = {"page": str(page), "num_bytes": page.stat().st_size}
    emit(data, as_json=as_json, quiet=quiet, text=f"Preview: {page}")
