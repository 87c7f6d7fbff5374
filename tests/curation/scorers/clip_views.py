"""A made-up clip as a scorer sees it, its frames from a reader of the test's own."""

from __future__ import annotations

from curation.scorers.base import ClipFacts, ClipView, FrameReader


def clip_view(reader: FrameReader, clip_id: str = "a", *, num_frames: int = 30) -> ClipView:
    """A clip of one second."""
    facts = ClipFacts(
        clip_id=clip_id,
        shard="clips-000000",
        uri="/v.mp4",
        source="s",
        embodiment="human",
        start_s=0.0,
        end_s=1.0,
        num_frames=num_frames,
        fps=30.0,
        text=None,
    )
    return ClipView(facts=facts, reader=reader)
