"""Where networks run: decided here for training, extraction and evaluation alike."""

from __future__ import annotations

import torch

from manifests.errors import ConfigError


def best_device() -> str:
    """`cuda` when this process sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(name: str) -> torch.device:
    """The device of `loop.device`: `auto` takes the best.

    Raises:
        ConfigError: It is cuda and there is no GPU.
    """
    best = best_device()
    if name == "cuda" and best != "cuda":
        raise ConfigError(
            "loop.device is cuda, but no GPU is visible.", hint="Use loop.device=cpu."
        )
    return torch.device(best if name == "auto" else name)
