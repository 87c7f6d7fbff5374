"""`egodojo curate` from and to a bucket, through a storage that fails, killed, and two at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from footage import SETTINGS, SMALL, dataset_contents
from object_storage import environment, make_bucket, proxy, upload, use
from test_kill import KILLER

from curation.curate import CurateRequest, curate, prepare
from curation.footage import on_disk
from curation.ingest import NOT_READ, find_inputs, probe_input
from manifests import object_store
from manifests.dataset import Dataset
from manifests.errors import LockedError, StorageError, UsageError
from manifests.locations import location, matches
from manifests.validate import validate
from pipeline import flaky
from pipeline.clips import ClipReader
from pipeline.testing import make_video

Cli = Callable[..., SimpleNamespace]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a driver that is killed between any two steps has to get right, and an own caption."""
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "a pän.mp4", num_frames=40, **SMALL)
    make_video(folder / "b.mp4", num_frames=70, seed=1, **SMALL)
    (folder / "a pän.txt").write_text("wipes a table")
    (folder / "d.mp4").write_text("no video")
    return folder


@pytest.fixture
def bucket(
    s3_port: int, videos: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A bucket of this test's own, with the videos below `footage/`."""
    name = f"c{abs(hash(request.node.name))}"
    make_bucket(s3_port, name)
    use(monkeypatch, s3_port)
    upload(name, videos, "footage")
    return name


def run(inputs: str | Path, out: str | Path) -> Any:
    request = CurateRequest(
        inputs=(str(inputs),), out=location(out), sets=SETTINGS, engine="inline", quiet=True
    )
    return curate(prepare(request))


@pytest.mark.slow
def test_a_bucket_and_a_flaky_bucket_give_what_a_disk_gives(
    s3_port: int,
    bucket: str,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
) -> None:
    run(videos, tmp_path / "ds")
    here = dataset_contents(tmp_path / "ds")
    run(videos, f"s3://{bucket}/ds")
    assert dataset_contents(f"s3://{bucket}/ds") == here

    far = f"s3://{bucket}/footage"
    run(far, tmp_path / "far" / "ds")
    from_bucket = dataset_contents(tmp_path / "far" / "ds")
    rows = Dataset.open(tmp_path / "far" / "ds").videos.order("uri").to_arrow_table().to_pylist()
    assert [row["uri"] for row in rows] == [f"{far}/{n}.mp4" for n in ("a pän", "b", "d")]
    assert rows[0]["text"] == "wipes a table"
    assert str(rows[2]["detail"]).startswith(f"{far}/d.mp4"), "no scratch path in a table"
    for which in (here, from_bucket):  # the same pictures, whatever they are called
        assert len([name for name in which if name.endswith(".tar")]) == 3

    with proxy(s3_port, "--one-in", "10", "--seed", "7") as (port, counts):
        use(monkeypatch, port)
        report = run(far, f"s3://{bucket}/again/ds")
        assert report.to_json()["preview"] == f"s3://{bucket}/again/ds/preview/index.html"
        dataset = Dataset.open(f"s3://{bucket}/again/ds")
        assert validate(dataset) == []
        clip = dataset.clips.to_arrow_table().to_pylist()[0]
        frames = ClipReader(dataset.path).frames(clip["shard"], clip["clip_id"], [0, 13])
        assert frames.shape == (2, 120, 160, 3)
        for command in ("reindex", "compact"):
            done = cli("manifest", command, str(dataset.path), "--quiet")
            assert done.exit_code == 0, done.stderr
    use(monkeypatch, s3_port)
    assert dataset_contents(f"s3://{bucket}/again/ds") == from_bucket
    faults = sum(counts.values()) - sum(counts.get(m, 0) for m in ("GET", "PUT", "HEAD", "POST"))
    assert faults > 30

    done = cli("manifest", "delete", str(dataset.path), "--where", "uri LIKE '%/b.mp4'", "--yes")
    assert done.exit_code == 0, done.stderr
    left = Dataset.open(dataset.path)
    assert {row["uri"] for row in left.table("clips").to_pylist()} == {f"{far}/a pän.mp4"}
    assert len(matches(left.path / "shards", "*.tar")) == 1
    assert validate(left) == []


@pytest.mark.slow
def test_killed_on_a_bucket_equals_uninterrupted(s3_port: int, bucket: str, tmp_path: Path) -> None:
    far, out = f"s3://{bucket}/footage", f"s3://{bucket}/ds"
    run(far, tmp_path / "ds")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = environment(s3_port, EGODOJO_SCRATCH=str(scratch), PYTHONPATH=str(ROOT))
    for target, when, count in (
        ("manifests.writer:Writer.append_plan", "after", 1),
        ("manifests.tables:append", "after", 1),
        ("manifests.object_store:download", "after", 1),
    ):
        done = subprocess.run(
            [sys.executable, "-c", KILLER, far, out, target, when, str(count), *SETTINGS],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -9, f"{target}: {done.stderr}"
        assert location(f"{out}/runs/LOCK").is_file()
    assert list(scratch.rglob("*.mp4")), "killed while it held a copy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGODOJO_SCRATCH", str(scratch))
        run(far, out)
    assert list(scratch.rglob("*.mp4")) == []
    assert dataset_contents(out) == dataset_contents(tmp_path / "ds")
    assert not location(f"{out}/runs/LOCK").is_file()


@pytest.mark.slow
def test_two_curates_of_one_bucket_are_told_apart(bucket: str, videos: Path) -> None:
    run(videos, f"s3://{bucket}/ds")
    dataset = Dataset.open(f"s3://{bucket}/ds")
    with dataset.writer("egodojo curate first"):
        refusal = rf"s3://{bucket}/ds is being written by `egodojo curate first` \(process \d+ on"
        with pytest.raises(LockedError, match=refusal):
            run(videos, f"s3://{bucket}/ds")
    assert run(videos, f"s3://{bucket}/ds").num_units == 0


def test_footage_in_a_bucket_is_found_by_object_prefix_and_pattern(
    bucket: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = f"s3://{bucket}/footage"
    names = [f"{far}/{name}.mp4" for name in ("a pän", "b", "d")]
    found = find_inputs([far])
    assert (list(found.uris), found.num_ignored) == (names, 1)
    assert found.sidecars_of(names[0]) == ("a pän.txt",)
    assert found.size_of(names[2]) == len("no video")
    assert list(find_inputs([f"s3://{bucket}/*/?.mp4"]).uris) == names[1:]
    assert list(find_inputs([f"{far}/b.mp4"]).uris) == names[1:2]
    with pytest.raises(UsageError, match=r"missing holds nothing\."):
        find_inputs([f"s3://{bucket}/missing"])
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    upload(bucket, tmp_path / "meta", "robot/meta")
    with pytest.raises(UsageError, match=r"layouts other than plain folders are read from a disk"):
        find_inputs([f"s3://{bucket}/robot"])
    done = cli("curate", far, "--out", f"s3://{bucket}/ds", "--inline", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    assert '"num_new": 3' in done.stdout
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("EGODOJO_STORAGE_PATIENCE_S", "0.5")
    done = cli("curate", far, "--out", f"s3://{bucket}/ds", "--inline")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"egodojo: Cannot read {far}: nothing answers.\n  hint: Check")


def test_an_outage_stops_a_run_and_is_no_fault_of_the_videos(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str, target: Path) -> None:
        raise StorageError(f"Cannot read {uri}: the storage did not answer in time.")

    uri = f"s3://{bucket}/footage/b.mp4"
    monkeypatch.setattr(flaky, "WAITS_S", (0.0,))
    with monkeypatch.context() as patch:
        patch.setattr(object_store, "download", fail)
        row = probe_input(uri, source="x", embodiment="y")
        with pytest.raises(flaky.SourceError, match="did not answer in time"), on_disk(uri):
            pass
    assert row["state"] == NOT_READ
    assert row["detail"] == f"Cannot read {uri}: the storage did not answer in time."
    row = probe_input(f"s3://{bucket}/footage/gone.mp4", source="x", embodiment="y")
    assert (row["state"], row["reason"]) == ("unreadable", "not_accessible")
