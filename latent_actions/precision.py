"""In which number type the model runs: decided once by the driver, recorded beside rows.

A GPU computes in float16, whose ten bits are those of stored rows; a CPU in float32, so that the
same dataset gives the same latents whether or not a machine knows bfloat16. Latents of one folder
never mix number types: what is stored decides for what comes later.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from manifests.errors import UsageError
from pipeline.hardware import cpu_multiplies

NumberType = Literal["float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def number_type(precision: str, device: str, *, stored: str | None = None) -> NumberType:
    """The number type to compute in.

    Args:
        precision: One of `PRECISIONS`; `auto` takes what is stored, else what suits the device.
        device: `cpu` or `cuda`.
        stored: The number type that latents of the same folder have.

    Raises:
        UsageError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}, must be one of {', '.join(PRECISIONS)}.")
    known: dict[str, NumberType] = {name: name for name in get_args(NumberType)}
    if precision != "auto":
        return known[precision]
    if stored is not None and stored in known:
        return known[stored]
    return "float16" if device == "cuda" else "float32"


def slow_here(chosen: NumberType, device: str) -> str | None:
    """A sentence about a number type this machine computes slowly in; None when it does not."""
    if device != "cpu" or chosen == "float32" or cpu_multiplies(chosen):
        return None
    return f"This CPU has no {chosen} instructions: {chosen} takes longer than float32 here."
