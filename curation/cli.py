"""`egodojo curate` and `egodojo decide`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from manifests.cli_support import LOCATION, PAGE, emit, output_options
from manifests.locations import Location

_EXAMPLE = "Example: egodojo curate ~/footage --out DATASET --recipe egocentric"


@click.command(epilog=_EXAMPLE)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", required=True, type=LOCATION, help="The dataset folder; made anew.")
@click.option(
    "--recipe",
    default="egocentric",
    show_default=True,
    help="Name of a shipped recipe (egocentric, robot, permissive, strict), or a YAML file.",
)
@click.option("--source", help="Where the footage is from  [default: the dataset's name]")
@click.option("--embodiment", help="The body that is filmed: a shipped name or a YAML file.")
@click.option(
    "--layout",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="How input folders are laid out: lerobot, gr1, egodex, folder (plain), or auto.",
)
@click.option(
    "--camera",
    "cameras",
    multiple=True,
    metavar="NAME",
    help="A camera to take, may be repeated  [default: the first egocentric one listed]",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting (encode.crf=23, unit_len_s=300) or a rule (keep.dark='...').",
)
@click.option("--inline", is_flag=True, help="One unit after another in this process, no Ray.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; read and write nothing.")
@output_options
def curate(
    inputs: tuple[str, ...],
    out: Location,
    recipe: str,
    source: str | None,
    embodiment: str | None,
    layout: str,
    cameras: tuple[str, ...],
    sets: tuple[str, ...],
    inline: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn files and folders of video into measured, decided and sharded clips.

    INPUT is a file, a folder (searched through) or a quoted pattern. Rerunning the same command
    goes on where it stopped; other inputs are added to the dataset.
    """
    from . import curate as running

    request = running.CurateRequest(
        inputs=inputs,
        out=out,
        recipe=recipe,
        source=source,
        embodiment=embodiment,
        layout=layout,
        cameras=cameras,
        sets=sets,
        engine="inline" if inline else "ray",
        command=" ".join(["egodojo", *sys.argv[1:]]),
        quiet=quiet or as_json,
    )
    prepared = running.prepare(request)
    if dry_run:
        plan = running.dry_run(prepared)
        emit(plan, as_json=as_json, text=lambda: _dry_run_text(plan), quiet=quiet)
        return
    report = running.curate(prepared)
    found = report.to_json()
    emit(found, as_json=as_json, text=lambda: _report_text(found), quiet=quiet)
    report.check()


@click.command(epilog="Example: egodojo decide DATASET --recipe strict")
@click.argument("dataset", type=LOCATION)
@click.option("--recipe", required=True, help="Name of a shipped recipe, or a YAML file.")
@click.option(
    "--set", "sets", multiple=True, metavar="RULE=SQL", help="Change a rule: keep.dark='...'."
)
@click.option("--dry-run", is_flag=True, help="Say what would change; decide nothing.")
@click.option(
    "--preview",
    "page",
    type=PAGE,
    metavar="PAGE",
    help="Draw the result as a page, with clips gained and lost; with --dry-run what it would be.",
)
@output_options
def decide(
    dataset: Location,
    recipe: str,
    sets: tuple[str, ...],
    dry_run: bool,
    page: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Keep or drop again by another recipe, over what was measured; decodes nothing."""
    from manifests.dataset import Dataset
    from manifests.decide import decide as deciding
    from manifests.decide import try_decision
    from manifests.markup import plural
    from manifests.recipe import load_recipe

    rules = load_recipe(recipe, sets)
    opened = Dataset.open(dataset)
    if dry_run and page is not None:
        found, opened = try_decision(opened, rules)
    else:
        found = deciding(opened, rules, dry_run=dry_run)
    summary = asdict(found)
    if page is not None:
        from .preview import write_preview

        summary["page"] = str(write_preview(opened, page, quiet=quiet or as_json))

    def text() -> str:
        last = f"  to look at it: {page or f'egodojo manifest preview {dataset}'}"
        if dry_run:
            last = "Nothing was written." if page is None else f"Nothing was decided.\n{last}"
        return (
            f"{summary['recipe']}: {summary['num_kept']} of {summary['num_clips']} clips kept "
            f"({_hours(summary['kept_s'])}), {plural(summary['num_changed'], 'verdict')} changed\n"
            f"  dropped: {_counts(summary['reasons'])}\n"
            f"{_difference_text(summary['difference'])}{last}"
        )

    emit(summary, as_json=as_json, text=text, quiet=quiet)


def _difference_text(found: Mapping[str, Any] | None) -> str:
    """Gained and lost against the last decision, and the rules that did it, line by line."""
    if found is None:
        return ""
    new = f", {found['num_new']} decided for the first time" if found["num_new"] else ""
    lines = [
        f"  against {found['recipe']} (version {found['version']}): "
        f"{found['num_gained']} gained ({_hours(found['gained_s'])}), "
        f"{found['num_lost']} lost ({_hours(found['lost_s'])}){new}"
    ]
    changed = [rule for rule in found["rules"] if rule["num_now"] != rule["num_before"]]
    changed += [
        rule
        for rule in found["rules"]
        if rule not in changed and rule["num_gained"] + rule["num_lost"]
    ]
    width = max((len(rule["rule"]) for rule in changed), default=0)
    lines += [
        f"    {rule['rule']:<{width}}  drops {rule['num_now']} (before {rule['num_before']}): "
        f"{rule['num_gained']} gained, {rule['num_lost']} lost"
        for rule in changed
    ]
    return "\n".join(lines) + "\n"


def _dry_run_text(plan: Mapping[str, Any]) -> str:
    kind = "a new dataset" if plan["is_new"] else "an existing dataset"
    return (
        f"{plan['dataset']} ({kind}), recipe {plan['recipe']}\n"
        f"  {plan['num_inputs']} inputs, {plan['num_new']} of them new "
        f"({plan['num_bytes_new'] / 1e6:.1f} MB), {plan['num_ignored']} other files ignored\n"
        + "".join(f"  {_source_text(found)}\n" for found in plan["sources"])
        + f"  {plan['num_units_pending']} units left from before\nNothing was written."
    )


def _report_text(report: Mapping[str, Any]) -> str:
    inputs, found = report["inputs"], report["stats"]
    clips, files = found["clips"], found["files"]
    lines = [
        f"{inputs['num_inputs']} inputs: {_counts(inputs['by_state'])}; "
        f"{inputs['num_ignored']} other files ignored",
        *(f"  {_source_text(found)}" for found in inputs["sources"]),
        *(f"  changed since it was probed, not read: {uri}" for uri in inputs["changed"]),
        f"dataset: {files['num_files']} files, {clips['num_candidates']} candidate clips, "
        f"{clips['num_written']} written ({_hours(clips['written_s'])}), "
        f"{clips['num_kept']} kept ({_hours(clips['kept_s'])})",
        f"  files without clips: {_counts(files['by_reason'])}",
        f"  clips dropped: {_counts(found['drop_reasons'])}",
        f"  {report['num_units']} units in this run, "
        + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report["seconds"].items()),
        f"look at: {report['preview']}",
    ]
    return "\n".join(lines)


def _source_text(found: Mapping[str, Any]) -> str:
    """One line for a folder of a published layout: what was taken and what was not."""
    parts = [f"{found['layout']} {found['root']}: {found['num_videos']} videos"]
    if found["cameras"]:
        parts.append(f"camera {', '.join(found['cameras'])}")
    if found["num_other"]:
        others = ", ".join(found["other_cameras"]) or "in no episode"
        parts.append(f"{found['num_other']} videos not taken ({others})")
    if found["num_missing"]:
        parts.append(f"{found['num_missing']} listed but not there")
    if found["num_alone"]:
        parts.append(f"{found['num_alone']} videos without poses beside them")
    return "; ".join(parts)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
