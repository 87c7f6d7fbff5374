"""The preview page of a tiny dataset: everything is counted, escaped, self-contained and small."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from preview_helpers import Page, make_dataset, video_row

from curation.preview import sheets as sheets_module
from curation.preview import write_preview
from curation.preview.facts import MAX_LISTED, collect, sample_clips
from manifests.dataset import Dataset, DatasetSettings
from manifests.decide import decide
from manifests.markup import clock, length, number
from manifests.recipe import load_recipe
from manifests.records import shard_name

Cli = Callable[..., SimpleNamespace]


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
    assert '<small class="because">Hands &amp; objects drown in noise.</small>' in text
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
    assert re.findall(r'class="handle" data-key="([\w.]+)"', text) == ["black", "dark", "blurred"]
    assert "dark ≥ 40</text>" in text


def test_it_shows_pictures_of_written_clips(text: str) -> None:
    pictures = Page(text).pictures
    assert len(pictures) == 3
    assert all(str(p["src"]).startswith("data:image/jpeg;base64,/9j/") for p in pictures)
    assert all(str(p["alt"]).startswith("8 frames of ") for p in pictures)
    for picture in pictures:
        jpeg = base64.b64decode(str(picture["src"]).partition(",")[2])
        assert Image.open(io.BytesIO(jpeg)).size == (8 * 160, 120)


def test_it_is_well_formed_and_its_links_lead_somewhere(text: str) -> None:
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert {"header", "nav", "main", "h1", "h2", "figure", "footer"} <= page.tags


def test_it_loads_nothing_and_runs_only_its_own_script(text: str) -> None:
    page = Page(text)
    assert page.scripts == [{"type": "application/json", "id": "data"}, {}]
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert all(load.startswith("data:") for load in page.loads)
    assert not re.findall(
        r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|fetch\(|\son\w+=", text
    )
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;.mp4" in text
    assert "<h1>Tiny &amp; &lt;set&gt;</h1>" in text


def test_without_the_script_nothing_is_missing_and_nothing_idle_is_shown(text: str) -> None:
    assert '<aside id="whatif" aria-label="What the dragged thresholds would do" hidden>' in text
    assert ".live-only, .histogram .tries { display: none; }" in text
    assert text.count('<g class="bars"><rect') > 3


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
    assert words.count("No clip yet.") == 2
    assert "A gate closed" not in words
    Page(words)


def test_long_names_and_errors_leave_room_for_the_rest(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", DatasetSettings(name="d"))
    folder = "/films/" + "/".join(f"folder_{i}" for i in range(40))
    files = [f"{folder}/a.mp4", "s3://bucket/some key/b.mp4", "/films/c.mp4"]
    facts = {"state": "unreadable", "reason": "not_video", "source": "s" * 300}
    with dataset.writer("test") as writer:
        writer.append_videos(
            [video_row(uri, None, detail=f"{uri} is {'x' * 5000}", **facts) for uri in files]
        )
    text = write_preview(Dataset.open(dataset.path)).read_text(encoding="utf-8")
    assert f"<small>…{folder[-60:]}/</small>a.mp4</span>" in text
    assert "<small>s3://bucket/some key/</small>b.mp4</span>" in text
    assert f'<span class="detail">is {"x" * 397} …</span>' in text
    assert f'<span class="name" title="{"s" * 300}">' in text


def test_lists_stop_at_a_limit_and_say_so(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", DatasetSettings(name="d"))
    with dataset.writer("test") as writer:
        writer.append_videos(
            [
                video_row(f"/f/{i}.mp4", None, source=f"s{i}", state="unreadable", reason="empty")
                for i in range(MAX_LISTED + 5)
            ]
        )
    text = write_preview(Dataset.open(dataset.path)).read_text(encoding="utf-8")
    assert text.count("5 more are not listed here.") == 2  # sources and files
    assert f"{MAX_LISTED + 5} sources" in text
    assert text.count(">unreadable</span>") == MAX_LISTED + 1  # and the table of fates


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
    monkeypatch.setattr(sheets_module, "MAX_PICTURE_BYTES", 1)
    words = write_preview(dataset, tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(Page(words).pictures) == 2  # one of every sheet
    assert "1 of 2 clips" in words


def test_samples_are_bounded_and_spread_over_reasons(dataset: Dataset) -> None:
    found = sample_clips(dataset, num_kept=1, num_per_reason=5)
    assert sorted((row["verdict"], row["reason"]) for row in found) == [
        ("drop", "dark"),
        ("keep", None),
    ]


def test_a_dropped_clip_says_what_any_compared_expression_was(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nkeep:\n"
        "  sum: brightness_mean_luma + sharpness_luma < 90 AND end_s - start_s >= 0.5\n"
    )
    decide(dataset, load_recipe(recipe))
    text = write_preview(Dataset.open(dataset.path)).read_text(encoding="utf-8")
    assert "brightness_mean_luma + sharpness_luma 93, kept when &lt; 90; end_s - start_s 1" in text
    assert text.count("<strong>duration_s</strong>") == 1
    assert "<strong>end_s - start_s</strong>" not in text


def test_histograms_hold_every_clip(dataset: Dataset) -> None:
    found = {h.name: h for h in collect(dataset).histograms}
    brightness = found["brightness_mean_luma"]
    assert [sum(column) for column in zip(*brightness.bins, strict=True)] == [2, 1, 1, 0]
    assert brightness.low <= 20 < 40 < brightness.high
    assert found["black_frames_ratio"].high == 1.0


def test_numbers_read_well() -> None:
    assert [number(v) for v in (0, 1234567, 0.12345, 123.4)] == ["0", "1,234,567", "0.123", "123"]
    assert [number(v) for v in (-1e308, 1e12)] == ["-1e+308", "1,000,000,000,000"]
    assert [number(v) for v in (3.79e-5, -1e-6, 1e-9)] == ["0.000038", "-0.000001", "1e-09"]
    assert [length(s) for s in (5, 90, 7200)] == ["5.0 s", "1.5 min", "2.0 h"]
    assert clock(65.24) == "1:05.2"


def test_the_command_writes_the_page(cli: Cli, dataset: Dataset, tmp_path: Path) -> None:
    done = cli("manifest", "preview", dataset.path, "--out", tmp_path / "p.html", "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "p.html").stat().st_size > 10_000
    words = cli("manifest", "preview", "--help").stdout
    assert "Example: egodojo manifest preview DATASET" in words
    done = cli("manifest", "preview", tmp_path)
    assert done.exit_code == 1
    assert "is not a dataset" in done.stderr


def test_the_page_shows_what_the_last_decision_changed(dataset: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset.path, copy)
    recipe = tmp_path / "inverse.yaml"
    recipe.write_text("name: inverse\nkeep: {bright: brightness_mean_luma < 40}\n")
    opened = Dataset.open(copy)
    assert "Against the last decision" not in write_preview(opened).read_text(encoding="utf-8")
    decide(opened, load_recipe(recipe))
    words = write_preview(Dataset.open(copy)).read_text(encoding="utf-8")
    assert '<a href="#difference">Changes</a>' in words
    assert "Against recipe <strong>tiny</strong>" in words
    assert "<strong>1 gained</strong> (1.0 s), <strong>2 lost</strong> (2.0 s)" in words
    assert "was dropped: dark" in words
    assert words.count("now dropped: bright; brightness_mean_luma 90, kept when &lt; 40") == 2
    changed = words.partition("What each rule changed")[2].partition("</table>")[0]
    assert "<td>dark</td>" in changed
    assert "<td>bright</td>" in changed
    assert "<td>black</td>" not in changed  # dropped the same clips before
    Page(words)


def test_a_decision_is_drawn_before_it_is_made(dataset: Dataset, tmp_path: Path, cli: Cli) -> None:
    copy, page = tmp_path / "copy", tmp_path / "page.html"
    shutil.copytree(dataset.path, copy)
    recipe = tmp_path / "inverse.yaml"
    recipe.write_text("name: inverse\nkeep: {bright: brightness_mean_luma < 40}\n")
    command = ("decide", copy, "--recipe", recipe, "--preview", page)
    done = cli(*command, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith(f"Nothing was decided.\n  to look at it: {page}\n")
    assert Dataset.open(copy).versions == Dataset.open(dataset.path).versions
    tried = page.read_text(encoding="utf-8")
    assert "Recipe <strong>inverse</strong> would keep 1 of 4 clips" in tried
    assert "A trial: nothing was decided." in tried
    assert "<strong>1 gained</strong> (1.0 s), <strong>2 lost</strong> (2.0 s)" in tried
    assert tried.count("now dropped: bright") == 2
    Page(tried)
    done = cli(*command, "--json")
    assert json.loads(done.stdout)["page"] == str(page)
    decided = page.read_text(encoding="utf-8")
    assert "Recipe <strong>inverse</strong> keeps 1 of 4 clips" in decided
    same = re.compile(r"would keep|keeps| A trial: nothing was decided\.|decisions \d+")
    assert same.sub("", tried) == same.sub("", decided)
