"""What an export will write, found and checked before anything is: clips, rate, columns, tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.dataset import Dataset
from manifests.errors import UsageError
from pipeline.clips import ClipReader

_NEEDED = "clip_id, shard, text, num_frames, fps, start_s, end_s, embodiment, source, uri"
_MAX_NAMED = 3
"""So many clips, bodies or files are named in a hint's predicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What an export will write; found without writing.

    Attributes:
        clips: Rows of the clips, in order of file and time.
        fps: Their common frame rate.
        action_names: Columns recorded for every clip; empty: none has any.
        robot_type: The embodiment, when there is but one.
        tasks: Texts in order of first use.
        width: Of the pictures, in pixels.
        height: Of the pictures, in pixels.
    """

    clips: tuple[dict[str, Any], ...]
    fps: float
    action_names: tuple[str, ...]
    robot_type: str | None
    tasks: tuple[str, ...]
    width: int
    height: int

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {
            "num_episodes": len(self.clips),
            "num_frames": sum(clip["num_frames"] for clip in self.clips),
            "num_tasks": len(self.tasks),
            "fps": self.fps,
            "action_names": list(self.action_names),
            "robot_type": self.robot_type,
        }


def plan_export(dataset: Dataset, where: str = "") -> ExportPlan:
    """Choose the clips and check that one LeRobotDataset can hold them all.

    Raises:
        DatasetError: The predicate is wrong.
        UsageError: No clip, several frame rates, irregular times, or actions that differ from clip
            to clip.
    """
    condition = f" WHERE ({where})" if where.strip() else ""
    query = f"SELECT {_NEEDED} FROM kept{condition} ORDER BY uri, start_s, clip_id"
    clips = dataset.sql(query).to_pylist()
    if not clips:
        raise UsageError(
            f"No kept clip of {dataset.path} fits{condition or ' at all'}.",
            hint="Look with egodojo manifest stats, or widen --where.",
        )
    reader = ClipReader(dataset.path)
    encode = dataset.settings.encode
    bodies = {clip["embodiment"] for clip in clips}
    fps = _common_rate(clips)
    _refuse_irregular(reader, clips, fps)
    return ExportPlan(
        clips=tuple(clips),
        fps=fps,
        action_names=_common_names(reader, clips),
        robot_type=bodies.pop() if len(bodies) == 1 else None,
        tasks=tuple(dict.fromkeys(clip["text"] or "" for clip in clips)),
        width=encode.width,
        height=encode.height,
    )


def _refuse_irregular(reader: ClipReader, clips: Sequence[Mapping[str, Any]], fps: float) -> None:
    """LeRobot's frames stand at regular times; a clip whose frames do not is found before work."""
    irregular, worst_s, worst = [], 0.0, ""
    for clip in clips:
        times_s = reader.times_s(clip["shard"], clip["clip_id"])
        off_s = np.abs(times_s - np.arange(len(times_s)) / fps)
        if off_s.max() <= 0.25 / fps:
            continue
        irregular.append(clip["clip_id"])
        if off_s.max() > worst_s:
            worst_s = float(off_s.max())
            worst = f"frame {off_s.argmax()} of {clip['clip_id']} ({clip['uri']})"
    if irregular:
        named = f"clip_id NOT IN ({_quoted(irregular)})"
        if len(irregular) > _MAX_NAMED:
            named = "uri NOT IN (SELECT uri FROM videos WHERE is_variable_rate)"
        raise UsageError(
            f"{len(irregular)} of {len(clips)} clips do not run at {fps:g} frames per second; "
            f"{worst} is {worst_s:.3f} s from its place.",
            hint=f'Leave such clips out: --where "{named}".',
        )


def _common_rate(clips: Sequence[Mapping[str, Any]]) -> float:
    """The one frame rate of all clips, whole when it is nearly so."""
    counts: dict[float, int] = {}
    for clip in clips:
        rate = round(clip["fps"], 2)
        counts[rate] = counts.get(rate, 0) + 1
    usual = max(counts, key=lambda rate: counts[rate])
    others = {rate: n for rate, n in counts.items() if abs(rate - usual) > 0.02 * usual}
    if others:
        seen = ", ".join(f"{rate:g}: {n}" for rate, n in sorted(counts.items()))
        raise UsageError(
            f"The clips have several frame rates ({seen}); a LeRobotDataset has one.",
            hint=f'Take one: --where "abs(fps - {usual:g}) < 0.1".',
        )
    rates = [clip["fps"] for clip in clips]
    rate = float(np.median(rates))
    return round(rate) if abs(rate - round(rate)) < 5e-3 else rate


def _common_names(reader: ClipReader, clips: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for clip in clips:
        names: tuple[str, ...] = ()
        if "actions.npy" in reader.suffixes(clip["shard"], clip["clip_id"]):
            facts = json.loads(reader.member(clip["shard"], clip["clip_id"], "json"))
            names = tuple(facts["action_names"])
        found.setdefault(names, []).append(clip)
    if len(found) > 1:
        seen = ", ".join(f"{len(own)} clips with {len(names)}" for names, own in found.items())
        most = max(found, key=lambda names: len(found[names]))
        others = [clip for names, own in found.items() if names != most for clip in own]
        raise UsageError(
            f"The clips differ in their action columns ({seen}); a LeRobotDataset has one set.",
            hint=_dividing(found[most], others),
        )
    return next(iter(found))


def _dividing(wanted: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """A hint with the simplest predicate that is true of the wanted clips alone."""
    for column in ("embodiment", "source", "uri"):
        mine, theirs = ({str(clip[column]) for clip in some} for some in (wanted, others))
        if mine & theirs:
            continue
        if len(mine) <= _MAX_NAMED:
            return f'Take the most frequent: --where "{column} IN ({_quoted(mine)})".'
        if len(theirs) <= _MAX_NAMED:
            return f'Take the most frequent: --where "{column} NOT IN ({_quoted(theirs)})".'
    return "Choose clips of one kind with --where."


def _quoted(values: Iterable[str]) -> str:
    """Values as a list of SQL literals."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(values))
