"""Record files of a training run: JSON lines with a step, cut to the checkpoint on resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class MetricsFile:
    """Append-only JSONL file whose lines belong to training steps.

    Example:
        >>> metrics = MetricsFile(tmp_path / "metrics.jsonl", keep_steps=0)
        >>> metrics.append({"step": 1, "loss": 0.5})
        >>> metrics.close()
        >>> read_metrics(tmp_path / "metrics.jsonl")
        [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, path: Path, *, keep_steps: int, lazy: bool = False) -> None:
        """Open `path`, keeping only whole lines of steps 1 .. `keep_steps`.

        `lazy` makes no file before there is a line for it.
        """
        self._path = path
        self._file: TextIO | None = None
        if path.exists() or not lazy:
            _truncate(path, keep_steps)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one step; a number that is not finite becomes null, which JSON can hold."""
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({key: _finite(value) for key, value in row.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a metrics file in order; a torn last line is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    return [json.loads(line) for line in lines]


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _truncate(path: Path, keep_steps: int) -> None:
    rows = [row for row in read_metrics(path) if row["step"] <= keep_steps]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, path)
