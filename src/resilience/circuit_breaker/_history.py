"""What a circuit remembers for telemetry only: its changes of state, and how many calls ended well."""

from collections import deque
from typing import Final

from resilience._core.window import Cell
from resilience.circuit_breaker._state import CircuitState, Transition
from resilience.typing import Seconds

TRANSITIONS_KEPT: Final = 16
"""How many transitions wait to be reported; beyond that the oldest are dropped."""

CELLS_KEPT: Final = 16
"""How many cells of earlier generations are still read for the total of good results."""


class History:
    """
    The changes of state in this process, and the time spent in each state.

    Attributes:
        news: Transitions that `drain` has not returned yet. May be looked at without the lock.
        transitions: How often each change of state happened, by (previous, state).

    """

    __slots__ = ("_seconds", "_since", "news", "transitions")

    def __init__(self, now: Seconds) -> None:
        self.clear(now)

    def clear(self, now: Seconds) -> None:
        """Begin at *now*, with nothing."""
        self.transitions: dict[tuple[CircuitState, CircuitState], int] = {}
        self.news: deque[Transition] = deque(maxlen=TRANSITIONS_KEPT)
        self._seconds = dict.fromkeys(CircuitState, 0.0)
        self._since = now

    def add(self, transition: Transition) -> None:
        """Remember one change of state."""
        change = (transition.previous, transition.state)
        self._seconds[transition.previous] += transition.at - self._since
        self._since = transition.at
        self.transitions[change] = self.transitions.get(change, 0) + 1
        self.news.append(transition)

    def seconds(self, state: CircuitState, now: Seconds) -> dict[CircuitState, Seconds]:
        """Return the time spent in each state, the present one being *state*."""
        spent = dict(self._seconds)
        spent[state] += now - self._since
        return spent

    def drain(self, *, keep_last: bool = False) -> list[Transition]:
        """Return the transitions that were not reported yet, oldest first, and forget them."""
        drained = list(self.news)
        if keep_last:
            drained.pop()
        for _ in drained:
            self.news.popleft()
        return drained


class GoodTotal:
    """
    How many calls ended well, late ones included.

    Calls under way still add to the cell that a window has let go, so the latest of those are read as long
    as anybody may hold one. Cells are never set back.
    """

    __slots__ = ("_counted", "_retired")

    def __init__(self) -> None:
        self._counted = 0
        self._retired: deque[Cell] = deque()

    def add(self) -> None:
        """Count one that no cell counts."""
        self._counted += 1

    def retire(self, cell: Cell) -> None:
        """Keep an eye on a cell that the window will let go."""
        if len(self._retired) == CELLS_KEPT:
            self._counted += int(self._retired.popleft().good)
        self._retired.append(cell)

    def read(self, *cells: Cell) -> int:
        """Return the total, with what is in the *cells* in use."""
        return self._counted + sum(int(cell.good) for cell in (*cells, *self._retired))

    def clear(self, *cells: Cell) -> None:
        """Count from zero, with the *cells* in use as they stand."""
        self._counted -= self.read(*cells)
