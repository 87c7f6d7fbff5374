"""What the data is: records, tables, decisions, mixtures. Imports neither Ray nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Dataset", "DatasetSettings", "EgodojoError", "__version__"]

if TYPE_CHECKING:
    from .dataset import Dataset, DatasetSettings
    from .errors import EgodojoError


def __getattr__(name: str) -> Any:
    """Load the public classes on first use, so that `egodojo --help` stays instant."""
    if name in {"Dataset", "DatasetSettings"}:
        from . import dataset

        return getattr(dataset, name)
    if name == "EgodojoError":
        from .errors import EgodojoError

        return EgodojoError
    raise AttributeError(f"module 'manifests' has no attribute {name!r}")
