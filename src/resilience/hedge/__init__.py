"""Hedge: a further attempt beside one that is slow; the first good answer counts."""

from resilience.hedge._policy import Hedge
from resilience.hedge._settings import HedgeSettings, Quantile, quantile

__all__ = ["Hedge", "HedgeSettings", "Quantile", "quantile"]
