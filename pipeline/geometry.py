"""Where the written picture lies inside the stored one: display size and centre crop."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBox:
    """A rectangle in stored pixels; offsets are even, so chroma planes are cut on the same edge."""

    left: int
    top: int
    width: int
    height: int


def displayed_size(
    width: int, height: int, *, sample_aspect: Fraction, rotation: int
) -> tuple[int, int]:
    """Return the size (width, height) at which a stored picture is shown."""
    shown = max(1, round(width * sample_aspect))
    return (height, shown) if rotation % 180 else (shown, height)


def crop_box(
    width: int, height: int, *, sample_aspect: Fraction, rotation: int, aspect: Fraction
) -> CropBox:
    """Find the largest centred box of a display aspect inside a stored picture.

    Sides and offsets are rounded down to even, sides to no less than two pixels; a picture of one
    row or column is its own box.

    Args:
        width, height: Stored size in pixels.
        sample_aspect: Width of a stored pixel over its height.
        rotation: Degrees by which the stored picture is turned to be shown.
        aspect: Width over height of the box as displayed.
    """
    if min(width, height) < 2:
        return CropBox(left=0, top=0, width=width, height=height)
    stored_aspect = (1 / aspect if rotation % 180 else aspect) / sample_aspect
    if Fraction(width, height) > stored_aspect:
        wide, tall = int(height * stored_aspect), height
    else:
        wide, tall = width, int(width / stored_aspect)
    wide, tall = _even(wide), _even(tall)
    left, top = (width - wide) // 2, (height - tall) // 2
    return CropBox(left=left - left % 2, top=top - top % 2, width=wide, height=tall)


def _even(side: int) -> int:
    return max(side - side % 2, 2)


def plane_cuts(box: CropBox) -> list[tuple[slice, slice]]:
    """Rows and columns of a box in each of three 4:2:0 planes."""
    return [
        (
            slice(box.top // step, box.top // step + -(-box.height // step)),
            slice(box.left // step, box.left // step + -(-box.width // step)),
        )
        for step in (1, 2, 2)
    ]


def crop_planes(planes: list[NDArray[Any]], box: CropBox) -> list[NDArray[Any]]:
    """Cut 4:2:0 planes to a box without copying them."""
    return [plane[cut] for plane, cut in zip(planes, plane_cuts(box), strict=False)]
