"""Two ranks of torchrun give the numbers of one process, replicated or sharded."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manifests.errors import EgodojoError
from pipeline.training.checkpoint import list_checkpoints
from pipeline.training.metrics import read_metrics
from tests.pipeline import ranks_work
from tests.pipeline.ranks_work import train

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process beside those that two ranks made."""
    root = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", ranks_work.__name__, str(root)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    torch.save(train(root / "one").weights["net"], root / "one.pt")
    return root


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_ranks_give_losses_weights_and_validation_of_one_process(root: Path, name: str) -> None:
    assert losses(root / name) == pytest.approx(losses(root / "one"), rel=1e-5)
    one, other = (torch.load(root / f"{run}.pt", weights_only=True) for run in ("one", name))
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6)
    rows = [read_metrics(root / run / "validation.jsonl") for run in ("one", name)]
    assert [row["step"] for row in rows[1]] == [3, 6]
    for first, second in zip(*rows, strict=True):
        assert second["mean"] == pytest.approx(first["mean"], rel=1e-4)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_ranks_accumulate(root: Path, name: str) -> None:
    assert losses(root / f"{name}-accumulate") == pytest.approx(losses(root / "one"), rel=1e-5)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_ranks_resume_bit_for_bit(root: Path, name: str) -> None:
    assert losses(root / f"{name}-resumed") == losses(root / name)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_ranks_train_in_half_precision(root: Path, name: str, tmp_path: Path) -> None:
    train(tmp_path, precision="float16")
    assert losses(root / f"{name}-half") == pytest.approx(losses(tmp_path), rel=0.02)
    rows = [read_metrics(run / "metrics.jsonl") for run in (root / f"{name}-half", tmp_path)]
    assert [row["loss_scale"] for row in rows[0]] == [row["loss_scale"] for row in rows[1]]


@pytest.mark.parametrize("name", ["ddp-fsdp2", "fsdp2-ddp"])
def test_a_run_may_change_how_ranks_share_the_work(root: Path, name: str) -> None:
    assert losses(root / name) == pytest.approx(losses(root / "one"), rel=1e-5)


def test_a_sharded_run_goes_on_in_one_process(root: Path, tmp_path: Path) -> None:
    folder = list_checkpoints(root / "fsdp2-alone" / "checkpoints")[-1]
    pieces = {path.name for path in (folder / "shards").iterdir()}
    assert pieces == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    shutil.copytree(root / "fsdp2-alone", tmp_path / "run")
    train(tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(root / "one"), rel=1e-5)


def test_damage_and_code_in_shards_are_said_in_a_sentence(root: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "ran",)

    for name, data in (
        (".metadata", b"nonsense"),
        (".metadata", pickle.dumps(Evil())),
        ("__0_0.distcp", b"nonsense"),
    ):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(root / "damaged", run)
        (list_checkpoints(run / "checkpoints")[-1] / "shards" / name).write_bytes(data)
        with pytest.raises(EgodojoError, match=r"Checkpoint .* does not fit the model: "):
            train(run)
    assert not (tmp_path / "ran").exists()
