"""Results of slow readers before they are asked for: in order, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Ticket = TypeVar("Ticket")
Result = TypeVar("Result")


def read_ahead(
    tickets: Iterable[Ticket],
    read: Callable[[Ticket], Result],
    *,
    num_threads: int,
    num_ahead: int,
) -> Iterator[tuple[Ticket, Future[Result]]]:
    """Yield each ticket with its result, which `result()` gives or raises.

    Args:
        tickets: What to read, in the order of need; taken lazily.
        read: Called in threads; what it raises waits in the result.
        num_threads: Readers at a time.
        num_ahead: Results that may wait, those being read included; bounds the memory.

    Example:
        >>> pairs = read_ahead(range(3), float, num_threads=2, num_ahead=2)
        >>> [(ticket, future.result()) for ticket, future in pairs]
        [(0, 0.0), (1, 1.0), (2, 2.0)]
    """
    waiting: deque[tuple[Ticket, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(num_threads, "read-ahead")
    try:
        for ticket in tickets:
            waiting.append((ticket, pool.submit(read, ticket)))
            if len(waiting) >= num_ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
