"""Contact sheets: a few frames of a clip as one JPEG sprite that plays on hover and focus."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from manifests.errors import EgodojoError
from manifests.markup import clock, number, plural, signs
from pipeline.clips import ClipReader

from .facts import RuleText

NUM_FRAMES = 8
WIDTH_PX, HEIGHT_PX = 160, 120
JPEG_QUALITY = 60
MAX_PICTURE_BYTES = 6_000_000


def sprite_of(reader: ClipReader, clip: Mapping[str, Any], *, gop: int = 1) -> bytes:
    """JPEG of `NUM_FRAMES` frames of a clip side by side, evenly spread from start to end.

    Args:
        reader: Of the clip's dataset.
        clip: Its row: `shard` and `clip_id`.
        gop: Distance of keyframes; in longer clips the nearest ones are shown, each of which
            is decoded alone.

    Raises:
        EgodojoError: The clip's bytes cannot be read.
    """
    shard, clip_id = clip["shard"], clip["clip_id"]
    count = reader.num_frames(shard, clip_id)
    wanted = [(2 * i + 1) * count // (2 * NUM_FRAMES) for i in range(NUM_FRAMES)]
    cheap = [index - index % gop for index in wanted]
    if len(set(cheap)) == NUM_FRAMES:
        wanted = cheap
    sprite = Image.new("RGB", (NUM_FRAMES * WIDTH_PX, HEIGHT_PX))
    for i, picture in enumerate(reader.frames(shard, clip_id, wanted)):
        small = Image.fromarray(picture).resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BOX)
        sprite.paste(small, (i * WIDTH_PX, 0))
    stream = io.BytesIO()
    sprite.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return stream.getvalue()


@dataclass(slots=True, kw_only=True)
class TileMaker:
    """Makes tiles until the page's budget of picture bytes is spent.

    Attributes:
        reader: Of the dataset.
        gop: Distance of keyframes in its clips.
        places: Number of a clip among those that the page's script knows, by `clip_id`.
        num_bytes: Spent so far.
    """

    reader: ClipReader
    gop: int
    places: Mapping[str, int]
    num_bytes: int = field(default=0)

    @property
    def is_spent(self) -> bool:
        """Whether no more pictures fit."""
        return self.num_bytes > MAX_PICTURE_BYTES

    def tile(self, clip: Mapping[str, Any], *, why: str = "") -> str:
        """One clip as HTML: pictures, file, span, and a line `why` it is shown here."""
        name = PurePosixPath(clip["uri"]).name
        source = escape(clip["source"])
        span = f"{clock(clip['start_s'])} – {clock(clip['end_s'])}"
        lines = [
            f'<strong title="{escape(clip["uri"])}">{escape(name)}</strong>',
            f"<span>{span} · {plural(clip['num_frames'], 'frame')}</span>",
            f'<span class="source" title="{source}">{source}</span>',
        ]
        if why:
            lines.append(f'<span class="why">{escape(why)}</span>')
        place = self.places.get(clip["clip_id"])
        known = "" if place is None else f' data-clip="{place}"'
        return (
            f'<figure class="tile"{known}>{self._picture(clip, f"{name}, {span}")}'
            f"<figcaption>{''.join(lines)}</figcaption></figure>"
        )

    def _picture(self, clip: Mapping[str, Any], what: str) -> str:
        """One bad shard spoils no page."""
        if clip["gate"] is not None:
            return '<p class="broken">Never written: a gate closed before.</p>'
        try:
            jpeg = sprite_of(self.reader, clip, gop=self.gop)
        except (EgodojoError, OSError, IndexError, KeyError) as error:
            return f'<p class="broken">Cannot be shown: {escape(str(error))}</p>'
        uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        self.num_bytes += len(uri)
        return (
            f'<div class="film" tabindex="0"><img src="{uri}" '
            f'alt="{escape(f"{NUM_FRAMES} frames of {what}")}" width="{NUM_FRAMES * WIDTH_PX}" '
            f'height="{HEIGHT_PX}" loading="lazy" decoding="async"></div>'
        )


def measured(clip: Mapping[str, Any], rule: RuleText | None) -> str:
    """The values that a dropped clip's rule looked at; `clip` is one of `sample_clips`."""
    parts = []
    for compared, operator, value in rule.comparisons() if rule is not None else ():
        found = clip["values"].get(compared)
        if found is not None:
            parts.append(f"{compared} {number(found)}, kept when {signs(operator)} {number(value)}")
    return "; ".join(parts)


def sheet(tiles: Sequence[str]) -> str:
    """Tiles in a grid."""
    return f'<div class="sheet">{"".join(tiles)}</div>'
