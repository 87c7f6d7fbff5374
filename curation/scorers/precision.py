"""Which number format a model's weights should have on this machine.

On a CPU with bf16 instructions, weights in bf16 are several times faster than fp32; autocast is
slower than fp32 there and is never used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def dtype_of(precision: Precision, device: str) -> torch.dtype:
    """The dtype of the weights; `auto` takes bf16 where the hardware computes in it."""
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bf16()
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bf16 matrices (AVX512-BF16, AMX, or ARM's BF16)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [line.partition(":")[2].split() for line in lines if line[:5] in ("flags", "Featu")]
    return bool(flags) and bool(_BF16_FLAGS & set(flags[0]))
