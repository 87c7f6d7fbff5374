"""Parts that the pages about a dataset share: style, words, tables, bars; data is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources


def style() -> str:
    """The style sheet of every page: light and dark, cards, tables, charts."""
    return resources.files(__package__).joinpath("markup.css").read_text(encoding="utf-8")


def number(value: float) -> str:
    """At most three significant digits, thousands with a comma, no exponent for small ratios."""
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    if 5e-7 <= abs(value) < 1e-4:
        return f"{value:.6f}".rstrip("0")
    return f"{value:,.0f}" if 100 <= abs(value) < 1e15 else f"{value:.3g}"


def length(seconds: float) -> str:
    """A length of footage in the unit people would say it in."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def clock(seconds: float) -> str:
    """A position in a file: `1:05.2`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"


def plural(count: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def signs(text: str) -> str:
    """Comparison signs as one would print them."""
    return text.replace(">=", "≥").replace("<=", "≤")


def code(text: str) -> str:
    """A predicate or a code word."""
    return f"<code>{escape(signs(text))}</code>"


def named(text: str) -> str:
    """A name from outside, of any length, as a cell of a table; the whole of it on hover."""
    return f'<span class="name" title="{escape(text)}">{escape(text)}</span>'


def share_bar(parts: Sequence[tuple[str, float]], *, label: str, css: str = "share") -> str:
    """A horizontal bar of coloured parts; `parts` are (CSS class, amount)."""
    total = sum(amount for _, amount in parts) or 1.0
    left, boxes = 0.0, []
    for name, amount in parts:
        width = 100 * amount / total
        if width > 0:
            boxes.append(
                f'<rect class="{name}" x="{left:.3f}" width="{width:.3f}" y="0" height="10"/>'
            )
        left += width
    return (
        f'<svg class="{css}" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(boxes)}</svg>'
    )


def amount_bar(amount: float, largest: float, *, css: str) -> str:
    """A bar in a table cell; the number stands beside it, so it is hidden from readers aloud."""
    width = 100 * amount / largest if largest else 0.0
    return (
        '<svg class="amount" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{css}" width="{width:.2f}" height="10"/></svg>'
    )


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML already; heads that begin with `#` are of numbers."""
    numeric = [head.startswith("#") for head in heads]
    top = "".join(
        f'<th scope="col"{_num(n)}>{escape(head.lstrip("#"))}</th>'
        for head, n in zip(heads, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{_num(n)}>{cell}</td>" for cell, n in zip(row, numeric, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _num(is_number: bool) -> str:
    return ' class="num"' if is_number else ""
