"""A real cluster of several nodes on this machine: work spreads; nodes are lost, clips are not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from footage import SMALL, dataset_contents

from curation import curate as curate_module
from curation.curate import CurateRequest, curate, prepare
from curation.task import UnitResult, UnitTask
from curation.units import UnitRun
from curation.work import curate_unit
from manifests.dataset import Dataset
from manifests.validate import validate
from manifests.writer import Writer
from pipeline.testing import make_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SETTINGS = ("unit_len_s=1.4", "encode.width=160", "encode.height=120")
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@contextmanager
def cluster_of(num_nodes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster and its nodes, the driver's first; RAY_ADDRESS names it."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # a session of earlier tests
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        nodes = [cluster.head_node, *(cluster.add_node(**NODE) for _ in range(num_nodes - 1))]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_cluster_gives_what_inline_gives_though_two_nodes_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marks = tmp_path / "in", tmp_path / "marks"
    folder.mkdir()
    marks.mkdir()
    for n in range(10):
        make_video(folder / f"{n}.mp4", num_frames=20, seed=n, **SMALL)

    def marked(task: UnitTask) -> UnitResult:
        """Leave a note of where it runs, and take long enough to be hit."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        Path(marks, f"{task.unit.number}.{node}.{time.time_ns()}").touch()
        time.sleep(1.5)
        return curate_unit(task)

    def request(out: Path, engine: Any) -> CurateRequest:
        return CurateRequest(
            inputs=(str(folder),), out=out, sets=SETTINGS, engine=engine, quiet=True
        )

    curate(prepare(request(tmp_path / "inline" / "ds", "inline"))).check()
    on_cluster = tmp_path / "cluster" / "ds"
    with cluster_of(3, monkeypatch) as (cluster, nodes):
        lost = [node.node_id for node in nodes[1:]]

        commit, committed = Writer.commit_units, list[int]()

        def commit_and_strike(writer: Writer, results: Any) -> None:
            commit(writer, results)
            committed.append(1)
            if len(committed) == 3:
                os.kill(nodes[1].all_processes["raylet"][0].process.pid, signal.SIGKILL)
            if len(committed) == 5:
                cluster.remove_node(nodes[2], allow_graceful=False)

        monkeypatch.setattr(Writer, "commit_units", commit_and_strike)
        monkeypatch.setattr(
            curate_module, "UnitRun", lambda **fields: UnitRun(**fields, work=marked)
        )
        curate(prepare(request(on_cluster, "ray"))).check()
    ran_on = {mark.name.split(".")[1] for mark in marks.iterdir()}
    assert ran_on == {nodes[0].node_id, *lost}
    assert dataset_contents(on_cluster) == dataset_contents(tmp_path / "inline" / "ds")
    assert validate(Dataset.open(on_cluster)) == []
    assert not [file for file in (on_cluster / "shards").iterdir() if ".tmp-" in file.name]
