"""The page of a dataset: what was kept and dropped, why, and what it looks like."""

from __future__ import annotations

from .page import write_preview

__all__ = ["write_preview"]
