"""`egodojo mixture`: plan a training mixture exactly, or check one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_support import emit, output_options

if TYPE_CHECKING:
    from .mixture.plan import MixturePlan


@click.group(epilog="Example: egodojo mixture plan mixture.yaml --out mixture.plan")
def mixture() -> None:
    """Exact, repeatable training mixtures."""


@mixture.command(
    epilog="Example: egodojo mixture plan mixture.yaml --out mixture.plan --samples 1000000"
)
@click.argument("file", metavar="MIXTURE.yaml")
@click.option("--out", type=click.Path(path_type=Path), help="The plan file to write.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one setting.")
@click.option(
    "--samples",
    "num_samples",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="Length of the run that the counts are given for.",
)
@click.option("--dry-run", is_flag=True, help="Count only, write nothing.")
@output_options
def plan(
    file: str,
    out: Path | None,
    sets: tuple[str, ...],
    num_samples: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Work a mixture out into one plan file, with exact counts."""
    from .mixture import MixtureSpec

    if out is None and not dry_run:
        raise click.UsageError("Say where the plan goes with --out PLAN, or only count: --dry-run.")
    made = MixtureSpec.load(file, sets=sets).plan()
    if out is not None and not dry_run:
        made = made.save(out)
    facts = describe_plan(made, num_samples=num_samples)
    facts["plan"] = str(out) if out is not None and not dry_run else None
    emit(facts, as_json=as_json, quiet=quiet, text=lambda: _table(facts))


@mixture.command(epilog="Example: egodojo mixture check mixture.plan")
@click.argument("file", metavar="MIXTURE.yaml|PLAN")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one setting.")
@output_options
def check(file: str, sets: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Look for all that a plan needs and prove its laws."""
    from .mixture import MixtureSpec
    from .mixture.check import check_plan
    from .mixture.plan import MixturePlan

    if _is_plan(file):
        made = MixturePlan.open(file)
        made.check_files()
    else:
        made = MixtureSpec.load(file, sets=sets).plan()
    facts = {**check_plan(made), **describe_plan(made, num_samples=1_000_000)}
    emit(facts, as_json=as_json, quiet=quiet, text=lambda: _checked(facts) + "\n" + _table(facts))


def describe_plan(made: MixturePlan, *, num_samples: int) -> dict[str, Any]:
    """Exact counts of a plan, and of a run of `num_samples`, per source."""
    header = made.header
    counts = made.cycle.count(num_samples).tolist()
    sources = []
    for source, count in zip(made.sources, counts, strict=True):
        units = source.num_clips if header.unit == "clip" else source.num_windows
        sources.append(
            {
                "source": source.name,
                "weight": source.weight,
                "clips": source.num_clips,
                "windows": source.num_windows,
                "hours": round(source.hours, 6),
                "left_out": source.left_out,
                "samples": count,
                "epochs": round(count / units, 4),
                "dataset": source.dataset,
                "versions": source.versions,
                "where": source.where,
            }
        )
    return {
        "digest": made.digest,
        "num_samples": num_samples,
        "cycle": made.cycle.length,
        "unit": header.unit,
        "num_frames": header.num_frames,
        "frame_size": list(header.frame_size),
        "latents": header.latents,
        "embodiments": [body.name for body in header.embodiments],
        "seed": header.seed,
        "sources": sources,
    }


def _is_plan(file: str) -> bool:
    """Arrow files begin with their name."""
    path = Path(file)
    if not path.is_file():
        return False
    with open(path, "rb") as opened:
        return opened.read(6) == b"ARROW1"


def _table(facts: dict[str, Any]) -> str:
    columns = ["source", "weight", "clips", "windows", "hours", "left out", "samples", "epochs"]
    rows = [columns]
    for source in facts["sources"]:
        left_out = sum(source["left_out"].values())
        rows.append(
            [
                source["source"],
                str(source["weight"]),
                f"{source['clips']:,}",
                f"{source['windows']:,}",
                f"{source['hours']:,.3f}",
                f"{left_out:,}",
                f"{source['samples']:,}",
                f"{source['epochs']:,.2f}",
            ]
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    size = "x".join(str(side) for side in facts["frame_size"])
    lines.append(
        f"{facts['num_samples']:,} samples in cycles of {facts['cycle']}, windows of "
        f"{facts['num_frames']} frames of {size}, unit {facts['unit']}, latents "
        f"{facts['latents'] or 'none'}"
    )
    if facts.get("plan"):
        lines.append(f"plan: {facts['plan']} ({facts['digest'][:16]})")
    return "\n".join(lines)


def _checked(facts: dict[str, Any]) -> str:
    checked = facts["checked"]
    return (
        f"ok: {checked['cycles']:,} cycles hold their weights exactly, no repeats inside an epoch "
        f"in {checked['samples']:,} samples, {checked['shards']:,} shards are there"
    )
