"""The Ray engine must give what the inline engine gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from footage import SETTINGS, dataset_contents

from curation.curate import CurateRequest, curate, prepare


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_and_inline_give_the_same_tables_and_digests(footage: Path, tmp_path: Path) -> None:
    found = []
    for engine in ("inline", "ray"):
        out = tmp_path / engine / "ds"
        request = CurateRequest(
            inputs=(str(footage),), out=out, sets=SETTINGS, engine=engine, quiet=True
        )
        curate(prepare(request)).check()
        found.append(dataset_contents(out))
    assert found[0] == found[1]
    assert any(name.endswith(".tar") for name in found[0])
