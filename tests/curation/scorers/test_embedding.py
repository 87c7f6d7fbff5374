"""The embedding scorer with a tiny open_clip model of random or stored weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clip_views import clip_view

from curation.scorers.base import ClipView, Resources
from curation.scorers.embedding import EmbeddingConfig, EmbeddingScorer
from curation.scorers.precision import dtype_of
from manifests.dataset import Dataset
from manifests.errors import ConfigError, EgodojoError
from pipeline.hardware import cpu_multiplies

Cli = Callable[..., SimpleNamespace]
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
}
ONE_CPU = Resources(num_cpus=1, num_gpus=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clip") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


class Noise:
    """Frames that depend on the clip and the frame number alone."""

    def frames(self, shard: str, clip_id: str, indices: Any) -> Any:
        seeds = [[*clip_id.encode(), index] for index in indices]
        pictures = [np.random.default_rng(seed).integers(0, 256, (6, 8, 3)) for seed in seeds]
        return np.stack(pictures).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)


def clip(clip_id: str, num_frames: int = 30) -> ClipView:
    return clip_view(Noise(), clip_id, num_frames=num_frames)


def loaded(tiny: str, **changes: Any) -> EmbeddingScorer:
    settings = {"model": tiny, "pretrained": "none", "precision": "fp32", **changes}
    made = EmbeddingScorer(EmbeddingConfig(**settings))
    made.load(ONE_CPU)
    return made


def vector(scorer: EmbeddingScorer, clip_id: str = "a") -> Any:
    return np.array(scorer.score(clip(clip_id))["embedding"])


def test_a_unit_vector_that_does_not_depend_on_neighbours(tiny: str) -> None:
    scorer = loaded(tiny, batch_size=4, num_frames=3)
    alone = vector(scorer)
    assert alone.shape == (16,)
    assert np.linalg.norm(alone) == pytest.approx(1.0)
    clips = [clip("z"), clip("a"), clip("short", num_frames=2)]
    together = dict(scorer.score_clips(clips))
    assert list(together) == ["z", "a", "short"]
    np.testing.assert_allclose(together["a"]["embedding"], alone, atol=1e-6)  # batch order only
    assert not np.allclose(together["z"]["embedding"], alone, atol=1e-2)


def test_it_is_what_open_clip_gives(tiny: str) -> None:
    from PIL import Image

    scorer = loaded(tiny, num_frames=2)
    frames = clip("a").spread(2)
    pictures = torch.stack([scorer._preprocess(Image.fromarray(frame)) for frame in frames])
    with torch.inference_mode():
        found = scorer._model.encode_image(pictures, normalize=True).mean(dim=0)
    np.testing.assert_allclose(vector(scorer), found / found.norm(), atol=1e-6)


def test_weights_from_a_file(tiny: str, tmp_path: Path) -> None:
    scorer = loaded(tiny)
    weights = {k: v + 0.1 for k, v in scorer._model.state_dict().items()}
    torch.save(weights, tmp_path / "w.pt")
    stored = loaded(tiny, pretrained=str(tmp_path / "w.pt"))
    assert stored.digest != scorer.digest
    for name, value in stored._model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert not np.allclose(vector(stored), vector(scorer), atol=1e-3)
    assert stored.warning is None
    assert "mean nothing" in str(scorer.warning)


def test_bf16_weights_without_autocast_stay_close(tiny: str) -> None:
    half = loaded(tiny, precision="bf16")
    assert {p.dtype for p in half._model.parameters()} == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")
    assert vector(half) @ vector(loaded(tiny)) > 0.995  # eight bits of mantissa, one layer


def test_bf16_is_taken_where_the_cpu_has_it() -> None:
    assert dtype_of("fp32", "cpu") is torch.float32
    expected = torch.bfloat16 if cpu_multiplies("bfloat16") else torch.float32
    assert dtype_of("auto", "cpu") is expected


def test_random_weights_only_when_asked_for(dataset: Path, cli: Cli, tiny: str) -> None:
    refused = cli("score", dataset, "--scorer", "embedding", "--set", f"model={tiny}")
    assert refused.exit_code == 2
    assert "no weights are named" in refused.stderr
    sets = ("--set", f"model={tiny}", "--set", "pretrained=none", "--set", "num_frames=2")
    done = cli("score", dataset, "--scorer", "embedding", "--inline", *sets)
    assert done.exit_code == 0, done.stderr
    assert "the vectors mean nothing" in done.stderr
    table = Dataset.open(dataset).table("scores/embedding")
    norms = [np.linalg.norm(row) for row in table.column("embedding").to_pylist()]
    assert norms == pytest.approx([1.0] * table.num_rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "ViT-B-33"}, "open_clip has no model 'ViT-B-33'"),
        ({"model": "ViT-B-32", "pretrained": "laion2b"}, "neither a file nor weights"),
    ],
)
def test_unknown_names(tiny: str, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        loaded(tiny, **changes)
    assert "Did you mean" in str(caught.value.hint)


def test_files_that_do_not_fit(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The weights file gone\.pt is not a file"):
        loaded(tiny, pretrained="gone.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="do not fit the model tiny"):
        loaded(tiny, pretrained=str(tmp_path / "w.pt"))
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(ConfigError, match="lacks embed_dim"):
        loaded(str(tmp_path / "m.json"))
    (tmp_path / "n.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        loaded(str(tmp_path / "n.json"))


def test_weights_that_cannot_be_downloaded(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Failed to download weights for tag 'openai'")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    with pytest.raises(EgodojoError, match="open_clip cannot get the weights 'openai'"):
        loaded(tiny, model="ViT-B-32", pretrained="openai")
