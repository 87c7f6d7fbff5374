"""Stored latents: written once per shard, read by window, refused in words when missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests import latents
from manifests.errors import DatasetError
from manifests.latents import LatentReader, LatentWriter, latent_dir, list_latents
from manifests.locations import names_in

MODEL = "lam-0123abcd"


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 32)).astype(np.float16)


def write(
    dataset: Path, step: int, clips: dict[str, np.ndarray], shard: int = 0, **meta: int
) -> Path:
    writer = LatentWriter(latent_dir(dataset, MODEL, step), shard, meta)
    for clip_id, rows in clips.items():
        writer.add(clip_id, rows)
    return writer.finish()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    clips = {"a": rows_of(20, 1), "short": rows_of(0), "b": rows_of(33, 2)}
    path = write(tmp_path, 1, clips)
    assert path.name == "clips-000000.f16"
    assert path.stat().st_size == 53 * 64
    reader = LatentReader.open(tmp_path, MODEL, 1)
    for clip_id, rows in clips.items():
        assert np.array_equal(reader.rows(clip_id), rows)
        assert np.array_equal(reader.rows(clip_id, shard="clips-000000"), rows)
    assert reader.has("short")
    assert not reader.has("c")
    assert reader.meta["model_id"] == MODEL
    assert list_latents(tmp_path) == [(MODEL, 1)]
    assert not [file for file in path.parent.iterdir() if "tmp" in file.name]


def test_a_memory_map_is_read_only(tmp_path: Path) -> None:
    write(tmp_path, 1, {"a": rows_of(5)})
    with pytest.raises(ValueError, match="read-only"):
        LatentReader.open(tmp_path, MODEL, 1).rows("a")[0, 0] = 1


def test_later_clips_go_to_numbered_files(tmp_path: Path) -> None:
    first = write(tmp_path, 1, {"a": rows_of(5, 1)})
    before = first.read_bytes()
    second = write(tmp_path, 1, {"b": rows_of(6, 2)})
    third = write(tmp_path, 1, {"c": rows_of(7, 3)})
    assert [second.name, third.name] == ["clips-000000.1.f16", "clips-000000.2.f16"]
    assert first.read_bytes() == before
    reader = LatentReader.open(tmp_path, MODEL, 1)
    assert reader.num_rows("clips-000000") == {"a": 5, "b": 6, "c": 7}
    assert reader.num_rows("clips-000001") == {}


def test_the_folder_is_listed_once_however_many_shards_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[Path] = []
    monkeypatch.setattr(
        latents, "names_in", lambda folder: listings.append(folder) or names_in(folder)
    )
    folder = latent_dir(tmp_path, MODEL, 1)
    for number in (0, 1, 2):
        for clip_id in "ab":
            writer = LatentWriter(folder, number, {})
            writer.add(f"{clip_id}{number}", rows_of(4))
            writer.finish()
    reader = LatentReader.open(tmp_path, MODEL, 1)
    for number in (0, 1, 2):
        assert reader.num_rows(f"clips-{number:06d}") == {f"a{number}": 4, f"b{number}": 4}
    assert len(listings) == 1


@pytest.mark.parametrize(("step", "first_frame"), [(1, 0), (1, 7), (2, 5), (4, 3)])
def test_a_window_reads_the_rows_of_its_own_frames(
    tmp_path: Path, step: int, first_frame: int
) -> None:
    rows = rows_of(60 - step)
    write(tmp_path, step, {"a": rows})
    window = LatentReader.open(tmp_path, MODEL, step).window(
        "a", first_frame=first_frame, num_rows=12
    )
    expected = [rows[first_frame + step * transition] for transition in range(12)]
    assert np.array_equal(window, expected)


def test_windows_off_the_grid_are_refused(tmp_path: Path) -> None:
    rows = rows_of(15)  # frames 0, 4, 8, ...
    write(tmp_path, 4, {"a": rows}, every=4)
    reader = LatentReader.open(tmp_path, MODEL, 4)
    assert np.array_equal(reader.window("a", first_frame=8, num_rows=12), rows[2:14])
    with pytest.raises(DatasetError, match="frame 6 with stride 4 does not lie on the grid"):
        reader.window("a", first_frame=6, num_rows=12)


def test_missing_latents_name_the_command(tmp_path: Path) -> None:
    write(tmp_path, 2, {"a": rows_of(5)})
    with pytest.raises(DatasetError, match=f"no latents of {MODEL} at step 1") as caught:
        LatentReader.open(tmp_path, MODEL, 1)
    assert f"(stored: {MODEL} step 2)" in caught.value.message
    assert caught.value.hint == (
        f"Run: egodojo latents extract {tmp_path} --model MODEL --step 1, where MODEL is the "
        f"folder of {MODEL}."
    )
    reader = LatentReader.open(tmp_path, MODEL, 2)
    with pytest.raises(DatasetError, match="no latents of clip b"):
        reader.rows("b")
    with pytest.raises(DatasetError, match="too few for a window"):
        reader.window("a", first_frame=0, num_rows=12)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1, {"a": rows_of(5)})
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(DatasetError, match=r"names rows up to 5, its \.f16 file has 4"):
        LatentReader.open(tmp_path, MODEL, 1).rows("a")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DatasetError, match="no whole number of rows"):
        LatentReader.open(tmp_path, MODEL, 1).rows("a")
    path.unlink()
    with pytest.raises(DatasetError, match="is missing"):
        LatentReader.open(tmp_path, MODEL, 1).rows("a")


def test_damaged_tables_of_rows_and_facts_are_said(tmp_path: Path) -> None:
    rows = write(tmp_path, 1, {"a": rows_of(5)}).with_suffix(".rows.parquet")
    rows.write_bytes(b"PAR1 no more")
    with pytest.raises(
        DatasetError, match=r"rows\.parquet cannot be read: it is damaged"
    ) as caught:
        LatentReader.open(tmp_path, MODEL, 1).rows("a")
    assert "latents extract" in str(caught.value.hint)
    meta = rows.with_name("meta.json")
    for content in (b"{", b"[]", b"\xff", b'{"every": 0, "step": 1}', b'{"step": 2}'):
        meta.write_bytes(content)
        with pytest.raises(DatasetError, match=r"meta\.json cannot be read: it is damaged"):
            LatentReader.open(tmp_path, MODEL, 1)


def test_other_settings_in_one_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, {"a": rows_of(5)})
    with pytest.raises(DatasetError, match=r"other settings \(every differ\)"):
        write(tmp_path, 1, {"b": rows_of(5)}, every=2)


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 32), np.float32), np.zeros((3, 31), np.float16), np.zeros(32, np.float16)]
)
def test_wrong_rows_are_refused(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be float16 \(rows, 32\)"):
        write(tmp_path, 1, {"a": rows})


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path, 1, {"a": np.full((2, 32), np.inf, np.float16)})
