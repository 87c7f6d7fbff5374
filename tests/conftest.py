"""Fixtures every test may use; media are made on the spot, real ones are read in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    folder = os.environ.get("EGODOJO_GOLDEN")
    if not folder:
        pytest.skip("EGODOJO_GOLDEN is not set: golden numbers not compared")
    return Path(folder)


@pytest.fixture(scope="session")
def test_videos() -> Path:
    folder = os.environ.get("EGODOJO_TEST_VIDEOS")
    if not folder:
        pytest.skip("EGODOJO_TEST_VIDEOS is not set: real videos not read")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray on this machine for the whole test session."""
    from pipeline.run_ray import ray_started

    with ray_started():
        yield


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Run `egodojo ARGS...` in this process; gives exit_code, stdout and stderr."""
    import click.testing

    from manifests.cli import egodojo
    from manifests.cli_support import run

    def call(*args: object) -> SimpleNamespace:
        runner = click.testing.CliRunner()
        with runner.isolation() as streams:
            exit_code = run(egodojo, [str(a) for a in args])
            stdout, stderr = streams[0].getvalue(), streams[1].getvalue()
        return SimpleNamespace(exit_code=exit_code, stdout=stdout.decode(), stderr=stderr.decode())

    return call


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """One S3 API server for the whole test session; every test makes a bucket of its own."""
    from object_storage import s3_server

    with s3_server() as port:
        yield port
