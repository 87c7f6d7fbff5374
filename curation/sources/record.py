"""What belongs to one video, wherever it lies: spans, actions and text, with their digests.

What a layout does not say is taken from the files beside the video.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.config import canonical_json
from manifests.errors import SampleError
from pipeline.flaky import check_source

from ..sidecars import (
    Actions,
    Span,
    find_sidecars,
    read_actions,
    read_caption,
    read_spans,
)
from . import egodex
from .reference import SourceRef, parse_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What belongs to a video.

    Attributes:
        spans: Stretches that become clips; None when the whole video does.
        actions: Recorded actions; None when there are none, or nobody named their columns.
    """

    spans: tuple[Span, ...] | None = None
    actions: Actions | None = None


def read_record(video: Mapping[str, Any], path: Path, action_names: Sequence[str]) -> Record:
    """Spans and actions of a video.

    Args:
        video: Its row of `videos`.
        path: Where it lies.
        action_names: The embodiment's columns; empty: no actions are read.

    Raises:
        SampleError: Something that belongs to it cannot be used.
    """
    ref, path = _place(parse_reference(video.get("sidecar")), path)
    found = find_sidecars(path)
    spans, actions = None, None
    if ref is not None:
        spans, actions = _from_layout(ref, video["uri"], action_names)
    if spans is None and found.spans is not None:
        spans = read_spans(found.spans)
    if ref is None and found.actions is not None and action_names:
        actions = read_actions(found.actions, action_names)
    return Record(spans=spans, actions=actions)


def record_digests(video: Mapping[str, Any], path: Path, action_names: Sequence[str]) -> list[str]:
    """SHA-256 of everything that belongs to a video; what cannot be read counts as nothing."""
    try:
        ref, path = _place(parse_reference(video.get("sidecar")), path)
        digests = find_sidecars(path).digests()
        if ref is None:
            return digests
        return [*digests, _digest(ref, video, action_names)]
    except (SampleError, OSError) as error:  # the work on this video will say why
        check_source(path, error)
        return []


def text_of(ref: SourceRef | None, path: Path) -> str | None:
    """The text of a whole video: its layout's, else the caption beside it.

    Raises:
        SampleError: The layout's cannot be read.
        OSError: The caption cannot.
    """
    ref, path = _place(ref, path)
    found = None
    if ref is not None and ref.layout == "egodex":
        found = egodex.read_text(Path(ref.path))
    return found or read_caption(path)


def _place(ref: SourceRef | None, path: Path) -> tuple[SourceRef | None, Path]:
    """A layout's reference, if any, and the path beside which a video's sidecars lie."""
    if ref is not None and ref.layout == "link":
        return None, Path(ref.path)
    return ref, path


def _digest(ref: SourceRef, video: Mapping[str, Any], action_names: Sequence[str]) -> str:
    """Of what a layout says of a video.

    Poses are taken as bytes: this runs in the driver, which a damaged HDF5 file must not end.
    """
    seen = hashlib.sha256()
    if ref.layout == "egodex":
        seen.update(canonical_json([ref.layout, video["text"], list(action_names)]).encode())
        if action_names:
            with open(ref.path, "rb") as file:
                seen.update(hashlib.file_digest(file, "sha256").digest())
        return seen.hexdigest()
    spans, actions = _from_layout(ref, video["uri"], action_names)
    rows = [[span.start_s, span.end_s, span.text] for span in spans or ()]
    seen.update(canonical_json([ref.layout, video["text"], rows, list(action_names)]).encode())
    if actions is not None:
        seen.update(actions.times_s.astype("<f8").tobytes())
        seen.update(actions.values.astype("<f4").tobytes())
    return seen.hexdigest()


def _from_layout(
    ref: SourceRef, uri: str, action_names: Sequence[str]
) -> tuple[tuple[Span, ...] | None, Actions | None]:
    if ref.layout == "egodex":
        names = tuple(action_names)
        return None, egodex.read_poses(Path(ref.path), names) if names else None
    from .rows import read_lerobot

    return read_lerobot(ref, uri, action_names)
