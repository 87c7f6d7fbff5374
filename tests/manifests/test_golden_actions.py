"""Normalised, re-baselined robot actions in their slots, against the golden numbers."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.action_vector import normalise, place, rebaseline
from manifests.embodiment import load_embodiment
from tests.helpers import Golden, golden_fixtures


@pytest.mark.parametrize("golden", golden_fixtures("robot_actions"))
def test_golden_robot_actions(golden: Golden) -> None:
    tensors = {name: tensor.numpy() for name, tensor in golden.tensors().items()}
    atol = golden.info["tolerance"]["delta"]["atol"]
    cases = [name.removesuffix(".raw_action") for name in tensors if name.endswith(".raw_action")]
    assert cases
    for case in cases:
        robot = case.split(".")[0]
        body = load_embodiment(robot)
        assert body.slot is not None
        raw = tensors[f"{case}.raw_action"]
        limits = tensors[f"{robot}.action_min"], tensors[f"{robot}.action_max"]
        normalised = normalise(raw, *limits)
        np.testing.assert_allclose(
            normalised, tensors[f"{case}.normalised_action"], rtol=0, atol=atol, err_msg=case
        )
        # the fixture's last row is the reference's unused one
        deltas = rebaseline(normalised[: len(tensors[f"{case}.delta"]) + 1])
        np.testing.assert_allclose(
            deltas, tensors[f"{case}.delta"], rtol=0, atol=atol, err_msg=case
        )
        rows = place(deltas, start=body.slot.start)
        np.testing.assert_allclose(
            rows, tensors[f"{case}.action_intended"], rtol=0, atol=atol, err_msg=case
        )


def test_a_chunk_is_relative_to_the_row_before_it() -> None:
    rows = np.arange(10, dtype=np.float32)[:, None] ** 2
    expected = [1, 4, 9, 16, 25 - 16, 36 - 16, 49 - 16, 64 - 16, 81 - 64]
    assert rebaseline(rows)[:, 0].tolist() == expected


def test_a_constant_column_becomes_zero_and_nothing_is_clipped() -> None:
    actions = np.float32([[3, 10], [3, -10]])
    scaled = normalise(actions, np.float32([3, 0]), np.float32([3, 1]))
    assert scaled.tolist() == [[0, 19], [0, -21]]
