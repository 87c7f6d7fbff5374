"""Configuration: types, nesting, `--set`, and errors that name the path and the nearest key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.config import canonical_json, digest, load_config, to_yaml
from manifests.errors import ConfigError


@dataclass(frozen=True)
class Encode:
    crf: int = 20
    preset: Literal["fast", "veryfast"] = "veryfast"
    max_fps: float | None = None


@dataclass(frozen=True)
class Config:
    name: str
    encode: Encode = Encode()
    weights: dict[str, float] = field(default_factory=dict)
    size: tuple[int, int] = (480, 640)
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.encode.crf < 0:
            raise ValueError(f"encode.crf is {self.encode.crf}, must not be negative")


def test_file_values_and_sets_in_order(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: a\nencode: {crf: 18, max_fps: 10}\nweights: {x: 1}\n")
    config = load_config(
        Config, file=file, values={"encode": {"crf": 19}}, sets=["encode.crf=23", "tags=[a, b]"]
    )
    assert config == Config(
        name="a", encode=Encode(crf=23, max_fps=10.0), weights={"x": 1.0}, tags=("a", "b")
    )
    assert load_config(Config, values=__import__("yaml").safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(
    ("values", "sets", "message", "hint"),
    [
        ({"name": "a", "encode": {"cfr": 1}}, [], "unknown key 'encode.cfr'", "'crf'"),
        ({"name": "a"}, ["encode.crf=low"], "encode.crf is 'low', must be a whole number", ""),
        ({"name": "a"}, ["encode.max_fps=.inf"], "encode.max_fps is inf, must be a number", ""),
        ({"name": "a"}, ["encode.crf=true"], "encode.crf is True, must be a whole number", ""),
        ({"name": "a", "encode": {"preset": "veryfst"}}, [], "must be one of", "'veryfast'"),
        ({}, [], "the required key 'name' is missing", ""),
        ({"name": "a", "size": [1]}, [], "size is [1], must be a list of 2 values", ""),
        ({"name": "a"}, ["encode"], "is not of the form key=value", "encode.crf=23"),
        ({"name": "a", "encode": {"crf": -1}}, [], "encode.crf is -1, must not be negative", ""),
        ({"name": "a", "weights": {"x": "heavy"}}, [], "weights.x is 'heavy'", ""),
    ],
)
def test_errors_name_the_path(
    values: dict[str, object], sets: list[str], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Config, values=values, sets=sets)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_unreadable_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read the configuration file"):
        load_config(Config, file=tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(Config, file=broken)
    broken.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_config(Config, file=broken)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_digest_ignores_key_order(values: dict[str, object]) -> None:
    backwards = dict(reversed(list(values.items())))
    assert canonical_json(values) == canonical_json(backwards)
    assert digest(values) == digest(backwards)
    assert canonical_json(values).isascii()
