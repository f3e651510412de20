"""Lengths of windows, as Prometheus writes them: ``5m``, ``1h30m``, ``30d``."""

import re
from datetime import timedelta
from typing import Final

from resilience._core.check import is_finite
from resilience.typing import Seconds

UNITS: Final = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""Seconds in each unit, longest first. A year has 365 days, as in Prometheus."""

RULE: Final = "must be a length of time such as '5m', '1h' or '30d', a timedelta or a number of seconds"

_TEXT: Final = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit in UNITS))


def seconds_of(length: object) -> Seconds | None:
    """
    Return the seconds of a Prometheus duration, a timedelta or a number; None if it is none of these.

    Units come longest first and each at most once, as Prometheus wants it.
    """
    if isinstance(length, timedelta):
        return length.total_seconds()
    if is_finite(length):
        return float(length)
    match = _TEXT.fullmatch(length) if isinstance(length, str) and length else None
    if match is None:
        return None
    return float(
        sum(int(digits) * size for digits, size in zip(match.groups(), UNITS.values(), strict=True) if digits)
    )


def text_of(seconds: Seconds) -> str:
    """Write a whole number of seconds, > 0, as Prometheus does, in days at most."""
    left, text = round(seconds), ""
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text
