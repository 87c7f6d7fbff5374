"""Weights in and out: the published checkpoint becomes a model folder, and a folder a checkpoint.

Tensors pass through untouched, so importing what was exported gives the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from manifests.config import load_config, to_dict
from manifests.errors import ConfigError, EgodojoError, UsageError
from pipeline.training.checkpoint import save_pretrained

from .config import ModelConfig
from .model import build_model
from .weights import PREFIX, check_state, model_digest, model_folder, read_config, read_state

_BLOCK = re.compile(r"(encoder|decoder)\.transformer_blocks\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What was imported or exported."""

    path: Path
    model_id: str
    num_tensors: int
    num_parameters: int
    encoder_only: bool


def infer_config(state: Mapping[str, Tensor], *, name: str, where: str) -> ModelConfig:
    """The shape of the model that tensors under published key names belong to.

    Frames are 240x320, as published; nothing in the weights tells their size.

    Raises:
        ConfigError: A tensor that gives a size is missing, or the sizes belong to no such model.
    """
    needed = {
        "fc.weight": 2,
        "action_prompt": 4,
        "encoder.transformer_blocks.0.temporal_attn.rotary_embedding.freqs": 1,
    }
    for key, rank in needed.items():
        if key not in state or state[key].ndim != rank:
            raise ConfigError(
                f"{where} holds no latent action model: {PREFIX}{key} is missing or misshapen.",
                hint="Give the published checkpoint or a file of `egodojo latents export`.",
            )
    blocks: dict[str, int] = {"encoder": 0, "decoder": 0}
    for key in state:
        if match := _BLOCK.match(key):
            blocks[match[1]] = max(blocks[match[1]], int(match[2]) + 1)
    width = state["fc.weight"].shape[1]
    half_head = len(state["encoder.transformer_blocks.0.temporal_attn.rotary_embedding.freqs"])
    patch_width = state["action_prompt"].shape[-1]
    return ModelConfig(
        name=name,
        width=width,
        latent_dim=state["fc.weight"].shape[0] // 2,
        patch_size=round((patch_width / 3) ** 0.5),
        num_encoder_blocks=blocks["encoder"],
        num_decoder_blocks=blocks["decoder"] or blocks["encoder"],
        num_heads=max(1, width // (2 * half_head)),
    )


def import_weights(
    source: Path, out: Path, *, name: str = "lam", encoder_only: bool = False
) -> Exchanged:
    """Turn a checkpoint in the published layout into a model folder.

    Args:
        source: Lightning `.ckpt`, or `.safetensors` under the same key names.
        out: The folder; nothing may be there yet.
        name: Start of the model id.
        encoder_only: Leave out the decoder, which extraction does not need.

    Raises:
        ConfigError: Tensors are missing, unknown or of another size; the message names them.
        EgodojoError: The file cannot be read, or holds code.
        UsageError: `out` exists.
    """
    if out.exists():
        raise UsageError(f"{out} exists already.", hint="Name a new folder with --out.")
    state = read_state(source, encoder_only=encoder_only)
    config = infer_config(state, name=name, where=str(source))
    with torch.device("meta"):
        expected = build_model(config, encoder_only=encoder_only).state_dict()
    check_state(expected, state, where=str(source))
    save_pretrained(out, to_dict(config), {PREFIX + key: state[key] for key in expected})
    return _exchanged(out, name, state, encoder_only=encoder_only)


def export_weights(model: Path, out: Path) -> Exchanged:
    """Write a model folder's tensors under the published key names, with the same bytes.

    Args:
        model: A model folder, or the run folder of `latents train`.
        out: A `.ckpt` (`state_dict` with keys `lam.*`) or `.safetensors` file that is not there.

    Raises:
        EgodojoError: There is no readable model, or `out` cannot be written.
        UsageError: `out` exists or has another ending.
    """
    if out.suffix not in (".ckpt", ".safetensors"):
        raise UsageError(f"{out} must end in .ckpt or .safetensors.")
    if out.exists():
        raise UsageError(f"{out} exists already.", hint="Name a new file with --out.")
    folder = model_folder(model)
    config = load_config(ModelConfig, values=read_config(folder), where=str(folder))
    state = read_state(folder)
    encoder_only = not any(key.startswith("decoder.") for key in state)
    with torch.device("meta"):
        expected = build_model(config, encoder_only=encoder_only).state_dict()
    check_state(expected, state, where=str(folder))
    tensors = {PREFIX + key: state[key].contiguous() for key in expected}
    part = out.with_name(f".part-{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".ckpt":
            torch.save({"state_dict": tensors}, part)
        else:
            save_file(tensors, part)
        os.replace(part, out)
    except OSError as error:
        raise EgodojoError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return _exchanged(out, config.name, state, encoder_only=encoder_only)


def _exchanged(
    path: Path, name: str, state: Mapping[str, Tensor], *, encoder_only: bool
) -> Exchanged:
    return Exchanged(
        path=path,
        model_id=f"{name}-{model_digest({k: v.float() for k, v in state.items()})[:8]}",
        num_tensors=len(state),
        num_parameters=sum(value.numel() for value in state.values()),
        encoder_only=encoder_only,
    )
