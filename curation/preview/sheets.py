"""Contact sheets: three frames of a clip as one small JPEG, inline in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from manifests.errors import EgodojoError
from pipeline.clips import ClipReader

NUM_FRAMES = 3
THUMB_HEIGHT_PX = 108
GAP_PX = 2
JPEG_QUALITY = 74


def strip_of(reader: ClipReader, clip: Mapping[str, Any]) -> bytes:
    """JPEG of three frames of a clip side by side: its first sixth, its middle, its last sixth.

    Raises:
        EgodojoError: The clip's bytes cannot be read.
    """
    shard, clip_id = clip["shard"], clip["clip_id"]
    count = reader.num_frames(shard, clip_id)
    wanted = [(2 * i + 1) * count // (2 * NUM_FRAMES) for i in range(NUM_FRAMES)]
    frames = [Image.fromarray(picture) for picture in reader.frames(shard, clip_id, wanted)]
    width = round(THUMB_HEIGHT_PX * frames[0].width / frames[0].height)
    size = (NUM_FRAMES * width + (NUM_FRAMES - 1) * GAP_PX, THUMB_HEIGHT_PX)
    strip = Image.new("RGB", size, (128, 128, 128))
    for i, frame in enumerate(frames):
        small = frame.resize((width, THUMB_HEIGHT_PX), Image.Resampling.BOX)
        strip.paste(small, (i * (width + GAP_PX), 0))
    stream = io.BytesIO()
    strip.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return stream.getvalue()


def data_uri(jpeg: bytes) -> str:
    """The picture as text that can stand in `src`."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def try_strip(reader: ClipReader, clip: Mapping[str, Any]) -> tuple[str | None, str]:
    """(data URI, "") or (None, why the clip cannot be shown): one bad shard spoils no page."""
    try:
        return data_uri(strip_of(reader, clip)), ""
    except (EgodojoError, OSError, IndexError, KeyError) as error:
        return None, str(error)
