"""The training loop on a toy regression: exact resume, interruptions, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifests.config import load_config
from manifests.errors import ConfigError, EgodojoError, LockedError, UsageError
from pipeline.training import checkpoint as checkpoint_module
from pipeline.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_pretrained,
    save_checkpoint,
    save_pretrained,
)
from pipeline.training.loop import FitResult, LoopConfig, fit
from pipeline.training.metrics import MetricsFile, read_metrics
from pipeline.training.optimisation import PowerEma, clip_gradients, lr_multiplier, seed_of
from pipeline.training.run_folder import bind_config, hold_run

CONFIG = LoopConfig(
    steps=12, lr=0.05, warmup_steps=3, checkpoint_every=5, device="cpu", grad_clip=1.0, ema=0.1
)


class ToyTask:
    """Linear regression with dropout and injected noise, so that every source of chance is used."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def loss(
        self, batch: dict[str, Tensor], *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(batch["x"].shape, generator=generator)
        error = self.net(batch["x"] + 0.01 * noise) - batch["x"].sum(1, keepdim=True)
        return error.pow(2).mean(), {"abs": float(error.detach().abs().mean())}


class ToyBatches:
    """Batches that are a function of their position."""

    def __init__(self, end: int = 10**6) -> None:
        self.position, self.end = 0, end

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.position < self.end:
            generator = torch.Generator().manual_seed(self.position)
            self.position += 1
            yield {"x": torch.randn(4, 3, generator=generator)}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def train(out: Path, config: LoopConfig = CONFIG, **more: Any) -> FitResult:
    return fit(ToyTask(), ToyBatches(), config, out=out, **more)


def metric_losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    first = train(tmp_path / "parts", replace(CONFIG, steps=7))
    second = train(tmp_path / "parts")
    assert len(whole.losses) == 12
    assert first.losses + second.losses == whole.losses
    assert metric_losses(tmp_path / "parts") == whole.losses
    for name, value in whole.weights["net"].items():
        assert torch.equal(value, second.weights["net"][name])
    ends = [load_checkpoint(list_checkpoints(p / "checkpoints")[-1]) for p in tmp_path.iterdir()]
    for name, value in ends[0]["model"]["net"].items():
        assert torch.equal(value, ends[1]["model"]["net"][name])


def test_finished_run_does_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    again = train(tmp_path)
    assert (again.steps, again.losses, again.seconds_per_step) == (12, [], 0.0)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 12


@pytest.mark.parametrize("where", ["save", "replace"])
def test_death_while_writing_a_checkpoint_loses_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = train(tmp_path / "whole")
    calls = 0

    def die(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError("killed")
        original(*args, **kwargs)

    target = torch if where == "save" else checkpoint_module.os
    original = getattr(target, where)
    with monkeypatch.context() as patch:
        patch.setattr(target, where, die)
        with pytest.raises(MemoryError):
            train(tmp_path / "killed")
    assert list((tmp_path / "killed" / "checkpoints").glob(".part-*"))
    second = train(tmp_path / "killed")
    assert second.losses == whole.losses[second.steps - len(second.losses) :]
    assert metric_losses(tmp_path / "killed") == whole.losses
    assert not list((tmp_path / "killed" / "checkpoints").glob(".part-*"))


def test_signal_saves_the_last_step_and_reports_an_interruption(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")

    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", on_step=interrupt)
    assert list_checkpoints(tmp_path / "cut" / "checkpoints")[-1].name == "step-00000008"
    train(tmp_path / "cut")
    assert metric_losses(tmp_path / "cut") == whole.losses


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, checkpoint_every=2))
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000010", "step-00000012"]


def test_changed_configuration_is_refused_naming_the_field(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ConfigError, match=r"loop\.lr is 0\.1, but .* started with 0\.05"):
        train(tmp_path, replace(CONFIG, lr=0.1))
    assert train(tmp_path, replace(CONFIG, steps=14)).steps == 14


def test_run_config_is_written_and_bound(tmp_path: Path) -> None:
    config = {"model": {"width": 8}, "loop": {"steps": 12}}
    train(tmp_path, run_config=config)
    assert "width: 8" in (tmp_path / "config.resolved.yaml").read_text()
    with pytest.raises(ConfigError, match=r"model\.width is 9, .* started with 8"):
        train(tmp_path, run_config={**config, "model": {"width": 9}})
    bind_config(tmp_path, {**config, "loop": {"steps": 20}}, may_change=["loop.steps"])
    with pytest.raises(ConfigError, match="of another kind: its configuration has "):
        bind_config(tmp_path, {"model": {}, "beta": 1e-6})
    (tmp_path / "config.resolved.yaml").write_text("loop: [")
    with pytest.raises(ConfigError, match=r"config\.resolved\.yaml is not valid YAML"):
        bind_config(tmp_path, config)


def test_existing_run_is_refused_without_resume(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(tmp_path, resume=False)


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    code = f"""
        import sys, pathlib
        from pipeline.training.run_folder import hold_run
        with hold_run(pathlib.Path({str(tmp_path)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"in use by process {other.pid}"):
            train(tmp_path)
        other.kill()
    with hold_run(tmp_path):
        pass


def test_short_loader_and_misfitting_model_are_explained(tmp_path: Path) -> None:
    with pytest.raises(EgodojoError, match="loader ended after 9 steps, but the run needs 12"):
        fit(ToyTask(), ToyBatches(9), CONFIG, out=tmp_path)
    task = ToyTask()
    task.net = nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.2), nn.Linear(9, 1))
    with pytest.raises(EgodojoError, match="does not fit the model"):
        fit(task, ToyBatches(), CONFIG, out=tmp_path)


def test_damaged_checkpoint_is_explained(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {"step": 3})
    (path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(EgodojoError, match="cannot be read") as error:
        load_checkpoint(path)
    assert "Delete this folder" in str(error.value.hint)
    for state in (b"", b"PK\x03\x04"):
        (path / "state.pt").write_bytes(state)
        with pytest.raises(EgodojoError, match="cannot be read: it is damaged"):
            load_checkpoint(path)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = save_checkpoint(tmp_path, 3, {"step": 3, "x": Evil()})
    with pytest.raises(EgodojoError, match="or holds code, which is never run") as error:
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    assert "\n" not in error.value.message


def test_nan_gradients_are_replaced_and_a_lost_run_stops(tmp_path: Path) -> None:
    class Broken(ToyTask):
        def loss(self, batch: Any, *, step: int, generator: Any) -> tuple[Tensor, dict[str, float]]:
            loss, parts = super().loss(batch, step=step, generator=generator)
            return loss * (float("nan") if step >= 1 else 1.0), parts

    with pytest.raises(EgodojoError, match="not finite in 10 steps in a row, up to step 11"):
        fit(Broken(), ToyBatches(), CONFIG, out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["loss"] is None
    assert rows[1]["nonfinite_grad"] is True
    assert rows[1]["grad_norm"] == 0.0


def test_clip_scales_to_the_norm() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([3.0, float("nan"), 4.0, float("inf")])
    assert clip_gradients([parameter], 1.0) == (5.0, True)
    assert torch.allclose(parameter.grad, torch.tensor([0.6, 0.0, 0.8, 0.0]))


def test_learning_rate_schedule() -> None:
    def factor(step: int) -> float:
        return lr_multiplier(step, warmup_steps=100, decay_steps=400, peak=0.99, end=0.4)

    assert factor(0) == 1e-6
    assert factor(50) == pytest.approx(0.495, abs=1e-5)
    assert factor(100) == pytest.approx(0.99)
    assert factor(250) == pytest.approx(0.695)
    assert factor(400) == factor(10_000) == pytest.approx(0.4)
    assert lr_multiplier(7, warmup_steps=0, decay_steps=0) == 1.0


def test_ema_follows_the_published_rate() -> None:
    ema = PowerEma({"w": torch.ones(1)}, width=0.1)
    assert ema.gamma == pytest.approx(6.9372, abs=1e-4)
    ema.update({"w": torch.zeros(1)}, num_updates=1000)
    assert ema.weights["w"].item() == pytest.approx(0.9921, abs=5e-5)


def test_seed_depends_on_every_part() -> None:
    seeds = {seed_of(seed, step, rank) for seed in (0, 1) for step in (0, 1, 11) for rank in (0, 1)}
    assert len(seeds) == 12
    assert seed_of(0, 1, 0) == seed_of(0, 1, 0)


def test_metrics_file_cuts_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    metrics = MetricsFile(path, keep_steps=2)
    metrics.append({"step": 3, "loss": float("inf")})
    metrics.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": None}]


def test_pretrained_folder_round_trip_and_errors(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    state = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    save_pretrained(folder, {"size": "old"}, state)
    save_pretrained(folder, {"size": "tiny"}, state, extra_files={"notes/x.txt": b"hi"})
    config, tensors = load_pretrained(folder)
    assert config == {"size": "tiny"}
    assert torch.equal(tensors["a.weight"], state["a.weight"])
    assert (folder / "notes/x.txt").read_bytes() == b"hi"
    (folder / "model.safetensors").write_bytes(b"\x00")
    with pytest.raises(EgodojoError, match="is damaged"):
        load_pretrained(folder)
    with pytest.raises(EgodojoError, match=r"config\.json is missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("steps", 0, "steps is 0"),
        ("lr", 0.0, "lr is 0.0"),
        ("ema", 0.5, "ema is 0.5"),
        ("weight_decay", -1.0, "weight_decay is -1.0; it must not be negative"),
        ("grad_clip", -0.1, "grad_clip is -0.1"),
        ("warmup_steps", -1, "warmup_steps is -1"),
        ("betas", (0.9, 1.0), "both must lie in"),
        ("eps", 0.0, "eps is 0.0"),
    ],
)
def test_impossible_loop_configuration(field: str, value: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(CONFIG, **{field: value})


def test_an_unknown_device_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="device is 'gpu', must be one of auto, cpu, cuda"):
        load_config(LoopConfig, values={"steps": 1, "device": "gpu"})


def test_a_file_or_a_dataset_is_no_run_folder(tmp_path: Path) -> None:
    file = tmp_path / "mixture.yaml"
    file.write_text("seed: 1")
    with pytest.raises(UsageError, match=r"mixture\.yaml is a file"):
        train(file)
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "dataset.yaml").write_text("name: x")
    with pytest.raises(UsageError, match="is a dataset, and runs are kept apart"):
        train(dataset)
    assert [path.name for path in dataset.iterdir()] == ["dataset.yaml"]
