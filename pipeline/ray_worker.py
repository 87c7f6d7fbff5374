"""What runs inside a worker process, shipped by value, and the check that both sides run one code.

A worker must be able to say that it has no egodojo, or another one, before it imports any of it;
so these functions are closures: sent as code, not as a name to import.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from manifests.origins import PACKAGES

Worker = Callable[[bytes, bytes], Iterator[tuple[str, Any]]]


def make_worker(home: str | None = None) -> Worker:
    """The function that turns (pickled job, pickled unit) into a stream of words.

    First `("started", None)`; then `("answer", Attempt)`, or `("foreign", sentence)` when the
    worker has other code, or `("refused", pickled exception)` when the job cannot be set up.

    Args:
        home: Folder the driver has its packages from; default: this checkout or installation.
    """
    home = home or str(Path(__file__).resolve().parent.parent)
    host = socket.gethostname()
    packages = PACKAGES
    memory: dict[str, Any] = {}

    def digest_of(folder: str) -> str:
        """SHA-256 over the Python source of our packages under `folder`."""
        found = hashlib.sha256()
        for package in packages:
            for path in sorted(Path(folder, package).rglob("*.py")):
                found.update(path.relative_to(folder).as_posix().encode() + b"\0")
                found.update(path.read_bytes() + b"\0")
        return found.hexdigest()

    def foreign() -> str | None:
        if Path(home, "pipeline", "outcome.py").exists() and home not in sys.path[:1]:
            sys.path.insert(0, home)
        spec = importlib.util.find_spec("pipeline")
        here = str(Path(spec.origin).resolve().parent.parent) if spec and spec.origin else None
        where = f"A Ray worker on {socket.gethostname()}"
        if here is None:
            return f"{where} cannot import egodojo, which this command has from {home}."
        if here == home and socket.gethostname() == host:
            return None
        if digest_of(here) != expected:
            return f"{where} has other egodojo code at {here} than this command at {home}."
        return None

    def load(job: bytes) -> tuple[str, Any] | None:
        """Fill `memory` once per process; returns the word to say when that is impossible."""
        if "call" in memory:
            return None
        sentence = foreign()
        if sentence is not None:
            return "foreign", sentence
        try:
            work, setup = pickle.loads(job)
            memory["call"] = work if setup is None else partial(work, setup())
        except Exception as error:
            return "refused", pickled_error(error)
        return None

    def worker(job: bytes, unit: bytes) -> Iterator[tuple[str, Any]]:
        yield "started", None
        refusal = load(job)
        if refusal is not None:
            yield refusal
            return
        from pipeline.outcome import attempt

        yield "answer", attempt(lambda: memory["call"](pickle.loads(unit)))

    def pickled_error(error: Exception) -> bytes:
        try:
            data = pickle.dumps(error)
            pickle.loads(data)
        except Exception:
            return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return data

    expected = digest_of(home)
    return worker
