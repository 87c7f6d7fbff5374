"""A look at the key frames saves the encoding of black parts and never changes what comes out."""

from __future__ import annotations

import csv
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unit_helpers import SETTINGS, curate_file

from curation import part, triage
from curation.ingest import probe_input
from curation.reading import reading_text
from manifests.recipe import load_recipe
from manifests.records import Part
from manifests.settings import DatasetSettings
from pipeline.testing import make_video
from pipeline.video import key_frames, probe, write_video

BLACK_GATED = replace(SETTINGS, gates=load_recipe("egocentric").gates)
FPS = 15
ONE_GROUP = {"sc_threshold": "0"}


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The encoders that were made."""
    made: list[Any] = []
    real = part.ClipEncoder

    def encoder(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(part, "ClipEncoder", encoder)
    return made


def lit(first: int, last: int, num_frames: int) -> NDArray[np.uint8]:
    """Black pictures, and from `first` to `last` a bright shape that moves."""
    pictures: NDArray[np.uint8] = np.zeros((num_frames, 240, 320, 3), np.uint8)
    for n in range(first, last):
        pictures[n, 60:180, 100 + 2 * n :][:, :90] = 170
    return pictures


def without_a_look(
    path: Path, folder: Path, settings: DatasetSettings, monkeypatch: pytest.MonkeyPatch
) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(triage, "seems_black", lambda part, video: False)
        return curate_file(path, folder, settings)


def seems_black(path: Path, **span: Any) -> bool:
    row = probe_input(str(path), source="s", embodiment="unknown", unit_len_s=2.0)
    place: dict[str, Any] = {"start_tick": None, "end_tick": None, **span}
    return triage.seems_black(Part(uri=str(path), video_id="0" * 32, **place), row)


def test_a_black_video_is_measured_but_not_encoded(
    tmp_path: Path, encoders: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "black.mp4", num_frames=40, kind="black", fps=FPS)
    found = curate_file(path, tmp_path / "a", BLACK_GATED)
    assert not encoders
    assert [row["gate"] for row in found.clips] == ["black"]
    assert found.clips[0]["black_frames_ratio"] == 1.0
    plain = without_a_look(path, tmp_path / "b", BLACK_GATED, monkeypatch)
    assert len(encoders) == 1
    assert (found.clips, found.unit) == (plain.clips, plain.unit)


def test_light_hidden_between_black_key_frames_is_not_lost(
    tmp_path: Path, encoders: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hidden.mp4"
    write_video(path, lit(20, 35, 60), FPS, gop=250, options=ONE_GROUP)
    assert seems_black(path), "the look is misled, or this test shows nothing"
    found = curate_file(path, tmp_path / "a", BLACK_GATED)
    assert encoders
    plain = without_a_look(path, tmp_path / "b", BLACK_GATED, monkeypatch)
    assert None in [row["gate"] for row in found.clips]
    assert (found.clips, found.unit) == (plain.clips, plain.unit)
    assert found.unit["shard_sha256"] is not None


def test_one_bright_key_frame_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "late.mp4"
    write_video(path, lit(48, 60, 60), FPS, gop=12, options=ONE_GROUP)
    assert not seems_black(path)


def test_a_bright_video_is_known_by_its_first_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "pan.mp4", num_frames=60, fps=FPS)
    looks = []
    monkeypatch.setattr(triage, "is_black", lambda luma: looks.append(luma))
    assert not seems_black(path)
    assert len(looks) == 1


def test_without_a_gate_that_asks_for_it_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "black.mp4", num_frames=20, kind="black", fps=FPS)
    monkeypatch.setattr(triage, "seems_black", lambda part, video: pytest.fail("looked"))
    assert [row["gate"] for row in curate_file(path, tmp_path / "a").clips] == [None]


def test_key_frames_of_a_part_are_spread_and_its_own(tmp_path: Path) -> None:
    path = make_video(tmp_path / "pan.mp4", num_frames=120, fps=FPS, gop=5, options={"bf": "2"})
    whole = probe(path)
    frame = round(1 / (FPS * Fraction(whole.time_base)))
    reading = whole.reading(40 * frame, 100 * frame)
    ticks = [found.tick for found in key_frames(path, whole, reading, apart_s=1.0)]
    assert [tick // frame for tick in ticks] == [40, 55, 70, 85]
    assert len(list(key_frames(path, whole, reading, apart_s=0.0))) == 12


def test_a_file_that_is_gone_does_not_seem_black(tmp_path: Path) -> None:
    path = make_video(tmp_path / "black.mp4", num_frames=20, kind="black", fps=FPS)
    row = probe_input(str(path), source="s", embodiment="unknown", unit_len_s=60.0)
    piece = Part(uri=str(path), video_id="0" * 32, start_tick=None, end_tick=None)
    assert triage.seems_black(piece, row)
    path.unlink()
    assert not triage.seems_black(piece, row)


def test_no_wanted_real_video_seems_black(test_videos: Path) -> None:
    with (test_videos / "INDEX.csv").open(encoding="utf-8", newline="") as lines:
        wanted = {row["path"]: row["expect"] for row in csv.DictReader(lines)}
    chosen = [path for path, expect in wanted.items() if expect in ("keep", "drop:black")]
    black = []
    for path in chosen[::2] + [path for path in chosen[1::2] if wanted[path] != "keep"]:
        facts = probe(test_videos / path)
        row = {**facts.columns(), "reading": reading_text(facts, 600.0)}
        uri = str(test_videos / path)
        if triage.seems_black(
            Part(uri=uri, video_id="0" * 32, start_tick=None, end_tick=None), row
        ):
            black.append(wanted[path])
    assert set(black) == {"drop:black"}
