"""`egodojo dedup`."""

from __future__ import annotations

from dataclasses import asdict

import click

from manifests.cli_support import LOCATION, emit, output_options
from manifests.locations import Location


@click.command(epilog="Example: egodojo dedup DATASET --threshold 0.1")
@click.argument("dataset", type=LOCATION)
@click.option(
    "--threshold",
    type=float,
    help="Largest distance, 0 to 1  [default: as last time, at first 0.12; --semantic: 0.05]",
)
@click.option(
    "--semantic",
    metavar="SCORE",
    help="Compare the embeddings of this score table instead, and write scores/semantic.",
)
@click.option("--redo", is_flag=True, help="Compare all clips again, not only new ones.")
@output_options
def dedup(
    dataset: Location,
    threshold: float | None,
    semantic: str | None,
    redo: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find near-duplicate clips and write scores/duplicates; decide afterwards to use them."""
    from manifests.dataset import Dataset

    if semantic is not None:
        _semantic(dataset, semantic, threshold, redo=redo, as_json=as_json, quiet=quiet)
        return
    from .dedup import dedup as search

    summary = asdict(search(Dataset.open(dataset), max_distance=threshold, redo=redo))

    def text() -> str:
        lines = [
            f"{summary['num_duplicates']} of {summary['num_compared']} clips are near-duplicates, "
            f"in {summary['num_clusters']} clusters ({summary['num_new']} clips compared anew, "
            f"threshold {summary['max_distance']:g})"
        ]
        num_without = summary["num_clips"] - summary["num_compared"]
        if num_without:
            lines.append(
                f"  {num_without} clips were written before fingerprints existed: not compared"
            )
        lines.append(
            f"  to use it: egodojo decide {dataset} --recipe RECIPE, by a rule of its own or the "
            "shipped ones' near_duplicate"
        )
        return "\n".join(lines)

    emit(summary, as_json=as_json, text=text, quiet=quiet)


def _semantic(
    path: Location, score: str, threshold: float | None, *, redo: bool, as_json: bool, quiet: bool
) -> None:
    from manifests.dataset import Dataset

    from .dedup_semantic import dedup_semantic

    dataset = Dataset.open(path)
    summary = asdict(dedup_semantic(dataset, score, max_distance=threshold, redo=redo))

    def text() -> str:
        lines = [
            f"{summary['num_duplicates']} of {summary['num_compared']} clips mean the same as "
            f"another, in {summary['num_clusters']} clusters ({summary['num_new']} clips compared "
            f"anew, cosine distance {summary['max_distance']:g})"
        ]
        num_without = summary["num_clips"] - summary["num_compared"]
        if num_without:
            lines.append(f"  {num_without} clips have no row in scores/{score}: not compared")
        lines.append("  to use it, a rule of the recipe: semantic.duplicate_of IS NULL")
        return "\n".join(lines)

    emit(summary, as_json=as_json, text=text, quiet=quiet)
