"""The weights that come with the package: found by name, small, and of some use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_actions.config import preset
from latent_actions.extract import Extractor
from latent_actions.model import LatentActionModel
from latent_actions.weights import SHIPPED, model_folder
from manifests.errors import EgodojoError
from tests.latent_actions.test_flow import texture


def moving(way: tuple[int, int], *, seed: int) -> np.ndarray:
    """A textured patch that goes a pixel a frame over a textured ground: (25, 96, 128, 3)."""
    ground, patch = texture(seed=seed), texture(36, 36, seed=seed + 100)
    frames = []
    for t in range(25):
        picture = ground.copy()
        y, x = 30 + way[1] * (t - 12), 46 + way[0] * (t - 12)
        picture[y : y + 36, x : x + 36] = patch
        frames.append(np.repeat(picture[..., None], 3, axis=2))
    return np.stack(frames)


def test_small_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = LatentActionModel.from_pretrained("small")
    assert model.config == preset("small").model
    assert model_folder(Path("small")) == SHIPPED / "small"
    (tmp_path / "small").mkdir()  # a folder of that name comes first
    with pytest.raises(EgodojoError, match="small is no model folder"):
        LatentActionModel.from_pretrained("small")
    with pytest.raises(EgodojoError, match="smal is no model folder"):
        LatentActionModel.from_pretrained("smal")


def test_the_card_belongs_to_the_weights() -> None:
    folder = SHIPPED / "small"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert LatentActionModel.from_pretrained(folder).model_id in card
    assert sum(os.path.getsize(path) for path in folder.iterdir()) < 12e6


def test_the_same_way_is_near_whatever_moves() -> None:
    """Left, right, up and down of one patch find themselves among those of another patch."""
    extractor = Extractor(LatentActionModel.from_pretrained("small", encoder_only=True))
    ways = [(1, 0), (-1, 0), (0, 1), (0, -1)]

    def vectors(seed: int) -> np.ndarray:
        clips = [moving(way, seed=seed) for way in ways]
        rows = [extractor.extract(clip, steps=(8,), every=4)[8].mean(axis=0) for clip in clips]
        found = np.stack(rows).astype(np.float64)
        found -= found.mean(axis=0)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    with torch.inference_mode():
        likeness = vectors(0) @ vectors(7).T
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2, 3]
