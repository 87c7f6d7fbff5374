"""Where a video's actions, spans and text come from when not from files beside it.

The reference is one line of JSON in the column `sidecar` of `videos`, so that a run which goes on
later, in another process, finds the same things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from manifests.config import canonical_json

Layout = Literal["lerobot", "gr1", "egodex", "link"]
LAYOUTS: tuple[str, ...] = ("auto", "lerobot", "gr1", "egodex", "folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRef:
    """What a video belongs to.

    Attributes:
        layout: How its folder is laid out; `link`: as plain files, met through a link.
        path: The dataset's root (`lerobot`, `gr1`), the video's own pose file (`egodex`) or the
            link beside which its sidecars lie.
        camera: The camera's key; empty when the layout knows but one.
    """

    layout: Layout
    path: str
    camera: str = ""

    def to_text(self) -> str:
        """The value of the column `sidecar`."""
        return canonical_json(asdict(self))


def parse_reference(text: str | None) -> SourceRef | None:
    """Read the column `sidecar`; NULL means files beside the video."""
    return None if text is None else SourceRef(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The videos taken from one folder of a layout.

    Attributes:
        layout: How the folder is laid out.
        root: The folder.
        refs: Reference of each video taken, by URI.
        cameras: Cameras taken.
        other_cameras: Cameras the folder has besides.
        num_other: Videos left out: of other cameras, or in no episode.
        num_missing: Videos that the folder's tables name and that are not there.
        num_alone: Videos in the folder that nothing belongs to.
    """

    layout: Layout
    root: str
    refs: Mapping[str, SourceRef] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()
    other_cameras: tuple[str, ...] = ()
    num_other: int = 0
    num_missing: int = 0
    num_alone: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "layout": self.layout,
            "root": self.root,
            "num_videos": len(self.refs),
            "cameras": list(self.cameras),
            "other_cameras": list(self.other_cameras),
            "num_other": self.num_other,
            "num_missing": self.num_missing,
            "num_alone": self.num_alone,
        }
