"""Settings with their values and where those come from, for people to read."""

from dataclasses import MISSING, fields
from typing import Any


def explained(settings: Any) -> list[tuple[str, str, str]]:
    """Return each of *settings*, a dataclass, with its value and where that comes from."""
    rows: list[tuple[str, str, str]] = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = field.default if field.default is not MISSING else None
        if field.default_factory is not MISSING:
            default = field.default_factory()
        rows.append((field.name, repr(value), "default" if value == default else "set"))
    return rows
