"""Service level objectives, counted in the process: good and bad events, burn rates, the error budget."""

from resilience.slo._slo import SLO

__all__ = ["SLO"]
