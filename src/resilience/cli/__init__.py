"""The command line: ``resilience demo``. Every command is a module of its own; see `resilience.cli._main`."""

from resilience.cli._main import main

__all__ = ["main"]
