"""The `embedding` scorer: one unit vector per clip from an open_clip image tower.

The vector of a clip is the mean of its frames' unit vectors, made a unit vector again, so a dot
product of two rows is their cosine similarity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from manifests.config import digest, nearest, to_dict
from manifests.errors import ConfigError, EgodojoError, SampleError

from .base import ClipView, Frames, Resources, Row, existing_file, file_digest
from .precision import Precision, dtype_of

NO_WEIGHTS = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """Settings of the embedding scorer."""

    model: str = "ViT-B-32"
    """An open_clip model name, or the path of an open_clip model configuration (JSON)."""
    pretrained: str | None = None
    """A tag that open_clip knows (downloaded), a weights file, or `none` for random weights."""
    num_frames: int = 4
    """Frames looked at, in the middle of equal parts of the clip."""
    precision: Precision = "auto"
    """Format of the weights: `auto` takes bf16 where the hardware computes in it."""
    batch_size: int = 32
    """Frames in one forward pass; clips share a batch."""

    def __post_init__(self) -> None:
        """Check counts, and that weights are named."""
        if self.pretrained is None:
            raise ConfigError(
                "no weights are named; random ones would make meaningless vectors.",
                hint="--set pretrained=TAG (open_clip downloads it) or --set pretrained=FILE; for "
                "a test, --set pretrained=none.",
            )
        if self.num_frames < 1 or self.batch_size < 1:
            raise ConfigError("num_frames and batch_size must be at least 1.")


class EmbeddingScorer:
    """Semantic vectors of clips.

    Example:
        >>> config = EmbeddingConfig(model="ViT-B-32", pretrained="none")
        >>> EmbeddingScorer(config).columns
        {'embedding': 'list<double>'}
    """

    name = "embedding"
    columns = {"embedding": "list<double>"}  # noqa: RUF012  (a protocol member, never changed)
    Config = EmbeddingConfig

    def __init__(self, config: EmbeddingConfig) -> None:
        """Digest the files that are named; the model is loaded later, by `load`."""
        self.config = config
        self._weights = _weights_file(config.pretrained)
        self._description = _description(config.model)
        settings = {**to_dict(config), "batch_size": None}
        for key, path in (("pretrained", self._weights), ("model", self._description)):
            if path is not None:
                settings[key] = file_digest(path)
        self.digest = digest({"scorer": self.name, **settings})
        self.warning = (
            "The weights are random (pretrained=none): the vectors mean nothing."
            if config.pretrained == NO_WEIGHTS
            else None
        )
        self._model: Any = None

    def load(self, resources: Resources) -> None:
        """Build the network and read its weights.

        Raises:
            ConfigError: No such model or tag, or the file does not fit the model.
            EgodojoError: The weights cannot be downloaded.
        """
        if resources.device == "cpu":
            torch.set_num_threads(resources.num_threads)
        self._device = torch.device(resources.device)
        self._dtype = dtype_of(self.config.precision, resources.device)
        model, self._preprocess = self._create()
        # Weights and pictures in one format: autocast would be slower than fp32 on a CPU.
        self._model = model.eval().to(self._device, self._dtype)

    def score(self, clip: ClipView) -> Row:
        """The vector of one clip."""
        _, answer = next(self.score_clips([clip]))
        if isinstance(answer, SampleError):
            raise answer
        return answer

    def score_clips(self, clips: Sequence[ClipView]) -> Iterator[tuple[str, Row | SampleError]]:
        """Vectors of many clips, their frames in shared batches of one shape."""
        waiting: list[tuple[str, int]] = []
        pictures: list[Tensor] = []
        vectors: list[Tensor] = []
        for clip in clips:
            try:
                frames = clip.spread(self.config.num_frames)
            except SampleError as error:
                yield clip.facts.clip_id, error
                continue
            waiting.append((clip.facts.clip_id, len(frames)))
            pictures += self._pictures(frames)
            while len(pictures) >= self.config.batch_size:
                vectors += self._embed(pictures[: self.config.batch_size])
                pictures = pictures[self.config.batch_size :]
        if pictures:
            vectors += self._embed(pictures)
        first = 0
        for clip_id, count in waiting:
            yield clip_id, {"embedding": _mean_direction(vectors[first : first + count])}
            first += count

    def _pictures(self, frames: Frames) -> list[Tensor]:
        from PIL import Image

        return [self._preprocess(Image.fromarray(frame)) for frame in frames]

    @torch.inference_mode()
    def _embed(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """Unit vectors of up to a batch; padded, so neighbours never change a picture's numbers."""
        padded = [*pictures, *[pictures[-1]] * (self.config.batch_size - len(pictures))]
        batch = torch.stack(padded).to(self._device, self._dtype)
        found = self._model.encode_image(batch).float().cpu()
        return list(torch.nn.functional.normalize(found, dim=-1)[: len(pictures)])

    def _create(self) -> tuple[Any, Any]:
        import open_clip

        name = self.config.model
        if self._description is not None:
            open_clip.add_model_config(self._description)
            name = self._description.stem
        elif name not in open_clip.list_models():
            raise ConfigError(
                f"open_clip has no model {name!r}.", hint=nearest(name, open_clip.list_models())
            )
        tag = str(self.config.pretrained)
        weights = self._weights
        is_random = tag == NO_WEIGHTS
        if not is_random and weights is None:
            tags = open_clip.list_pretrained_tags_by_model(name)
            if tag not in tags:
                raise ConfigError(
                    f"{tag!r} is neither a file nor weights that open_clip knows for {name}.",
                    hint=nearest(tag, tags),
                )
        known = open_clip.get_pretrained_cfg(name, tag) or {}
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # random weights are the same in every worker
                model, _, preprocess = open_clip.create_model_and_transforms(
                    name,
                    pretrained=None if is_random else str(weights or tag),
                    force_quick_gelu=bool(known.get("quick_gelu", False)),
                    pretrained_text=False,
                )
        except (OSError, RuntimeError, ValueError) as error:
            _refuse(error, name, weights or tag)
        return model, preprocess


def _refuse(error: Exception, name: str, weights: Path | str) -> NoReturn:
    why = " ".join(str(error).split())[:300]
    if isinstance(weights, Path):
        raise ConfigError(
            f"The weights {weights} do not fit the model {name}: {why}",
            hint="Name the model that they belong to with --set model=NAME.",
        ) from error
    raise EgodojoError(
        f"open_clip cannot get the weights {weights!r} of {name}: {why}",
        hint="Download them elsewhere and give the file: --set pretrained=FILE.",
    ) from error


def _mean_direction(vectors: Sequence[Tensor]) -> list[float]:
    mean = torch.stack(list(vectors)).double().mean(dim=0)
    found: list[float] = torch.nn.functional.normalize(mean, dim=0).tolist()
    return found


def _weights_file(pretrained: str | None) -> Path | None:
    """The weights as a file; None when they are a tag, or random."""
    assert pretrained is not None
    looks_like_path = "/" in pretrained or Path(pretrained).suffix != ""
    return existing_file(pretrained, "weights file") if looks_like_path else None


def _description(model: str) -> Path | None:
    """A model given as an open_clip configuration file; None for a name."""
    if not model.endswith(".json"):
        return None
    path = existing_file(model, "model configuration")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"The model configuration {path} is not JSON: {error}.") from error
    if not isinstance(found, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(found):
        raise ConfigError(
            f"The model configuration {path} lacks embed_dim, vision_cfg or text_cfg.",
            hint="Copy one of open_clip's and change it.",
        )
    return path
