"""Videos spliced by seed from real clips: hard cuts, dissolves, fades, and what only looks so.

Clips are divided by the repository they came from, so that thresholds chosen on one side meet only
footage of other cameras on the other side. Everything is 320x240 at 30 pictures a second.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FPS = 30
WIDTH, HEIGHT = 320, 240
MAX_SOURCE_S = 8.0
MIN_SOURCE_S = 1.8
BOUNDARIES = ("hard",) * 12 + ("dissolve",) * 3 + ("fade",)
DISTURBANCES = ("turn",) * 3 + ("flash",) * 3 + ("exposure", "cover")

Pictures = NDArray[np.uint8]
"""RGB, uint8 (T, H, W, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something at a place of a spliced video: `[start_s, end_s]`; a hard cut has no length."""

    kind: str
    start_s: float
    end_s: float


@dataclass(slots=True, kw_only=True)
class Spliced:
    """A video and what is in it, in order of time."""

    path: Path
    events: list[Event] = field(default_factory=list)


def source_rows(videos: Path) -> list[dict[str, str]]:
    """Real clips without a cut that are long enough and show something."""
    with (videos / "INDEX.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        row
        for row in rows
        if row["has_cuts"] == "n"
        and row["source_repo"] != "synthetic"
        and row["category"] in ("ego_human", "robot", "negative")
        and not row["expect"].startswith("drop")
        and "black" not in row["notes"]
        and float(row["duration_s"]) >= MIN_SOURCE_S
        and float(row["fps"]) >= 10
    ]


def divide(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Rows of the two sides; a repository is wholly on one side, by a digest of its name."""
    sides: dict[str, list[dict[str, str]]] = {"choose": [], "test": []}
    for row in rows:
        digest = hashlib.sha256(row["source_repo"].encode()).digest()
        sides["choose" if digest[0] % 5 < 2 else "test"].append(row)
    return sides


def load_source(path: Path, cache: Path) -> Pictures:
    """The first seconds of a clip at 30 pictures a second, kept on disk and memory-mapped."""
    from pipeline.video import FrameScaler, decode, probe

    stored = cache / (hashlib.sha256(str(path).encode()).hexdigest()[:16] + ".npy")
    if not stored.is_file():
        facts = probe(path)
        time_base = Fraction(facts.time_base)
        scaler = FrameScaler(facts, WIDTH, HEIGHT)
        pictures: list[Pictures] = []
        for decoded in decode(path, facts):
            time_s = float((decoded.tick - facts.start_tick) * time_base)
            if time_s >= MAX_SOURCE_S:
                break
            picture = scaler.scale(decoded).to_ndarray(format="rgb24")
            end_s = time_s + float(decoded.duration * time_base)
            while len(pictures) / FPS < end_s - 1e-6 and len(pictures) < MAX_SOURCE_S * FPS:
                pictures.append(picture)
        np.save(stored, np.stack(pictures))
    loaded: Pictures = np.load(stored, mmap_mode="r")
    return loaded


def make_set(sources: list[Pictures], folder: Path, *, seed: int, num_videos: int) -> list[Spliced]:
    """Write a set of videos; the same sources and seed give the same pictures."""
    from pipeline.video import write_video

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(num_videos):
        path = folder / f"spliced-{number:03d}.mp4"
        truth = path.with_suffix(".json")
        events: list[Event] = []
        if truth.is_file():
            events = [Event(**event) for event in json.loads(truth.read_text())]
        else:
            pictures = _splice(sources, np.random.default_rng([seed, number]), events)
            write_video(path, pictures, FPS, crf=20, gop=48, options={"bf": "2"})
            truth.write_text(json.dumps([asdict(event) for event in events]))
        made.append(Spliced(path=path, events=events))
    return made


def _splice(
    sources: list[Pictures], rng: np.random.Generator, events: list[Event]
) -> Iterator[Pictures]:
    """Yield pictures; events are complete when the iterator is."""
    boundaries = rng.permutation(np.array(BOUNDARIES)).tolist()
    num_shots = len(boundaries) + 1
    slots = rng.choice(num_shots, len(DISTURBANCES), replace=False)
    disturbances = dict(zip(slots.tolist(), DISTURBANCES, strict=True))
    order = _neighbours_differ(len(sources), num_shots, rng)
    lengths = [round(FPS * rng.uniform(0.3, 1.5)) if kind != "hard" else 0 for kind in boundaries]
    written, tail = 0, np.empty((0, HEIGHT, WIDTH, 3), np.uint8)
    for number in range(num_shots):
        lead = len(tail)
        own = round(FPS * rng.uniform(1.5, 3.0))
        trail = lengths[number] if number < len(boundaries) else 0
        shot = _shot(sources[order[number]], lead + own + trail, rng)
        found: list[tuple[str, int, int]] = []
        if number in disturbances:
            room = own - 14
            shot, found = _disturb(shot, lead + 6, room, disturbances[number], rng)
        if lead:
            kind = boundaries[number - 1]
            events.append(_event(kind, written, written + lead))
            yield from _mix(tail, shot[:lead], kind)
            written += lead
        elif number:
            events.append(_event("hard", written, written))
        events += [_event(kind, written + a - lead, written + b - lead) for kind, a, b in found]
        yield from shot[lead : lead + own]
        written += own
        tail = shot[lead + own :]


def _event(kind: str, start: int, end: int) -> Event:
    return Event(kind=kind, start_s=start / FPS, end_s=end / FPS)


def _neighbours_differ(num_sources: int, count: int, rng: np.random.Generator) -> list[int]:
    order = [int(rng.integers(num_sources))]
    while len(order) < count:
        chosen = int(rng.integers(num_sources))
        if chosen != order[-1]:
            order.append(chosen)
    return order


def _shot(source: Pictures, count: int, rng: np.random.Generator) -> Pictures:
    """Consecutive pictures from a random place, played back and forth where the clip is short."""
    period = max(1, 2 * (len(source) - 1))
    at = (int(rng.integers(period)) + np.arange(count)) % period
    index = np.where(at < len(source), at, period - at)
    return np.asarray(source[index])


def _mix(before: Pictures, after: Pictures, kind: str) -> Iterator[Pictures]:
    """A linear cross-fade, or one through black."""
    count = len(before)
    for number in range(count):
        share = (number + 0.5) / count
        a, b = before[number].astype(np.float32), after[number].astype(np.float32)
        if kind == "dissolve":
            mixed = a * (1 - share) + b * share
        else:
            mixed = a * max(0.0, 1 - 2 * share) + b * max(0.0, 2 * share - 1)
        yield mixed.round().astype(np.uint8)


def _disturb(
    shot: Pictures, first: int, room: int, kind: str, rng: np.random.Generator
) -> tuple[Pictures, list[tuple[str, int, int]]]:
    """Put a disturbance into `room` pictures from `first` on."""
    lengths = {"turn": (8, 18), "flash": (1, 2), "exposure": (9, 30), "cover": (30, 40)}
    low, high = lengths[kind]
    count = min(room, int(rng.integers(low, high + 1)))
    start = first + int(rng.integers(room - count + 1))
    end = start + count
    shot = shot.copy()
    work = {"turn": _turn, "flash": _flash, "exposure": _exposure, "cover": _cover}[kind]
    work(shot, start, end, rng)
    return shot, [(kind, start, end)]


def _turn(shot: Pictures, start: int, end: int, rng: np.random.Generator) -> None:
    """The camera swings by a picture's width, with motion blur, into the mirrored scene."""
    count = end - start
    way = [(1 - np.cos(np.pi * step / count)) / 2 for step in range(count + 1)]
    to_left = bool(rng.integers(2))
    for number in range(count):
        picture = shot[start + number][:, ::-1] if to_left else shot[start + number]
        wide = np.concatenate([picture, picture[:, ::-1]], axis=1).astype(np.float32)
        total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for share in np.linspace(way[number], way[number + 1], 6):
            offset = round(share * WIDTH)
            total += wide[:, offset : offset + WIDTH]
        moved = (total / 6).round().astype(np.uint8)
        shot[start + number] = moved[:, ::-1] if to_left else moved
    shot[end:] = shot[end:, :, ::-1]


def _flash(shot: Pictures, start: int, end: int, rng: np.random.Generator) -> None:
    """A light goes off, or the picture drops out, for a frame or two."""
    target, share = (255.0, rng.uniform(0.4, 0.95)) if rng.random() < 0.7 else (0.0, 1.0)
    mixed = shot[start:end].astype(np.float32) * (1 - share) + target * share
    shot[start:end] = mixed.round().astype(np.uint8)


def _exposure(shot: Pictures, start: int, end: int, rng: np.random.Generator) -> None:
    """The camera settles on a darker or brighter picture and stays there."""
    last = rng.uniform(0.35, 0.6) if rng.random() < 0.5 else rng.uniform(1.5, 2.2)
    gains = np.full(len(shot), last)
    gains[:start] = 1.0
    gains[start:end] = np.linspace(1.0, last, end - start)
    changed = shot[start:].astype(np.float32) * gains[start:, None, None, None]
    shot[start:] = changed.clip(0, 255).astype(np.uint8)


def _cover(shot: Pictures, start: int, end: int, rng: np.random.Generator) -> None:
    """A blurred hand rises over the whole picture and sinks again."""
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None] / HEIGHT
    columns = np.arange(WIDTH, dtype=np.float32)[None, :] / WIDTH
    skin = np.array([170.0, 120.0, 95.0]) * rng.uniform(0.3, 1.0)
    shade = (0.75 + 0.5 * columns * rows)[..., None]
    count, rise = end - start, int(rng.integers(6, 13))
    lean = rng.uniform(-0.4, 0.4)
    for number in range(count):
        level = min(1.0, (number + 1) / rise, (count - number) / rise)
        edge = 1.4 - 1.9 * level + lean * (columns - 0.5)
        mask = 1 / (1 + np.exp(-(rows - edge) / 0.04))[..., None]
        covered = shot[start + number] * (1 - mask) + skin * shade * mask
        shot[start + number] = covered.clip(0, 255).astype(np.uint8)
