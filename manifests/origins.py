"""Are the five generically named packages really ours? Checked at the front door and on workers.

`pipeline` and `curation` are names other distributions or a user's own script can take; then the
wrong code would run without a word. All five must lie side by side and say that they are ours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from .errors import EgodojoError

PACKAGES = ("manifests", "pipeline", "curation", "latent_actions", "world_model")
MARK = "py.typed"


def origins() -> dict[str, str | None]:
    """Folder each package would be imported from; None when it is not importable. Imports none."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        origin = spec.origin if spec is not None else None
        found[name] = str(Path(origin).resolve()) if origin else None
    return found


def check_origins(found: Mapping[str, str | None] | None = None) -> None:
    """Raise when one of the five names is somebody else's.

    Raises:
        EgodojoError: One sentence naming the package, where it came from and where ours lies.
    """
    home = Path(__file__).resolve().parent.parent
    for name, origin in (origins() if found is None else found).items():
        expected = home / name / "__init__.py"
        if origin is None:
            raise EgodojoError(
                f"The package {name!r} of egodojo cannot be imported; expected at {expected}.",
                hint="Reinstall egodojo in a fresh environment: pip install --force-reinstall .",
            )
        if Path(origin) != expected or not (home / name / MARK).exists():
            raise EgodojoError(
                f"The name {name!r} is taken by {origin}, not by egodojo at {expected}.",
                hint="Rename that file, leave its folder, or uninstall the package it belongs to.",
            )
