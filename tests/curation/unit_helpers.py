"""One video worked on as a unit of its own, without a dataset around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curation.ingest import probe_input
from curation.task import UnitResult, UnitTask
from curation.work import curate_unit
from manifests.records import Part, PlannedUnit
from manifests.settings import DatasetSettings, EncodeSettings

SETTINGS = DatasetSettings(name="d", encode=EncodeSettings(width=160, height=120))


def curate_file(
    path: Path, folder: Path, settings: DatasetSettings = SETTINGS, **span: Any
) -> UnitResult:
    """Rows of one file, or of a span of it; its shard lies in `folder`/shards."""
    row = probe_input(str(path), source="s", embodiment="unknown", unit_len_s=settings.unit_len_s)
    assert row["state"] == "readable", row["detail"]
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    part = Part(uri=row["uri"], video_id=row["video_id"], **span)
    task = UnitTask(
        unit=PlannedUnit(number=0, unit_id="u" * 24, parts=(part,)),
        shards_dir=str(folder / "shards"),
        token="t",
        settings=settings,
        videos={row["uri"]: row},
    )
    result = curate_unit(task)
    assert result.tracebacks == ()
    return result
