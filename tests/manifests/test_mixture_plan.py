"""The laws of a mixture plan: exact ratio, no repeats, purity, substitutes, one immutable file."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import DatasetError
from manifests.mixture.check import check_plan
from manifests.mixture.plan import MixturePlan
from tests.mixture_helpers import synthetic_plan

KINDS = [("clip", 0), ("clip", 3), ("window", 0), ("window", 3)]
plans = pytest.mark.parametrize(("unit", "shard_block"), KINDS)


def units_of(plan: MixturePlan, number: int, count: int) -> list[tuple[int, int]]:
    """What a source hands out, in the order of the run; a clip's start does not name it."""
    samples = plan.samples(0, count)
    chosen = samples.source == number
    start = samples.first_frame[chosen] if plan.header.unit == "window" else 0 * samples.row[chosen]
    return list(zip(samples.row[chosen].tolist(), start.tolist(), strict=True))


def num_units(plan: MixturePlan, number: int) -> int:
    source = plan.sources[number]
    return source.num_clips if plan.header.unit == "clip" else source.num_windows


@plans
def test_every_aligned_thirteen_hold_one_two_and_ten(unit: str, shard_block: int) -> None:
    plan = synthetic_plan(unit=unit, shard_block=shard_block)
    for start in (0, 13 * 999, 13 * 2**40):
        source = plan.samples(start, 13 * 50).source.reshape(50, 13)
        assert all(np.bincount(cycle).tolist() == [1, 2, 10] for cycle in source)


@plans
def test_nothing_repeats_inside_an_epoch_and_every_epoch_is_whole(
    unit: str, shard_block: int
) -> None:
    plan = synthetic_plan((4, 9, 33), unit=unit, shard_block=shard_block)
    for number in range(3):
        size = num_units(plan, number)
        weight = plan.sources[number].weight
        units = units_of(plan, number, 13 * -(-3 * size // weight))
        epochs = [units[size * epoch : size * (epoch + 1)] for epoch in range(3)]
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
        assert size < 4 or epochs[0] != epochs[1]


@plans
def test_one_by_one_equals_arrays(unit: str, shard_block: int) -> None:
    plan = synthetic_plan(unit=unit, shard_block=shard_block)
    start = 12_345
    samples = plan.samples(start, 100)
    assert [plan.describe(samples, i) for i in range(100)] == [
        plan.sample(start + i) for i in range(100)
    ]
    fresh = pickle.loads(pickle.dumps(plan))
    shuffled = np.random.default_rng(0).permutation(100)
    assert [fresh.sample(start + int(i)) for i in shuffled] == [
        plan.describe(samples, int(i)) for i in shuffled
    ]


@given(
    kind=st.sampled_from(KINDS),
    index=st.integers(0, 1 << 60),
    start_step=st.integers(1, 7),
)
@settings(max_examples=30, deadline=None)
def test_a_window_lies_inside_its_clip_and_on_its_grid(
    kind: tuple[str, int], index: int, start_step: int
) -> None:
    plan = synthetic_plan(unit=kind[0], shard_block=kind[1], start_step=start_step)
    samples = plan.samples(index, 40)
    num_frames = plan.columns["num_frames"][samples.row]
    assert (samples.first_frame >= 0).all()
    assert (samples.first_frame % start_step == 0).all()
    assert (samples.first_frame + 12 < num_frames).all()


def test_every_start_of_a_clip_comes_up() -> None:
    plan = synthetic_plan((1,), (1,))
    starts = set(plan.samples(0, 2000).first_frame.tolist())
    assert starts == set(range(plan.sources[0].num_windows))


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 52), (2, 26), (4, 13), (13, 4)])
def test_the_union_over_ranks_is_the_sequence(world_size: int, batch_size: int) -> None:
    plan = synthetic_plan()
    parts = [
        plan.samples_at(rank + world_size * np.arange(batch_size)) for rank in range(world_size)
    ]
    together = sorted(
        (i, r, f)
        for part in parts
        for i, r, f in zip(part.index, part.row, part.first_frame, strict=True)
    )
    whole = plan.samples(0, 52)
    assert together == list(zip(whole.index, whole.row, whole.first_frame, strict=True))


@plans
def test_the_far_future_costs_no_more(unit: str, shard_block: int) -> None:
    """2^40 samples in: no loop over what came before could end within a test."""
    plan = synthetic_plan(unit=unit, shard_block=shard_block)
    sample = plan.sample(2**40)
    assert sample.index == 2**40
    assert sample == synthetic_plan(unit=unit, shard_block=shard_block).sample(2**40)


@plans
def test_substitutes_stay_in_the_source_and_visit_all_of_it(unit: str, shard_block: int) -> None:
    plan = synthetic_plan((2, 3, 3), unit=unit, shard_block=shard_block)
    for index in {name: i for i in range(13) for name in [plan.sample(i).source]}.values():
        sample = plan.sample(index)
        number = int(sample.source[1:])
        size = num_units(plan, number)
        found = [plan.substitute(index, attempt) for attempt in range(1, size + 1)]
        assert {one.source for one in found} == {sample.source}
        assert {one.index for one in found} == {index}
        key = (lambda s: (s.clip_id, s.first_frame)) if unit == "window" else lambda s: s.clip_id
        assert len({key(one) for one in found}) == size
        assert found[0] == plan.substitute(index, 1)
    with pytest.raises(ValueError, match="count from 1"):
        plan.substitute(0, 0)


def test_blocks_touch_few_shards() -> None:
    plan = synthetic_plan((500,), (1,), shard_block=4)
    for block in range(0, 480, 20):  # five clips a shard, four shards a block
        shards = {plan.sample(i).shard for i in range(block, block + 20)}
        assert len(shards) == 4
    everywhere = synthetic_plan((500,), (1,))
    assert len({everywhere.sample(i).shard for i in range(20)}) > 10


def test_another_seed_is_another_order_of_the_same_clips() -> None:
    one, other = synthetic_plan(), synthetic_plan(seed=1)
    rows = [units_of(plan, 2, 13 * 10) for plan in (one, other)]
    assert rows[0] != rows[1]
    assert set(rows[0]) == set(rows[1])


@plans
def test_a_saved_plan_is_the_same_plan(tmp_path: Path, unit: str, shard_block: int) -> None:
    plan = synthetic_plan(unit=unit, shard_block=shard_block)
    path = tmp_path / "a folder" / "mixture.plan"
    saved = plan.save(path)
    assert saved.digest == plan.digest
    assert saved.header == plan.header
    assert [saved.sample(i) for i in range(60)] == [plan.sample(i) for i in range(60)]
    travelled = pickle.loads(pickle.dumps(saved))
    assert travelled.path == path
    assert travelled.sample(99) == plan.sample(99)
    assert not saved.columns["num_frames"].flags.writeable
    assert [file.name for file in path.parent.iterdir()] == ["mixture.plan"]


def test_any_arrow_reader_opens_a_plan_and_a_row_is_small(tmp_path: Path) -> None:
    plan = synthetic_plan((20_000,), (1,)).save(tmp_path / "plan")
    assert plan.path is not None
    table = pa.ipc.open_file(pa.memory_map(str(plan.path))).read_all()
    assert table.num_rows == 20_000
    assert table.column("clip_id")[3].as_py().hex() == bytes(plan.columns["clip_id"][3]).hex()
    assert table.nbytes / table.num_rows <= 40


def test_a_plan_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    synthetic_plan().save(path)
    before = path.read_bytes()
    synthetic_plan().save(path)
    with pytest.raises(DatasetError, match="holds another plan, and plans are never changed"):
        synthetic_plan(seed=2).save(path)
    assert path.read_bytes() == before


def test_a_plan_learns_where_its_datasets_lie_now(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    plan = synthetic_plan().save(path)
    sources = tuple(replace(source, dataset="/elsewhere") for source in plan.sources)
    moved = MixturePlan(replace(plan.header, sources=sources), plan.columns)
    assert moved.save(path).sample(0).dataset == "/elsewhere"


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no mixture plan at"):
        MixturePlan.open(tmp_path / "none")
    (tmp_path / "text").write_text("sources: {}")
    with pytest.raises(DatasetError, match="is no mixture plan, or a damaged one"):
        MixturePlan.open(tmp_path / "text")
    path = tmp_path / "short"
    synthetic_plan().save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match="is no mixture plan, or a damaged one"):
        MixturePlan.open(path)


def test_a_removed_shard_is_refused(tmp_path: Path) -> None:
    plan = synthetic_plan()
    with pytest.raises(DatasetError, match=r"Source 's0' needs .*clips-000000.tar and \d+ more"):
        plan.check_files()


@plans
def test_checking_a_plan_finds_a_damaged_row(unit: str, shard_block: int) -> None:
    plan = synthetic_plan(unit=unit, shard_block=shard_block)
    assert check_plan(plan, max_samples=2600)["checked"]["cycles"] == 200
    plan.columns["num_frames"][:] = 12
    with pytest.raises(DatasetError, match="is damaged: a window leaves its clip"):
        check_plan(plan, max_samples=2600)


def test_checking_a_plan_finds_a_repeat_and_a_wrong_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = synthetic_plan()
    order = plan._orders[2]
    monkeypatch.setattr(order, "locate", lambda draw: (draw // 100, draw % 100 // 2))
    with pytest.raises(DatasetError, match="a unit of s2 comes twice inside an epoch"):
        check_plan(plan, max_samples=2600)
    monkeypatch.setattr(plan.cycle, "locate", lambda index: (index % 13 // 5, index))
    with pytest.raises(DatasetError, match="a cycle does not hold 1 samples of s0"):
        check_plan(plan, max_samples=2600)


def test_negative_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="begin at 0"):
        synthetic_plan().sample(-1)
