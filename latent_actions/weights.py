"""Weights under their published names: reading them, naming what does not fit, their digest."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from manifests.errors import ConfigError, EgodojoError

PREFIX = "lam."
ENCODER_PARTS = ("action_prompt", "encoder.", "fc.", "place.")
FROZEN = "rotary_embedding.freqs"
TRAINERS = ("lightning.", "lightning_fabric.", "pytorch_lightning.", "omegaconf.", "argparse.")
"""Modules whose classes a trainer leaves in a checkpoint as book-keeping."""


SHIPPED = Path(__file__).resolve().parent / "shipped"
"""Model folders that come with the package, each called by its name."""


def model_folder(path: Path) -> Path:
    """The folder with `config.json`: `path` itself, or `model/` in the run folder `path`.

    A bare name that is no folder here is that of weights that are shipped, such as `small`.
    """
    if not path.exists() and len(path.parts) == 1 and (SHIPPED / path).is_dir():
        return SHIPPED / path
    inside = path / "model"
    return inside if not (path / "config.json").is_file() and inside.is_dir() else path


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        EgodojoError: `path` is no model folder, a damaged one, or one of another kind of model.
    """
    file = path / "config.json"
    if not file.is_file():
        raise EgodojoError(
            f"{path} is no model folder: it has no config.json.",
            hint="Give the folder that `egodojo latents train` wrote.",
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EgodojoError(f"{file} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise EgodojoError(f"{file} is damaged: it must hold a JSON object.")
    if "kind" in values:
        raise EgodojoError(
            f"{path} holds a model of kind {values['kind']!r}, not a latent action model.",
            hint="Give the folder that `egodojo latents train` wrote.",
        )
    return values


def read_state(path: Path, *, encoder_only: bool = False) -> dict[str, Tensor]:
    """Tensors by name without `lam.`, from a model folder, a .safetensors or a Lightning .ckpt.

    Of a checkpoint only tensors are read, never code. `encoder_only` leaves the rest on the disk.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise EgodojoError(f"{file} does not exist.", hint="Give a model folder or a weights file.")
    if file.suffix == ".safetensors":
        return _read_safetensors(file, encoder_only=encoder_only)
    return _read_checkpoint(file, encoder_only=encoder_only)


def _wanted(key: str, encoder_only: bool) -> bool:
    return not encoder_only or key.removeprefix(PREFIX).startswith(ENCODER_PARTS)


def _read_safetensors(file: Path, *, encoder_only: bool) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            keys = [key for key in tensors.keys() if _wanted(key, encoder_only)]  # noqa: SIM118
            return {key.removeprefix(PREFIX): tensors.get_tensor(key) for key in keys}
    except SafetensorError as error:
        raise EgodojoError(f"{file} is no readable safetensors file: {error}.") from error


def _bookkeeping(file: Path) -> list[tuple[type, str]]:
    """Classes a trainer left beside the tensors, each read as a plain dict and never imported.

    Raises:
        EgodojoError: The file names something else, which loading would call.
    """
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # not torch's own archive; `torch.load` says what it is
        return []
    strangers = sorted(name for name in named if not name.startswith(TRAINERS))
    if strangers:
        raise EgodojoError(
            f"{file} holds more than plain tensors ({', '.join(strangers[:3])}), and code in a "
            "file is never run.",
            hint="Store its `state_dict` alone, for instance as .safetensors.",
        )
    return [(OrderedDict, name) for name in named]


def _read_checkpoint(file: Path, *, encoder_only: bool) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([*_bookkeeping(file)]):
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise EgodojoError(
            f"{file} holds more than plain tensors, and code in a file is never run.",
            hint="Store its `state_dict` alone, for instance as .safetensors.",
        ) from error
    except (RuntimeError, EOFError) as error:
        raise EgodojoError(f"{file} is no checkpoint that torch can read.") from error
    state = stored.get("state_dict", stored) if isinstance(stored, Mapping) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise EgodojoError(f"{file} holds no weights: no tensor under `state_dict`.")
    return {
        key.removeprefix(PREFIX): value
        for key, value in tensors.items()
        if _wanted(key, encoder_only)
    }


def check_state(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse weights that do not fit, naming what is missing, unknown or of another size.

    Raises:
        ConfigError: one sentence with the counts and the first few names of every kind.
    """
    missing = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    resized = [
        f"{key} is {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & given.keys())
        if given[key].shape != expected[key].shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of wrong size", resized))
        if names
    ]
    if faults:
        raise ConfigError(
            f"The weights in {where} do not fit this model: {'; '.join(faults)}.",
            hint="Use the config that belongs to the weights.",
        )


def model_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hex digits, of the weights that latents depend on: prompt, encoder, fc, place.

    The decoder is left out, so a model loaded with `encoder_only` has the id of the whole one.
    """
    total = hashlib.sha256()
    for key in sorted(key for key in state if key.startswith(ENCODER_PARTS)):
        value = state[key].detach().cpu().contiguous()
        total.update(f"{key}:{value.dtype}:{tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
