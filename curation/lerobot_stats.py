"""Minimum, maximum, mean and deviation of recorded columns, merged from episode to dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStats:
    """Statistics over rows, one value per column; `square` is the sum of squared deviations."""

    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: NDArray[np.float64]
    weight: int
    """Rows the moments are over."""
    count: int
    """What is reported: rows, or pictures."""
    is_picture: bool = False

    def merged(self, other: FeatureStats) -> FeatureStats:
        """Statistics of both together."""
        weight = self.weight + other.weight
        step = other.mean - self.mean
        return FeatureStats(
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            mean=self.mean + step * (other.weight / weight),
            square=self.square + other.square + step**2 * (self.weight * other.weight / weight),
            weight=weight,
            count=self.count + other.count,
            is_picture=self.is_picture,
        )

    def as_picture(self, *, num_pictures: int) -> FeatureStats:
        """The same, of three colours over a number of pictures."""
        return FeatureStats(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=self.mean,
            square=self.square,
            weight=self.weight,
            count=num_pictures,
            is_picture=True,
        )

    def to_json(self) -> dict[str, Any]:
        """As LeRobot keeps them: lists, of shape (3, 1, 1) for pictures."""
        shape = (3, 1, 1) if self.is_picture else self.mean.shape
        deviation = np.sqrt(self.square / self.weight)
        values = (
            ("min", self.minimum),
            ("max", self.maximum),
            ("mean", self.mean),
            ("std", deviation),
        )
        return {key: found.reshape(shape).tolist() for key, found in values} | {
            "count": [self.count]
        }


def stats_of(values: NDArray[Any]) -> FeatureStats:
    """Statistics of (rows,) or (rows, columns) numbers; at least one row."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    mean = rows.mean(axis=0)
    return FeatureStats(
        minimum=rows.min(axis=0),
        maximum=rows.max(axis=0),
        mean=mean,
        square=((rows - mean) ** 2).sum(axis=0),
        weight=len(rows),
        count=len(rows),
    )
