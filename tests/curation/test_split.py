"""Laws of splitting: pieces cover a part exactly, never overlap, and end for the stated reason."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from curation.sidecars import Span
from curation.split import PieceSplitter, is_too_short

TICK = Fraction(1, 30)


def split(
    num_frames: int,
    *,
    cuts: tuple[int, ...] = (),
    clip_len_s: float = 2.0,
    spans: list[Span] | None = None,
    first_frame: int = 0,
) -> list[tuple[int, int, str | None, int, int | None]]:
    """Pieces as (first frame, end frame, how the piece before ended, shot, span)."""
    splitter = PieceSplitter(time_base=TICK, first_tick=0, clip_len_s=clip_len_s, spans=spans)
    edges = []
    for frame in range(first_frame, num_frames):
        edge = splitter.add(frame, is_cut=frame in cuts)
        if edge is not None:
            edges.append((frame, edge))
    ends = [frame for frame, _ in edges[1:]] + [num_frames]
    return [
        (frame, end, edge.ended_at, edge.shot_index, edge.span_index)
        for (frame, edge), end in zip(edges, ends, strict=True)
    ]


def span(start_s: float, end_s: float) -> Span:
    return Span(start_s=start_s, end_s=end_s)


def test_a_shot_is_cut_into_pieces_and_a_rest() -> None:
    assert [piece[:3] for piece in split(150)] == [
        (0, 60, None),
        (60, 120, "length"),
        (120, 150, "length"),
    ]


def test_pieces_count_from_the_shot_they_are_in() -> None:
    pieces = split(150, cuts=(50,))
    assert [piece[:4] for piece in pieces] == [
        (0, 50, None, 0),
        (50, 110, "cut", 1),
        (110, 150, "length", 1),
    ]


def test_a_cut_where_a_piece_would_end_anyway_is_called_a_cut() -> None:
    assert [piece[2] for piece in split(100, cuts=(60,))] == [None, "cut"]


def test_spans_cut_at_their_edges_and_at_shots() -> None:
    pieces = split(200, cuts=(70,), spans=[span(1, 3), span(3, 4)])
    assert [(a, b, why, index) for a, b, why, _, index in pieces] == [
        (0, 30, None, None),
        (30, 70, "span", 0),
        (70, 90, "cut", 0),
        (90, 120, "span", 1),
        (120, 180, "span", None),
        (180, 200, "length", None),
    ]


def test_what_is_set_aside_is_a_piece_of_its_own() -> None:
    splitter = PieceSplitter(time_base=TICK, first_tick=0, clip_len_s=2.0)
    kinds = [None] * 20 + ["transition"] * 10 + [None] * 20 + ["idle"] * 70 + [None] * 20
    edges = [
        (tick, edge)
        for tick, kind in enumerate(kinds)
        if (edge := splitter.add(tick, is_cut=tick == 125, aside=kind)) is not None
    ]
    assert [(tick, e.ended_at, e.shot_index, e.aside) for tick, e in edges] == [
        (0, None, 0, None),
        (20, "transition", 0, "transition"),
        (30, "transition", 1, None),
        (50, "idle", 1, "idle"),
        (110, "length", 1, "idle"),
        (120, "idle", 1, None),
        (125, "cut", 2, None),
    ]


def test_a_cut_out_of_a_transition_begins_one_shot() -> None:
    splitter = PieceSplitter(time_base=TICK, first_tick=0, clip_len_s=2.0)
    assert splitter.add(0, is_cut=False, aside="transition") is not None
    edge = splitter.add(1, is_cut=True)
    assert edge is not None
    assert (edge.ended_at, edge.shot_index, edge.aside) == ("cut", 1, None)


def test_an_idle_stretch_inside_a_span_keeps_the_span() -> None:
    spans = [span(0, 4)]
    splitter = PieceSplitter(time_base=TICK, first_tick=0, clip_len_s=9.0, spans=spans)
    kinds = [None] * 30 + ["idle"] * 60 + [None] * 60
    edges = [splitter.add(tick, is_cut=False, aside=kind) for tick, kind in enumerate(kinds)]
    found = [(e.ended_at, e.span_index, e.aside) for e in edges if e is not None]
    assert found == [
        (None, 0, None), ("idle", 0, "idle"), ("idle", 0, None), ("span", None, None)
    ]  # fmt: skip


def test_an_empty_list_of_spans_means_no_frame_is_in_a_span() -> None:
    assert [piece[4] for piece in split(60, spans=[])] == [None]


def test_span_times_are_file_times_in_a_later_part() -> None:
    pieces = split(150, spans=[span(3, 4)], first_frame=60)
    assert [(a, b, index) for a, b, _, _, index in pieces] == [
        (60, 90, None),
        (90, 120, 0),
        (120, 150, None),
    ]


def test_a_gap_longer_than_a_piece_makes_one_edge() -> None:
    splitter = PieceSplitter(time_base=Fraction(1), first_tick=0, clip_len_s=2.0)
    ticks = [0, 1, 11, 12, 13, 14]
    edges = [splitter.add(tick, is_cut=False) is not None for tick in ticks]
    assert edges == [True, False, True, True, False, True]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_cover_every_frame_once_and_are_never_too_long(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(1, 400))
    cuts = tuple(int(c) for c in rng.integers(1, num_frames + 1, 5))
    starts = np.sort(rng.uniform(0, num_frames / 30, 4))
    spans = [span(a, b) for a, b in itertools.pairwise(starts) if b > a]
    pieces = split(num_frames, cuts=cuts, spans=spans if seed % 2 else None, clip_len_s=1.7)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == num_frames
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    assert all(0 < end - start <= 52 for start, end, *_ in pieces)
    assert {start for start, *_ in pieces} >= {cut for cut in cuts if cut < num_frames}


def test_too_short_is_frames_or_seconds() -> None:
    limits = {"min_frames": 14, "min_duration_s": 0.9}
    assert is_too_short(13, 10.0, **limits)
    assert is_too_short(100, 0.89, **limits)
    assert not is_too_short(14, 0.9 - 1e-9, **limits)
