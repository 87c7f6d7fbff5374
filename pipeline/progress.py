"""How far a run is: a bar on a terminal, elsewhere one plain line now and then; always on stderr.

A line is written at most every ten seconds, and one at the end, so that a log stays readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_S = 10.0


class Progress:
    """Counts finished things and shows them.

    Args:
        total: How many there will be; None when that is not known.
        what: What is counted, in plural: `units`, `files`.
        quiet: Show nothing at all.
        stream: Where to write; default stderr.
        clock: Seconds that only go forward; tests pass their own.

    Example:
        >>> with Progress(3, "units", quiet=True) as progress:
        ...     for _ in range(3):
        ...         progress.advance(note="no failures")
        >>> progress.done
        3
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.what = what
        self.done = 0
        self.note = ""
        self._quiet = quiet
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._started = self._last_line = clock()
        self._last_text = ""
        self._bar: tuple[RichProgress, TaskID] | None = None

    def __enter__(self) -> Self:
        self._started = self._last_line = self._clock()
        if not self._quiet and self._stream.isatty():
            self._bar = self._open_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
        elif not self._quiet:
            self._write_line()

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Count `count` more as done; `note` replaces the words shown behind the numbers."""
        self.done += count
        if note is not None:
            self.note = note
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done, note=self.note)
        elif not self._quiet and self._clock() - self._last_line >= LINE_EVERY_S:
            self._write_line()

    def _write_line(self) -> None:
        text = self._line()
        if text != self._last_text:
            self._stream.write(text + "\n")
            self._stream.flush()
        self._last_text, self._last_line = text, self._clock()

    def _line(self) -> str:
        elapsed_s = self._clock() - self._started
        if self.total is None:
            parts = [f"{self.done:,} {self.what}"]
        else:
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            parts = [f"{self.done:,} of {self.total:,} {self.what}{share}"]
        parts.append(f"{clock_words(elapsed_s)} elapsed")
        if self.total and 0 < self.done < self.total:
            left_s = elapsed_s / self.done * (self.total - self.done)
            parts.append(f"about {clock_words(left_s)} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _open_bar(self) -> tuple[RichProgress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import (
            Progress as Bar,
        )

        bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(file=self._stream, highlight=False),
        )
        task = bar.add_task(self.what, total=self.total, note="")
        bar.start()
        return bar, task


def clock_words(seconds: float) -> str:
    """A duration as `05:07`, or `1:05:07` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
