"""From a dataset folder to a trained model, stored latents, an index and its answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from latent_actions.config import DataConfig, TrainConfig
from latent_actions.extract_run import extract_latents, load_worker, plan_extraction
from latent_actions.model import LatentActionModel
from latent_actions.retrieve import build_index, retrieve
from latent_actions.train import train
from latent_actions.windows import WindowConfig
from manifests.dataset import Dataset
from manifests.errors import ConfigError, DatasetError, EgodojoError, UsageError
from manifests.latents import LatentReader, list_latents
from manifests.settings import DatasetSettings
from pipeline.clips import ClipReader
from pipeline.training.loop import LoopConfig
from pipeline.training.metrics import read_metrics
from tests.latent_actions.datasets import Made, decide, make_dataset
from tests.latent_actions.helpers import SMALL, small_model

Cli = Callable[..., SimpleNamespace]
LENGTHS = (50, 30, 44, 3, 60, 26)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A dataset with latents at steps 1 and 4 and an index; tests must not change it."""
    folder = tmp_path_factory.mktemp("shared")
    made = make_dataset(folder / "data set #1", LENGTHS)
    small_model().save_pretrained(folder / "model")
    run_extract(made.path, folder / "model", steps=(1, 4))
    build_index(made.path, small_model().model_id, step=4, windows=WindowConfig(window_s=1.0))
    return made


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    small_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run_extract(dataset: Path, model: Path, **options: object) -> object:
    plan = plan_extraction(dataset, model, **options)  # type: ignore[arg-type]
    return extract_latents(plan, engine="inline")


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_latents_are_those_of_the_stored_frames(made: Made) -> None:
    model, reader = small_model(), ClipReader(made.path)
    stored = LatentReader.open(made.path, model.model_id, 4)
    row = Dataset.open(made.path).clip(made.clip_ids[2])
    frames = reader.frames(row.shard or "", row.clip_id, range(row.num_frames))
    expected = load_expected(model, frames)
    rows = stored.rows(row.clip_id)
    assert rows.shape == (40, 32)
    np.testing.assert_allclose(rows, expected, atol=2e-3, rtol=2e-3)


def load_expected(model: LatentActionModel, frames: np.ndarray) -> np.ndarray:
    from latent_actions.extract import Extractor

    return Extractor(model, batch_size=3).extract(frames, steps=(4,))[4]


def test_every_kept_clip_has_its_rows(made: Made) -> None:
    model_id = small_model().model_id
    assert list_latents(made.path) == [(model_id, 1), (model_id, 4)]
    for step in (1, 4):
        stored = LatentReader.open(made.path, model_id, step)
        counts = [len(stored.rows(clip_id)) for clip_id in made.clip_ids]
        assert counts == [max(0, n - step) for n in LENGTHS]


def test_extracting_again_writes_nothing_and_new_clips_get_new_files(
    tmp_path: Path, model_path: Path
) -> None:
    made = make_dataset(tmp_path / "d", (20, 16, 18), dropped=[1])
    run_extract(made.path, model_path)
    before = digests(made.path / "latents")
    again = run_extract(made.path, model_path)
    assert (again.num_extracted, again.num_shards) == (0, 0)  # type: ignore[attr-defined]
    assert digests(made.path / "latents") == before
    decide(made.path)
    added = run_extract(made.path, model_path)
    assert added.num_extracted == 1  # type: ignore[attr-defined]
    after = digests(made.path / "latents")
    assert before.items() <= after.items()
    assert {Path(name).name for name in after.keys() - before.keys()} == {
        "clips-000000.1.f16",
        "clips-000000.1.rows.parquet",
    }


def test_nothing_to_extract_starts_no_engine(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_dataset(tmp_path / "d", (20,))
    run_extract(made.path, model_path)
    plan = plan_extraction(made.path, model_path)
    assert plan.units == ()
    monkeypatch.setitem(sys.modules, "pipeline.run_ray", None)  # importing it fails from here on
    result = extract_latents(plan, engine="ray")
    assert (result.num_clips, result.num_extracted, result.num_shards) == (1, 0, 0)


def test_dropped_clips_come_with_all(tmp_path: Path, model_path: Path) -> None:
    made = make_dataset(tmp_path / "d", (20, 16), dropped=[0])
    run_extract(made.path, model_path)
    stored = LatentReader.open(made.path, small_model().model_id, 1)
    assert [stored.has(c) for c in made.clip_ids] == [False, True]
    run_extract(made.path, model_path, every_written=True)
    stored = LatentReader.open(made.path, small_model().model_id, 1)
    assert [stored.has(c) for c in made.clip_ids] == [True, True]


def test_a_killed_extraction_goes_on_where_it_stopped(tmp_path: Path, model_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", (20, 16, 18))
    torn = make_dataset(tmp_path / "torn", (20, 16, 18))
    run_extract(whole.path, model_path)
    run_extract(torn.path, model_path)
    folder = torn.path / "latents" / small_model().model_id / "step-1"
    (folder / "clips-000000.rows.parquet").unlink()
    (folder / "clips-000000.f16").write_bytes(b"torn")
    result = run_extract(torn.path, model_path)
    assert result.num_extracted == 2  # type: ignore[attr-defined]
    assert digests(torn.path / "latents") == digests(whole.path / "latents")


def test_a_shard_done_twice_adds_nothing(tmp_path: Path, model_path: Path) -> None:
    from latent_actions.extract_run import extract_shard

    made = make_dataset(tmp_path / "d", (20, 16))
    plan = plan_extraction(made.path, model_path)
    worker = load_worker(plan.job)
    assert extract_shard(worker, plan.units[0]).num_extracted == 2
    before = digests(made.path / "latents")
    assert extract_shard(worker, plan.units[0]).num_extracted == 0
    assert digests(made.path / "latents") == before


def test_two_extractions_of_one_model_do_not_mix(tmp_path: Path, model_path: Path) -> None:
    from manifests.errors import LockedError
    from pipeline.file_lock import file_lock

    made = make_dataset(tmp_path / "d", (20,))
    lock = made.path / "runs" / f"LATENTS-{small_model().model_id}.lock"
    with (
        file_lock(lock, what="it", hint=""),
        pytest.raises(LockedError, match=r"The folder of latents .* is in use by process \d+"),
    ):
        run_extract(made.path, model_path)
    assert not list((made.path / "latents").rglob("*.f16"))
    run_extract(made.path, model_path)


def test_damaged_clips_are_named_and_the_rest_is_stored(
    tmp_path: Path, model_path: Path, cli: Cli
) -> None:
    made = make_dataset(tmp_path / "d", (20, 16))
    tar = made.path / "shards" / "clips-000000.tar"
    data = bytearray(tar.read_bytes())
    place = data.find(b"mdat") + 600
    data[place] ^= 0xFF
    tar.write_bytes(bytes(data))
    done = cli("latents", "extract", made.path, "--model", model_path, "--inline", "--json")
    assert done.exit_code == 1
    assert "1 clips could not be read and have no latents" in done.stderr
    assert made.clip_ids[0] in done.stderr
    assert list(json.loads(done.stdout)["problems"]) == [made.clip_ids[0]]
    assert LatentReader.open(made.path, small_model().model_id, 1).has(made.clip_ids[1])


def test_impossible_extractions_are_refused(tmp_path: Path, model_path: Path) -> None:
    empty = Dataset.create(tmp_path / "empty", DatasetSettings(name="e"))
    with pytest.raises(DatasetError, match="has no kept clip"):
        plan_extraction(empty.path, model_path)
    made = make_dataset(tmp_path / "d", (20,))
    with pytest.raises(UsageError, match="must be at least 1"):
        plan_extraction(made.path, model_path, steps=(0,))
    with pytest.raises(EgodojoError, match="is no model folder"):
        plan_extraction(made.path, tmp_path / "nothing")
    run_extract(made.path, model_path, every=2)
    with pytest.raises(UsageError, match=r"holds every 2\. latent, not every 1") as caught:
        plan_extraction(made.path, model_path)
    assert "--every 2" in str(caught.value.hint)


def test_a_model_with_other_latents_is_refused(tmp_path: Path) -> None:
    import dataclasses

    model = LatentActionModel(dataclasses.replace(SMALL, latent_dim=16))
    model.save_pretrained(tmp_path / "m")
    made = make_dataset(tmp_path / "d", (20,))
    with pytest.raises(UsageError, match="latents of 16 numbers, a dataset stores 32"):
        plan_extraction(made.path, tmp_path / "m")


def train_config(steps: int, **changes: object) -> TrainConfig:
    return TrainConfig(
        model=SMALL,
        data=DataConfig(batch_size=2),
        loop=LoopConfig(
            steps=steps, lr=2e-3, warmup_steps=0, checkpoint_every=3, device="cpu", **changes
        ),  # type: ignore[arg-type]
    )


def test_training_learns_resumes_exactly_and_gives_a_model(made: Made, tmp_path: Path) -> None:
    whole = train(made.path, train_config(24), out=tmp_path / "whole")
    assert whole.first_loss is not None
    assert whole.last_loss is not None
    assert whole.last_loss < 0.8 * whole.first_loss
    train(made.path, train_config(10), out=tmp_path / "parts")
    parts = train(made.path, train_config(24), out=tmp_path / "parts")
    assert parts.model_id == whole.model_id
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert LatentActionModel.from_pretrained(tmp_path / "parts").model_id == whole.model_id
    row = read_metrics(tmp_path / "whole" / "metrics.jsonl")[0]
    assert {"loss", "mse", "kl", "psnr", "latent_std", "lr", "seconds"} <= row.keys()


def test_a_resumed_run_keeps_its_clips_and_its_settings(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "d", (20, 16))
    first = train(made.path, train_config(2), out=tmp_path / "run")
    make_dataset(tmp_path / "d", (30,), first_unit=5)
    again = train(made.path, train_config(3), out=tmp_path / "run")
    assert first.num_clips == again.num_clips == 2
    with pytest.raises(ConfigError, match="was started with"):
        train(made.path, train_config(3, seed=9), out=tmp_path / "run")


def test_training_without_a_clip_is_refused(tmp_path: Path) -> None:
    empty = Dataset.create(tmp_path / "empty", DatasetSettings(name="e"))
    with pytest.raises(DatasetError, match="has no kept clip"):
        train(empty.path, train_config(1), out=tmp_path / "run")


def test_a_query_finds_itself_then_others_one_per_clip(made: Made) -> None:
    found = retrieve(made.path, made.clip_ids[0], 1.0, k=5)
    assert found.answers[0].clip_id == made.clip_ids[0]
    assert found.answers[0].start_s == 1.0
    assert found.answers[0].score == pytest.approx(1.0, abs=1e-3)
    ids = [answer.clip_id for answer in found.answers]
    assert len(ids) == len(set(ids)) == 5
    assert made.clip_ids[3] not in ids, "a clip without latents is in no window"
    assert retrieve(made.path, made.clip_ids[0], 1.0, k=5) == found


def test_answers_obey_sql_bodies_and_decisions(tmp_path: Path, model_path: Path) -> None:
    made = make_dataset(tmp_path / "d", (40, 40, 40, 40))
    run_extract(made.path, model_path, steps=(2,))
    build_index(made.path, small_model().model_id)
    query = made.clip_ids[0]
    other = retrieve(made.path, query, 0.0, other_embodiment=True)
    assert {a.clip_id for a in other.answers} == {made.clip_ids[1], made.clip_ids[3]}
    assert {a.embodiment for a in other.answers} == {"panda"}
    where = retrieve(made.path, query, 0.0, where="shard = 'clips-000001'")
    assert {a.clip_id for a in where.answers} == set(made.clip_ids[2:])
    alone = retrieve(made.path, query, 0.0, exclude_own=True)
    assert query not in {a.clip_id for a in alone.answers}
    decide(made.path, dropped=[made.clip_ids[2]])
    kept = retrieve(made.path, query, 0.0)
    assert {a.clip_id for a in kept.answers} == set(made.clip_ids) - {made.clip_ids[2]}
    assert retrieve(made.path, query, 0.0, where="false").answers == ()


def test_building_again_takes_in_new_clips(tmp_path: Path, model_path: Path) -> None:
    made = make_dataset(tmp_path / "d", (40, 40))
    run_extract(made.path, model_path)
    model_id = small_model().model_id
    assert build_index(made.path, model_id).num_added == 2
    new = make_dataset(tmp_path / "d", (40,), first_unit=7)
    partial = build_index(made.path, model_id)
    assert (partial.num_added, partial.num_without_latents) == (0, 1)
    run_extract(made.path, model_path)
    full = build_index(made.path, model_id)
    assert (full.num_added, full.num_clips, full.num_without_latents) == (1, 3, 0)
    assert retrieve(made.path, new.clip_ids[0], 0.0, k=1).answers[0].clip_id == new.clip_ids[0]
    with pytest.raises(UsageError, match="was built with other settings"):
        build_index(made.path, model_id, windows=WindowConfig(parts=2))


def refusals(made: Made) -> Iterator[tuple[list[object], int, str, str]]:
    query = ["index", "query", made.path, "--clip"]
    model_id = small_model().model_id
    first = made.clip_ids[0]
    yield [*query, "nope"], 2, "has no clip 'nope'", "manifest sql"
    yield [*query, first, "--time", "9"], 2, "Time 9 s lies outside clip", "start of the clip"
    yield [*query, first, "--name", "b"], 1, "has no action index 'b'", "index build"
    yield [*query, first, "--k", "0"], 2, "number of answers is 0", ""
    yield [*query, first, "--where", "bogus > 1"], 1, "The query failed", "Views"
    build = ["index", "build", made.path, "--latents"]
    yield [*build, "none-00000000"], 1, "holds no latents of none-00000000", "latents extract"
    yield [*build, model_id], 2, "at steps 1, 4", "--step"
    yield [*build, model_id, "--step", "9"], 1, "at step 9", "--step 9"


def test_refusals_are_one_sentence_with_the_next_step(made: Made, cli: Cli) -> None:
    for args, exit_code, text, hint in refusals(made):
        done = cli(*args)
        assert done.exit_code == exit_code, (args, done.stderr)
        assert text in done.stderr, args
        assert hint in done.stderr, args
        assert done.stdout == ""


def test_a_query_clip_without_latents_is_refused(tmp_path: Path, model_path: Path) -> None:
    made = make_dataset(tmp_path / "d", (40, 40), dropped=[1])
    run_extract(made.path, model_path)
    build_index(made.path, small_model().model_id)
    with pytest.raises(DatasetError, match="has no stored latents of lam-test") as caught:
        retrieve(made.path, made.clip_ids[1], 0.0)
    assert "egodojo latents extract" in str(caught.value.hint)


def test_query_command_prints_json_a_table_and_a_sheet(
    made: Made, tmp_path: Path, cli: Cli
) -> None:
    sheet = tmp_path / "out" / "sheet.png"
    args = ["index", "query", made.path, "--clip", made.clip_ids[4], "--time", "0.5", "--k", "3"]
    done = cli(*args, "--json", "--sheet", sheet)
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["query"]["clip_id"] == made.clip_ids[4]
    assert data["query"]["start_s"] == 0.5
    assert [a["score"] for a in data["answers"]] == sorted(
        (a["score"] for a in data["answers"]), reverse=True
    )
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] > 1000
    assert pixels.shape[0] > 4 * 120
    thumb = pixels[33:150, 212:370].astype(int)
    assert thumb.std() > 10, "the first thumbnail shows the scene"
    table = cli(*args).stdout.splitlines()
    assert table[0].split() == ["score", "embodiment", "from_s", "to_s", "clip", "file"]
    assert table[1].startswith("query")
    assert len(table) == 5
    none = cli(*args, "--where", "false")
    assert none.exit_code == 0
    assert "no clip answers" in none.stdout


def test_commands_train_extract_and_build(tmp_path: Path, cli: Cli) -> None:
    made = make_dataset(tmp_path / "d", (30, 24))
    small = [f"model.{key}" for key in ("frame_height=48", "frame_width=64", "width=16")]
    sets = [arg for item in [*small, "data.batch_size=2"] for arg in ("--set", item)]
    run = tmp_path / "run"
    trained = cli("latents", "train", made.path, "--steps", 2, "--out", run, *sets, "--json")
    assert trained.exit_code == 0, trained.stderr
    model_id = json.loads(trained.stdout)["model_id"]
    assert model_id.startswith("lam-tiny-")
    planned = cli("latents", "extract", made.path, "--model", run, "--dry-run", "--json")
    assert json.loads(planned.stdout)["num_clips_missing"] == 2
    done = cli("latents", "extract", made.path, "--model", run, "--step", 2, "--inline")
    assert done.exit_code == 0, done.stderr
    assert f"{model_id}: 50 latents" in done.stdout
    built = cli("index", "build", made.path, "--latents", model_id, "--json")
    assert built.exit_code == 0, built.stderr
    assert json.loads(built.stdout)["num_clips"] == 2


def test_train_dry_run_prints_the_configuration(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("loop:\n  lr: 0.5\n")
    args = ["latents", "train", tmp_path, "--out", tmp_path / "r", "--dry-run", "--json"]
    data = json.loads(cli(*args, "--config", file, "--steps", 7).stdout)
    assert data["loop"]["lr"] == 0.5
    assert data["loop"]["steps"] == 7
    assert data["model"]["width"] == 64
    assert not (tmp_path / "r").exists()
    wrong = cli(*args, "--set", "loop.stepz=3")
    assert wrong.exit_code == 2
    assert "unknown key 'loop.stepz'" in wrong.stderr
    size = cli(*args, "--size", "huge")
    assert size.exit_code == 2
    assert "no model size 'huge'" in size.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("latents",),
        ("index",),
        ("latents", "train"),
        ("latents", "extract"),
        ("index", "build"),
        ("index", "query"),
    ],
)
def test_help_has_a_sentence_and_an_example(command: tuple[str, ...], cli: Cli) -> None:
    done = cli(*command, "--help")
    assert done.exit_code == 0
    assert "Example: egodojo" in done.stdout
