"""A whole training run of the latent action model: clips in, a model folder out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from manifests.config import read_yaml, to_dict
from manifests.errors import ConfigError
from manifests.locations import Location, location
from manifests.mixture import MixtureSpec
from pipeline.clips import ClipReader
from pipeline.training.loop import FitResult, fit
from pipeline.training.optimisation import seed_of
from pipeline.training.ranks import gather, rank, wait_for_all, world_size
from pipeline.training.run_folder import CONFIG_NAME
from pipeline.training.task import Batches, TrainTask

from .blocks import Transformer
from .clips import FrameReader
from .config import MAY_CHANGE, DataConfig, TrainConfig
from .data import PairBatches, PairSampler
from .flow import stabilised_flows
from .flow_model import FlowActionModel, coarse
from .held_out import HeldOut
from .model import LatentActionModel, build_model
from .neighbours.task import NeighbourTask
from .neighbours.views import NeighbourBatches
from .report import TrainResult, summarise
from .sources import CameraColumns, ClipSource, Sources, dataset_sources, mixture_sources, split
from .task import LatentTask


def train(
    data: Location | str | MixtureSpec,
    config: TrainConfig,
    *,
    out: Path,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult | None:
    """Train on the kept clips of a dataset or on a mixture; writes `out/model`.

    Goes on where `out` stopped. The result depends on the clips, the configuration and the number
    of ranks alone. A resumed run sees the versions of the tables it was started on.

    Returns:
        The summary on the first rank, None on the others.

    Raises:
        DatasetError: There is no kept clip of two frames.
        ConfigError: `out` holds a run with another configuration.
        OverBudgetError: Too many clips cannot be read.
    """
    sources = _open(data, config, pinned=_pinned_versions(out))
    versions = gather([sources.versions])[0]
    if versions != sources.versions:  # the tables grew while the ranks opened them
        sources = _open(data, config, pinned=versions)
    trained, held_out = split(sources.sources, config.data.validation_share)
    torch.manual_seed(config.loop.seed)
    model = build_model(config.model)
    for part in model.children():
        if isinstance(part, Transformer):
            part.recompute = config.recompute
    pairs = _batches(trained, config.data, config, seed=config.loop.seed)
    flow_folder = out / "flow_clips"
    task, batches = _task(model, pairs, trained, held_out, config, flow_folder)
    described, may_change = _described(data)
    result = fit(
        task,
        batches,
        config.loop,
        out=out,
        on_step=on_step,
        run_config={**described, "versions": sources.versions, **to_dict(config)},
        may_change=(*MAY_CHANGE, *may_change),
    )
    summary = None
    if rank() == 0:
        model = finished_model(config, result, pairs)
        model.save_pretrained(out / "model")
        shutil.rmtree(flow_folder, ignore_errors=True)
        summary = summarise(
            out,
            model_id=model.model_id,
            num_clips=sum(source.num_clips for source in trained),
            num_held_out_clips=sum(source.num_clips for source in held_out),
        )
    wait_for_all()
    return summary


def _task(
    model: LatentActionModel,
    pairs: PairBatches,
    trained: tuple[ClipSource, ...],
    held_out: tuple[ClipSource, ...],
    config: TrainConfig,
    flow_folder: Path,
) -> tuple[TrainTask, Batches]:
    """What is trained on what: pairs of frames, and views of neighbours where they have weight."""
    common: dict[str, Any] = {
        "beta": config.beta,
        "seed": config.loop.seed,
        "watch_every": config.loop.log_every,
        "held_out": _held_out(held_out, config),
    }
    if not config.neighbours.weight or not isinstance(model, FlowActionModel):
        return LatentTask(model, **common), pairs
    views = NeighbourBatches(pairs, trained, pairs.readers, config, folder=flow_folder)
    return NeighbourTask(model, config.neighbours, **common), views


def finished_model(
    config: TrainConfig, result: FitResult, batches: PairBatches
) -> LatentActionModel:
    """The model to share: averaged weights where they are kept, whole, on the CPU."""
    with torch.device("meta"):
        model = build_model(config.model)
    state = {name: value.cpu().clone() for name, value in result.weights["lam"].items()}
    model.load_state_dict(state, assign=True)
    model.freeze_and_fill()
    model.eval()
    if isinstance(model, FlowActionModel) and config.model.place_weight:
        fit_place(model, batches, steps=config.loop.steps)
    return model


@torch.inference_mode()
def fit_place(model: FlowActionModel, batches: PairBatches, *, steps: int) -> None:
    """Join learned latents and coarse flows along the axes of the run's first pairs."""
    latents, fields = [], []
    size = batches.sampler.config.batch_size
    for number in range(min(steps, -(-PLACE_PAIRS // size))):
        frames = batches.pairs(range(number * size, (number + 1) * size))
        flows = stabilised_flows(frames)
        latents.append(model.encode_flow(flows)[0].flatten(0, 1))
        fields.append(coarse(flows).flatten(0, 1))
    model.fit_place(torch.cat(latents), torch.cat(fields))


PLACE_PAIRS = 4096
"""Pairs that the place part of a flow model is fitted on; fewer after a shorter run."""


def _open(
    data: Location | str | MixtureSpec,
    config: TrainConfig,
    *,
    pinned: Mapping[str, Mapping[str, int]] | None,
) -> Sources:
    cameras = CameraColumns(recording=config.neighbours.recording, camera=config.neighbours.camera)
    if isinstance(data, MixtureSpec):
        if config.data.where != "true":
            raise ConfigError(
                f"data.where is {config.data.where!r}, but sources of a mixture have their own.",
                hint="Write it as `where` of the sources in the mixture file.",
            )
        return mixture_sources(data, cameras=cameras, versions=pinned)
    return dataset_sources(data, where=config.data.where, cameras=cameras, versions=pinned)


def _described(data: Location | str | MixtureSpec) -> tuple[dict[str, Any], list[str]]:
    """What the run's configuration says of its data, and which of it may move."""
    if not isinstance(data, MixtureSpec):
        return {"dataset": str(location(data).resolve())}, []
    moving = [f"mixture.sources.{name}.dataset" for name in data.sources]
    return {"mixture": to_dict(data)}, moving


def _held_out(sources: tuple[ClipSource, ...], config: TrainConfig) -> HeldOut | None:
    if not sources:
        return None
    still = replace(config.data, brightness=0.0)
    # The same pairs whatever the run's seed, so that runs can be compared.
    batches = _batches(sources, still, config, seed=seed_of("held-out pairs"))
    return HeldOut(batches, num_pairs=config.data.validation_pairs)


def _batches(
    sources: tuple[ClipSource, ...], data: DataConfig, config: TrainConfig, *, seed: int
) -> PairBatches:
    readers: dict[str, FrameReader] = {
        source.dataset: ClipReader(source.dataset) for source in sources
    }
    return PairBatches(
        PairSampler(sources, data, seed=seed),
        readers,
        height=config.model.frame_height,
        width=config.model.frame_width,
        rank=rank(),
        world_size=world_size(),
    )


def _pinned_versions(out: Path) -> dict[str, dict[str, int]] | None:
    """Versions of the tables the run in `out` was started on."""
    path = out / CONFIG_NAME
    return read_yaml(path).get("versions") if path.exists() else None
