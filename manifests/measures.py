"""The measures of a clip: flat columns of `clips`, in order, that recipes may name.

All picture measures are taken from a 320x240 picture of what is written. Luma runs from 16 (black)
to 235 (white); camera motion is in widths of the picture, so neither size nor frame rate matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One column.

    Attributes:
        type: `double`, `int64`, or `list<int64>`, which no gate may name.
        unit: What the number counts; `ratio` lies in [0, 1].
        description: One sentence.
        high: Largest value; None: there is no bound. The smallest is 0.
    """

    type: Literal["double", "int64", "list<int64>"]
    unit: str
    description: str
    high: float | None = None

    @property
    def range(self) -> str:
        """The values it can have, in words."""
        return "0 and more" if self.high is None else f"0 to {self.high:g}"


def _double(unit: str, description: str, *, high: float | None = None) -> Measure:
    high = 1.0 if unit == "ratio" else high
    return Measure(type="double", unit=unit, description=description, high=high)


MEASURES: dict[str, Measure] = {
    "source_width_px": Measure(
        type="int64", unit="px", description="Width of the source as displayed."
    ),
    "source_height_px": Measure(
        type="int64", unit="px", description="Height of the source as displayed."
    ),
    "is_hdr": Measure(
        type="int64",
        unit="0 or 1",
        description="1 when the source is HDR (PQ or HLG), whose pictures were made SDR ones.",
        high=1,
    ),
    "missing_frames_ratio": _double(
        "ratio", "Share of the frames declared for the clip's span that could not be decoded."
    ),
    "corrupt_frames_ratio": _double(
        "ratio", "Share of the decoded frames that the decoder marks as damaged."
    ),
    "num_undecodable_packets": Measure(
        type="int64", unit="packets", description="Packets of the span that the decoder refused."
    ),
    "num_format_changes": Measure(
        type="int64",
        unit="changes",
        description="How often the stream's size, pixel format or colours have changed before the "
        "clip, since its unit's start; a clip ends where they change.",
    ),
    "longest_gap_frames": _double(
        "frames", "Longest time one frame stands, over the video's median interval; steady is 1."
    ),
    "brightness_mean_luma": _double(
        "luma levels", "Mean luma; black is 16, white is 235.", high=255
    ),
    "contrast_luma": _double(
        "luma levels", "Mean over the frames of the deviation of luma.", high=127.5
    ),
    "underexposed_ratio": _double("ratio", "Share of pixels darker than 10 % of white."),
    "overexposed_ratio": _double("ratio", "Share of pixels brighter than 97 % of white."),
    "black_frames_ratio": _double("ratio", "Share of frames that are black in 98 % of pixels."),
    "sharpness_luma": _double(
        "luma levels", "Mean absolute second difference of neighbouring pixels.", high=510
    ),
    "camera_motion_width_per_s": _double(
        "widths/s", "Mean speed of the picture as a whole (translation model)."
    ),
    "camera_motion_p95_width_per_s": _double("widths/s", "95th percentile of that speed."),
    "camera_shake_width_per_s": _double(
        "widths/s", "Mean deviation of camera velocity from its half-second average."
    ),
    "residual_motion_luma": _double(
        "luma levels",
        "Mean change of 8x8 blocks from frame to frame, camera motion taken out.",
        high=255,
    ),
    "residual_motion_p95_luma": _double(
        "luma levels", "95th percentile over the frames.", high=255
    ),
    "changing_blocks_ratio": _double(
        "ratio", "Share of 8x8 blocks that change within half a second, mean over the clip."
    ),
    "changing_blocks_p95_ratio": _double("ratio", "95th percentile over the half seconds."),
    "still_ratio": _double("ratio", "Share of half seconds in which no block changes visibly."),
    "longest_frozen_s": _double(
        "s", "Longest stretch in which nothing in the picture moves, under camera noise too."
    ),
    "frozen_ratio": _double(
        "ratio",
        "Longest stretch in which one and the same picture is repeated, without noise of its own, "
        "over the clip's duration.",
    ),
    "stills_ratio": _double(
        "ratio", "Share of the time in pictures that stand 0.3 s or more beside a sudden change."
    ),
    "letterbox_ratio": _double(
        "ratio", "Share of rows, from the top and the bottom, that stay black over the whole clip."
    ),
    "pillarbox_ratio": _double(
        "ratio", "Share of columns, from the left and the right, that stay black."
    ),
    "round_mask_ratio": _double(
        "ratio",
        "Share of a corner that stays black, least of the four, inside the borders above: near 1 "
        "for a round lens mask; NULL when all is black.",
    ),
    "overlay_ratio": _double(
        "ratio",
        "Share of the picture at edges that never move while at least half of it does: text, "
        "logos, but also what is fixed to the camera; NULL when less moves.",
    ),
    "chroma_spread_levels": _double(
        "chroma levels",
        "Root mean square distance of chroma from the picture's mean colour; under 1 for grey or "
        "tinted pictures.",
        high=181,
    ),
    "skin_fraction": _double(
        "ratio",
        "Share of the picture in colours that skin may have. A hint: wood and warm light have "
        "them too, gloves and much skin do not.",
    ),
    "shot_cut_score": _double(
        "ratio to a cut",
        "Strongest sign of a hard cut after the clip's first frame; 1 ends a clip.",
        high=1,
    ),
    "transition_score": _double(
        "ratio to a transition",
        "Strongest sign of a dissolve or fade; 1 ends a clip, 0 is below 0.5.",
    ),
    "fingerprint_luma": Measure(
        type="list<int64>",
        unit="luma levels",
        description="Perceptual hash over time: mean luma of 8x6 fields per quarter second, one "
        "byte each, row by row; six little-endian words per quarter second.",
        high=255,
    ),
}
