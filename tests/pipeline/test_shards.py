"""Tars that any tool opens, an index that follows from the tar, and equal bytes on every run."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from pathlib import Path

import pytest
from video_helpers import encode_clip, write_shard

from manifests.errors import DatasetError, StorageError
from manifests.shard_index import ShardIndex
from pipeline.mp4 import index_mp4
from pipeline.shards import ShardWriter, index_path, rebuild_index
from pipeline.testing import make_video

IDS = [f"{number:024x}" for number in (7, 3, 11)]


@pytest.fixture(scope="module")
def mp4s(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        encode_clip(
            make_video(folder / f"{n}.mp4", num_frames=20 + n, width=160, height=120, seed=n)
        )
        for n in range(3)
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves the tar open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tar_opens_with_plain_webdataset_in_three_lines(
    tmp_path: Path, mp4s: list[bytes]
) -> None:
    write_shard(tmp_path, dict(zip(IDS, mp4s, strict=True)))
    path = tmp_path / "shards" / "clips-000000.tar"
    # begin: three lines
    import webdataset

    dataset = webdataset.WebDataset(str(path), shardshuffle=False)
    samples = {sample["__key__"]: (sample["mp4"], sample["json"]) for sample in dataset}
    # end
    assert list(samples) == IDS
    assert [mp4 for mp4, _ in samples.values()] == mp4s
    assert all(json.loads(facts) == {"n": 1} for _, facts in samples.values())


def test_the_same_clips_give_the_same_tar_and_index(tmp_path: Path, mp4s: list[bytes]) -> None:
    clips = dict(zip(IDS, mp4s, strict=True))
    first, second = (write_shard(tmp_path / name, clips, token=name) for name in ("a", "b"))
    assert first == second
    files = [sorted((tmp_path / name / "shards").iterdir()) for name in ("a", "b")]
    assert [path.name for path in files[0]] == ["clips-000000.idx.parquet", "clips-000000.tar"]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]
    tar = files[0][1].read_bytes()
    assert first.num_bytes == len(tar)
    assert first.sha256 == hashlib.sha256(tar).hexdigest()
    assert first.num_clips == 3


def test_members_are_plain_ustar_without_owner_or_time(tmp_path: Path, mp4s: list[bytes]) -> None:
    path = tmp_path / "clips-000000.tar"
    with ShardWriter(path) as shard:
        shard.add(
            IDS[0],
            {"actions.npy": b"abc", "json": b"{}", ".mp4": mp4s[0]},
            index_mp4(mp4s[0]),
        )
        shard.finish()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [f"{IDS[0]}.{s}" for s in ("mp4", "json", "actions.npy")]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, 0, "", "", 0o644)
    }
    assert path.read_bytes()[257:265] == b"ustar\x0000"


def test_the_index_gives_every_member_and_can_be_rebuilt_from_the_tar(
    tmp_path: Path, mp4s: list[bytes]
) -> None:
    write_shard(tmp_path, dict(zip(IDS, mp4s, strict=True)))
    path = tmp_path / "shards" / "clips-000000.tar"
    written = ShardIndex.read(index_path(path))
    assert written.clip_ids == IDS
    data = path.read_bytes()
    for clip_id, mp4 in zip(IDS, mp4s, strict=True):
        row = written.row(clip_id)
        member = row.member("mp4")
        assert data[member.offset : member.offset + member.size] == mp4
        assert member.crc32 == zlib.crc32(mp4)
        assert row.num_frames == index_mp4(mp4).num_frames
    rebuilt = rebuild_index(path)
    assert rebuilt == written
    assert rebuilt.to_bytes() == index_path(path).read_bytes()
    assert ShardIndex.of([]) != written


def test_the_index_takes_at_most_four_bytes_a_frame(tmp_path: Path) -> None:
    mp4 = encode_clip(make_video(tmp_path / "a.mp4", num_frames=600, width=160, height=120))
    write_shard(tmp_path, {f"{n:024x}": mp4 for n in range(5)})
    size = (tmp_path / "shards" / "clips-000000.idx.parquet").stat().st_size
    assert size <= 4 * 600 * 5


def test_nothing_is_left_when_writing_fails(tmp_path: Path, mp4s: list[bytes]) -> None:
    index = index_mp4(mp4s[0])
    path = tmp_path / "clips-000000.tar"

    def fail() -> None:
        with ShardWriter(path, "tok") as shard:
            shard.add(IDS[0], {"mp4": mp4s[0]}, index)
            assert [p.name for p in tmp_path.iterdir()] == ["clips-000000.tar.tmp-tok"]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match=r"Cannot write .*: No such file"):
        ShardWriter(tmp_path / "missing" / "clips-000000.tar")


def test_keys_are_unique_and_hold_no_dots(tmp_path: Path, mp4s: list[bytes]) -> None:
    index = index_mp4(mp4s[0])
    with ShardWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"mp4": mp4s[0]}, index)
        with pytest.raises(ValueError, match="neither dots"):
            shard.add("a.b", {"mp4": mp4s[0]}, index)
        with pytest.raises(ValueError, match="already in"):
            shard.add("a", {"mp4": mp4s[0]}, index)


def test_damaged_or_foreign_files_are_refused_in_a_sentence(
    tmp_path: Path, mp4s: list[bytes]
) -> None:
    write_shard(tmp_path, {IDS[0]: mp4s[0]})
    path = tmp_path / "shards" / "clips-000000.tar"
    index = ShardIndex.read(index_path(path))
    with pytest.raises(DatasetError, match=r"clip nope is not in .*clips-000000\.idx\.parquet"):
        index.row("nope")
    with pytest.raises(DatasetError, match=r"has no member 'actions\.npy', only mp4, json"):
        index.row(IDS[0]).member("actions.npy")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DatasetError, match="cannot be indexed"):
        rebuild_index(path)
    with pytest.raises(StorageError, match="cannot be read"):
        rebuild_index(tmp_path / "nothing.tar")
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        ShardIndex.read(tmp_path / "nothing.idx.parquet")
    with pytest.raises(DatasetError, match="is no shard index"):
        ShardIndex.from_bytes(b"PAR1 and nothing")
