"""What is known about each frame of a part before it is written: cut, transition, idle.

Frames are marked as later ones come, so a mark is final only some two seconds after its frame.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cuts import CutDetector
from .idle import IdleDetector
from .small import SmallPicture
from .transitions import MAX_TRANSITION_S, SETTLE_S, TransitionDetector

HOLD_S = MAX_TRANSITION_S + SETTLE_S
"""How long a mark may still change."""

MAX_HELD_FRAMES = 128
"""At high frame rates frames are let go earlier; then a long transition begins too late."""


@dataclass(slots=True, kw_only=True)
class Mark:
    """What is known about one frame.

    Attributes:
        time_s: When it is shown.
        cut_score: How much it looks like the first frame of a shot; from 1 on it is.
        transition_score: How much the stretch around it looks like a dissolve or fade.
        in_transition: It lies inside one.
        is_idle: It lies in an idle stretch.
    """

    time_s: float
    cut_score: float = 0.0
    transition_score: float = 0.0
    in_transition: bool = False
    is_idle: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether a shot begins with this frame."""
        return self.cut_score >= 1


class ShotFinder:
    """Marks the frames of one part; feed them in order, marks come out in order, later.

    >>> ShotFinder().finish()
    []

    Args:
        idle_min_s: Shortest idle stretch to mark; None marks none. Marks wait so long for it.
    """

    def __init__(self, *, idle_min_s: float | None = None) -> None:
        self._cuts = CutDetector()
        self._transitions = TransitionDetector()
        self._idle = None if idle_min_s is None else IdleDetector(min_s=idle_min_s)
        self._hold_s = max(HOLD_S, idle_min_s or 0.0)
        self._max_held = MAX_HELD_FRAMES
        if idle_min_s is not None and idle_min_s > HOLD_S:
            self._max_held = round(MAX_HELD_FRAMES * idle_min_s / HOLD_S)
        self._marks: deque[Mark] = deque()
        self._unscored: deque[tuple[Mark, NDArray[np.uint8]]] = deque()

    def add(self, picture: SmallPicture, time_s: float) -> list[Mark]:
        """Take the next frame; the marks that are final now."""
        mark = Mark(time_s=time_s)
        self._marks.append(mark)
        self._unscored.append((mark, picture.cells))
        score = self._cuts.add(picture)
        if score is None:
            return []
        newest = self._score(score)
        num_scored = len(self._marks) - len(self._unscored)
        final = []
        while num_scored and (
            newest.time_s - self._marks[0].time_s >= self._hold_s - 1e-6
            or len(self._marks) > self._max_held
        ):
            final.append(self._marks.popleft())
            num_scored -= 1
        return final

    def finish(self) -> list[Mark]:
        """The marks of all frames not answered yet."""
        for score in self._cuts.finish():
            self._score(score)
        self._mark_transition(self._transitions.finish())
        self._end_idle(None)
        final = list(self._marks)
        self._marks.clear()
        return final

    def _score(self, cut_score: float) -> Mark:
        """Look at the oldest frame whose cut score was not known until now."""
        mark, cells = self._unscored.popleft()
        mark.cut_score = cut_score
        detector = self._transitions
        self._mark_transition(detector.add(cells, mark.time_s, is_cut=mark.is_cut))
        if detector.score > 0:
            middle = self._at(detector.middle_s)
            middle.transition_score = max(middle.transition_score, detector.score)
        if self._idle is not None:
            if mark.is_cut:
                self._end_idle(mark)
            since_s = self._idle.add(cells, mark.time_s, is_edge=mark.is_cut)
            if since_s is not None:
                following = self._unscored[0][0] if self._unscored else None
                self._mark_idle(since_s, before=following)
        return mark

    def _at(self, time_s: float) -> Mark:
        """The last held frame that is shown at or before a time, else the first."""
        found = self._marks[0]
        for mark in self._marks:
            if mark.time_s > time_s:
                break
            found = mark
        return found

    def _mark_transition(self, found: tuple[float, float] | None) -> None:
        if found is None:
            return
        for mark in self._marks:
            if found[0] < mark.time_s < found[1]:
                mark.in_transition = True
            elif mark.time_s <= found[0]:
                mark.transition_score = 0.0  # of stretches that reached into this one

    def _end_idle(self, next_shot: Mark | None) -> None:
        """Let an idle stretch reach to the shot's last frame, though that was not looked at."""
        since_s = None if self._idle is None else self._idle.finish()
        if since_s is not None:
            self._mark_idle(since_s, before=next_shot)

    def _mark_idle(self, since_s: float, *, before: Mark | None) -> None:
        for mark in self._marks:
            if mark is before:
                return
            if mark.time_s >= since_s:
                mark.is_idle = True
