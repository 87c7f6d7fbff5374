"""Training of latent actions: what is drawn, held out, measured and written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from latent_actions.blocks import Transformer
from latent_actions.config import DataConfig, ModelConfig, TrainConfig, load_train_config, preset
from latent_actions.data import PairBatches, PairSampler
from latent_actions.held_out import HeldOut
from latent_actions.model import LatentActionModel, Reconstruction, build_model
from latent_actions.preprocess import training_frames
from latent_actions.report import summarise
from latent_actions.sources import ClipSource, dataset_sources, held_out_videos, split
from latent_actions.task import LatentTask, pair_noise
from latent_actions.train import train
from manifests.errors import ConfigError, DatasetError, SampleError
from manifests.mixture import MixtureSpec
from pipeline.training.checkpoint import list_checkpoints, load_checkpoint
from pipeline.training.loop import LoopConfig
from pipeline.training.metrics import read_metrics
from pipeline.training.optimisation import seed_of
from tests.latent_actions.datasets import Made, make_dataset
from tests.latent_actions.helpers import SMALL, MemoryClips

Cli = Callable[..., SimpleNamespace]
CONFIG = TrainConfig(
    model=SMALL,
    data=DataConfig(batch_size=2, validation_share=0.3, validation_pairs=6),
    loop=LoopConfig(
        steps=6, lr=2e-3, warmup_steps=0, checkpoint_every=2, validate_every=4, device="cpu"
    ),
)


def reference_pair(total: int, stride: int, start: int) -> tuple[int, int]:
    """Section 4 of the specification, word for word: window, every k-th frame, last repeated."""
    window = [min(start + offset, total - 1) for offset in range(2 * stride)]
    first, second = window[::stride][:2]
    return first, second


def test_pairs_are_those_of_the_specification() -> None:
    clips = MemoryClips([30, 2, 5, 7])
    sampler = PairSampler(clips.sources, DataConfig(), seed=4)
    seen: dict[tuple[int, int], Counter[int]] = {}
    strides: Counter[int] = Counter()
    for index in range(6000):
        pair = sampler.sample(index)
        total = pair.clip.num_frames
        fitting = [
            k for k in (1, 2, 3, 4) if reference_pair(total, k, pair.first)[1] == pair.second
        ]
        assert fitting
        if total == 30:
            strides[fitting[0]] += 1
            seen.setdefault((total, fitting[0]), Counter())[pair.first] += 1
    for (total, stride), starts in seen.items():
        assert set(starts) == set(range(total - 2 * stride + 1))
    assert max(strides.values()) < 1.2 * min(strides.values())


def test_frames_are_scaled_as_the_specification_says() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 37, 61, 3), dtype=np.uint8)
    got = training_frames(torch.from_numpy(frames), height=24, width=40).numpy()
    left, columns = (61 - 37 * 4 // 3) // 2, 37 * 4 // 3
    cut = frames[:, :, left : left + columns].astype(np.float64) / 255
    expected = np.empty((2, 24, 40, 3))
    for row in range(24):
        for column in range(40):
            y = min(max((row + 0.5) * 37 / 24 - 0.5, 0), 36)
            x = min(max((column + 0.5) * columns / 40 - 0.5, 0), columns - 1)
            top, side = min(int(y), 35), min(int(x), columns - 2)
            dy, dx = y - top, x - side
            four = cut[:, top : top + 2, side : side + 2]
            weights = np.outer([1 - dy, dy], [1 - dx, dx])
            expected[:, row, column] = np.einsum("tijc,ij->tc", four, weights)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_one_brightness_shift_for_both_frames() -> None:
    clips = MemoryClips([30])
    clips.data["clip0"][:] = 128
    batches = PairBatches(
        PairSampler(clips.sources, DataConfig(batch_size=4), seed=0),
        clips.readers,
        height=48,
        width=64,
    )
    frames = batches.batch(0)["frames"]
    assert torch.equal(frames[:, 0], frames[:, 1])
    shifts = frames[:, 0, 0, 0, 0] - 128 / 255
    assert len(set(shifts.tolist())) == 4
    assert float(shifts.abs().max()) <= 0.1


def test_a_mixture_gives_its_sources_exactly_their_weights() -> None:
    clips = MemoryClips([20] * 8)
    weighted = [replace(s, weight=w) for s, w in zip(clips.sources, (1, 2.5), strict=True)]
    sampler = PairSampler(weighted, DataConfig(balance="sample"), seed=3)
    for start in (0, 7, 7000):
        drawn = Counter(sampler.sample(start + n).clip.source for n in range(7))
        assert drawn == {"a": 2, "b": 5}
    ids = {sampler.sample(n).clip.clip_id for n in range(200)}
    assert len(ids) == 8


def test_released_settings() -> None:
    base = preset("base")
    loop = base.loop
    assert (loop.lr, loop.weight_decay, loop.grad_clip, loop.seed) == (2.5e-5, 1e-2, 0.3, 32)
    assert (loop.precision, loop.accumulate, loop.betas) == ("float16", 1, (0.9, 0.999))
    assert (loop.warmup_steps, loop.decay_steps, loop.lr_peak, loop.ema) == (0, 0, 1.0, None)
    data = base.data
    assert (data.batch_size, data.brightness, data.balance) == (20, 0.1, "source")
    assert (data.min_stride, data.max_stride, base.beta) == (1, 4, 1e-6)
    assert (base.model.input, base.recompute, loop.compile) == ("frames", False, False)


def test_held_out_videos_depend_on_their_ids_alone() -> None:
    videos = [f"{n:032x}" for n in range(2000)]
    held = held_out_videos([videos], 0.1)
    assert 150 < len(held) < 250
    assert held_out_videos([videos[::-1]], 0.1) == held
    assert held_out_videos([videos[:1000], videos[1000:]], 0.1) == held
    assert held_out_videos([videos[:500]], 0.1) == held & set(videos[:500])
    assert held_out_videos([videos], 0.02) < held
    assert held_out_videos([videos], 0) == frozenset()
    assert len(held_out_videos([videos[:2]], 1e-9)) == 1
    assert held_out_videos([videos[:1]], 0.9) == frozenset()
    two_sources = held_out_videos([videos[:3], videos[3:6]], 0.999)
    assert len(two_sources) == 4, "each source keeps one video"


def test_no_video_lies_on_both_sides() -> None:
    clips = MemoryClips([20] * 60)
    trained, held = split(clips.sources, 0.3)
    sides = [{v for s in side for v in s.videos()} for side in (trained, held)]
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] == {f"video{n}" for n in range(20)}
    assert sum(s.num_clips for s in (*trained, *held)) == 60
    assert {s.name for s in trained} == {"a", "b"}
    assert split(clips.sources, 0)[1] == ()


def test_bad_clips_are_replaced_alike_by_any_number_of_threads() -> None:
    clips = MemoryClips([20] * 10, broken=["clip2", "clip4", "clip5"])

    def take(threads: int) -> tuple[list[Tensor], list[dict[str, Any]]]:
        config = DataConfig(batch_size=4, num_threads=threads)
        sampler = PairSampler(clips.sources, config, seed=5)
        batches = PairBatches(sampler, clips.readers, height=48, width=64)
        frames = [batch["frames"] for batch, _ in zip(batches, range(6), strict=False)]
        return frames, batches.take_problems()

    frames, problems = take(1)
    again, same = take(3)
    assert all(torch.equal(one, other) for one, other in zip(frames, again, strict=True))
    # One batch more was handed out than looked at: zip asks before it counts.
    assert [p for p in same if p["index"] < 24] == [p for p in problems if p["index"] < 24]
    assert {p["clip_id"] for p in problems} <= clips.broken
    assert problems[0]["reason"] == "checksum"
    assert problems[0]["message"] == f"{problems[0]['clip_id']} is damaged"
    sampler = PairSampler(clips.sources, DataConfig(batch_size=4), seed=5)
    bad = [n for n in range(24) if sampler.sample(n).clip.clip_id in clips.broken]
    assert sorted({p["index"] for p in problems if p["index"] < 24}) == bad
    for problem in problems:
        own = sampler.sample(problem["index"])
        assert problem["source"] == own.clip.source, "a substitute is of the same source"


def test_a_source_without_a_good_clip_stops_with_a_sentence() -> None:
    clips = MemoryClips([20, 20], broken=["clip0", "clip1"])
    sampler = PairSampler(clips.sources, DataConfig(), seed=5)
    batches = PairBatches(sampler, clips.readers, height=48, width=64)
    with pytest.raises(SampleError, match=r"Pair 3 and its 16 substitutes cannot be read") as error:
        batches.pairs(range(3, 4))
    assert "manifest validate memory" in str(error.value.hint)


def test_noise_belongs_to_the_pair() -> None:
    noise = pair_noise(torch.tensor([4, 9, 4]), 32, key=seed_of("x"))
    assert noise.shape == (3, 1, 32)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    many = pair_noise(torch.arange(500), 32, key=1)
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02


class Brightness(nn.Module):
    """Knows the one thing that changes in its pictures: how bright they are."""

    def forward(self, frames: Tensor) -> Reconstruction:
        first, target = frames[:, :-1], frames[:, 1:]
        mu = torch.zeros(len(frames), 1, 32)
        mu[..., 0] = (target - first).mean(dim=(2, 3, 4))
        mu[..., 1] = 5.0
        return Reconstruction(
            recon=self.decode(first, mu), target=target, mu=mu, log_var=torch.zeros_like(mu), z=mu
        )

    def decode(self, first: Tensor, z: Tensor) -> Tensor:
        return first + z[..., :1, None, None]


def test_measures_say_what_the_latent_is_worth() -> None:
    clips = MemoryClips([40, 40, 40], names="a")
    for number, ref in enumerate(clips.refs):
        shape = clips.data[ref.clip_id].shape
        levels = np.arange(40) * (2 * number + 1) % 200 + 20
        clips.data[ref.clip_id] = np.broadcast_to(levels[:, None, None, None], shape).astype(
            np.uint8
        )
    sampler = PairSampler(clips.sources, DataConfig(batch_size=4, brightness=0.0), seed=1)
    batches = PairBatches(sampler, clips.readers, height=48, width=64)
    found = HeldOut(batches, num_pairs=11).measure(
        Brightness(),
        beta=0.5,
        device=torch.device("cpu"),  # type: ignore[arg-type]
    )
    values = found.values
    ranges = [range(5), range(5, 11)]
    pairs = [batches.pairs(numbers).numpy().astype(np.float64) for numbers in ranges]

    def decibels(difference: np.ndarray) -> np.ndarray:
        return -10 * np.log10((difference**2).mean(axis=(1, 2, 3)) + 1e-8)

    changes = [p[:, 1] - p[:, 0] for p in pairs]
    shuffled = [c - np.roll(c.mean(axis=(1, 2, 3)), 1)[:, None, None, None] for c in changes]
    for name, differences in (("shuffled", shuffled), ("zeroed", changes)):
        expected = np.concatenate([decibels(d) for d in differences]).mean()
        assert values[f"psnr_{name}"] == pytest.approx(expected, abs=1e-3)
        assert values[f"psnr_drop_{name}"] == pytest.approx(values["psnr"] - expected, abs=1e-3)
    assert values["psnr_still"] == pytest.approx(values["psnr_zeroed"])
    assert values["psnr"] == pytest.approx(80, abs=0.01)
    latent = np.concatenate([c.mean(axis=(1, 2, 3)) for c in changes])
    assert values["kl"] == pytest.approx(0.5 * (latent**2).mean() + 12.5, rel=1e-5)
    assert values["loss"] == pytest.approx(0.5 * values["kl"], rel=1e-4)
    assert values["latent_mean"][:2] == pytest.approx([latent.mean(), 5.0], rel=1e-5)
    assert values["latent_std"][0] == pytest.approx(latent.std(), rel=1e-5)
    assert values["active_dims"] == int(latent.var() > 0.01)
    assert (values["num_pairs"], values["num_bad"]) == (11, 0)
    grid = found.pictures["painted"]
    assert grid.shape == (18 + 4 * 52, 5 * 68 + 4, 3)
    columns = [grid[18:66, 4 + n * 68 : 68 + n * 68].astype(int) for n in range(5)]
    assert np.abs(columns[2] - columns[1]).max() <= 1
    assert np.abs(columns[4] - columns[0]).max() <= 1
    assert np.abs(columns[3] - columns[1]).max() > 1


def test_flow_is_measured_by_what_is_explained() -> None:
    model = build_model(
        ModelConfig(name="lam-flow", input="flow", width=48, frame_height=48, frame_width=64)
    ).eval()
    clips = MemoryClips([20, 20], names="a")
    sampler = PairSampler(clips.sources, DataConfig(batch_size=4), seed=1)
    batches = PairBatches(sampler, clips.readers, height=48, width=64)
    with torch.no_grad():
        found = HeldOut(batches, num_pairs=4).measure(model, beta=0.0, device=torch.device("cpu"))
        result = model(batches.pairs(range(4)))
        own = 1 - (result.recon - result.target).square().mean() / result.target.square().mean()
    values = found.values
    assert values["explained"] == pytest.approx(float(own), rel=1e-4)
    for name in ("shuffled", "zeroed"):
        drop = values["explained"] - values[f"explained_{name}"]
        assert values[f"explained_drop_{name}"] == pytest.approx(drop)
    assert "psnr" not in values
    assert found.pictures["painted"].shape[1] == 5 * 68 + 4


def test_recomputed_blocks_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = LatentActionModel(SMALL)
    batch = {"frames": torch.rand(2, 2, 48, 64, 3), "index": torch.arange(2)}
    gradients = []
    for recompute in (False, True):
        for part in model.children():
            if isinstance(part, Transformer):
                part.recompute = recompute
        model.zero_grad()
        task = LatentTask(model.train(), beta=1e-6)
        loss, _ = task.loss(batch, step=0, generator=torch.Generator())
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert len(LatentTask(model, beta=0).blocks()) == 3
    with pytest.raises(ConfigError, match=r"recompute has no meaning with model\.input: flow"):
        replace(preset("small"), recompute=True)


def test_sums_stay_exact_in_half_precision() -> None:
    torch.manual_seed(0)
    task = LatentTask(LatentActionModel(SMALL), beta=1e-6)
    batch = {"frames": torch.rand(2, 2, 48, 64, 3), "index": torch.arange(2)}
    with torch.no_grad():
        _, exact = task.loss(batch, step=0, generator=torch.Generator())
        for kind, rel in ((torch.bfloat16, 0.02), (torch.float16, 0.002)):
            with torch.autocast("cpu", kind):
                loss, parts = task.loss(batch, step=0, generator=torch.Generator())
            assert loss.dtype == torch.float32
            assert parts == pytest.approx(exact, rel=rel)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Six clips of three videos; tests must not change it."""
    return make_dataset(tmp_path_factory.mktemp("train") / "data", [24] * 6)


@pytest.fixture(scope="module")
def mixture(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thirds of the clips of one dataset, one third of another one's."""
    root = tmp_path_factory.mktemp("mixture")
    make_dataset(root / "robots", [20] * 4, first_unit=40)
    spec = {
        "sources": {
            "people": {"dataset": str(made.path), "weight": 2, "where": "num_frames > 10"},
            "robots": {"dataset": "robots", "weight": 1, "versions": {"decisions": 1}},
        }
    }
    (root / "mix.yaml").write_text(yaml.safe_dump(spec))
    return root / "mix.yaml"


def test_a_run_on_a_mixture_validates_and_resumes_exactly(mixture: Path, tmp_path: Path) -> None:
    spec = MixtureSpec.load(mixture)
    whole = train(spec, CONFIG, out=tmp_path / "whole")
    assert whole is not None
    assert (whole.num_clips, whole.num_held_out_clips) == (8, 2)
    train(spec, replace(CONFIG, loop=replace(CONFIG.loop, steps=3)), out=tmp_path / "parts")
    parts = train(spec, CONFIG, out=tmp_path / "parts")
    assert parts is not None
    assert parts.model_id == whole.model_id
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    found = {
        run: {row["step"]: row for row in read_metrics(tmp_path / run / "validation.jsonl")}
        for run in ("whole", "parts")
    }
    assert (list(found["whole"]), list(found["parts"])) == ([4, 6], [3, 4, 6])
    assert all(found["parts"][step] == row for step, row in found["whole"].items())
    assert whole.validation == found["whole"][6]
    measures = {"psnr", "ssim", "kl", "mse", "psnr_drop_shuffled", "psnr_drop_zeroed"}
    assert measures <= found["whole"][6].keys()
    with Image.open(tmp_path / "whole/pictures/step-00000006-painted.png") as picture:
        assert picture.size == (5 * 68 + 4, 18 + 2 * 52)
    config = yaml.safe_load((tmp_path / "whole" / "config.resolved.yaml").read_text())
    assert config["versions"]["robots"]["decisions"] == 1
    assert set(config["versions"]) == {"people", "robots"}
    heavier = replace(spec.sources["people"], weight=3)
    other = replace(spec, sources={**spec.sources, "people": heavier})
    with pytest.raises(ConfigError, match=r"mixture\.sources\.people\.weight is 3, but the run"):
        train(other, CONFIG, out=tmp_path / "whole")


def test_averaged_weights_are_exported(made: Made, tmp_path: Path) -> None:
    averaging = replace(CONFIG, loop=replace(CONFIG.loop, ema=0.1))
    train(made.path, averaging, out=tmp_path)
    state = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    model = LatentActionModel.from_pretrained(tmp_path)
    assert torch.equal(model.fc.weight, state["ema"]["lam.fc.weight"])
    assert not torch.equal(model.fc.weight, state["model"]["lam"]["fc.weight"])


SETS = [
    *("--set", "model.frame_height=48", "--set", "model.frame_width=64", "--set", "model.width=16"),
    *("--set", "data.batch_size=2", "--set", "data.validation_pairs=4", "--set", "loop.device=cpu"),
]


def test_damaged_clips_are_recorded_and_told(tmp_path: Path, cli: Cli) -> None:
    made = make_dataset(tmp_path / "d", [20] * 6)
    tar = made.path / "shards" / "clips-000000.tar"
    data = bytearray(tar.read_bytes())
    places = [n for n in range(len(data)) if data.startswith(b"mdat", n)]
    for place in places:
        data[place + 600] ^= 0xFF
    tar.write_bytes(bytes(data))
    args = ["latents", "train", made.path, *SETS, "--set", "data.validation_share=0"]
    done = cli(*args, "--steps", 3, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    rows = read_metrics(tmp_path / "run" / "problems.jsonl")
    bad = {row["index"] for row in rows}
    assert {row["reason"] for row in rows} == {"checksum"}
    assert {row["clip_id"] for row in rows} <= set(made.clip_ids[:2])
    assert f"{len(bad)} pairs could not be read and were replaced: " in done.stdout
    assert "no clip is held out" in done.stdout

    done = cli(*args, "--steps", 40, "--out", tmp_path / "long")
    assert done.exit_code == 3
    assert "11 of" in done.stderr
    assert "training samples could not be read, more than 0.10% and more than 10" in done.stderr
    assert "manifest validate" in done.stderr


def test_the_command_trains_on_a_mixture_and_sums_up(
    mixture: Path, tmp_path: Path, cli: Cli
) -> None:
    args = ["latents", "train", "--mixture", mixture, "--out", tmp_path / "run", *SETS]
    done = cli(*args, "--steps", 2, "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert data["validation"]["num_pairs"] == 4
    assert data["steps"] == 2
    told = cli(*args, "--steps", 2).stdout
    assert told.startswith(f"{data['model_id']}: 2 steps on 8 clips, loss ")
    assert "held out: 4 pairs of 2 clips: PSNR" in told
    assert "dB less with latents of other pairs" in told
    (tmp_path / "run" / "metrics.jsonl").unlink()
    gone = cli(*args, "--steps", 2)
    assert gone.exit_code == 1
    assert "which held the losses of every step, is gone; the model is in" in gone.stderr


def test_wrong_uses_are_refused(mixture: Path, made: Made, tmp_path: Path, cli: Cli) -> None:
    out = ["--out", tmp_path / "run"]
    for args in ([], [made.path, "--mixture", mixture]):
        done = cli("latents", "train", *args, *out)
        assert done.exit_code == 2
        assert "Give either a DATASET or --mixture." in done.stderr
    done = cli("latents", "train", "--mixture", tmp_path / "none.yaml", *out)
    assert done.exit_code == 2
    assert "Cannot read the configuration file" in done.stderr
    done = cli("latents", "train", made.path, *out, "--workers", 0)
    assert done.exit_code == 2
    where = ["--set", "data.where=num_frames > 3"]
    done = cli("latents", "train", "--mixture", mixture, *out, *where)
    assert done.exit_code == 2
    assert "but sources of a mixture have their own" in done.stderr
    planned = cli("latents", "train", "--mixture", mixture, *out, "--dry-run", "--json")
    assert json.loads(planned.stdout)["data"]["validation_share"] == 0.02
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("validation_share", 1.0, r"validation_share is 1.0, it must lie in \[0, 1\)"),
        ("validation_pairs", 1, "latents are shuffled between pairs"),
    ],
)
def test_impossible_data_settings_are_refused(name: str, value: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(CONFIG.data, **{name: value})


def test_sources_without_a_pair_are_refused(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "d", [1, 1])
    with pytest.raises(DatasetError, match="No clip has two frames"):
        dataset_sources(made.path, where="true")
    with pytest.raises(DatasetError, match="No clip has two frames"):
        PairSampler([], DataConfig(), seed=0)
    with pytest.raises(ConfigError, match="no model size 'huge'"):
        load_train_config("huge")


def test_a_loss_that_was_not_finite_is_said(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null, "seconds": 0.5}\n')
    summary = summarise(tmp_path, model_id="m-1", num_clips=3, num_held_out_clips=0)
    assert summary.first_loss is None
    assert "loss not finite -> not finite, 0.50 s a step" in summary.text()
    flow = {"explained": 0.5, "explained_shuffled": 0.1, "explained_zeroed": 0.0}
    row = {**flow, "num_pairs": 8, "active_dims": 3, "latent_std": [1.0] * 32}
    told = replace(summary, validation=row).text()
    assert "50.0% of the motion explained, 10.0% with latents of other pairs, 0.0% with" in told
    assert "3 of 32 dimensions vary" in told
    lost = replace(summary, validation={**row, "explained": None})
    assert "held out: the measures are not finite" in lost.text()


def test_a_clip_is_taken_from_its_table() -> None:
    table = pa.table(
        {
            "clip_id": ["a", "b"],
            "shard": ["s", "s"],
            "source": ["x", "x"],
            "num_frames": [3, 9],
            "video_id": ["v", "v"],
        }
    )
    source = ClipSource(name="x", dataset="d", table=table)
    assert (source.clip(1).clip_id, source.clip(1).num_frames, source.num_clips) == ("b", 9, 2)
