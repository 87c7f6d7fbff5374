"""Which number format a model's weights should have on this machine.

On a CPU with bf16 instructions, weights in bf16 are several times faster than fp32; autocast is
slower than fp32 there and is never used.
"""

from __future__ import annotations

from typing import Literal

import torch

from pipeline.hardware import cpu_multiplies

Precision = Literal["auto", "fp32", "bf16"]


def dtype_of(precision: Precision, device: str) -> torch.dtype:
    """The dtype of the weights; `auto` takes bf16 where the hardware computes in it."""
    if precision == "auto":
        has_bf16 = (
            torch.cuda.is_bf16_supported() if device == "cuda" else cpu_multiplies("bfloat16")
        )
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
