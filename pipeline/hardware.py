"""What the hardware here can do: decode video on a GPU, multiply matrices of short numbers.

The decoder of the codec's standard and the GPU's give the same pictures of an intact stream; they
may differ in what they show where a stream is damaged. What the GPU cannot decode, software does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from manifests.errors import UsageError

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel

Decode = Literal["software", "auto", "cuda"]
"""`auto` takes a GPU where there is one, `cuda` insists on it."""

_CPU_FLAGS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}


def decoding_device(decode: Decode) -> str | None:
    """The device to decode on here: `cuda`, or None for software.

    Raises:
        UsageError: A GPU is insisted on, and none decodes video here.
    """
    if decode == "software":
        return None
    why = _why_not("cuda")
    if why is None:
        return "cuda"
    if decode == "auto":
        return None
    raise UsageError(
        f"decode is cuda, but no GPU decodes video here: {why}.",
        hint="Install NVIDIA's driver with its video libraries, or use --set decode=auto.",
    )


def opened_on(device: str | None) -> HWAccel | None:
    """What `av.open` is to be told; a new one for each file."""
    if device is None:
        return None
    from av.codec.hwaccel import HWAccel

    return HWAccel(device_type=device, allow_software_fallback=True)


def cpu_multiplies(
    kind: Literal["bfloat16", "float16"], cpuinfo: Path = Path("/proc/cpuinfo")
) -> bool:
    """Whether this CPU has instructions for such numbers: AVX-512, AMX, or those of ARM.

    Without them a product takes longer than in float32. Where there is no `/proc/cpuinfo` the
    answer is no.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [line.partition(":")[2].split() for line in lines if line[:5] in ("flags", "Featu")]
    return bool(flags) and bool(_CPU_FLAGS[kind] & set(flags[0]))


def _why_not(device: str) -> str | None:
    """Why a device cannot be used; None when it can."""
    from av.codec import Codec
    from av.codec.hwaccel import HWAccel
    from av.error import FFmpegError

    try:
        HWAccel(device_type=device).create(Codec("h264", "r"))
    except (FFmpegError, ValueError, RuntimeError, NotImplementedError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
