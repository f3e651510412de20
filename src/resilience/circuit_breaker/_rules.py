"""
Which results open a closed circuit.

A failure is known to follow the one before it in a row by the window's cell not having grown between
them, so that a good result is a bare increment of the cell and nothing else.
"""

import math

from resilience._core.window import Cell
from resilience.circuit_breaker._settings import CircuitBreakerSettings
from resilience.circuit_breaker._state import Reason


class Row:
    """How many bad results came in a row, with no good one in the window's cell between them."""

    __slots__ = ("_length", "_mark")

    def __init__(self) -> None:
        self._length = 0
        self._mark = 0.0

    def length(self, cell: Cell) -> int:
        """Return the length of the row; a result that *cell* has counted since ended it."""
        return self._length if cell.good == self._mark else 0

    def add(self, cell: Cell) -> int:
        """Note one more bad result as *cell* stands; return how long the row is now."""
        good = cell.good
        self._length = length = self._length + 1 if good == self._mark else 1
        self._mark = good
        return length

    def move(self, cell: Cell) -> None:
        """Go on with a new cell, after what *cell*, the old one, has counted so far."""
        self._length, self._mark = self.length(cell), 0.0

    def clear(self) -> None:
        """Begin anew, with a new cell."""
        self._length, self._mark = 0, 0.0


def broken_rule(settings: CircuitBreakerSettings, total: int, bad: int, slow: int, row: int) -> Reason | None:
    """
    Return the rule that opens the circuit, if one does.

    Args:
        settings: The rules.
        total: Results in the window.
        bad: Bad ones among them.
        slow: Slow ones among them.
        row: Bad results in a row, the latest included.

    """
    if settings.consecutive_failures is not None and row >= settings.consecutive_failures:
        return Reason.CONSECUTIVE_FAILURES
    if total < settings.minimum_throughput:
        return None
    # Divided, not multiplied: 7 of 100 then reaches 0.07, whose hundredfold is above 7.
    if settings.failure_ratio is not None and bad / total >= settings.failure_ratio:
        return Reason.FAILURE_RATIO
    if settings.slow_call_duration is not None and slow / total >= settings.slow_call_ratio:
        return Reason.SLOW_CALL_RATIO
    return None


def spare(settings: CircuitBreakerSettings, total: int, bad: int, row: int) -> float:
    """
    Return how many more bad results surely change nothing, whatever good ones come between them.

    That is as long as no older result leaves the window, but for one of calls. They then neither break a
    rule nor bring good results to do so. The window is not poised.

    Args:
        settings: The rules.
        total: Results in the window.
        bad: Bad ones among them.
        row: Bad results in a row, the latest included.

    """
    most = math.inf
    ratio = settings.failure_ratio
    if ratio is not None:
        # Of k more, bad + k must be below the ratio of what there will be at least: total + k, or enough
        # for a ratio to count.
        while_few = ratio * settings.minimum_throughput - bad
        if ratio < 1:
            most = max(while_few, (ratio * total - bad) / (1 - ratio))
        elif bad >= total:
            most = while_few
        if settings.sampling_calls is not None:
            most = min(most, ratio * settings.sampling_calls - bad)
    if settings.consecutive_failures is not None:
        most = min(most, settings.consecutive_failures - row)
    return most - 1  # below, and not equal; and rounded


def is_poised(settings: CircuitBreakerSettings, total: int, bad: int) -> bool:
    """
    Whether good results alone may open the circuit, with *bad* ones among *total* in the window.

    They only lower the ratio; so if they open it, it is when there are just enough results.
    """
    if settings.failure_ratio is None:
        return False
    enough = max(total + 1, settings.minimum_throughput)
    if settings.sampling_calls is not None:
        enough = min(enough, settings.sampling_calls)
    return bad / enough >= settings.failure_ratio
