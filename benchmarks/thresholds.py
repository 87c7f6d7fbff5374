"""Choosing a recipe's thresholds from labelled videos, and judging them on sources left out.

A rule is fitted when it compares one measure with one number. A video passes it when its best clip
does, so each video counts with that clip. The threshold lies half way, on a ratio scale, between
the worst wanted video and the nearest one that has the rule's fault; where no video with that fault
is at hand, `ANCHORS` says what a picture with nothing but the fault measures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

ANCHORS = {
    "too_small": (1.0, "a single pixel"),
    "black": (1.0, "every frame is black"),
    "frozen": (1.0, "one picture from end to end"),
    "low_fps": (1.0, "one frame a second is a series of photographs"),
    "dark": (16.0, "the luma of black"),
    "overexposed": (1.0, "every pixel is white"),
    "blurred": (0.1, "noise below one step of the coded picture is all that is left"),
    "static": (0.001, "one block in a thousand changes: sensor noise"),
    "stills": (1.0, "one picture from end to end"),
    "damaged": (1.0, "no frame comes out whole"),
}
"""Per rule, the value of its measure when the fault is complete, and why."""

LEAST = 0.01
"""Shares below this are one and the same on the ratio scale of an upper bound."""

SAME_FAULT = {
    "stills": ("stills", "frozen"),  # a slideshow is cut into its pictures, each of which stands
    "static": ("static", "stills", "frozen"),  # slides: nothing moves because it is one picture
    "too_small": ("too_small", "too_short"),  # a file of five 1x1 frames; length is looked at first
}
"""Per label `drop:<why>`, the reasons that name this fault; else only its own name."""

_SIMPLE = re.compile(r"(?P<measure>.+?)\s*(?P<operator>>=|<)\s*(?P<value>[\d.]+)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A rule that compares one measure with one number: `measure >= value` or `measure < value`.

    What a gate drops is lost for good, so its number stands for the complete fault: it is never
    fitted.
    """

    name: str
    measure: str
    keeps_above: bool
    value: float
    is_gate: bool = False

    def passes(self, found: float | None) -> bool:
        """Whether a clip of this measure is kept; one without a value is."""
        if found is None:
            return True
        return found >= self.value if self.keeps_above else found < self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A video with its label and its candidate clips.

    Attributes:
        path: Below the folder of videos.
        expect: `keep`, `drop:<why>`, `any` or `content`.
        source_repo: Videos of one source are left out together.
        state: Its fate in the dataset, before any rule.
        why_lost: Reason of a fate without clips.
        clips: Rows with `seconds`, `gate`, `cluster`, `rank` and one value per bound's name.
    """

    path: str
    expect: str
    source_repo: str
    state: str
    why_lost: str | None
    clips: tuple[dict[str, Any], ...]

    @property
    def family(self) -> str:
        """What is wrong with it, by its label; empty for a wanted one."""
        return self.expect.partition(":")[2]


def bounds_of(rules: Iterable[tuple[str, str]], *, are_gates: bool = False) -> tuple[Bound, ...]:
    """The rules, given as name and predicate, that compare one measure with one number.

    Raises:
        ValueError: A rule of another form, or one whose complete fault `ANCHORS` does not know.
    """
    bounds = []
    for name, predicate in rules:
        found = _SIMPLE.match(predicate.strip())
        if found is None or name not in ANCHORS:
            raise ValueError(f"Rule {name} ({predicate}) cannot be fitted: add it to ANCHORS.")
        bounds.append(
            Bound(
                name=name,
                measure=found["measure"],
                keeps_above=found["operator"] == ">=",
                value=float(found["value"]),
                is_gate=are_gates,
            )
        )
    return tuple(bounds)


def best(video: Labelled, bound: Bound) -> float | None:
    """The measure of the clip that passes most easily; None without a value."""
    pick = max if bound.keeps_above else min
    values = [clip[bound.name] for clip in video.clips if clip[bound.name] is not None]
    return pick(values) if values else None


def fit(bound: Bound, videos: Iterable[Labelled]) -> Bound:
    """The bound with its threshold chosen from these videos; a gate as it is."""
    if bound.is_gate:
        return bound
    anchor = ANCHORS[bound.name][0]
    floor = anchor if bound.keeps_above else LEAST
    wanted, faulty = [], []
    for video in videos:
        value = best(video, bound)
        if value is not None and video.expect == "keep":
            wanted.append(max(value, floor))
        elif value is not None and video.family == bound.name:
            faulty.append(max(value, floor))
    worst = (min if bound.keeps_above else max)(wanted)
    apart = [v for v in faulty if (v < worst if bound.keeps_above else v > worst)]
    nearest = (max if bound.keeps_above else min)(apart or [anchor])
    return replace(bound, value=round_2(math.sqrt(worst * nearest)))


def round_2(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What thresholds make of a video; `reason` is the rule that took the most seconds of it."""

    verdict: str
    reason: str | None


def fates(videos: Sequence[Labelled], bounds: Sequence[Bound]) -> dict[str, Fate]:
    """Verdict of every video under the bounds, in their order, the duplicate rule last."""
    why = {
        (video.path, number): clip["gate"]
        or next((b.name for b in bounds if not b.passes(clip[b.name])), None)
        for video in videos
        for number, clip in enumerate(video.clips)
    }
    leaders: dict[str, tuple[Any, ...]] = {}
    for video in videos:
        for number, clip in enumerate(video.clips):
            if why[video.path, number] is None and clip["cluster"] is not None:
                rank = clip["rank"]
                key = (rank is None, rank, clip["clip_id"])
                leaders[clip["cluster"]] = min(leaders.get(clip["cluster"], key), key)
    found = {}
    for video in videos:
        lost_s: dict[str, float] = {}
        is_kept = False
        for number, clip in enumerate(video.clips):
            reason = why[video.path, number]
            if reason is None and clip["cluster"] is not None:
                is_copy = leaders[clip["cluster"]][2] != clip["clip_id"]
                reason = "near_duplicate" if is_copy else None
            is_kept |= reason is None
            if reason is not None:
                lost_s[reason] = round(lost_s.get(reason, 0.0) + clip["seconds"], 6)
        reason = min(lost_s, key=lambda name: (-lost_s[name], name)) if lost_s else video.why_lost
        found[video.path] = Fate(verdict="keep" if is_kept else "drop", reason=reason)
    return found


def leave_one_out(
    videos: Sequence[Labelled], bounds: Sequence[Bound]
) -> tuple[dict[str, Fate], dict[str, tuple[Bound, ...]]]:
    """Fates of each source's videos under thresholds chosen without that source, and those."""
    found: dict[str, Fate] = {}
    fitted: dict[str, tuple[Bound, ...]] = {}
    for source in sorted({video.source_repo for video in videos}):
        others = [video for video in videos if video.source_repo != source]
        fitted[source] = tuple(fit(bound, others) for bound in bounds)
        all_fates = fates(videos, fitted[source])
        found |= {v.path: all_fates[v.path] for v in videos if v.source_repo == source}
    return found, fitted


def judged(videos: Sequence[Labelled], found: Mapping[str, Fate]) -> dict[str, Any]:
    """Label against fate: the confusion, what went wrong, and the two rates of the bar."""
    confusion: dict[str, int] = {}
    reasons: dict[str, int] = {}
    wrong: list[dict[str, Any]] = []
    counts = {"keep": [0, 0], "drop": [0, 0]}
    num_other_family = 0
    for video in videos:
        fate = found[video.path]
        kind = video.expect.partition(":")[0]
        is_copy = kind == "keep" and fate.reason == "near_duplicate"  # its like is kept
        shown = "copy of a kept file" if is_copy and fate.verdict == "drop" else fate.verdict
        confusion[f"{kind} -> {shown}"] = confusion.get(f"{kind} -> {shown}", 0) + 1
        if kind not in counts:
            continue
        is_wrong = fate.verdict != kind and not is_copy
        counts[kind][0] += is_wrong
        counts[kind][1] += 1
        if kind == "drop" and fate.verdict == "drop":
            key = f"{video.family} -> {fate.reason}"
            reasons[key] = reasons.get(key, 0) + 1
            is_other = not is_right_family(video, fate)
            num_other_family += is_other
        if is_wrong or (kind == "drop" and not is_right_family(video, fate)):
            wrong.append({"path": video.path, "expect": video.expect, "reason": fate.reason})
    return {
        "confusion": dict(sorted(confusion.items())),
        "drop_reasons": dict(sorted(reasons.items())),
        "against_label": wrong,
        "num_other_family": num_other_family,
        "keep_dropped_ratio": round(counts["keep"][0] / max(1, counts["keep"][1]), 4),
        "drop_kept_ratio": round(counts["drop"][0] / max(1, counts["drop"][1]), 4),
    }


def is_right_family(video: Labelled, fate: Fate) -> bool:
    """Whether the reason of a dropped video names the fault of its label."""
    if "unreadable" in (video.state, video.family):
        return video.state == video.family
    return fate.reason in SAME_FAULT.get(video.family, (video.family,))


# --- what the measures alone say about content -------------------------------------------------


def auc(wanted: Sequence[float], others: Sequence[float]) -> float:
    """How often a wanted video measures more than another one; ties count half."""
    if not wanted or not others:
        return math.nan
    a, b = np.asarray(wanted)[:, None], np.asarray(others)[None]
    return float((a > b).mean() + (a == b).mean() / 2)


def content_odds(
    values: NDArray[np.float64], is_content: NDArray[np.bool_], sources: Sequence[str]
) -> NDArray[np.float64]:
    """Probability that each video is `content`, from all measures at once, its source left out.

    Logistic regression (ridge 1) on measures brought to mean 0 and deviation 1; `values` (videos,
    measures) holds no NaN.
    """
    odds = np.empty(len(values))
    names = np.asarray(sources)
    for source in sorted(set(sources)):
        is_out = names == source
        mean, deviation = values[~is_out].mean(axis=0), values[~is_out].std(axis=0)
        x = np.hstack([np.ones((len(values), 1)), (values - mean) / np.maximum(deviation, 1e-9)])
        w = _logistic(x[~is_out], is_content[~is_out].astype(float))
        odds[is_out] = 1 / (1 + np.exp(-np.clip(x[is_out] @ w, -30, 30)))
    return odds


def _logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    w = np.zeros(x.shape[1])
    ridge = np.eye(len(w))
    ridge[0, 0] = 1e-6
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (p - y) + ridge @ w
        w -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, gradient)
    return w
