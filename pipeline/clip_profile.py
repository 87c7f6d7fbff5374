"""How a clip in a shard is encoded: x264 options, and a clock that keeps the source's times."""

from __future__ import annotations

from fractions import Fraction

from manifests.settings import EncodeSettings

ENCODER_DEFAULTS: dict[str, dict[str, str]] = {
    # Some of x264's faster routines look at memory that nobody wrote: the same pictures would
    # have other bytes now and then, in the same process.
    "libx264": {"preset": "veryfast", "x264-params": "cpu-independent=1"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=none"},
}
"""Options of ordinary video files, by encoder, where the caller says nothing else."""

_MAX_TIMESCALE = 10_000_000
_FALLBACK_TIME_BASE = Fraction(1, 90_000)


def x264_options(settings: EncodeSettings) -> dict[str, str]:
    """Return the options of a clip: closed groups of one length, no B-frames, one thread.

    `cpu-independent` makes machines with other vector units write the same bytes; without a
    `videoformat` x264 would not write that the range is limited.
    """
    gop = settings.gop
    params: dict[str, object] = {
        "keyint": gop,
        "min-keyint": gop,
        "scenecut": 0,
        "bframes": 0,
        "open-gop": 0,
        "threads": 1,
        "lookahead-threads": 1,
        "cpu-independent": 1,
        "videoformat": "component",
    }
    return {
        "preset": settings.preset,
        "crf": str(settings.crf),
        "tune": "fastdecode",
        "x264-params": ":".join(f"{name}={value}" for name, value in params.items()),
    }


class ClipClock:
    """Turns offsets of the source into ticks of the clip, strictly increasing, and keeps lengths.

    The source's time base is kept unless its unit is below a ten-millionth of a second, which mp4
    players do not read; then times are rounded to 1/90000 s.

    Args:
        time_base: Seconds per tick of the source, as "num/den".
    """

    def __init__(self, time_base: str) -> None:
        self._source = Fraction(time_base)
        is_sane = self._source.denominator <= _MAX_TIMESCALE
        self.base = self._source if is_sane else _FALLBACK_TIME_BASE
        self._is_kept = self.base == self._source
        self._last_tick = -1
        self._durations: dict[int, int] = {}

    def place(self, tick_offset: int, duration: int) -> int:
        """Return the clip's tick for a frame and remember how long it is shown."""
        tick = max(self._rounded(tick_offset), self._last_tick + 1)
        self._last_tick = tick
        self._durations[tick] = max(1, self._rounded(tick_offset + duration) - tick)
        return tick

    def pop_duration(self, tick: int | None) -> int:
        """Return how long the frame placed at a tick is shown, once."""
        return self._durations.pop(-1 if tick is None else tick, 0)

    def _rounded(self, ticks: int) -> int:
        if self._is_kept:
            return ticks
        return round(ticks * self._source / self.base)
