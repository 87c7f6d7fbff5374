"""`egodojo simulate`: footage of several bodies doing known motions, with the truth beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from manifests.cli_support import emit, output_options
from manifests.errors import OverBudgetError, UsageError


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the videos and their sidecars.",
)
@click.option("--embodiment", "embodiments", multiple=True, help="A body; default: every one.")
@click.option(
    "--episodes", default=13, show_default=True, help="Episodes of each body, one per motion."
)
@click.option("--seed", default=0, show_default=True, help="First seed; other seeds, other scenes.")
@click.option("--size", default="320x240", show_default=True, help="Width x height in pixels.")
@click.option("--fps", default=20.0, show_default=True, help="Frames per second.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of an episode.")
@click.option(
    "--primitives",
    multiple=True,
    help="Motions, in order, repeated or separated by commas; default: all 13.",
)
@click.option(
    "--camera",
    type=click.Choice(["ego", "side", "moving", "mixed"]),
    default="mixed",
    show_default=True,
    help="Where the camera is.",
)
@click.option("--no-shadows", is_flag=True, help="Leave shadows out: faster, flatter.")
@click.option("--faults", is_flag=True, help="Also write deliberately faulty files to OUT/faulty.")
@click.option(
    "--workers", default=1, show_default=True, help="Episodes at a time; more than 1 starts Ray."
)
@click.option("--dry-run", is_flag=True, help="List the episodes and write nothing.")
@output_options
def simulate(
    *,
    out: Path,
    embodiments: tuple[str, ...],
    primitives: tuple[str, ...],
    size: str,
    faults: bool,
    workers: int,
    no_shadows: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **numbers: Any,
) -> None:
    """Film simulated bodies doing the same motions, with actions and truth beside each video.

    \b
    Example:
      egodojo simulate --out footage --embodiment sim_human --embodiment sim_arm7 --episodes 4
    """
    from .bodies import BODIES
    from .faults import write_faults
    from .simulate import Settings, plan, run

    width, height = _size(size)
    if workers < 1:
        raise UsageError(f"--workers is {workers}, must be at least 1.")
    settings = Settings(
        embodiments=embodiments or tuple(BODIES),
        primitives=tuple(word for item in primitives for word in item.split(",") if word),
        width=width,
        height=height,
        shadows=not no_shadows,
        **numbers,
    )
    requests = plan(settings)
    if dry_run:
        rows = [f"{request.stem} ({request.camera})" for request in requests]
        emit(
            {"out": str(out), "num_episodes": len(rows), "episodes": rows},
            as_json=as_json,
            text="\n".join(rows),
        )
        return
    result = run(requests, out, workers=workers, quiet=quiet or as_json)
    if faults:
        result["faulty"] = write_faults(out)
    emit(result, as_json=as_json, text=lambda: _summary(result), quiet=quiet)
    if result["num_failed"]:
        raise OverBudgetError(
            f"{result['num_failed']} of {len(requests)} episodes could not be filmed.",
            hint="The result names each; another --seed gives other scenes.",
        )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size {text!r} is not of the form WIDTHxHEIGHT.", hint="--size 320x240")
    return int(width), int(height)


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{item['episode']}: {item['caption']}" for item in result["episodes"]]
    lines += [f"{item['episode']}: failed: {item['error']}" for item in result["failed"]]
    lines += [f"faulty: {path}" for path in result.get("faulty", [])]
    lines.append(
        f"{result['num_episodes']} episodes ({result['num_new']} new), "
        f"{result['num_frames']} frames in {result['out']}"
    )
    return "\n".join(lines)
