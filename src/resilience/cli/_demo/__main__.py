"""
One process of the demo; `resilience demo` starts it.

``python -m resilience.cli._demo ROLE SETTINGS``, where SETTINGS is a JSON object.
"""

import asyncio
import importlib
import json
import sys

from resilience.cli._demo._child import Line


def start(role: str, settings: str) -> int:
    """Play a role until the line to whoever started it ends."""
    module = importlib.import_module(f"resilience.cli._demo._{role}")
    line = Line()
    try:
        asyncio.run(module.run(line, json.loads(settings)))
    except OSError as error:
        line.say(error=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(start(*sys.argv[1:]))
