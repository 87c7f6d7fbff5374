"""Progress: plain lines at most every ten seconds, a bar on a terminal, silence when quiet."""

from __future__ import annotations

import io

import pytest

from pipeline.progress import Progress, clock_words


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_at_most_every_ten_seconds_and_once_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(40, "units", stream=stream, clock=clock) as progress:
        for _ in range(40):
            clock.now += 1
            progress.advance(note="1 failed")
    assert stream.getvalue().splitlines() == [
        "10 of 40 units (25%), 00:10 elapsed, about 00:30 left, 1 failed",
        "20 of 40 units (50%), 00:20 elapsed, about 00:20 left, 1 failed",
        "30 of 40 units (75%), 00:30 elapsed, about 00:10 left, 1 failed",
        "40 of 40 units (100%), 00:40 elapsed, 1 failed",
    ]


def test_the_last_line_is_not_written_twice_and_totals_may_be_unknown_or_zero() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(None, "files", stream=stream, clock=clock) as progress:
        progress.advance(1200)
    with Progress(0, "units", stream=stream, clock=clock):
        pass
    assert stream.getvalue() == "1,200 files, 00:00 elapsed\n0 of 0 units, 00:00 elapsed\n"


def test_quiet_writes_nothing_even_on_a_terminal() -> None:
    stream = Terminal()
    with Progress(2, "units", quiet=True, stream=stream) as progress:
        progress.advance(2)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(2, "units", stream=stream) as progress:
        progress.advance(2, note="no failures")
    assert "2/2" in stream.getvalue()
    assert "no failures" in stream.getvalue()


def test_durations_read_like_a_clock() -> None:
    assert [clock_words(s) for s in (0, 59.6, 307, 3907)] == ["00:00", "01:00", "05:07", "1:05:07"]
