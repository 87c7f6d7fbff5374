"""`egodojo score`: what it fills in, what it leaves alone, how it goes on and how it fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scorers_for_tests

from curation import scoring
from curation.scorers import base
from manifests.dataset import Dataset
from manifests.errors import EgodojoError
from manifests.shard_index import ShardIndex
from pipeline.outcome import Outcome, attempt

Cli = Callable[..., SimpleNamespace]
ROOT = Path(__file__).resolve().parents[3]
MINE = f"{ROOT / 'examples' / 'my_scorer.py'}:Daylight"
TEST_FILE = scorers_for_tests.__file__


def here(name: str) -> str:
    return f"{TEST_FILE}:{name}"


def rows(dataset: Path, table: str) -> list[str]:
    return sorted(map(repr, Dataset.open(dataset).table(f"scores/{table}").to_pylist()))


def shard_digests(dataset: Path) -> dict[str, str]:
    files = sorted((dataset / "shards").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def damage(dataset: Path, count: int) -> list[str]:
    """Flip a byte in the pictures of the first `count` clips."""
    query = "SELECT clip_id, shard FROM kept ORDER BY clip_id"
    chosen = Dataset.open(dataset).sql(query).to_pylist()[:count]
    for row in chosen:
        tar = dataset / "shards" / f"{row['shard']}.tar"
        index = ShardIndex.read(dataset / "shards" / f"{row['shard']}.idx.parquet")
        clip = index.row(row["clip_id"])
        at = clip.member("mp4").offset + clip.data_offset + 5
        data = bytearray(tar.read_bytes())
        data[at] ^= 0xFF
        tar.write_bytes(data)
    return [row["clip_id"] for row in chosen]


def test_a_scorer_of_the_users_own(dataset: Path, cli: Cli) -> None:
    before = shard_digests(dataset)
    done = cli("score", dataset, "--scorer", MINE, "--inline", "--json", "--set", "num_frames=2")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["num_scored"] == found["num_clips"] >= 6
    assert found["num_shards"] >= 3
    opened = Dataset.open(dataset)
    luma = opened.sql("SELECT daylight.mean_luma AS x, daylight.is_day AS y FROM kept").to_pylist()
    assert all(0 < row["x"] < 255 and row["y"] == (row["x"] >= 90) for row in luma)
    said = opened.metadata("scores/daylight")
    assert (said["scorer"], said["digest"]) == ("daylight", found["digest"])
    assert shard_digests(dataset) == before
    record = Path(found["run"])
    assert json.loads((record / "counts.json").read_text())["num_scored"] == found["num_scored"]

    again = cli("score", dataset, "--scorer", MINE, "--inline", "--set", "num_frames=2")
    assert again.exit_code == 0
    assert f"0 clips scored, {found['num_clips']} had a row" in again.stdout
    assert Dataset.open(dataset).versions["scores/daylight"] == opened.versions["scores/daylight"]


def test_versions_side_by_side_or_replaced(dataset: Path, cli: Cli) -> None:
    first = ("score", dataset, "--scorer", MINE, "--inline", "--quiet")
    assert cli(*first).exit_code == 0
    other = (*first, "--set", "day_luma=255")
    refused = cli(*other)
    assert refused.exit_code == 2
    assert "scores/daylight holds rows of" in refused.stderr
    assert "--name" in refused.stderr
    assert cli(*other, "--name", "daylight_0").exit_code == 0
    opened = Dataset.open(dataset)
    assert {"daylight", "daylight_0"} <= set(opened.scores)
    count = "count(*) FILTER"
    query = f"SELECT {count} (daylight.is_day) AS a, {count} (daylight_0.is_day) AS b FROM kept"
    counts = opened.sql(query).to_pylist()[0]
    assert counts["b"] == 0 < counts["a"]
    assert cli(*other, "--replace").exit_code == 0
    assert rows(dataset, "daylight") == rows(dataset, "daylight_0")


def test_rows_are_committed_on_the_way_and_replaced_once(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "COMMIT_EVERY_S", -1.0)  # after each shard
    for sets, replace in (((), False), (("num_frames=2",), True)):
        plan = scoring.plan_scoring(dataset, MINE, sets=sets, replace=replace)
        scoring.score(plan, engine="inline").check()
        opened = Dataset.open(dataset)
        assert opened.table("scores/daylight").num_rows == plan.num_clips
        assert opened.metadata("scores/daylight")["digest"] == plan.job.digest
    assert opened.versions["scores/daylight"] == 2 * plan.num_shards >= 6


def test_dry_run_all_and_help(dataset: Path, cli: Cli) -> None:
    decided = cli("decide", dataset, "--recipe", "permissive", "--set", "keep.late=start_s > 0.5")
    assert decided.exit_code == 0, decided.stderr
    kept, every = (
        json.loads(cli("score", dataset, "--scorer", MINE, *more, "--dry-run", "--json").stdout)
        for more in ((), ("--all",))
    )
    assert 0 < kept["num_to_score"] < every["num_to_score"] == every["num_clips"]
    assert not (dataset / "catalog" / "scores" / "daylight").exists()
    assert "Example: egodojo score" in cli("score", "--help").stdout


def test_interrupted_then_resumed_equals_uninterrupted(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    monkeypatch.setenv("STOP_FILE", str(stop))
    with pytest.raises(KeyboardInterrupt):
        scoring.score(scoring.plan_scoring(dataset, here("Interrupted")), engine="inline")
    after = Dataset.open(dataset).table("scores/plain").num_rows
    stop.unlink()
    plan = scoring.plan_scoring(dataset, here("Interrupted"))
    assert 0 < after == plan.num_clips - plan.clips.num_rows
    assert scoring.score(plan, engine="inline").num_present == after
    whole = scoring.plan_scoring(dataset, here("Plain"), table="whole")
    scoring.score(whole, engine="inline")
    assert rows(dataset, "plain") == rows(dataset, "whole")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_gives_what_inline_gives(dataset: Path) -> None:
    for engine, table in (("ray", "one"), ("inline", "two")):
        plan = scoring.plan_scoring(dataset, here("Plain"), table=table)
        scoring.score(plan, engine=engine).check()
    assert rows(dataset, "one") == rows(dataset, "two")


def test_damaged_clips_are_recorded_and_the_rest_is_scored(dataset: Path, cli: Cli) -> None:
    (bad,) = damage(dataset, 1)
    done = cli("score", dataset, "--scorer", MINE, "--inline", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["problems"]) == [bad]
    assert "do not match their checksum" in found["problems"][bad]
    assert found["num_scored"] == found["num_clips"] - 1
    lines = (Path(found["run"]) / "problems.jsonl").read_text().splitlines()
    assert [json.loads(line)["clip_id"] for line in lines] == [bad]
    query = "SELECT count(*) AS n FROM kept WHERE daylight.mean_luma IS NULL"
    assert Dataset.open(dataset).sql(query).column("n")[0].as_py() == 1


def test_too_much_damage_ends_with_code_3(dataset: Path, cli: Cli) -> None:
    damage(dataset, 2)
    done = cli("score", dataset, "--scorer", MINE, "--inline")
    assert done.exit_code == 3
    assert "2 of" in done.stderr
    assert "have no score; the budget allows 1" in done.stderr
    assert Dataset.open(dataset).table("scores/daylight").num_rows > 0


def dying_at(poison: Collection[str]) -> Callable[..., Iterator[Outcome[scoring.ScoreUnit]]]:
    """An engine whose worker dies of any unit that holds one of these clips."""

    def run(work: Any, units: Any, *, setup: Any, **_: Any) -> Iterator[Any]:
        state = setup()
        for unit in units:
            if {clip.clip_id for clip in unit.clips} & set(poison):
                yield Outcome(unit=unit, kind="died", error="its worker process died")
            else:
                yield attempt(partial(work, state, unit)).outcome(unit)

    return run


@pytest.fixture
def plan_of_pairs(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> scoring.ScorePlan:
    """A plan whose units have two clips each."""
    plan = scoring.plan_scoring(dataset, here("Plain"))
    clips = [clip for unit in plan.units() for clip in unit.clips]
    units = [
        scoring.ScoreUnit(shard=clips[n].shard, clips=tuple(clips[n : n + 2]))
        for n in range(0, len(clips) - 1, 2)
    ]
    monkeypatch.setattr(scoring.ScorePlan, "units", lambda self: iter(units))
    return plan


def test_a_clip_that_kills_its_worker_costs_itself_only(
    dataset: Path, plan_of_pairs: scoring.ScorePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, units = plan_of_pairs, list(plan_of_pairs.units())
    poison = units[0].clips[0].clip_id
    monkeypatch.setattr(scoring, "run_units", dying_at({poison}))
    found = scoring.score(plan, engine="inline")
    found.check()  # one clip is within the budget
    assert found.problems == {poison: "its worker process died"}
    num_clips = sum(len(unit.clips) for unit in units)
    assert (found.num_scored, found.num_shards) == (num_clips - 1, len(units))
    known = Dataset.open(dataset).table("scores/plain").column("clip_id").to_pylist()
    assert len(known) == num_clips - 1
    assert poison not in known


def test_workers_that_always_die_stop_the_run(
    plan_of_pairs: scoring.ScorePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [clip.clip_id for unit in plan_of_pairs.units() for clip in unit.clips]
    monkeypatch.setattr(scoring, "run_units", dying_at(every))
    with pytest.raises(EgodojoError, match="3 shards in a row were not scored; the last, clips-"):
        scoring.score(plan_of_pairs, engine="inline")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_real_workers_that_die_and_hang(dataset: Path, cli: Cli) -> None:
    done = cli("score", dataset, "--scorer", here("Deadly"), "--json", "--timeout-s", "20")
    assert done.exit_code == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["num_scored"] == found["num_clips"] - 2
    assert sorted(found["problems"].values()) == [
        "its worker process died (ActorDiedError)",
        "stopped after its time limit of 20 s",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [("NaN", "stored as NULL, never NaN"), ("Short", "lacks the column")],
)
def test_rows_that_do_not_fit_stop_the_run(dataset: Path, cli: Cli, name: str, words: str) -> None:
    done = cli("score", dataset, "--scorer", here(name), "--inline")
    assert done.exit_code == 1
    assert "3 shards in a row were not scored" in done.stderr
    assert words in done.stderr
    assert not (dataset / "catalog" / "scores" / "plain").exists()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("embeding", "There is no scorer 'embeding'."),
        ("no.such.module:X", "cannot be imported"),
        ("nowhere/file.py:X", "is not a file"),
        (here("Plaim"), "has no 'Plaim'"),
        (here("NoScorer"), "is no scorer: it has no 'digest'"),
        (here("WrongType"), "column num has the type 'float', must be one of string"),
    ],
)
def test_what_is_no_scorer_is_refused(dataset: Path, cli: Cli, spec: str, words: str) -> None:
    done = cli("score", dataset, "--scorer", spec, "--inline")
    assert done.exit_code == 2, done.stderr
    assert words in done.stderr


def test_settings_are_checked_before_any_work(dataset: Path, cli: Cli) -> None:
    done = cli("score", dataset, "--scorer", MINE, "--set", "num_frame=2")
    assert done.exit_code == 2
    assert "unknown key 'num_frame'" in done.stderr
    assert "Did you mean 'num_frames'?" in done.stderr


def test_a_dataset_without_kept_clips(dataset: Path, cli: Cli) -> None:
    cli("decide", dataset, "--recipe", "permissive", "--set", "keep.none=start_s < 0")
    done = cli("score", dataset, "--scorer", MINE, "--inline")
    assert done.exit_code == 1
    assert "has no kept clip" in done.stderr


def test_a_worker_with_other_code_is_refused(dataset: Path) -> None:
    job = scoring.ScoreJob(
        dataset=dataset,
        spec=here("Plain"),
        sets=(),
        digest="0" * 64,
        resources=base.Resources(num_cpus=1, num_gpus=0),
    )
    with pytest.raises(EgodojoError, match=r"made the scorer .* with the digest"):
        scoring.load_worker(job)


def test_installed_scorers_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("daylight", MINE, base.ENTRY_POINT_GROUP)
    monkeypatch.setattr(
        base, "entry_points", lambda group: EntryPoints([point]).select(group=group)
    )
    assert base.build_scorer("daylight").name == "daylight"


def test_spread_frames_lie_in_the_middle_of_equal_parts() -> None:
    assert base.spread_indices(12, 3) == [2, 6, 10]
    assert base.spread_indices(2, 5) == [0, 1]
    assert base.spread_indices(300, 1) == [150]


def test_a_table_name_that_cannot_be_is_refused_before_any_work(dataset: Path, cli: Cli) -> None:
    done = cli("score", dataset, "--scorer", MINE, "--inline", "--name", "clips")
    assert done.exit_code == 1
    assert "A score table cannot be called 'clips'" in done.stderr
    assert not any((dataset / "runs").glob("*/counts.json"))


def test_a_relative_file_is_found_by_workers_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    assert base.absolute_spec("my_scorer.py:Daylight") == MINE
    assert base.absolute_spec("embedding") == "embedding"
    assert base.absolute_spec("some.module:X") == "some.module:X"
