"""The commands under `egodojo latents` and `egodojo index`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from manifests.cli_support import LOCATION, console, emit, output_options, training_options
from manifests.locations import Location

DATASET = click.argument("dataset", type=LOCATION)


@click.group(epilog="Example: egodojo latents train DATASET --size tiny --steps 100 --out MODEL")
def latents() -> None:
    """Train the latent action model and store its latents."""


@click.group(epilog="Example: egodojo index query DATASET --clip CLIP_ID --time 1.5 --sheet q.png")
def index() -> None:
    """Find the same motion in other clips, done by other bodies."""


@latents.command(
    epilog="Example: egodojo latents train DATASET --size tiny --steps 100 --out MODEL"
)
@click.argument("dataset", type=LOCATION, required=False)
@click.option("--mixture", help="Instead of DATASET: a mixture file, or a shipped one by name.")
@click.option("--size", default="tiny", show_default=True, help="Preset: tiny, small or base.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="YAML over the preset.")
@click.option("--steps", type=int, help="Optimiser steps; the same as --set loop.steps=N.")
@training_options
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration, do nothing.")
@output_options
def train(
    dataset: Location | None,
    mixture: str | None,
    size: str,
    file: Path | None,
    steps: int | None,
    out: Path,
    sets: tuple[str, ...],
    workers: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a latent action model on the kept clips; rerun the same command to go on."""
    from manifests.config import to_dict, to_yaml
    from manifests.mixture import MixtureSpec

    from .config import load_train_config

    if (dataset is None) == (mixture is None):
        raise click.UsageError("Give either a DATASET or --mixture.")
    if steps is not None:
        sets = (*sets, f"loop.steps={steps}")
    config = load_train_config(size, file=file, sets=sets)
    data = MixtureSpec.load(mixture) if mixture is not None else dataset
    if dry_run:
        emit(to_dict(config), as_json=as_json, text=to_yaml(config))
        return
    from pipeline.progress import Progress
    from pipeline.training.launch import is_lead, launch

    from .report import read_summary
    from .train import train as run_training

    assert data is not None, "one of the two was given"
    run = partial(run_training, data, config, out=out.absolute())
    if workers > 1:
        launch(run, workers)
    else:
        with Progress(config.loop.steps, "steps", quiet=quiet or not is_lead()) as progress:

            def show(row: dict[str, Any]) -> None:
                progress.advance(row["step"] - progress.done, note=f"loss {row['loss']:.5f}")

            launch(partial(run, on_step=show))
    if is_lead():  # of several processes that torchrun started, one speaks
        summary = read_summary(out)
        emit(to_dict(summary), as_json=as_json, quiet=quiet, text=lambda: summary.text())


@latents.command(epilog="Example: egodojo latents extract DATASET --step 8 --every 4")
@DATASET
@click.option(
    "--model",
    default="small",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Model folder, or the name of shipped weights.",
)
@click.option(
    "--step",
    "steps",
    type=int,
    multiple=True,
    default=(1,),
    show_default=True,
    help="Frames between the two of a pair; may be given more than once.",
)
@click.option(
    "--every", type=int, default=1, show_default=True, help="Only every n-th frame begins a pair."
)
@click.option("--all", "every_written", is_flag=True, help="Dropped clips too.")
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="float32, bfloat16 or float16; auto: as stored, else float16 on a GPU, float32 on a CPU.",
)
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile where it works.")
@click.option("--verify", type=int, metavar="N", help="Then make N stored latents anew, compare.")
@click.option("--seed", default=0, show_default=True, help="Which N latents --verify draws.")
@click.option("--inline", is_flag=True, help="Work in this process, without Ray.")
@click.option("--dry-run", is_flag=True, help="Say what is missing (and verify), write nothing.")
@output_options
def extract(
    dataset: Location,
    model: Path,
    steps: tuple[int, ...],
    every: int,
    every_written: bool,
    precision: str,
    compiled: bool,
    verify: int | None,
    seed: int,
    inline: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Store the latents of the kept clips; what is stored already stays as it is."""
    from dataclasses import asdict

    from pipeline.progress import Progress

    from .extract_run import extract_latents, plan_extraction
    from .verify import verify_latents

    plan = plan_extraction(
        dataset,
        model,
        steps=steps,
        every=every,
        every_written=every_written,
        precision=precision,
        compiled=compiled,
        engine="inline" if inline else "ray",
    )
    problems: dict[str, str] = {}
    if dry_run:
        data, text = _planned(plan)
    else:
        with Progress(len(plan.units), "shards", quiet=quiet) as progress:
            result = extract_latents(
                plan, engine="inline" if inline else "ray", on_shard=lambda: progress.advance()
            )
        problems = result.problems
        data, text = asdict(result), _extracted(result)
    verified = None
    if verify is not None:
        verified = verify_latents(plan.job, num_rows=verify, seed=seed)
        data["verified"] = asdict(verified)
        text += (
            f"\nverified: {verified.num_checked} of {verified.num_stored} stored latents made "
            f"anew, the largest difference is {verified.max_difference:.2g}"
        )
    emit(data, as_json=as_json, text=text, quiet=quiet)
    _refuse_problems(problems, dataset)
    if verified is not None:
        verified.raise_fault()


def _planned(plan: Any) -> tuple[dict[str, Any], str]:
    clips = sum(len(unit.clips) for unit in plan.units)
    data = {
        "model_id": plan.job.model_id,
        "device": plan.job.device,
        "precision": plan.job.precision,
        "num_shards": len(plan.units),
        "num_clips_missing": clips,
        "num_clips": plan.num_clips,
    }
    text = f"{plan.job.model_id}: {clips} clips in {len(plan.units)} shards lack latents"
    return data, text


def _extracted(result: Any) -> str:
    device = "GPU" if result.device == "cuda" else "CPU"
    return (
        f"{result.model_id}: {result.num_latents} latents for {result.num_extracted} clips and "
        f"steps ({result.num_clips} clips, steps {', '.join(map(str, result.steps))}; "
        f"{result.precision} on the {device})"
    )


def _refuse_problems(problems: dict[str, str], dataset: Location) -> None:
    from manifests.errors import EgodojoError

    if problems:
        clip_id, why = next(iter(problems.items()))
        raise EgodojoError(
            f"{len(problems)} clips could not be read and have no latents; the first, "
            f"{clip_id}: {why}",
            hint=f"Run: egodojo manifest validate {dataset}",
        )


@latents.command(
    name="import", epilog="Example: egodojo latents import LAM_400k.ckpt --out models/lam"
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New model folder.")
@click.option("--name", default="lam", show_default=True, help="Start of the model id.")
@click.option("--encoder-only", is_flag=True, help="Leave out the decoder: all extraction needs.")
@output_options
def import_command(
    checkpoint: Path, out: Path, name: str, encoder_only: bool, as_json: bool, quiet: bool
) -> None:
    """Make a model folder of a checkpoint in the published layout; every key is checked."""
    from .exchange import import_weights

    result = import_weights(checkpoint, out, name=name, encoder_only=encoder_only)
    _say_exchanged(result, as_json=as_json, quiet=quiet)


@latents.command(epilog="Example: egodojo latents export models/lam --out lam.ckpt")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New file.")
@output_options
def export(model: Path, out: Path, as_json: bool, quiet: bool) -> None:
    """Write a model folder's weights as a .ckpt or .safetensors file in the published layout."""
    from .exchange import export_weights

    _say_exchanged(export_weights(model, out), as_json=as_json, quiet=quiet)


@latents.command(
    name="eval",
    epilog="Example: egodojo latents eval DATASET --model models/lam --step 8 --out eval",
)
@DATASET
@click.option(
    "--model",
    default="small",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Model folder, or the name of shipped weights.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--step", default=8, show_default=True, help="Frames between the two of a pair.")
@click.option("--every", default=4, show_default=True, help="Only every n-th frame begins a pair.")
@click.option("--where", default="true", show_default=True, help="SQL condition on the clips.")
@click.option("--max-clips", default=2000, show_default=True, help="At most so many clips.")
@click.option("--no-baselines", is_flag=True, help="The model alone: faster.")
@output_options
def eval_command(
    dataset: Path,
    model: Path,
    out: Path,
    step: int,
    every: int,
    where: str,
    max_clips: int,
    no_baselines: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a model: retrieval across bodies, probes to true actions, statistics, pictures."""
    from pipeline.progress import Progress

    from .evaluation.evaluate import EvalConfig, evaluate

    config = EvalConfig(
        step=step, every=every, where=where, max_clips=max_clips, baselines=not no_baselines
    )
    with Progress(None, "clips", quiet=quiet) as progress:
        report = evaluate(
            dataset,
            model,
            out,
            config,
            on_clip=lambda number: progress.advance(number - progress.done),
        )
    text = (out / "eval.md").read_text(encoding="utf-8") + f"\n{out / 'eval.html'}"
    emit(report, as_json=as_json, text=text, quiet=quiet)


def _say_exchanged(result: Any, *, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    part = ", encoder only" if result.encoder_only else ""
    text = (
        f"{result.model_id}: {result.num_tensors} tensors, {result.num_parameters:,} numbers{part}"
        f"\n{result.path}"
    )
    emit({**asdict(result), "path": str(result.path)}, as_json=as_json, text=text, quiet=quiet)


@index.command(epilog="Example: egodojo index build DATASET --latents lam-tiny-0123abcd")
@DATASET
@click.option("--latents", "model_id", required=True, help="Model id whose latents to index.")
@click.option("--step", type=int, help="Step of the latents; needed when several are stored.")
@click.option("--name", default="main", show_default=True, help="Name of the index.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change the windows.")
@output_options
def build(
    dataset: Location,
    model_id: str,
    step: int | None,
    name: str,
    sets: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Index the motion of the kept clips; run it again to take in new ones."""
    from dataclasses import asdict

    from manifests.config import load_config

    from .retrieve import build_index
    from .windows import WindowConfig

    windows = load_config(WindowConfig, sets=sets, where="index")
    result = build_index(dataset, model_id, name=name, step=step, windows=windows)
    text = (
        f"index {result.name!r}: {result.num_windows} windows of {result.num_clips} clips "
        f"({result.num_added} added) at {result.path}"
    )
    if result.num_without_latents:
        text += f"\n{result.num_without_latents} kept clips have no latents yet"
    emit(asdict(result), as_json=as_json, text=text, quiet=quiet)


@index.command(
    epilog="Example: egodojo index query DATASET --clip CLIP_ID --time 1.5 --other-embodiment"
)
@DATASET
@click.option("--clip", "clip_id", required=True, help="Clip that shows the motion.")
@click.option("--time", "time_s", type=float, default=0.0, show_default=True, help="Its start, s.")
@click.option("--span", "span_s", type=float, help="Its length, s; default: the index's window.")
@click.option("--where", default="true", show_default=True, help="SQL condition on the answers.")
@click.option("--k", type=int, default=10, show_default=True, help="Answers, one per clip.")
@click.option("--other-embodiment", is_flag=True, help="Only other bodies answer.")
@click.option("--not-self", is_flag=True, help="Leave the query's own clip out.")
@click.option("--name", default="main", show_default=True, help="Name of the index.")
@click.option(
    "--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Write a contact sheet, PNG."
)
@output_options
def query(
    dataset: Location,
    clip_id: str,
    time_s: float,
    span_s: float | None,
    where: str,
    k: int,
    other_embodiment: bool,
    not_self: bool,
    name: str,
    sheet: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the clips whose motion is most like that of a clip at a time."""
    from .retrieve import retrieve

    result = retrieve(
        dataset,
        clip_id,
        time_s,
        k=k,
        where=where,
        other_embodiment=other_embodiment,
        exclude_own=not_self,
        span_s=span_s,
        name=name,
    )
    data: dict[str, Any] = result.to_dict()
    if sheet is not None:
        from pipeline.clips import ClipReader

        from .contact_sheet import save_contact_sheet

        save_contact_sheet(result, ClipReader(dataset), sheet)
        data["sheet"] = str(sheet)
        console(quiet).print(f"contact sheet: {sheet}")
    emit(data, as_json=as_json, text=lambda: answers_table(data), quiet=quiet)


def answers_table(data: dict[str, Any]) -> str:
    """The query and its answers as lines of text."""
    rows = [("", "score", "embodiment", "from_s", "to_s", "clip", "file")]
    for number, span in enumerate([data["query"], *data["answers"]]):
        rows.append(
            (
                str(number or "query"),
                f"{span['score']:.3f}" if number else "",
                span["embodiment"],
                f"{span['start_s']:.2f}",
                f"{span['end_s']:.2f}",
                span["clip_id"],
                Path(span["uri"]).name,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    if not data["answers"]:
        lines.append("no clip answers: the condition leaves none with an indexed motion")
    return "\n".join(line.rstrip() for line in lines)
