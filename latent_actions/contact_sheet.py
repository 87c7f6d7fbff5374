"""A query and its answers as one picture: a row of frames each, the query first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .clips import FrameReader
from .retrieve import Retrieval, Span

THUMB_PX = (160, 120)
LABEL_PX = 210
MARGIN_PX = 6
TITLE_PX = 26
INK, FAINT, PAPER, MARK = (28, 30, 34), (110, 114, 120), (252, 252, 250), (214, 96, 32)


def contact_sheet(result: Retrieval, reader: FrameReader, *, num_frames: int = 6) -> Image.Image:
    """Draw a retrieval; every row shows its span from the first to the last frame."""
    spans = [result.query, *result.answers]
    row_px = THUMB_PX[1] + MARGIN_PX
    width = LABEL_PX + num_frames * (THUMB_PX[0] + MARGIN_PX) + MARGIN_PX
    sheet = Image.new("RGB", (width, TITLE_PX + MARGIN_PX + row_px * len(spans)), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"same motion, other clips   ({result.model_id}, step {result.step})"
    draw.text((MARGIN_PX, MARGIN_PX), title, fill=INK, font=_font(15))
    for number, span in enumerate(spans):
        top = TITLE_PX + MARGIN_PX + number * row_px
        _label(draw, span, top=top, number=number)
        for column, thumb in enumerate(_thumbs(span, reader, num_frames)):
            sheet.paste(thumb, (LABEL_PX + column * (THUMB_PX[0] + MARGIN_PX), top))
    bottom = TITLE_PX + MARGIN_PX + THUMB_PX[1]
    frame = (LABEL_PX - 2, TITLE_PX + MARGIN_PX - 2, width - MARGIN_PX + 1, bottom + 1)
    draw.rectangle(frame, outline=MARK, width=2)
    return sheet


def save_contact_sheet(result: Retrieval, reader: FrameReader, path: Path) -> None:
    """Write the picture of a retrieval as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(result, reader).save(path, format="PNG")


def _label(draw: ImageDraw.ImageDraw, span: Span, *, top: int, number: int) -> None:
    head = "query" if number == 0 else f"{number}.  {span.score:.3f}"
    lines = (
        (head, 17, MARK if number == 0 else INK),
        (span.embodiment or "unknown body", 15, INK),
        (f"{span.start_s:.2f} - {span.end_s:.2f} s", 13, FAINT),
        (_shorten(Path(span.uri).name, 28), 13, FAINT),
        (span.clip_id[:12], 13, FAINT),
    )
    for text, size, colour in lines:
        draw.text((MARGIN_PX, top), text, fill=colour, font=_font(size))
        top += size + 6


def _thumbs(span: Span, reader: FrameReader, num_frames: int) -> list[Image.Image]:
    places = np.linspace(0, span.num_frames - 1, num_frames).round().astype(int)
    indices = sorted({span.first_frame + int(place) for place in places})
    frames = reader.frames(span.shard, span.clip_id, indices)
    by_index = dict(zip(indices, frames, strict=True))
    return [
        Image.fromarray(by_index[span.first_frame + int(place)]).resize(THUMB_PX)
        for place in places
    ]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
