"""`egodojo manifest export`: a curated subset in another project's layout."""

from __future__ import annotations

from pathlib import Path

import click

from manifests.cli_support import LOCATION, emit, output_options
from manifests.errors import UsageError
from manifests.locations import Location, is_remote


@click.command(
    epilog="Example: egodojo manifest export DATASET --format lerobot-v3 --out robot "
    "--where \"embodiment = 'gr1'\""
)
@click.argument("dataset", type=LOCATION)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["lerobot-v3"]),
    default="lerobot-v3",
    show_default=True,
    help="The layout to write.",
)
@click.option("--out", required=True, type=click.Path(), help="The folder, on a disk; made anew.")
@click.option("--where", default="", help="SQL over the kept clips  [default: all of them]")
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@output_options
def export(
    dataset: Location, layout: str, out: str, where: str, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Write kept clips as episodes of a LeRobotDataset v3: pictures, actions, tasks, statistics."""
    from manifests.dataset import Dataset

    from .lerobot_export import export_lerobot
    from .lerobot_plan import plan_export

    if is_remote(out):
        raise UsageError(
            f"--out is {out}: LeRobot folders are written to a disk.",
            hint="Export to a folder and copy that.",
        )
    opened = Dataset.open(dataset)
    plan = plan_export(opened, where)
    if not dry_run:
        export_lerobot(opened, plan, Path(out), quiet=quiet or as_json)
    data = {"out": out, "format": layout, "is_written": not dry_run, **plan.to_json()}

    def text() -> str:
        actions = f"{len(plan.action_names)} action columns" if plan.action_names else "no actions"
        what = (
            f"{data['num_episodes']} episodes, {data['num_frames']} frames at {plan.fps:g}/s, "
            f"{data['num_tasks']} tasks, {actions}"
        )
        return f"{what}\nNothing was written." if dry_run else f"{out}: {what}"

    emit(data, as_json=as_json, text=text, quiet=quiet)
