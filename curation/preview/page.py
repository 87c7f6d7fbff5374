"""`preview/index.html`: what was kept and dropped, why, and what it looks like, on one page.

The page is one file that needs no network: pictures are inline, charts are SVG. Its one script,
named by its digest in the page's own policy, only adds to it: without it everything is shown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from os.path import commonpath
from pathlib import PurePosixPath
from string import Template
from typing import Any

from manifests.dataset import Dataset
from manifests.markup import amount_bar, clock, code, length, named, plural, share_bar, style, table
from manifests.storage import Location, location, write_atomic
from pipeline.clips import ClipReader
from pipeline.progress import Progress

from ..split import IDLE, NO_SPAN, TRANSITION
from . import charts, examples
from .facts import MAX_LISTED, Facts, collect, kept_copies, sample_clips
from .sheets import TileMaker, measured, sheet
from .whatif import MAX_CLIPS, clip_places, script_data, script_json

NUM_KEPT = 48
NUM_PER_REASON = 12
MAX_DETAIL, MAX_FOLDER = 400, 60
"""Characters that are shown of an error and of a file's folder."""

TEMPLATE = "template.html"
STYLE = "page.css"
SCRIPTS = ("decide.js", "page.js")


def write_preview(dataset: Dataset, out: Location | None = None, *, quiet: bool = True) -> Location:
    """Write the page and return its path; an older one is replaced.

    Args:
        dataset: What to draw, at the versions it was opened at.
        out: Another place for the page.
        quiet: Show no progress while pictures are read.

    Example:
        >>> write_preview(Dataset.open("DATASET"))  # doctest: +SKIP
        PosixPath('DATASET/preview/index.html')
    """
    page = location(out) if out is not None else dataset.path / "preview" / "index.html"
    facts = collect(dataset)
    tiles = TileMaker(
        reader=ClipReader(dataset.path),
        gop=dataset.settings.encode.gop,
        places=clip_places(dataset),
    )
    drawn = {
        "difference": examples.difference(dataset, facts, tiles),
        "clusters": examples.clusters(dataset, tiles),
    }
    clips = sample_clips(
        dataset,
        num_kept=NUM_KEPT,
        num_per_reason=NUM_PER_REASON,
        compared=facts.compared,
    )
    copies = kept_copies(dataset, facts.duplicate_rule, clips)
    sheets = _sheets(tiles, facts, clips, copies, quiet=quiet)
    text = Template(_own(TEMPLATE)).substitute(
        _parts(dataset, facts, sheets) | _optional(drawn) | _code(dataset, facts)
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, text.encode("utf-8"))
    return page


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _code(dataset: Dataset, facts: Facts) -> dict[str, str]:
    """Style, script, the digest by which the page allows it, and the data it reads."""
    script = f'"use strict";\n(() => {{\n{"".join(map(_own, SCRIPTS))}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return {
        "style": style() + _own(STYLE),
        "script": script,
        "script_digest": f"'sha256-{digest}'",
        "data": script_json(script_data(dataset, facts)),
    }


def _optional(drawn: Mapping[str, str]) -> dict[str, str]:
    """Sections that are only there when they have something to show, and their links."""
    titles = {"difference": "Against the last decision", "clusters": "Duplicates"}
    parts = {}
    for name, content in drawn.items():
        parts[name] = (
            f'<section id="{name}" aria-labelledby="{name}-head">\n'
            f'<h2 id="{name}-head">{titles[name]}</h2>\n{content}\n</section>'
            if content
            else ""
        )
        short = {"difference": "Changes", "clusters": "Duplicates"}[name]
        parts[f"{name}_link"] = f'<li><a href="#{name}">{short}</a></li>' if content else ""
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """The clips shown for one verdict and reason; `reason` is None for kept ones."""

    reason: str | None
    tiles: str
    num_shown: int


def _parts(dataset: Dataset, facts: Facts, sheets: Sequence[_Sheet]) -> dict[str, str]:
    root = _common_folder(row["uri"] for row in [*facts.troubles, *facts.gated])
    kept = [drawn for drawn in sheets if drawn.reason is None]
    dropped = [drawn for drawn in sheets if drawn.reason is not None]
    return {
        "title": escape(facts.name),
        "summary": _summary(facts),
        "numbers": _numbers(facts),
        "balance": _balance(facts),
        "reasons": _reasons(facts, {drawn.reason for drawn in dropped}),
        "fates": _fates(facts),
        "sources": _sources(facts),
        "legend": charts.legend(g for g in charts.WORDS if g in facts.groups),
        "histograms": "".join(
            charts.histogram(found, column) for column, found in enumerate(facts.histograms)
        )
        or _none("No clip yet."),
        "kept": "".join(_section(shown, facts) for shown in kept) or _none("No clip is kept."),
        "dropped": "".join(_section(shown, facts) for shown in dropped)
        or _none("No written clip is dropped."),
        "gated": _gated(facts, root),
        "troubles": _troubles(facts, root),
        "sample": _sample_note(facts),
        "kept_title": "Kept" if facts.recipe is not None else "Written clips",
        "recipe": escape(facts.recipe_text) or "No decision yet.",
        "path": escape(str(dataset.path)),
        "versions": escape(", ".join(f"{k} {v}" for k, v in sorted(dataset.versions.items()))),
    }


def _sample_note(facts: Facts) -> str:
    total = _totals(facts)[0]
    if total <= MAX_CLIPS:
        return ""
    return (
        f" Numbers marked ≈ are estimated from an even sample of {MAX_CLIPS:,} of {total:,} clips."
    )


# --- numbers ----------------------------------------------------------------------------------


def _group(facts: Facts, name: str) -> tuple[int, float]:
    found = facts.groups.get(name, {"clips": 0, "seconds": 0.0})
    return found["clips"], found["seconds"]


def _totals(facts: Facts) -> tuple[int, float]:
    return (
        sum(row["clips"] for row in facts.groups.values()),
        sum(row["seconds"] for row in facts.groups.values()),
    )


def _summary(facts: Facts) -> str:
    num_clips, seconds = _totals(facts)
    num_kept, kept_s = _group(facts, "kept")
    num_files = sum(row["files"] for row in facts.fates)
    if facts.recipe is None:
        return f"{plural(num_clips, 'clip')} from {plural(num_files, 'file')}, not decided yet."
    keeps = "would keep" if facts.is_trial else "keeps"
    trial = " A trial: nothing was decided." if facts.is_trial else ""
    return (
        f"Recipe <strong>{escape(facts.recipe)}</strong> {keeps} {num_kept:,} of "
        f"{plural(num_clips, 'clip')}: {length(kept_s)} of {length(seconds)}, "
        f"from {plural(num_files, 'file')}.{trial}"
    )


def _numbers(facts: Facts) -> str:
    num_clips, seconds = _totals(facts)
    num_kept, kept_s = _group(facts, "kept")
    num_files = sum(row["files"] for row in facts.fates)
    unread = sum(r["files"] for r in facts.fates if r["state"] == "unreadable")
    footage = sum(row["seconds"] for row in facts.fates)
    share = f"{num_kept / num_clips:.0%} of {plural(num_clips, 'clip')}" if num_clips else ""
    part = f"{kept_s / seconds:.0%} of {length(seconds)} in clips" if seconds else ""
    cards = [
        ("Files", f"{num_files:,}", f"{unread:,} unreadable"),
        ("Footage", length(footage), plural(len(facts.sources), "source")),
        ("Clips kept", f"{num_kept:,}", share),
        ("Length kept", length(kept_s), part),
    ]
    return "".join(
        f'<div class="card"><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>'
        for name, value, note in cards
    )


def _balance(facts: Facts) -> str:
    parts = [(name, _group(facts, name)[1]) for name in charts.WORDS]
    words = ", ".join(f"{charts.WORDS[name]} {length(s)}" for name, s in parts if s)
    return share_bar(parts, label=f"Length of all clips: {words or 'none'}")


def _reasons(facts: Facts, shown: set[str | None]) -> str:
    if not facts.reasons:
        return _none("Nothing was dropped.")
    rules = {(rule.name, rule.is_gate): _rule(rule.keep_when, rule.why) for rule in facts.rules}
    rules |= {(name, True): _rule(*words) for name, words in _BUILT_IN.items()}
    rules["too_short", True] = _rule(facts.shortest, "Nothing can be learnt from less.")
    rules["near_duplicate", False] = _rule(
        "no better clip of its cluster is kept", facts.duplicate_rule.get("why", "")
    )
    largest = max(row["clips"] for row in facts.reasons)
    rows = []
    for row in facts.reasons:
        name = escape(row["reason"])
        target = "gated" if row["is_gate"] else f"drop-{name}"
        is_linked = row["is_gate"] or row["reason"] in shown
        css = "gated" if row["is_gate"] else "dropped"
        rows.append(
            [
                (f'<a href="#{target}">{name}</a>' if is_linked else name)
                + (" <small>gate</small>" if row["is_gate"] else ""),
                amount_bar(row["clips"], largest, css=css),
                f"{row['clips']:,}",
                length(row["seconds"]),
                rules.get((row["reason"], row["is_gate"]), ""),
            ]
        )
    heads = ["Reason", "", "#Clips", "#Length", "A clip passes when"]
    return table("Why clips were dropped", heads, rows)


_BUILT_IN = {
    TRANSITION: ("no dissolve or fade is going on", "Its frames show two shots at once."),
    IDLE: ("something moves", "The dataset was made without idle stretches (idle_min_s)."),
    NO_SPAN: ("a span of the sidecar covers it", "The sidecar names what is wanted."),
}
"""Gates that no recipe names: when a clip passes, and why."""


def _rule(passes_when: str, why: str) -> str:
    return code(passes_when) + (f'<small class="because">{escape(why)}</small>' if why else "")


def _fates(facts: Facts) -> str:
    largest = max((row["files"] for row in facts.fates), default=0)
    rows = [
        [
            _state(row["state"]),
            amount_bar(row["files"], largest, css="neutral"),
            f"{row['files']:,}",
            length(row["seconds"]) if row["seconds"] else "–",
            length(row["kept_s"]) if row["kept_s"] else "–",
        ]
        for row in facts.fates
    ]
    return table("Files by fate", ["Fate", "", "#Files", "#Footage", "#Kept"], rows)


def _sources(facts: Facts) -> str:
    rows = []
    for row in facts.sources[:MAX_LISTED]:
        left_s = max(row["seconds"] - row["kept_s"], 0.0)
        percent = f"{row['kept_s'] / row['seconds']:.0%}" if row["seconds"] else "–"
        bar = share_bar(
            [("kept", row["kept_s"]), ("rest", left_s)], label=f"{percent} kept", css="amount"
        )
        rows.append(
            [
                named(row["source"]),
                named(row["embodiment"]),
                f"{row['files']:,}",
                length(row["seconds"]),
                f"{row['clips']:,}",
                f"{row['kept']:,}",
                length(row["kept_s"]),
                bar,
                percent,
            ]
        )
    heads = ["Source", "Embodiment", "#Files", "#Footage", "#Written", "#Kept", "#Length kept"]
    copies = sum(row["seconds"] for row in facts.fates if row["state"] == "duplicate")
    note = f" Footage of duplicate files ({length(copies)}) is not counted here." if copies else ""
    return (
        table("Sources", [*heads, "", "#Share"], rows)
        + f'<p class="note">Written and kept are clips; the share is that of the footage.{note}</p>'
        + _more(len(facts.sources))
    )


# --- pictures ---------------------------------------------------------------------------------


def _sheets(
    tiles: TileMaker,
    facts: Facts,
    clips: Sequence[Mapping[str, Any]],
    copies: Mapping[str, Mapping[str, Any]],
    *,
    quiet: bool,
) -> list[_Sheet]:
    """Tiles by reason, kept ones first; at the page's limit every reason has got its share."""
    rules = {rule.name: rule for rule in facts.rules if not rule.is_gate}
    found: dict[str | None, list[str]] = {}
    with Progress(len(clips), "clips drawn", quiet=quiet) as progress:
        for clip in sorted(clips, key=lambda clip: clip["number"]):
            progress.advance()
            if tiles.is_spent and clip["number"] > 1:
                continue
            reason = clip["reason"] if clip["verdict"] == "drop" else None
            why = measured(clip, rules.get(reason or ""))
            if kept := copies.get(clip["clip_id"]):
                why = f"same as {PurePosixPath(kept['uri']).name} from {clock(kept['start_s'])}"
            found.setdefault(reason, []).append(tiles.tile(clip, why=why))
    ordered = sorted(found, key=lambda reason: (reason is not None, reason or ""))
    return [
        _Sheet(reason=reason, tiles=sheet(found[reason]), num_shown=len(found[reason]))
        for reason in ordered
    ]


def _section(shown: _Sheet, facts: Facts) -> str:
    if shown.reason is None:
        group = "kept" if facts.recipe is not None else "undecided"
        note = f"{shown.num_shown:,} of {plural(_group(facts, group)[0], 'clip')}"
        if facts.recipe is None:
            note += ", not decided yet: <code>egodojo decide</code> does that"
        return f'<p class="note">{note}.</p>{shown.tiles}'
    name = escape(shown.reason)
    total = next(r["clips"] for r in facts.reasons if r["reason"] == shown.reason)
    return (
        f'<details open id="drop-{name}"><summary><h3>{name}</h3> <span>{shown.num_shown:,} of '
        f"{plural(total, 'clip')}</span></summary>{shown.tiles}</details>"
    )


# --- lists ------------------------------------------------------------------------------------


def _gated(facts: Facts, root: str) -> str:
    if not facts.gated:
        return _none("No gate closed." if facts.groups else "No clip yet.")
    rows = [
        [
            escape(row["gate"]),
            _file(row["uri"], root),
            f"{clock(row['start_s'])} – {clock(row['end_s'])}",
            f"{row['num_frames']:,}",
        ]
        for row in facts.gated
    ]
    heads = ["Gate", "File", "Span", "#Frames"]
    return (
        _none("A gate closed before these were encoded; there are no pictures of them.")
        + table("Clips that were never written", heads, rows)
        + _more(facts.num_gated)
    )


def _troubles(facts: Facts, root: str) -> str:
    if not facts.troubles:
        return _none("Every file was read and gave clips.")
    rows = []
    for row in facts.troubles:
        detail = row["detail"] or ""
        if row["state"] == "duplicate":
            detail = f"same bytes as {detail.removeprefix(root).lstrip('/')}"
        detail = detail.removeprefix(row["uri"]).strip()
        detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]} …"
        rows.append(
            [
                _state(row["state"]) + (" " + _state("damaged") if row["is_damaged"] else ""),
                _file(row["uri"], root),
                code(row["reason"] or ""),
                f'<span class="detail">{escape(detail)}</span>',
            ]
        )
    heads = ["Fate", "File", "Reason", "Detail"]
    return table("Files to look at", heads, rows) + _more(facts.num_troubles)


def _state(name: str) -> str:
    return f'<span class="state {escape(name)}">{escape(name.replace("_", " "))}</span>'


def _file(uri: str, root: str) -> str:
    folder, _, file = uri.rpartition("/")
    folder = folder.removeprefix(root).lstrip("/")
    if len(folder) > MAX_FOLDER:
        folder = f"…{folder[-MAX_FOLDER:]}"
    before = f"<small>{escape(folder)}/</small>" if folder else ""
    return f'<span class="name" title="{escape(uri)}">{before}{escape(file)}</span>'


def _common_folder(uris: Any) -> str:
    """The folder all local files share, which every row would repeat."""
    folders = {str(PurePosixPath(uri).parent) for uri in uris if str(uri).startswith("/")}
    return commonpath(folders) if folders else ""


def _more(total: int) -> str:
    hidden = total - MAX_LISTED
    return f'<p class="note">{hidden:,} more are not listed here.</p>' if hidden > 0 else ""


def _none(sentence: str) -> str:
    return f'<p class="note">{escape(sentence)}</p>'
