"""Which recordings of different bodies probably show the same motion, without a label.

The flow features that need no learning already find the right motion more often than not. Two
recordings that are each among the other's nearest are right more often still, and those pairs are
what the network learns from. Two cameras at once see what one cannot tell apart (a hand that comes
nearer from one that rises), so recordings are compared by every camera that filmed both.
Shapes: C cameras, R recordings, D width of a clip's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Pairs = NDArray[np.int64]


def mutual_neighbours(vectors_CRD: Floats, bodies: Sequence[str], *, nearest: int) -> Pairs:
    """Pairs of recordings (n, 2), by number, each among the `nearest` of the other in its body.

    Bodies are taken two by two, so a body that looks unlike all others has neighbours too.

    Args:
        vectors_CRD: What each camera saw, length 1; zeros where it did not film. Likeness is the
            cosine, averaged over the cameras that filmed both; with none there is no likeness.
        bodies: The embodiment of each recording.
        nearest: How many of the other body's recordings count as near.
    """
    of_body = np.asarray(bodies)
    is_seen = np.any(vectors_CRD != 0, axis=2)
    found = []
    for one, other in combinations(sorted(set(bodies)), 2):
        left, right = np.flatnonzero(of_body == one), np.flatnonzero(of_body == other)
        likeness = np.zeros((len(left), len(right)))
        num_cameras = np.zeros_like(likeness)
        for vectors, seen in zip(vectors_CRD, is_seen, strict=True):
            likeness += vectors[left] @ vectors[right].T
            num_cameras += seen[left][:, None] & seen[right]
        likeness = np.where(num_cameras, likeness / np.maximum(1, num_cameras), -np.inf)
        both = _near(likeness, nearest) & _near(likeness.T, nearest).T
        rows, columns = np.nonzero(both & (num_cameras > 0))
        found.append(np.stack([left[rows], right[columns]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _near(likeness: Floats, nearest: int) -> NDArray[np.bool_]:
    """Marks the largest entries of each row; of equal ones the first."""
    marks = np.zeros(likeness.shape, bool)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :nearest]
    np.put_along_axis(marks, order, True, axis=1)
    return marks
