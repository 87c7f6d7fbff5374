"""Cross-body retrieval scored against truth: does the nearest clip of another body do the same?

Shapes: N clips, D width of a clip's vector. A query's gallery is every clip of all other bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..windows import clip_vectors

Floats = NDArray[np.float64]
Strings = NDArray[np.str_]
K = 10
BOOTSTRAPS = 2000
NORMALISATIONS = tuple(product((False, True), (False, True)))
"""(is_evened, is_centred), all four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What is known of the clips: bodies and motions (N,), ways of the hand (N, 3) or None."""

    bodies: Strings
    motions: Strings
    displacements: Floats | None = None
    is_moving: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One number a query clip, each (N,).

    Attributes:
        precision_1: Whether the nearest clip does the same motion.
        precision_k: Share of the ten nearest that do.
        average_precision: Over the whole gallery.
        displacement_cosine: Mean cosine of the true way of the hand to that of the ten nearest.
    """

    precision_1: Floats
    precision_k: Floats
    average_precision: Floats
    displacement_cosine: Floats | None

    def means(self) -> dict[str, float]:
        """Mean over the queries, by name."""
        found = {
            "precision_at_1": float(self.precision_1.mean()),
            "precision_at_10": float(self.precision_k.mean()),
            "mean_average_precision": float(self.average_precision.mean()),
        }
        if self.displacement_cosine is not None:
            found["displacement_cosine"] = float(self.displacement_cosine.mean())
        return found


def score(vectors: Floats, labels: Labels) -> Scores:
    """Score every clip as a query against the clips of all other bodies, by cosine."""
    bodies, motions = labels.bodies, labels.motions
    similarity = vectors @ vectors.T
    precision_1, precision_k, average, cosine = [], [], [], []
    for query in range(len(vectors)):
        gallery = np.flatnonzero(bodies != bodies[query])
        order = gallery[np.argsort(-similarity[query, gallery], kind="stable")]
        is_same = motions[order] == motions[query]
        precision_1.append(float(is_same[0]))
        precision_k.append(float(is_same[:K].mean()))
        places = np.flatnonzero(is_same)
        at = (np.arange(len(places)) + 1) / (places + 1)
        average.append(float(at.mean()) if len(places) else 0.0)
        if labels.displacements is not None:
            cosine.append(_mean_cosine(labels.displacements, query, order[:K]))
    return Scores(
        precision_1=np.array(precision_1),
        precision_k=np.array(precision_k),
        average_precision=np.array(average),
        displacement_cosine=np.array(cosine) if cosine else None,
    )


def best_normalisation(rows: Sequence[NDArray[Any]], labels: Labels) -> tuple[bool, bool]:
    """(is_evened, is_centred) with the highest precision at ten; for a development split."""
    found = {
        choice: score(
            clip_vectors(rows, labels.bodies.tolist(), is_evened=choice[0], is_centred=choice[1]),
            labels,
        ).precision_k.mean()
        for choice in NORMALISATIONS
    }
    return max(NORMALISATIONS, key=lambda choice: found[choice])


def chance(labels: Labels) -> float:
    """Precision of random answers: mean share of the same motion in the queries' galleries."""
    shares = []
    for body, motion in zip(labels.bodies, labels.motions, strict=True):
        gallery = labels.motions[labels.bodies != body]
        shares.append(float((gallery == motion).mean()))
    return float(np.mean(shares))


def interval(values: Floats, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over query clips; of a difference, give paired ones."""
    draw = np.random.default_rng(seed)
    picks = draw.integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _mean_cosine(displacements: Floats, query: int, answers: NDArray[np.int64]) -> float:
    own, others = displacements[query], displacements[answers]
    lengths = np.linalg.norm(own) * np.linalg.norm(others, axis=1)
    return float((others @ own / np.maximum(lengths, 1e-9)).mean())
