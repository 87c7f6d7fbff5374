"""Unusual pixels: each written clip against a conversion of the source made here, in plain numpy.

The source's own decoded planes are turned into displayed RGB by the formulas of the standards, cut
and averaged to the clip's size; the clip's planes are read by the tags it carries. Tolerances are
in levels of 8-bit RGB: mean over the picture, 99.9th percentile of its pixels.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from video_helpers import encode_clip

from manifests.settings import EncodeSettings
from pipeline.testing import make_video
from pipeline.tone import bend, to_sdr
from pipeline.video import decode, probe, write_video

Doubles = NDArray[np.float64]
OUT = EncodeSettings(width=320, height=240, crf=4)
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
MEAN_TOLERANCE, PEAK_TOLERANCE = 2.0, 8.0


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Slow waves of all colours: chroma of half the resolution loses nothing."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(6 * x + 2 * y), np.sin(5 * y - 3 * x + 1), np.cos(4 * (x + y))]
    return np.clip(128 + 90 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def planes_of(frame: Any) -> tuple[list[Doubles], int]:
    """Planes of a planar 4:x:x frame in code values, chroma repeated to full size; the depth."""
    depth = 10 if frame.format.name.endswith("10le") else 8
    kind = np.uint16 if depth > 8 else np.uint8
    rows = [np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    height, width = rows[0].shape
    full = [rows[0]]
    for plane in rows[1:]:
        tall, wide = -(-height // plane.shape[0]), -(-width // plane.shape[1])
        full.append(np.kron(plane, np.ones((tall, wide)))[:height, :width])
    return [plane.astype(np.float64) for plane in full], depth


def to_rgb(frame: Any, *, matrix: int | None = None) -> Doubles:
    """R'G'B' in 0..1 of a frame, by its own tags; `matrix` when the frame names none."""
    (y, cb, cr), depth = planes_of(frame)
    scale = 2 ** (depth - 8)
    if frame.color_range == 2 or frame.format.name.startswith("yuvj"):
        top = 256 * scale - 1
        y, cb, cr = y / top, (cb - 128 * scale) / top, (cr - 128 * scale) / top
    else:
        y = (y / scale - 16) / 219
        cb, cr = ((c / scale - 128) / 224 for c in (cb, cr))
    red, blue = LUMA[int(frame.colorspace) if matrix is None else matrix]
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1), 0, 1)


def averaged(
    rgb: Doubles, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Doubles:
    """Exact area means of a box (left, top, width, height) of a picture."""
    left, top, wide, tall = box
    columns = _weights(rgb.shape[1], left, wide, size[0])
    rows = _weights(rgb.shape[0], top, tall, size[1])
    return np.stack([rows @ rgb[..., c] @ columns.T for c in range(3)], -1)


def _weights(length: int, start: float, span: float, count: int) -> Doubles:
    edges = start + span * np.arange(count + 1) / count
    cells = np.arange(length)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    overlap = np.clip(overlap, 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def centre(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    """The centred box of an aspect, with sides and edges on even pixels."""
    wide, tall = min(width, height * aspect), min(height, width / aspect)
    wide, tall = (max(2 * int(side / 2), 1) for side in (wide, tall))
    left, top = (2 * int((whole - side) / 4) for whole, side in ((width, wide), (height, tall)))
    return left, top, wide, tall


def clip_of(path: Path) -> Any:
    """The first frame of the clip made of a video."""
    with av.open(io.BytesIO(encode_clip(path, settings=OUT))) as container:
        return next(container.decode(video=0))


def source_of(path: Path) -> Any:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def check(path: Path, expected: Doubles, clip: Any, *, matrix: int | None = None) -> None:
    error = np.abs(255 * (to_rgb(clip, matrix=matrix) - expected)).max(axis=-1)
    assert error.mean() <= MEAN_TOLERANCE, f"{path.name}: mean error {error.mean():.2f}"
    peak = np.percentile(error, 99.9)
    assert peak <= PEAK_TOLERANCE, f"{path.name}: 99.9 % of errors up to {peak:.2f}"


X265 = "log-level=none:"
SDR: dict[str, dict[str, Any]] = {
    "bt709.mp4": {"options": {"x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"}},
    "full_range.mp4": {"pix_fmt": "yuvj420p",
                       "options": {"x264-params": "colormatrix=bt709:fullrange=on"}},
    "full_range_10.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le",
                          "options": {"x265-params": X265 + "colormatrix=bt709:range=full"}},
    "ten_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le",
                    "options": {"x265-params": X265 + "colormatrix=bt709"}},
    "ten_bit_422.mkv": {"codec": "ffv1", "pix_fmt": "yuv422p10le", "options": {}},
    "bt601_444.mp4": {"pix_fmt": "yuv444p", "options": {"x264-params": "colormatrix=smpte170m"}},
    "interlaced.mp4": {"options": {"x264-params": "interlaced=1:colormatrix=bt709"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"speed": "8"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "10", "svtav1-params": "rc=0"}},
    "av1_10.mp4": {"codec": "libsvtav1", "pix_fmt": "yuv420p10le", "options": {"preset": "10"}},
    "odd.mp4": {"width": 641, "height": 359, "pix_fmt": "yuv444p"},
    "wide.mp4": {"width": 2000, "height": 40},
    "tall.mp4": {"width": 50, "height": 900},
}  # fmt: skip
UHD: dict[str, Any] = {"width": 3840, "height": 2160}


@pytest.mark.parametrize("name", [*SDR, pytest.param("4k.mp4", marks=pytest.mark.slow)])
def test_sdr_pixels_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    given = {"width": 640, "height": 360, "crf": 4, **SDR.get(name, UHD)}
    shape = given.pop("width"), given.pop("height")
    write_video(tmp_path / name, [picture(*shape)] * 3, 10, **given)
    source, clip = source_of(tmp_path / name), clip_of(tmp_path / name)
    matrix = 5 if source.colorspace == 2 else None  # nothing said: BT.601, as everywhere here
    box = centre(source.width, source.height, 4 / 3)
    expected = averaged(to_rgb(source, matrix=matrix), box, (OUT.width, OUT.height))
    check(tmp_path / name, expected, clip, matrix=matrix)
    assert clip.format.name == "yuv420p"
    assert clip.color_range == 1
    for tag in ("colorspace", "color_primaries", "color_trc"):
        assert getattr(clip, tag) == getattr(source, tag)
    assert not clip.interlaced_frame


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (2, 3), (40, 1), (5, 3)])
def test_the_smallest_pictures_keep_their_colour(size: tuple[int, int], tmp_path: Path) -> None:
    colour = np.array([200, 120, 60])
    plain = np.broadcast_to(colour, (size[1], size[0], 3)).astype(np.uint8)
    path = tmp_path / "a.mkv"
    write_video(path, [plain] * 2, 10, codec="ffv1", pix_fmt="yuv444p", options={})
    assert np.abs(255 * to_rgb(clip_of(path), matrix=5) - colour).max() <= 4


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_wide_pixels_are_shown_upright_and_square(rotation: int, tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "a.mp4", num_frames=2, width=480, height=360, rotation=rotation, crf=4,
        sample_aspect=Fraction(4, 3), kind="frozen", barcode=True,
    )  # fmt: skip
    facts = probe(path)
    stored = to_rgb(source_of(path), matrix=5)
    aspect = (3 / 4 if rotation % 180 else 4 / 3) / (4 / 3)
    size = (OUT.height, OUT.width) if rotation % 180 else (OUT.width, OUT.height)
    box = centre(facts.stored_width, facts.stored_height, aspect)
    expected = np.rot90(averaged(stored, box, size), rotation // 90)
    error = np.abs(255 * (to_rgb(clip_of(path), matrix=5) - expected))
    assert error.mean() <= 3.0  # a texture of hard blocks, of which chroma keeps half


def test_uneven_times_change_no_pixel(tmp_path: Path) -> None:
    ticks = [0, 10, 25, 90]
    path = make_video(
        tmp_path / "a.mkv", num_frames=4, kind="frozen", ticks=ticks, fps=10,
        time_base=Fraction(1, 100), crf=4,
    )  # fmt: skip
    frames = [frame.duration for frame in decode(path)]
    assert frames[:3] == [100, 150, 650]
    expected = averaged(to_rgb(source_of(path), matrix=5), (0, 0, 320, 240), (320, 240))
    error = np.abs(255 * (to_rgb(clip_of(path), matrix=5) - expected))
    assert error.mean() <= MEAN_TOLERANCE


def pq_light(code: Doubles) -> Doubles:
    root = code ** (32 / 2523)
    return 1e4 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)


def pq_signal(nits: Doubles) -> Doubles:
    power = (nits / 1e4) ** (2610 / 16384)
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)


def hlg_light(code: Doubles) -> Doubles:
    """Nits of a 1000-nit display: inverse OETF, then the system gamma of 1.2 on the luminance."""
    scene = np.where(
        code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
    )
    return 1000 * scene * (scene @ [0.2627, 0.6780, 0.0593])[..., None] ** 0.2


def shown_sdr(nits: Doubles) -> Doubles:
    """BT.2390 from 1000 to 203 nits, channel by channel, for a display of gamma 2.4."""
    top = pq_signal(np.array(1000.0))
    limit = pq_signal(np.array(203.0)) / top
    knee = 1.5 * limit - 0.5
    level = np.clip(pq_signal(np.clip(nits, 0, 1000)) / top, 0, 1)
    t = (level - knee) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
    bent += (-2 * t**3 + 3 * t**2) * limit
    light = pq_light(np.where(level < knee, level, bent) * top) / 203
    return np.clip(light, 0, 1) ** (1 / 2.4)


WIDE = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67", "bt709"])
def test_hdr_and_wide_gamut_become_sdr_in_bt709(transfer: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    params = f"{X265}colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
    colours = picture(640, 480)
    softer = (0.15 * colours + 0.85 * colours.mean(axis=2, keepdims=True)).astype(np.uint8)
    write_video(
        path, [softer] * 3, 10, codec="libx265", pix_fmt="yuv420p10le", crf=2,
        options={"x265-params": params},
    )  # fmt: skip
    source, clip = source_of(path), clip_of(path)
    code = averaged(to_rgb(source), (0, 0, 640, 480), (OUT.width, OUT.height))
    if transfer == "bt709":
        expected = np.clip(code**2.4 @ WIDE.T, 0, 1) ** (1 / 2.4)
    else:
        nits = pq_light(code) if transfer == "smpte2084" else hlg_light(code)
        expected = shown_sdr(np.clip(nits @ WIDE.T, 0, None))
    error = np.abs(255 * (to_rgb(clip) - expected)).max(axis=-1)
    is_inside = expected.min(axis=-1) > 0.25  # at the gamut's edge a rounding is tens of levels
    assert is_inside.mean() > 0.3
    assert error[is_inside].mean() <= 2.5
    assert np.percentile(error[is_inside], 99.9) <= PEAK_TOLERANCE
    tags = (clip.colorspace, clip.color_primaries, clip.color_trc, clip.color_range)
    assert tags == (1, 1, 1, 1)
    washed_out = np.abs(255 * (to_rgb(clip) - code)).mean()
    assert washed_out > 2.5  # the code values alone would be another picture


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_the_tone_curve_is_that_of_the_standards(transfer: Any) -> None:
    """Greys and soft colours, without any video around; grey of 203 nits stays below white."""
    levels = np.linspace(0, 0.95, 60)
    grey = np.repeat(levels[:, None, None], 3, axis=2)
    tinted = np.clip(grey * [1.02, 1.0, 0.97], 0, 1)
    code = np.concatenate([grey, tinted], axis=1)
    nits = pq_light(code) if transfer == "pq" else hlg_light(code)
    expected = shown_sdr(np.clip(nits @ WIDE.T, 0, None))
    rgb = np.rint(65535 * code).astype(np.uint16)
    shown = to_sdr(rgb, transfer, is_wide=True)
    assert np.abs(shown - 255 * expected).max() <= 2.0
    assert (np.diff(shown[:, 0, 0].astype(int)) >= 0).all()
    assert bend(np.array([50.0, 1000.0])) == pytest.approx([50.0, 203.0])
