"""Which clips of different bodies probably do the same, without a label.

The flow features that need no learning already find the right motion more often than not. Two clips
that are each among the other's nearest are right more often still, and those pairs are what the
network learns from. Shapes: N clips, D width of a clip's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Pairs = NDArray[np.int64]


def mutual_neighbours(vectors_ND: Floats, bodies: Sequence[str], *, nearest: int) -> Pairs:
    """Pairs of clips (n, 2), by number, each among the `nearest` of the other within its body.

    Bodies are taken two by two, so a body that looks unlike all others has neighbours too.

    Args:
        vectors_ND: One vector of length 1 a clip; likeness is their cosine.
        bodies: The embodiment of each clip.
        nearest: How many of the other body's clips count as near.
    """
    of_body = np.asarray(bodies)
    found = []
    for one, other in combinations(sorted(set(bodies)), 2):
        left, right = np.flatnonzero(of_body == one), np.flatnonzero(of_body == other)
        likeness = vectors_ND[left] @ vectors_ND[right].T
        both = _near(likeness, nearest) & _near(likeness.T, nearest).T
        rows, columns = np.nonzero(both)
        found.append(np.stack([left[rows], right[columns]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _near(likeness: Floats, nearest: int) -> NDArray[np.bool_]:
    """Marks the largest entries of each row; of equal ones the first."""
    marks = np.zeros(likeness.shape, bool)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :nearest]
    np.put_along_axis(marks, order, True, axis=1)
    return marks
