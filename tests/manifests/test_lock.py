"""One writer at a time: who is refused, who takes over, who must stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from dataset_helpers import SETTINGS, toy_dataset, video_row

from manifests import Dataset, lock
from manifests.errors import DatasetError, LockedError


def write_lock(folder: Path, holder: lock.Holder) -> Path:
    path = folder / "runs" / "LOCK"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(holder)))
    return path


def test_a_second_writer_is_refused_in_a_sentence_that_names_the_first(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d")
    with dataset.writer("egodojo curate footage"):
        began = time.monotonic()
        with (
            pytest.raises(LockedError, match="is being written by") as caught,
            Dataset.open(tmp_path / "d").writer("egodojo curate more"),
        ):
            pass
        assert time.monotonic() - began < 5
        words = f"`egodojo curate footage` (process {os.getpid()} on "
        assert words in caught.value.message
        assert str(dataset.path) in caught.value.message
    with Dataset.open(tmp_path / "d").writer("egodojo curate more"):
        pass
    assert not (tmp_path / "d/runs/LOCK").exists()


def test_readers_go_on_while_a_writer_holds_the_lock(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    with dataset.writer("egodojo curate") as writer:
        reader = Dataset.open(tmp_path / "d")
        writer.append_videos([video_row("new")])
        assert reader.files.count("*").fetchall() == [(1,)]
        assert Dataset.open(tmp_path / "d").files.count("*").fetchall() == [(2,)]


def test_a_dead_process_is_succeeded_at_once(tmp_path: Path) -> None:
    Dataset.create(tmp_path / "d", SETTINGS)
    code = (
        "import os, signal, sys; from pathlib import Path; from manifests.lock import acquire; "
        "acquire(Path(sys.argv[1]), 'egodojo curate'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "d")]
    subprocess.run(command, check=False, cwd=Path(lock.__file__).parent.parent)
    left = lock.read_holder(tmp_path / "d/runs/LOCK")
    assert left is not None
    assert left.is_gone()
    began = time.monotonic()
    with Dataset.open(tmp_path / "d").writer("egodojo curate") as writer:
        assert time.monotonic() - began < 5
        writer.append_videos([video_row("a")])


def test_a_process_number_used_again_is_another_process(tmp_path: Path) -> None:
    mine = lock.Holder.of_this_process("me")
    assert not mine.is_gone()
    assert replace(mine, process_started="1").is_gone()
    assert not replace(mine, host="elsewhere").is_gone()
    assert not replace(mine, boot_id="another").is_gone()


def test_a_holder_elsewhere_that_counts_is_respected(tmp_path: Path) -> None:
    holder = replace(lock.Holder.of_this_process("egodojo curate"), host="elsewhere")
    path = write_lock(tmp_path, holder)
    timer = threading.Timer(0.4, write_lock, (tmp_path, replace(holder, counter="000000000001")))
    timer.start()
    with pytest.raises(LockedError, match=r"`egodojo curate` \(process \d+ on elsewhere\)"):
        lock.acquire(tmp_path, "egodojo curate", stale_s=5)
    timer.join()
    assert lock.read_holder(path) == replace(holder, counter="000000000001")


@pytest.mark.parametrize("content", ["holder", "not json"])
def test_a_holder_elsewhere_that_stands_still_is_succeeded(tmp_path: Path, content: str) -> None:
    path = write_lock(tmp_path, replace(lock.Holder.of_this_process("old"), host="elsewhere"))
    if content != "holder":
        path.write_text(content)
    with lock.locked(tmp_path, "new", stale_s=0.4) as held:
        found = lock.read_holder(path)
        assert found is not None
        assert (found.command, found.token) == ("new", held.token)
    assert not path.exists()


def test_a_holder_that_was_succeeded_stops_before_its_next_commit(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=1)
    with dataset.writer("paused") as writer:
        other = replace(lock.Holder.of_this_process("quick"), token="ff00")
        write_lock(dataset.path, other)
        with pytest.raises(LockedError, match="was taken over by `quick`"):
            writer.append_videos([video_row("a")])
        (dataset.path / "runs/LOCK").unlink()
        with pytest.raises(LockedError, match="was taken over by hand"):
            writer.append_videos([video_row("a")])
        write_lock(dataset.path, other)
    assert lock.read_holder(dataset.path / "runs/LOCK") == other
    assert Dataset.open(dataset.path).table("videos").num_rows == 1


def test_the_holder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    with lock.locked(tmp_path, "me") as held:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            found = lock.read_holder(held.path)
            if found is not None and int(found.counter) > 1:
                break
            time.sleep(0.02)
        assert found is not None
        assert int(found.counter) > 1
        assert replace(found, counter=held.holder.counter) == held.holder
        held.check()


def test_only_one_of_many_newcomers_succeeds_a_dead_holder(tmp_path: Path) -> None:
    gone = replace(lock.Holder.of_this_process("old"), process_started="1")
    write_lock(tmp_path, gone)
    won, refused = [], []
    barrier = threading.Barrier(8)

    def newcomer() -> None:
        barrier.wait()
        try:
            won.append(lock.acquire(tmp_path, "new"))
        except LockedError as error:
            refused.append(error)

    threads = [threading.Thread(target=newcomer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DatasetError, match=r"Cannot write the lock .*runs/LOCK"):
        lock.acquire(tmp_path, "me")


def test_a_full_disk_leaves_no_half_of_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(DatasetError, match=r"runs/LOCK: No space left on device"):
        lock.acquire(tmp_path, "me")
    monkeypatch.undo()
    assert list((tmp_path / "runs").iterdir()) == []
