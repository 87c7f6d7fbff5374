"""The evaluation as Markdown and as one HTML page with its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1e22;background:#fcfcfa;margin:2rem auto;
max-width:70rem;padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;
text-align:right;border-bottom:1px solid #e2e2de}th:first-child,td:first-child{text-align:left}
tr.own td{font-weight:600;background:#fdf1e7}p.note{color:#6e7278}img{max-width:100%}
div.wide{overflow-x:auto}
"""


def write_page(report: dict[str, Any], out: Path) -> None:
    """Write `eval.md` and `eval.html` into `out`, where the report's pictures lie."""
    parts = _parts(report)
    (out / "eval.md").write_text(_markdown(report, parts), encoding="utf-8")
    (out / "eval.html").write_text(_html(report, parts, out), encoding="utf-8")


def _parts(report: dict[str, Any]) -> list[tuple[str, str, Table | None]]:
    """Title, note and table of each section."""
    found: list[tuple[str, str, Table | None]] = []
    retrieval = report.get("retrieval")
    if retrieval:
        note = (
            f"{retrieval['num_queries']} queries, each against the clips of all other bodies; "
            f"chance {retrieval['chance_precision_at_10']:.3f}. {retrieval['note']}"
        )
        found.append(("Same motion on another body", note, _retrieval_table(retrieval["table"])))
    if "probes" in report:
        note = "R2 of the true action read off a latent of a body that the probe did not see."
        found.append(("Probes", note, _probe_table(report["probes"])))
    numbers = report["statistics"]
    note = (
        f"{numbers['num_latents']} latents; {numbers['active_dimensions']} dimensions vary, "
        f"their variance is spread like over {numbers['effective_dimensions']}."
    )
    rows = [
        (str(n), f"{mean:.4f}", f"{spread:.4f}")
        for n, (mean, spread) in enumerate(zip(numbers["mean"], numbers["deviation"], strict=True))
    ]
    found.append(("Statistics", note, (("dimension", "mean", "deviation"), rows)))
    for what, why in report["left_out"].items():
        found.append((what.capitalize(), f"Left out: {why}.", None))
    return found


def _retrieval_table(table: list[dict[str, Any]]) -> Table:
    bodies = sorted({body for line in table for body in line["by_body"]})
    heads = ["method", "P@1", "P@10", "95 %", "mAP", "way", "moving", *bodies, "model is ahead by"]
    rows = []
    for line in table:
        ahead = ""
        if "model_minus_this" in line:
            low, high = line["model_minus_this_95"]
            ahead = f"{line['model_minus_this']:+.3f} [{low:+.3f}, {high:+.3f}]"
        low, high = line["precision_at_10_95"]
        rows.append(
            (
                line["method"],
                f"{line['precision_at_1']:.3f}",
                f"{line['precision_at_10']:.3f}",
                f"[{low:.3f}, {high:.3f}]",
                f"{line['mean_average_precision']:.3f}",
                _number(line.get("displacement_cosine")),
                _number(line.get("moving_camera")),
                *(_number(line["by_body"].get(body)) for body in bodies),
                ahead,
            )
        )
    return heads, rows


def _probe_table(probes: dict[str, Any]) -> Table:
    parts = list(next(iter(probes.values()))["r2"])
    rows = []
    for kind, found in probes.items():
        rows.append((f"{kind}, mean", *(f"{found['r2'][part]:.3f}" for part in parts)))
        for body, values in found["by_body"].items():
            rows.append((f"{kind}, {body}", *(f"{values[part]:.3f}" for part in parts)))
    return ["probe, held-out body", *parts], [tuple(row) for row in rows]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _title(report: dict[str, Any]) -> tuple[str, str]:
    bodies = ", ".join(f"{count} {name or 'unknown'}" for name, count in report["bodies"].items())
    text = (
        f"{report['num_clips']} clips ({bodies}) of {report['dataset']}; "
        f"pairs {report['step']} frames apart, every {report['every']}."
    )
    if report["problems"]:
        text += f" {len(report['problems'])} clips could not be read."
    return f"Latent actions of {report['model_id']}", text


def _markdown(report: dict[str, Any], parts: list[tuple[str, str, Table | None]]) -> str:
    title, text = _title(report)
    lines = [f"# {title}", "", text]
    for name, note, table in parts:
        lines += ["", f"## {name}", "", note]
        if table is not None:
            heads, rows = table
            lines += ["", _line(heads), _line(["---"] * len(heads)), *(_line(r) for r in rows)]
    lines += ["", *(f"![]({name})" for name in report.get("pictures", []))]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _html(report: dict[str, Any], parts: list[tuple[str, str, Table | None]], out: Path) -> str:
    title, text = _title(report)
    body = [f"<h1>{escape(title)}</h1><p>{escape(text)}</p>"]
    words = {
        "map.png": "Where the clips lie: good latents mix the bodies and separate the motions.",
        "transfer.png": "The action of each row's pair, applied to the frames above; orange moved.",
    }
    for name, note, table in parts:
        body.append(f"<h2>{escape(name)}</h2><p class=note>{escape(note)}</p>")
        if table is not None:
            body.append(_html_table(table))
    for name in report.get("pictures", []):
        data = base64.b64encode((out / name).read_bytes()).decode()
        body.append(
            f"<h2>{escape(words[name])}</h2><img alt='{escape(words[name])}' "
            f"src='data:image/png;base64,{data}'>"
        )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{CSS}</style>{''.join(body)}</html>\n"
    )


def _html_table(table: Table) -> str:
    heads, rows = table
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = []
    for row in rows:
        css = " class=own" if row[0] == "model" else ""
        lines.append(f"<tr{css}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<div class=wide><table><tr>{top}</tr>{''.join(lines)}</table></div>"
