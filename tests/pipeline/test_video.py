"""Probing and frame-exact decoding of synthetic videos whose frames carry their number."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from video_helpers import hide_start, in_parts, ticks_and_numbers

from manifests.errors import VideoError
from pipeline.facts import VIDEO_COLUMNS, PartReading
from pipeline.frames import FrameStream
from pipeline.packets import PacketLog, PacketTable
from pipeline.testing import draw_barcode, make_video, read_barcode
from pipeline.video import decode, probe, write_video

NUM_FRAMES = 50

UNEVEN = [0, 40, 80, 90, 200, 240, 280, 300, 310, 500]
UNEVEN_TICKS = [base + 600 * turn for turn in range(5) for base in UNEVEN]

VIDEOS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"bf": "0"}},
    "h264_b.mp4": {"options": {"bf": "3", "b_strategy": "0"}},
    "h264_one_gop.mp4": {"gop": 250, "options": {"bf": "2"}},
    "h264_open_gop.mp4": {"options": {"bf": "2", "x264-params": "open-gop=1"}},
    "h264_b.mkv": {"options": {"bf": "3", "b_strategy": "0"}},
    "h264_b.ts": {"options": {"bf": "2", "b_strategy": "0"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"speed": "8"}, "num_frames": 30},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "q": "3"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"q": "3"}},
    "uneven.mp4": {"ticks": UNEVEN_TICKS, "time_base": Fraction(1, 600)},
    "uneven_b.mkv": {
        "ticks": UNEVEN_TICKS,
        "time_base": Fraction(1, 600),
        "options": {"bf": "2", "b_strategy": "0"},
    },
    "odd_sizes.mp4": {"width": 321, "height": 243, "pix_fmt": "yuv444p"},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mov": {"rotation": 270, "width": 180, "height": 320},
    "wide_pixels.mp4": {"sample_aspect": Fraction(32, 27), "width": 240, "height": 160},
    "wide_pixels_turned.mp4": {"sample_aspect": Fraction(3, 2), "rotation": 90},
    "ten_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "full_range.mp4": {"pix_fmt": "yuvj420p"},
    "grey.mp4": {"pix_fmt": "gray"},
    "late_start.mp4": {"ticks": list(range(700, 750)), "time_base": Fraction(1, 25), "fps": 25},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_comes_once_in_order_however_the_video_is_cut(
    name: str, tmp_path: Path
) -> None:
    options = {"num_frames": NUM_FRAMES, "width": 256, "height": 144, **VIDEOS[name]}
    path = make_video(tmp_path / name, **options)
    facts = probe(path)
    whole = ticks_and_numbers(path, facts)
    ticks = [tick for tick, _, _ in whole]
    assert [number for _, _, number in whole] == list(range(options["num_frames"]))
    assert [d for _, d, _ in whole[:-1]] == np.diff(ticks).tolist()
    assert whole[-1][1] > 0
    assert facts.num_frames_declared == len(whole) == facts.packets.count(None, None)
    assert facts.start_tick == ticks[0]
    chosen = random.Random(name)
    for count in (1, 4):
        inside = chosen.sample(range(ticks[0] + 1, ticks[-1] + 1), count)
        assert in_parts(path, facts, sorted(inside)) == whole
    edges = [tick for tick, _, _ in whole[7:30:11]]
    assert in_parts(path, facts, edges) == whole


def test_probe_tells_displayed_size_rate_and_times(tmp_path: Path) -> None:
    facts = probe(
        make_video(
            tmp_path / "a.mp4",
            num_frames=31,
            width=180,
            height=240,
            fps=Fraction(30000, 1001),
            rotation=90,
            options={"bf": "2", "b_strategy": "0"},
        )
    )
    row = facts.columns()
    assert tuple(row) == VIDEO_COLUMNS
    assert row["codec"], row["container"] == ("h264", "mov,mp4,m4a,3gp,3g2,mj2")
    assert (facts.width, facts.height, facts.rotation) == (180, 240, 90)
    assert (facts.stored_width, facts.stored_height) == (240, 180)
    assert facts.fps == pytest.approx(30000 / 1001)
    assert facts.duration_s == pytest.approx(31 * 1001 / 30000)
    assert (facts.num_packets, facts.num_frames_declared, facts.max_gop_frames) == (31, 31, 12)
    assert facts.has_b_frames
    assert not facts.is_variable_rate
    assert facts.has_index
    wide = probe(make_video(tmp_path / "b.mp4", num_frames=3, sample_aspect=Fraction(4, 3)))
    assert (wide.width, wide.height, wide.sample_aspect) == (427, 240, "4/3")


def test_variable_rate_is_seen_and_kept(tmp_path: Path) -> None:
    ticks = [0, 10, 20, 30, 100, 110]
    path = make_video(
        tmp_path / "a.mkv", num_frames=6, ticks=ticks, time_base=Fraction(1, 100), fps=10
    )
    facts = probe(path)
    assert facts.is_variable_rate
    assert facts.fps == pytest.approx(5 / 1.1)
    frames = list(decode(path, facts))
    assert [frame.tick - facts.start_tick for frame in frames] == [10 * tick for tick in ticks]
    assert [frame.duration for frame in frames[:-1]] == [100, 100, 100, 700, 100]


@pytest.mark.parametrize("gop", [12, 250])
def test_an_edit_list_hides_frames_from_counts_and_from_decoding(gop: int, tmp_path: Path) -> None:
    """A trim may hide whole groups, which then are not read at all, or a part of one."""
    path = make_video(tmp_path / "a.mp4", num_frames=60, gop=gop, options={"bf": "2"})
    before = probe(path)
    hide_start(path, 0.5)
    facts = probe(path)
    assert int(facts.packets.is_discarded.sum()) > 0
    assert before.num_frames_declared - facts.num_frames_declared == 15
    whole = ticks_and_numbers(path, facts)
    assert [number for _, _, number in whole] == list(range(15, 60))
    assert facts.duration_s == pytest.approx(1.5, abs=1e-3)
    assert facts.num_frames_declared == facts.packets.count(None, None)
    edges = [whole[9][0], whole[10][0], whole[33][0] + 1]
    assert in_parts(path, facts, edges) == whole
    with pytest.raises(VideoError, match="wrongly: it ignores edit lists"):
        next(decode(path, facts, backend="decord"))


def test_only_containers_with_an_index_may_be_split(tmp_path: Path) -> None:
    stream = make_video(tmp_path / "a.ts", num_frames=20)
    assert not probe(stream).has_index
    assert probe(make_video(tmp_path / "a.mkv", num_frames=20)).has_index


def test_a_seek_that_lands_elsewhere_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that jumps too far costs a decode from the start, never a frame."""
    path = make_video(tmp_path / "a.mp4", num_frames=50)
    facts = probe(path)
    monkeypatch.setattr(PacketTable, "seek_stamps", lambda table, key: (int(table.pts.max()),))
    start = int(facts.packets.shown_ticks[30])
    numbers = [row[2] for row in ticks_and_numbers(path, facts, start=start)]
    assert numbers == list(range(30, 50))


def test_unit_edges_are_the_first_frames_after_each_multiple(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=50, fps=10)
    facts = probe(path)
    base = Fraction(facts.time_base)
    edges = facts.edges(1.25)
    assert [float(edge * base) for edge in edges] == pytest.approx([1.3, 2.5, 3.8])
    assert facts.edges(5.0) == []
    spans = pairwise([None, *edges, None])
    assert [facts.packets.count(a, b) for a, b in spans] == [13, 12, 13, 12]


def test_expected_frames_of_parts_add_up_to_the_declared_count(tmp_path: Path) -> None:
    facts = probe(make_video(tmp_path / "a.mp4", num_frames=40))
    object.__setattr__(facts, "num_frames_declared", 55)
    edge = int(facts.packets.shown_ticks[20])
    assert facts.num_frames_expected(None, edge) == 20
    assert facts.num_frames_expected(edge, None) == 35


def fake_frames(times: list[int | None], start: int | None = None, end: int | None = None):
    facts = SimpleNamespace(
        nominal_duration=10,
        start_tick=3,
        rotation=0,
    )
    source = (SimpleNamespace(pts=time, duration=0) for time in times)
    return FrameStream(
        (frame for frame in source),
        Counter(),
        name="x",
        facts=facts,
        reading=PartReading(start_tick=start, end_tick=end, num_frames=len(times)),
    )  # type: ignore[arg-type]


def test_frames_without_time_and_out_of_order_are_mended_and_reported() -> None:
    stream = fake_frames([None, 20, 15, 20, None, 31, 60])
    assert [(f.tick, f.duration) for f in stream] == [
        (3, 17),
        (20, 10),
        (30, 1),
        (31, 29),
        (60, 10),
    ]
    assert stream.problems == (
        "2 frames had no time and took the median interval",
        "2 frames not later than the one before, left out",
    )
    assert stream.report.num_frames_expected == 7
    assert stream.report.num_frames_decoded == 5


def test_a_frame_belongs_to_the_part_that_holds_its_tick() -> None:
    times = [0, 10, 20, 30]
    assert [(f.tick, f.duration) for f in fake_frames(times, 10, 30)] == [(10, 10), (20, 10)]
    assert [f.tick for f in fake_frames(times, 11, 20.5)] == [20]
    assert [f.tick for f in fake_frames(times, None, 10)] == [0]


def test_a_part_without_any_frame_is_an_error() -> None:
    with pytest.raises(VideoError, match="none of 2 expected frames of x could be decoded"):
        list(fake_frames([5, 6], 100, 200))


@pytest.mark.parametrize(
    ("name", "content", "reason", "words"),
    [
        ("empty.mp4", b"", "empty", "has 0 bytes"),
        ("text.mp4", b"pour the coffee\n" * 50, "not_video", "is no video"),
        ("zeros.mkv", bytes(5000), "not_video", "is no video"),
    ],
)
def test_files_that_are_no_videos_are_refused_with_a_reason(
    name: str, content: bytes, reason: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=words) as caught:
        probe(path)
    assert caught.value.reason == reason


def test_a_cut_off_mp4_has_no_index_and_a_missing_file_is_missing(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=20)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(VideoError, match="lost its index") as caught:
        probe(path)
    assert caught.value.reason == "no_index"
    with pytest.raises(VideoError, match="does not exist") as caught:
        probe(tmp_path / "nothing.mp4")
    assert caught.value.reason == "missing"


def test_a_codec_without_a_decoder_is_undecodable(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="codec nothing here decodes") as caught:
        probe(path)
    assert caught.value.reason == "undecodable"


def test_an_mp4_with_a_broken_header_says_so(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdhd") - 4
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert caught.value.reason in {"damaged_header", "no_video_stream", "undecodable"}


def test_damage_inside_is_counted_and_decoding_goes_on(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=60, kind="noise")
    facts = probe(path)
    data = bytearray(path.read_bytes())
    row = 24
    position = int(facts.packets.pos[row])
    data[position + 4 : position + int(facts.packets.size[row])] = bytes(
        int(facts.packets.size[row]) - 4
    )
    path.write_bytes(data)
    stream = decode(path, probe(path))
    ticks = [frame.tick for frame in stream]
    assert 48 <= len(ticks) < 60
    assert stream.report.num_frames_decoded == len(ticks)
    assert stream.report.num_frames_expected == 60
    assert any("packet could not be decoded" in problem for problem in stream.problems)


def test_a_truncated_stream_gives_what_it_holds(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", num_frames=60, kind="noise", barcode=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    facts = probe(path)
    numbers = [row[2] for row in ticks_and_numbers(path, facts)]
    assert 20 <= len(numbers) < 40
    assert numbers[:-1] == list(range(len(numbers) - 1))


def test_awkward_names_open(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", num_frames=3)
    names = ["küche & löffel #1.mp4", "a:b.mp4", "%03d 'x'.mp4", "http:x.mp4"]
    for path in [*(tmp_path / name for name in names), Path(f"{tmp_path}/\udcff.mp4")]:
        shutil.copy(source, path)
        assert probe(path).num_packets == 3
        assert len(list(decode(path))) == 3


def test_decord_gives_the_same_frames_where_it_is_right(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = make_video(tmp_path / "a.mp4", num_frames=30)
    frames = list(decode(path, backend="decord", start_tick=512 * 10, end_tick=512 * 20))
    numbers = [read_barcode(frame.frame.to_ndarray(format="rgb24")) for frame in frames]
    assert numbers == list(range(10, 20))
    assert [frame.tick for frame in frames] == [512 * number for number in range(10, 20)]


def test_decord_is_refused_for_av1(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    facts = probe(path)
    object.__setattr__(facts, "codec", "av1")
    with pytest.raises(VideoError, match="wrongly: it has no AV1 decoder") as caught:
        next(decode(path, facts, backend="decord"))
    assert caught.value.reason == "decord_refused"
    with pytest.raises(ValueError, match="unknown decoding backend"):
        decode(path, facts, backend="opencv")


def test_written_videos_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (10, 48, 64, 3), dtype=np.uint8)
    assert write_video(tmp_path / "a.mp4", frames, 25) == 10
    write_video(tmp_path / "b.mp4", iter(frames), 25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_bytes_do_not_depend_on_what_the_memory_held_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    waves = [np.sin(0.3 * x + 0.21 * y + 0.15 * t) + np.sin(0.17 * y - 0.1 * t) for t in range(10)]
    frames = np.repeat((np.stack(waves)[..., None] * 50 + 128).astype(np.uint8), 3, axis=3)
    seen, ballast = set(), []
    for number in range(40):
        write_video(tmp_path / "a.mp4", frames, 10)
        seen.add((tmp_path / "a.mp4").read_bytes())
        ballast.append(np.full(int(rng.integers(1, 60_000)), rng.random()))
        if number % 2:
            ballast.pop(int(rng.integers(len(ballast))))
    assert len(seen) == 1


def test_packets_without_times_take_the_decoding_time() -> None:
    log = PacketLog()
    for dts in (0, None, 20):
        log.add(pts=None, dts=dts, duration=10, size=5, pos=None, is_key=True, is_discarded=False)
    table = log.table()
    assert table.pts.tolist() == [0, 10, 20]
    assert table.num_without_pts == 3
    assert table.pos.tolist() == [-1, -1, -1]


def test_a_barcode_is_read_back_or_refused() -> None:
    picture = np.full((120, 160, 3), 128, np.uint8)
    for number in (0, 1, 4660, 65535):
        assert read_barcode(draw_barcode(picture, number)) == number
    with pytest.raises(ValueError, match="no readable barcode"):
        read_barcode(picture)
    with pytest.raises(ValueError, match="check byte"):
        read_barcode(np.zeros((120, 160, 3), np.uint8))
