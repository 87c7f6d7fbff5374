"""Training on several processes gives the numbers of one, however the processes are started."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from manifests.errors import EgodojoError, UsageError
from pipeline.training.launch import launch
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.metrics import read_metrics
from pipeline.training.ranks import rank, world_size

ROOT = Path(__file__).parents[2]


class Line:
    """Fits a line without any chance; rank 0's weights count."""

    def __init__(self) -> None:
        self.net = nn.Linear(3, 1)
        nn.init.constant_(self.net.weight, 0.1 + rank())
        nn.init.zeros_(self.net.bias)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def loss(self, batch: Tensor, *, step: int, generator: Any) -> tuple[Tensor, dict[str, float]]:
        return (self.net(batch) - batch.sum(1, keepdim=True)).pow(2).mean(), {}


class Rows:
    """Global batches of four rows; rank r of R takes rows r, r + R, ..."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            generator = torch.Generator().manual_seed(self.position)
            self.position += 4
            yield torch.randn(4, 3, generator=generator)[rank() :: world_size()]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def train(out: Path) -> list[float]:
    config = LoopConfig(steps=6, lr=0.05, warmup_steps=0, device="cpu", grad_clip=1.0)
    return fit(Line(), Rows(), config, out=out).losses


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


def test_one_worker_runs_here(tmp_path: Path) -> None:
    assert launch(partial(train, tmp_path)) == losses(tmp_path)


def test_no_worker_is_refused() -> None:
    with pytest.raises(UsageError, match="number of training workers is 0"):
        launch(lambda: None, 0)


@pytest.fixture
def only_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and those it starts, are the only rank of torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def test_torchrun_rank_joins_and_leaves_its_group(tmp_path: Path, only_rank: None) -> None:
    def work() -> list[float]:
        assert dist.is_initialized()
        return train(tmp_path / "group")

    assert launch(work, use_gpu=False) == losses(tmp_path / "group")
    assert not dist.is_initialized()
    assert losses(tmp_path / "group") == train(tmp_path / "plain")


LEAVING = """
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from pipeline.training.launch import launch


def threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def work():
    DistributedDataParallel(torch.nn.Linear(2, 1))(torch.ones(3, 2)).sum().backward()
    print("inside:", *threads())


launch(work, use_gpu=False)
print("after:", *threads())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are read from /proc")
def test_no_thread_of_a_group_outlives_it(only_rank: None) -> None:
    """One that lets go of a tensor while the interpreter ends would abort the process."""
    script = [sys.executable, "-c", LEAVING]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT)
    inside, after = done.stdout.splitlines()
    assert "pt_gloo_runloop" in inside
    assert "gloo" not in after


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_of_ray_train_give_the_numbers_of_one_process(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle
    from ray.train.torch import TorchTrainer

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    launch(partial(train, tmp_path / "two"), 2, use_gpu=False)
    train(tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)

    def fail(trainer: TorchTrainer) -> None:
        raise RuntimeError("a worker died")

    monkeypatch.setattr(TorchTrainer, "fit", fail)
    with pytest.raises(EgodojoError, match="Training on 2 workers failed: a worker died"):
        launch(partial(train, tmp_path / "no"), 2, use_gpu=False)
