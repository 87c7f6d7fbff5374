"""Fingerprints of made-up footage, by the hundred thousand: rooms, cameras, hands, and copies.

A room is a random picture wider than the view. In `worn` rooms the camera wanders, in `fixed` ones
it stands, and in `repeated` ones two arms do the same task again and again before it, each time at
another pace and a little elsewhere: the hardest case, as on robot cells. How much the picture
changes, for how long a change goes on and how many dimensions changes have was set by the 149
written clips of the real videos; takes of one room agree more than real takes of one robot do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curation.fingerprint import mirrored

Steps = NDArray[np.uint8]
Floats = NDArray[np.float32]

KINDS = {"worn": 0.75, "fixed": 0.15, "repeated": 0.10}
CLIPS_PER_ROOM = 800
"""8 million clips in 9,869 scenes: DreamDojo-HV."""

COPIES = ("encoded", "scaled", "trimmed", "mirrored")
MAX_STEPS = 80
_ROWS, _COLUMNS = 32, 64
_AT_ONCE = 250


def _paths(rng: np.random.Generator, shape: tuple[int, ...], num_steps: int, slow: int) -> Floats:
    """Smooth random paths of unit variance, (*shape, steps); `slow` steps until they turn."""
    noise = rng.standard_normal((*shape, num_steps + 6 * slow), dtype=np.float32)
    kernel = np.exp(-0.5 * (np.arange(-3 * slow, 3 * slow + 1) / (0.5 * slow)) ** 2)
    kernel /= np.sqrt((kernel * kernel).sum())
    spectrum = np.fft.rfft(noise, noise.shape[-1]) * np.fft.rfft(kernel, noise.shape[-1])
    return np.fft.irfft(spectrum, noise.shape[-1])[..., 6 * slow :].astype(np.float32)


def _picture(rng: np.random.Generator) -> Floats:
    """A room: luma of 32x64 fields, coarse and fine structure mixed."""
    rate = np.hypot(np.fft.fftfreq(_ROWS)[:, None], np.fft.rfftfreq(_COLUMNS)[None])
    rate[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((_ROWS, _COLUMNS))) / rate**0.6
    spectrum[0, 0] = 0.0
    picture = np.fft.irfft2(spectrum, (_ROWS, _COLUMNS))
    return (110 + 40 * picture / picture.std()).astype(np.float32)


@dataclass(slots=True, kw_only=True)
class Room:
    """One place with its camera and two hands."""

    kind: str
    seed: int
    _picture: Floats = field(init=False)
    _tones: NDArray[np.int64] = field(init=False)
    _sizes: NDArray[np.float64] = field(init=False)
    _slow: NDArray[np.int64] = field(init=False)
    _task: Floats = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 1])
        self._picture = _picture(rng)
        self._tones = rng.choice([-70, -45, 45, 70], 2)
        self._sizes = rng.uniform(0.6, 1.6, 2)
        self._slow = rng.integers(4, 10, 2)
        self._task = np.stack([_paths(rng, (2,), 4 * MAX_STEPS, int(s) + 4) for s in self._slow])

    def film(self, rng: np.random.Generator, num_clips: int) -> Steps:
        """Takes of 20 s: uint8 (clips, 80, 48)."""
        shape = num_clips, MAX_STEPS
        liveliness = np.exp(rng.normal(-1.2, 1.0, (num_clips, 1))).clip(0.01, 2.5)
        rows, columns = np.full(shape, _ROWS / 2), np.full(shape, _COLUMNS / 2)
        if self.kind == "worn":
            quick = _paths(rng, (2, num_clips), MAX_STEPS, 6) * liveliness
            slow = _paths(rng, (2, num_clips), MAX_STEPS, 24) * liveliness
            home = rng.normal(0, 2.5, (2, num_clips, 1))
            rows = rows + home[0] + 0.8 * quick[0] + 0.7 * slow[0]
            columns = columns + home[1] + 1.6 * quick[1] + 2.0 * slow[1]
        seen = self._view(rows, columns)
        for hand in range(2):
            self._draw_hand(rng, seen, hand, liveliness=liveliness)
        light = 1 + 0.03 * _paths(rng, (num_clips,), MAX_STEPS, 20)
        seen = 16 + (seen - 16) * light[..., None, None] + rng.normal(0, 0.25, seen.shape)
        return np.clip(np.round(seen), 16, 235).astype(np.uint8).reshape(*shape, 48)

    def _view(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """The 6x8 fields around places in the room, (clips, steps, 6, 8)."""
        at_rows = rows[..., None, None] + (np.arange(6) - 2.5)[:, None]
        at_columns = columns[..., None, None] + (np.arange(8) - 3.5)[None]
        low_rows, low_columns = np.floor(at_rows), np.floor(at_columns)
        down, right = at_rows - low_rows, at_columns - low_columns
        row, column = low_rows.astype(np.int64) % _ROWS, low_columns.astype(np.int64) % _COLUMNS
        below, beside = (row + 1) % _ROWS, (column + 1) % _COLUMNS
        room = self._picture
        upper = room[row, column] * (1 - right) + room[row, beside] * right
        lower = room[below, column] * (1 - right) + room[below, beside] * right
        return upper * (1 - down) + lower * down

    def _draw_hand(
        self,
        rng: np.random.Generator,
        seen: NDArray[np.float64],
        hand: int,
        *,
        liveliness: NDArray[np.float64],
    ) -> None:
        num_clips = len(seen)
        if self.kind == "repeated":
            pace = rng.uniform(0.75, 1.3, (num_clips, 1))
            at = rng.uniform(0, 4, (num_clips, 1)) + pace * np.arange(MAX_STEPS)
            low = at.astype(np.int64)
            task = self._task[hand]
            path = task[:, low] * (1 - (at - low)) + task[:, low + 1] * (at - low)
            path = path + 0.6 * _paths(rng, (2, num_clips), MAX_STEPS, 12)
            path = path + rng.normal(0, 0.5, (2, num_clips, 1))
        else:
            path = _paths(rng, (2, num_clips), MAX_STEPS, int(self._slow[hand]))
            path = path * np.minimum(2 * liveliness, 1.2)
        y, x = 3.4 + 1.2 * path[0], (2.2 if hand else 4.8) + 1.6 * path[1]
        rows, columns = np.mgrid[0:6, 0:8]
        away = 0.8 * (rows - y[..., None, None]) ** 2 + (columns - x[..., None, None]) ** 2
        share = np.exp(-away / self._sizes[hand])
        seen += share * (110 + self._tones[hand] - seen)


def clips_of(num_clips: int, *, seed: int, per_room: float = CLIPS_PER_ROOM) -> Iterator[Steps]:
    """Clips of many rooms, uint8 (steps, 48) each, the same every time.

    Rooms have a lognormal number of clips. Six in ten clips are 20 s long, three 4 to 20 s, one 1
    to 4 s.
    """
    rng = np.random.default_rng(seed)
    made, number = 0, 0
    while made < num_clips:
        size = int(rng.lognormal(np.log(per_room) - 0.5, 1.0)) + 1
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        room = Room(kind=str(kind), seed=seed * 1_000_003 + number)
        number += 1
        for start in range(0, min(size, num_clips - made), _AT_ONCE):
            for steps in room.film(rng, min(_AT_ONCE, size - start, num_clips - made)):
                draw = rng.random()
                low, high = (80, 81) if draw < 0.6 else (16, 80) if draw < 0.9 else (4, 16)
                yield steps[: int(rng.integers(low, high))]
                made += 1


def copy_of(rng: np.random.Generator, steps: Steps, kind: str) -> Steps:
    """A clip as it comes back: encoded again, scaled, begun elsewhere, or mirrored."""
    seen = steps.astype(np.float64)
    if kind == "scaled":
        fields = seen.reshape(-1, 6, 8)
        beside = np.roll(fields, 1, axis=2)
        beside[:, :, 0] = fields[:, :, 0]
        seen = (0.95 * fields + 0.05 * beside).reshape(-1, 48)
    if kind == "trimmed":
        # 80 to 100 % are left, and its quarter seconds begin between those of the original.
        share = rng.random()
        seen[:-1] = (1 - share) * seen[:-1] + share * seen[1:]
        num_gone = int(rng.integers(0, len(seen) // 5 + 1))
        first = int(rng.integers(0, num_gone + 1))
        seen = seen[first : len(seen) - (num_gone - first)]
    seen = 126 + rng.uniform(0.85, 1.1) * (seen - 126) + rng.normal(0, 0.5, seen.shape)
    made: Steps = np.clip(np.round(seen), 0, 255).astype(np.uint8)
    return mirrored(made) if kind == "mirrored" else made
