"""From a mixture file over real tables to a plan, its counts, and every refusal on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import yaml

from manifests.dataset import Dataset
from manifests.embodiment import load_embodiment
from manifests.errors import ConfigError, DatasetError, EgodojoError
from manifests.mixture import MixtureSpec, mixture_names
from manifests.mixture.plan import MixturePlan
from tests.mixture_helpers import FakeClip, make_catalogue, write_latents

Cli = Callable[..., SimpleNamespace]
MODEL = "lam-0123abcd"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets: people, a robot read every second frame, and a mixed bag."""
    root = tmp_path_factory.mktemp("data sets")
    make_catalogue(root / "lab", [FakeClip(num_frames=40 + n, shard=n // 2) for n in range(4)])
    robots = [FakeClip(num_frames=20 + 2 * n, embodiment="gr1", fps=20) for n in range(8)]
    make_catalogue(root / "robots", robots)
    mixed = [FakeClip(num_frames=13 + n, shard=n // 7) for n in range(20)]
    mixed += [FakeClip(num_frames=12), FakeClip(num_frames=300, verdict="drop")]
    make_catalogue(root / "mixed", mixed)
    for step in (1, 2):
        write_latents(Dataset.open(root / "lab"), MODEL, step)
    return root


def spec_file(root: Path, tmp_path: Path, **changes: object) -> Path:
    values: dict[str, object] = {
        "sources": {
            "lab": {"dataset": str(root / "lab"), "weight": 1},
            "robots": {"dataset": str(root / "robots"), "weight": 2},
            "mixed": {"dataset": str(root / "mixed"), "weight": 10},
        }
    }
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}, sort_keys=False))
    return path


def refusal(file: Path, *sets: str) -> EgodojoError:
    with pytest.raises(EgodojoError) as caught:
        MixtureSpec.load(file, sets=sets).plan()
    return caught.value


def test_counts_are_exact(made: Path, tmp_path: Path) -> None:
    plan = MixtureSpec.load(spec_file(made, tmp_path)).plan()
    lab, robots, mixed = plan.sources
    assert (lab.num_clips, robots.num_clips, mixed.num_clips) == (4, 5, 20)
    assert lab.num_windows == sum(40 + n - 12 for n in range(4))
    # GR-1 is read every second frame: 25 frames hold one window
    assert robots.num_windows == sum(20 + 2 * n - 24 for n in range(3, 8))
    assert robots.left_out == {"too_short": 3}
    assert mixed.left_out == {"too_short": 1}
    assert lab.hours == pytest.approx(sum(40 + n for n in range(4)) / 30 / 3600)
    assert mixed.versions == Dataset.open(made / "mixed").versions
    assert mixed.shards == ("clips-000000", "clips-000001", "clips-000002")
    source = plan.samples(0, 13).source
    assert np.bincount(source).tolist() == [1, 2, 10]
    datasets = {source.name: Dataset.open(source.dataset) for source in plan.sources}
    for index in range(26):
        sample = plan.sample(index)
        clip = datasets[sample.source].clip(sample.clip_id)
        assert sample.stride == (2 if sample.source == "robots" else 1)
        assert (clip.shard, clip.embodiment) == (sample.shard, sample.embodiment)
        assert sample.first_frame + 12 * sample.stride < clip.num_frames


def test_recorded_actions_need_the_row_before_the_window(made: Path, tmp_path: Path) -> None:
    body = load_embodiment("gr1")
    names = {name: list(getattr(body, name)) for name in ("action_names", "action_units")}
    described = {
        "name": "gr1",
        "stride": 2,
        "slot": {"start": 0, "stop": 29},
        "statistics": {"minimum": [-1] * 29, "maximum": [1] * 29},
        **names,
    }
    own = tmp_path / "gr1_own.yaml"
    own.write_text(yaml.safe_dump(described))
    file = spec_file(made, tmp_path)
    plan = MixtureSpec.load(file, sets=[f"sources.robots.embodiment={own}"]).plan()
    robots = plan.sources[1]
    assert robots.num_windows == sum(20 + 2 * n - 26 for n in range(4, 8))
    samples = plan.samples(0, 1300)
    assert samples.first_frame[samples.source == 1].min() == 2
    assert samples.first_frame[samples.source == 0].min() == 0


def test_predicates_and_scores_choose_clips(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made / "mixed", root)
    dataset = Dataset.open(root)
    clip_ids = dataset.clips.select("clip_id").to_arrow_table().column("clip_id").to_pylist()[:6]
    scored = pa.table({"clip_id": clip_ids, "hands_ratio": [0.1, 0.9, 0.9, 0.2, 0.9, 0.3]})
    dataset.append_score("hands", scored, metadata={"model": "test"})
    source = {"dataset": str(root), "weight": 1, "where": "hands.hands_ratio > 0.5"}
    plan = MixtureSpec.load(spec_file(made, tmp_path, sources={"mixed": source})).plan()
    assert plan.sources[0].num_clips + sum(plan.sources[0].left_out.values()) == 3
    assert "scores/hands" in plan.sources[0].versions
    source["where"] = "num_frames >= 30"
    plan = MixtureSpec.load(spec_file(made, tmp_path, sources={"mixed": source})).plan()
    assert plan.sources[0].num_clips == 3


def test_pinned_versions_give_the_same_plan_after_growth(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "growing"
    dataset = make_catalogue(root, [FakeClip(), FakeClip(shard=1)])
    source = {"dataset": str(root), "weight": 1}
    file = spec_file(made, tmp_path, sources={"one": source})
    before = MixtureSpec.load(file).plan()
    decided = dataset.table("decisions").to_pylist()
    decided[0]["verdict"] = "drop"
    decided[0]["reason"] = "dark"
    changed = pa.Table.from_pylist(decided, schema=dataset.table("decisions").schema)
    dataset.replace_decisions(changed, metadata={})
    assert MixtureSpec.load(file).plan().sources[0].num_clips == 1
    pinned = {**source, "versions": before.sources[0].versions}
    again = MixtureSpec.load(spec_file(made, tmp_path, sources={"one": pinned})).plan()
    assert again.digest == before.digest


def test_a_target_rate_becomes_a_stride_per_clip(made: Path, tmp_path: Path) -> None:
    file = spec_file(made, tmp_path)
    plan = MixtureSpec.load(file, sets=["window.target_fps=14"]).plan()
    samples = plan.samples(0, 260)
    assert set(samples.stride[samples.source == 0].tolist()) == {2}
    assert set(samples.stride[samples.source == 1].tolist()) == {1}
    fixed = MixtureSpec.load(file, sets=["window.stride=1", "sources.lab.stride=3"]).plan()
    samples = fixed.samples(0, 260)
    assert set(samples.stride[samples.source == 0].tolist()) == {3}
    assert set(samples.stride[samples.source == 1].tolist()) == {1}


def test_missing_latents_are_refused_with_the_command(made: Path, tmp_path: Path) -> None:
    lab = {"lab": {"dataset": str(made / "lab"), "weight": 1}}
    file = spec_file(made, tmp_path, sources=lab, latents=MODEL)
    assert MixtureSpec.load(file).plan().header.latents == MODEL
    assert MixtureSpec.load(file, sets=["window.stride=2"]).plan().sources[0].num_clips == 4
    error = refusal(file, "window.stride=3")
    assert f"no latents of {MODEL} at step 3" in error.message
    assert f"egodojo latents extract {made / 'lab'} --model MODEL --step 3" in str(error.hint)
    assert "no latents of other at step 1" in refusal(file, "latents=other").message


def test_clips_without_latents_are_counted(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "late"
    write_latents(make_catalogue(root, [FakeClip()]), MODEL, 1)
    shutil.rmtree(root / "catalog")
    shutil.rmtree(root / "shards")
    (root / "dataset.yaml").unlink()
    make_catalogue(root, [FakeClip(), FakeClip(), FakeClip(shard=1)])
    sources = {"late": {"dataset": str(root), "weight": 1}}
    error = refusal(spec_file(made, tmp_path, sources=sources, latents=MODEL))
    assert "2 of 3 clips" in error.message
    assert "egodojo latents extract" in str(error.hint)


def test_windows_off_the_latents_grid_are_refused(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "grid"
    write_latents(make_catalogue(root, [FakeClip(num_frames=90)]), MODEL, 4, every=4)
    sources = {"grid": {"dataset": str(root), "weight": 1, "stride": 4}}
    file = spec_file(made, tmp_path, sources=sources, latents=MODEL)
    error = refusal(file)
    assert "stored for every 4 frames" in error.message
    assert "Set window.start_step to a multiple of 4" in str(error.hint)
    write_latents(Dataset.open(root), MODEL, 6, every=4)
    error = refusal(file, "sources.grid.stride=6", "window.start_step=4")
    assert "leave that grid" in error.message
    assert "Remove" in str(error.hint)
    assert "start_step" not in str(error.hint)
    plan = MixtureSpec.load(file, sets=["window.start_step=8"]).plan()
    assert set((plan.samples(0, 50).first_frame % 8).tolist()) == {0}


def test_a_plan_of_a_removed_shard_is_refused(made: Path, tmp_path: Path, cli: Cli) -> None:
    root = tmp_path / "shrinking"
    make_catalogue(root, [FakeClip(), FakeClip(shard=1)])
    sources = {"one": {"dataset": str(root), "weight": 1}}
    plan = MixtureSpec.load(spec_file(made, tmp_path, sources=sources)).plan()
    plan.save(tmp_path / "plan")
    (root / "shards" / "clips-000001.tar").unlink()
    with pytest.raises(DatasetError, match=r"clips-000001\.tar, which is not there any more"):
        MixturePlan.open(tmp_path / "plan").check_files()
    found = cli("mixture", "check", tmp_path / "plan")
    assert found.exit_code == 1
    assert "plan the mixture again" in found.stderr


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["window.num_frames=12"], "must be 5, 9, 13"),
        (["window.frame_size=[480, 641]"], "multiples of 16"),
        (["window.frame_size=[480, 480]"], "would distort them"),
        (["window.stride=0"], "window.stride is 0"),
        (["window.stride=1", "window.target_fps=5"], "exclude each other"),
        (["window.target_fps=0"], "must be above 0"),
        (["window.start_step=0"], "window.start_step is 0"),
        (["shard_block=-1"], "shard_block is -1"),
        (["sources.lab.weight=0"], "is no number above zero"),
        (["sources.lab.stride=0"], "stride of a source is 0"),
        (["sources={}"], "at least one source"),
        (["unit=frame"], "must be one of clip, window"),
        (["sources.lab.wheight=3"], "unknown key 'sources.lab.wheight'"),
        (["sources.lab.where=num_frame > 3"], "the predicate 'num_frame > 3' failed"),
        (["sources.lab.where=num_frames > 9999"], "0 clips of"),
        (["window.stride=30"], "4 are too short"),
        (["sources.lab.embodiment=hooman"], "'hooman', which has no description"),
        (["sources.lab.dataset=/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    made: Path, tmp_path: Path, sets: list[str], message: str
) -> None:
    assert message in refusal(spec_file(made, tmp_path), *sets).message


def test_paths_count_from_the_mixture_file(made: Path) -> None:
    file = made / "here.yaml"
    file.write_text("sources: {lab: {dataset: lab, weight: 1}}")
    assert MixtureSpec.load(file).sources["lab"].dataset == str(made / "lab")


def test_the_published_mixture_is_shipped(made: Path) -> None:
    assert "dreamdojo_pretrain" in mixture_names()
    spec = MixtureSpec.load("dreamdojo_pretrain")
    assert [source.weight for source in spec.sources.values()] == [1, 2, 10]
    assert (spec.window.num_frames, spec.window.frame_size) == (13, (480, 640))
    with pytest.raises(ConfigError, match="no mixture called 'dreamdojo_pretain'") as caught:
        MixtureSpec.load("dreamdojo_pretain")
    assert "dreamdojo_pretrain" in str(caught.value.hint)


def test_plan_and_check_commands(made: Path, tmp_path: Path, cli: Cli) -> None:
    file, out = spec_file(made, tmp_path), tmp_path / "mixture.plan"
    planned = cli("mixture", "plan", file, "--out", out, "--samples", 1300, "--json")
    assert planned.exit_code == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert [source["samples"] for source in facts["sources"]] == [100, 200, 1000]
    assert [source["epochs"] for source in facts["sources"]] == [25, 40, 50]
    assert facts["digest"] == MixturePlan.open(out).digest
    table = cli("mixture", "plan", file, "--out", out).stdout
    assert "left out" in table
    assert str(out) in table
    checked = cli("mixture", "check", file)
    assert checked.exit_code == 0, checked.stderr
    assert "cycles hold their weights exactly" in checked.stdout
    assert json.loads(cli("mixture", "check", out, "--json").stdout)["checked"]["shards"] == 6
    other = cli("mixture", "plan", file, "--out", out, "--set", "seed=1")
    assert other.exit_code == 1
    assert "plans are never changed" in other.stderr


def test_plan_says_where_to_write(made: Path, tmp_path: Path, cli: Cli) -> None:
    file = spec_file(made, tmp_path)
    assert cli("mixture", "plan", file).exit_code == 2
    counted = cli("mixture", "plan", file, "--dry-run", "--out", tmp_path / "no")
    assert counted.exit_code == 0
    assert not (tmp_path / "no").exists()
    for command in ("plan", "check"):
        shown = cli("mixture", command, "--help")
        assert shown.exit_code == 0
        assert "Example: egodojo mixture" in " ".join(shown.stdout.split())
