"""`latents extract`: one unit per shard; files appear whole and are never rewritten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from manifests.dataset import Dataset
from manifests.errors import EgodojoError, UsageError
from manifests.latents import LatentReader, LatentWriter, latent_dir, list_latents
from manifests.storage import Location, location
from pipeline.clips import ClipReader
from pipeline.file_lock import file_lock
from pipeline.runner import Engine, run_units

from .clips import ClipRef, list_clips
from .config import LATENT_DIM
from .extract import Extractor
from .model import LatentActionModel

UNIT_TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One unit of work: the clips of one shard that lack latents for at least one step."""

    shard: str
    clips: tuple[ClipRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractJob:
    """What every worker needs to know; `threads` None leaves torch's own choice."""

    dataset: Location
    model: Path
    model_id: str
    steps: tuple[int, ...]
    every: int
    device: str
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractPlan:
    """What is left to do, known before any work."""

    job: ExtractJob
    units: tuple[ShardUnit, ...]
    num_clips: int
    """Clips the dataset shows now, those with latents included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDone:
    """What one unit gave."""

    num_extracted: int
    """Clips times steps."""
    num_latents: int
    problems: dict[str, str]
    """Clip id -> why its frames could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult:
    """Counts of one extraction."""

    model_id: str
    steps: tuple[int, ...]
    num_clips: int
    """Clips the dataset shows now."""
    num_extracted: int
    """Clips times steps made by this call; what was there already is not counted."""
    num_latents: int
    """Rows written by this call."""
    num_shards: int
    """Shards worked on by this call."""
    problems: dict[str, str]
    """Clip id -> why it has no latents."""


def plan_extraction(
    dataset_path: Location | str,
    model_path: Path | str,
    *,
    steps: Sequence[int] = (1,),
    every: int = 1,
    every_written: bool = False,
) -> ExtractPlan:
    """Find the clips that lack latents; the shards with the most frames come first.

    Args:
        dataset_path: The dataset folder.
        model_path: A model folder, or the run folder of `latents train`.
        steps: Frame distances of the pairs; each has a folder of its own.
        every: Only frames 0, every, 2 every, ... begin a pair.
        every_written: Cover dropped clips too.

    Raises:
        DatasetError: The dataset has no such clip.
        UsageError: Impossible steps, or stored latents lie on another grid.
    """
    dataset = location(dataset_path)
    clips = list_clips(Dataset.open(dataset), every_written=every_written)
    job = _job(dataset, Path(model_path), steps=steps, every=every)
    by_shard: dict[str, list[ClipRef]] = defaultdict(list)
    for clip in clips:
        by_shard[clip.shard].append(clip)
    units = []
    for shard, members in by_shard.items():
        missing = set().union(*_missing(job, shard, members).values())
        if missing:
            lacking = tuple(clip for clip in members if clip.clip_id in missing)
            units.append(ShardUnit(shard=shard, clips=lacking))
    units.sort(key=lambda unit: (-sum(clip.num_frames for clip in unit.clips), unit.shard))
    return ExtractPlan(job=job, units=tuple(units), num_clips=len(clips))


def extract_latents(
    plan: ExtractPlan, *, engine: Engine = "ray", on_shard: Callable[[], None] | None = None
) -> ExtractResult:
    """Do what a plan says; a shard's files appear whole, so calling again after a kill only adds.

    An empty plan starts no worker.

    Args:
        plan: From `plan_extraction`.
        engine: `inline` works in this process.
        on_shard: Called after each shard.

    Raises:
        EgodojoError: A shard failed; the others are written.
        LockedError: Another process extracts latents of this model here.
    """
    job = replace(plan.job, threads=1 if engine == "ray" else None)
    done: list[ShardDone] = []
    failures: list[str] = []
    lock = job.dataset / "runs" / f"LATENTS-{job.model_id}.lock"
    what = f"The folder of latents {job.dataset / 'latents' / job.model_id}"
    with file_lock(lock, what=what, hint="Wait until that extraction has ended."):
        for outcome in run_units(
            extract_shard,
            plan.units,
            engine=engine if plan.units else "inline",
            setup=partial(load_worker, job),
            num_gpus=1.0 if job.device == "cuda" and engine == "ray" else 0.0,
            timeout_s=UNIT_TIMEOUT_S,
        ):
            if outcome.result is None:
                failures.append(f"{outcome.unit.shard}: {outcome.error}")
            else:
                done.append(outcome.result)
            if on_shard is not None:
                on_shard()
    if failures:
        raise EgodojoError(
            f"Latents of {len(failures)} of {len(plan.units)} shards were not made; the first, "
            f"{failures[0]}",
            hint="The others are stored; run the same command again for the rest.",
        )
    return ExtractResult(
        model_id=job.model_id,
        steps=job.steps,
        num_clips=plan.num_clips,
        num_extracted=sum(shard.num_extracted for shard in done),
        num_latents=sum(shard.num_latents for shard in done),
        num_shards=len(done),
        problems={key: why for shard in done for key, why in shard.problems.items()},
    )


def load_worker(job: ExtractJob) -> tuple[ExtractJob, Extractor, ClipReader]:
    """State of one worker: its model and its reader."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    model = LatentActionModel.from_pretrained(job.model, encoder_only=True)
    return job, Extractor(model, device=job.device), ClipReader(job.dataset)


def extract_shard(worker: tuple[ExtractJob, Extractor, ClipReader], unit: ShardUnit) -> ShardDone:
    """Extract one shard and put its files in place; running it again adds nothing."""
    job, extractor, reader = worker
    wanted = _missing(job, unit.shard, unit.clips)
    found = extractor.extract_clips(unit.clips, reader, wanted, every=job.every)
    for step, latents in found.latents.items():
        if not latents:
            continue
        folder = latent_dir(job.dataset, job.model_id, step)
        number = int(unit.shard.rpartition("-")[2])
        writer = LatentWriter(folder, number, {"every": job.every})
        for clip_id in sorted(latents):
            writer.add(clip_id, latents[clip_id])
        writer.finish()
    return ShardDone(
        num_extracted=sum(len(latents) for latents in found.latents.values()),
        num_latents=sum(len(r) for latents in found.latents.values() for r in latents.values()),
        problems=found.problems,
    )


def _missing(job: ExtractJob, shard: str, clips: Sequence[ClipRef]) -> dict[int, set[str]]:
    """Step -> clips of a shard without latents, from the files: a repeated unit finds none."""
    stored = list_latents(job.dataset)
    missing = {step: {clip.clip_id for clip in clips} for step in job.steps}
    for step in job.steps:
        if (job.model_id, step) in stored:
            reader = LatentReader.open(job.dataset, job.model_id, step)
            missing[step] -= reader.num_rows(shard).keys()
    return missing


def _job(dataset: Location, model_path: Path, *, steps: Sequence[int], every: int) -> ExtractJob:
    if not steps or min(steps) < 1 or every < 1:
        raise UsageError("--step and --every must be at least 1.")
    model = LatentActionModel.from_pretrained(model_path, encoder_only=True)
    if model.config.latent_dim != LATENT_DIM:
        raise UsageError(
            f"The model in {model_path} has latents of {model.config.latent_dim} numbers, "
            f"a dataset stores {LATENT_DIM}."
        )
    job = ExtractJob(
        dataset=dataset,
        model=model_path,
        model_id=model.model_id,
        steps=tuple(sorted(set(steps))),
        every=every,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    for name, step in list_latents(dataset):
        if name == job.model_id and step in job.steps:
            stored = LatentReader.open(dataset, name, step).every
            if stored != every:
                raise UsageError(
                    f"{latent_dir(dataset, name, step)} holds every {stored}. latent, not every "
                    f"{every}.",
                    hint=f"Use --every {stored}, or remove the folder and start again.",
                )
    return job
