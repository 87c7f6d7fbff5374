"""Objects, the lock and the tables against a real S3 API server."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_helpers import SETTINGS, clip_row, planned_unit, toy_dataset, unit_row, video_row
from object_storage import make_bucket, proxy, use

from manifests import lock, object_store, storage, tables
from manifests.compaction import compact
from manifests.dataset import Dataset
from manifests.decide import decide
from manifests.deletion import delete
from manifests.errors import DatasetError, LockedError, StorageError
from manifests.locations import ObjectPath, location, matches
from manifests.recipe import Recipe, Rule
from manifests.validate import validate

RECIPE = Recipe(
    name="toy",
    gates=SETTINGS.gates,
    keep=(Rule(name="dark", keep_when="brightness_mean_luma > 40"),),
    text="toy",
)


@pytest.fixture
def bucket(s3_port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.name))}"
    make_bucket(s3_port, name)
    use(monkeypatch, s3_port)
    return f"s3://{name}"


def fill(path: str | Path) -> Dataset:
    """One video, one unit, two clips without bytes, one of them dropped by the recipe."""
    dataset = Dataset.create(path, SETTINGS)
    video = video_row("a")
    unit = planned_unit(0, [video])
    gated = {"gate": "black", "brightness_mean_luma": 5.0}
    clips = [clip_row(unit, unit.parts[0], 0, **gated), clip_row(unit, unit.parts[0], 1, **gated)]
    with dataset.writer("egodojo curate") as writer:
        writer.append_videos([video])
        writer.append_plan([unit])
        writer.commit_units([(unit_row(unit, clips), clips)])
    decide(dataset, RECIPE)
    return dataset


def rows(dataset: Dataset) -> dict[str, list[str]]:
    names = ("videos", "plan", "units", "clips", "decisions")
    return {name: sorted(map(repr, dataset.table(name).to_pylist())) for name in names}


def test_a_dataset_in_a_bucket_is_the_local_one(bucket: str, tmp_path: Path) -> None:
    far = fill(f"{bucket}/my data/dès")
    assert str(far.path) == f"{bucket}/my data/dès"
    assert rows(far) == rows(fill(tmp_path / "dès"))
    assert Dataset.open(far.path).metadata("decisions")["recipe"] == "toy"
    assert validate(Dataset.open(str(far.path))) == []
    assert not (far.path / "runs" / "LOCK").exists()
    with pytest.raises(DatasetError, match="Version 7 of the table clips is not there"):
        Dataset.open(far.path, versions={"clips": 7})
    with pytest.raises(DatasetError, match="is a dataset already"):
        Dataset.create(far.path, SETTINGS)


def test_objects_read_like_files(bucket: str) -> None:
    root = location(f"{bucket}/a b/c")
    assert isinstance(root, ObjectPath)
    for name in ("x.tar", "x.idx.parquet", "deep/er/y.txt"):
        storage.write_atomic(root / name, name.encode())
    assert [path.name for path in matches(root, "*")] == ["deep", "x.idx.parquet", "x.tar"]
    assert [str(path.relative_to(root)) for path in matches(root, "**/*.txt")] == ["deep/er/y.txt"]
    assert (root / "deep").is_dir()
    assert not (root / "deep").is_file()
    assert not (root / "nothing").exists()
    assert storage.read_range(root, "x.tar", 2, 3) == b"tar"
    with pytest.raises(StorageError, match="ends before byte 9: 3 of 7 bytes"):
        storage.read_range(root, "x.tar", 2, 7)
    with (root / "x.tar").open("rb") as stream:
        stream.seek(2)
        assert stream.read() == b"tar"
    with storage.local_file(root / "x.tar") as copy:
        assert copy.read_bytes() == b"x.tar"
    assert not copy.exists()
    with pytest.raises(TypeError), storage.replacing(root / "x.tar") as target:
        target.write("text, after which nothing is put")
    assert (root / "x.tar").read_bytes() == b"x.tar"
    storage.remove(root)
    assert matches(root, "*") == []


def test_patterns_find_what_they_find_on_a_disk_and_list_no_more_than_they_must(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a/step-1/meta.json", "a/step-1/c-0.1.rows", "a/step-1/c-0.rows", "a/step-1/c-00.rows"]
    names += ["a/c-0.x/y.rows", "b/step-2/meta.json", "other/deep/er/c-0.rows", "top.json"]
    for name in names:
        for root in (location(bucket), tmp_path):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            storage.write_atomic(root / name, b"x")
    patterns = ("*", "*.json", "*/step-*", "*/step-*/meta.json", "a/*/c-0.*", "a/step-1/c-00.rows")
    for pattern in (*patterns, "**/*.rows", "*/**/*", "a/none"):
        there = [path.relative_to(tmp_path).as_posix() for path in matches(tmp_path, pattern)]
        found = [
            str(path).removeprefix(f"{bucket}/") for path in matches(location(bucket), pattern)
        ]
        assert found == [name for name in there if name], pattern
    begun = location(f"{bucket}/a/step-1").beginning_with("c-0.")
    assert [path.name for path in begun] == ["c-0.1.rows", "c-0.rows"]
    assert list(location(f"{bucket}/a").beginning_with("c-0.")) == []

    def refused(uri: str, *, after: str | None = None) -> None:
        raise AssertionError(f"{uri} was listed to its depth")

    monkeypatch.setattr(object_store, "listed", refused)
    assert len(matches(location(bucket), "*/step-*/meta.json")) == 2


@pytest.mark.slow
def test_a_deletion_and_a_compaction_in_a_flaky_bucket_are_the_local_ones(
    s3_port: int, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = toy_dataset(tmp_path / "ds", num_videos=3)
    decide(here, replace(RECIPE, gates=()))
    far = location(f"{bucket}/ds")
    for file in (path for path in here.path.rglob("*") if path.is_file()):
        storage.write_atomic(far / file.relative_to(here.path).as_posix(), file.read_bytes())
    with proxy(s3_port, "--one-in", "10", "--seed", "3") as (port, counts):
        use(monkeypatch, port)
        delete(Dataset.open(far), "uri LIKE '%v1%'", command="test")
        compact(Dataset.open(far), command="test")
    use(monkeypatch, s3_port)
    delete(Dataset.open(here.path), "uri LIKE '%v1%'", command="test")
    compact(Dataset.open(here.path), command="test")
    assert validate(Dataset.open(far)) == []
    assert rows(Dataset.open(far)) == rows(Dataset.open(here.path))
    names = [sorted(file.name for file in (path / "shards").iterdir()) for path in (far, here.path)]
    assert names[0] == names[1]
    assert sum(counts.values()) - sum(counts.get(m, 0) for m in ("GET", "PUT", "HEAD", "POST")) > 10


def test_two_writers_of_a_bucket_never_hold_the_lock_at_once(bucket: str) -> None:
    folder = location(f"{bucket}/ds")
    path = folder / "runs" / "LOCK"
    elsewhere = replace(lock.Holder.of_this_process("egodojo curate"), host="elsewhere")
    storage.write_atomic(path, lock.content(elsewhere))
    beat = lock.content(replace(elsewhere, counter="000000000001"))
    timer = threading.Timer(0.5, storage.write_atomic, (path, beat))
    timer.start()
    with pytest.raises(LockedError, match=r"is being written by `egodojo curate` \(process \d+ on"):
        lock.acquire(folder, "me", stale_s=20)
    timer.join()
    with lock.locked(folder, "newcomer", stale_s=0.3) as held:  # it stood still
        held.check()
        storage.write_atomic(path, lock.content(elsewhere))
        with pytest.raises(LockedError, match="was taken over by `egodojo curate`"):
            held.check()
        with pytest.raises(object_store.TakenError):
            held._claim.beat(1)
    assert lock.read_holder(path) == elsewhere, "a lock that was taken over is not removed"


def test_a_storage_that_ignores_conditions_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(uri: str, data: bytes) -> str:
        object_store.put(uri, data)
        return "tag"

    monkeypatch.setattr(object_store, "put_if_absent", put)
    with pytest.raises(StorageError, match="ignores conditional puts, which the lock needs"):
        lock.acquire(location(f"{bucket}/ds"), "me")
    assert not location(f"{bucket}/ds/runs/LOCK").is_file()


@pytest.mark.slow
def test_commits_whose_answers_are_lost_are_made_once(
    s3_port: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(s3_port, "--one-in", "4", "--seed", "3") as (port, counts):
        use(monkeypatch, port)
        dataset = fill(f"{bucket}/ds")
        for number in range(2):
            score = dataset.table("clips").select(["clip_id"]).slice(number, 1)
            dataset.append_score("mine", score, metadata={"model": "m"})
        assert dataset.table("scores/mine").num_rows == 2
        assert len(rows(dataset)["clips"]) == 2
        tables.replace_where(
            dataset._tables["clips"],
            dataset.table("clips").slice(0, 0),
            column="unit_id",
            values=["none"],
        )
        assert len(rows(Dataset.open(dataset.path))["clips"]) == 2
    assert counts["500 after it was done"] + counts["dropped after it was done"] > 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "403 InvalidAccessKeyId"}, "does not accept these credentials"),
        ({"status": "403 AccessDenied"}, "these credentials may not do that"),
        ({"status": "404 NoSuchBucket"}, "there is no bucket s3://nowhere"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "nothing answers"),
        ({"AWS_ENDPOINT_URL": "http://no.such.host.invalid"}, "no such host"),
        ({"AWS_ALLOW_HTTP": "false"}, "plain http is not allowed"),
        ({"status": "503 SlowDown"}, "the storage keeps answering with errors"),
    ],
)
def test_what_is_wrong_with_a_storage_is_said_in_one_sentence(
    s3_port: int,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    sentence: str,
) -> None:
    status = changes.pop("status", None)
    with proxy(s3_port, *(["--status", status] if status else [])) as (port, _):
        use(monkeypatch, port, EGODOJO_STORAGE_PATIENCE_S="1", **changes)
        for attempt in (Dataset.open, lambda path: storage.write_atomic(f"{path}/x", b"x")):
            with pytest.raises(StorageError) as caught:
                attempt("s3://nowhere/ds")
            assert sentence in caught.value.message
            assert "s3://nowhere/ds" in caught.value.message
            assert caught.value.hint


def test_places_that_are_none_are_refused() -> None:
    for uri in ("s3://", "s3://bucket/a//b", "s3://bucket/../a"):
        with pytest.raises(DatasetError, match="is no place in a bucket"):
            location(uri)
