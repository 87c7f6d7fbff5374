"""`egodojo curate` from end to end on small footage: fates, files, refusals, repeats."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from footage import SETTINGS, SMALL, dataset_contents

from curation import ingest
from curation.ingest import ProbeTask
from curation.run_record import LogFile
from curation.units import UnitRun
from manifests.dataset import Dataset
from manifests.errors import StorageError
from manifests.records import clip_id_of
from manifests.validate import validate
from pipeline.clips import ClipReader
from pipeline.outcome import Outcome
from pipeline.shards import ShardWriter
from pipeline.testing import make_video, read_barcode

Cli = Callable[..., SimpleNamespace]
SETS = tuple(part for item in SETTINGS for part in ("--set", item))


@pytest.fixture(scope="module")
def curated(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The footage, curated inline, once."""
    from curation.curate import CurateRequest, curate, prepare

    out = tmp_path_factory.mktemp("out") / "data set"
    request = CurateRequest(
        inputs=(str(footage),), out=out, sets=SETTINGS, engine="inline", quiet=True
    )
    report = curate(prepare(request))
    report.check()
    return out


def states(path: Path) -> dict[str, tuple[str, str | None]]:
    rows = Dataset.open(path).sql("SELECT uri, state, reason FROM files").to_pylist()
    return {Path(row["uri"]).name: (row["state"], row["reason"]) for row in rows}


def test_every_input_has_the_fate_it_deserves(curated: Path) -> None:
    assert states(curated) == {
        "a pan.mp4": ("processed", None),
        "b long.mp4": ("processed", None),
        "c black.mp4": ("no_clips", "black"),
        "d frozen.mp4": ("no_clips", "frozen"),
        "e short.mp4": ("no_clips", "too_short"),
        "f static.mp4": ("processed", "static"),
        "g vfr.mkv": ("processed", None),
        "h copy.mp4": ("duplicate", "duplicate"),
        "i text.mp4": ("unreadable", "not_video"),
        "j empty.mp4": ("unreadable", "empty"),
    }


def test_the_dataset_is_valid(curated: Path) -> None:
    assert validate(Dataset.open(curated)) == []


def test_clips_of_a_video_cover_it_exactly_and_name_why_they_end(curated: Path) -> None:
    dataset = Dataset.open(curated)
    rows = dataset.sql(
        "SELECT * FROM clips WHERE uri LIKE '%b long.mp4' ORDER BY start_tick"
    ).to_pylist()
    assert [row["ends_at"] for row in rows] == ["unit", "unit", "end"]
    assert sum(row["num_frames"] for row in rows) == 105
    assert rows[0]["start_s"] == 0.0
    for before, after in itertools.pairwise(rows):
        assert before["end_tick"] == after["start_tick"]
    for row in rows:
        assert row["clip_id"] == clip_id_of(
            row["video_id"], row["start_tick"], row["end_tick"], row["time_base"]
        )
    assert [len(unit["parts"]) for unit in dataset.table("units").to_pylist()].count(1) >= 3


def test_written_frames_are_the_sources_frames_one_to_one(curated: Path) -> None:
    rows = Dataset.open(curated).sql(
        "SELECT * FROM clips WHERE uri LIKE '%b long.mp4' ORDER BY start_tick"
    )
    reader = ClipReader(curated)
    numbers = [
        read_barcode(frame)
        for row in rows.to_pylist()
        for frame in reader.frames(row["shard"], row["clip_id"], range(row["num_frames"]))
    ]
    assert numbers == list(range(105))


def test_tar_members_are_plain_and_carry_the_facts(curated: Path) -> None:
    dataset = Dataset.open(curated)
    row = dataset.sql("SELECT * FROM clips WHERE uri LIKE '%a pan.mp4'").to_pylist()[0]
    assert row["text"] == "wipes a table"
    with tarfile.open(curated / "shards" / f"{row['shard']}.tar") as tar:
        names = tar.getnames()
        file = tar.extractfile(f"{row['clip_id']}.json")
        assert file is not None
        facts = json.loads(file.read())
        assert all((info.mtime, info.uid, info.gid) == (0, 0, 0) for info in tar)
    assert f"{row['clip_id']}.mp4" in names
    same = ("clip_id", "video_id", "start_s", "end_s", "num_frames", "fps", "text", "shard")
    assert {name: facts[name] for name in same} == {name: row[name] for name in same}
    assert facts["brightness_mean_luma"] == row["brightness_mean_luma"]


def test_the_record_says_when_and_where_each_unit_was_worked_on(curated: Path) -> None:
    (lines,) = curated.glob("runs/*/units.jsonl")
    rows = [json.loads(line) for line in lines.read_text(encoding="ascii").splitlines()]
    units = Dataset.open(curated).table("units").to_pylist()
    assert sorted(row["number"] for row in rows) == sorted(unit["number"] for unit in units)
    assert sum(row["num_clips"] for row in rows) == Dataset.open(curated).table("clips").num_rows
    assert all(row["seconds"] > 0 and row["started_at"] > 1.7e9 for row in rows)
    assert {row["worker"].rpartition(":")[2] for row in rows} == {str(os.getpid())}


def test_a_rerun_does_nothing_and_changes_nothing(curated: Path, footage: Path, cli: Cli) -> None:
    before = dataset_contents(curated)
    result = cli("curate", footage, "--out", curated, "--inline", "--json", *SETS)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["num_units"] == 0
    assert report["inputs"]["num_inputs"] == 10
    assert sum(report["inputs"]["by_state"].values()) == 10
    assert report["inputs"]["num_ignored"] == 1
    assert Path(report["preview"]).is_file()
    assert {p.name for p in Path(report["run"]).iterdir()} == {
        "command.json",
        "config.resolved.yaml",
        "log.txt",
        "recipe.yaml",
        "summary.json",
    }
    assert dataset_contents(curated) == before


def test_other_settings_on_an_existing_dataset_are_refused(
    curated: Path, footage: Path, cli: Cli
) -> None:
    result = cli("curate", footage, "--out", curated, "--inline", "--set", "encode.crf=30")
    assert result.exit_code == 2
    assert "was made with encode" in result.stderr
    assert "--out" in result.stderr
    gates = cli("curate", footage, "--out", curated, "--set", "gates.black=true", "--inline")
    assert gates.exit_code == 2
    assert "was made with gates" in gates.stderr


def test_settings_of_an_existing_dataset_need_not_be_repeated(
    curated: Path, footage: Path, cli: Cli
) -> None:
    result = cli("curate", footage, "--out", curated, "--inline", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["config"]["encode"]["width"] == 160


def test_a_second_curate_is_refused_while_one_writes_and_readers_go_on(
    curated: Path, footage: Path, cli: Cli
) -> None:
    with Dataset.open(curated).writer("egodojo curate the first"):
        result = cli("curate", footage, "--out", curated, "--inline", *SETS)
        assert result.exit_code == 1
        assert "is being written by `egodojo curate the first`" in result.stderr
        assert states(curated)["a pan.mp4"] == ("processed", None)
        assert cli("decide", curated, "--recipe", "permissive").exit_code == 0


def test_decide_keeps_and_drops_again_without_decoding(curated: Path, cli: Cli) -> None:
    kept = json.loads(cli("decide", curated, "--recipe", "permissive", "--json").stdout)
    assert "static" not in kept["reasons"]
    back = json.loads(cli("decide", curated, "--recipe", "egocentric", "--json").stdout)
    assert back["reasons"]["static"] == 1
    assert back["num_kept"] == kept["num_kept"] - 1
    text = cli("decide", curated, "--recipe", "egocentric").stdout
    assert "clips kept" in text
    tried = cli("decide", curated, "--recipe", "permissive", "--dry-run").stdout
    assert "1 gained" in tried
    assert tried.endswith("Nothing was written.\n")
    assert Dataset.open(curated).metadata("decisions")["recipe"] == "egocentric"


def test_a_wrong_predicate_is_bad_usage_and_names_the_rule(curated: Path, cli: Cli) -> None:
    wrong = cli("decide", curated, "--recipe", "egocentric", "--set", "keep.odd=count(*) > 3")
    assert wrong.exit_code == 2
    assert "Rule odd cannot be evaluated" in wrong.stderr


def test_a_dry_run_says_what_it_would_do_and_makes_nothing(
    footage: Path, tmp_path: Path, cli: Cli
) -> None:
    result = cli("curate", footage, "--out", tmp_path / "new", "--dry-run")
    assert result.exit_code == 0
    assert "10 inputs, 10 of them new" in result.stdout
    assert "Nothing was written." in result.stdout
    assert not (tmp_path / "new").exists()


def test_new_inputs_are_added_and_numbers_go_on(tmp_path: Path, cli: Cli) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for folder, seed in ((first, 0), (second, 5)):
        folder.mkdir()
        make_video(folder / "v.mp4", num_frames=20, seed=seed, **SMALL)
    out = tmp_path / "ds"
    assert cli("curate", first, "--out", out, "--inline", "--source", "lab", *SETS).exit_code == 0
    assert cli("curate", second, "--out", out, "--inline", *SETS).exit_code == 0
    dataset = Dataset.open(out)
    assert sorted(row["number"] for row in dataset.table("plan").to_pylist()) == [0, 1]
    assert sorted(dataset.table("videos").column("source").to_pylist()) == ["ds", "lab"]


def test_a_changed_input_is_reported_and_not_read_again(tmp_path: Path, cli: Cli) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20, **SMALL)
    other = make_video(tmp_path / "w.mp4", num_frames=20, seed=3, **SMALL)
    out = tmp_path / "ds"
    assert cli("curate", video, other, "--out", out, "--inline", *SETS).exit_code == 0
    make_video(video, num_frames=40, seed=9, **SMALL)
    result = cli("curate", video, other, "--out", out, "--inline", "--json", *SETS)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["inputs"]["changed"] == [str(video)]
    assert Dataset.open(out).table("videos").num_rows == 2


@pytest.mark.slow
def test_an_input_that_could_not_be_reached_is_tried_again(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that was away is no property of the file, nor is its return a change of it."""
    make_video(tmp_path / "in.mp4", num_frames=20, **SMALL)
    make_video(tmp_path / "other.mp4", num_frames=20, seed=3, **SMALL)
    out, real = tmp_path / "ds", ingest.video_id_of

    def away(path: Path) -> str:
        if path.name == "in.mp4":
            raise PermissionError(13, "Permission denied")
        return real(path)

    args = ("curate", tmp_path / "in.mp4", tmp_path / "other.mp4", "--out", out, "--inline", *SETS)
    monkeypatch.setattr(ingest, "video_id_of", away)
    for _ in range(2):
        assert cli(*args).exit_code == 0
        assert states(out)["in.mp4"] == ("unreadable", "not_accessible")
    version = Dataset.open(out).versions["videos"]
    monkeypatch.setattr(ingest, "video_id_of", real)
    result = cli(*args, "--json")
    assert json.loads(result.stdout)["inputs"]["changed"] == []
    assert states(out) == {"in.mp4": ("processed", None), "other.mp4": ("processed", None)}
    dataset = Dataset.open(out)
    assert dataset.table("videos").num_rows == 2
    assert dataset.versions["videos"] == version + 1
    assert validate(dataset) == []


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        (["text.mp4"], 1, "None of the 1 inputs could be read."),
        (["notes"], 1, "No video was found in"),
        (["nothing.mp4"], 2, "There is no file or folder"),
    ],
)
def test_runs_without_a_readable_video_fail(
    tmp_path: Path, cli: Cli, names: list[str], code: int, message: str
) -> None:
    (tmp_path / "text.mp4").write_text("x")
    (tmp_path / "notes").mkdir()
    paths = [tmp_path / name for name in names]
    result = cli("curate", *paths, "--out", tmp_path / "ds", "--inline", "--quiet")
    assert result.exit_code == code
    assert message in result.stderr


def test_wrong_settings_and_names_are_refused_before_any_work(tmp_path: Path, cli: Cli) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20, **SMALL)
    cases = [
        (["--set", "clip_length=3"], "unknown key 'clip_length'"),
        (["--set", "failure_budget_ratio=7"], "failure_budget_ratio is 7.0"),
        (["--set", "slots=0"], "slots is 0, must be at least 1"),
        (["--set", "attempts=0"], "attempts is 0, must be at least 1"),
        (["--set", "timeout_s=0"], "timeout_s is 0.0, must be above 0"),
        (["--set", "cpus_per_unit=-1"], "cpus_per_unit is -1.0, must not be negative"),
        (["--set", "clip_len_s=.nan"], "clip_len_s is nan"),
        (["--set", "unit_len_s=.inf"], "unit_len_s is inf"),
        (["--set", "encode.max_fps=.inf"], "encode.max_fps is inf"),
        (["--set", "encode.preset=veryfsat"], "encode.preset is 'veryfsat'"),
        (["--recipe", "egocentrik"], "There is no recipe 'egocentrik'"),
        (["--set", "keep.dark=brightnes > 3"], "Rule dark cannot be evaluated"),
        (["--embodiment", "humann"], "no embodiment called 'humann'"),
    ]
    for arguments, message in cases:
        result = cli("curate", video, "--out", tmp_path / "ds", "--inline", *arguments)
        assert result.exit_code == 2, message
        assert message in result.stderr
    assert not (tmp_path / "ds").exists()


def body_file(tmp_path: Path) -> Path:
    body = tmp_path / "arm.yaml"
    body.write_text("name: arm\naction_names: [grip, x]\naction_units: [ratio, m]\n")
    return body


def write_actions(video: Path, times_s: np.ndarray) -> None:
    table = pa.table({"time_s": times_s, "x": times_s * 2, "grip": times_s * 0 + 1})
    pq.write_table(table, video.with_name(video.stem + ".actions.parquet"))


def test_recorded_actions_become_a_row_per_frame(tmp_path: Path, cli: Cli) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=75, **SMALL)
    write_actions(video, np.arange(75) / 15)
    body = body_file(tmp_path)
    out = tmp_path / "ds"
    refused = cli("curate", video, "--out", out, "--inline")
    assert refused.exit_code == 2
    assert "no embodiment says what its columns are" in refused.stderr
    result = cli("curate", video, "--out", out, "--inline", "--embodiment", body, *SETS)
    assert result.exit_code == 0, result.stderr
    reader = ClipReader(out)
    for row in Dataset.open(out).sql("SELECT * FROM clips ORDER BY start_s").to_pylist():
        assert row["embodiment"] == "arm"
        data = reader.member(row["shard"], row["clip_id"], "actions.npy")
        actions = np.load(io.BytesIO(data))
        assert (actions.dtype, actions.shape) == (np.float32, (row["num_frames"], 2))
        times = row["start_s"] + np.arange(row["num_frames"]) / 15
        np.testing.assert_allclose(actions[:, 1], times * 2, atol=1e-5)


@pytest.mark.slow
def test_a_failing_video_is_recorded_and_its_unit_goes_on(tmp_path: Path, cli: Cli) -> None:
    good = make_video(tmp_path / "a.mp4", num_frames=20, **SMALL)
    bad = make_video(tmp_path / "b.mp4", num_frames=20, seed=4, **SMALL)
    late = make_video(tmp_path / "c.mp4", num_frames=20, seed=5, **SMALL)
    write_actions(bad, np.arange(5) / 15)
    arguments = ["--inline", "--embodiment", body_file(tmp_path), "--set", "unit_len_s=60"]
    arguments += ["--set", "encode.width=160", "--set", "encode.height=120"]
    out = tmp_path / "ds"
    result = cli("curate", good, bad, late, "--out", out, *arguments)
    assert result.exit_code == 0, "one failure is within the budget"
    assert states(out)["b.mp4"] == ("failed", "actions")
    assert {states(out)[name][0] for name in ("a.mp4", "c.mp4")} == {"processed"}
    assert validate(Dataset.open(out)) == []
    worse = make_video(tmp_path / "d.mp4", num_frames=20, seed=6, **SMALL)
    write_actions(worse, np.arange(5) / 15)
    over = cli("curate", good, bad, late, worse, "--out", out, *arguments)
    assert over.exit_code == 3
    assert "2 of 4 inputs failed; the budget allows 1" in over.stderr


def test_a_caption_that_cannot_be_read_costs_the_text_and_not_the_video(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20, **SMALL)

    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("curation.sources.record.read_caption", refused)
    out = tmp_path / "ds"
    assert cli("curate", video, "--out", out, "--inline", *SETS).exit_code == 0
    (row,) = Dataset.open(out).sql("SELECT state, detail FROM files").to_pylist()
    assert row["state"] == "processed"
    assert "v.mp4 cannot be read: Permission denied." in row["detail"]
    (clip,) = Dataset.open(out).sql("SELECT text, gate FROM clips").to_pylist()
    assert clip == {"text": None, "gate": None}


def test_spans_decide_where_clips_are(tmp_path: Path, cli: Cli) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=75, **SMALL)
    (tmp_path / "v.spans.csv").write_text("start_s,end_s,text\n1,3,pour\n1,3,tilt\n2,4,\n")
    (tmp_path / "v.txt").write_text("make tea")
    out = tmp_path / "ds"
    result = cli("curate", video, "--out", out, "--inline", "--set", "unit_len_s=60")
    assert result.exit_code == 0, result.stderr
    rows = Dataset.open(out).sql("SELECT * FROM clips ORDER BY start_s").to_pylist()
    assert [(row["start_s"], row["end_s"], row["gate"], row["text"]) for row in rows] == [
        (0.0, 1.0, "no_span", "make tea"),
        (1.0, 3.0, None, "pour\ntilt"),
        (3.0, 4.0, None, "make tea"),
        (4.0, 5.0, "no_span", "make tea"),
    ]
    assert [row["ends_at"] for row in rows] == ["span", "span", "span", "end"]


def test_max_fps_thins_frames_by_their_times(tmp_path: Path, cli: Cli) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=120, width=160, height=120, fps=30)
    out = tmp_path / "ds"
    sets = ["--set", "encode.max_fps=10", "--set", "encode.width=160", "--set", "encode.height=120"]
    assert cli("curate", video, "--out", out, "--inline", *sets).exit_code == 0
    (row,) = Dataset.open(out).sql("SELECT * FROM clips").to_pylist()
    assert (row["num_frames"], row["fps"], row["end_s"]) == (40, 10.0, 4.0)
    frames = ClipReader(out).frames(row["shard"], row["clip_id"], range(40))
    numbers = np.array([read_barcode(frame) for frame in frames])
    assert (np.diff(numbers) == 3).sum() >= 38


def test_help_and_usage(cli: Cli) -> None:
    for command in ("curate", "decide"):
        result = cli(command, "--help")
        assert result.exit_code == 0
        assert f"Example: egodojo {command} " in result.stdout
    assert cli("curate", "--out", "x").exit_code == 2


def test_an_interrupted_run_leaves_no_lock_and_goes_on(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20, **SMALL)
    out = tmp_path / "ds"

    def interrupted(run: UnitRun) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("curation.curate.finish_units", interrupted)
        result = cli("curate", video, "--out", out, "--inline", *SETS)
    assert result.exit_code == 130
    assert "rerun the same command to go on" in result.stderr
    assert not (out / "runs" / "LOCK").exists()
    assert cli("curate", video, "--out", out, "--inline", *SETS).exit_code == 0
    assert states(out) == {"v.mp4": ("processed", None)}


def test_a_file_that_kills_the_probe_is_unreadable_and_the_others_go_on(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("good.mp4", "deadly.mp4")):
        make_video(tmp_path / name, num_frames=20, seed=seed, **SMALL)

    def died(work: Any, tasks: Iterable[Any], **options: Any) -> Iterator[Outcome[Any]]:
        for task in tasks:
            if isinstance(task, ProbeTask):
                yield Outcome(unit=task, kind="died", error="its process died")
            else:
                yield Outcome(unit=task, result=work(task))

    def alone(work: Any, task: ProbeTask, timeout_s: float) -> Outcome[ProbeTask]:
        if task.uris[0].endswith("deadly.mp4"):
            return Outcome(unit=task, kind="died", error="its process was killed by SIGSEGV")
        return Outcome(unit=task, result=work(task))

    monkeypatch.setattr("curation.curate.run_units", died)
    monkeypatch.setattr("curation.curate.run_isolated", alone)
    out = tmp_path / "ds"
    assert cli("curate", tmp_path, "--out", out, "--inline", *SETS).exit_code == 0
    assert states(out) == {
        "deadly.mp4": ("unreadable", "probe_died"),
        "good.mp4": ("processed", None),
    }


def test_a_dry_run_looks_at_the_folder_and_bears_broken_links(tmp_path: Path, cli: Cli) -> None:
    videos = tmp_path / "in"
    videos.mkdir()
    (videos / "link.mp4").symlink_to(tmp_path / "nowhere")
    fine = cli("curate", videos, "--out", tmp_path / "ds", "--dry-run")
    assert fine.exit_code == 0, fine.stderr
    assert "1 inputs, 1 of them new (0.0 MB)" in fine.stdout
    taken = tmp_path / "taken"
    taken.write_text("x")
    refused = cli("curate", videos, "--out", taken, "--dry-run")
    assert refused.exit_code == 1
    assert "is a file, not a folder for a dataset" in refused.stderr


def test_a_command_line_of_any_bytes_is_recorded(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20, **SMALL)
    monkeypatch.setattr("sys.argv", ["egodojo", "curate", "v\udcff.mp4"])
    out = tmp_path / "ds"
    assert cli("curate", video, "--out", out, "--inline", *SETS).exit_code == 0
    (record,) = out.glob("runs/*/command.json")
    assert json.loads(record.read_text())["command"] == "egodojo curate v\udcff.mp4"


def test_a_full_disk_is_one_sentence_and_its_traceback_lies_in_the_log(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    video = make_video(tmp_path / "v.mp4", num_frames=20, **SMALL)
    out = tmp_path / "ds"

    def full(self: ShardWriter, *_: object) -> None:
        raise StorageError("clips-000000.tar cannot be written: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", full)
        result = cli("curate", video, "--out", out, "--inline", "--quiet", *SETS)
    assert result.exit_code == 1
    assert "1 of 1 units could not be finished (unit 0)" in result.stderr
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud
    assert not any("Traceback" in record.getMessage() for record in loud)
    (log,) = out.glob("runs/*/log.txt")
    assert "Traceback" in log.read_text()
    assert cli("curate", video, "--out", out, "--inline", *SETS).exit_code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_stays_silent(capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile("/dev/full")
    log.handle(logging.LogRecord("work", logging.INFO, __file__, 1, "lost", None, None))
    with contextlib.suppress(OSError):
        log.close()
    assert capsys.readouterr().err == ""
