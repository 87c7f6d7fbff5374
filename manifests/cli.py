"""The front door: knows every command as a string and imports it on use."""

from __future__ import annotations

import os
import sys

import click

from . import __version__
from .cli_support import LazyGroup, run

COMMANDS = {
    "demo": ("manifests.demo:demo", "The whole chain on footage it makes itself, offline."),
    "simulate": ("curation.simulation.cli:simulate", "Film several bodies doing known motions."),
    "curate": ("curation.cli:curate", "Raw video to measured, decided, sharded clips."),
    "dedup": ("curation.dedup_cli:dedup", "Find near-duplicate clips; a recipe's rule drops them."),
    "decide": ("curation.cli:decide", "Keep or drop again with another recipe, in seconds."),
    "score": ("curation.score_cli:score", "Embeddings, hands, captions or your own scores."),
    "manifest": ("manifests.manifest_cli:manifest", "Query, count, verify and draw a dataset."),
    "latents": ("latent_actions.cli:latents", "Train the latent action model, extract latents."),
    "index": ("latent_actions.cli:index", "Which other body does this motion?"),
    "mixture": ("manifests.mixture_cli:mixture", "Exact, repeatable training mixtures."),
    "train": ("world_model.cli:train", "Train a world model from a mixture; rerun resumes."),
    "rollout": ("world_model.cli:rollout", "Let a trained world model imagine a video."),
    "doctor": ("pipeline.preflight_cli:doctor", "Versions, codecs, disk, GPU, Ray, name clashes."),
}

LEAN_MEMORY = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "TOKIO_WORKER_THREADS": "1",
    "_RJEM_MALLOC_CONF": "narenas:1,tcache:false,dirty_decay_ms:100,muzzy_decay_ms:0",
}
"""Read from the environment when Arrow and delta-rs are first imported: keep little memory.

Arrow's own pool keeps 30 MB of what passed through it. delta-rs takes memory for a thread per core,
though its requests only wait; its allocator would keep 20 MB of what some hundred commits freed.
"""


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "EGODOJO"},
    epilog="Example: egodojo curate ~/footage --out DATASET --recipe egocentric",
)
@click.version_option(__version__, prog_name="egodojo")
def egodojo() -> None:
    """Folders of egocentric and robot video in, training data and world models out."""


def main() -> None:
    """Console script `egodojo`."""
    for name, value in LEAN_MEMORY.items():
        os.environ.setdefault(name, value)
    from .errors import EgodojoError
    from .origins import check_origins

    try:
        check_origins()
    except EgodojoError as error:
        click.echo(f"egodojo: {error.message}", err=True)
        click.echo(f"  hint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    sys.exit(run(egodojo))


if __name__ == "__main__":
    main()
