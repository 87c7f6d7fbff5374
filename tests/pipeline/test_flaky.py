"""Sources whose storage fails for a moment, or for good."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline.flaky import SourceError, check_source, patiently
from pipeline.testing import make_video
from pipeline.video import decode, probe


def test_only_errors_of_the_storage_are_its_fault() -> None:
    for number in (errno.ENOENT, errno.EACCES, errno.EISDIR, None):
        check_source("a.mp4", OSError(number, "words"))
    check_source("a.mp4", ValueError("no number"))
    with pytest.raises(SourceError, match=r"a\.mp4 could not be read: Input/output error\."):
        check_source("file:a.mp4", OSError(errno.EIO, "Input/output error"))


def test_patience_ends_with_the_last_error() -> None:
    calls: list[int] = []

    def read() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise SourceError(f"call {len(calls)} failed.")
        return len(calls)

    assert patiently(read, (0, 0)) == 3
    calls.clear()
    with pytest.raises(SourceError, match="call 2 failed"):
        patiently(read, (0,))


class BreakingOff:
    """A demuxer whose storage fails after some packets."""

    def __init__(self, packets: list[object], number: int) -> None:
        self._packets, self._number = packets, number

    def __iter__(self) -> object:
        from av.error import classes

        yield from self._packets
        raise classes[self._number](self._number, "Input/output error", "a.mp4")


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT])
def test_a_video_whose_storage_breaks_off_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from pipeline import video

    path = tmp_path / "a.mp4"
    make_video(path, num_frames=12, width=64, height=48)
    facts = probe(path)
    whole = video._until_unreadable
    monkeypatch.setattr(
        video,
        "_until_unreadable",
        lambda packets, stream: whole(BreakingOff([*packets][:4], number), stream),  # type: ignore[arg-type]
    )
    with pytest.raises(SourceError, match=r"a\.mp4 could not be read"):
        list(decode(path, facts))
