"""The `small` model: flow without the camera, the network over it, its place part, its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latent_actions.config import DataConfig, ModelConfig, TrainConfig, preset
from latent_actions.extract import Extractor
from latent_actions.flow import pair_flow, stabilise, stabilised_flows
from latent_actions.flow_model import FlowActionModel, coarse
from latent_actions.model import LatentActionModel, build_model
from latent_actions.train import train
from manifests.errors import ConfigError
from pipeline.training.loop import LoopConfig
from pipeline.training.metrics import read_metrics
from tests.latent_actions.datasets import make_dataset

SHAPE = ModelConfig(name="lam-flow", input="flow", width=48, frame_height=48, frame_width=64)


def texture(height: int = 96, width: int = 128, *, seed: int = 0) -> np.ndarray:
    """Grey noise smooth enough for flow, with room around for shifts."""
    noise = torch.rand(1, 1, height // 6, width // 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")
    return (smooth[0, 0].clamp(0, 1) * 255).numpy().astype(np.uint8)


def scene(x: int, *, pan: int = 0) -> np.ndarray:
    """A textured square at column x on a textured ground moved `pan` pixels: (96, 128)."""
    picture = texture(96, 168, seed=1)[:, 20 - pan : 148 - pan].copy()
    picture[36:60, x : x + 24] = texture(24, 24, seed=2)
    return picture


def test_flow_is_the_shift_in_pixels() -> None:
    ground = texture(96, 168, seed=1)
    flow = pair_flow(
        np.ascontiguousarray(ground[:, 20:148]), np.ascontiguousarray(ground[:, 17:145])
    )
    np.testing.assert_allclose(np.median(flow, axis=(0, 1)), (3.0, 0.0), atol=0.2)


def test_the_cameras_motion_goes_and_the_hands_stays() -> None:
    flow = stabilise(pair_flow(scene(50), scene(56, pan=3)))
    inside, outside = flow[40:56, 54:70], np.delete(flow, slice(30, 66), axis=0)
    assert np.median(inside[..., 0]) == pytest.approx(3.0, abs=0.6)  # 6 less the camera's 3
    assert abs(np.median(outside)) < 0.15


def test_a_quadratic_motion_is_all_camera() -> None:
    y, x = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 128), indexing="ij")
    field = np.stack([2 + x - 0.5 * y * x, 1 - x * x + 0.3 * y], axis=-1).astype(np.float32)
    assert np.abs(stabilise(field)).max() < 1e-3


def frames(*, num: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(2 * num, 3, 12, 16, generator=generator)
    large = torch.nn.functional.interpolate(small, size=(48, 64), mode="bilinear")
    return large.permute(0, 2, 3, 1).unflatten(0, (2, num))


def model(seed: int = 0) -> FlowActionModel:
    torch.manual_seed(seed)
    built = build_model(SHAPE)
    assert isinstance(built, FlowActionModel)
    return built.eval()


def test_same_interface_as_every_latent_action_model(tmp_path: Path) -> None:
    net = model()
    mu, log_var = net.encode(frames())
    assert mu.shape == log_var.shape == (2, 2, 32)
    painted = net.decode(frames()[:, :-1], mu).detach()
    assert painted.shape == (2, 2, 48, 64, 3)
    assert 0 <= float(painted.min()) <= float(painted.max()) <= 1
    net.save_pretrained(tmp_path / "m")
    again = LatentActionModel.from_pretrained(tmp_path / "m")
    part = LatentActionModel.from_pretrained(tmp_path / "m", encoder_only=True)
    assert again.model_id == part.model_id == net.model_id
    torch.testing.assert_close(part.encode(frames())[0], mu)
    with pytest.raises(ValueError, match="cannot decode"):
        part.decode(frames()[:, :-1], mu)


def test_pairs_of_a_batch_do_not_touch_each_other() -> None:
    net = model()
    whole, _ = net.encode(frames())
    alone, _ = net.encode(frames()[1:, 1:])
    torch.testing.assert_close(alone[0, 0], whole[1, 1], atol=1e-5, rtol=1e-4)


def test_place_part_holds_what_the_axes_can() -> None:
    net = model()
    generator = torch.Generator().manual_seed(3)
    mu = torch.randn(400, 32, generator=generator) * 0.01  # hardly anything learned
    fields = torch.zeros(400, 96)
    fields[:, 10] = torch.randn(400, generator=generator)
    before = net.model_id
    net.fit_place(mu, fields)
    assert net.model_id != before
    joined = net.place(mu[:, None], fields[:, None])[:, 0]
    assert abs(float(np.corrcoef(joined[:, 0], fields[:, 10])[0, 1])) > 0.7
    back = net.place.learned(joined)
    error = (back - mu).square().mean() / mu.square().mean()
    assert error < 0.1


def test_coarse_flow_keeps_the_place() -> None:
    flows = torch.zeros(1, 1, 2, 48, 64)
    flows[..., 0, 8:16, 24:32] = 4.0
    fields = coarse(flows)[0, 0].unflatten(0, (2, 6, 8))
    assert fields[0, 1, 3] == 4.0
    assert int((fields != 0).sum()) == 1


def test_extraction_takes_it_like_any_other() -> None:
    net = model()
    clip = (frames(num=5)[0] * 255).to(torch.uint8).numpy()
    rows = Extractor(net, batch_size=3).extract(clip, steps=(2,))[2]
    assert rows.shape == (3, 32)
    pair = torch.from_numpy(clip[[1, 3]]).float()[None] / 255
    expected = net.encode(pair)[0][0, 0].detach().numpy()
    np.testing.assert_allclose(rows[1], expected, atol=2e-3)


def test_training_learns_motion_and_fits_the_place(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (40, 40, 40, 40))
    config = TrainConfig(
        model=SHAPE,
        data=DataConfig(batch_size=8, min_stride=2, max_stride=4),
        loop=LoopConfig(steps=25, lr=3e-3, warmup_steps=2, grad_clip=1.0, checkpoint_every=25),
        beta=3e-5,
    )
    result = train(made.path, config, out=tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert np.mean([row["explained"] for row in rows[-5:]]) > rows[0]["explained"] + 0.1
    trained = LatentActionModel.from_pretrained(result.path)
    assert isinstance(trained, FlowActionModel)
    assert float(trained.place.mean.abs().sum()) > 0
    again = train(made.path, config, out=tmp_path / "run")  # nothing left to do
    assert again.model_id == result.model_id


def test_flow_of_frames_without_motion_is_nothing() -> None:
    still = frames(num=1).expand(-1, 2, -1, -1, -1)
    assert float(stabilised_flows(still).abs().max()) < 1e-3


def test_small_is_small_enough_to_ship() -> None:
    with torch.device("meta"):
        net = build_model(preset("small").model)
    assert sum(p.numel() for p in net.parameters()) * 4 < 12e6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 100}, "multiple of 48"),
        ({"frame_height": 100}, "multiple of 16"),
        ({"place_weight": -1.0}, "place_weight"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, float], text: str) -> None:
    values = {"input": "flow", "width": 48, "frame_height": 48, "frame_width": 64, **change}
    with pytest.raises(ConfigError, match=text):
        ModelConfig(**values)  # type: ignore[arg-type]


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="Frames must be 48x64"):
        model().encode(torch.zeros(1, 2, 64, 80, 3))
