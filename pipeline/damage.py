"""What was lost while a part was decoded, told for one stretch of it after the other.

Packets are seen before their frames, in decoding order, so the log waits for a stretch to be over.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What a stretch of a video should have held, and what came out.

    Attributes:
        num_declared: Packets that say they are shown in it.
        num_decoded: Frames that came out.
        num_undecodable: Packets the decoder refused.
        num_corrupt: Frames that came out marked as damaged.
        longest_ticks: The longest time one frame stands; None without frames.
    """

    num_declared: int
    num_decoded: int
    num_undecodable: int
    num_corrupt: int
    longest_ticks: int | None

    @property
    def missing_ratio(self) -> float:
        """Share of the declared frames that did not come out."""
        if not self.num_declared:
            return 0.0
        return max(0, self.num_declared - self.num_decoded) / self.num_declared


@dataclass(slots=True, kw_only=True)
class DamageLog:
    """Counts packets and frames of one part by their time; holds those of the open stretch only.

    >>> log = DamageLog()
    >>> for tick in (0, 10, 20): log.packet(tick, is_decodable=tick != 10)
    >>> for tick in (0, 20): log.frame(tick, 20, is_corrupt=False)
    >>> log.take(15).missing_ratio
    0.5
    """

    start_tick: int | None = None
    end_tick: int | None = None
    _declared: list[int] = field(default_factory=list)
    _undecodable: list[int] = field(default_factory=list)
    _frames: deque[tuple[int, int, bool]] = field(default_factory=deque)
    _latest: int | None = None

    def packet(self, tick: int | None, *, is_decodable: bool) -> None:
        """Take a packet that is shown at a tick; without a time it counts as the one before."""
        tick = self._latest if tick is None else tick
        self._latest = tick
        if tick is None or (self.start_tick is not None and tick < self.start_tick):
            return
        if self.end_tick is not None and tick >= self.end_tick:
            return
        heapq.heappush(self._declared, tick)
        if not is_decodable:
            heapq.heappush(self._undecodable, tick)

    def frame(self, tick: int, duration: int, *, is_corrupt: bool) -> None:
        """Take the next displayed frame."""
        self._frames.append((tick, duration, is_corrupt))

    def take(self, end_tick: int | None) -> Damage:
        """Return the damage from where the last stretch ended to a tick; None: to the end."""
        frames: list[tuple[int, int, bool]] = []
        while self._frames and (end_tick is None or self._frames[0][0] < end_tick):
            frames.append(self._frames.popleft())
        return Damage(
            num_declared=_pop_before(self._declared, end_tick),
            num_decoded=len(frames),
            num_undecodable=_pop_before(self._undecodable, end_tick),
            num_corrupt=sum(is_corrupt for _, _, is_corrupt in frames),
            longest_ticks=max((duration for _, duration, _ in frames), default=None),
        )


def _pop_before(heap: list[int], end_tick: int | None) -> int:
    count = 0
    while heap and (end_tick is None or heap[0] < end_tick):
        heapq.heappop(heap)
        count += 1
    return count
