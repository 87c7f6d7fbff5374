"""The setting `decode`: refused, passed on, reserved for, and no part of the dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit_helpers import SETTINGS

from curation import part, units
from curation.config import CurateConfig
from curation.task import UnitTask
from curation.work import curate_unit
from manifests.dataset import Dataset
from manifests.errors import UsageError
from manifests.records import Part, PlannedUnit
from pipeline import hardware
from pipeline.testing import make_video

Cli = Callable[..., SimpleNamespace]
SMALL = ["--inline", "--set", "encode.width=160", "--set", "encode.height=120"]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_why_not", lambda device: "no driver")


@pytest.mark.usefixtures("no_gpu")
def test_insisting_on_a_gpu_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, cli: Cli
) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20)
    for value, message in (
        ("decode=cuda", "decode is cuda, but no GPU decodes video here: no driver"),
        ("decode=gpu", "decode is 'gpu', must be one of software, auto, cuda"),
        ("gpus_per_unit=0", "gpus_per_unit is 0.0, must be above 0"),
    ):
        result = cli("curate", video, "--out", tmp_path / "ds", *SMALL, "--set", value)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not (tmp_path / "ds").exists()


@pytest.mark.usefixtures("no_gpu")
def test_a_worker_without_the_gpu_refuses_its_unit_and_blames_no_file() -> None:
    piece = Part(uri="/nowhere/v.mp4", video_id="0" * 32, start_tick=None, end_tick=None)
    task = UnitTask(
        unit=PlannedUnit(number=0, unit_id="u", parts=(piece,)),
        shards_dir="/nowhere",
        token="t",
        settings=SETTINGS,
        videos={},
        decode="cuda",
    )
    with pytest.raises(UsageError, match="no GPU decodes video here"):
        curate_unit(task)


def test_each_run_chooses_anew_and_the_device_reaches_the_decoder(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    reserved: list[float] = []
    decode, run_units = part.decode, units.run_units

    def decoded(*args: Any, device: str | None, **options: Any) -> Any:
        told.append(device)
        return decode(*args, **options)

    def run(*args: Any, num_gpus: float, **options: Any) -> Any:
        reserved.append(num_gpus)
        return run_units(*args, **options)

    monkeypatch.setattr(part, "decode", decoded)
    monkeypatch.setattr(units, "run_units", run)
    monkeypatch.setattr(hardware, "_why_not", lambda device: None)
    out, digests = tmp_path / "ds", set()
    for seed, mode in enumerate(("software", "auto", "cuda")):
        video = make_video(tmp_path / f"{mode}.mp4", num_frames=20, seed=seed)
        result = cli("curate", video, "--out", out, *SMALL, "--set", f"decode={mode}")
        assert result.exit_code == 0, result.stderr
        digests.add(Dataset.open(out).settings.digest)
    assert told == [None, "cuda", "cuda"]
    assert reserved == [0.0, 0.0, CurateConfig().gpus_per_unit]
    assert len(digests) == 1
