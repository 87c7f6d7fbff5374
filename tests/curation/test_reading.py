"""Long files: the probe says how each part is read, so plan and work look at nothing else."""

from __future__ import annotations

import itertools
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from curation.ingest import probe_input
from curation.reading import edges_of, reading_of
from manifests.records import Part
from pipeline.facts import VideoProbe
from pipeline.testing import make_video
from pipeline.video import decode, part_ticks, probe


def probed(path: Path, unit_len_s: float) -> dict[str, Any]:
    return probe_input(str(path), source="s", embodiment="e", unit_len_s=unit_len_s)


def parts_of(row: dict[str, Any], unit_len_s: float) -> list[Part]:
    spans = itertools.pairwise([None, *edges_of(row, unit_len_s), None])
    return [
        Part(uri=row["uri"], video_id=row["video_id"], start_tick=start, end_tick=end)
        for start, end in spans
    ]


def bytes_read() -> int:
    """Bytes this process has read so far, from the page cache or not."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_parts_read_by_the_row_give_the_frames_of_the_whole(name: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, num_frames=100, fps=20, options={"bf": "2"})
    row, whole = probed(path, 1.5), [frame.tick for frame in decode(path)]
    parts = parts_of(row, 1.5)
    assert len(parts) == 4
    ticks: list[int] = []
    for part in parts:
        facts, reading = reading_of(row, part, path)
        assert not isinstance(facts, VideoProbe)
        mine = [frame.tick for frame in decode(path, facts, reading=reading)]
        assert reading.num_frames == len(mine)
        assert part_ticks(path, facts, reading).tolist() == mine
        ticks += mine
    assert ticks == whole


def test_the_plan_needs_no_look_at_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=100, fps=20)
    row, time_base = probed(path, 1.5), Fraction(probe(path).time_base)
    path.unlink()
    assert [float(edge * time_base) for edge in edges_of(row, 1.5)] == [1.5, 3.0, 4.5]
    assert json.loads(row["reading"])["parts"][0]["key_pts"] is None


def test_work_on_a_part_reads_only_its_stretch_of_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=300, fps=30, kind="noise", crf=10)
    row = probed(path, 1.0)
    part = parts_of(row, 1.0)[5]
    before = bytes_read()
    facts, reading = reading_of(row, part, path)
    assert len(list(decode(path, facts, reading=reading))) == 30
    assert bytes_read() - before < 0.25 * path.stat().st_size


def test_a_row_of_an_older_dataset_is_probed_again(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=100, fps=20)
    row = {**probed(path, 1.5), "reading": None}
    assert len(edges_of(row, 1.5)) == 3
    facts, reading = reading_of(row, parts_of(row, 1.5)[1], path)
    assert isinstance(facts, VideoProbe)
    assert reading.num_frames == 30
    stream = shutil.copy(make_video(tmp_path / "a.ts", num_frames=60, fps=20), tmp_path / "b.ts")
    assert edges_of({"uri": str(stream), "reading": None}, 1.5) == []
    assert edges_of(probed(Path(stream), 1.5), 1.5) == []
    path.unlink()
    assert edges_of(row, 1.5) == []
