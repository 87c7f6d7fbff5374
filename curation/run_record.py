"""`runs/<run_id>/`: what was run, with what, how long it took and what it said; never read back."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from manifests import __version__
from manifests.errors import StorageError
from manifests.storage import Location, being_replaced, write_atomic

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogFile(logging.FileHandler):
    """A log that goes without what a full disk does not take, rather than say so at each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the command itself ends with a sentence about the disk."""


class RunRecord:
    """The record of one run; a context manager that also writes the log file.

    Args:
        dataset: The dataset folder.
        token: The writer's token, which makes the id unique.
        command: The command line.
        texts: File name -> text, for instance the resolved configuration.
    """

    def __init__(
        self, dataset: Location, *, token: str, command: str, texts: Mapping[str, str]
    ) -> None:
        self.run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{token[:8]}"
        self.path = dataset / "runs" / self.run_id
        self.seconds: dict[str, float] = {}
        self._command, self._texts = command, texts
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        self._placing = ExitStack()
        self._growing: dict[str, Path] = {}
        for name, text in self._texts.items():
            self.write_text(name, text)
        self.write_json("command.json", self._facts())
        root = logging.getLogger()
        self._level = root.level
        to_file = LogFile(self._grown("log.txt"), encoding="utf-8")
        to_file.setFormatter(logging.Formatter(LOG_FORMAT))
        self._handlers = [to_file]
        if not root.handlers:  # a file alone would swallow what Python prints by itself
            to_stderr = logging.StreamHandler()
            to_stderr.setLevel(logging.WARNING)
            self._handlers.append(to_stderr)
        for handler in self._handlers:
            root.addHandler(handler)
        root.setLevel(min(root.level, logging.INFO) or logging.INFO)
        return self

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        if isinstance(error[1], BaseException):  # whoever catches it says it on stderr
            logging.getLogger(__name__).info("ended early: %r", error[1])
        for handler in self._handlers:
            root.removeHandler(handler)
            with suppress(OSError):  # what could not be written to a full disk
                handler.close()
        root.setLevel(self._level)
        try:
            self._placing.close()
        except StorageError as failure:  # the log is for people: the data are written
            logging.getLogger(__name__).warning("no log in %s: %s", self.path, failure.message)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + elapsed, 3)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the record."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write one file of the record."""
        # A command line may hold bytes that are not UTF-8; JSON has an escape for each.
        write_atomic(self.path / name, text.encode("utf-8", "backslashreplace"))

    def _grown(self, name: str) -> Path:
        """Where a file grows: in place, or on this machine until it is uploaded at the end."""
        if isinstance(self.path, Path):
            return self.path / name
        return self._placing.enter_context(being_replaced(self.path / name))

    def add_line(self, name: str, content: Mapping[str, Any]) -> None:
        """Append one line to a JSON Lines file of the record; a full disk only loses the line."""
        if name not in self._growing:
            self._growing[name] = self._grown(name)
        with suppress(OSError), self._growing[name].open("a", encoding="ascii") as file:
            file.write(json.dumps(content) + "\n")

    def _facts(self) -> dict[str, Any]:
        return {
            "command": self._command,
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "egodojo": __version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
        }
