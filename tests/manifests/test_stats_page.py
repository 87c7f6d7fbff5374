"""The statistics page: the numbers of the tables, nothing from elsewhere, text as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from dataset_helpers import SETTINGS, clip_row, planned_unit, toy_dataset, unit_row, video_row

from manifests import Dataset
from manifests.decide import decide
from manifests.label_stats import contents, trajectory_lengths
from manifests.recipe import Recipe
from manifests.stats_page import write_stats_page

Cli = Callable[..., SimpleNamespace]
VOID = {"meta", "br", "line", "rect", "polygon", "circle"}
NASTY = "<script>alert(1)</script> & co"


class Page(HTMLParser):
    """Rows of every table by caption, what could load something, and proper nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.caption = ""
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "srcset", "href", "data", "action")]
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data: str) -> None:
        self.text += data
        if "caption" in self.open:
            self.caption = data
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def labelled(folder: Path) -> Dataset:
    """Two sources: one file of three clips in a row, and one of two that a second lies between."""
    dataset = Dataset.create(folder, SETTINGS)
    plan = [("lab", "human", [0.0, 2.0, 4.0]), (NASTY, "franka", [0.0, 3.0])]
    videos, units, results = [], [], []
    for number, (source, body, starts) in enumerate(plan):
        facts = {"source": source, "embodiment": body}
        video = video_row(f"v{number}", **facts)
        unit = planned_unit(number, [video])
        clips = [
            clip_row(unit, unit.parts[0], i, start_s=s, end_s=s + 2.0, **facts)
            for i, s in enumerate(starts)
        ]
        videos.append(video)
        units.append(unit)
        results.append((unit_row(unit, clips), clips))
    with dataset.writer("test") as writer:
        writer.append_videos(videos)
        writer.append_plan(units)
        writer.commit_units(results)
    decide(dataset, Recipe(name="all"))
    ids = dataset.sql("SELECT clip_id FROM kept ORDER BY uri, start_s").column(0).to_pylist()
    columns = {
        "clip_id": ids[:4],
        "task": ["fold", "fold", NASTY, "fold"],
        "scene": ["kitchen", "kitchen", "hall", "kitchen"],
        "objects": [["cup", "cup"], ["cup"], [], ["plate"]],
        "skill": ["fold", "fold", "pour", "fold"],
    }
    dataset.append_score("captions", pa.table(columns), metadata={"scorer": "c", "digest": "d"})
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return labelled(tmp_path_factory.mktemp("page") / "d")


@pytest.fixture(scope="module")
def page(dataset: Dataset) -> Page:
    path = write_stats_page(dataset, dataset.path / "deep" / "stats.html")
    return Page(path.read_text(encoding="utf-8"))


def test_the_table_of_contents_counts_every_kept_clip_once(page: Page) -> None:
    rows = page.tables["Contents by source and embodiment"]
    heads = ["Source", "Embodiment", "Hours", "Trajectories", "Mean length"]
    assert rows == [
        [*heads, "Scenes", "Tasks", "Objects", "Skills"],
        [NASTY, "franka", "0.001", "2", "2.0 s", "1", "1", "1", "1"],
        ["lab", "human", "0.002", "2", "3.0 s", "2", "2", "1", "2"],
        ["In total", "", "0.003", "4", "2.5 s", "2", "2", "2", "2"],
    ]


def test_lengths_and_labels(dataset: Dataset, page: Page) -> None:
    assert page.tables["Length by source"][1:] == [
        ["lab human", "", "6.0 s"],
        [f"{NASTY} franka", "", "4.0 s"],
    ]
    assert trajectory_lengths(dataset) == [2.0, 2.0, 2.0, 4.0]
    assert "median 2.0 s, mean 2.5 s" in page.text
    assert page.tables["Most frequent: tasks"][1:] == [
        ["fold", "", "3", "6.0 s"],
        [NASTY, "", "1", "2.0 s"],
    ]
    assert page.tables["Most frequent: objects"][1:] == [
        ["cup", "", "2", "4.0 s"],
        ["plate", "", "1", "2.0 s"],
    ]
    assert "1 seen in one clip only" in page.text


def test_nothing_comes_from_elsewhere_and_labels_are_no_markup(
    dataset: Dataset, page: Page
) -> None:
    text = (dataset.path / "deep" / "stats.html").read_text(encoding="utf-8")
    assert page.loads == ["#main"]
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    assert "default-src 'none'" in text


def test_without_labels_the_text_of_a_clip_is_its_task(tmp_path: Path, cli: Cli) -> None:
    dataset = toy_dataset(tmp_path / "d", num_videos=2)
    decide(dataset, Recipe(name="all", keep=()))
    out = tmp_path / "stats.html"
    shown = cli("manifest", "stats", dataset.path, "--html", out)
    assert shown.exit_code == 0
    assert f"page    {out}" in shown.stdout
    page = Page(out.read_text(encoding="utf-8"))
    total = contents(Dataset.open(dataset.path))[-1]
    assert (total["num_clips"], total["num_scenes"], total["num_objects"]) == (4, 0, 0)
    assert page.tables["Contents by source and embodiment"][1][5:] == ["–", "–", "–", "–"]
    assert "Scenes, objects and skills come from labels" in page.text
    assert not [caption for caption in page.tables if caption.startswith("Most frequent")]


def test_a_page_of_nothing(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", SETTINGS)
    page = Page(write_stats_page(dataset, tmp_path / "s.html").read_text(encoding="utf-8"))
    assert "0 clips, 0.0 s, not decided yet." in page.text
    assert "Nothing is kept yet." in page.text
