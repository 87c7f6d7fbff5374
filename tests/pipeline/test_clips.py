"""Frames of clips by number, right after the whole chain, and every flipped bit noticed."""

from __future__ import annotations

import pickle
import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from video_helpers import encode_clip, write_shard

from manifests.errors import SampleError, StorageError
from pipeline.clips import ClipReader
from pipeline.shards import index_path
from pipeline.testing import make_video, read_barcode
from pipeline.video import probe

SHARD, CLIP = "clips-000000", "c" * 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data set # 1")
    mp4 = encode_clip(make_video(folder / "a.mp4", num_frames=64, width=200, height=120))
    write_shard(folder, {CLIP: mp4, "d" * 24: mp4})
    return folder


CHAINS = {
    "h264_b.mp4": {"options": {"bf": "3", "b_strategy": "0"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"speed": "8"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"q": "3"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}, "crf": 30},
    "turned.mp4": {"rotation": 270},
    "odd.mkv": {"width": 275, "height": 163, "pix_fmt": "yuv444p"},
    "uneven.mp4": {
        "ticks": np.cumsum([0, *[20, 20, 50, 10, 300] * 9])[:40].tolist(),
        "time_base": Fraction(1, 600),
    },
}


@pytest.mark.parametrize("name", CHAINS)
def test_every_number_survives_the_whole_chain_from_video_to_window(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    make_video(path, **{"num_frames": 40, "width": 256, "height": 144, **CHAINS[name]})
    facts = probe(path)
    ticks = facts.packets.shown_ticks.tolist()
    edges = sorted(random.Random(name).sample(range(ticks[1], ticks[-1]), 2))
    clips, numbers = {}, []
    for place, (start, end) in enumerate(pairwise([None, *edges, None])):
        if facts.packets.count(start, end):
            clips[f"{place:024x}"] = encode_clip(path, facts, start=start, end=end)
    write_shard(tmp_path, clips)
    reader = ClipReader(tmp_path)
    for clip_id in clips:
        count = reader.num_frames(SHARD, clip_id)
        frames = reader.frames(SHARD, clip_id, range(count))
        numbers += [read_barcode(frame) for frame in frames]
    assert numbers == list(range(40))


@pytest.mark.parametrize(
    "indices", [[0], [63], [5, 6, 7], range(11, 24), [60, 2, 30, 2], range(0, 64, 7), range(64)]
)
def test_frames_come_in_the_order_asked_for(dataset: Path, indices: list[int]) -> None:
    frames = ClipReader(dataset).frames(SHARD, CLIP, indices)
    assert frames.shape == (len(indices), 120, 160, 3)
    assert frames.dtype == np.uint8
    assert [read_barcode(frame) for frame in frames] == list(indices)


def test_only_the_needed_groups_are_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import clips

    reads: list[int] = []
    plain = clips.read_range

    def counted(root: object, name: str, offset: int, size: int) -> bytes:
        reads.append(size)
        return plain(root, name, offset, size)  # type: ignore[arg-type]

    monkeypatch.setattr(clips, "read_range", counted)
    reader = ClipReader(dataset)
    sizes = reader._index(SHARD).row(CLIP).packet_sizes
    reader.frames(SHARD, CLIP, range(13, 26))
    reader.frames(SHARD, CLIP, [24, 35])
    assert reads == [int(sizes[12:36].sum()), int(sizes[24:36].sum())]


def test_members_and_times_are_read_as_written(dataset: Path) -> None:
    reader = pickle.loads(pickle.dumps(ClipReader(dataset)))
    assert reader.member(SHARD, CLIP, "json") == b'{"n": 1}'
    assert reader.times_s(SHARD, CLIP) == pytest.approx(np.arange(64) / 30)
    assert reader.num_frames(SHARD, CLIP) == 64


def test_every_flipped_bit_inside_the_groups_read_is_noticed(dataset: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    tar = dataset / "shards" / f"{SHARD}.tar"
    (shards / index_path(tar).name).write_bytes(index_path(tar).read_bytes())
    original = tar.read_bytes()
    reader = ClipReader(tmp_path)
    row = ClipReader(dataset)._index(SHARD).row(CLIP)
    first = row.member("mp4").offset + row.data_offset
    ends = first + np.cumsum(row.packet_sizes)
    chosen = random.Random(0)
    for _ in range(40):
        frame = chosen.randrange(64)
        position = chosen.randrange(int(ends[frame] - row.packet_sizes[frame]), int(ends[frame]))
        data = bytearray(original)
        data[position] ^= 1 << chosen.randrange(8)
        (shards / tar.name).write_bytes(data)
        with pytest.raises(
            SampleError, match=r"frames \d+\.\.\d+ of clip c+ in .* checksum"
        ) as caught:
            reader.frames(SHARD, CLIP, [frame])
        assert caught.value.reason == "checksum"
        with pytest.raises(SampleError, match="member mp4 of clip"):
            reader.member(SHARD, CLIP, "mp4")
        elsewhere = (frame + 24) % 60
        assert read_barcode(reader.frames(SHARD, CLIP, [elsewhere])[0]) == elsewhere


def test_frames_a_clip_does_not_have_are_an_error(dataset: Path) -> None:
    reader = ClipReader(dataset)
    for indices in ([64], [-1, 3], []):
        with pytest.raises(IndexError, match=r"has frames 0\.\.63, asked for"):
            reader.frames(SHARD, CLIP, indices)
    with pytest.raises(StorageError):
        reader.frames("clips-000009", CLIP, [0])


def test_a_clip_that_no_decoder_takes_is_a_bad_sample(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import clips

    plain = clips.decode_packets

    def spoilt(config: bytes, packets: list[bytes], want: list[int]) -> np.ndarray:
        return plain(config, [b"\0\0\0\x01\x65" for _ in packets], want)

    monkeypatch.setattr(clips, "decode_packets", spoilt)
    with pytest.raises(SampleError, match=r"clip c+ in clips-000000: ") as caught:
        ClipReader(dataset).frames(SHARD, CLIP, [3])
    assert caught.value.reason == "undecodable"
