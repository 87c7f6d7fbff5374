"""The preview page of a tiny dataset: everything is counted, escaped, self-contained and small."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from curation.preview import page as page_module
from curation.preview import write_preview
from curation.preview.charts import clock, length, number
from curation.preview.facts import RuleText, collect, sample_clips
from manifests.dataset import Dataset, DatasetSettings
from manifests.decide import decide
from manifests.recipe import Rule, load_recipe
from manifests.records import Part, PlannedUnit, clip_id_of, shard_name, unit_id_of
from manifests.schema import CLIPS, VIDEOS
from pipeline.mp4 import index_mp4
from pipeline.shards import ShardWriter
from pipeline.testing import make_video

Cli = Callable[..., SimpleNamespace]
GATES = (Rule(name="black", keep_when="black_frames_ratio < 0.95"),)
RECIPE = """name: tiny
keep:
  dark: brightness_mean_luma >= 40
  blurred: {keep_when: 'sharpness_luma >= 0.8 AND 100 > 1', on_missing: keep}
"""
NASTY = '/films/<script>alert(1)</script> & "quotes".mp4'
VOID = {"meta", "img", "br", "link", "input", "line", "rect"}


class Page(HTMLParser):
    """Checks nesting and collects ids, links, pictures and everything that could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "img":
            self.pictures.append(found)
        self.loads += [str(v) for k, v in attrs if k in ("src", "srcset", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def video_row(uri: str, video_id: str | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "uri": uri, "source": "kitchen", "embodiment": "human", "video_id": video_id,
        "num_bytes": 9, "state": "readable", "duration_s": 4.0, "num_frames_declared": 120,
    }  # fmt: skip
    return {**dict.fromkeys(VIDEOS.names), **row, **changes}


def clip_row(unit: PlannedUnit, part: Part, start_s: float, **changes: Any) -> dict[str, Any]:
    ticks = (round(start_s * 30), round(start_s * 30) + 30)
    row: dict[str, Any] = {
        "clip_id": clip_id_of(part.video_id, *ticks, "1/30"),
        "video_id": part.video_id, "uri": part.uri, "source": "kitchen", "embodiment": "human",
        "start_tick": ticks[0], "end_tick": ticks[1], "time_base": "1/30", "start_s": start_s,
        "end_s": start_s + 1.0, "num_frames": 30, "fps": 30.0, "shot_index": 0, "ends_at": "cut",
        "unit_id": unit.unit_id, "shard": unit.shard, "scale_ratio": 1.0,
        "brightness_mean_luma": 90.0, "sharpness_luma": 3.0, "black_frames_ratio": 0.0,
    }  # fmt: skip
    row = {**dict.fromkeys(CLIPS.names), **row, **changes}
    return {**row, "shard": None} if row["gate"] else row


def make_dataset(folder: Path, *, is_decided: bool = True) -> Dataset:
    """Two files with one unit (two kept clips, a dark one, a black one), and an unreadable file."""
    dataset = Dataset.create(folder, DatasetSettings(name="Tiny & <set>", gates=GATES))
    parts = (
        Part(uri="/films/a/pan.mp4", video_id="1" * 32),
        Part(uri=NASTY, video_id="2" * 32),
    )
    unit = PlannedUnit(number=0, unit_id=unit_id_of(parts, "s", []), parts=parts)
    clips = [
        clip_row(unit, parts[0], 0.0),
        clip_row(unit, parts[0], 1.0),
        clip_row(unit, parts[1], 0.0, brightness_mean_luma=20.0),
        clip_row(unit, parts[1], 1.0, gate="black", black_frames_ratio=1.0),
    ]
    mp4 = make_video(
        folder / "runs" / "clip.mp4", num_frames=30, width=160, height=120, options={"bf": "0"}
    )
    data = mp4.read_bytes()
    with dataset.writer("test") as writer:
        writer.append_videos(
            [
                *(video_row(part.uri, part.video_id) for part in parts),
                video_row(
                    "/films/bad.mp4",
                    None,
                    state="unreadable",
                    reason="not_video",
                    detail="no <moov>",
                    duration_s=None,
                    source="attic",
                ),
            ]
        )
        writer.append_plan([unit])
        with ShardWriter(dataset.path / "shards" / f"{shard_name(0)}.tar", "t") as shard:
            for clip in clips:
                if clip["gate"] is None:
                    shard.add(clip["clip_id"], {"mp4": data, "json": b"{}"}, index_mp4(data))
            info = shard.finish()
        row = {
            **unit.row(), "state": "done", "problems": [], "num_clips": 3, "num_gated": 1,
            "shard": unit.shard, "shard_bytes": info.num_bytes, "shard_sha256": info.sha256,
        }  # fmt: skip
        writer.commit_units([(row, clips)])
    if is_decided:
        recipe = folder.parent / "tiny.yaml"
        recipe.write_text(RECIPE)
        decide(Dataset.open(folder), load_recipe(recipe))
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("preview") / "données #1")


@pytest.fixture(scope="module")
def text(dataset: Dataset) -> str:
    return write_preview(dataset).read_text(encoding="utf-8")


def test_the_page_lies_where_the_format_says(dataset: Dataset, text: str) -> None:
    assert (dataset.path / "preview" / "index.html").is_file()
    assert [p.name for p in (dataset.path / "preview").iterdir()] == ["index.html"]


def test_it_counts_clips_files_and_length(text: str) -> None:
    assert "Recipe <strong>tiny</strong> keeps 2 of 4 clips: 2.0 s of 4.0 s" in text
    assert "from 3 files." in text
    for cell in ("<dt>Files</dt><dd>3<small>1 unreadable", "<dt>Clips kept</dt><dd>2<small>50%"):
        assert cell in text


def test_it_names_every_reason_with_its_rule(text: str) -> None:
    assert '<a href="#drop-dark">dark</a>' in text
    assert "brightness_mean_luma ≥ 40" in text
    assert '<a href="#gated">black</a> <small>gate</small>' in text
    assert "brightness_mean_luma 20, kept when ≥ 40" in text


def test_it_lists_unreadable_files_and_gated_clips(text: str) -> None:
    assert ">unreadable</span>" in text
    assert "<code>not_video</code>" in text
    assert "no &lt;moov&gt;" in text
    assert "0:01.0 – 0:02.0" in text


def test_it_draws_every_measure_with_the_thresholds(text: str) -> None:
    drawn = re.findall(r"<figcaption><strong>([\w.]+)</strong>", text)
    assert drawn[:3] == ["black_frames_ratio", "brightness_mean_luma", "sharpness_luma"]
    assert {"duration_s", "fps"} <= set(drawn)
    assert len(re.findall(r'<line class="cut"', text)) == 3
    assert "dark ≥ 40</text>" in text


def test_it_shows_pictures_of_written_clips(text: str) -> None:
    pictures = Page(text).pictures
    assert len(pictures) == 3
    assert all(str(p["src"]).startswith("data:image/jpeg;base64,/9j/") for p in pictures)
    assert all(str(p["alt"]).startswith("Three frames of ") for p in pictures)


def test_it_is_well_formed_and_its_links_lead_somewhere(text: str) -> None:
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert {"header", "nav", "main", "h1", "h2", "figure", "footer"} <= page.tags


def test_it_loads_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    assert "script" not in page.tags
    assert all(load.startswith("data:") for load in page.loads)
    assert not re.findall(r"https?://|@import|url\(", text)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;.mp4" in text
    assert "<h1>Tiny &amp; &lt;set&gt;</h1>" in text


def test_it_is_the_same_every_time(dataset: Dataset, text: str, tmp_path: Path) -> None:
    again = write_preview(dataset, tmp_path / "deep" / "page.html")
    assert again.read_text(encoding="utf-8") == text


def test_a_dataset_without_decision_or_clips_has_a_page_too(tmp_path: Path) -> None:
    undecided = make_dataset(tmp_path / "undecided", is_decided=False)
    words = write_preview(undecided).read_text(encoding="utf-8")
    assert "4 clips from 3 files, not decided yet." in words
    assert "<code>egodojo decide</code>" in words
    empty = Dataset.create(tmp_path / "empty", DatasetSettings(name="empty"))
    words = write_preview(empty).read_text(encoding="utf-8")
    assert "0 clips from 0 files, not decided yet." in words
    Page(words)


def test_a_damaged_shard_spoils_no_page(tmp_path: Path) -> None:
    damaged = make_dataset(tmp_path / "damaged")
    shard = damaged.path / "shards" / f"{shard_name(0)}.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    words = write_preview(damaged).read_text(encoding="utf-8")
    assert words.count("Cannot be shown:") == 3
    assert "do not match their checksum" in words


def test_pictures_stop_at_the_limit(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MAX_PICTURE_BYTES", 1)
    words = write_preview(dataset, tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(Page(words).pictures) == 1


def test_samples_are_bounded_and_spread_over_reasons(dataset: Dataset) -> None:
    found = sample_clips(dataset, num_kept=1, num_per_reason=5)
    assert sorted((row["verdict"], row["reason"]) for row in found) == [
        ("drop", "dark"),
        ("keep", None),
    ]


def test_histograms_hold_every_clip(dataset: Dataset) -> None:
    found = {h.name: h for h in collect(dataset).histograms}
    brightness = found["brightness_mean_luma"]
    assert [sum(column) for column in zip(*brightness.bins, strict=True)] == [2, 1, 1, 0]
    assert brightness.low <= 20 < 40 < brightness.high
    assert found["black_frames_ratio"].high == 1.0


def test_comparisons_are_read_from_predicates() -> None:
    rule = RuleText(
        name="x", keep_when="hands.ratio>=.5 OR hands.area > 0.25 AND fps<=6e1", is_gate=False
    )
    assert list(rule.comparisons()) == [
        ("hands.ratio", ">=", 0.5),
        ("hands.area", ">", 0.25),
        ("fps", "<=", 60.0),
    ]


def test_numbers_read_well() -> None:
    assert [number(v) for v in (0, 1234567, 0.12345, 123.4)] == ["0", "1,234,567", "0.123", "123"]
    assert [length(s) for s in (5, 90, 7200)] == ["5.0 s", "1.5 min", "2.0 h"]
    assert clock(65.24) == "1:05.2"


def test_the_command_writes_the_page(cli: Cli, dataset: Dataset, tmp_path: Path) -> None:
    done = cli("manifest", "preview", dataset.path, "--out", tmp_path / "p.html", "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "p.html").stat().st_size > 10_000
    assert "Example: egodojo manifest preview DATASET" in cli("manifest", "preview", "-h").stdout
    done = cli("manifest", "preview", tmp_path)
    assert done.exit_code == 1
    assert "is not a dataset" in done.stderr
