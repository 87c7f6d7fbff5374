"""From decoded frames to the finished mp4: geometry, colours, times, groups, and equal bytes."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from video_helpers import encode_clip

from manifests.settings import EncodeSettings
from pipeline.clip_profile import ClipClock
from pipeline.frames import DecodedFrame
from pipeline.geometry import CropBox, crop_box, displayed_size
from pipeline.mp4 import index_mp4
from pipeline.testing import make_video, read_barcode, set_mp4_rotation
from pipeline.video import ClipEncoder, FrameScaler, decode, decode_packets, probe, write_video


def demux(mp4: bytes) -> tuple[list[Any], Fraction, bytes]:
    """Position, size, time, duration and key flag of each packet; time base; avcC."""
    with av.open(io.BytesIO(mp4)) as container:
        stream = container.streams.video[0]
        packets = [
            (p.pos, p.size, p.pts, p.duration, p.is_keyframe)
            for p in container.demux(stream)
            if p.size
        ]
        return packets, stream.time_base, stream.codec_context.extradata


def pictures(mp4: bytes) -> np.ndarray:
    with av.open(io.BytesIO(mp4)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_a_clip_has_closed_groups_of_twelve_and_no_reordered_frames(tmp_path: Path) -> None:
    mp4 = encode_clip(make_video(tmp_path / "a.mp4", num_frames=50, kind="cuts", fps=7))
    packets, _, _ = demux(mp4)
    assert [place for place, packet in enumerate(packets) if packet[4]] == [0, 12, 24, 36, 48]
    assert [pts for _, _, pts, _, _ in packets] == sorted(pts for _, _, pts, _, _ in packets)
    with av.open(io.BytesIO(mp4)) as container:
        types = {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    assert types == {"I", "P"}


def test_source_frame_types_do_not_leak_into_the_clip(tmp_path: Path) -> None:
    """An encoder obeys the type a decoded frame carries, unless it is cleared."""
    path = make_video(tmp_path / "a.mp4", num_frames=24, width=160, height=120, gop=1)
    packets, _, _ = demux(encode_clip(path))
    assert sum(packet[4] for packet in packets) == 2


def test_times_and_durations_are_the_source_s_own(tmp_path: Path) -> None:
    ticks = [0, 7, 9, 30, 31, 90]
    path = make_video(
        tmp_path / "a.mkv", num_frames=6, ticks=ticks, time_base=Fraction(1, 100), fps=10
    )
    mp4 = encode_clip(path)
    packets, base, _ = demux(mp4)
    assert [float(p[2] * base) for p in packets] == pytest.approx([tick / 100 for tick in ticks])
    frames = list(decode(path))
    assert [float(p[3] * base) for p in packets] == pytest.approx(
        [frame.duration / 1000 for frame in frames]
    )


def test_the_last_frame_lasts_its_nominal_interval(tmp_path: Path) -> None:
    packets, base, _ = demux(encode_clip(make_video(tmp_path / "a.mp4", num_frames=13, fps=25)))
    assert float(packets[-1][3] * base) == pytest.approx(1 / 25)


def test_the_same_video_gives_the_same_bytes(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=30, width=256, height=144)
    assert encode_clip(path) == encode_clip(path)


def test_an_abandoned_clip_leaves_the_next_one_untouched(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=20)
    facts = probe(path)
    settings = EncodeSettings(width=160, height=120)
    abandoned = ClipEncoder(settings, facts.fps, facts.time_base)
    frame = next(decode(path, facts))
    abandoned.add(FrameScaler(facts, 160, 120).scale(frame), 0, frame.duration)
    assert abandoned.num_frames == 1
    abandoned.discard()
    assert encode_clip(path, facts) == encode_clip(path)


def test_the_index_read_from_bytes_is_what_a_demuxer_says(tmp_path: Path) -> None:
    mp4 = encode_clip(make_video(tmp_path / "a.mp4", num_frames=40, fps=Fraction(30000, 1001)))
    index = index_mp4(mp4)
    packets, base, config = demux(mp4)
    assert index.packet_sizes.tolist() == [p[1] for p in packets]
    assert index.packet_pts.tolist() == [p[2] for p in packets]
    assert index.is_key.tolist() == [p[4] for p in packets]
    assert index.data_offset == packets[0][0]
    assert Fraction(index.time_base) == base
    assert index.codec_config == config
    assert (index.num_frames, len(index.gop_crc32)) == (40, 4)


@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_clip_of_one_frame_has_an_index_too(num_frames: int, tmp_path: Path) -> None:
    """The muxer writes equal sizes once, not in a table."""
    mp4 = encode_clip(make_video(tmp_path / "a.mp4", num_frames=num_frames))
    index = index_mp4(mp4)
    assert index.packet_sizes.tolist() == [p[1] for p in demux(mp4)[0]]


def test_foreign_mp4_files_are_not_indexed(tmp_path: Path) -> None:
    reordered = make_video(tmp_path / "a.mp4", num_frames=20, options={"bf": "2"})
    with pytest.raises(ValueError, match="reordered"):
        index_mp4(reordered.read_bytes())
    hevc = make_video(tmp_path / "b.mp4", num_frames=3, codec="libx265", options={"bf": "0"})
    with pytest.raises(ValueError, match=r"H\.264"):
        index_mp4(hevc.read_bytes())
    with pytest.raises(ValueError, match="moov"):
        index_mp4(b"\0\0\0\x08free")


def test_packets_alone_decode_to_the_same_pictures(tmp_path: Path) -> None:
    mp4 = encode_clip(make_video(tmp_path / "a.mp4", num_frames=30))
    index = index_mp4(mp4)
    ends = index.data_offset + np.cumsum([0, *index.packet_sizes])
    packets = [mp4[a:b] for a, b in pairwise(ends.tolist())]
    whole = pictures(mp4)
    assert (decode_packets(index.codec_config, packets, range(30)) == whole).all()
    some = decode_packets(index.codec_config, packets[12:], [1, 2, 9])
    assert (some == whole[[13, 14, 21]]).all()
    assert [read_barcode(picture) for picture in some] == [13, 14, 21]


def test_the_picture_is_the_upright_centre_at_square_pixels(tmp_path: Path) -> None:
    """A disc drawn on the displayed picture stays a disc, in the middle."""
    rows, columns = np.mgrid[:240, :400]
    disc = ((rows - 120) ** 2 + (columns - 200) ** 2 < 60**2).astype(np.uint8) * 200
    squeezed = np.repeat(disc[:, ::2, None], 3, axis=2)
    write_video(tmp_path / "a.mp4", [squeezed] * 3, 10, sample_aspect=Fraction(2))
    facts = probe(tmp_path / "a.mp4")
    assert (facts.width, facts.height) == (400, 240)
    scaler = FrameScaler(facts, 320, 240)
    luma = scaler.scale(next(decode(tmp_path / "a.mp4", facts))).to_ndarray(format="gray")
    inside = luma > 100
    assert inside.any(axis=1).sum() == pytest.approx(120, abs=3)
    assert inside.any(axis=0).sum() == pytest.approx(120, abs=4)
    middle = np.argwhere(inside).mean(axis=0)
    assert middle == pytest.approx([120, 160], abs=1.5)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_turned_videos_come_out_upright(rotation: int, tmp_path: Path) -> None:
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:32, :64] = (255, 255, 255)
    stored = np.ascontiguousarray(np.rot90(picture, -rotation // 90))
    path = tmp_path / "a.mp4"
    write_video(path, [stored] * 2, 10)
    path.write_bytes(set_mp4_rotation(path.read_bytes(), rotation))
    facts = probe(path)
    assert (facts.width, facts.height, facts.rotation) == (128, 96, rotation)
    out = FrameScaler(facts, 64, 48).scale(next(decode(path, facts))).to_ndarray(format="rgb24")
    assert out[4:12, 4:28].min() > 230
    assert out[20:, :].max() < 25
    assert out[:, 36:].max() < 25


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p", "yuv420p10le"])
def test_every_pixel_format_ends_as_limited_4_2_0_of_the_same_brightness(
    pix_fmt: str, tmp_path: Path
) -> None:
    ramp = np.linspace(0, 255, 160).astype(np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (120, 160, 3)))
    path = tmp_path / "a.mp4"
    write_video(path, [picture] * 3, 10, pix_fmt=pix_fmt, codec="libx264", crf=1)
    mp4 = encode_clip(path)
    with av.open(io.BytesIO(mp4)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert frame.color_range == 1
    error = np.abs(pictures(mp4)[1].astype(int) - picture).mean()
    assert error < 3.5


def test_colour_tags_of_the_source_are_kept(tmp_path: Path) -> None:
    """Pure colours come back only when the matrix that made them is written beside them."""
    facts = probe(make_video(tmp_path / "a.mp4", num_frames=2, width=160, height=120))
    rgb = np.empty((120, 160, 3), np.uint8)
    rgb[:] = (60, 200, 20)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
    )
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 1, 1, 1, 1
    scaler = FrameScaler(facts, 160, 120)
    encoder = ClipEncoder(EncodeSettings(width=160, height=120, crf=1), 30, "1/30")
    for number in range(2):
        decoded = DecodedFrame(tick=number, duration=1, frame=frame, rotation=0)
        encoder.add(scaler.scale(decoded), number, 1)
    mp4 = encoder.finish()
    with av.open(io.BytesIO(mp4)) as container:
        out = next(container.decode(video=0))
        assert (out.colorspace, out.color_range, out.color_primaries, out.color_trc) == (1, 1, 1, 1)
    assert np.abs(pictures(mp4)[0, 60, 80].astype(int) - rgb[0, 0]).max() <= 3


def test_a_picture_of_one_pixel_is_enlarged(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", np.full((3, 1, 1, 3), 200, np.uint8), 5, codec="ffv1",
                pix_fmt="yuv444p", options={})  # fmt: skip
    facts = probe(tmp_path / "a.mkv")
    scaler = FrameScaler(facts, 640, 480)
    out = scaler.scale(next(decode(tmp_path / "a.mkv", facts)))
    assert (out.width, out.height) == (640, 480)
    assert scaler.scale_ratio(facts.stored_width, facts.stored_height) == pytest.approx(
        np.sqrt(640 * 480)
    )


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (960, 720)])
def test_the_small_picture_is_the_mean_of_the_written_one(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    path = make_video(tmp_path / "a.mp4", num_frames=2, width=width, height=height)
    facts = probe(path)
    scaler = FrameScaler(facts, width, height)
    decoded = next(decode(path, facts))
    written = scaler.scale(decoded)
    luma, cb, cr = scaler.small(decoded)
    is_whole = size == (640, 480)
    assert luma.shape == ((480, 640) if is_whole else (240, 320))
    assert cb.shape == cr.shape == (luma.shape[0] // 2, luma.shape[1] // 2)
    assert np.abs(luma - means_of(written.to_ndarray()[:height], luma.shape)).max() <= 1.01


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (640, 480), (320, 240)])
def test_the_small_picture_needs_no_written_one(
    tmp_path: Path, size: tuple[int, int], turned: bool
) -> None:
    width, height = size
    path = make_video(tmp_path / "a.mp4", num_frames=2, width=width, height=height)
    facts = probe(path)
    if turned:
        facts = replace(facts, rotation=90)
    scaler = FrameScaler(facts, 640, 480)
    decoded = next(decode(path, facts))
    written = scaler.scale(decoded)
    planes = scaler.small(decoded)
    for plane, beside_written in zip(planes, scaler.small(decoded, written), strict=True):
        assert np.array_equal(plane, beside_written)
    small = means_of(planes[0], (240, 320))
    assert np.abs(small - means_of(written.to_ndarray()[:480], (240, 320))).mean() <= 1.0


def means_of(plane: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Means over areas; the sides of the result divide those of the plane."""
    rows, columns = plane.shape[0] // shape[0], plane.shape[1] // shape[1]
    means: NDArray[np.float64] = plane.reshape(shape[0], rows, shape[1], columns).mean(axis=(1, 3))
    return means


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.fractions(Fraction(1, 4), Fraction(4), max_denominator=50),
    st.sampled_from([0, 90, 180, 270]),
)
def test_the_crop_lies_inside_is_even_centred_and_as_large_as_can_be(
    width: int, height: int, sample_aspect: Fraction, rotation: int
) -> None:
    box = crop_box(
        width, height, sample_aspect=sample_aspect, rotation=rotation, aspect=Fraction(4, 3)
    )
    if min(width, height) == 1:
        assert box == CropBox(left=0, top=0, width=width, height=height)
        return
    assert 0 <= box.left <= width - box.width
    assert 0 <= box.top <= height - box.height
    assert box.left % 2 == box.top % 2 == 0
    for side, whole in ((box.width, width), (box.height, height)):
        assert side % 2 == 0
        assert 2 <= side <= whole
    assert box.width >= width - 1 or box.height >= height - 1
    assert abs(2 * box.left + box.width - width) <= 3
    assert abs(2 * box.top + box.height - height) <= 3
    if min(box.width, box.height) >= 200:
        shown = displayed_size(
            box.width, box.height, sample_aspect=sample_aspect, rotation=rotation
        )
        assert shown[0] / shown[1] == pytest.approx(4 / 3, rel=0.03)


def test_a_hopeless_time_base_is_replaced_without_losing_frames() -> None:
    clock = ClipClock("1/1000000000")
    assert clock.base == Fraction(1, 90_000)
    ticks = [clock.place(number * 3000, 3000) for number in range(4)]
    assert ticks == [0, 1, 2, 3]
    exact = ClipClock("1001/30000")
    assert [exact.place(n, 1) for n in range(3)] == [0, 1, 2]
    assert [exact.pop_duration(n) for n in (0, 2, 2, None)] == [1, 1, 0, 0]
