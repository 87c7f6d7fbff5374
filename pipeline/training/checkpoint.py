"""Training checkpoints, which resume a run exactly, and shared models, which anybody can load.

A checkpoint is a folder that appears by one rename; a model is `config.json` + `model.safetensors`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from manifests.errors import EgodojoError

from .ranks import rank, wait_for_all

STATE_NAME = "state.pt"
SHARDS_DIR = "shards"


def save_checkpoint(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    shards: dict[str, Tensor] | None = None,
) -> Path:
    """Write `state` as `folder/step-<8 digits>/` and remove all but the newest `keep` checkpoints.

    The folder appears by one rename after its bytes are on the disk: it is whole or absent. On
    several ranks all must call it; rank 0 writes `state`, and each its part of `shards`.
    """
    final = folder / f"step-{step:08d}"
    part = folder / f".part-{final.name}"
    lead = rank() == 0
    if lead:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        part.mkdir()
    if shards is not None:
        from .shard_files import save_shards

        wait_for_all()
        save_shards(part / SHARDS_DIR, shards)
    wait_for_all()
    if lead:
        with (part / STATE_NAME).open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(part, final)
        _sync_folder(folder)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    wait_for_all()
    return final


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's state onto the CPU; only tensors and plain values, never code.

    Raises:
        EgodojoError: The file is damaged, or holds code.
    """
    hint = "Delete this folder to go on from the checkpoint before it."
    try:
        state = torch.load(path / STATE_NAME, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text advises to run that code
        raise EgodojoError(
            f"Checkpoint {path} cannot be read: it is damaged, or holds code, which is never run.",
            hint=hint,
        ) from error
    except Exception as error:  # torch raises many types for damaged files
        raise EgodojoError(
            f"Checkpoint {path} cannot be read: it is damaged ({type(error).__name__}).", hint=hint
        ) from error
    return dict(state)


def list_checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.exists() else []


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left behind."""
    for part in folder.glob(".part-*"):
        shutil.rmtree(part)


def save_pretrained(
    folder: Path,
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    *,
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write `config.json`, `model.safetensors` and `extra_files`; an older folder is replaced."""
    part = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    save_file(tensors, part / "model.safetensors")
    for name, data in (extra_files or {}).items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(data)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)


def load_pretrained(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a model folder: its configuration and its tensors, on the CPU.

    Raises:
        EgodojoError: The folder is no model folder, or a file in it is damaged.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise EgodojoError(
                f"{folder} is not a model folder: {name} is missing.",
                hint="Give the folder that holds config.json and model.safetensors.",
            )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise EgodojoError(f"Model folder {folder} is damaged: {error}") from error
    return config, tensors


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
