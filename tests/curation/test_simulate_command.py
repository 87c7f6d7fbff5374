"""`egodojo simulate` as a user meets it: files, reruns, messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.errors import VideoError
from pipeline.video import probe

SMALL = ("--size", "64x48", "--fps", 10, "--seconds", 1)


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """Two bodies, two motions, faulty files: made once."""
    from curation.simulation.cli import simulate
    from manifests.cli_support import run

    out = tmp_path_factory.mktemp("some footage")
    args = ["--out", out, *SMALL, "--embodiment", "sim_arm7", "--embodiment", "sim_human"]
    args += ["--primitives", "push,lift", "--episodes", 2, "--faults", "--quiet"]
    assert run(simulate, [str(a) for a in args]) == 0
    return out


def test_files_lie_beside_each_video(footage: Path):
    names = {path.name for path in footage.iterdir()}
    stems = [f"{b}-0-{p}" for b in ("sim_arm7", "sim_human") for p in ("push", "lift")]
    suffixes = ("mp4", "actions.parquet", "truth.parquet", "episode.json", "txt")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in suffixes} | {"faulty"}
    assert "robot arm lifts" in (footage / "sim_arm7-0-lift.txt").read_text()


def test_rows_belong_to_frames(footage: Path):
    stem = footage / "sim_human-0-lift"
    facts = probe(f"{stem}.mp4")
    actions = pq.read_table(f"{stem}.actions.parquet")
    truth = pq.read_table(f"{stem}.truth.parquet")
    assert (facts.width, facts.height, facts.num_packets) == (64, 48, 10)
    for table in (actions, truth):
        np.testing.assert_allclose(table["time_s"], np.arange(10) / 10)
    assert set(truth["primitive"].to_pylist()) == {"lift"}
    wanted = {"hand_x_m", "hand_qw", "aperture_m", "object0_z_m", "camera_x_m", "camera_qz"}
    assert wanted <= set(truth.column_names)
    height = truth["object0_z_m"].to_numpy()
    assert height[-1] - height[0] > 0.12


def test_same_seed_same_bytes_and_other_seeds_differ(footage: Path, tmp_path: Path, cli):
    args = ("--embodiment", "sim_arm7", "--primitives", "push", "--episodes", 1, "--quiet")
    assert cli("simulate", "--out", tmp_path, *SMALL, *args).exit_code == 0
    assert cli("simulate", "--out", tmp_path, *SMALL, *args, "--seed", 5).exit_code == 0
    for path in tmp_path.glob("sim_arm7-0-push.*"):
        assert path.read_bytes() == (footage / path.name).read_bytes(), path.name
    other = (tmp_path / "sim_arm7-5-push.mp4").read_bytes()
    assert other != (tmp_path / "sim_arm7-0-push.mp4").read_bytes()


def test_rerun_films_only_what_is_missing(tmp_path: Path, cli):
    args = ("simulate", "--out", tmp_path, *SMALL, "--embodiment", "sim_arm6", "--episodes", 2)
    first = json.loads(cli(*args, "--json").stdout)
    assert (first["num_episodes"], first["num_new"], first["num_frames"]) == (2, 2, 20)
    (tmp_path / "sim_arm6-0-reach_left.mp4").unlink()
    again = json.loads(cli(*args, "--json").stdout)
    assert (again["num_episodes"], again["num_new"]) == (2, 1)
    assert (tmp_path / "sim_arm6-0-reach_left.mp4").exists()


def test_an_episode_of_other_settings_is_not_filmed_over(tmp_path: Path, cli):
    args = ("simulate", "--out", tmp_path, "--size", "64x48", "--seconds", 1, "--quiet")
    args += ("--embodiment", "sim_arm6", "--episodes", 2)
    assert cli(*args, "--fps", 10).exit_code == 0
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused = cli(*args, "--fps", 5, "--no-shadows")
    assert refused.exit_code == 2
    assert "holds the episode sim_arm6-0-reach_left filmed with fps 10.0, not 5.0, shadows True, " \
        "not False, and 1 others." in refused.stderr  # fmt: skip
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    other_seed = cli(*args, "--fps", 5, "--seed", 1)
    assert other_seed.exit_code == 0
    assert files.keys() < set(tmp_path.iterdir())


def test_faulty_files_are_as_faulty_as_they_say(footage: Path):
    reasons = {}
    for path in (footage / "faulty").iterdir():
        try:
            probe(path)
            reasons[path.stem] = ""
        except VideoError as error:
            reasons[path.stem] = error.reason
    assert reasons == {
        "truncated": "no_index",
        "empty": "empty",
        "text": "not_video",
        "frozen": "",
        "black": "",
        "too_short": "",
        "duplicate": "",
    }


def test_dry_run_writes_nothing(tmp_path: Path, cli):
    result = cli("simulate", "--out", tmp_path / "new", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert plan["num_episodes"] == 78
    assert plan["episodes"][0].startswith("sim_human-0-reach_left")
    assert not (tmp_path / "new").exists()


def test_help_shows_an_example(cli):
    result = cli("simulate", "--help")
    assert result.exit_code == 0
    assert "egodojo simulate --out footage" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--embodiment", "sim_humann"),
            "Unknown embodiment 'sim_humann'. Did you mean 'sim_human'",
        ),
        (("--primitives", "lifft"), "Unknown primitive 'lifft'. Did you mean 'lift'"),
        (("--size", "²x²"), "is not of the form WIDTHxHEIGHT"),
        (("--size", "big"), "--size 'big' is not of the form WIDTHxHEIGHT"),
        (("--size", "321x240"), "The width of 321 pixels cannot be filmed"),
        (("--size", "320x2"), "The height of 2 pixels cannot be filmed"),
        (("--fps", 0), "0 frames per second is out of range"),
        (("--seconds", 0.1), "An episode of 0.1 s is out of range"),
        (("--episodes", 0), "There must be at least one episode"),
        (("--workers", 0), "--workers is 0, must be at least 1"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(args, message, tmp_path: Path, cli):
    result = cli("simulate", "--out", tmp_path / "new", *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "new").exists()


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, cli):
    (tmp_path / "file").write_text("in the way")
    result = cli("simulate", "--out", tmp_path / "file", *SMALL, "--episodes", 1)
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_faults_need_a_video(tmp_path: Path):
    from curation.simulation.faults import write_faults
    from manifests.errors import UsageError

    with pytest.raises(UsageError, match="holds no video"):
        write_faults(tmp_path)


def test_motion_that_fails_in_every_scene_is_reported(tmp_path: Path, cli, monkeypatch):
    from curation.simulation import outcomes

    monkeypatch.setattr(outcomes, "RISE_M", 9.0)
    args = ("--embodiment", "sim_arm7", "--primitives", "lift", "--episodes", 1, "--json")
    result = cli("simulate", "--out", tmp_path, *SMALL, *args)
    assert result.exit_code == 3
    assert "1 of 1 episodes could not be filmed" in result.stderr
    failed = json.loads(result.stdout)["failed"]
    assert "the motion failed in 8 scenes" in failed[0]["error"]


@pytest.mark.ray
def test_ray_gives_the_same_files_as_inline(footage: Path, tmp_path: Path, cli, ray_session):
    args = ("--embodiment", "sim_human", "--primitives", "push,lift", "--episodes", 2)
    assert cli("simulate", "--out", tmp_path, *SMALL, *args, "--workers", 2).exit_code == 0
    files = sorted(tmp_path.glob("sim_human*"))
    assert len(files) == 10
    for path in files:
        assert path.read_bytes() == (footage / path.name).read_bytes(), path.name
