"""The keyed permutation and the weight cycle, against plain Python and against their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ConfigError
from manifests.mixture.cycle import WeightCycle, whole_weights
from manifests.mixture.permutation import hash64, key_of, permute

WORD = (1 << 64) - 1


def plain_mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & WORD
    return value ^ (value >> 31)


def plain_permute(index: int, size: int, key: int) -> int:
    bits, key = (size - 1).bit_length(), plain_mix(key)
    low_bits = bits - bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits // 2)) - 1
    while True:
        high, low = index >> low_bits, index & low_mask
        for number in range(8):
            round_key = (key + 0x9E3779B97F4A7C15 * number) & WORD
            if number % 2:
                high ^= plain_mix((low + round_key) & WORD) & high_mask
            else:
                low ^= plain_mix((high + round_key) & WORD) & low_mask
        index = high << low_bits | low
        if index < size:
            return index


@given(size=st.integers(1, 3000), key=st.integers(0, WORD))
@settings(max_examples=40, deadline=None)
def test_a_permutation_visits_everything_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@given(data=st.data(), size=st.integers(1, 1 << 62), key=st.integers(0, WORD))
@settings(max_examples=60, deadline=None)
def test_arrays_and_plain_integers_agree_at_any_size(
    data: st.DataObject, size: int, key: int
) -> None:
    index = data.draw(st.integers(0, size - 1))
    assert permute(index, size, key)[0] == plain_permute(index, size, key)


def test_each_element_may_have_its_own_size_and_key() -> None:
    index, size, key = np.array([0, 3, 6]), np.array([1, 5, 900]), np.array([7, 8, 9])
    together = permute(index, size, key)
    triples = zip(index.tolist(), size.tolist(), key.tolist(), strict=True)
    assert together.tolist() == [plain_permute(*triple) for triple in triples]


def test_all_orders_of_three_come_up_equally_often() -> None:
    orders = [tuple(permute(np.arange(3), 3, key).tolist()) for key in range(1200)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert min(counts) > 150


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        permute(5, 5, 1)


def test_hashes_never_change() -> None:
    """Plans made by an older version must give the same samples."""
    assert hash64(1, 2, 3).tolist() == [3206755175406112562]
    assert permute(np.arange(8), 8, 42).tolist() == [4, 2, 6, 1, 0, 3, 5, 7]
    assert key_of("egodojo") == 18006538187474078985


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([1, 2, 10], (1, 2, 10)),
        ([2, 4, 20], (1, 2, 10)),
        ([0.1, 0.2], (1, 2)),
        ([0.25, 1], (1, 4)),
        (["1/3", 1], (1, 3)),
        ([5], (1,)),
    ],
)
def test_weights_become_the_smallest_whole_numbers(weights: list[float], whole: object) -> None:
    assert whole_weights(weights) == whole


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "many"])
def test_a_weight_that_is_no_number_above_zero_is_refused(weight: object) -> None:
    with pytest.raises(ConfigError, match="is no number above zero"):
        whole_weights([1, weight])  # type: ignore[list-item]


def test_weights_with_too_many_digits_are_refused() -> None:
    with pytest.raises(ConfigError, match="make a cycle of"):
        whole_weights([0.1234567, 0.7654321])


@given(
    weights=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    first=st.integers(0, 1 << 40),
    key=st.integers(0, WORD),
)
@settings(max_examples=50, deadline=None)
def test_every_aligned_cycle_holds_its_weights_exactly(
    weights: list[int], first: int, key: int
) -> None:
    cycle = WeightCycle(weights, key=key)
    source, draw = cycle.locate(first * cycle.length + np.arange(3 * cycle.length))
    for turn in source.reshape(3, -1):
        assert np.bincount(turn, minlength=len(weights)).tolist() == weights
    for number, weight in enumerate(weights):  # draws of a source count up one by one
        assert np.array_equal(draw[source == number], first * weight + np.arange(3 * weight))


def test_counts_are_those_of_the_samples() -> None:
    cycle = WeightCycle((1, 2, 10), key=5)
    source, _ = cycle.locate(np.arange(200))
    for num_samples in range(200):
        assert (
            cycle.count(num_samples).tolist()
            == np.bincount(source[:num_samples], minlength=3).tolist()
        )


def test_the_cycle_is_turned() -> None:
    source, _ = WeightCycle((1, 2, 10), key=5).locate(np.arange(13 * 200))
    places = np.flatnonzero(source == 0) % 13
    assert len(set(places.tolist())) == 13
