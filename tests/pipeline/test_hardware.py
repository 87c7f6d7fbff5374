"""Which device decodes, what the file is opened with, and what the scaler makes of its frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from av.video.reformatter import VideoReformatter

from manifests.errors import UsageError
from pipeline import hardware, video
from pipeline.hardware import cpu_multiplies, decoding_device, opened_on
from pipeline.pictures import FrameScaler, _planes
from pipeline.testing import make_video
from pipeline.video import decode, probe


def test_software_asks_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_why_not", lambda device: pytest.fail("looked for a device"))
    assert decoding_device("software") is None


def test_auto_takes_a_gpu_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_why_not", lambda device: None)
    assert decoding_device("auto") == decoding_device("cuda") == "cuda"
    monkeypatch.setattr(hardware, "_why_not", lambda device: "no driver")
    assert decoding_device("auto") is None
    with pytest.raises(UsageError, match=r"decode is cuda, but no GPU decodes video here: no driv"):
        decoding_device("cuda")


def test_a_device_that_ffmpeg_does_not_know_is_explained() -> None:
    assert hardware._why_not("abacus")


def test_a_file_is_opened_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=10)
    facts, told, real = probe(path), [], video.av.open

    def opened(*args: Any, hwaccel: HWAccel | None, **options: Any) -> Any:
        told.append(hwaccel)
        return real(*args, **options)

    monkeypatch.setattr(video.av, "open", opened)
    assert len(list(decode(path, facts, device="cuda"))) == 10
    assert len(list(decode(path, facts))) == 10
    assert [type(accel) for accel in told] == [HWAccel, type(None)]
    assert told[0].allow_software_fallback, "else a codec the GPU lacks would fail the file"
    assert opened_on(None) is None


@pytest.mark.parametrize(
    ("pix_fmt", "from_gpu"), [("yuv420p", "nv12"), ("yuvj420p", "nv12"), ("yuv420p10le", "p010le")]
)
def test_pictures_laid_out_as_a_gpu_gives_them_are_the_same(
    tmp_path: Path, pix_fmt: str, from_gpu: str
) -> None:
    codec = "libx265" if "10" in pix_fmt else "libx264"
    path = make_video(tmp_path / "a.mp4", num_frames=2, width=640, pix_fmt=pix_fmt, codec=codec)
    facts = probe(path)
    decoded = next(iter(decode(path, facts)))
    laid_out = VideoReformatter().reformat(decoded.frame, format=from_gpu, threads=1)
    for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(laid_out, tag, getattr(decoded.frame, tag))
    scaler = FrameScaler(facts, 160, 120)
    plain = [plane.astype(int) for plane in _planes(scaler.scale(decoded))]
    moved = type(decoded)(tick=0, duration=1, frame=laid_out, rotation=0)
    for left, right in zip(plain, _planes(scaler.scale(moved)), strict=True):
        assert np.abs(left - right).max() <= int(pix_fmt.endswith("10le"))


@pytest.mark.parametrize(
    ("text", "bfloat16", "float16"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True, False),
        ("flags\t\t: fpu amx_bf16 avx512_fp16\n", True, True),
        ("Features\t: fp asimd bf16 asimdhp\n", True, True),
        ("flags\t\t: fpu avx2\n", False, False),
        ("processor: 0\n", False, False),
    ],
)
def test_a_cpu_says_which_short_numbers_it_multiplies(
    tmp_path: Path, text: str, bfloat16: bool, float16: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_multiplies("bfloat16", tmp_path / "cpuinfo") is bfloat16
    assert cpu_multiplies("float16", tmp_path / "cpuinfo") is float16
    assert not cpu_multiplies("bfloat16", tmp_path / "gone")
