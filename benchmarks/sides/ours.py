"""Our own sides: the whole of `egodojo curate`, and one pass that only measures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import curation.preview
from curation.config import CurateConfig
from curation.curate import CurateRequest, curate, prepare
from curation.ingest import ProbeTask, probe_inputs
from curation.part import PartWorker, Sink
from manifests.dataset import Dataset
from manifests.recipe import load_recipe
from manifests.records import Part
from manifests.shard_index import ShardIndex
from sides.marks import main

WRITE_PREVIEW = curation.preview.write_preview


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Curate the videos of a job, or measure them."""
    return measured(job) if job["mode"] == "measure" else curated(job)


def curated(job: dict[str, Any]) -> dict[str, Any]:
    """Everything the command does."""
    out = Path(job["out"])
    request = CurateRequest(
        inputs=(job["video"],),
        out=out,
        sets=tuple(job.get("sets", ())),
        engine=job["engine"],
        quiet=True,
    )
    pages: list[float] = []
    curation.preview.write_preview = timed(pages) if job.get("page") else no_page
    report = curate(prepare(request))
    return {
        "dataset": str(out),
        "seconds": report.seconds,
        "num_units": report.num_units,
        "page_cpu_s": sum(pages),
    }


def timed(pages: list[float]) -> Callable[[Dataset], Path]:
    """The preview page, which costs the same however long the videos are, with its CPU-seconds."""

    def write(dataset: Dataset) -> Path:
        started = time.process_time()
        page = WRITE_PREVIEW(dataset)
        pages.append(time.process_time() - started)
        return page

    return write


def no_page(dataset: Dataset) -> Path:
    """In place of the page, where it is not what is measured."""
    return dataset.path / "preview" / "index.html"


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Cuts and all measures, without a clip being encoded."""
    settings = CurateConfig().settings(name="bench", recipe=load_recipe("egocentric"))
    task = ProbeTask(uris=(job["video"],), source="bench", embodiment="unknown")
    (row,) = probe_inputs(task)
    worker = PartWorker(
        part=Part(uri=row["uri"], video_id=row["video_id"]),
        video=row,
        settings=settings,
        action_names=(),
        unit_id="",
        sink=Sink(None, name="none", token="bench"),
        is_trial=True,
    )
    rows = worker.run()
    return {"num_frames": sum(found["num_frames"] for found in rows), "num_clips": len(rows)}


def written(dataset: Path) -> dict[str, Any]:
    """What a run wrote: spans in ticks by video, and the bytes of all mp4 members."""
    opened = Dataset.open(dataset)
    query = "SELECT start_tick, end_tick FROM clips WHERE gate IS NULL ORDER BY start_tick"
    spans = [(row["start_tick"], row["end_tick"]) for row in opened.sql(query).to_pylist()]
    (video,) = opened.table("videos").to_pylist()
    num_bytes = 0
    for path in sorted((dataset / "shards").glob("*.idx.parquet")):
        index = ShardIndex.from_bytes(path.read_bytes(), name=path.name)
        num_bytes += sum(index.row(clip_id).member("mp4").size for clip_id in index.clip_ids)
    return {"spans": spans, "num_bytes": num_bytes, "fps": video["fps"]}


if __name__ == "__main__":
    engines = {job.get("engine") for job in json.loads(sys.argv[1])}
    if "ray" in engines:
        from pipeline.run_ray import ray_started

        running: Any = ray_started(num_cpus=max(job["slots"] for job in json.loads(sys.argv[1])))
    else:
        running = nullcontext()
    with running:
        main(work)
