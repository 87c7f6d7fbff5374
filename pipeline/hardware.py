"""Whether a GPU decodes video here, and how a file is opened so that it does.

The decoder of the codec's standard and the GPU's give the same pictures of an intact stream; they
may differ in what they show where a stream is damaged. What the GPU cannot decode, software does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from manifests.errors import UsageError

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel

Decode = Literal["software", "auto", "cuda"]
"""`auto` takes a GPU where there is one, `cuda` insists on it."""


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
