"""Extraction as a run: precision, verification, kills, engines and object storage."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latent_actions import extract_run, precision
from latent_actions.config import base
from latent_actions.extract import Extractor, suitable_batch
from latent_actions.extract_run import extract_latents, extract_shard, load_worker, plan_extraction
from latent_actions.model import LatentActionModel
from latent_actions.precision import number_type, slow_here
from manifests.dataset import Dataset
from manifests.errors import EgodojoError, UsageError
from manifests.latents import LatentReader, latent_dir
from manifests.storage import read_bytes, write_atomic
from manifests.validate import validate
from pipeline.training.device import best_device
from tests.latent_actions.datasets import Made, make_dataset
from tests.latent_actions.helpers import MemoryClips, small_model
from tests.latent_actions.test_dataset_runs import digests, run_extract
from tests.latent_actions.test_exchange import Malicious
from tests.object_storage import make_bucket, use

Cli = Callable[..., SimpleNamespace]
LENGTHS = (20, 16, 18, 3)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """A dataset without latents and a model; tests copy what they change."""
    folder = tmp_path_factory.mktemp("extract")
    small_model().save_pretrained(folder / "model")
    return make_dataset(folder / "ds", LENGTHS), folder / "model"


@pytest.fixture
def made(shared: tuple[Made, Path], tmp_path: Path) -> Made:
    return Made(
        path=Path(shutil.copytree(shared[0].path, tmp_path / "ds")), clip_ids=shared[0].clip_ids
    )


@pytest.fixture
def model_path(shared: tuple[Made, Path]) -> Path:
    return shared[1]


def step_folder(made: Made, step: int = 1) -> Path:
    return made.path / "latents" / small_model().model_id / f"step-{step}"


# --- precision --------------------------------------------------------------------------------


def test_the_number_type_suits_the_device_and_what_is_stored() -> None:
    assert number_type("auto", "cpu") == "float32"
    assert number_type("auto", "cuda") == "float16"
    assert number_type("auto", "cuda", stored="bfloat16") == "bfloat16"
    assert number_type("bfloat16", "cpu", stored="float32") == "bfloat16"
    with pytest.raises(UsageError, match="--precision is 'int8', must be one of auto, float32,"):
        number_type("int8", "cpu")


def test_a_number_type_the_cpu_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies", lambda kind: False)
    assert slow_here("float32", "cpu") is None
    assert slow_here("bfloat16", "cuda") is None
    assert slow_here("bfloat16", "cpu") == (
        "This CPU has no bfloat16 instructions: bfloat16 takes longer than float32 here."
    )
    monkeypatch.setattr(precision, "cpu_multiplies", lambda kind: True)
    assert slow_here("bfloat16", "cpu") is None


def test_precision_is_recorded_and_never_mixed(
    made: Made, model_path: Path, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("latents", "extract", made.path, "--model", model_path, "--inline", "--json")
    done = cli(*words, "--precision", "bfloat16")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == "bfloat16"
    meta = json.loads((step_folder(made) / "meta.json").read_text())
    assert meta["precision"] == "bfloat16"
    refused = cli(*words, "--precision", "float32")
    assert refused.exit_code == 2
    assert f"{step_folder(made)} holds latents computed in bfloat16, not in float32." in (
        refused.stderr
    )
    assert "Use --precision bfloat16 (or auto)" in refused.stderr
    again = json.loads(cli(*words).stdout)
    assert (again["precision"], again["num_extracted"]) == ("bfloat16", 0)


def test_a_folder_that_names_no_precision_goes_on(made: Made, model_path: Path) -> None:
    run_extract(made.path, model_path)
    meta = step_folder(made) / "meta.json"
    facts = json.loads(meta.read_text())
    assert facts.pop("precision") == "float32"
    meta.write_text(json.dumps(facts))
    for path in step_folder(made).glob("clips-000001.*"):
        path.unlink()
    result = run_extract(made.path, model_path)
    assert result.num_extracted == 2  # type: ignore[attr-defined]
    assert json.loads(meta.read_text()) == facts


def test_numbers_that_overflow_are_an_error_with_a_way_out(made: Made, tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.fc.weight.mul_(1e30)
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(EgodojoError, match="are not finite when computed in float32") as caught:
        Extractor(model).extract(MemoryClips([4]).data["clip0"])
    assert "--precision bfloat16" in str(caught.value.hint)
    with pytest.raises(EgodojoError, match=r"Latents of 2 of 2 shards were not made; the first"):
        run_extract(made.path, tmp_path / "m")


def test_batches_fit_the_caches_and_gpus_get_large_ones() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    model = base().model
    assert suitable_batch(model, torch.float32, cpu) == 2
    assert suitable_batch(model, torch.bfloat16, cpu) == 4
    assert (
        suitable_batch(dataclasses.replace(model, width=64, num_heads=4), torch.float32, cpu) == 16
    )
    assert suitable_batch(model, torch.float16, gpu) == 64


# --- device -----------------------------------------------------------------------------------


def test_a_gpu_is_taken_without_being_asked_for(
    made: Made, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == "cuda"
    plan = plan_extraction(made.path, model_path)
    assert (plan.job.device, plan.job.precision) == ("cuda", "float16")
    assert 1 <= plan.job.num_cpus <= 3
    assert plan.timeout_s == extract_run.UNIT_TIMEOUT_S


def test_gpus_of_a_cluster_count_where_the_driver_has_none(
    made: Made, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_run, "cluster_has_gpu", lambda: True)
    assert plan_extraction(made.path, model_path, engine="ray").job.device == "cuda"
    assert plan_extraction(made.path, model_path, engine="inline").job.device == best_device()


def test_a_large_model_on_a_cpu_gets_the_time_it_needs(made: Made, model_path: Path) -> None:
    plan = plan_extraction(made.path, model_path)
    assert plan.timeout_s == extract_run.UNIT_TIMEOUT_S
    pairs = 19 + 15
    large = dataclasses.replace(plan.job, num_parameters=10**11)
    assert dataclasses.replace(plan, job=large).timeout_s == pytest.approx(1.5e-7 * pairs * 1e11)


# --- verification -----------------------------------------------------------------------------


def test_verify_makes_stored_latents_anew(made: Made, model_path: Path, cli: Cli) -> None:
    words = ("latents", "extract", made.path, "--model", model_path, "--inline")
    words += ("--step", "1", "--step", "4", "--every", "2", "--verify")
    done = cli(*words, "1000", "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    expected = sum(-(-(n - step) // 2) for n in LENGTHS for step in (1, 4) if n > step)
    assert data["num_latents"] == expected
    verified = data["verified"]
    assert verified["num_stored"] == verified["num_checked"] == expected
    assert verified["num_files"] == 4
    assert verified["faults"] == []
    assert verified["max_difference"] <= verified["allowed"]
    text = cli(*words, "5", "--dry-run").stdout
    assert "0 clips in 0 shards lack latents" in text
    assert f"verified: 5 of {expected} stored latents made anew, the largest difference" in text
    none = cli(*words, "0")
    assert none.exit_code == 2
    assert "--verify is 0; it must be at least 1." in none.stderr


def test_verify_names_a_row_that_is_not_the_models(made: Made, model_path: Path, cli: Cli) -> None:
    run_extract(made.path, model_path, steps=(1, 4))
    stored = LatentReader.open(made.path, small_model().model_id, 4)
    rows = stored.rows(made.clip_ids[1]).copy()
    rows[7, 3] += np.float16(0.25)
    rewrite(step_folder(made, 4), made.clip_ids[1], rows)
    words = ("latents", "extract", made.path, "--model", model_path, "--inline", "--dry-run")
    words += ("--step", "1", "--step", "4", "--verify", "1000")
    done = cli(*words)
    assert done.exit_code == 1
    name = f"row 7 (frames 7 and 11) of clip {made.clip_ids[1]} at step 4"
    assert f"The latent stored in {name} is off by 0.25 from what" in done.stderr
    assert "faults in all" not in done.stderr
    assert "Remove that shard's .f16 and .rows.parquet" in done.stderr


def rewrite(folder: Path, clip_id: str, rows: np.ndarray) -> None:
    """Store other rows for a clip, with a digest that is right for them."""
    from manifests.latents import LatentWriter, map_latents, read_rows

    path = next(p for p in folder.glob("*.rows.parquet") if clip_id in str(read_rows(p)["clip_id"]))
    table = read_rows(path).to_pylist()
    data = map_latents(path.with_name(path.name.replace(".rows.parquet", ".f16"))).copy()
    meta = json.loads((folder / "meta.json").read_text())
    path.unlink()
    writer = LatentWriter(folder, int(path.name[6:12]), meta)
    for row in table:
        old = data[row["first_row"] : row["first_row"] + row["num_rows"]]
        writer.add(row["clip_id"], rows if row["clip_id"] == clip_id else old)
    writer.finish()


def latent_problems(path: Path | str) -> list[str]:
    return [problem.detail for problem in validate(Dataset.open(path)) if problem.kind == "latents"]


def test_a_flipped_bit_is_found_by_verify_and_validate(
    made: Made, model_path: Path, cli: Cli
) -> None:
    run_extract(made.path, model_path)
    path = step_folder(made) / "clips-000001.f16"
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # too little for any tolerance
    path.write_bytes(data)
    words = ("latents", "extract", made.path, "--model", model_path, "--inline", "--verify", 500)
    done = cli(*words)
    assert done.exit_code == 1
    name = f"latents/{small_model().model_id}/step-1/clips-000001.f16"
    assert f"{name} is not as it was written: its digest differs." in done.stderr
    problems = [
        problem.detail for problem in validate(Dataset.open(made.path)) if problem.kind == "latents"
    ]
    assert problems == ["clips-000001.f16 is not as it was written: its digest differs"]


def test_latents_of_another_model_are_found_by_verify(
    made: Made, model_path: Path, tmp_path: Path, cli: Cli
) -> None:
    small_model(seed=5).save_pretrained(tmp_path / "other")
    run_extract(made.path, tmp_path / "other")
    words = ("latents", "extract", made.path, "--model", model_path, "--verify", 40, "--dry-run")
    absent = cli(*words)
    assert absent.exit_code == 1
    assert f"holds no latents of {small_model().model_id} at step 1" in absent.stderr
    own = latent_dir(made.path, small_model(seed=5).model_id, 1).parent
    own.rename(own.with_name(small_model().model_id))
    done = cli(*words)
    assert done.exit_code == 1
    assert "The latent stored in row" in done.stderr
    assert "(40 faults in all)." in done.stderr


def test_a_row_whose_frames_are_damaged_cannot_be_checked(
    made: Made, model_path: Path, cli: Cli
) -> None:
    run_extract(made.path, model_path)
    tar = made.path / "shards" / "clips-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.find(b"mdat") + 600] ^= 0xFF
    tar.write_bytes(data)
    done = cli(
        *("latents", "extract", made.path, "--model", model_path, "--inline", "--verify", 1000)
    )
    assert done.exit_code == 1
    assert "cannot be checked: frames 0..11 of clip" in done.stderr


# --- the same bytes, whatever happens ---------------------------------------------------------


def test_the_rows_of_a_step_do_not_depend_on_other_steps(made: Made, model_path: Path) -> None:
    run_extract(made.path, model_path, steps=(1, 4))
    together = digests(made.path / "latents")
    shutil.rmtree(made.path / "latents")
    run_extract(made.path, model_path, steps=(4,))
    run_extract(made.path, model_path, steps=(1,))
    assert digests(made.path / "latents") == together


def test_a_worker_that_outlived_its_driver_adds_nothing(
    made: Made, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_extraction(made.path, model_path)
    worker = load_worker(plan.job)
    real = worker[1].extract_clips

    def slowly(*args: object, **options: object) -> object:
        monkeypatch.setattr(worker[1], "extract_clips", real)
        extract_shard(worker, plan.units[0])
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(worker[1], "extract_clips", slowly)
    assert extract_shard(worker, plan.units[0]).num_extracted == 0
    assert len(list(step_folder(made).glob("*.f16"))) == 1


KILLER = """
import os, signal, sys
from latent_actions.extract_run import extract_latents, plan_extraction
dataset, model, count = sys.argv[1:]
calls = 0

def deadly(original):
    def call(source, target, **options):
        global calls
        calls += "latents" in str(target)
        if calls == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target, **options)
    return call

os.replace, os.link = deadly(os.replace), deadly(os.link)
extract_latents(plan_extraction(dataset, model, steps=(1, 4)), engine="inline")
"""


def kill_before(made: Made, model_path: Path, count: int) -> int:
    """Extract until the n-th file is to be put in place; the exit code."""
    arguments = [str(made.path), str(model_path), str(count)]
    return subprocess.run([sys.executable, "-c", KILLER, *arguments], check=False).returncode


def check_killed(made: Made, model_path: Path, kills: Iterable[int]) -> None:
    """Kill before the n-th file of `meta.json`, `.f16` and `.rows.parquet` is put in place."""
    run_extract(made.path, model_path, steps=(1, 4))
    whole = digests(made.path / "latents")
    for count in kills:
        shutil.rmtree(made.path / "latents")
        assert kill_before(made, model_path, count) == -9
        assert digests(made.path / "latents") != whole
        run_extract(made.path, model_path, steps=(1, 4))
        assert digests(made.path / "latents") == whole, count


def test_killed_between_two_steps_gives_the_same_bytes(made: Made, model_path: Path) -> None:
    check_killed(made, model_path, [5])  # step 1 stored, half of step 4 written


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_before_every_file_gives_the_same_bytes(made: Made, model_path: Path) -> None:
    check_killed(made, model_path, range(1, 11))


@pytest.mark.ray
def test_ray_gives_the_bytes_of_the_inline_engine(
    made: Made, model_path: Path, ray_session: None
) -> None:
    run_extract(made.path, model_path, steps=(1, 4), precision="bfloat16")
    inline = digests(made.path / "latents")
    shutil.rmtree(made.path / "latents")
    plan = plan_extraction(made.path, model_path, steps=(1, 4), precision="bfloat16", engine="ray")
    assert extract_latents(plan, engine="ray").num_shards == 2
    assert digests(made.path / "latents") == inline


def test_inline_work_gives_its_threads_back(made: Made, model_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_extract(made.path, model_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_bucket_holds_what_a_disk_holds(
    made: Made, model_path: Path, s3_port: int, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    make_bucket(s3_port, "latents")
    use(monkeypatch, s3_port)
    far = "s3://latents/ds"
    for file in sorted(made.path.rglob("*")):
        if file.is_file():
            write_atomic(f"{far}/{file.relative_to(made.path)}", file.read_bytes())
    run_extract(made.path, model_path, steps=(1, 4))
    words = ("latents", "extract", far, "--model", model_path, "--inline", "--step", 1, "--step", 4)
    done = cli(*words, "--verify", 20, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["verified"]["num_checked"] == 20
    for file in sorted((made.path / "latents").rglob("*")):
        if file.is_file():
            assert read_bytes(far, str(file.relative_to(made.path))) == file.read_bytes()
    again = json.loads(cli(*words, "--json").stdout)
    assert (again["num_extracted"], again["num_latents"]) == (0, 0)
    assert latent_problems(far) == []


# --- what cannot be done ----------------------------------------------------------------------


def test_a_clip_shorter_than_the_step_is_stored_without_rows(made: Made, model_path: Path) -> None:
    run_extract(made.path, model_path, steps=(4, 500))
    for step, expected in ((4, [16, 12, 14, 0]), (500, [0, 0, 0, 0])):
        stored = LatentReader.open(made.path, small_model().model_id, step)
        assert [len(stored.rows(clip_id)) for clip_id in made.clip_ids] == expected
    again = run_extract(made.path, model_path, steps=(4, 500))
    assert again.num_extracted == 0  # type: ignore[attr-defined]


def test_weights_of_another_size_are_refused_with_names(
    made: Made, model_path: Path, tmp_path: Path, cli: Cli
) -> None:
    shutil.copytree(model_path, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"width": 32', '"width": 64'))
    done = cli("latents", "extract", made.path, "--model", tmp_path / "m", "--inline")
    assert done.exit_code == 2
    assert "do not fit this model" in done.stderr
    assert "of wrong size (" in done.stderr


def test_a_checkpoint_with_code_is_no_model_and_does_not_run(
    made: Made, tmp_path: Path, cli: Cli
) -> None:
    torch.save({"state_dict": {}, "hook": Malicious(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    shutil.copytree(tmp_path, tmp_path / "m", ignore=shutil.ignore_patterns("ds"))
    (tmp_path / "m" / "bad.ckpt").rename(tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text("{}")
    words = ("latents", "extract", made.path, "--inline", "--model")
    alone = cli(*words, tmp_path / "bad.ckpt")
    assert alone.exit_code == 1
    assert "bad.ckpt is no model folder: it has no config.json." in alone.stderr
    inside = cli(*words, tmp_path / "m")
    assert inside.exit_code == 1
    assert "model.safetensors is no readable safetensors file" in inside.stderr
    assert not (tmp_path / "ran").exists()
    assert not (made.path / "latents").exists()


def test_a_dataset_without_kept_clips_is_refused(
    tmp_path: Path, model_path: Path, cli: Cli
) -> None:
    empty = make_dataset(tmp_path / "ds", (12, 12), dropped=(0, 1))
    done = cli("latents", "extract", empty.path, "--model", model_path, "--inline")
    assert done.exit_code == 1
    assert f"{empty.path} has no kept clip." in done.stderr
    assert not (empty.path / "latents").exists()


def test_a_dataset_that_is_none_is_refused(model_path: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("latents", "extract", tmp_path / "no", "--model", model_path, "--inline")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2


def test_a_compiler_that_is_not_there_is_said_once(
    made: Made, model_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = "torch.compile does not work here (no g++): latents are made without it."
    monkeypatch.setattr(extract_run, "compile_fault", lambda device: fault)
    with caplog.at_level(logging.WARNING):
        plan = plan_extraction(made.path, model_path, compiled=True)
    assert not plan.job.is_compiled
    assert caplog.text.count(fault) == 1
    assert LatentActionModel.from_pretrained(model_path).model_id == plan.job.model_id
