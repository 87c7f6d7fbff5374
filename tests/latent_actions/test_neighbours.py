"""Learning from neighbours: mining, views, the loss, and a run that can be stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latent_actions.config import DataConfig, ModelConfig, NeighbourConfig, TrainConfig
from latent_actions.neighbours.augment import altered, ground_of
from latent_actions.neighbours.flow_clips import FlowClips, write_flow_clips
from latent_actions.neighbours.mining import mutual_neighbours
from latent_actions.neighbours.objective import contrast
from latent_actions.neighbours.views import Views
from latent_actions.sources import CameraColumns, dataset_sources, mixture_sources, split
from latent_actions.train import train
from manifests.errors import ConfigError, DatasetError, SampleError
from manifests.mixture import MixtureSpec, SourceSpec
from pipeline.clips import ClipReader
from pipeline.training.loop import LoopConfig
from pipeline.training.metrics import read_metrics
from tests.latent_actions.datasets import make_dataset

STILL = NeighbourConfig(
    weight=1.0, clips=6, turn=0, speed=0, camera_px=0, parallax_px=0, noise_px=0, background=0
)
SHAPE = ModelConfig(name="lam-flow", input="flow", width=48, frame_height=48, frame_width=64)


def random_clips(
    bodies: Sequence[str],
    *,
    seed: int = 0,
    recordings: Sequence[int] = (),
    cameras: Sequence[str | None] = (),
) -> FlowClips:
    rng = np.random.default_rng(seed)
    shape = (len(bodies), 16)
    return FlowClips(
        flows=rng.normal(size=(*shape, 2, 24, 32)).astype(np.float16),
        grids=rng.normal(size=(*shape, 96)).astype(np.float32),
        histograms=rng.normal(size=(*shape, 32)).astype(np.float32),
        bodies=list(bodies),
        recordings=list(recordings) or list(range(len(bodies))),
        cameras=list(cameras) or [""] * len(bodies),
    )


def test_neighbours_are_near_both_ways_and_on_other_bodies() -> None:
    angle = np.array([0.0, 0.1, 1.5, 0.05, 1.4, 1.45])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    bodies = ["a", "a", "a", "b", "b", "b"]
    pairs = mutual_neighbours(vectors[None], bodies, nearest=1)
    assert (2, 5) in {tuple(pair) for pair in pairs.tolist()}
    assert all(left < 3 <= right for left, right in pairs.tolist())
    assert len(pairs) == 2
    every = mutual_neighbours(vectors[None], bodies, nearest=3)
    assert len(every) == 9
    assert mutual_neighbours(vectors[None], ["a"] * 6, nearest=3).shape == (0, 2)


def test_a_body_unlike_all_others_has_neighbours_too() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 4))
    vectors[20:, 0] += 50  # the third body lies far from both
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bodies = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    pairs = mutual_neighbours(vectors[None], bodies, nearest=2)
    assert {(bodies[i], bodies[j]) for i, j in pairs} == {("a", "b"), ("a", "c"), ("b", "c")}


def test_cameras_together_tell_apart_what_one_cannot() -> None:
    """The first camera sees two motions as one, the second tells them apart."""
    angle = np.array([[0.0, 0.02, 0.01, 0.03], [0.0, 1.5, 1.5, 0.0]])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=2)
    bodies = ["a", "a", "b", "b"]
    assert {(0, 3), (1, 2)} == _pairs(mutual_neighbours(vectors, bodies, nearest=1))
    assert {(0, 3), (1, 2)} != _pairs(mutual_neighbours(vectors[:1], bodies, nearest=1))


def test_recordings_that_no_camera_filmed_both_are_no_neighbours() -> None:
    vectors = np.ones((2, 4, 1))
    vectors[0, 1] = vectors[1, 0] = 0  # recordings 0 and 1: one camera each
    vectors[:, 2] = 0  # recording 2: none
    vectors[1, 3] = 0  # recording 3: the first alone
    pairs = mutual_neighbours(vectors, ["a", "b", "b", "b"], nearest=3)
    assert _pairs(pairs) == {(0, 3)}


def _pairs(found: NDArray[np.int64]) -> set[tuple[int, int]]:
    return {(int(left), int(right)) for left, right in found}


def test_the_loss_is_the_cross_entropy_of_partners() -> None:
    torch.manual_seed(0)
    embeddings, clips = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 1, 4])
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    expected = []
    for i in range(6):
        partner = (i + 3) % 6
        others = [j for j in range(6) if j != i and (j == partner or clips[j] != clips[i])]
        logits = torch.stack([unit[i] @ unit[j] / 0.2 for j in others])
        expected.append(torch.logsumexp(logits, 0) - unit[i] @ unit[partner] / 0.2)
    loss, _ = contrast(embeddings, clips, temperature=0.2)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_views_of_the_same_clip_are_no_mistake() -> None:
    same = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    embeddings = torch.cat((same, same))
    loss, found = contrast(embeddings, torch.tensor([0, 1, 2, 3]), temperature=0.05)
    assert float(found) == 1.0
    assert float(loss) < 1e-6
    # Clip 0 twice among the first views: the other view of it must not be asked to differ.
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    loss, _ = contrast(twice, torch.tensor([0, 0, 0, 0]), temperature=0.05)
    assert float(loss) == 0.0


def test_without_strength_a_view_is_what_was_seen() -> None:
    flows = torch.randn(3, 4, 2, 24, 32)
    seen = altered(flows, STILL, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen, flows, atol=1e-4, rtol=1e-4)


def test_a_turn_turns_places_and_motion_together() -> None:
    """A flow away from the centre stays one, whatever the turn and the scale about it."""
    y, x = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(32) - 15.5, indexing="ij")
    away = torch.stack([x, y]).expand(8, 1, -1, -1, -1).clone()
    generator = torch.Generator().manual_seed(1)
    seen = altered(away, replace(STILL, turn=0.2), generator=generator)[:, 0]
    middle = (slice(None), slice(None), slice(8, 16), slice(11, 21))
    residual = (seen - away[:, 0])[middle]
    # What is left is the shift alone: the same for all places of a view.
    assert float(residual.std(dim=(2, 3)).max()) < 0.05
    assert float(residual.abs().max()) > 0.2


def test_speed_scales_a_view_as_a_whole() -> None:
    flows = torch.randn(5, 4, 2, 24, 32)
    seen = altered(flows, replace(STILL, speed=0.3), generator=torch.Generator().manual_seed(2))
    ratio = (seen / flows).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=5e-2, rtol=5e-2)
    assert float(ratio[:, 0].std()) > 0.05


def test_ground_is_what_hardly_moves() -> None:
    flows = torch.zeros(1, 1, 2, 24, 32)
    flows[..., 0, :, :16], flows[..., 0, :, 16:] = 0.5, 5.0
    ground = ground_of(flows, replace(STILL, ground_px=1.0))
    assert torch.equal(ground[..., :16], flows[..., :16])
    assert float(ground[..., 16:].abs().max()) == 0.0


def test_a_draw_is_a_function_of_seed_and_number() -> None:
    clips = random_clips(["a"] * 8 + ["b"] * 8)
    config = NeighbourConfig(weight=1.0, clips=6)
    views = Views(clips, config, seed=3)
    first, ids = views.draw(5)
    again, same_ids = Views(clips, config, seed=3).draw(5)
    assert first.shape == (12, 4, 2, 24, 32)
    assert torch.equal(first, again)
    assert torch.equal(ids, same_ids)
    assert not torch.equal(first, views.draw(6)[0])
    assert not torch.equal(first, Views(clips, config, seed=4).draw(5)[0])


def test_partners_are_neighbours_or_the_same_clip() -> None:
    views = Views(random_clips(["a"] * 8 + ["b"] * 8), replace(STILL, same_clip=0.5), seed=0)
    known = {tuple(pair) for pair in views.pairs.tolist()}
    kinds = set()
    for number in range(20):
        clips = views.draw(number)[1]
        for left, right in zip(clips[:6].tolist(), clips[6:].tolist(), strict=True):
            assert left == right or (left, right) in known
            kinds.add(left == right)
    assert kinds == {True, False}


def test_views_of_a_recording_are_by_two_of_its_cameras() -> None:
    recordings = [0, 0, 0, 1, 1, 2, 3, 3]
    cameras = ["head", "side", None, "head", "side", None, "side", "head"]
    clips = random_clips(
        ["a", "a", "a", "b", "b", "b", "b", "b"], recordings=recordings, cameras=cameras
    )
    flows = np.zeros_like(clips.flows)
    flows += np.arange(8, dtype=np.float16)[:, None, None, None, None]
    views = Views(replace(clips, flows=flows), replace(STILL, same_clip=0.5, nearest=5), seed=0)
    assert _pairs(views.pairs) == {(0, 1), (0, 3)}  # recording 2 has no camera to compare by
    met = set()
    for number in range(30):
        drawn, shown = views.draw(number)
        seen = drawn[:, 0, 0, 0, 0].round().int().tolist()
        assert shown.tolist() == [recordings[clip] for clip in seen]
        met |= set(zip(seen[:6], seen[6:], strict=True))
    alone = {(left, right) for left, right in met if recordings[left] == recordings[right]}
    assert {(left, right) for left, right in alone if left == right} == {(5, 5)}
    assert {(0, 1), (1, 2), (2, 0), (3, 4), (6, 7)} <= alone
    assert {(0, 4), (2, 3), (1, 6)} <= met - alone


def test_a_view_shows_every_quarter_of_its_clip() -> None:
    clips = random_clips(["a", "a", "b", "b"])
    flows = np.zeros_like(clips.flows)
    flows += np.arange(16, dtype=np.float16)[None, :, None, None, None]
    views, _ = Views(replace(clips, flows=flows), STILL, seed=0).draw(0)
    quarters = (views.mean(dim=(2, 3, 4)).round() // 4).int()
    assert torch.equal(quarters, torch.arange(4, dtype=torch.int32).expand(12, 4))


def test_one_body_alone_learns_from_its_own_clips(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        views = Views(random_clips(["a"] * 5), STILL, seed=0)
    assert "no clip has a neighbour on another body (5 clips of: a)" in caplog.text
    clips = views.draw(0)[1]
    assert torch.equal(clips[:6], clips[6:])


def config(**loop: object) -> TrainConfig:
    return TrainConfig(
        model=SHAPE,
        data=DataConfig(
            batch_size=4, min_stride=2, max_stride=4, validation_share=0, num_threads=1
        ),
        neighbours=NeighbourConfig(weight=1.0, clips=4, nearest=2),
        loop=LoopConfig(steps=4, lr=1e-3, checkpoint_every=2, tensorboard=False, **loop),  # type: ignore[arg-type]
        beta=3e-5,
    )


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (20, 20, 20, 20))
    whole = train(made.path, config(), out=tmp_path / "whole")
    half = config()
    train(made.path, replace(half, loop=replace(half.loop, steps=2)), out=tmp_path / "parts")
    parts = train(made.path, half, out=tmp_path / "parts")
    assert whole is not None and parts is not None  # noqa: PT018
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for name in ("loss", "contrast", "found", "explained"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]
    assert parts.model_id == whole.model_id
    assert not (tmp_path / "whole" / "flow_clips").exists()


def test_clips_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_dataset(tmp_path / "data", (20, 20, 20, 20))
    sources = dataset_sources(made.path, where="true").sources

    class Damaged(ClipReader):
        def frames(self, shard, clip_id, indices):  # type: ignore[no-untyped-def]
            if clip_id == made.clip_ids[1]:
                raise SampleError("its bytes have changed", reason="checksum")
            return super().frames(shard, clip_id, indices)

    readers = {str(made.path): Damaged(made.path)}
    with caplog.at_level(logging.WARNING):
        write_flow_clips(sources, readers, config(), tmp_path / "flow")
    clips = FlowClips.open(tmp_path / "flow")
    assert sorted(clips.bodies) == ["human", "human", "panda"]
    assert "no flow of 1 clips that cannot be read, such as: its bytes have changed" in caplog.text
    assert len(Views(clips, STILL, seed=0).draw(0)[0]) == 12


def test_clips_too_short_for_a_pair_are_refused(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (3, 3))
    with pytest.raises(DatasetError, match="Only 0 clips are longer than 3 frames"):
        train(made.path, config(), out=tmp_path / "run")


def test_only_some_clips_are_looked_at_when_there_are_many(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (20,) * 6)
    sources = dataset_sources(made.path, where="true").sources
    few = replace(config(), neighbours=replace(config().neighbours, max_clips=3))
    write_flow_clips(sources, {str(made.path): ClipReader(made.path)}, few, tmp_path / "flow")
    assert len(FlowClips.open(tmp_path / "flow").bodies) == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight": -1.0}, "neighbours.weight is -1.0"),
        ({"clips": 1}, "clips 1"),
        ({"same_clip": 1.5}, "neighbours.same_clip is 1.5"),
        ({"recording": "uri"}, "neighbours.recording is 'uri' and camera ''"),
        ({"temperature": 0.0}, "neighbours.temperature is 0.0"),
        ({"noise_px": -0.1}, "neighbours.noise_px is -0.1"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        NeighbourConfig(**change)  # type: ignore[arg-type]


BY_TWO_CAMERAS = NeighbourConfig(
    weight=1.0,
    clips=4,
    nearest=2,
    recording="CASE WHEN embodiment = 'human' THEN 'one' END",
    camera="nullif(regexp_extract(uri, '([0-9]).mp4', 1), '1')",
)


def test_recordings_and_cameras_are_read_off_the_clips(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (20, 20, 20, 20))
    cameras = CameraColumns(recording=BY_TWO_CAMERAS.recording, camera=BY_TWO_CAMERAS.camera)
    sources = dataset_sources(made.path, where="true", cameras=cameras).sources
    readers = {str(made.path): ClipReader(made.path)}
    write_flow_clips(sources, readers, config(), tmp_path / "flow")
    clips = FlowClips.open(tmp_path / "flow")
    shown = dict(zip(clips.recordings, clips.bodies, strict=True))
    # Both human clips start their videos, so they show the same; nothing is known of the others.
    assert sorted(shown.values()) == ["human", "panda", "panda"]
    assert sorted(str(camera) for camera in clips.cameras) == ["0", "0", "None", "None"]
    few = replace(config(), neighbours=replace(BY_TWO_CAMERAS, max_clips=3))
    write_flow_clips(sources, readers, few, tmp_path / "few")
    assert len(FlowClips.open(tmp_path / "few").bodies) <= 3


def test_a_held_out_clip_is_held_out_by_all_cameras(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", (20,) * 8, per_shard=1)
    cameras = CameraColumns(recording="embodiment", camera="uri")
    sources = dataset_sources(made.path, where="embodiment = 'human'", cameras=cameras).sources
    assert sum(source.num_clips for source in split(sources, 0.1)[0]) == 0
    alone = dataset_sources(made.path, where="embodiment = 'human'").sources
    assert sum(source.num_clips for source in split(alone, 0.1)[0]) == 3


@pytest.mark.parametrize("column", ["recording", "camera"])
def test_a_wrong_expression_is_named(tmp_path: Path, column: str) -> None:
    made = make_dataset(tmp_path / "data", (20, 20))
    wrong = CameraColumns(**{"recording": "uri", "camera": "uri", column: "nothing"})
    with pytest.raises(DatasetError, match='"nothing" not found'):
        dataset_sources(made.path, where="true", cameras=wrong)
    spec = MixtureSpec(sources={"x": SourceSpec(dataset=str(made.path), weight=1)}, seed=0)
    with pytest.raises(ConfigError, match=r"Source 'x': .* has not what was asked of its clips"):
        mixture_sources(spec, cameras=wrong)


def test_neighbours_are_for_flow_alone() -> None:
    with pytest.raises(ConfigError, match="neighbours are found and learned in flow"):
        TrainConfig(neighbours=NeighbourConfig(weight=1.0))
