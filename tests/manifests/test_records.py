"""Ids are digests of content, the same on every machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from manifests.records import (
    Clip,
    Part,
    PlannedUnit,
    UnitProblem,
    clip_id_of,
    unit_id_of,
    video_id_of,
)

FACTS = {
    "clip_id": "c",
    "video_id": "v",
    "uri": "/a.mp4",
    "source": "s",
    "embodiment": "human",
    "start_tick": 0,
    "end_tick": 30,
    "time_base": "1/30",
    "start_s": 0.0,
    "end_s": 1.0,
    "num_frames": 30,
    "fps": 30.0,
    "shot_index": 0,
    "ends_at": "end",
    "text": None,
    "gate": None,
    "unit_id": "u",
    "shard": "clips-000000",
    "scale_ratio": 1.0,
}


def test_video_id_is_the_digest_of_the_bytes(tmp_path: Path) -> None:
    data = b"x" * 3_000_000
    (tmp_path / "a.mp4").write_bytes(data)
    assert video_id_of(tmp_path / "a.mp4") == hashlib.sha256(data).hexdigest()[:32]


def test_clip_id_is_the_digest_of_the_documented_text() -> None:
    text = b"00ff:-3:90:1/30000"
    assert clip_id_of("00ff", -3, 90, "1/30000") == hashlib.sha256(text).hexdigest()[:24]


def test_unit_id_depends_on_parts_settings_and_sidecars() -> None:
    part = Part(uri="/ä.mp4", video_id="aa")
    ids = {
        unit_id_of([part], "d", []),
        unit_id_of([part], "e", []),
        unit_id_of([part], "d", ["s"]),
        unit_id_of([Part(uri="/ä.mp4", video_id="aa", start_tick=3)], "d", []),
    }
    assert len(ids) == 4
    assert unit_id_of([part], "d", []) == unit_id_of((part,), "d", ())


def test_records_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="start_tick 5 is not before end 5"):
        Part(uri="/a", video_id="aa", start_tick=5, end_tick=5)
    with pytest.raises(ValueError, match="at least one part"):
        PlannedUnit(number=0, unit_id="u", parts=())
    with pytest.raises(ValueError, match="start_tick is not before"):
        Clip(**{**FACTS, "end_tick": 0})
    with pytest.raises(ValueError, match="ends_at 'nowhere'"):
        Clip(**{**FACTS, "ends_at": "nowhere"})


def test_rows_and_records_go_round() -> None:
    unit = PlannedUnit(number=12, unit_id="u", parts=(Part(uri="/a", video_id="aa", end_tick=4),))
    assert PlannedUnit.from_row(unit.row()) == unit
    assert unit.shard == "clips-000012"
    clip = Clip.from_row({**FACTS, "sharpness_luma": 2.0, "verdict": "keep", "reason": None})
    assert clip.measures == {"sharpness_luma": 2.0}
    assert clip.verdict == "keep"
    assert clip.duration_s == 1.0
    assert clip.row() == {**FACTS, "sharpness_luma": 2.0}


def test_notes_are_no_failures() -> None:
    assert UnitProblem(video_id="v", stage="damaged", error="3 frames missing").is_note
    assert not UnitProblem(video_id="v", stage="worker_died", error="signal 11").is_note
    assert UnitProblem(video_id="v", stage="encode", error="e").row()["num_frames_decoded"] is None
