"""Windows, the map of latents, and the answers of the action index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import latent_actions.index as index_module
from latent_actions.index import ActionIndex, ClipLatents, IndexMeta, index_folder
from latent_actions.windows import (
    LatentMap,
    Statistics,
    Window,
    WindowConfig,
    cut_windows,
    part_means,
)
from manifests.config import load_config
from manifests.errors import ConfigError, DatasetError, UsageError

META = IndexMeta(model_id="lam-test-0123abcd", step=2, windows=WindowConfig())


def make_clips(number: int, *, num_frames: int = 100, seed: int = 0) -> list[ClipLatents]:
    """Clips whose latents wander; embodiments shift them by a constant."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(size=(3, 32)) * 5
    found = []
    for n in range(number):
        walk = rng.normal(size=(num_frames - 2, 32)).cumsum(axis=0) * 0.3
        found.append(
            ClipLatents(
                clip_id=f"clip{n:03d}",
                embodiment=("human", "panda", "gr1")[n % 3],
                num_frames=num_frames,
                fps=20.0,
                rows=(walk + shift[n % 3]).astype(np.float16),
            )
        )
    return found


def test_windows_cover_the_clip_and_hold_only_inner_pairs() -> None:
    found = cut_windows(95, 20.0, step=2, every=1, config=WindowConfig())
    assert [w.start_s for w in found] == [0.0, 1.0, 2.0, 2.75]
    assert found[-1].end_s == 95 / 20
    assert all(w.num_rows == 38 for w in found)
    assert max(w.first_row + w.num_rows for w in found) == 93


def test_a_short_clip_is_one_window_and_a_tiny_one_none() -> None:
    (only,) = cut_windows(20, 20.0, step=2, every=1, config=WindowConfig())
    assert (only.first_row, only.num_rows) == (0, 18)
    assert cut_windows(2, 20.0, step=2, every=1, config=WindowConfig()) == []


def test_a_coarse_grid_gives_the_rows_inside() -> None:
    found = cut_windows(100, 20.0, step=2, every=4, config=WindowConfig())
    assert (found[1].first_row, found[1].num_rows) == (5, 10)
    starts = np.arange(25) * 4
    inside = (starts >= 20) & (starts + 2 <= 59)
    assert np.flatnonzero(inside).tolist() == list(range(5, 15))


def test_part_means_keep_the_order_and_fill_missing_parts() -> None:
    rows = np.arange(8, dtype=np.float16)[:, None] * np.ones((1, 32), np.float16)
    window = Window(first_row=0, num_rows=8, start_s=0, end_s=1)
    assert part_means(rows, window, 4)[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    short = Window(first_row=6, num_rows=2, start_s=0, end_s=1)
    assert part_means(rows, short, 4)[:, 0].tolist() == [6.0, 6.0, 7.0, 7.0]


def test_the_map_centres_bodies_and_evens_axes() -> None:
    rng = np.random.default_rng(0)
    scale = np.concatenate([[9.0, 4.0, 1.0], np.full(29, 1e-3)])
    rows = rng.normal(size=(20_000, 32)) * scale
    statistics = Statistics(latent_dim=32)
    statistics.add("a", rows[:9000] + 3)
    statistics.add("b", rows[9000:] - 3)
    found = LatentMap.fit(statistics, WindowConfig())
    assert found.axes_AK.shape == (32, 3)
    mapped = rows @ found.axes_AK
    np.testing.assert_allclose(mapped.std(axis=0), [3.0, 2.0, 1.0], rtol=0.03)
    raw = LatentMap.fit(statistics, WindowConfig(is_centred=False, is_evened=False))
    assert np.array_equal(raw.axes_AK, np.eye(32))
    assert not any(mean.any() for mean in raw.means.values())


def test_statistics_do_not_depend_on_the_order_of_clips() -> None:
    clips = make_clips(6)
    both = []
    for order in (clips, clips[::-1]):
        statistics = Statistics(latent_dim=32)
        for clip in order:
            statistics.add(clip.embodiment, clip.rows)
        found = LatentMap.fit(statistics, WindowConfig())
        both.append(found.axes_AK @ found.axes_AK.T)
    np.testing.assert_allclose(*both, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("flat_limit", [1_000_000, 300])
def test_a_clip_finds_itself_first(flat_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "FLAT_LIMIT", flat_limit)
    clips = make_clips(900)
    index = ActionIndex.build(META, clips)
    for clip in clips[::100]:
        vector = index.vector(clip, index.window(clip, 1.0))
        hits = index.search(vector, k=5)
        assert hits[0].clip_id == clip.clip_id
        assert hits[0].start_s == 1.0
        assert hits[0].score == pytest.approx(1.0, abs=1e-3)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_answers_are_one_per_clip_and_only_the_allowed() -> None:
    clips = make_clips(12)
    index = ActionIndex.build(META, clips)
    vector = index.vector(clips[0], index.window(clips[0], 0.0))
    hits = index.search(vector, k=12)
    assert sorted(h.clip_id for h in hits) == [c.clip_id for c in clips]
    robots = {c.clip_id for c in clips if c.embodiment == "panda"}
    found = index.search(vector, k=12, among=robots)
    assert {h.clip_id for h in found} == robots
    assert {h.embodiment for h in found} == {"panda"}
    assert index.search(vector, k=3, among=set()) == []


def test_the_best_window_of_a_clip_answers() -> None:
    clips = make_clips(5)
    index = ActionIndex.build(META, clips)
    vector = index.vector(clips[2], index.window(clips[2], 2.0))
    query = np.stack([index.vector(clips[4], w) for w in _windows(clips[4], index)]) @ vector
    (hit,) = index.search(vector, k=1, among={"clip004"})
    assert hit.score == pytest.approx(query.max(), abs=1e-5)
    assert hit.start_s == _windows(clips[4], index)[int(query.argmax())].start_s


def _windows(clip: ClipLatents, index: ActionIndex) -> list[Window]:
    return cut_windows(clip.num_frames, clip.fps, step=2, every=1, config=index.meta.windows)


def test_saved_index_answers_alike_and_is_replaced_whole(tmp_path: Path) -> None:
    clips = make_clips(9)
    index = ActionIndex.build(META, clips)
    folder = tmp_path / "index" / "main"
    index.save(folder)
    index.save(folder)
    assert len(list(folder.iterdir())) == 4
    again = ActionIndex.open(folder)
    assert again.meta == META
    vector = index.vector(clips[3], index.window(clips[3], 0.5))
    assert again.search(vector, k=4) == index.search(vector, k=4)


def test_building_twice_gives_the_same_vectors() -> None:
    clips = make_clips(9)
    one, two = ActionIndex.build(META, clips), ActionIndex.build(META, clips)
    query = one.vector(clips[0], one.window(clips[0], 0.3))
    assert np.array_equal(query, two.vector(clips[0], two.window(clips[0], 0.3)))
    assert one.search(query, k=9) == two.search(query, k=9)


def test_added_clips_are_found_and_known_ones_stay_single(tmp_path: Path) -> None:
    clips = make_clips(9)
    index = ActionIndex.build(META, clips[:6])
    before = len(index)
    assert index.add(clips[:6]) == 0
    assert len(index) == before
    assert index.add(clips) == 3
    index.save(tmp_path / "i")
    again = ActionIndex.open(tmp_path / "i")
    vector = again.vector(clips[8], again.window(clips[8], 0.0))
    assert again.search(vector, k=1)[0].clip_id == clips[8].clip_id
    assert again.clip_ids() == {c.clip_id for c in clips}


def test_an_unseen_body_is_centred_by_its_own_mean() -> None:
    clips = make_clips(9)
    index = ActionIndex.build(META, [c for c in clips if c.embodiment != "gr1"])
    assert index.add([c for c in clips if c.embodiment == "gr1"]) == 3
    rows = np.concatenate([c.rows for c in clips if c.embodiment == "gr1"]).astype(np.float64)
    np.testing.assert_allclose(index.latent_map.means["gr1"], rows.mean(axis=0))


def test_times_outside_the_clip_are_refused() -> None:
    clip = make_clips(1)[0]
    index = ActionIndex.build(META, [clip])
    with pytest.raises(UsageError, match=r"Time 5 s lies outside clip clip000, which lasts 5.00"):
        index.window(clip, 5.0)
    with pytest.raises(UsageError, match="Time -1 s lies outside"):
        index.window(clip, -1)
    assert index.window(clip, 4.9).start_s == 3.0, "a window that passes the end is moved back"


def test_spans_that_are_no_length_are_refused() -> None:
    clip = make_clips(1)[0]
    index = ActionIndex.build(META, [clip])
    for span_s in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="length of the motion is"):
            index.window(clip, 0.0, span_s=span_s)
    assert index.window(clip, 0.0, span_s=99.0).end_s == 5.0, "a long span is the whole clip"


@pytest.mark.parametrize("name", ["../shards", "/tmp/x", "a/b", "..", ".", "", "a b"])
def test_a_name_that_leads_elsewhere_is_no_index(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name for an index"):
        index_folder(tmp_path, name)
    assert index_folder(tmp_path, "grasps-2.v1") == tmp_path / "index" / "grasps-2.v1"


def test_saving_removes_only_what_an_index_wrote(tmp_path: Path) -> None:
    index = ActionIndex.build(META, make_clips(3))
    index.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "more").mkdir()
    index.save(tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == sorted(
        ["", ".faiss", ".json", ".npz", ".parquet", ".txt"]
    )


def test_a_clip_too_short_for_a_latent_is_refused() -> None:
    clips = make_clips(2)
    index = ActionIndex.build(META, clips)
    short = ClipLatents(
        clip_id="short", embodiment="human", num_frames=2, fps=20.0, rows=np.zeros((0, 32))
    )
    with pytest.raises(UsageError, match="too short for step 2"):
        index.window(short, 0.0)


def test_missing_and_damaged_indices_are_said_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "index" / "main"
    with pytest.raises(DatasetError, match="has no action index 'main'") as caught:
        ActionIndex.open(folder)
    assert "egodojo index build" in str(caught.value.hint)
    ActionIndex.build(META, make_clips(3)).save(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / meta["files"]["vectors"]).write_bytes(b"broken")
    with pytest.raises(DatasetError, match="cannot be read"):
        ActionIndex.open(folder)
    (folder / "meta.json").write_text(json.dumps({**meta, "format_version": 9}))
    with pytest.raises(DatasetError, match="format version 9"):
        ActionIndex.open(folder)


def test_nothing_to_index_is_refused() -> None:
    with pytest.raises(DatasetError, match="nothing to index"):
        ActionIndex.build(META, [])


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        load_config(WindowConfig, sets=["hop_s=0"])
    with pytest.raises(ConfigError, match="window_s is 'nan', must be a number"):
        load_config(WindowConfig, sets=["window_s=nan"])
    with pytest.raises(ConfigError, match="parts is 100000000, must be at most"):
        load_config(WindowConfig, sets=["parts=100000000"])
