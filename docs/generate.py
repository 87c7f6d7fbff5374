"""Writes the reference pages that are made from the code: commands, table schemas, import graph.

`python docs/generate.py` writes them, `--check` fails when one is stale.
"""

from __future__ import annotations

import argparse
import ast
import html
import sys
from collections import Counter
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
ROWS = (("curation", "latent_actions", "world_model"), ("pipeline",), ("manifests",))
PACKAGES = tuple(name for row in ROWS for name in row)
MADE = "<!-- Made by docs/generate.py; run `make docs` after a change. -->"


def cli_page() -> str:
    """Every command with its help text."""
    from manifests.cli import egodojo

    parts = [MADE, "# Commands", ""]

    def walk(command: click.Command, path: list[str]) -> None:
        context = click.Context(
            command, info_name=" ".join(path), terminal_width=96, max_content_width=96
        )
        parts.extend([f"## {' '.join(path)}", "", "```text", command.get_help(context), "```", ""])
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, [*path, name])

    walk(egodojo, ["egodojo"])
    return "\n".join(parts)


def schema_page() -> str:
    """Columns and types of every table, and what each measure means."""
    from manifests import schema
    from manifests.measures import MEASURES

    parts = [MADE, "# Tables", ""]
    for name in ("VIDEOS", "PLAN", "UNITS", "CLIPS", "DECISIONS"):
        parts += [f"## {name.lower()}", "", "| column | type |", "| --- | --- |"]
        parts += [f"| `{field.name}` | `{field.type}` |" for field in getattr(schema, name)]
        parts.append("")
    parts += [
        *("## Measures", "", "How they are taken and what each costs stands in"),
        *("[concepts.md](concepts.md#measures). What cannot be measured is NULL.", ""),
        *("| column | unit | range | meaning |", "| --- | --- | --- | --- |"),
    ]
    parts += [
        f"| `{key}` | {m.unit} | {m.range} | {m.description} |" for key, m in MEASURES.items()
    ]
    return "\n".join([*parts, ""])


RECIPES = """# Recipes

A recipe names rules. Gates are asked while a video is read and decide what is written at all;
they belong to a dataset. `keep` rules are asked of what was written and can change at any time:
`egodojo decide DATASET --recipe strict --dry-run` says how many clips would be gained and lost,
rule by rule, `--preview PAGE` shows them, and without `--dry-run` it is decided. The first rule
that is not true names the reason; `near_duplicate` comes last and keeps the best of each cluster.

```yaml
name: mine
keep:
  dark:
    keep_when: brightness_mean_luma >= 30   # SQL over the columns of clips and <score>.<column>
    on_missing: keep                        # or drop, or fail (the default)
    why: Our kitchens are dim.
```

`why` is for people; it changes neither decisions nor the recipe's digest. One rule can be tried
without a file: `--set keep.dark='brightness_mean_luma >= 30'`, and `--set keep.dark=null` leaves
it out. A rule that is no SQL over those columns, or a name that stands twice, is refused before
anything is decided.

The numbers of `egocentric` come from labelled real videos. `benchmarks/check_real_videos.py
VIDEOS` chooses each threshold again with one source left out, applies it to that source's videos,
and prints both next to the shipped ones. Of a fault without any example, it takes the value of a
picture that has nothing else.
"""


def recipes_page() -> str:
    """What the shipped recipes ask, and why."""
    from manifests.recipe import load_recipe, recipe_names

    parts = [MADE, RECIPES]
    for name in recipe_names():
        recipe = load_recipe(name)
        parts += [f"## {name}", "", recipe.about, "", "| rule | a clip passes when | why |"]
        parts.append("| --- | --- | --- |")
        for rule in (*recipe.gates, *recipe.keep):
            gate = " (gate)" if rule in recipe.gates else ""
            why = recipe.reasons[rule.name]
            parts.append(f"| `{rule.name}`{gate} | `{rule.keep_when}` | {why} |")
        if recipe.near_duplicate is not None:
            last, why = recipe.near_duplicate, recipe.reasons["near_duplicate"]
            first = f"no clip of the same `{last.cluster}` with a smaller `{last.rank}` is kept"
            parts.append(f"| `{last.name}` | {first} | {why} |")
        parts.append("")
    return "\n".join(parts)


def edges() -> tuple[dict[str, list[str]], Counter[tuple[str, str]]]:
    """Modules of each package, and how many imports lead from one package to another."""
    modules: dict[str, list[str]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for package in PACKAGES:
        files = sorted((ROOT / package).rglob("*.py"))
        names = [f.relative_to(ROOT / package).with_suffix("").as_posix() for f in files]
        modules[package] = [name for name in names if not name.endswith("__init__")]
        for file in files:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    found = [node.module or ""]
                targets = {name.split(".")[0] for name in found} & set(PACKAGES)
                counts.update((package, target) for target in targets - {package})
    return modules, counts


def imports_svg() -> str:
    """The packages as boxes in their layers, arrows labelled with the number of imports."""
    modules, counts = edges()
    width, line, gap = 1200, 17, 70
    boxes: dict[str, tuple[float, float, float, float]] = {}
    y = 20.0
    columns = {"curation": 2, "latent_actions": 2, "world_model": 2, "pipeline": 5, "manifests": 5}
    for row in ROWS:
        box_width = (width - 40 - 30 * (len(row) - 1)) / len(row)
        height = max(44 + line * -(-len(modules[name]) // columns[name]) for name in row)
        for i, name in enumerate(row):
            boxes[name] = (20 + i * (box_width + 30), y, box_width, height)
        y += height + gap
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y - gap + 20:.0f}" '
        'font-family="ui-sans-serif, system-ui, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#4a6fa5"/></marker></defs>',
        f'<rect width="{width}" height="{y:.0f}" fill="#ffffff"/>',
    ]
    for (source, target), count in sorted(counts.items()):
        out.append(_arrow(boxes[source], boxes[target], source, count))
    for name, box in boxes.items():
        out += _box(name, box, modules[name], columns[name], line)
    return "\n".join([*out, "</svg>", ""])


def _arrow(a: tuple[float, ...], b: tuple[float, ...], source: str, count: int) -> str:
    skips = b[1] - (a[1] + a[3]) > 100
    shift = {"curation": -0.36, "latent_actions": 0.0, "world_model": 0.36}.get(source, 0.0)
    x1 = a[0] + a[2] * (0.5 + (shift if skips else shift / 4))
    if skips:  # past the middle layer, along its outer edges
        side = -1 if source == "curation" else 1
        x1 = a[0] + a[2] / 2 + side * a[2] * 0.42
        if source == "latent_actions":
            x1 = a[0] + a[2] * 0.9
    x2 = x1 if skips else min(max(a[0] + a[2] / 2, b[0] + 20), b[0] + b[2] - 20)
    y1, y2 = a[1] + a[3], b[1] - 2
    return (
        f'<path d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}" stroke="#4a6fa5" stroke-width="1.5" '
        f'fill="none" marker-end="url(#tip)" opacity="{0.45 if skips else 1}"/>'
        f'<text x="{x1 + 6:.0f}" y="{y1 + 22:.0f}" font-size="13" fill="#4a6fa5">{count}</text>'
    )


def _box(
    name: str, box: tuple[float, ...], modules: list[str], columns: int, line: int
) -> list[str]:
    x, y, w, h = box
    rows = -(-len(modules) // columns)
    out = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" rx="8" '
        'fill="#f5f7fa" stroke="#c8d1dc"/>',
        f'<text x="{x + 14:.0f}" y="{y + 24:.0f}" font-size="16" font-weight="600" '
        f'fill="#1d2733">{name}</text>',
    ]
    for i, module in enumerate(modules):
        mx = x + 14 + (i // rows) * ((w - 20) / columns)
        my = y + 44 + (i % rows) * line
        out.append(
            f'<text x="{mx:.0f}" y="{my:.0f}" font-size="12" fill="#52606d">'
            f"{html.escape(module)}</text>"
        )
    return out


PAGES = {
    "cli.md": cli_page,
    "tables.md": schema_page,
    "recipes.md": recipes_page,
    "imports.svg": imports_svg,
}


def main() -> int:
    """Write the pages, or with --check say which are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        text, path = make(), DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `make docs` and commit the result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
