"""A dataset as another decision would show it: in memory, read-only, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.dataset as pads

from . import schema
from .dataset import Dataset


class Trial(Dataset):
    """Shows a dataset with decisions that were not written; everything else is as it was opened.

    Args:
        dataset: Whose clips.
        decisions: One row per clip, with the columns of `decisions`.
        metadata: What their commit would say: recipe, digest, difference.

    Example:
        >>> summary, trial = try_decision(dataset, recipe)  # doctest: +SKIP
        >>> trial.sql("SELECT count(*) FROM kept")  # doctest: +SKIP
    """

    def __init__(self, dataset: Dataset, decisions: pa.Table, metadata: Mapping[str, str]) -> None:
        super().__init__(dataset.path, dataset.settings, dict(dataset._tables), pinned=True)
        self._decisions = decisions.cast(schema.DECISIONS)
        self._metadata = dict(metadata)

    def table(self, name: str) -> pa.Table:
        """As of a dataset; `decisions` are those tried."""
        return self._decisions if name == "decisions" else super().table(name)

    def metadata(self, name: str) -> dict[str, str]:
        """As of a dataset; of `decisions` what their commit would say."""
        return self._metadata if name == "decisions" else super().metadata(name)

    def _data(self) -> tuple[dict[str, pads.Dataset], dict[str, pads.Dataset]]:
        data, scores = super()._data()
        return {**data, "decisions": pads.dataset(self._decisions)}, scores
