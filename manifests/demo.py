"""`egodojo demo`: films its own footage, then runs the commands a user would, one after another.

It imports no product: every step is a command line, printed before it runs, its JSON kept.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from .cli_support import console, emit, output_options
from .errors import EgodojoError, UsageError

BODIES = {
    "sim_human": "hands",
    "sim_arm7": "robots",
    "sim_arm6": "robots",
    "sim_humanoid": "in_lab",
}
WEIGHTS = {"in_lab": 1, "robots": 2, "hands": 10}
LATENT_STEP = 2
"""Frames between the two of a pair: what one step of the world model is told."""
MOTION_STEP, MOTION_EVERY = 8, 4
"""What the index compares: 0.4 s at 20 frames a second, as the shipped model has learned."""
FRAME_SIZE = (240, 320)
SETTINGS = ("encode.width=320", "encode.height=240")


@click.command(epilog="Example: egodojo demo --out demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder the demo writes; an earlier demo in it is replaced.",
)
@click.option("--seed", default=7, show_default=True, help="Another seed films other scenes.")
@click.option("--episodes", default=13, show_default=True, help="Episodes filmed of each body.")
@click.option("--train-steps", default=60, show_default=True, help="World-model training steps.")
@output_options
def demo(out: Path, seed: int, episodes: int, train_steps: int, as_json: bool, quiet: bool) -> None:
    """Run the whole chain on footage it films itself, offline, with tiny models."""
    if episodes < 1 or train_steps < 1:
        raise UsageError("--episodes and --train-steps must be at least 1.")
    _clear(out)
    story = Story(out=out, quiet=quiet)
    story.tell(seed=seed, episodes=episodes, train_steps=train_steps)
    (out / "summary.json").write_text(json.dumps(story.facts, indent=2), encoding="utf-8")
    emit(story.facts, as_json=as_json)
    if not as_json:
        story.print_summary()


def _clear(out: Path) -> None:
    """Start afresh in a folder that is empty, absent, or an earlier demo's."""
    mark = out / "DEMO"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise UsageError(
            f"{out} holds files that no demo wrote; nothing was touched.",
            hint="Name an empty folder with --out.",
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.write_text("Everything in this folder was written by `egodojo demo`.\n")


@dataclass
class Story:
    """The commands of the demo, in order, and what they said."""

    out: Path
    quiet: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    commands: int = 0

    def tell(self, *, seed: int, episodes: int, train_steps: int) -> None:
        """Run every chapter."""
        begun = time.monotonic()
        with PeakMemory() as memory:
            self.film(seed, episodes)
            self.curate()
            self.find_motion()
            self.train(train_steps)
        self.facts["peak_memory_gib"] = round(memory.peak_bytes / 2**30, 2)
        self.facts["seconds"] = round(time.monotonic() - begun, 1)
        self.facts["seconds_by_chapter"] = {k: round(v, 1) for k, v in self.seconds.items()}

    def film(self, seed: int, episodes: int) -> None:
        """Four bodies, the same motions, and deliberately faulty files beside them."""
        bodies = [word for body in BODIES for word in ("--embodiment", body)]
        self.say("film", "Four bodies do the same motions; faulty files lie among them.")
        if "OMP_NUM_THREADS" not in os.environ:
            console(self.quiet).print("$ export OMP_NUM_THREADS=1", style="cyan")
        self.run(
            "film",
            "simulate",
            *("--out", self.out / "footage", *bodies, "--episodes", episodes, "--seed", seed),
            *("--size", "320x240", "--seconds", 2.6, "--faults", "--workers", 2),
        )

    def curate(self) -> None:
        """Raw files to clips, decided twice."""
        self.say("curate", "Measure, cut, encode and shard; nothing disappears.")
        for body, source in BODIES.items():
            footage: list[object] = [self.out / "footage" / f"{body}-*.mp4"]
            if body == "sim_humanoid":
                footage.append(self.out / "footage" / "faulty")
            sets = [word for setting in SETTINGS for word in ("--set", setting)]
            self.run(
                "curate",
                "curate",
                *(*footage, "--out", self.dataset, "--recipe", "egocentric"),
                *("--source", source, "--embodiment", body, *sets),
            )
        self.say("decide", "Another recipe decides again without decoding a frame.")
        self.facts["strict"] = self.run("decide", "decide", self.dataset, "--recipe", "strict")
        kept = self.run("decide", "decide", self.dataset, "--recipe", "egocentric")
        self.facts["clips"] = {key: kept[key] for key in ("num_clips", "num_kept", "num_dropped")}
        stats = self.run("decide", "manifest", "stats", self.dataset)
        self.facts["files"] = stats["files"]["by_state"]
        self.run("decide", "manifest", "preview", self.dataset)
        self.facts["preview"] = str(self.dataset / "preview" / "index.html")

    def find_motion(self) -> None:
        """Latent actions of every frame pair, and the same motion on another body."""
        self.say("latents", "The shipped latent action model says what moves between two frames.")
        extracted = self.run(
            "latents",
            *("latents", "extract", self.dataset, "--step", LATENT_STEP),
        )
        self.model_id = extracted["model_id"]
        self.facts["latents"] = extracted
        self.run(
            "latents",
            *("latents", "extract", self.dataset, "--step", MOTION_STEP, "--every", MOTION_EVERY),
        )
        self.say("index", "Which other body does what this hand does?")
        self.run(
            "index",
            *("index", "build", self.dataset, "--latents", self.model_id, "--step", MOTION_STEP),
        )
        clip = self.run(
            "index",
            *("manifest", "sql", self.dataset),
            "SELECT clip_id FROM kept WHERE embodiment = 'sim_human' AND text LIKE '%lift%'"
            " ORDER BY uri LIMIT 1",
        )[0]["clip_id"]
        self.facts["query"] = self.run(
            "index",
            *("index", "query", self.dataset, "--clip", clip, "--time", "0.5"),
            *("--other-embodiment", "--k", 5, "--sheet", self.out / "query.png"),
        )

    def train(self, steps: int) -> None:
        """A 1:2:10 mixture, a short pre-training and a rollout."""
        mixture = self.out / "mixture.yaml"
        mixture.write_text(self.mixture_text(), encoding="utf-8")
        self.say("train", "Ten hands, two robots, one in-lab body: exactly 1:2:10.")
        self.run("train", "mixture", "plan", mixture, "--out", self.out / "plan")
        run = self.out / "runs" / "pretrain-tiny"
        trained = self.run(
            "train",
            *("train", "pretrain", "--config", "tiny", "--mixture", mixture, "--out", run),
            *("--set", f"loop.steps={steps}"),
        )
        self.facts["training"] = trained
        self.say("rollout", "The trained model imagines what its actions lead to.")
        self.facts["rollout"] = self.run(
            "rollout",
            *("rollout", "--model", run, "--mixture", mixture, "--chunks", 2),
            *("--out", self.out / "rollout.mp4"),
        )

    @property
    def dataset(self) -> Path:
        """Where the curated footage goes."""
        return self.out / "dataset"

    def mixture_text(self) -> str:
        """The mixture file, as a user would write it."""
        height, width = FRAME_SIZE
        lines = [
            "seed: 7",
            f"latents: {self.model_id}",
            "window:",
            f"  {{num_frames: 13, stride: {LATENT_STEP}, frame_size: [{height}, {width}]}}",
            "sources:",
        ]
        for source, weight in WEIGHTS.items():
            lines.append(f"  {source}:")
            lines.append(
                f"    {{dataset: dataset, where: \"source = '{source}'\", weight: {weight}}}"
            )
        return "\n".join([*lines, ""])

    def say(self, chapter: str, text: str) -> None:
        """One sentence before the commands of a chapter."""
        console(self.quiet).print(f"\n[bold]{chapter}[/bold]  {text}")

    def run(self, chapter: str, *words: object) -> Any:
        """Print one egodojo command, run it, and return what it printed as JSON."""
        self.commands += 1
        log = self.out / "logs" / f"{self.commands:02d}-{words[0]}.json"
        log.parent.mkdir(exist_ok=True)
        command = [str(word) for word in (*words, "--json")]
        console(self.quiet).print(
            f"$ egodojo {shlex.join(command)} > {log}", style="cyan", soft_wrap=True, markup=False
        )
        begun = time.monotonic()
        with log.open("w", encoding="utf-8") as stdout:
            done = subprocess.run(
                [sys.executable, "-m", "manifests.cli", *command],
                stdout=stdout,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                check=False,
            )
        self.seconds[chapter] = self.seconds.get(chapter, 0.0) + time.monotonic() - begun
        if done.returncode:
            raise EgodojoError(
                f"The demo stopped: `egodojo {words[0]}` ended with exit code {done.returncode}.",
                hint="Its message stands above; `egodojo doctor` checks this machine.",
            )
        return json.loads(log.read_text(encoding="utf-8"))

    def print_summary(self) -> None:
        """The closing table."""
        from rich.table import Table

        table = Table(title="egodojo demo", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column()
        for key, value in self.summary():
            table.add_row(key, value)
        from rich.console import Console

        Console().print(table)

    def summary(self) -> Sequence[tuple[str, str]]:
        """What happened, a line each."""
        facts = self.facts
        answers = facts["query"]["answers"]
        training, rollout = facts["training"], facts["rollout"]
        found = ", ".join(f"{a['embodiment']} ({a['score']:.2f})" for a in answers)
        return [
            ("files by fate", _counts(facts["files"])),
            ("clips", _counts(facts["clips"]) + f"; strict keeps {facts['strict']['num_kept']}"),
            ("latents", f"{facts['latents']['num_latents']} of 32 numbers, model {self.model_id}"),
            ("same motion", found or "no answer"),
            ("query sheet", str(self.out / "query.png")),
            (
                "training",
                f"loss {training['loss_start']:.3f} -> {training['loss_end']:.3f} in "
                f"{training['steps']} steps, {training['seconds_per_step']:.2f} s each",
            ),
            (
                "rollout",
                f"{rollout['video']}, {rollout['psnr_db']:.1f} dB to the truth (a still picture: "
                f"{rollout['still_psnr_db']:.1f}; this model is tiny and hardly trained)",
            ),
            ("took", f"{facts['seconds']} s, peak memory {facts['peak_memory_gib']} GiB"),
            ("look at", facts["preview"]),
        ]


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{value} {key.removeprefix('num_')}" for key, value in counts.items())


class PeakMemory:
    """Highest proportional memory of this process and its descendants, sampled now and then."""

    EVERY_S = 2.0  # reading it costs about 10 ms a process

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        own = psutil.Process()
        while not self._stop.wait(self.EVERY_S):
            total = 0
            for process in [own, *_children(own)]:
                try:
                    total += process.memory_full_info().pss
                except (psutil.Error, AttributeError):
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def _children(process: Any) -> list[Any]:
    import psutil

    try:
        found: list[Any] = process.children(recursive=True)
        return found
    except psutil.Error:
        return []
