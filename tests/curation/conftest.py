"""Footage made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from footage import make_footage


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_footage(tmp_path_factory.mktemp("footage with 'quotes' #1"))
