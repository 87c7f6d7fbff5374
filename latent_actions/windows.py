"""From the latents of a clip to the vectors the index compares: windows, means, one map.

A window's vector joins the mean latents of its equal parts, so it keeps the order of a motion.
Shapes: R rows of a clip, A latent width, P parts, V windows, K kept axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import ConfigError

Floats = NDArray[np.float32]
Moments = NDArray[np.float64]

MAX_PARTS = 64
"""More parts than a window has latents only repeat them."""
_WEAKEST_AXIS = 0.03  # of the first: weaker axes are noise that scaling would raise


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """How clips are cut into windows and how their vectors are made comparable."""

    window_s: float = 2.0
    """Length of a window; a shorter clip is one window."""
    hop_s: float = 1.0
    """Distance of the windows' starts; the last one ends with the clip."""
    parts: int = 4
    """Equal parts of a window; their mean latents are joined."""
    is_centred: bool = True
    """Subtract the mean latent of the clip's embodiment."""
    is_evened: bool = True
    """Divide each principal axis by the square root of its deviation."""

    def __post_init__(self) -> None:
        if self.window_s <= 0 or self.hop_s <= 0 or self.parts < 1:
            raise ConfigError("window_s and hop_s must be above 0, parts at least 1.")
        if self.parts > MAX_PARTS:
            raise ConfigError(f"parts is {self.parts}, must be at most {MAX_PARTS}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A half-open span of latent rows of one clip, and its time within the clip."""

    first_row: int
    num_rows: int
    start_s: float
    end_s: float


def cut_windows(
    num_frames: int, fps: float, *, step: int, every: int, config: WindowConfig
) -> list[Window]:
    """Windows of a clip, in order; none when it is too short for a single latent."""
    length = max(step + 1, round(config.window_s * fps))
    hop = max(1, round(config.hop_s * fps))
    last = max(0, num_frames - length)
    starts = list(range(0, last + 1, hop))
    if last - starts[-1] > hop // 2:
        starts.append(last)
    found = [window_at(s, s + length, num_frames, fps, step=step, every=every) for s in starts]
    return [window for window in found if window.num_rows > 0]


def window_at(
    start_frame: int, end_frame: int, num_frames: int, fps: float, *, step: int, every: int
) -> Window:
    """The window of frames [start_frame, end_frame); its rows are the pairs that lie inside."""
    end_frame = min(end_frame, num_frames)
    first = -(-start_frame // every)
    stop = max(first, (end_frame - 1 - step) // every + 1)
    return Window(
        first_row=first,
        num_rows=stop - first,
        start_s=start_frame / fps,
        end_s=end_frame / fps,
    )


def part_means(rows_RA: NDArray[Any], window: Window, parts: int) -> Floats:
    """Mean latents (P, A) of the parts of a window; a part without a row takes the nearest one."""
    rows = np.asarray(rows_RA[window.first_row : window.first_row + window.num_rows], np.float32)
    edges = np.linspace(0, len(rows), parts + 1)
    means = []
    for begin, end in pairwise(edges):
        first = min(int(begin), len(rows) - 1)
        means.append(rows[first : max(first + 1, int(end))].mean(axis=0))
    return np.stack(means)


@dataclass(slots=True)
class Statistics:
    """Running sums over all latents: what the map is fitted on. Order of adding does not matter."""

    latent_dim: int
    counts: dict[str, int] = field(default_factory=dict)
    sums: dict[str, Moments] = field(default_factory=dict)
    products: dict[str, Moments] = field(default_factory=dict)

    def add(self, body: str, rows_RA: NDArray[Any]) -> None:
        """Count the latents of one clip under its embodiment."""
        rows = np.asarray(rows_RA, dtype=np.float64)
        zero = np.zeros(self.latent_dim)
        self.counts[body] = self.counts.get(body, 0) + len(rows)
        self.sums[body] = self.sums.get(body, zero) + rows.sum(axis=0)
        self.products[body] = self.products.get(body, np.outer(zero, zero)) + rows.T @ rows

    def mean_of(self, body: str) -> Moments:
        """Mean latent of one embodiment."""
        mean: Moments = self.sums[body] / max(1, self.counts[body])
        return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentMap:
    """The linear map of every latent before windows are compared; part of an index's version."""

    axes_AK: Moments
    means: Mapping[str, Moments]
    """Embodiment -> mean latent that is subtracted."""

    @classmethod
    def fit(cls, statistics: Statistics, config: WindowConfig) -> LatentMap:
        """Centre per embodiment and even out the principal axes, as the config says."""
        size = statistics.latent_dim
        bodies = sorted(body for body, count in statistics.counts.items() if count)
        zero = np.zeros(size)
        means = {b: statistics.mean_of(b) if config.is_centred else zero for b in bodies}
        if not config.is_evened:
            return cls(axes_AK=np.eye(size), means=means)
        total = sum(statistics.counts[b] for b in bodies)
        shared = sum((statistics.sums[b] for b in bodies), zero) / max(1, total)
        covariance = np.zeros((size, size))
        for body in bodies:
            # Second moment around the mean that is subtracted, be it the body's or the shared one.
            around = means[body] if config.is_centred else shared
            total_body, count = statistics.sums[body], statistics.counts[body]
            cross = np.outer(total_body, around)
            covariance += statistics.products[body] - cross - cross.T
            covariance += count * np.outer(around, around)
        return cls(axes_AK=_evened_axes(covariance / max(1, total)), means=means)

    def with_bodies(self, statistics: Statistics, config: WindowConfig) -> LatentMap:
        """The same map that also knows the means of embodiments it has not seen."""
        means = dict(self.means)
        for body in sorted(statistics.counts.keys() - means.keys()):
            mean = statistics.mean_of(body)
            means[body] = mean if config.is_centred else np.zeros_like(mean)
        return LatentMap(axes_AK=self.axes_AK, means=means)

    def apply(self, parts_VPA: Floats, bodies: list[str]) -> Floats:
        """Part means and embodiments of V windows -> vectors (V, P*K) of length 1."""
        zero = np.zeros(self.axes_AK.shape[0])
        offsets = np.stack([self.means.get(body, zero) for body in bodies])
        mapped = (parts_VPA - offsets[:, None]) @ self.axes_AK
        flat = mapped.reshape(len(parts_VPA), -1)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        unit: Floats = (flat / np.maximum(norm, 1e-12)).astype(np.float32)
        return unit


def clip_vectors(
    rows: Sequence[NDArray[Any]],
    bodies: Sequence[str],
    *,
    is_evened: bool,
    is_centred: bool,
    parts: int = 4,
) -> Moments:
    """One vector (N, D) of length 1 a clip: mean rows of equal parts, under the index's own map."""
    config = WindowConfig(parts=parts, is_evened=is_evened, is_centred=is_centred)
    statistics = Statistics(latent_dim=rows[0].shape[1])
    for body, clip in zip(bodies, rows, strict=True):
        statistics.add(body, clip)
    means = np.stack(
        [
            part_means(r, Window(first_row=0, num_rows=len(r), start_s=0.0, end_s=0.0), parts)
            for r in rows
        ]
    )
    return LatentMap.fit(statistics, config).apply(means, list(bodies)).astype(np.float64)


def _evened_axes(covariance: Moments) -> Moments:
    variances, vectors = np.linalg.eigh(covariance)
    deviation = np.sqrt(np.maximum(variances[::-1], 0))
    vectors = vectors[:, ::-1]
    if deviation[0] <= 0:
        return np.eye(len(covariance))
    kept = deviation >= _WEAKEST_AXIS * deviation[0]
    axes: Moments = vectors[:, kept] / np.sqrt(deviation[kept])
    return axes
