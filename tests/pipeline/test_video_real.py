"""Real files: what can be read is read completely, what cannot is refused with the right reason."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from manifests.errors import VideoError
from pipeline.video import decode, probe

MAX_PIXELS = 40e6  # decoded per file here; larger ones are only probed
KNOWN_REASONS = {"empty", "no_index", "no_video_stream", "not_video", "damaged_header"}


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "INDEX.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_probed_counts_rates_and_sizes_agree_with_the_list(test_videos: Path) -> None:
    wrong = []
    for row in rows(test_videos):
        try:
            facts = probe(test_videos / row["path"])
        except VideoError as error:
            if row["expect"] != "drop:unreadable" or error.reason not in KNOWN_REASONS:
                wrong.append((row["path"], error.message))
            continue
        sizes = {facts.stored_width, facts.stored_height, facts.width, facts.height}
        is_right = (
            int(row["width"]) in sizes
            and int(row["height"]) in sizes
            and facts.fps == pytest.approx(float(row["fps"]), rel=0.02)
            and facts.codec == row["codec"]
        )
        if row["expect"] == "keep":
            is_right &= facts.num_frames_declared == int(row["n_frames"])
            is_right &= facts.packets.count(None, None) == int(row["n_frames"])
        if row["expect"] == "drop:unreadable" or not is_right:
            wrong.append((row["path"], facts.columns()))
    assert wrong == []


def test_every_frame_of_the_good_files_is_decoded(test_videos: Path) -> None:
    wrong, num_decoded = [], 0
    for row in rows(test_videos):
        if row["expect"] != "keep":
            continue
        path, count = test_videos / row["path"], int(row["n_frames"])
        if count * int(row["width"]) * int(row["height"]) > MAX_PIXELS:
            continue
        stream = decode(path)
        ticks = [frame.tick for frame in stream]
        num_decoded += 1
        if len(ticks) != count or stream.problems or ticks != sorted(set(ticks)):
            wrong.append((row["path"], count, stream.report))
    assert wrong == []
    assert num_decoded > 0


def test_parts_of_awkward_files_give_the_frames_of_the_whole(test_videos: Path) -> None:
    """Edit lists, variable rate, damage, a transport stream that begins inside a group."""
    folder = test_videos / "odd"
    for path in sorted(folder.iterdir()):
        try:
            facts = probe(path)
        except VideoError:
            continue
        if facts.stored_width * facts.stored_height * facts.num_packets > MAX_PIXELS / 2:
            continue
        whole = [(frame.tick, frame.duration) for frame in decode(path, facts)]
        edges = [tick for tick, _ in whole[len(whole) // 3 :: max(1, len(whole) // 3)]]
        for start, end in zip([None, *edges], [*edges, None], strict=True):
            inside = [
                (tick, length)
                for tick, length in whole
                if (start is None or tick >= start) and (end is None or tick < end)
            ]
            part = decode(path, facts, start_tick=start, end_tick=end)
            assert [(frame.tick, frame.duration) for frame in part] == inside, path.name
