"""A real S3 API server on this machine for tests (moto), and proxies before it that fail."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from manifests.storage import write_atomic

_PROXY = Path(__file__).parent / "flaky_proxy.py"
_START = """
import os, sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.readline()
os._exit(0)
"""


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of a fresh server, in a process of its own: some of delta-rs' calls hold the GIL."""
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline().split()[-1])
    finally:
        server.communicate("\n")


def make_bucket(port: int, name: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def proxy(port: int, *arguments: str) -> Iterator[tuple[int, dict[str, int]]]:
    """A proxy's port, and its counts (filled in when the block has ended)."""
    with _started(port, *arguments) as (process, near, counts):
        assert process.poll() is None
        yield near, counts


class ChosenFaults:
    """A proxy that spoils requests by their number."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port, self._process = port, process

    def choose(self, faults: Mapping[int, str], methods: Sequence[str]) -> int:
        """From now on spoil the n-th request of these methods; how many there were before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"faults": faults, "methods": methods}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def chosen_faults(port: int) -> Iterator[ChosenFaults]:
    """A proxy that spoils nothing until it is told what."""
    with _started(port) as (process, near, _):
        yield ChosenFaults(near, process)


@contextmanager
def _started(
    port: int, *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], int, dict[str, int]]]:
    counts: dict[str, int] = {}
    process = subprocess.Popen(
        [sys.executable, str(_PROXY), str(port), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline()), counts
    finally:
        counts.update(json.loads(process.communicate("\n")[0]))


def environment(port: int, **changes: str) -> dict[str, str]:
    """What a command needs to know to use a server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "EGODOJO_STORAGE_PATIENCE_S": "20",
        **changes,
    }


def use(monkeypatch: pytest.MonkeyPatch, port: int, **changes: str) -> None:
    for name, value in environment(port, **changes).items():
        monkeypatch.setenv(name, value)


def upload(bucket: str, folder: Path, prefix: str) -> None:
    """Put every file of a folder."""
    for file in sorted(folder.iterdir()):
        write_atomic(f"s3://{bucket}/{prefix}/{file.name}", file.read_bytes())
