"""The page in a real browser: moved by address, mouse, key and touch, it says what decide does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from browser import Browser, browser, chromium
from preview_helpers import ODD_RECIPE, make_dataset, make_many

from curation.preview import write_preview
from manifests.dataset import Dataset
from manifests.decide import decide
from manifests.recipe import load_recipe

Cli = Callable[..., SimpleNamespace]
pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium: `make setup-browser` installs one"
)
HANDLE = "document.querySelector('.handle[data-key=\"dark\"] .knob').getBoundingClientRect()"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = make_many(tmp_path_factory.mktemp("browser") / "many clips", 300)
    write_preview(dataset)
    return dataset


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_preview(make_dataset(tmp_path_factory.mktemp("pictured") / "d")).as_uri()


def url_of(dataset: Dataset, hash_: str = "") -> str:
    return (dataset.path / "preview" / "index.html").as_uri() + hash_


def decided(dataset: Dataset) -> dict[str, float]:
    query = "SELECT count(*) AS kept, coalesce(sum(end_s - start_s), 0.0) AS seconds FROM kept"
    found: dict[str, float] = Dataset.open(dataset.path).sql(query).to_pylist()[0]
    return found


def kept_ids(dataset: Dataset) -> set[str]:
    return set(Dataset.open(dataset.path).sql("SELECT clip_id FROM kept")["clip_id"].to_pylist())


def shown(tab: Browser) -> dict[str, Any]:
    tab.settle()
    found: dict[str, Any] = tab.evaluate("egodojo.state()")
    return found


def test_the_script_agrees_with_the_recorded_decision(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many))
    state = shown(tab)
    wanted = Dataset.open(many.path).sql(
        "SELECT CASE WHEN gate IS NOT NULL THEN 'gated' WHEN verdict = 'keep' THEN 'kept' "
        "ELSE 'dropped' END AS status FROM clips ORDER BY clip_id"
    )
    assert state["status"] == wanted.column("status").to_pylist()
    assert state["kept"] == decided(many)["kept"]
    assert tab.evaluate("document.getElementById('whatif').hidden") is True
    tab.open(url_of(many, "#dark=%"))  # no address of ours
    assert shown(tab)["kept"] == state["kept"]
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(
    "thresholds",
    [
        "dark=95",
        "dark=16.5&dull=0.3",
        "dull.2=12&dull.3=30",
        "dull.3=29.98",
        "contrast_luma.min=25",
        "sharpness_luma.max=1.5&dark=60",
        "least_is_no_rule=3&dark=120",
    ],
)
def test_dragged_numbers_are_those_of_decide(
    tab: Browser, many: Dataset, tmp_path: Path, cli: Cli, thresholds: str
) -> None:
    tab.open(url_of(many, "#" + thresholds))
    state = shown(tab)
    command = tab.evaluate("document.querySelector('#copy-decide code').textContent")
    copy = tmp_path / "copy"
    shutil.copytree(many.path, copy)
    words = shlex.split(command)
    assert words[2:5] == [str(many.path), "--recipe", "many.yaml"]
    words[2], words[4] = str(copy), str(many.path.parent / "many.yaml")
    done = cli(*words[1:], "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["difference"]
    after = decided(Dataset.open(copy))
    assert state["kept"] == after["kept"]
    assert state["seconds"] == pytest.approx(after["seconds"])
    assert (state["gained"], state["lost"]) == (found["num_gained"], found["num_lost"])
    assert state["gained"] + state["lost"] > 0
    assert state["lostSeconds"] == pytest.approx(found["lost_s"])
    assert kept_ids(Dataset.open(copy)) != kept_ids(many)


def test_oddly_written_rules_are_decided_alike(tab: Browser, tmp_path: Path, cli: Cli) -> None:
    dataset = make_many(tmp_path / "odd", 60)
    ids = dataset.sql("SELECT clip_id FROM clips")["clip_id"]
    ratios = [i / len(ids) for i in range(len(ids))]
    dataset.append_score("my", pa.table({"clip_id": ids, "Left Ratio": ratios}), metadata={})
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(ODD_RECIPE)
    decide(dataset, load_recipe(recipe))
    write_preview(dataset)
    tab.open(url_of(dataset))
    assert shown(tab)["kept"] == decided(dataset)["kept"] > 0
    assert tab.evaluate("egodojo.keys()") == [
        "black", "emoji", "emoji.2", "emoji.3", "quoted", "over_zero", "comment",
        "lambda",
    ]  # fmt: skip
    tab.open(url_of(dataset, "#emoji=90&emoji.3=16&quoted=0.5"))
    words = shlex.split(tab.evaluate("document.querySelector('#copy-decide code').textContent"))
    words[4] = str(recipe)
    assert words[6] == (
        "keep.emoji=source <> '😀' AND brightness_mean_luma >= 90 AND clips.FPS BETWEEN 5 AND 16"
    )
    done = cli(*words[1:], "--json")
    assert done.exit_code == 0, done.stderr
    assert shown(tab)["kept"] == json.loads(done.stdout)["num_kept"] > 0


def test_a_gate_says_what_would_not_be_written(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many, "#black=0.5"))
    query = tab.evaluate("document.querySelector('#copy-sql code').textContent")
    (found,) = many.sql(query).to_pylist()
    words = tab.evaluate(
        "document.querySelector('.handle[data-key=black]').closest('figure')"
        ".querySelector('.now').textContent"
    )
    (blacks,) = re.findall(r": (\d+) clips not written", words)
    assert int(blacks) == found["clips"] > 0
    assert "takes another curate" in words
    command = tab.evaluate("document.querySelector('#copy-gate code').textContent")
    assert "--set 'gates.black=black_frames_ratio < 0.5'" in command
    assert tab.evaluate("document.querySelector('#copy-decide').hidden") is True


@pytest.mark.parametrize("key", ["dull.2", "black"])
def test_the_query_to_copy_counts_the_clips_that_fail(
    tab: Browser, many: Dataset, key: str
) -> None:
    tab.open(url_of(many))
    handle = f"document.querySelector('.handle[data-key=\"{key}\"]')"
    tab.evaluate(f"{handle}.focus()")
    tab.key("PageDown")
    tab.settle()
    words = tab.evaluate(f"{handle}.getAttribute('aria-valuetext')")
    (failed,) = re.findall(r"(\d+) clips? fail it", words)
    query = tab.evaluate("document.querySelector('#copy-sql code').textContent")
    (found,) = many.sql(query).to_pylist()
    assert int(failed) == found["clips"] > 0


def test_a_threshold_is_dragged_with_the_mouse(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many))
    tab.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    tab.evaluate(
        "document.querySelector('.handle[data-key=dark]').scrollIntoView({block:'center'})"
    )
    tab.settle()
    box = tab.evaluate(f"(() => {{ const b = {HANDLE}; return [b.x + b.width/2, b.y]; }})()")
    before = shown(tab)["kept"]
    tab.mouse("mousePressed", *box)
    for step in range(1, 6):
        tab.mouse("mouseMoved", box[0] + 20 * step, box[1])
    tab.mouse("mouseReleased", box[0] + 100, box[1])
    state = shown(tab)
    value = float(tab.evaluate("location.hash").removeprefix("#dark="))
    (found,) = many.sql(
        f"SELECT count(*) AS n FROM kept WHERE brightness_mean_luma < {value}"
    ).to_pylist()
    assert 60 < value < 200
    assert state["kept"] < before
    assert state["lost"] >= found["n"] > 0
    tab.mouse("mouseMoved", box[0] + 10, box[1])  # let go: nothing moves any more
    assert shown(tab)["kept"] == state["kept"]
    panel = "getComputedStyle(document.getElementById('whatif')).display"
    assert tab.evaluate(panel) == "block"
    was = "document.querySelector('.shade[data-key=dark] + .was').getBoundingClientRect()"
    assert tab.evaluate(f"{was}.x + {was}.width / 2") == pytest.approx(box[0], abs=1)
    tab.evaluate("document.getElementById('whatif-reset').click()")
    assert shown(tab)["kept"] == before
    assert tab.evaluate(panel) == "none"
    assert tab.evaluate("location.hash") == ""


def test_a_threshold_is_moved_with_the_keyboard(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many))
    handle = "document.querySelector('.handle[data-key=dark]')"
    tab.evaluate(f"{handle}.focus()")
    before = shown(tab)["kept"]
    for name in ("ArrowRight", "PageUp"):
        tab.key(name)
    tab.settle()
    now = float(tab.evaluate(f"{handle}.getAttribute('aria-valuenow')"))
    assert now == 51  # a step of 1, then ten
    tab.key("End")
    assert shown(tab)["kept"] == 0
    tab.key("Home")
    assert shown(tab)["gained"] > 0
    tab.key("Escape")
    assert shown(tab)["kept"] == before
    assert tab.evaluate(f"{handle}.getAttribute('role')") == "slider"
    assert "fail it" in tab.evaluate(f"{handle}.getAttribute('aria-valuetext')")


def test_a_threshold_is_dragged_with_a_finger(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many), width=390, height=844)
    tab.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    tab.evaluate(
        "document.querySelector('.handle[data-key=dark]').scrollIntoView({block:'center'})"
    )
    tab.settle()
    x, y = tab.evaluate(f"(() => {{ const b = {HANDLE}; return [b.x + b.width/2, b.y]; }})()")
    tab.touch("touchStart", (x, y))
    for step in range(1, 9):
        tab.touch("touchMove", (x + 10 * step, y))
    tab.touch("touchEnd")
    assert shown(tab)["lost"] > 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate("document.getElementById('whatif-commands').open") is False


def test_figures_out_of_sight_are_drawn_when_they_come_into_it(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many), height=300)
    last = "[...document.querySelectorAll('.histogram')].at(-1)"
    kept = f"{last}.querySelectorAll('.bars .kept').length"
    tab.evaluate("egodojo.set('dark', 235)")
    assert shown(tab)["kept"] == 0
    assert tab.evaluate(kept) > 0
    tab.evaluate(f"{last}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    tab.wait(f"{kept} === 0")


def test_a_rule_of_ones_own_can_be_tried(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many))
    named = "f => f.querySelector('strong').textContent === 'duration_s'"
    figure = f"[...document.querySelectorAll('.histogram')].find({named})"
    tab.evaluate(f"{figure}.querySelector('.try[data-side=min]').click()")
    tab.settle()
    command = tab.evaluate("document.querySelector('#copy-decide code').textContent")
    assert "keep.min_duration_s=" in command
    tab.key("Escape")
    assert shown(tab)["lost"] == 0
    assert tab.evaluate("egodojo.keys().some(k => k.endsWith('.min'))") is False


def test_clips_that_would_change_sides_are_marked(tab: Browser, many: Dataset) -> None:
    tab.open(url_of(many, "#dark=235"))
    shown(tab)
    tiles = tab.evaluate(
        "[...document.querySelectorAll('#kept .tile')].map(t => t.dataset.now ?? '')"
    )
    assert tiles
    assert set(tiles) == {"now dropped: dark"}


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_pictures_play_on_focus_unless_motion_is_unwanted(
    tab: Browser, pictured: str, motion: str
) -> None:
    tab.open(pictured, prefers_reduced_motion=motion)
    film = "document.querySelector('.film')"
    assert tab.evaluate("document.getAnimations().length") == 0
    tab.evaluate(f"{film}.focus()")
    tab.settle()
    names = tab.evaluate("document.getAnimations().map(a => a.animationName)")
    assert names == ([] if motion == "reduce" else ["play"])
    assert tab.evaluate(f"getComputedStyle({film}).overflowX") == (
        "auto" if motion == "reduce" else "hidden"
    )
    width = tab.evaluate(f"{film}.firstChild.clientWidth / {film}.clientWidth")
    assert width == pytest.approx(8, abs=0.01)


def test_the_address_alone_is_enough(many: Dataset, tmp_path: Path) -> None:
    """No driver: `chromium --dump-dom page.html#dark=120` prints the numbers."""
    done = subprocess.run(
        [
            str(chromium()), "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", url_of(many, "#dark=120"),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    (kept,) = re.findall(r'<aside id="whatif".*? data-kept="(\d+)"', done.stdout)
    (found,) = many.sql(
        "SELECT count(*) AS n FROM kept WHERE brightness_mean_luma >= 120"
    ).to_pylist()
    assert int(kept) >= found["n"] > 0  # a duplicate of a clip that is dark now may take its place
    assert int(kept) < decided(many)["kept"]
