"""Small things several tests share: where golden fixtures lie and how a command is run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Golden:
    """One golden fixture: its JSON description and the path of its tensors."""

    path: Path
    info: dict[str, Any]

    def tensors(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(str(self.path))

    def state_dict(self, prefix: str = "sd.") -> dict[str, Any]:
        cut = len(prefix)
        return {k[cut:]: v for k, v in self.tensors().items() if k.startswith(prefix)}


def golden_fixtures(prefix: str) -> list[Any]:
    """Every `<prefix>*.safetensors` under EGODOJO_GOLDEN as a pytest parameter with its file name.

    Without the variable a single skipped parameter says so.
    """
    folder = os.environ.get("EGODOJO_GOLDEN")
    if not folder:
        skip = pytest.mark.skip(reason="EGODOJO_GOLDEN is not set: golden numbers not compared")
        return [pytest.param(None, marks=skip, id="no-golden-folder")]
    found = sorted(Path(folder).glob(f"{prefix}*.safetensors"))
    return [
        pytest.param(Golden(p, json.loads(p.with_suffix(".json").read_text())), id=p.name)
        for p in found
    ]
