"""A scorer of your own: the brightness of each clip, written to `scores/daylight`.

    egodojo score DATASET --scorer examples/my_scorer.py:Daylight --set num_frames=4

SQL and recipes then read `daylight.mean_luma` and `daylight.is_day`. A scorer is a class with a
name, a digest, typed columns and `score`; `Config` and `load` are optional.
"""

# %% The settings: `--set key=value` fills them
from dataclasses import dataclass

from curation.scorers.base import ClipView, Resources
from manifests.config import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DaylightConfig:
    """Settings of the daylight scorer."""

    num_frames: int = 8
    """Frames looked at."""
    day_luma: float = 90.0
    """From this mean luma on it is day."""


# %% The scorer: made cheaply in the driver and in every worker; only workers call `load`
class Daylight:
    """How bright the frames of a clip are."""

    name = "daylight"
    columns = {"mean_luma": "double", "is_day": "bool"}  # noqa: RUF012
    Config = DaylightConfig

    def __init__(self, config: DaylightConfig) -> None:
        """The digest changes with every setting: rows of two versions never mix in one table."""
        self.config = config
        self.digest = digest({"scorer": "daylight-1", "config": config})

    def load(self, resources: Resources) -> None:
        """Where a real scorer reads its weights, onto `resources.device`."""
        self.weights = (0.299, 0.587, 0.114)

    def score(self, clip: ClipView) -> dict[str, object]:
        """One row: every column, None for what is not known."""
        frames = clip.spread(self.config.num_frames)  # uint8 (n, H, W, 3), RGB
        luma = float((frames @ self.weights).mean())
        return {"mean_luma": luma, "is_day": luma >= self.config.day_luma}
