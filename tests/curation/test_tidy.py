"""Tidying of real shards: indexes come back byte for byte, deleted clips do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from footage import SETTINGS, SMALL

from curation.curate import CurateRequest, curate, prepare
from manifests.dataset import Dataset
from manifests.deletion import delete
from manifests.validate import validate
from pipeline.clips import ClipReader
from pipeline.reindex import reindex
from pipeline.shards import rebuild_index
from pipeline.testing import make_video

Cli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(["anna", "bo", "cleo"]):
        make_video(folder / f"{name}.mp4", num_frames=20, seed=number, **SMALL)
    return folder


def run(videos: Path, out: Path) -> Dataset:
    request = CurateRequest(
        inputs=(str(videos),), out=out, recipe="permissive", sets=SETTINGS, engine="inline",
        quiet=True,
    )  # fmt: skip
    curate(prepare(request))
    return Dataset.open(out)


@pytest.fixture(scope="module")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unit 0 holds two videos, unit 1 the third."""
    path = run(videos, tmp_path_factory.mktemp("made") / "d").path
    assert Dataset.open(path).sql("SELECT shard FROM units ORDER BY number").num_rows == 2
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "d"))


def indexes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path / "shards").glob("*.idx.parquet")}


def test_indexes_come_back_byte_for_byte(path: Path) -> None:
    before = indexes(path)
    assert reindex(path, quiet=True).mended == ()
    first, second = sorted((path / "shards").glob("*.idx.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    report = reindex(path, quiet=True)
    assert [(m.shard, m.reason) for m in report.mended] == [
        ("clips-000000", "missing"),
        ("clips-000001", "unreadable"),
    ]
    assert indexes(path) == before
    second.write_bytes(before[first.name])
    assert [m.reason for m in reindex(path, quiet=True).mended] == ["wrong"]
    assert indexes(path) == before
    assert validate(Dataset.open(path)) == []


def test_a_damaged_tar_keeps_its_index_and_is_named(path: Path, cli: Cli) -> None:
    tar = path / "shards" / "clips-000001.tar"
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    (path / "shards" / "clips-000000.idx.parquet").unlink()
    before = tar.with_suffix(".idx.parquet").read_bytes()
    found = cli("manifest", "reindex", path)
    assert found.exit_code == 1
    assert "mended      clips-000000: its index was missing" in found.stdout
    assert f"The bytes of {tar} are not those that were committed." in found.stdout
    assert "2 shards: 0 indexes were right, 1 mended, 1 not." in found.stdout
    assert tar.with_suffix(".idx.parquet").read_bytes() == before
    tar.unlink()
    lost = json.loads(cli("manifest", "reindex", path, "--json").stdout)
    assert lost["failed"] == [{"shard": "clips-000001", "error": f"{tar} is not there."}]


def test_the_command_is_quiet_and_takes_the_lock(path: Path, cli: Cli) -> None:
    done = cli("manifest", "reindex", path, "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")
    with Dataset.open(path).writer("egodojo curate x"):
        refused = cli("manifest", "reindex", path)
    assert refused.exit_code == 1
    assert "is being written by `egodojo curate x`" in refused.stderr


def test_a_rewritten_shard_is_what_its_clips_alone_would_have_made(path: Path) -> None:
    dataset = Dataset.open(path)
    bo = dataset.sql("SELECT clip_id, shard FROM clips WHERE uri LIKE '%bo.mp4' ORDER BY start_s")
    frames = [
        ClipReader(path).frames(row["shard"], row["clip_id"], [0, 5, 14]).tobytes()
        for row in bo.to_pylist()
    ]
    delete(dataset, "uri LIKE '%anna.mp4'", command="test")
    dataset = Dataset.open(path)
    moved = dataset.sql(
        "SELECT clip_id, shard FROM clips WHERE uri LIKE '%bo.mp4' ORDER BY start_s"
    ).to_pylist()
    assert {row["shard"] for row in moved} == {"clips-000002"}
    reader = ClipReader(path)
    assert frames == [
        reader.frames(row["shard"], row["clip_id"], [0, 5, 14]).tobytes() for row in moved
    ]
    tar = path / "shards" / "clips-000002.tar"
    assert rebuild_index(tar).to_bytes() == tar.with_suffix(".idx.parquet").read_bytes()
    assert reindex(path, quiet=True).mended == ()


def test_nothing_returns_at_the_next_curate_and_new_files_get_new_numbers(
    videos: Path, path: Path, tmp_path: Path
) -> None:
    delete(Dataset.open(path), "uri LIKE '%anna.mp4' OR uri LIKE '%cleo.mp4'", command="test")
    more = Path(shutil.copytree(videos, tmp_path / "more"))
    make_video(more / "dora.mp4", num_frames=30, seed=9, **SMALL)
    for folder in (videos, more):  # the second holds copies of what was deleted, and Dora
        dataset = run(folder, path)
    uris = dataset.sql("SELECT DISTINCT parse_filename(uri) AS n FROM clips ORDER BY 1")
    assert uris.column("n").to_pylist() == ["bo.mp4", "dora.mp4"]
    assert {file.name for file in (path / "shards").glob("*.tar")} == {
        "clips-000002.tar",
        "clips-000003.tar",
    }
    fates = dataset.sql("SELECT state, reason FROM files WHERE uri LIKE '%videos%/anna.mp4'")
    assert fates.to_pylist() == [{"state": "no_clips", "reason": "deleted"}]
    assert validate(dataset) == []
