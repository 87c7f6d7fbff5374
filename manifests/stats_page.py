"""`egodojo manifest stats --html`: what a dataset holds, as one page that opens anywhere, offline.

The table is the one that papers about such datasets print: hours, trajectories, unique scenes,
tasks, objects and skills, per source and body.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from .label_stats import contents, has_labels, label_tails, trajectory_lengths
from .markup import amount_bar, length, named, plural, style, table
from .storage import write_atomic

if TYPE_CHECKING:
    from .dataset import Dataset

NUM_BINS = 28
NUM_LABELS = 8
MAX_STEPS = 400
WIDTH, HEIGHT, TOP, BASE = 400, 118, 8, 98  # of a chart, in its own pixels
COLUMNS = ("scenes", "tasks", "objects", "skills")


def write_stats_page(dataset: Dataset, page: Path) -> Path:
    """Write the page and return its path; an older one is replaced."""
    rows = contents(dataset)
    total, groups = rows[-1], rows[:-1]
    decided = dataset.metadata("decisions").get("recipe")
    parts = {
        "style": style(),
        "title": escape(dataset.settings.name),
        "summary": _summary(total, decided),
        "numbers": _numbers(total),
        "contents": _contents(groups, total),
        "labels_note": "" if has_labels(dataset) else _NO_LABELS,
        "hours": _hours(groups),
        "durations": _durations(dataset),
        "labels": _labels(dataset),
        "path": escape(str(dataset.path)),
        "versions": escape(", ".join(f"{k} {v}" for k, v in sorted(dataset.versions.items()))),
    }
    text = Template(
        resources.files(__package__).joinpath("stats_page.html").read_text(encoding="utf-8")
    ).substitute(parts)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, text.encode("utf-8"))
    return page


_NO_LABELS = (
    '<p class="note">Scenes, objects and skills come from labels: <code>egodojo score DATASET '
    "--scorer captions</code> asks for them. Without labels a task is the text of a clip.</p>"
)


def _summary(total: Mapping[str, Any], recipe: str | None) -> str:
    kept = f"kept by the recipe <strong>{escape(recipe)}</strong>" if recipe else "not decided yet"
    return f"{plural(total['num_clips'], 'clip')}, {length(total['seconds'])}, {kept}."


def _numbers(total: Mapping[str, Any]) -> str:
    cards = [
        ("Hours", _hours_of(total["seconds"]), plural(total["num_clips"], "clip")),
        ("Trajectories", f"{total['num_trajectories']:,}", f"mean {length(_mean(total))}"),
        *((name.capitalize(), _count(total, name), "unique") for name in COLUMNS),
    ]
    return "".join(
        f'<div class="card"><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>'
        for name, value, note in cards
    )


def _contents(groups: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> str:
    heads = ["Source", "Embodiment", "#Hours", "#Trajectories", "#Mean length"]
    heads += [f"#{name.capitalize()}" for name in COLUMNS]
    rows = [_row(row, named(row["source"]), named(row["embodiment"])) for row in groups]
    if len(groups) != 1:
        cells = _row(total, "In total", "")
        rows.append([f"<strong>{cell}</strong>" if cell else "" for cell in cells])
    return table("Contents by source and embodiment", heads, rows)


def _row(row: Mapping[str, Any], source: str, body: str) -> list[str]:
    return [
        source,
        body,
        _hours_of(row["seconds"]),
        f"{row['num_trajectories']:,}",
        length(_mean(row)),
        *(_count(row, name) for name in COLUMNS),
    ]


def _mean(row: Mapping[str, Any]) -> float:
    """Mean length of a trajectory in seconds."""
    num: int = row["num_trajectories"]
    return float(row["seconds"]) / num if num else 0.0


def _count(row: Mapping[str, Any], name: str) -> str:
    found = row[f"num_{name}"]
    return f"{found:,}" if found else "–"


def _hours_of(seconds: float) -> str:
    hours = seconds / 3600
    digits = next((n for least, n in ((1000, 0), (10, 1), (0.1, 2)) if hours >= least), 3)
    return f"{hours:,.{digits}f}"


def _hours(groups: Sequence[Mapping[str, Any]]) -> str:
    """Length per source and body, longest first."""
    largest = max((row["seconds"] for row in groups), default=0.0)
    ordered = sorted(groups, key=lambda row: (-row["seconds"], row["source"], row["embodiment"]))
    rows = [
        [
            f"{named(row['source'])} <small>{escape(row['embodiment'])}</small>",
            amount_bar(row["seconds"], largest, css="kept"),
            length(row["seconds"]),
        ]
        for row in ordered
    ]
    return table("Length by source", ["Source", "", "#Length"], rows)


def _durations(dataset: Dataset) -> str:
    """Histogram of the trajectories' lengths; its last bar holds all that is longer."""
    seconds = trajectory_lengths(dataset)
    if not seconds:
        return '<p class="note">Nothing is kept yet.</p>'
    ordered = sorted(seconds)
    step = _round_step(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / NUM_BINS)
    counts = [0] * NUM_BINS
    for value in ordered:
        counts[min(int(value / step), NUM_BINS - 1)] += 1
    num_bars = max(index for index, count in enumerate(counts) if count) + 1
    counts, tallest = counts[:num_bars], max(counts)
    has_beyond = ordered[-1] > step * num_bars
    median = ordered[len(ordered) // 2]
    label = f"Lengths of {plural(len(ordered), 'trajectory')}, median {length(median)}"
    ends = (length(0.0), length(step * num_bars) + (" and more" if has_beyond else ""))
    return _figure(
        "Length of a trajectory",
        f"median {length(median)}, mean {length(sum(ordered) / len(ordered))}",
        _bars(counts, tallest) + _axis(*ends, f"tallest: {tallest:,}"),
        label.replace("trajectorys", "trajectories"),
    )


def _round_step(step: float) -> float:
    """The next larger of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= step * (1 - 1e-9))


def _labels(dataset: Dataset) -> str:
    """The section of labels; empty without any."""
    figures = _tails(dataset)
    if not figures:
        return ""
    return (
        '<section aria-labelledby="labels-head"><h2 id="labels-head">Labels</h2><p class="note">'
        "From the most frequent label to the rarest; heights on a logarithmic scale.</p>"
        f'<div class="two even">{figures}</div></section>'
    )


def _tails(dataset: Dataset) -> str:
    """Per kind of label: clips by rank, from the most frequent label to the rarest."""
    figures = []
    for kind, labels in label_tails(dataset).items():
        if not labels:
            continue
        counts = [row["num_clips"] for row in labels]
        once = sum(count == 1 for count in counts)
        chart = _tail(counts) + _axis(
            "rank 1", f"rank {len(counts):,}", f"{once:,} seen in one clip only"
        )
        largest = labels[0]["num_clips"]
        rows = [
            [
                named(row["label"]),
                amount_bar(row["num_clips"], largest, css="neutral"),
                f"{row['num_clips']:,}",
                length(row["seconds"]),
            ]
            for row in labels[:NUM_LABELS]
        ]
        words = ", ".join(f"{row['label']} {row['num_clips']}" for row in labels[:3])
        figures.append(
            _figure(
                kind.capitalize(),
                f"{len(counts):,} unique",
                chart,
                f"Clips per {kind}, most frequent first: {words}",
                below=table(f"Most frequent: {kind}", ["Label", "", "#Clips", "#Length"], rows),
            )
        )
    return "".join(figures)


def _tail(counts: Sequence[int]) -> str:
    """An area over the rank; its height is the logarithm of the count."""
    top = math.log1p(counts[0])
    counts = counts[:: math.ceil(len(counts) / MAX_STEPS)]
    step = WIDTH / len(counts)
    places = []
    for index, count in enumerate(counts):
        y = BASE - (BASE - TOP) * math.log1p(count) / top
        places.append(f"{index * step:.1f},{y:.1f} {(index + 1) * step:.1f},{y:.1f}")
    return f'<polygon class="neutral" points="0,{BASE} {" ".join(places)} {WIDTH},{BASE}"/>'


def _bars(counts: Sequence[int], tallest: int) -> str:
    step = WIDTH / len(counts)
    return "".join(
        f'<rect class="kept" x="{index * step + 1:.1f}" y="{BASE - height:.1f}" '
        f'width="{step - 2:.1f}" height="{height:.1f}"/>'
        for index, count in enumerate(counts)
        if (height := max(1.5, count / tallest * (BASE - TOP)) if count else 0.0)
    )


def _axis(left: str, right: str, middle: str) -> str:
    y = HEIGHT - 5
    return (
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/>'
        f'<text x="0" y="{y}">{escape(left)}</text>'
        f'<text class="mid" x="{WIDTH / 2}" y="{y}">{escape(middle)}</text>'
        f'<text class="end" x="{WIDTH}" y="{y}">{escape(right)}</text>'
    )


def _figure(title: str, note: str, drawing: str, label: str, *, below: str = "") -> str:
    return (
        f'<figure class="card histogram"><figcaption><strong>{escape(title)}</strong>'
        f"<span>{escape(note)}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{drawing}'
        f"</svg>{below}</figure>"
    )
