"""Measures of a clip, taken frame by frame in the decode pass: light, sharpness, motion, stillness.

Frames are measured a few at a time (`FrameMeter`), which costs less and gives the same numbers;
the numbers of one clip's frames become its row (`ClipMeasures`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .areas import PictureAreas
from .motion import Motion, motions_of
from .small import BLOCK_PX, HEIGHT_PX, WIDTH_PX, SmallPicture, deviation, total_size

DARK_LUMA = 38
"""10 % of the way from black to white."""

BRIGHT_LUMA = 228
"""97 % of the way from black to white."""

BLACK_PIXEL_LUMA = 24
BLACK_FRAME_RATIO = 0.98

STEP_S = 0.5
"""Stillness compares pictures this far apart."""

CHANGED_LUMA = 4.0
"""A block changed when its mean moved by more; camera noise of 5 levels moves it by 0.6."""

STILL_RATIO = 0.002
"""A half second is still when at most this share of blocks changed: 2 of 1200."""

FROZEN_LUMA = 1.5
"""A picture stands while no block's mean is further from where it was when it began to stand."""

NOISY_LUMA, NOISY_FIELD_LUMA = 5.0, 0.75
"""It also stands when that is noise: blocks a little off, but not the means over 5x5 of them."""

STILL_S = 0.3
"""A picture that stands as long and goes in a jump is a still."""

JUMP_LUMA = 4.0
"""A jump changes blocks by as much from one frame to the next, camera motion taken out."""

SHAKE_WINDOW_S = 0.5

_LOW_BYTE, _BYTE = np.uint16(0xFF), np.uint16(8)
_ROWS, _COLUMNS = HEIGHT_PX // BLOCK_PX, WIDTH_PX // BLOCK_PX
_FIELD_BLOCKS = 5
_PER_FIELD = np.float32(1 / _FIELD_BLOCKS)
_TO_FIELDS = np.repeat(np.eye(_ROWS // _FIELD_BLOCKS, dtype=np.float32), _FIELD_BLOCKS, 1)
_TO_FIELDS *= _PER_FIELD
_FROM_COLUMNS = np.repeat(np.eye(_COLUMNS // _FIELD_BLOCKS, dtype=np.float32), _FIELD_BLOCKS, 0)
_FROM_COLUMNS *= _PER_FIELD


@dataclass(slots=True)
class _Series:
    """Per-frame numbers of one clip; a clip is bounded, so they are."""

    brightness: list[float] = field(default_factory=list)
    is_black: list[bool] = field(default_factory=list)
    light: list[Light] = field(default_factory=list)
    velocity_x: list[float] = field(default_factory=list)
    velocity_y: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    changing: list[float] = field(default_factory=list)


class _Standing:
    """Runs of frames in which the picture stands: the longest, and those that end in a jump.

    Args:
        under_noise: Whether a picture with camera noise of its own in each frame stands too.
    """

    def __init__(self, *, under_noise: bool) -> None:
        self._under_noise = under_noise
        self._blocks: NDArray[np.float32] | None = None
        self._since_s = 0.0
        self._num_frames = 1
        self._began_in_jump = False
        self._longest_s = 0.0
        self._stills_s = 0.0

    def add(self, frame: FrameMeasures, time_s: float) -> None:
        """Take the next frame; its motion is that from the frame before it, when there was one."""
        first, blocks, motion = self._blocks, frame.blocks, frame.motion
        if first is None:
            self._blocks, self._since_s = blocks, time_s
            return
        if motion is not None and self._num_frames == 1:
            largest = motion.largest_luma
        else:
            largest = float(np.abs(blocks - first).max())
        if self._stands(first, blocks, largest):
            self._num_frames += 1
            return
        is_jump = motion is not None and motion.residual_luma >= JUMP_LUMA
        self._end(time_s, is_jump=is_jump)
        self._blocks, self._since_s, self._began_in_jump = blocks, time_s, is_jump
        self._num_frames = 1

    def finish(self, end_s: float) -> tuple[float, float]:
        """Seconds of the longest run and of all stills."""
        self._end(end_s, is_jump=False)
        return self._longest_s, self._stills_s

    def _stands(
        self, first: NDArray[np.float32], blocks: NDArray[np.float32], largest_luma: float
    ) -> bool:
        """Whether a picture is the one that stands, but for coding errors or camera noise.

        Noise of 5 levels moves means of 8x8 pixels by up to 4.5 levels within a minute, but those
        of 40x40 pixels by 0.7 at most; what moves in the picture moves both.
        """
        if largest_luma <= FROZEN_LUMA:
            return True
        if not self._under_noise or largest_luma > NOISY_LUMA:
            return False
        fields = _TO_FIELDS @ (blocks - first) @ _FROM_COLUMNS
        return float(np.abs(fields).max()) <= NOISY_FIELD_LUMA

    def _end(self, time_s: float, *, is_jump: bool) -> None:
        stood_s = time_s - self._since_s
        self._longest_s = max(self._longest_s, stood_s)
        if stood_s >= STILL_S - 1e-6 and (is_jump or self._began_in_jump):
            self._stills_s += stood_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """What a look at one picture says about its light; see `manifests/measures.py`."""

    contrast_luma: float
    underexposed_ratio: float
    overexposed_ratio: float
    sharpness_luma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMeasures:
    """The measures of one frame, and what of its picture is still needed.

    Attributes:
        light: None for a picture that was not looked at.
        motion: None for a part's first frame.
    """

    cells: NDArray[np.uint8]
    blocks: NDArray[np.float32]
    brightness_luma: float
    is_black: bool
    light: Light | None
    motion: Motion | None


class FrameMeter:
    """Measures the frames of one part, in order, some at a time; about 0.06 ms each.

    How they are grouped makes no difference.

    >>> meter = FrameMeter()
    >>> meter.measure([])
    []
    """

    def __init__(self) -> None:
        self._previous: list[SmallPicture] = []

    def measure(self, pictures: Sequence[SmallPicture]) -> list[FrameMeasures]:
        """Measure the next frames."""
        motions: list[Motion | None] = [*motions_of([*self._previous, *pictures])]
        if not self._previous and pictures:
            motions.insert(0, None)
        self._previous = [*self._previous, *pictures][-1:]
        return [measures_of(*pair) for pair in zip(pictures, motions, strict=True)]


class ClipMeasures:
    """Collects the measures of one clip; feed its frames in order, then ask for the row, once.

    About 0.02 ms per frame.

    >>> ClipMeasures().row(end_s=1.0)["brightness_mean_luma"] is None
    True
    """

    def __init__(self) -> None:
        self._series = _Series()
        self._areas = PictureAreas()
        self._repeated = _Standing(under_noise=False)
        self._standing = _Standing(under_noise=True)
        self._first_s = self._previous_s = self._step_s = 0.0
        self._step_blocks: NDArray[np.float32] | None = None

    def add(self, frame: FrameMeasures, time_s: float) -> None:
        """Take the next frame of the clip, shown from `time_s` on."""
        series, motion = self._series, frame.motion
        is_first = not series.brightness
        series.brightness.append(frame.brightness_luma)
        series.is_black.append(frame.is_black)
        if frame.light is not None:
            series.light.append(frame.light)
        interval_s = time_s - self._previous_s
        if motion is not None and not is_first and interval_s > 0:
            series.velocity_x.append(motion.x / WIDTH_PX / interval_s)
            series.velocity_y.append(motion.y / WIDTH_PX / interval_s)
            series.residual.append(motion.residual_luma)
        if is_first:
            self._first_s = time_s
        self._previous_s = time_s
        self._areas.add(frame, time_s)
        self._repeated.add(frame, time_s)
        self._standing.add(frame, time_s)
        self._add_step(frame.blocks, time_s)

    def row(self, *, end_s: float) -> dict[str, float | None]:
        """The measures over all frames taken; None where there is nothing to measure.

        Args:
            end_s: Where the last frame's showing ends, on the clock of `add`.
        """
        series = self._series
        speed = np.hypot(series.velocity_x, series.velocity_y)
        duration_s = end_s - self._first_s if series.brightness else 0.0
        standing_s, stills_s = self._standing.finish(end_s)
        repeated_s, _ = self._repeated.finish(end_s)
        return {
            "brightness_mean_luma": _mean(series.brightness),
            "contrast_luma": _mean([light.contrast_luma for light in series.light]),
            "underexposed_ratio": _mean([light.underexposed_ratio for light in series.light]),
            "overexposed_ratio": _mean([light.overexposed_ratio for light in series.light]),
            "black_frames_ratio": _mean(series.is_black),
            "sharpness_luma": _mean([light.sharpness_luma for light in series.light]),
            "camera_motion_width_per_s": _mean(speed),
            "camera_motion_p95_width_per_s": _percentile_95(speed),
            "camera_shake_width_per_s": self._shake(duration_s),
            "residual_motion_luma": _mean(series.residual),
            "residual_motion_p95_luma": _percentile_95(series.residual),
            "changing_blocks_ratio": _mean(series.changing),
            "changing_blocks_p95_ratio": _percentile_95(series.changing),
            "still_ratio": _mean([share <= STILL_RATIO for share in series.changing]),
            "longest_frozen_s": standing_s if duration_s > 0 else None,
            "frozen_ratio": min(1.0, repeated_s / duration_s) if duration_s > 0 else None,
            "stills_ratio": min(1.0, stills_s / duration_s) if duration_s > 0 else None,
            **self._areas.row(),
        }

    def _add_step(self, blocks: NDArray[np.float32], time_s: float) -> None:
        if self._step_blocks is None:
            self._step_blocks, self._step_s = blocks, time_s
        elif time_s - self._step_s >= STEP_S - 1e-6:
            changed = np.abs(blocks - self._step_blocks) > CHANGED_LUMA
            self._series.changing.append(np.count_nonzero(changed) / changed.size)
            self._step_blocks, self._step_s = blocks, time_s

    def _shake(self, duration_s: float) -> float | None:
        count = len(self._series.velocity_x)
        if count < 2 or duration_s <= 0:
            return None
        half = max(1, round(SHAKE_WINDOW_S * count / duration_s / 2))
        velocities = np.stack([self._series.velocity_x, self._series.velocity_y])
        deviation = velocities - np.stack([_smooth(row, half) for row in velocities])
        return float(np.hypot(*deviation).mean())


def measures_of(picture: SmallPicture, motion: Motion | None) -> FrameMeasures:
    """The measures of one frame, its motion given."""
    brightness = float(np.add.reduce(picture.blocks, axis=None)) / picture.blocks.size
    brightest_black = BLACK_PIXEL_LUMA + (1 - BLACK_FRAME_RATIO) * 255
    return FrameMeasures(
        cells=picture.cells,
        blocks=picture.blocks,
        brightness_luma=brightness,
        is_black=brightness < brightest_black and is_black(picture.luma),
        light=None if picture.lines is None else look_at(picture, picture.lines),
        motion=motion,
    )


def look_at(picture: SmallPicture, lines: NDArray[np.uint8]) -> Light:
    """Contrast, exposure and sharpness of one picture; about 0.03 ms."""
    thin = picture.luma[::2]
    return Light(
        contrast_luma=deviation(picture.cells[0]),
        underexposed_ratio=int(np.count_nonzero(thin < DARK_LUMA)) / thin.size,
        overexposed_ratio=int(np.count_nonzero(thin > BRIGHT_LUMA)) / thin.size,
        sharpness_luma=sharpness(lines),
    )


def is_black(luma: NDArray[np.uint8]) -> bool:
    """Whether nearly all pixels of a picture are black."""
    num_black = int(np.count_nonzero(luma < BLACK_PIXEL_LUMA))
    return num_black >= BLACK_FRAME_RATIO * luma.size


def sharpness(lines: NDArray[np.uint8]) -> float:
    """Mean absolute second difference along rows and columns, at every eighth row, in levels.

    Args:
        lines: As in `SmallPicture`; of (30, 6, 640) means over 2x2 pixels are taken: their
            quarters of a level tell a blurred picture from a blank one.
    """
    scale = int(lines.shape[1]) // 3
    if scale == 1:
        sums = lines.astype(np.int16)
    else:
        words = lines.view(np.uint16)
        pairs = ((words & _LOW_BYTE) + (words >> _BYTE)).view(np.int16)
        sums = pairs[:, 0::2] + pairs[:, 1::2]
    above, row, below = (np.ascontiguousarray(sums[:, line]) for line in range(3))
    across = row[:, :-2] + row[:, 2:]
    row += row
    across -= row[:, 1:-1]
    above += below
    above -= row
    mean = total_size(above) / above.size + total_size(across) / across.size
    return mean / (2 * scale * scale)


def _smooth(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Moving average over 2 half + 1 values, shorter at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    means: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return means


def _mean(values: list[float] | list[bool] | NDArray[np.float64]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _percentile_95(values: list[float] | NDArray[np.float64]) -> float | None:
    if not len(values):
        return None
    return float(np.sort(values)[math.ceil(0.95 * len(values)) - 1])
