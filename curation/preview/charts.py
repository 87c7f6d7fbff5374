"""The page's histograms with their thresholds as inline SVG, and what the colours mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from manifests.markup import number, plural, signs

from .facts import GROUPS, NUM_BINS, Histogram, Threshold

WIDTH, HEIGHT, TOP, BASE = 340, 132, 26, 112  # of a histogram, in its own pixels
WORDS = {
    "kept": "kept",
    "dropped": "dropped by a rule",
    "gated": "never written",
    "undecided": "not decided",
}


def histogram(found: Histogram, column: int) -> str:
    """One measure: stacked counts, the thresholds of the recipe, the dropped side shaded.

    Args:
        found: What to draw.
        column: Its number among all histograms, by which the page's script finds its values.
    """
    tallest = max(max(sum(counts) for counts in found.bins), 1)
    marks = "".join(_shade(found, cut) for cut in found.thresholds)
    bars = "".join(_stack(i, counts, tallest) for i, counts in enumerate(found.bins))
    handles = "".join(
        _handle(found, cut, 10 + 11 * (i % 2)) for i, cut in enumerate(found.thresholds)
    )
    rules = "; ".join(
        f"{c.rule} keeps {signs(c.operator)} {number(c.value)}" for c in found.thresholds
    )
    label = f"{found.name}: {number(found.low)} to {number(found.high)} {found.unit}. {rules}"
    beyond = " and more" if found.has_beyond else ""
    missing = f" {plural(found.num_missing, 'clip')} without a value." if found.num_missing else ""
    return f"""<figure class="card histogram" data-column="{column}">
<figcaption><strong>{escape(found.name)}</strong><span>{escape(found.unit)}</span></figcaption>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(label)}">{marks}
<line class="axis" x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/><g class="bars">{bars}</g>
<text class="tick" x="0" y="{HEIGHT - 5}">{number(found.low)}</text>
<text class="tick end" x="{WIDTH}" y="{HEIGHT - 5}">{number(found.high)}{beyond}</text>
<text class="tick mid" x="{WIDTH / 2}" y="{HEIGHT - 5}">tallest: {plural(tallest, "clip")}</text>
{handles}</svg><p class="now" aria-live="polite" hidden></p>
<p>{escape(found.description)}{missing}</p>
<p class="tries"><button type="button" class="try" data-side="min">Try a minimum</button>
<button type="button" class="try" data-side="max">Try a maximum</button></p></figure>"""


def legend(names: Iterable[str] = GROUPS) -> str:
    """What the colours mean."""
    items = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="{name}" width="10" '
        f'height="10" rx="2"/></svg>{WORDS[name]}</li>'
        for name in names
    )
    return f'<ul class="legend">{items}</ul>'


def _x(found: Histogram, value: float) -> float:
    return (value - found.low) / (found.high - found.low) * WIDTH


def _shade(found: Histogram, cut: Threshold) -> str:
    x = min(max(_x(found, cut.value), 0.0), float(WIDTH))
    left, width = (0.0, x) if cut.keeps_above else (x, WIDTH - x)
    return (
        f'<rect class="shade" data-key="{escape(cut.key)}" x="{left:.1f}" y="{TOP}" '
        f'width="{width:.1f}" height="{BASE - TOP}"/>'
    )


def _handle(found: Histogram, cut: Threshold, y: int) -> str:
    """The line of a threshold with its words; the script lets it be dragged."""
    x = _x(found, cut.value)
    text = f"{cut.rule} {signs(cut.operator)} {number(cut.value)}"
    side, shift = ("end", -4) if x > WIDTH * 0.6 else ("", 4)
    return (
        f'<g class="handle" data-key="{escape(cut.key)}" transform="translate({x:.1f} 0)">'
        f'<rect class="hit" x="-13" y="0" width="26" height="{BASE + 10}"/>'
        f'<line class="cut" y1="{y - 8}" y2="{BASE}"/><circle class="knob" cy="{BASE}" r="5"/>'
        f'<text class="cut {side}" x="{shift}" y="{y}">{escape(text)}</text></g>'
    )


def _stack(index: int, counts: Sequence[int], tallest: int) -> str:
    step, y, boxes = WIDTH / NUM_BINS, float(BASE), []
    for name, count in zip(GROUPS, counts, strict=True):
        if count:
            height = max(1.5, count / tallest * (BASE - TOP))
            y -= height
            boxes.append(
                f'<rect class="{name}" x="{index * step + 0.6:.1f}" y="{y:.1f}" '
                f'width="{step - 1.2:.1f}" height="{height:.1f}"/>'
            )
    return "".join(boxes)
