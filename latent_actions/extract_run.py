"""`latents extract`: one unit per shard; files appear whole and are never rewritten."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from manifests.dataset import Dataset
from manifests.errors import EgodojoError, UsageError
from manifests.latents import (
    LatentReader,
    LatentWriter,
    latent_dir,
    list_latents,
    list_row_tables,
    read_counts,
    remove_leftovers,
)
from manifests.storage import Location, location
from pipeline.clips import ClipReader
from pipeline.file_lock import file_lock
from pipeline.runner import Engine, available_cpus, cluster_has_gpu, run_units
from pipeline.training.device import best_device

from .clips import ClipRef, list_clips
from .config import LATENT_DIM
from .extract import Extractor, count
from .model import LatentActionModel
from .pair_encoder import compile_fault
from .precision import NumberType, number_type, slow_here

log = logging.getLogger(__name__)
GPU_WORKER_CPUS = 3
"""One that feeds the GPU and two that decode; fewer where the machine has fewer."""
UNIT_TIMEOUT_S = 6 * 3600.0
CPU_TIMEOUT_S_PER_PAIR_AND_PARAMETER = 1.5e-7
"""Ten times what one busy core takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One unit of work: the clips of one shard that lack latents for at least one step."""

    shard: str
    clips: tuple[ClipRef, ...]

    def num_pairs(self, job: ExtractJob) -> int:
        """Pairs of its clips for all steps of a job."""
        return sum(count(clip, step, job.every) for clip in self.clips for step in job.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractJob:
    """What every worker needs to know."""

    dataset: Location
    model: Path
    model_id: str
    steps: tuple[int, ...]
    every: int
    device: str
    precision: NumberType
    is_compiled: bool = False
    num_parameters: int = 0

    @property
    def num_cpus(self) -> int:
        """CPUs of one worker."""
        return min(GPU_WORKER_CPUS, available_cpus()) if self.device == "cuda" else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractPlan:
    """What is left to do, known before any work."""

    job: ExtractJob
    units: tuple[ShardUnit, ...]
    num_clips: int
    """Clips the dataset shows now, those with latents included."""

    @property
    def timeout_s(self) -> float:
        """Time one attempt at one unit may take."""
        if self.job.device != "cpu":
            return UNIT_TIMEOUT_S
        pairs = max((unit.num_pairs(self.job) for unit in self.units), default=0)
        return max(
            UNIT_TIMEOUT_S,
            CPU_TIMEOUT_S_PER_PAIR_AND_PARAMETER * pairs * self.job.num_parameters,
        )


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
    device: str
    """`cpu` or `cuda`."""
    precision: str
    """Number type of the large products."""
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
    precision: str = "auto",
    compiled: bool = False,
    engine: Engine = "inline",
) -> ExtractPlan:
    """Find the clips that lack latents; the shards with the most frames come first.

    Args:
        dataset_path: The dataset folder, or its object-storage URI.
        model_path: A model folder, or the run folder of `latents train`.
        steps: Frame distances of the pairs; each has a folder of its own.
        every: Only frames 0, every, 2 every, ... begin a pair.
        every_written: Cover dropped clips too.
        precision: `auto`, `float32`, `bfloat16` or `float16`; see `precision.number_type`.
        compiled: Use `torch.compile` where it works.
        engine: Where the work will run: with `ray`, GPUs of a cluster count as well.

    Raises:
        DatasetError: The dataset has no such clip.
        UsageError: Impossible steps, or stored latents lie on another grid or were computed in
            another precision.
    """
    dataset = location(dataset_path)
    clips = list_clips(Dataset.open(dataset), every_written=every_written)
    job = make_job(
        dataset,
        Path(model_path),
        steps=steps,
        every=every,
        precision=precision,
        compiled=compiled,
        engine=engine,
    )
    by_shard: dict[str, list[ClipRef]] = defaultdict(list)
    for clip in clips:
        by_shard[clip.shard].append(clip)
    tables = [list_row_tables(latent_dir(dataset, job.model_id, step)) for step in job.steps]
    units = []
    for shard, members in by_shard.items():
        stored = [read_counts(found.get(shard, ())).keys() for found in tables]
        lacking = tuple(c for c in members if any(c.clip_id not in ids for ids in stored))
        if lacking:
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
    job = plan.job
    done: list[ShardDone] = []
    failures: list[str] = []
    with _one_thread(), latents_held(job):
        remove_leftovers(job.dataset, job.model_id)
        for outcome in run_units(
            extract_shard,
            plan.units,
            engine=engine if plan.units else "inline",
            setup=partial(load_worker, job),
            num_cpus=float(job.num_cpus),
            num_gpus=1.0 if job.device == "cuda" and engine == "ray" else 0.0,
            timeout_s=plan.timeout_s,
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
        device=job.device,
        precision=job.precision,
        num_clips=plan.num_clips,
        num_extracted=sum(shard.num_extracted for shard in done),
        num_latents=sum(shard.num_latents for shard in done),
        num_shards=len(done),
        problems={key: why for shard in done for key, why in shard.problems.items()},
    )


def load_worker(job: ExtractJob) -> tuple[ExtractJob, Extractor, ClipReader]:
    """State of one worker: its model and its reader.

    One thread computes on a CPU, whatever the engine: how products are split over threads may
    show in their last bits.
    """
    torch.set_num_threads(1)
    extractor = Extractor(
        LatentActionModel.from_pretrained(job.model, encoder_only=True),
        device=job.device,
        precision=job.precision,
        compiled=job.is_compiled,
        num_readers=max(1, job.num_cpus - 1),
    )
    return job, extractor, ClipReader(job.dataset)


def extract_shard(worker: tuple[ExtractJob, Extractor, ClipReader], unit: ShardUnit) -> ShardDone:
    """Extract one shard and put its files in place; running it again adds nothing."""
    job, extractor, reader = worker
    found = extractor.extract_clips(unit.clips, reader, _missing(job, unit), every=job.every)
    # A worker that outlived its driver may have been faster with this shard.
    still = _missing(job, unit)
    latents_of = {
        step: {clip_id: rows for clip_id, rows in latents.items() if clip_id in still[step]}
        for step, latents in found.latents.items()
    }
    for step, latents in latents_of.items():
        if not latents:
            continue
        folder = latent_dir(job.dataset, job.model_id, step)
        number = int(unit.shard.rpartition("-")[2])
        writer = LatentWriter(folder, number, _facts(job, step))
        for clip_id in sorted(latents):
            writer.add(clip_id, latents[clip_id])
        writer.finish()
    return ShardDone(
        num_extracted=sum(len(latents) for latents in latents_of.values()),
        num_latents=sum(len(r) for latents in latents_of.values() for r in latents.values()),
        problems=found.problems,
    )


def make_job(
    dataset: Location,
    model_path: Path,
    *,
    steps: Sequence[int],
    every: int,
    precision: str = "auto",
    compiled: bool = False,
    engine: Engine = "inline",
) -> ExtractJob:
    """Settle model, device and number type, and hold them against what is stored.

    Raises:
        UsageError: Impossible steps, a model with other latents, or stored latents on another
            grid or of another precision.
    """
    if not steps or min(steps) < 1 or every < 1:
        raise UsageError("--step and --every must be at least 1.")
    model = LatentActionModel.from_pretrained(model_path, encoder_only=True)
    if model.config.latent_dim != LATENT_DIM:
        raise UsageError(
            f"The model in {model_path} has latents of {model.config.latent_dim} numbers, "
            f"a dataset stores {LATENT_DIM}."
        )
    model_id = model.model_id
    metas = [
        LatentReader.open(dataset, name, step).meta
        for name, step in list_latents(dataset)
        if name == model_id and step in steps
    ]
    known = {str(meta["precision"]) for meta in metas if "precision" in meta}
    device = "cuda" if engine == "ray" and cluster_has_gpu() else best_device()
    job = ExtractJob(
        dataset=dataset,
        model=model_path,
        model_id=model_id,
        steps=tuple(sorted(set(steps))),
        every=every,
        device=device,
        precision=number_type(precision, device, stored=min(known, default=None)),
        is_compiled=compiled,
        num_parameters=sum(weight.numel() for weight in model.parameters()),
    )
    for meta in metas:
        _check_stored(job, meta)
    return _without_faults(job)


def _without_faults(job: ExtractJob) -> ExtractJob:
    """Say once what this machine does slowly or not at all, where it does the work itself."""
    slow = slow_here(job.precision, job.device)
    if slow:
        log.warning("%s", slow)
    fault = compile_fault(job.device) if job.is_compiled and job.device == best_device() else None
    if fault:
        log.warning("%s", fault)
    return replace(job, is_compiled=job.is_compiled and not fault)


def _check_stored(job: ExtractJob, meta: dict[str, Any]) -> None:
    """Refuse to add rows of another grid or precision to a folder."""
    where = latent_dir(job.dataset, job.model_id, int(meta["step"]))
    stored = int(meta.get("every", 1))
    if stored != job.every:
        raise UsageError(
            f"{where} holds every {stored}. latent, not every {job.every}.",
            hint=f"Use --every {stored}, or remove the folder and start again.",
        )
    precision = meta.get("precision", job.precision)
    if precision != job.precision:
        raise UsageError(
            f"{where} holds latents computed in {precision}, not in {job.precision}.",
            hint=f"Use --precision {precision} (or auto), or remove the folder and start again.",
        )


def _facts(job: ExtractJob, step: int) -> dict[str, Any]:
    """What meta.json is to say; a folder of an older version says nothing of precision."""
    facts = {"every": job.every, "precision": job.precision}
    if (job.model_id, step) in list_latents(job.dataset):
        stored = LatentReader.open(job.dataset, job.model_id, step).meta
        return {key: value for key, value in facts.items() if key in stored}
    return facts


def _missing(job: ExtractJob, unit: ShardUnit) -> dict[int, set[str]]:
    """Step -> clips of a unit without latents, from the files: a repeated unit finds none."""
    stored = set(list_latents(job.dataset))
    missing = {step: {clip.clip_id for clip in unit.clips} for step in job.steps}
    for step in job.steps:
        if (job.model_id, step) in stored:
            reader = LatentReader.open(job.dataset, job.model_id, step)
            missing[step] -= reader.num_rows(unit.shard).keys()
    return missing


@contextmanager
def latents_held(job: ExtractJob) -> Iterator[None]:
    """Keep other extractions of this model away from its folder."""
    lock = job.dataset / "runs" / f"LATENTS-{job.model_id}.lock"
    what = f"The folder of latents {job.dataset / 'latents' / job.model_id}"
    with file_lock(lock, what=what, hint="Wait until that extraction has ended."):
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """What `load_worker` does to a process, undone for a caller that works inline."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
