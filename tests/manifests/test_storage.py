"""Bytes are whole or absent, and a short read says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests import object_store, storage
from manifests.errors import StorageError


def test_ranges_and_whole_files(tmp_path: Path) -> None:
    storage.write_atomic(tmp_path / "a b", b"0123456789", token="ab12")
    assert storage.read_range(tmp_path, "a b", 2, 3) == b"234"
    assert storage.read_range(str(tmp_path), "a b", 2, 0) == b""
    assert storage.read_bytes(tmp_path, "a b") == b"0123456789"
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


def test_the_same_through_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import MemoryStore

    store = MemoryStore()
    monkeypatch.setattr(object_store, "_store", lambda root: store)
    storage.write_atomic("s3://bucket/data/a", b"0123456789")
    store_root = "s3://bucket/data"
    assert storage.read_range(store_root, "a", 2, 3) == b"234"
    assert storage.read_bytes(store_root, "a") == b"0123456789"
    with pytest.raises(StorageError, match="Cannot read s3://bucket/data/b"):
        storage.read_bytes(store_root, "b")


def test_a_short_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123")
    with pytest.raises(StorageError, match="ends before byte 8: 2 of 6 bytes"):
        storage.read_range(tmp_path, "a", 2, 6)
    with pytest.raises(StorageError, match="No such file"):
        storage.read_range(tmp_path, "b", 0, 1)
    with pytest.raises(StorageError, match="No such file"):
        storage.read_bytes(tmp_path, "b")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(StorageError, match=r"Cannot write .*: No space left on device"):
        storage.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_write_new_never_replaces(tmp_path: Path) -> None:
    assert storage.write_new(tmp_path / "a", b"first")
    assert not storage.write_new(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1
