"""What surrounds a step: accumulation, half precision, validation, records, the budget."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from manifests.errors import ConfigError, EgodojoError, OverBudgetError
from pipeline.training.checkpoint import list_checkpoints, load_checkpoint
from pipeline.training.loop import FitResult, LoopConfig, fit
from pipeline.training.metrics import read_metrics
from pipeline.training.run_folder import bind_config
from pipeline.training.task import Validation

CONFIG = LoopConfig(
    steps=8,
    lr=0.05,
    warmup_steps=2,
    checkpoint_every=4,
    validate_every=3,
    log_every=2,
    device="cpu",
    grad_clip=1.0,
)


class Line:
    """Fits a line without any chance; validation reports the weights it is given."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def loss(self, batch: Tensor, *, step: int, generator: Any) -> tuple[Tensor, dict[str, float]]:
        error = self.net(batch) - batch.sum(1, keepdim=True)
        return error.pow(2).mean(), {"abs": float(error.detach().abs().mean())}

    def validate(self, *, step: int, device: torch.device) -> Validation:
        assert not self.net.training
        assert not torch.is_grad_enabled()
        norm = float(self.net[0].weight.norm())
        picture = np.full((4, 6, 3), 10 * step, np.uint8)
        return Validation(values={"norm": norm, "list": [1.0, 2.0]}, pictures={"grey": picture})


class Rows:
    """Batches of so many rows of one endless list; some of them turn out to be bad."""

    def __init__(self, size: int = 4, bad_from: int = 10**9) -> None:
        self.size, self.bad_from = size, bad_from
        self.position = 0
        self.problems: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.position += self.size
            numbers = range(self.position - self.size, self.position)
            bad = [n for n in numbers if n >= self.bad_from]
            self.problems += [
                {"index": n, "attempt": a, "message": f"row {n}"} for n in bad for a in (0, 1)
            ]
            rows = [torch.randn(3, generator=torch.Generator().manual_seed(n)) for n in numbers]
            yield torch.stack(rows)

    @property
    def num_samples(self) -> int:
        return self.position

    def take_problems(self) -> list[dict[str, Any]]:
        taken, self.problems = self.problems, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def train(out: Path, config: LoopConfig = CONFIG, *, rows: Rows | None = None) -> FitResult:
    return fit(Line(), rows or Rows(), config, out=out)


def test_accumulated_batches_give_the_losses_of_one_big_batch(tmp_path: Path) -> None:
    big = train(tmp_path / "big", rows=Rows(8))
    config = replace(CONFIG, accumulate=4)
    small = train(tmp_path / "small", config, rows=Rows(2))
    assert small.losses == pytest.approx(big.losses, rel=1e-5)
    for name, value in big.weights["net"].items():
        torch.testing.assert_close(small.weights["net"][name], value, rtol=1e-4, atol=1e-6)
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("big", "small")]
    for one, other in zip(*rows, strict=True):
        assert other["abs"] == pytest.approx(one["abs"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    train(tmp_path / "parts", replace(config, steps=3), rows=Rows(2))
    train(tmp_path / "parts", config, rows=Rows(2))
    assert losses(tmp_path / "parts") == small.losses


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


def test_half_precision_scales_the_loss_and_resumes_with_its_scale(tmp_path: Path) -> None:
    class Gentle(Line):
        def loss(self, batch: Any, *, step: int, generator: Any) -> tuple[Tensor, dict[str, float]]:
            loss, parts = super().loss(batch, step=step, generator=generator)
            return loss / 100, parts

    config = replace(CONFIG, precision="float16")
    whole = fit(Gentle(), Rows(), config, out=tmp_path / "whole")
    plain = fit(Gentle(), Rows(), CONFIG, out=tmp_path / "plain")
    assert whole.losses == pytest.approx(plain.losses, rel=0.02)
    assert whole.losses != plain.losses
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert {row["loss_scale"] for row in rows} == {65536}
    for steps in (5, 8):
        fit(Gentle(), Rows(), replace(config, steps=steps), out=tmp_path / "parts")
    assert losses(tmp_path / "parts") == whole.losses


def test_an_overflow_leaves_the_step_out_and_halves_the_scale(tmp_path: Path) -> None:
    class Steep(Line):
        def loss(self, batch: Any, *, step: int, generator: Any) -> tuple[Tensor, dict[str, float]]:
            loss, parts = super().loss(batch, step=step, generator=generator)
            return loss * (float("inf") if step == 1 else 1.0), parts

    config = replace(CONFIG, precision="float16", steps=3, checkpoint_every=1, keep_checkpoints=9)
    fit(Steep(), Rows(), config, out=tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["loss_scale"] for row in rows] == [65536, 32768, 32768]
    assert [row.get("left_out") for row in rows] == [None, True, None]
    states = [load_checkpoint(path) for path in list_checkpoints(tmp_path / "checkpoints")]
    weights = [state["model"]["net"]["0.weight"] for state in states]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert states[1]["scaler"]["scale"] == 32768


def test_validation_changes_nothing_and_is_not_repeated_on_resume(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    assert train(tmp_path / "rare", replace(CONFIG, validate_every=100)).losses == whole.losses
    rows = read_metrics(tmp_path / "whole" / "validation.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 8]
    assert rows[0]["list"] == [1.0, 2.0]
    assert [row["step"] for row in read_metrics(tmp_path / "rare" / "validation.jsonl")] == [8]

    class Killed(Line):
        def validate(self, *, step: int, device: torch.device) -> Validation:
            if step == 8:
                raise MemoryError("killed")
            return super().validate(step=step, device=device)

    with pytest.raises(MemoryError):
        fit(Killed(), Rows(), CONFIG, out=tmp_path / "killed")
    train(tmp_path / "killed")  # from step 4: the validation at step 6 is made again
    for name in ("validation.jsonl", "pictures/step-00000006-grey.png"):
        files = [(tmp_path / run / name).read_bytes() for run in ("whole", "killed")]
        assert files[0] == files[1]
    with Image.open(tmp_path / "whole/pictures/step-00000006-grey.png") as picture:
        assert (picture.size, picture.getpixel((2, 2))) == ((6, 4), (60, 60, 60))


def test_validation_and_export_see_the_averaged_weights(tmp_path: Path) -> None:
    result = train(tmp_path, replace(CONFIG, ema=0.2))
    state = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    last = read_metrics(tmp_path / "validation.jsonl")[-1]
    averaged = state["ema"]["net.0.weight"]
    assert last["norm"] == float(averaged.norm())
    assert last["norm"] != float(state["model"]["net"]["0.weight"].norm())
    assert torch.equal(result.weights["net"]["0.weight"], averaged)


def test_bad_samples_are_recorded_once_and_stop_the_run_over_the_budget(tmp_path: Path) -> None:
    train(tmp_path / "whole", rows=Rows(bad_from=26))
    rows = read_metrics(tmp_path / "whole" / "problems.jsonl")
    assert [row["index"] for row in rows if row["attempt"] == 0] == list(range(26, 32))
    assert rows[0] == {"step": 7, "index": 26, "attempt": 0, "message": "row 26"}
    train(tmp_path / "parts", replace(CONFIG, steps=7), rows=Rows(bad_from=26))
    train(tmp_path / "parts", rows=Rows(bad_from=26))
    files = [(tmp_path / run / "problems.jsonl").read_bytes() for run in ("whole", "parts")]
    assert files[0] == files[1]

    with pytest.raises(OverBudgetError, match=r"12 of 20 training samples could not be .*lists"):
        train(tmp_path / "bad", rows=Rows(bad_from=8))
    with pytest.raises(OverBudgetError, match="12 of 20"):
        train(tmp_path / "bad", rows=Rows(bad_from=8))
    milder = replace(CONFIG, max_bad_ratio=0.9)
    assert train(tmp_path / "bad", milder, rows=Rows(bad_from=8)).steps == 8


def test_tensorboard_holds_the_numbers_and_pictures_of_the_files(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    train(tmp_path)
    seen: dict[str, dict[int, Any]] = {}
    for event in events(tmp_path / "tensorboard"):
        for value in event.summary.value:
            seen.setdefault(value.tag, {})[event.step] = value
    logged = {step: value.simple_value for step, value in seen["train/loss"].items()}
    expected = {row["step"]: row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert logged == pytest.approx({step: expected[step] for step in (2, 4, 6, 8)})
    assert sorted(seen["validation/norm"]) == [3, 4, 6, 8]
    assert "validation/list" not in seen
    assert seen["grey"][8].image.width == 6
    assert [event.session_log.status for event in events(tmp_path / "tensorboard")].count(1) == 2

    train(tmp_path / "none", replace(CONFIG, tensorboard=False))
    assert not (tmp_path / "none" / "tensorboard").exists()


def events(folder: Path) -> Iterator[Any]:
    """Events of all files in a folder; a record is its length, a checksum, bytes, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_trains_alike(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    compiled = train(tmp_path / "compiled", replace(CONFIG, compile=True))
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    assert compiled.weights["net"].keys() == plain.weights["net"].keys()


def test_compiling_without_a_compiler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and none is on the PATH"):
        train(tmp_path, replace(CONFIG, compile=True))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("accumulate", 0, "accumulate is 0; it must be at least 1"),
        ("validate_every", 0, "validate_every is 0"),
        ("max_bad_ratio", -0.1, "max_bad_ratio is -0.1; it must not be negative"),
    ],
)
def test_impossible_settings_are_refused(field: str, value: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(CONFIG, **{field: value})


def test_a_run_of_an_older_version_goes_on_with_what_it_ran_with(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    state_path = list_checkpoints(tmp_path / "checkpoints")[-1] / "state.pt"
    state = torch.load(state_path, weights_only=True)
    for name in ("accumulate", "compile", "parallel"):
        del state["config"][name]
    for name in ("scaler", "num_problems"):
        del state[name]
    torch.save(state, state_path)
    with pytest.raises(ConfigError, match=r"loop\.accumulate is 2, .* started with 1"):
        train(tmp_path, replace(CONFIG, accumulate=2))
    assert train(tmp_path).steps == 8

    (tmp_path / "config.resolved.yaml").write_text(json.dumps({"loop": {"steps": 4}}))
    new = {"loop": {"steps": 4, "accumulate": 2}}
    with pytest.raises(ConfigError, match=r"loop\.accumulate is 2, .* started with 1"):
        bind_config(tmp_path, new, defaults={"loop": {"accumulate": 1}})
    assert issubclass(ConfigError, EgodojoError)
