"""Measures of damage: what was lost in a clip's span, and streams whose format changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit_helpers import SETTINGS, curate_file

from manifests.recipe import gate_of, load_recipe
from pipeline.clips import ClipReader
from pipeline.damage import DamageLog
from pipeline.testing import make_video, read_barcode
from pipeline.video import probe

DAMAGE = (
    "missing_frames_ratio", "corrupt_frames_ratio", "num_undecodable_packets",
    "num_format_changes", "longest_gap_frames",
)  # fmt: skip


LONG = {"num_frames": 100, "start_s": 0.0, "end_s": 5.0}


def damage_of(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in DAMAGE]


def spoil(path: Path, packet: int, *, wholly: bool) -> None:
    """Zero a packet, or its second half."""
    table, data = probe(path).packets, bytearray(path.read_bytes())
    start, size = int(table.pos[packet]), int(table.size[packet])
    first = 4 if wholly else size // 2
    data[start + first : start + size] = bytes(size - first)
    path.write_bytes(data)


def test_damage_is_told_of_the_clip_that_has_it(tmp_path: Path) -> None:
    """Three clips of 20 frames: a lost packet in the second, half of one in the third."""
    path = make_video(tmp_path / "a.mp4", num_frames=60, fps=20, kind="noise", gop=10)
    clean = curate_file(path, tmp_path / "clean", replace(SETTINGS, clip_len_s=1.0))
    assert [damage_of(row) for row in clean.clips] == [[0.0, 0.0, 0, 0, 1.0]] * 3
    spoil(path, 25, wholly=True)
    spoil(path, 45, wholly=False)
    spoilt = curate_file(path, tmp_path / "spoilt", replace(SETTINGS, clip_len_s=1.0))
    (problem,) = spoilt.unit["problems"]
    assert problem["error"].startswith("1 of 60 declared frames were not there; ")
    clips = spoilt.clips
    assert [row["num_frames"] for row in clips] == [20, 19, 20]
    assert damage_of(clips[0]) == [0.0, 0.0, 0, 0, 1.0]
    assert damage_of(clips[1]) == [1 / 20, 0.0, 1, 0, 2.0]
    assert clips[2]["corrupt_frames_ratio"] >= 1 / 20
    assert clips[2]["missing_frames_ratio"] == 0.0


def test_a_part_counts_only_its_own_packets(tmp_path: Path) -> None:
    """Decoding begins before the part and reads on past its end; neither is counted."""
    path = make_video(tmp_path / "a.mp4", num_frames=60, fps=20, gop=30, options={"bf": "3"})
    settings = replace(SETTINGS, unit_len_s=1.0)
    ticks = probe(path).packets.shown_ticks.tolist()
    span = {"start_tick": ticks[20], "end_tick": ticks[40]}
    (row,) = curate_file(path, tmp_path / "out", settings, **span).clips
    assert row["num_frames"] == 20
    assert damage_of(row) == [0.0, 0.0, 0, 0, 1.0]


def test_a_stream_that_changes_its_size_is_cut_there_and_not_distorted(tmp_path: Path) -> None:
    stream: dict[str, Any] = {"num_frames": 30, "options": {"bf": "0"}}
    first = make_video(tmp_path / "a.ts", width=320, height=240, **stream)
    later = {"ticks": list(range(30, 60)), "seed": 1}
    second = make_video(tmp_path / "b.ts", width=640, height=360, **later, **stream)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    result = curate_file(path, tmp_path / "out")
    small, large = result.clips
    assert (small["num_frames"], large["num_frames"]) == (30, 30)
    assert (small["ends_at"], large["ends_at"]) == ("cut", "end")
    assert (small["source_width_px"], small["source_height_px"]) == (320, 240)
    assert (large["source_width_px"], large["source_height_px"]) == (640, 360)
    assert (small["scale_ratio"], large["scale_ratio"]) == pytest.approx((0.5, 1 / 3))
    assert [row["num_format_changes"] for row in result.clips] == [0, 1]
    reader = ClipReader(tmp_path / "out")
    for row in result.clips:  # blocks are read where an undistorted centre 4:3 has them
        frames = reader.frames(row["shard"], row["clip_id"], range(30))
        assert [read_barcode(frame) for frame in frames] == list(range(30))


def test_a_gap_is_told_in_frames(tmp_path: Path) -> None:
    ticks = [*range(20), *range(50, 70)]
    path = make_video(tmp_path / "a.mkv", num_frames=40, fps=20, ticks=ticks)
    (row,) = curate_file(path, tmp_path / "out").clips
    assert row["longest_gap_frames"] == 31.0
    assert row["missing_frames_ratio"] == 0.0


def test_packets_without_times_and_frames_ahead_are_counted_once() -> None:
    log = DamageLog(start_tick=10, end_tick=50)
    for tick in (0, 30, None, 20, 10, 50, 40):
        log.packet(tick, is_decodable=tick != 20)
    for tick in (10, 20, 30):
        log.frame(tick, 10, is_corrupt=tick == 10)
    first, rest = log.take(25), log.take(None)
    assert (first.num_declared, first.num_decoded) == (2, 2)
    assert (first.num_undecodable, first.num_corrupt) == (1, 1)
    assert (rest.num_declared, rest.num_decoded, rest.longest_ticks) == (3, 1, 10)
    assert rest.missing_ratio == pytest.approx(2 / 3)
    assert log.take(None).longest_ticks is None


def test_hdr_is_told(tmp_path: Path) -> None:
    params = "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    path = make_video(
        tmp_path / "a.mp4", num_frames=20, width=160, height=120, codec="libx265",
        pix_fmt="yuv420p10le", options={"x265-params": params},
    )  # fmt: skip
    (row,) = curate_file(path, tmp_path / "out").clips
    assert row["is_hdr"] == 1
    plain = make_video(tmp_path / "b.mp4", num_frames=20, width=160, height=120)
    assert curate_file(plain, tmp_path / "plain").clips[0]["is_hdr"] == 0


def test_the_strict_recipe_drops_what_is_damaged() -> None:
    (rule,) = (rule for rule in load_recipe("strict").keep if rule.name == "damaged")
    values = {"missing_frames_ratio": 0.04, "corrupt_frames_ratio": 0.0}
    assert gate_of((rule,), {**values, **LONG}, min_frames=1, min_duration_s=0) is None
    values["corrupt_frames_ratio"] = 0.02
    assert gate_of((rule,), {**values, **LONG}, min_frames=1, min_duration_s=0) == "damaged"


@pytest.mark.parametrize("name", [*DAMAGE, "is_hdr"])
def test_a_recipe_may_name_the_measures(name: str) -> None:
    recipe = load_recipe("permissive", [f"keep.intact={name} <= 1"])
    assert any(rule.keep_when == f"{name} <= 1" for rule in recipe.keep)
