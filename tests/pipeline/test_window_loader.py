"""Batches from real shards: exact frames, one order for all topologies, exact resume, bad bytes."""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from manifests.action_vector import rebaseline
from manifests.dataset import Dataset
from manifests.embodiment import load_embodiment
from manifests.errors import ConfigError, DatasetError, OverBudgetError, SampleError
from manifests.mixture import MixtureSpec
from manifests.mixture.plan import MixturePlan
from manifests.records import clip_id_of
from manifests.shard_index import ShardIndex
from pipeline.mp4 import index_mp4
from pipeline.shards import ShardWriter
from pipeline.testing import draw_barcode, read_barcode
from pipeline.training import data
from pipeline.training.data import WindowLoader
from pipeline.video import write_video
from tests.mixture_helpers import FakeClip, make_catalogue, write_latents

MODEL = "lam-0123abcd"
HEIGHT, WIDTH = 96, 128
FRAMES_PER_CLIP = 100  # barcodes are number of the clip * 100 + frame

PEOPLE = [FakeClip(num_frames=16 + n, shard=n // 3) for n in range(6)]
ROBOTS = [FakeClip(num_frames=30 + n, embodiment="sim_arm6", shard=n // 2) for n in range(4)]


def fill_shards(root: Path, clips: list[FakeClip], actions: np.ndarray | None = None) -> None:
    """Puts pictures with barcodes, and a robot's actions, into the shards of a catalogue."""
    for shard, members in itertools.groupby(enumerate(clips), key=lambda pair: pair[1].shard):
        with ShardWriter(root / "shards" / f"clips-{shard:06d}.tar") as writer:
            for number, clip in members:
                clip_id = clip_id_of(f"{number + 1:032x}", 0, clip.num_frames, "1/30")
                content = {"mp4": movie(root, number, clip.num_frames), "json": b"{}"}
                if actions is not None:
                    file = io.BytesIO()
                    np.save(file, actions[: clip.num_frames])
                    content["actions.npy"] = file.getvalue()
                writer.add(clip_id, content, index_mp4(content["mp4"]))
            writer.finish()


def movie(root: Path, number: int, num_frames: int) -> bytes:
    plain = np.full((HEIGHT, WIDTH, 3), 40 + 20 * number, dtype=np.uint8)
    pictures = [draw_barcode(plain, FRAMES_PER_CLIP * number + t) for t in range(num_frames)]
    path = root / "movie.mp4"
    write_video(path, pictures, 30, options={"bf": "0", "sc_threshold": "0"})
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (40, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, actions: np.ndarray) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for name, clips, recorded in (("people", PEOPLE, None), ("robots", ROBOTS, actions)):
        dataset = make_catalogue(root / name, clips, size=(HEIGHT, WIDTH))
        fill_shards(root / name, clips, recorded)
        write_latents(dataset, MODEL, 1)
        write_latents(dataset, MODEL, 2)
    return root


def make_plan(root: Path, out: Path, **changes: Any) -> MixturePlan:
    values: dict[str, Any] = {
        "sources": {
            "people": {"dataset": str(root / "people"), "weight": 3},
            "robots": {"dataset": str(root / "robots"), "weight": 1, "stride": 2},
        },
        "window": {"frame_size": [HEIGHT, WIDTH]},
        "latents": MODEL,
    }
    out.mkdir(exist_ok=True)
    file = out / "mixture.yaml"
    file.write_text(yaml.safe_dump({**values, **changes}))
    return MixtureSpec.load(file).plan().save(out / "mixture.plan")


@pytest.fixture(scope="module")
def plan(made: Path, tmp_path_factory: pytest.TempPathFactory) -> MixturePlan:
    return make_plan(made, tmp_path_factory.mktemp("plan"))


def first(loader: WindowLoader, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(loader, count))


def fingerprints(batches: list[dict[str, Any]]) -> dict[int, tuple[str, int, float, float]]:
    """Position -> what was handed out there, pictures and actions included."""
    return {
        int(index): (
            batch["clip_id"][place],
            int(batch["first_frame"][place]),
            float(batch["video"][place].double().sum()),
            float(batch["action"][place].double().sum()),
        )
        for batch in batches
        for place, index in enumerate(batch["index"])
    }


def test_every_frame_and_latent_is_the_planned_one(plan: MixturePlan) -> None:
    loader = WindowLoader(plan, batch_size=8)
    batches = first(loader, 3)
    numbers = {
        clip_id_of(f"{number + 1:032x}", 0, clip.num_frames, "1/30"): (number, clip.embodiment)
        for clips in (PEOPLE, ROBOTS)
        for number, clip in enumerate(clips)
    }
    for batch in batches:
        assert (batch["video"].dtype, batch["action"].dtype) == (torch.uint8, torch.float32)
        assert batch["video"].shape == (8, 3, 13, HEIGHT, WIDTH)
        assert batch["action"].shape == (8, 12, 384)
        for place in range(8):
            sample = plan.sample(int(batch["index"][place]))
            assert batch["source"][place] == sample.source
            assert batch["clip_id"][place] == sample.clip_id
            assert batch["first_frame"][place] == sample.first_frame
            number, embodiment = numbers[sample.clip_id]
            assert batch["embodiment"][place] == embodiment
            wanted = [sample.first_frame + sample.stride * t for t in range(13)]
            pictures = batch["video"][place].permute(1, 2, 3, 0).numpy()
            found = [read_barcode(picture) for picture in pictures]
            assert found == [FRAMES_PER_CLIP * number + frame for frame in wanted]
            latents = batch["action"][place, :, 352:]
            assert latents[:, 0].tolist() == wanted[:12]
            assert not latents[:, 2:].any()
    assert [batch["index"].tolist() for batch in batches] == [
        list(range(start, start + 8)) for start in (0, 8, 16)
    ]
    assert loader.bad_samples == []


def test_recorded_actions_fill_the_slot_of_their_body(
    plan: MixturePlan, actions: np.ndarray
) -> None:
    body = load_embodiment("sim_arm6")
    assert body.slot is not None
    slot = slice(body.slot.start, body.slot.stop)
    seen = set()
    for batch in first(WindowLoader(plan, batch_size=8), 3):
        for place, source in enumerate(batch["source"]):
            rows = batch["action"][place, :, :352].numpy()
            seen.add(source)
            if source == "people":
                assert not rows.any()
                continue
            start = int(batch["first_frame"][place])
            assert start >= 2
            window = [actions[start + 2 * row] for row in range(-1, 12)]
            expected = rebaseline(body.normalise(np.stack(window)))
            np.testing.assert_array_equal(rows[:, slot], expected)
            rows[:, slot] = 0
            assert not rows.any()
    assert seen == {"people", "robots"}


def test_a_mixture_without_latents_has_zeros_there(made: Path, tmp_path: Path) -> None:
    people = {"people": {"dataset": str(made / "people"), "weight": 1}}
    plan = make_plan(made, tmp_path, sources=people, latents=None)
    batch = first(WindowLoader(plan, batch_size=2), 1)[0]
    assert not batch["action"].any()


def test_pictures_of_another_size_are_resized(
    made: Path, tmp_path: Path, plan: MixturePlan
) -> None:
    small = make_plan(made, tmp_path, window={"frame_size": [48, 64]})
    shown = first(WindowLoader(small, batch_size=2), 1)[0]["video"].float()
    whole = first(WindowLoader(plan, batch_size=2), 1)[0]["video"].float()
    assert shown.shape == (2, 3, 13, 48, 64)
    halves = torch.nn.functional.avg_pool3d(whole, (1, 2, 2))
    assert (halves - shown).abs().mean() < 2


def test_global_batches_are_the_same_for_any_topology(plan: MixturePlan) -> None:
    whole = fingerprints(first(WindowLoader(plan, batch_size=12), 2))
    assert sorted(whole) == list(range(24))
    for world_size in (2, 3, 4):
        ranks = [
            first(
                WindowLoader(plan, batch_size=12 // world_size, rank=rank, world_size=world_size), 2
            )
            for rank in range(world_size)
        ]
        assert [batch[0]["index"][0] for batch in ranks] == list(range(world_size))
        assert fingerprints([batch for batches in ranks for batch in batches]) == whole


def test_worker_processes_give_the_same_batches_and_errors(
    plan: MixturePlan, made: Path, tmp_path: Path
) -> None:
    expected = first(WindowLoader(plan, batch_size=4), 5)
    loader = WindowLoader(plan, batch_size=4, num_workers=2)
    found = first(loader, 5)
    assert fingerprints(found) == fingerprints(expected)
    assert [batch["index"].tolist() for batch in found] == [
        batch["index"].tolist() for batch in expected
    ]
    assert loader.state_dict()["position"] == 20  # read-ahead does not count
    root = tmp_path / "lost"
    shutil.copytree(made, root)
    lost = make_plan(root, tmp_path / "plan")
    shutil.rmtree(root / "people" / "latents")
    with pytest.raises(DatasetError, match=f"no latents of {MODEL}"):
        first(WindowLoader(lost, batch_size=4, num_workers=1), 1)


def test_resuming_equals_never_stopping(plan: MixturePlan) -> None:
    whole = fingerprints(first(WindowLoader(plan, batch_size=6), 6))
    loader = WindowLoader(plan, batch_size=6)
    stream = iter(loader)
    for _ in range(2):
        next(stream)
    state = loader.state_dict()
    assert state["position"] == 12
    for world_size in (1, 2, 3):
        rest: list[dict[str, Any]] = []
        for rank in range(world_size):
            resumed = WindowLoader(
                plan, batch_size=6 // world_size, rank=rank, world_size=world_size
            )
            resumed.load_state_dict(state)
            rest += first(resumed, 4)
        assert fingerprints(rest) == {i: one for i, one in whole.items() if i >= 12}
    started = WindowLoader(plan, batch_size=6, start=12)
    assert fingerprints(first(started, 1)) == {i: whole[i] for i in range(12, 18)}


def test_a_position_of_another_plan_is_refused(
    plan: MixturePlan, made: Path, tmp_path: Path
) -> None:
    other = WindowLoader(make_plan(made, tmp_path, seed=1), batch_size=1)
    with pytest.raises(ConfigError, match="belongs to another mixture plan"):
        other.load_state_dict(WindowLoader(plan, batch_size=1).state_dict())
    other.load_state_dict({"position": 5})
    assert other.state_dict()["position"] == 5


def damage(root: Path, *, shard: str, clips: slice) -> set[str]:
    """Flips one byte in the pictures of some clips of a shard; returns their ids."""
    index = ShardIndex.read(root / "shards" / f"{shard}.idx.parquet")
    tar = root / "shards" / f"{shard}.tar"
    content = bytearray(tar.read_bytes())
    hurt = index.clip_ids[clips]
    for clip_id in hurt:
        row = index.row(clip_id)
        content[row.member("mp4").offset + row.data_offset + 100] ^= 1
    tar.write_bytes(content)
    return set(hurt)


def test_damaged_clips_are_replaced_inside_their_source_and_listed(
    made: Path, tmp_path: Path, plan: MixturePlan
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(made, root)
    hurt = damage(root / "people", shard="clips-000000", clips=slice(0, 1))
    damaged = make_plan(root, tmp_path / "plan")
    assert damaged.digest == plan.digest
    loader = WindowLoader(damaged, batch_size=8)
    found, whole = first(loader, 3), fingerprints(first(WindowLoader(plan, batch_size=8), 3))
    replaced = {bad.index for bad in loader.bad_samples if bad.attempt == 0}
    assert replaced
    assert {bad.clip_id for bad in loader.bad_samples} == hurt
    assert {bad.reason for bad in loader.bad_samples} == {"checksum"}
    for index, fingerprint in fingerprints(found).items():
        assert (fingerprint == whole[index]) == (index not in replaced)
        assert fingerprint[0] not in hurt
    sources = [source for batch in found for source in batch["source"]]
    assert sources == [plan.sample(i).source for i in range(24)]
    again = WindowLoader(damaged, batch_size=4, world_size=2, rank=1)
    again_found = fingerprints(first(again, 3))
    assert again_found.items() <= fingerprints(found).items()


def test_too_many_damaged_clips_stop_the_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(made, root)
    damage(root / "people", shard="clips-000000", clips=slice(0, 2))
    plan = make_plan(root, tmp_path / "plan")
    monkeypatch.setattr(data, "BAD_ALLOWED", 2)
    with pytest.raises(
        OverBudgetError, match=r"of .* training samples could not be read"
    ) as caught:
        first(WindowLoader(plan, batch_size=8), 20)
    assert "egodojo manifest validate" in str(caught.value.hint)
    assert first(WindowLoader(plan, batch_size=8, max_bad_ratio=1.0), 3)


def test_a_source_without_one_good_clip_is_an_error(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "cut"
    shutil.copytree(made, root)
    plan = make_plan(root, tmp_path / "plan")
    for tar in (root / "robots" / "shards").glob("*.tar"):
        tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(SampleError, match=r"Sample .* and its 16 substitutes in source 'robots'"):
        first(WindowLoader(plan, batch_size=4, max_bad_ratio=1.0), 1)


def test_a_removed_shard_is_refused_before_any_work(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "removed"
    shutil.copytree(made, root)
    plan = make_plan(root, tmp_path / "plan")
    (root / "people" / "shards" / "clips-000001.tar").unlink()
    with pytest.raises(DatasetError, match="which is not there any more"):
        WindowLoader(plan.path or "", batch_size=1)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"rank": 1}, {"num_workers": -1}, {"start": -1}]
)
def test_impossible_numbers_are_refused(plan: MixturePlan, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="WindowLoader cannot work with"):
        WindowLoader(plan, **{"batch_size": 1, **wrong})


def test_workers_import_no_database_and_no_ray() -> None:
    forbidden = {"ray", "duckdb", "deltalake", "manifests.dataset"}
    with data._worker_context().Pool(1) as pool:  # a child like a loader's, without the tests
        imported = pool.apply(eval, ("set(__import__('sys').modules)",))
    assert "pipeline.training.windows" in imported
    assert not forbidden & imported


def test_the_dataset_behind_a_plan_opens(plan: MixturePlan) -> None:
    source = plan.sources[0]
    pinned = Dataset.open(source.dataset, versions=source.versions)
    assert pinned.clip(plan.sample(0).clip_id).clip_id == plan.sample(0).clip_id
