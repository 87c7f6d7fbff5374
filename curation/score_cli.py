"""`egodojo score`."""

from __future__ import annotations

import sys
from typing import Any

import click

from manifests.cli_support import LOCATION, emit, output_options
from manifests.locations import Location


@click.command(
    epilog="Example: egodojo score DATASET --scorer embedding --set pretrained=clip.safetensors"
)
@click.argument("dataset", type=LOCATION)
@click.option(
    "--scorer",
    "spec",
    required=True,
    help="embedding, hands, captions, an installed scorer, module:attr or file.py:attr.",
)
@click.option("--name", help="Name of the score table  [default: the scorer's name]")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one setting.")
@click.option("--all", "every_written", is_flag=True, help="Dropped clips too.")
@click.option("--replace", is_flag=True, help="Replace the rows of another version of that name.")
@click.option("--cpus", default=1.0, show_default=True, help="CPUs of one worker.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs of one worker.")
@click.option(
    "--timeout-s",
    default=21600.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds one shard may take.",
)
@click.option("--inline", is_flag=True, help="Work in this process, without Ray.")
@click.option("--dry-run", is_flag=True, help="Say what is missing, write nothing.")
@output_options
def score(
    dataset: Location,
    spec: str,
    name: str | None,
    sets: tuple[str, ...],
    every_written: bool,
    replace: bool,
    cpus: float,
    gpus: float,
    timeout_s: float,
    inline: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score the kept clips with a model; what is scored already stays, shards are only read."""
    from manifests.cli_support import console
    from pipeline.progress import Progress

    from . import scoring
    from .scorers.base import Resources

    plan = scoring.plan_scoring(
        dataset,
        spec,
        sets=sets,
        table=name,
        every_written=every_written,
        replace=replace,
        resources=Resources(num_cpus=cpus, num_gpus=gpus),
    )
    warning = getattr(plan.scorer, "warning", None)
    if warning:
        console(quiet).print(f"egodojo: {warning}", soft_wrap=True)
    if dry_run:
        missing = {
            "table": plan.table,
            "digest": plan.job.digest,
            "num_clips": plan.num_clips,
            "num_to_score": plan.clips.num_rows,
            "num_left_out": plan.num_left_out,
            "num_shards": plan.num_shards,
        }
        text = (
            f"scores/{plan.table}: {plan.clips.num_rows} of {plan.num_clips} clips in "
            f"{plan.num_shards} shards would be scored"
        )
        emit(missing, as_json=as_json, text=text, quiet=quiet)
        return
    with Progress(plan.num_shards, "shards", quiet=quiet or as_json) as progress:
        result = scoring.score(
            plan,
            engine="inline" if inline else "ray",
            timeout_s=timeout_s,
            command=" ".join(["egodojo", *sys.argv[1:]]),
            on_shard=progress.advance,
        )
    found = result.to_json()
    emit(found, as_json=as_json, text=lambda: _text(found), quiet=quiet)
    result.check()


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"scores/{found['table']}: {found['num_scored']} clips scored, {found['num_present']} had "
        f"a row, {len(found['problems'])} could not be scored, {found['num_left']} left for later"
    ]
    lines += [f"  {key}: {value:g}" for key, value in found["notes"].items()]
    clip_ids = list(found["problems"])
    if clip_ids:
        lines.append(f"  not scored, first of {len(clip_ids)}: {found['problems'][clip_ids[0]]}")
        lines.append(f"  all are listed in {found['run']}/problems.jsonl")
    return "\n".join(lines)
