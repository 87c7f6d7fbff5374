"""`egodojo train` and `egodojo rollout`: make a world model, and let it imagine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from manifests.cli_support import LOCATION, emit, output_options, training_options
from manifests.locations import Location


@click.group()
def train() -> None:
    """Train a world model from a mixture; rerun resumes."""


@train.command(
    epilog="Example: egodojo train pretrain --config tiny --mixture mixture.yaml --out RUN "
    "--set loop.steps=500"
)
@click.option(
    "--config",
    "config_name",
    default="tiny",
    show_default=True,
    help="A preset (tiny, 2b) or a YAML file.",
)
@click.option("--mixture", required=True, help="Mixture file, or the name of a shipped one.")
@training_options
@click.option("--dry-run", is_flag=True, help="Check everything, count, write nothing.")
@output_options
def pretrain(
    config_name: str,
    mixture: str,
    out: Path,
    sets: tuple[str, ...],
    workers: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Teach a new network to predict video from a first frame and actions."""
    from manifests.mixture import MixtureSpec
    from pipeline.progress import Progress
    from pipeline.training.launch import is_lead, launch

    from . import train as training
    from .config import load_pretrain_config
    from .report import describe_config, describe_run

    config = load_pretrain_config(config_name, sets)
    spec = MixtureSpec.load(mixture)
    if dry_run:
        facts = describe_config(config, spec.plan())
        emit(facts, as_json=as_json, quiet=quiet, text=lambda: _lines(facts))
        return
    run = partial(training.pretrain, config, spec, out=out.absolute())
    if workers > 1:
        launch(run, workers)
    else:
        silent = quiet or as_json or not is_lead()
        with Progress(config.loop.steps, "steps", quiet=silent) as progress:

            def show(row: dict[str, Any]) -> None:
                progress.advance(row["step"] - progress.done, note=f"loss {row['loss']:.4f}")

            launch(partial(run, on_step=show))
    if is_lead():  # of several processes that torchrun started, one speaks
        facts = describe_run(out)
        emit(facts, as_json=as_json, quiet=quiet, text=lambda: _lines(facts))


@click.command(
    epilog="Example: egodojo rollout --model RUN --mixture mixture.yaml --out imagined.mp4"
)
@click.option(
    "--model", "run", type=click.Path(path_type=Path), required=True, help="Run or model folder."
)
@click.option("--mixture", help="Mixture file to take a sample from.")
@click.option(
    "--sample", type=click.IntRange(min=0), default=0, show_default=True, help="Which sample of it."
)
@click.option("--dataset", type=LOCATION, help="Instead: the dataset of --clip.")
@click.option("--clip", "clip_id", help="Instead: one clip by its id.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The mp4 to write.",
)
@click.option(
    "--chunks",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Chunks of 12 frames.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Network evaluations per chunk.",
)
@click.option("--solver", type=click.Choice(["euler", "unipc"]), default="euler", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the start noise.")
@click.option("--fps", type=float, default=10.0, show_default=True, help="Playback rate.")
@output_options
def rollout(
    run: Path,
    mixture: str | None,
    sample: int,
    dataset: Location | None,
    clip_id: str | None,
    out: Path,
    chunks: int,
    steps: int,
    solver: Literal["euler", "unipc"],
    seed: int,
    fps: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Imagine a clip from its first frame and its actions, beside the true video."""
    from manifests.mixture import MixtureSpec
    from pipeline.video import write_video

    from . import rollout as rollouts

    if (mixture is None) == (dataset is None) or (dataset is None) != (clip_id is None):
        raise click.UsageError("Give either --mixture, or --dataset together with --clip.")
    if out.suffix.lower() != ".mp4":
        raise click.UsageError(f"--out {out} must end in .mp4.")
    if not 0 < fps <= 1000:
        raise click.UsageError(f"--fps is {fps:g}, it must lie between 0 and 1000.")
    model, tokenizer = rollouts.load_model(run)
    if mixture is not None:
        spec = MixtureSpec.load(mixture)
    else:
        assert dataset is not None
        assert clip_id is not None
        spec = rollouts.clip_mixture(run, dataset=dataset, clip_id=clip_id)
    made = rollouts.rollout(
        model,
        tokenizer,
        spec,
        num_chunks=chunks,
        index=sample,
        num_steps=steps,
        solver=solver,
        seed=seed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out, made.side_by_side(), fps)
    facts = {
        "video": str(out),
        "clip_id": made.sample.clip_id,
        "first_frame": made.sample.first_frame,
        "num_frames": len(made.predicted),
        "psnr_db": round(made.psnr_db, 3),
        "still_psnr_db": round(made.still_psnr_db, 3),
    }
    emit(facts, as_json=as_json, quiet=quiet, text=lambda: _lines(facts))


def _lines(facts: dict[str, Any]) -> str:
    width = max(len(name) for name in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())
