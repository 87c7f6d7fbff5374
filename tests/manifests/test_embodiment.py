"""Shipped bodies fit the action row; wrong descriptions are refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.config import to_dict, to_yaml
from manifests.embodiment import (
    Embodiment,
    Slot,
    embodiment_from_dict,
    embodiment_names,
    load_embodiment,
    with_statistics,
)
from manifests.errors import ConfigError

PUBLISHED = {  # slot, width and stride of the published mixture
    "gr1": (0, 29, 2),
    "gr1_glove": (29, 58, 2),
    "g1": (58, 101, 2),
    "yam": (101, 147, 4),
    "agibot": (147, 169, 4),
}


@pytest.mark.parametrize("name", embodiment_names())
def test_a_shipped_body_is_whole(name: str) -> None:
    body = load_embodiment(name)
    assert body.name == name
    assert body.description.endswith(".")
    assert embodiment_from_dict(to_dict(body)) == body


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_robots_have_their_slots(name: str) -> None:
    body = load_embodiment(name)
    assert body.slot is not None
    assert (body.slot.start, body.slot.stop, body.stride) == PUBLISHED[name]


def test_slots_do_not_overlap() -> None:
    slots = [body.slot for body in map(load_embodiment, embodiment_names()) if body.slot]
    taken = [column for slot in slots for column in range(slot.start, slot.stop)]
    assert len(taken) == len(set(taken))


def test_an_unknown_body_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no embodiment called 'frankka'") as caught:
        load_embodiment("frankka")
    assert "'franka'" in str(caught.value.hint)


def test_a_file_of_ones_own_works(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(Embodiment(name="mine", stride=3)))
    assert load_embodiment(str(path)).stride == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stride": 0}, "stride is 0"),
        ({"action_names": ["a"]}, "1 action_names but 0 action_units"),
        ({"action_names": ["a", "a"], "action_units": ["1", "1"]}, "holds a name twice"),
        ({"slot": {"start": 0, "stop": 3}}, "slot has 3 columns, action_names 0"),
        ({"slot": {"start": 350, "stop": 353}}, "must lie inside"),
        ({"statistics": {"minimum": [0], "maximum": []}}, "1 minima and 0 maxima"),
        ({"statistics": {"minimum": [0], "maximum": [1]}}, "statistics have 1 columns"),
    ],
)
def test_impossible_descriptions_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        embodiment_from_dict({"name": "x", **values})


def test_actions_reach_the_model_only_with_slot_and_statistics() -> None:
    body = Embodiment(
        name="x", action_names=("a",), action_units=("rad",), slot=Slot(start=5, stop=6)
    )
    assert not body.feeds_actions
    known = with_statistics(body, minimum=np.float32([-2]), maximum=np.float32([2]))
    assert known.feeds_actions
    assert known.normalise(np.float32([[-2], [0], [4]])).tolist() == [[-1], [0], [2]]


def test_simulated_bodies_are_described_as_they_are() -> None:
    from curation.simulation.bodies import BODIES

    for name, simulated in BODIES.items():
        body = load_embodiment(name)
        assert body.action_names == simulated.columns()
        assert body.feeds_actions
