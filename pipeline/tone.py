"""HDR and wide-gamut pictures made into the SDR ones that are written, in plain numpy.

PQ and HLG light is taken as a display of 1000 nits shows it (ITU-R BT.2100), its highlights are
bent down to 203 nits, the white of BT.2408, by the curve of BT.2390; BT.2020 primaries become
BT.709 ones, and the result is encoded for a BT.1886 display. Shadows and mid-tones keep their
light.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Transfer = Literal["pq", "hlg", "sdr"]

PEAK_NITS, WHITE_NITS = 1000.0, 203.0
HLG_GAMMA = 1.2
DISPLAY_GAMMA = 2.4

BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349],
     [-0.018151, -0.100579, 1.118730]]
)  # fmt: skip
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
_NUM_STEPS = 4096


def to_sdr(rgb: NDArray[np.uint16], transfer: Transfer, *, is_wide: bool) -> NDArray[np.uint8]:
    """Make the picture an SDR display shows; some 20 ms for 640x480.

    Args:
        rgb: uint16 (H, W, 3), full range, encoded by `transfer`.
        transfer: How light is encoded: `pq`, `hlg`, or `sdr` for an ordinary display's gamma.
        is_wide: Whether the primaries are BT.2020's; otherwise they are BT.709's already.

    Returns:
        uint8 (H, W, 3), full range, BT.709 primaries.
    """
    light = _decoding(transfer)[rgb >> 4]
    if transfer == "hlg":
        scene = light @ _BT2020_LUMA
        light *= (scene ** np.float32(HLG_GAMMA - 1))[..., None] * np.float32(
            PEAK_NITS / WHITE_NITS
        )
    if is_wide:
        light = light @ BT2020_TO_BT709.T.astype(np.float32)
    steps = _encoding(transfer)
    top = 1.0 if transfer == "sdr" else PEAK_NITS / WHITE_NITS
    place = np.sqrt(np.clip(light, 0, top) * np.float32(1 / top)) * np.float32(_NUM_STEPS - 1)
    shown: NDArray[np.uint8] = steps[(place + np.float32(0.5)).astype(np.int32)]
    return shown


def pq_nits(code: Doubles) -> Doubles:
    """Light in nits of PQ code values in 0..1 (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
    root = np.asarray(code, np.float64) ** (1 / m2)
    return 10_000.0 * (np.maximum(root - c1, 0.0) / (c2 - c3 * root)) ** (1 / m1)


def pq_code(nits: Doubles) -> Doubles:
    """PQ code values in 0..1 of light in nits."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
    power = (np.asarray(nits, np.float64) / 10_000.0) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg_scene(code: Doubles) -> Doubles:
    """Scene light in 0..1 of HLG code values in 0..1 (ARIB STD-B67)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    code = np.asarray(code, np.float64)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)


def bend(nits: Doubles) -> Doubles:
    """Bring light of up to 1000 nits below 203 by the curve of BT.2390, section 5.4.1."""
    peak = float(pq_code(np.array(PEAK_NITS)))
    limit = float(pq_code(np.array(WHITE_NITS))) / peak
    knee = 1.5 * limit - 0.5
    level = np.minimum(pq_code(nits) / peak, 1.0)
    t = np.clip((level - knee) / (1 - knee), 0.0, 1.0)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * limit
    )
    return pq_nits(np.where(level < knee, level, curve) * peak)


@lru_cache(maxsize=3)
def _decoding(transfer: Transfer) -> NDArray[np.float32]:
    """Light of every code value: in units of SDR white, for HLG the scene's in 0..1."""
    code = np.arange(_NUM_STEPS) / (_NUM_STEPS - 1)
    decode: dict[str, Callable[[Doubles], Doubles]] = {
        "pq": lambda code: pq_nits(code) / WHITE_NITS,
        "hlg": hlg_scene,
        "sdr": lambda code: code**DISPLAY_GAMMA,
    }
    return decode[transfer](code).astype(np.float32)


@lru_cache(maxsize=3)
def _encoding(transfer: Transfer) -> NDArray[np.uint8]:
    """Written code value of light, at steps even in the root of light."""
    root = np.arange(_NUM_STEPS) / (_NUM_STEPS - 1)
    if transfer == "sdr":
        light = root**2
    else:
        light = np.clip(bend(root**2 * PEAK_NITS) / WHITE_NITS, 0.0, 1.0)
    return np.rint(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8)
