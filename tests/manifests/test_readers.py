"""Tables open without this project: the three lines that the documentation shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_helpers import toy_dataset

from manifests.decide import decide
from manifests.recipe import Recipe


@pytest.fixture
def dataset(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = toy_dataset(tmp_path_factory.mktemp("readers") / "DATASET", num_videos=1)
    decide(made, Recipe(name="all"))
    decide(made, Recipe(name="all_again"))
    monkeypatch.chdir(made.path.parent)
    return made.path


def test_deltalake_and_duckdb(dataset: Path) -> None:
    import duckdb
    from deltalake import DeltaTable

    files = DeltaTable("DATASET/catalog/clips").file_uris()
    clips = duckdb.read_parquet(files, union_by_name=True)
    assert len(clips.filter("gate IS NULL").fetchall()) == 2


def test_polars(dataset: Path) -> None:
    import polars as pl

    decisions = pl.read_delta("DATASET/catalog/decisions")
    assert decisions.filter(pl.col("verdict") == "keep").height == 2
