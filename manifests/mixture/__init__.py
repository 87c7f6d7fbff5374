"""Training mixtures: a specification, and the plan that says what the i-th sample of a run is."""

from __future__ import annotations

from .plan import MixturePlan, Sample
from .spec import MixtureSpec, SourceSpec, WindowSpec, mixture_names

__all__ = ["MixturePlan", "MixtureSpec", "Sample", "SourceSpec", "WindowSpec", "mixture_names"]
