"""Withdrawn footage is gone from every file; a deletion killed anywhere comes to the same end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_helpers import (
    SETTINGS,
    contents,
    finished_unit,
    planned_unit,
    video_row,
)

from manifests import Dataset, deletion, storage, tables
from manifests.decide import decide
from manifests.deletion import delete, journal_path, plan_deletion
from manifests.errors import DatasetError, UsageError
from manifests.latents import LatentReader, LatentWriter, latent_dir
from manifests.mixture import MixtureSpec
from manifests.mixture.plan import MixturePlan
from manifests.recipe import Recipe, Rule
from manifests.shard_index import ShardIndex
from manifests.validate import validate

Cli = Callable[..., SimpleNamespace]

ALL = Recipe(name="all", keep=(Rule(name="any", keep_when="true"),))
ANNA = "uri LIKE '%anna%'"
SECRET = "Anna waters her orchids"
WRITES = (
    (storage, "write_atomic"),
    (storage, "replacing"),
    (storage, "remove"),
    (deletion, "rewrite"),
    (tables, "replace_where"),
    (tables, "delete"),
)


def packets(clip_id: str) -> bytes:
    """A piece of the footage of a clip."""
    import hashlib

    return hashlib.shake_128(clip_id.encode()).digest(600)[:40]


def latents_of(clip_id: str) -> Any:
    rng = np.random.default_rng(int(clip_id[:8], 16))
    return rng.normal(size=(59, 32)).astype(np.float16)


def make_dataset(path: Path) -> Dataset:
    """Three units: Anna is all of the first, half of the second, none of the third."""
    dataset = Dataset.create(path, SETTINGS)
    videos = [video_row(name) for name in ("anna 1", "anna 2", "bo 1", "bo 2", "copy")]
    videos[4] |= {"video_id": videos[0]["video_id"]}
    units = [
        planned_unit(number, part)
        for number, part in enumerate([videos[:1], videos[1:3], videos[3:4]])
    ]
    with dataset.writer("test") as writer:
        writer.append_videos(videos)
        writer.append_plan(units)
        results = [finished_unit(path, unit) for unit in units]
        for clip in (clip for _, clips in results for clip in clips):
            clip["text"] = SECRET if "anna" in clip["uri"] else "Bo waits"
        writer.commit_units(results)
    rows = dataset.sql("SELECT clip_id, uri, shard FROM clips ORDER BY shard, clip_id").to_pylist()
    words = [SECRET if "anna" in row["uri"] else "Bo" for row in rows]
    table = pa.table({"clip_id": [row["clip_id"] for row in rows], "caption": words})
    dataset.append_score("captions", table, metadata={"model": "m"})
    decide(dataset, ALL)
    write_derived(path, [row for row in rows if row["shard"]])
    assert validate(dataset) == []
    return dataset


def write_derived(path: Path, rows: list[dict[str, Any]]) -> None:
    """Latents (each shard in two files), tokens, two indexes and a page."""
    for number in range(3):
        clips = [row["clip_id"] for row in rows if row["shard"] == f"clips-{number:06d}"]
        for some in (clips[::2], clips[1::2]):
            writer = LatentWriter(latent_dir(path, "lam-0123abcd", 1), number, {})
            for clip_id in some:
                writer.add(clip_id, latents_of(clip_id))
            writer.finish()
        tokens = path / "tokens" / "vae" / f"clips-{number:06d}.f16"
        tokens.parent.mkdir(parents=True, exist_ok=True)
        tokens.write_bytes(packets(clips[0]))
    for name, wanted in (("all", "bo 1|anna"), ("bo", "bo 2")):
        held = [row["clip_id"] for row in rows if any(w in row["uri"] for w in wanted.split("|"))]
        folder = path / "index" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"clip_id": held}), folder / "rows-1.parquet")
        (folder / "meta.json").write_text(json.dumps({"files": {"rows": "rows-1.parquet"}}))
        (folder / "vectors-1.faiss").write_bytes(b"".join(map(packets, held)))
    (path / "preview").mkdir()
    (path / "preview" / "index.html").write_bytes(packets(rows[0]["clip_id"]))


def state(path: Path) -> dict[str, Any]:
    """All that a deletion may change: rows of every table and the bytes of every other file."""
    dataset = Dataset.open(path)
    found: dict[str, Any] = dict(contents(dataset))
    captions = dataset.table("scores/captions").to_pylist()
    found["captions"] = sorted(map(repr, captions))
    found["next"] = dataset.first_free_number()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and name.parts[0] not in ("catalog", "runs"):
            found[str(name)] = file.read_bytes()
    return found


def everywhere(path: Path, needle: bytes) -> list[str]:
    """Files of the whole folder that hold some bytes."""
    files = (file for file in path.rglob("*") if file.is_file())
    return [str(file.relative_to(path)) for file in files if needle in file.read_bytes()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("made") / "d").path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "d"))


@pytest.fixture(scope="module")
def wanted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """The end of a deletion nobody disturbed, and how many writes it took."""
    path = Path(shutil.copytree(made, tmp_path_factory.mktemp("whole") / "d"))
    with killed_before(-1) as count:
        delete(Dataset.open(path), ANNA, command="test")
    assert validate(Dataset.open(path)) == []
    return state(path), count()


class Killed(BaseException):
    """The process is gone here."""


@contextmanager
def killed_before(number: int) -> Iterator[Callable[[], int]]:
    """Let `number` writes happen and die before the next; yields how many were asked for."""
    count = 0

    def step() -> None:
        nonlocal count
        if count == number:
            raise Killed
        count += 1

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            step()
            return write(*args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for module, name in WRITES:
            patch.setattr(module, name, counted(getattr(module, name)))
        yield lambda: count


def test_footage_is_gone_from_every_file(path: Path) -> None:
    dataset = Dataset.open(path)
    gone = dataset.sql(f"SELECT clip_id FROM clips WHERE {ANNA} AND gate IS NULL")
    clip_ids = gone.column("clip_id").to_pylist()
    assert len(clip_ids) == 4
    assert all(everywhere(path, packets(clip_id)) for clip_id in clip_ids)
    earlier, done = delete(dataset, ANNA, command="test")
    assert earlier is None
    for clip_id in clip_ids:
        assert everywhere(path, packets(clip_id)) == []
        assert everywhere(path, latents_of(clip_id)[3].tobytes()) == []
    assert everywhere(path, SECRET.encode()) == []
    assert validate(Dataset.open(path)) == []
    assert (done.num_clips, done.num_written, done.num_videos) == (6, 4, 2)
    assert done.shards == {"clips-000000": None, "clips-000001": "clips-000003"}
    assert done.rows == {"clips": 6, "decisions": 6, "scores/captions": 6}
    assert sorted(done.redo) == ["index/all", "preview", "tokens/vae"]
    assert (path / "index" / "bo" / "meta.json").is_file()
    assert not journal_path(path).exists()


def test_the_other_clips_stay_as_they_were(path: Path) -> None:
    query = f"SELECT * EXCLUDE (shard) FROM clips WHERE NOT ({ANNA}) ORDER BY clip_id"
    before = Dataset.open(path).sql(query)
    delete(Dataset.open(path), ANNA, command="test")
    dataset = Dataset.open(path)
    assert dataset.sql(query).equals(before)
    latents = LatentReader.open(path, "lam-0123abcd", 1)
    for row in dataset.sql("SELECT clip_id, shard FROM clips WHERE gate IS NULL").to_pylist():
        clip_id, tar = row["clip_id"], path / "shards" / f"{row['shard']}.tar"
        member = ShardIndex.read(tar.with_suffix(".idx.parquet")).row(clip_id).member("mp4")
        bytes_there = tar.read_bytes()[member.offset : member.offset + member.size]
        assert bytes_there.startswith(packets(clip_id))
        assert np.array_equal(latents.rows(clip_id, shard=row["shard"]), latents_of(clip_id))
    fates = dict(
        zip(
            *(c.to_pylist() for c in dataset.sql("SELECT uri, state FROM files").columns),
            strict=True,
        )
    )
    assert fates["/footage/anna 1.mp4"] == "no_clips"
    assert fates["/footage/bo 1.mp4"] == "processed"
    why = "SELECT reason, detail FROM files WHERE uri = '/footage/anna 1.mp4'"
    assert dataset.sql(why).to_pylist() == [
        {"reason": "deleted", "detail": "3 clips deleted on demand"}
    ]


@pytest.mark.slow
def test_a_kill_before_any_write_is_made_good_by_a_rerun(
    made: Path, tmp_path: Path, wanted: tuple[dict[str, Any], int]
) -> None:
    end, num_writes = wanted
    assert num_writes >= 25
    for number in range(num_writes):
        path = Path(shutil.copytree(made, tmp_path / f"killed {number}"))
        with pytest.raises(Killed), killed_before(number):
            delete(Dataset.open(path), ANNA, command="test")
        is_begun = journal_path(path).exists()
        if number == 7:
            kinds = {problem.kind for problem in validate(Dataset.open(path))}
            assert "delete_unfinished" in kinds
        if is_begun and number % 2:  # whoever writes next finishes it
            with Dataset.open(path).writer("another command") as writer:
                assert writer.finished_deletion is not None
                assert writer.finished_deletion.num_clips == 6
        else:
            earlier, done = delete(Dataset.open(path), ANNA, command="test")
            assert [earlier is not None, done.num_clips] == [is_begun, 0 if is_begun else 6]
        assert state(path) == end, f"killed before write {number}"
        if number % 8 == 0:
            assert validate(Dataset.open(path)) == []
        assert everywhere(path, SECRET.encode()) == []
        shutil.rmtree(path)


@pytest.mark.parametrize("kills", [[5, 9, 12], [1, 1, 1, 20], [0, 2, 4, 6, 8]])
def test_a_deletion_killed_again_and_again_comes_to_the_same_end(
    path: Path, kills: list[int], wanted: tuple[dict[str, Any], int]
) -> None:
    for number in kills:
        try:
            with killed_before(number):
                delete(Dataset.open(path), ANNA, command="test")
        except Killed:
            pass
    delete(Dataset.open(path), ANNA, command="test")
    assert state(path) == wanted[0]


@pytest.mark.parametrize("number", [2, 14])
def test_a_process_that_is_killed_leaves_no_lock_and_no_halves(
    path: Path, number: int, wanted: tuple[dict[str, Any], int]
) -> None:
    code = f"""
import os, signal
from manifests import Dataset, deletion, storage, tables
from manifests.deletion import delete
count = 0
def counted(write):
    def wrapped(*args, **kwargs):
        global count
        if count == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return write(*args, **kwargs)
    return wrapped
for name in ("write_atomic", "remove"):
    setattr(storage, name, counted(getattr(storage, name)))
for name in ("replace_where", "delete"):
    setattr(tables, name, counted(getattr(tables, name)))
deletion.rewrite = counted(deletion.rewrite)
delete(Dataset.open({str(path)!r}), {ANNA!r}, command="test")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (path / "runs" / "LOCK").exists()
    delete(Dataset.open(path), ANNA, command="test")
    assert state(path) == wanted[0]


def test_a_number_is_never_given_twice(path: Path) -> None:
    dataset = Dataset.open(path)
    assert dataset.first_free_number() == 3
    delete(dataset, ANNA, command="test")
    assert Dataset.open(path).first_free_number() == 4
    delete(Dataset.open(path), "shard = 'clips-000003'", command="test")
    assert not list((path / "shards").glob("clips-000003*"))
    assert Dataset.open(path).first_free_number() == 4
    assert validate(Dataset.open(path)) == []


def test_a_mixture_plan_that_names_a_removed_shard_is_refused(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "mixture.yaml"
    source = {"dataset": str(path), "weight": 1}
    file.write_text(json.dumps({"sources": {"toy": source}, "seed": 0}))
    MixtureSpec.load(file).plan().save(tmp_path / "plan")
    versions = MixturePlan.open(tmp_path / "plan").sources[0].versions
    delete(Dataset.open(path), ANNA, command="test")
    with pytest.raises(DatasetError, match=r"clips-000000\.tar and 3 more, which is not there any"):
        MixturePlan.open(tmp_path / "plan").check_files()
    with pytest.raises(DatasetError, match=r"Version \d+ of the table \w+ is not there \(any more"):
        Dataset.open(path, versions=versions)
    MixtureSpec.load(file).plan().check_files()


def test_gated_clips_alone_touch_no_shard(path: Path) -> None:
    shards = {file.name: file.read_bytes() for file in (path / "shards").iterdir()}
    _, done = delete(Dataset.open(path), "gate = 'black'", command="test")
    assert (done.num_clips, done.num_written, done.shards) == (4, 0, {})
    assert {file.name: file.read_bytes() for file in (path / "shards").iterdir()} == shards
    assert validate(Dataset.open(path)) == []


def test_a_shard_whose_index_does_not_fit_is_refused_before_anything_is_written(
    path: Path,
) -> None:
    before = state(path)
    index = path / "shards" / "clips-000001.idx.parquet"
    other = path / "shards" / "clips-000002.idx.parquet"
    kept = index.read_bytes()
    index.write_bytes(other.read_bytes())
    with pytest.raises(DatasetError, match="does not list the clips that the table") as raised:
        delete(Dataset.open(path), ANNA, command="test")
    assert raised.value.hint == f"Run: egodojo manifest reindex {path}"
    index.unlink()
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        delete(Dataset.open(path), ANNA, command="test")
    index.write_bytes(kept)
    assert state(path) == before
    # A shard that goes as a whole needs no index.
    (path / "shards" / "clips-000000.idx.parquet").unlink()
    delete(Dataset.open(path), "shard = 'clips-000000'", command="test")


def test_what_an_extraction_wrote_meanwhile_goes_with_the_next_deletion(path: Path) -> None:
    late = Dataset.open(path).sql(f"SELECT clip_id FROM clips WHERE {ANNA} AND gate IS NULL")
    delete(Dataset.open(path), ANNA, command="test")
    writer = LatentWriter(latent_dir(path, "lam-0123abcd", 1), 0, {})
    writer.add(late.column("clip_id")[0].as_py(), latents_of("0" * 24))
    writer.finish()
    score = pa.table({"clip_id": late.column("clip_id"), "caption": [SECRET] * 4})
    Dataset.open(path).append_score("captions", score, metadata={})
    kinds = {problem.kind for problem in validate(Dataset.open(path))}
    assert kinds == {"latents", "score_captions"}
    delete(Dataset.open(path), "gate = 'black'", command="test")
    assert validate(Dataset.open(path)) == []
    assert everywhere(path, SECRET.encode()) == []


def test_damaged_latents_are_removed_and_named(path: Path) -> None:
    folder = latent_dir(path, "lam-0123abcd", 1)
    (folder / "clips-000001.f16").write_bytes(b"short")
    _, done = delete(Dataset.open(path), ANNA, command="test")
    name = "latents/lam-0123abcd/step-1/clips-000001.rows.parquet"
    assert done.redo[name].startswith("egodojo latents extract")
    assert validate(Dataset.open(path)) == []


def test_a_journal_that_cannot_be_read_is_named(path: Path) -> None:
    journal_path(path).write_text("{")
    with (
        pytest.raises(DatasetError, match="says what an interrupted deletion has to do"),
        Dataset.open(path).writer("test"),
    ):
        pass


def test_the_predicate_is_checked(path: Path) -> None:
    with pytest.raises(UsageError, match="predicate of --where is empty"):
        plan_deletion(Dataset.open(path), "  ")
    with pytest.raises(DatasetError, match="The query failed: Binder Error"):
        plan_deletion(Dataset.open(path), "nothing = 1")
    assert plan_deletion(Dataset.open(path), "captions.caption = 'Bo' -- all his").num_videos == 2


def test_the_command_asks_and_tells(path: Path, cli: Cli) -> None:
    before = state(path)
    asked = cli("manifest", "delete", path, "--where", ANNA)
    assert asked.exit_code == 2
    assert "Nothing was done: this would delete 6 clips (4 of them written, 12.0 s" in asked.stderr
    looked = cli("manifest", "delete", path, "--where", ANNA, "--dry-run")
    assert looked.exit_code == 0
    assert "clips-000001 -> clips-000003" in looked.stdout
    found = json.loads(
        cli("manifest", "delete", path, "--where", ANNA, "--dry-run", "--json").stdout
    )
    assert (found["is_dry_run"], found["num_clips"], found["num_videos"]) == (True, 6, 2)
    assert state(path) == before
    done = cli("manifest", "delete", path, "--where", ANNA, "--yes")
    assert done.exit_code == 0
    assert "Deleted 6 clips" in done.stdout
    assert "scores/captions: 6 rows" in done.stdout
    assert f"preview was removed; again: egodojo manifest preview {path}" in done.stdout
    again = cli("manifest", "delete", path, "--where", ANNA, "--yes")
    assert again.exit_code == 0
    assert again.stdout.strip() == "No clip matches; nothing was deleted."
    assert cli("manifest", "delete", path, "--where", ANNA, "--yes", "--quiet").stdout == ""
    assert cli("manifest", "delete", path, "--where", "nothing", "--yes").exit_code == 1


def test_the_command_says_that_it_finished_an_earlier_one(path: Path, cli: Cli) -> None:
    with pytest.raises(Killed), killed_before(6):
        delete(Dataset.open(path), ANNA, command="test")
    asked = cli("manifest", "delete", path, "--where", ANNA)
    assert asked.exit_code == 2
    assert "for good and finish an earlier deletion" in asked.stderr
    done = json.loads(cli("manifest", "delete", path, "--where", ANNA, "--yes", "--json").stdout)
    assert done["finished_before"]["num_clips"] == 6
    assert done["num_clips"] == 0


def test_only_one_writer(path: Path, cli: Cli) -> None:
    with Dataset.open(path).writer("egodojo curate x"):
        refused = cli("manifest", "delete", path, "--where", ANNA, "--yes")
    assert refused.exit_code == 1
    assert "is being written by `egodojo curate x`" in refused.stderr
