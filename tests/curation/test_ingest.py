"""Inputs: what counts as one, how it is named, and what its row says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curation.footage import path_of, size_of, uri_of
from curation.ingest import ProbeTask, crashed_row, find_inputs, probe_inputs
from manifests.errors import UsageError
from manifests.records import video_id_of
from manifests.rows import checked_table
from manifests.schema import VIDEOS
from pipeline.testing import make_video


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_folders_are_searched_by_suffix_and_other_files_are_counted(tmp_path: Path) -> None:
    wanted = [touch(tmp_path / name) for name in ("b.MP4", "a/deep/c.webm", "a/d.Mov")]
    touch(tmp_path / "notes.md")
    touch(tmp_path / "a" / "b.actions.parquet")
    found = find_inputs([str(tmp_path)])
    assert found.uris == tuple(sorted(str(path) for path in wanted))
    assert found.num_ignored == 2


def test_a_file_named_itself_is_an_input_whatever_its_suffix(tmp_path: Path) -> None:
    odd = touch(tmp_path / "recording.bin")
    assert find_inputs([str(odd)]).uris == (str(odd),)
    assert find_inputs([str(odd), str(tmp_path)]).num_ignored == 0


def test_patterns_and_repeats_give_each_file_once(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.txt"):
        touch(tmp_path / name)
    found = find_inputs([str(tmp_path / "*"), str(tmp_path), str(tmp_path / "a.mp4")])
    assert [Path(uri).name for uri in found.uris] == ["a.mp4", "b.mp4"]
    assert found.num_ignored == 1


def test_links_are_resolved_and_circles_end(tmp_path: Path) -> None:
    real = touch(tmp_path / "real" / "a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path)
    (tmp_path / "real" / "also.mp4").symlink_to("../link/a.mp4")
    assert find_inputs([str(tmp_path)]).uris == (str(real),)
    assert find_inputs([str(tmp_path / "link")]).uris == (str(real),)


@pytest.mark.parametrize("name", ["sp ace #1.mp4", "quo'te\".mp4", "naïve 手.mp4", "50%.mp4"])
def test_uris_are_the_paths_as_they_stand(tmp_path: Path, name: str) -> None:
    path = touch(tmp_path / name)
    assert uri_of(path) == str(path)
    assert path_of(uri_of(path)) == path
    assert find_inputs([str(tmp_path)]).uris == (str(path),)


def test_bytes_that_are_no_text_are_escaped_and_found_again(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/bad\xff.mp4"
    touch(Path(os.fsdecode(raw)))
    (uri,) = find_inputs([str(tmp_path)]).uris
    assert uri.endswith("bad%FF.mp4")
    assert os.fsencode(path_of(uri)) == raw


def test_names_with_a_percent_sign_and_strange_bytes_stay_apart(tmp_path: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/%41\xff.mp4"))
    strange.write_bytes(b"x")
    assert uri_of(strange).endswith("/%2541%FF.mp4")
    assert path_of(uri_of(strange)) == strange
    plain = tmp_path / "%FF.mp4"
    plain.write_bytes(b"x")
    assert path_of(uri_of(plain)) == plain
    clash = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    clash.write_bytes(b"y")
    with pytest.raises(UsageError, match="Two files would both be called") as caught:
        uri_of(clash)
    assert caught.value.hint == "Rename one of them."


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "There is no file or folder"), ("*.mp4", "matches no file")],
)
def test_a_name_that_is_nothing_is_a_usage_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_inputs([str(tmp_path / name)])


def test_a_probed_row_has_every_column_and_the_caption(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", num_frames=20, fps=10)
    (tmp_path / "a.txt").write_text("folds a shirt\n")
    empty = touch(tmp_path / "b.mp4")
    empty.write_bytes(b"")
    task = ProbeTask(uris=(str(video), str(empty)), source="lab", embodiment="human")
    good, bad = probe_inputs(task)
    table = checked_table([good, bad], VIDEOS, table="videos", required=("uri", "num_bytes"))
    assert table.num_rows == 2
    assert good["state"] == "readable"
    assert good["video_id"] == video_id_of(video)
    assert (good["num_frames_declared"], good["duration_s"]) == (20, 2.0)
    assert (good["source"], good["embodiment"], good["text"]) == ("lab", "human", "folds a shirt")
    assert (bad["state"], bad["reason"], bad["num_bytes"]) == ("unreadable", "empty", 0)


def test_a_file_that_vanished_is_unreadable_not_an_exception(tmp_path: Path) -> None:
    task = ProbeTask(uris=(str(tmp_path / "gone.mp4"),), source="s", embodiment="e")
    (row,) = probe_inputs(task)
    assert (row["state"], row["reason"]) == ("unreadable", "not_accessible")


def test_a_file_whose_probe_died_still_has_its_identity(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.mp4")
    row = crashed_row(str(path), source="s", embodiment="e", error="its process was killed")
    assert (row["state"], row["reason"], row["num_bytes"]) == ("unreadable", "probe_died", 1)
    assert row["video_id"] == video_id_of(path)


def test_a_changed_size_is_noticed(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.mp4")
    assert size_of(str(path)) in (None, 1)
    assert size_of(str(path)) not in (None, 2)
    path.unlink()
    assert size_of(str(path)) in (None, 1)


def test_pipes_and_devices_are_no_videos_and_are_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    uris = find_inputs([str(tmp_path)]).uris
    for row in probe_inputs(ProbeTask(uris=uris, source="s", embodiment="e")):
        assert (row["state"], row["reason"]) == ("unreadable", "not_video")
        assert "is not a regular file" in row["detail"]


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = touch(tmp_path / "a.mp4")
    shut = touch(tmp_path / "shut" / "b.mp4").parent
    scandir = os.scandir

    def refuses(folder: str) -> object:
        if folder == str(shut):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuses)
    assert find_inputs([str(tmp_path)]).uris == (str(good),)
    assert f"{shut} cannot be read (Permission denied): no input" in caplog.text
    with pytest.raises(UsageError, match="shut' cannot be read: Permission denied"):
        find_inputs([str(shut)])


def test_a_file_that_is_gone_has_no_size(tmp_path: Path) -> None:
    assert size_of(str(touch(tmp_path / "a.mp4"))) == 1
    assert size_of(str(tmp_path / "gone.mp4")) is None
