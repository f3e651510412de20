"""An objective: so many of the events of so long a time are to be good."""

import re
import threading
from collections.abc import Iterable
from datetime import timedelta
from typing import ClassVar, Final, TypeAlias

from resilience import _clock
from resilience._core.check import Check, is_finite
from resilience._runtime import census, fork
from resilience._runtime.census import Attributes, Reading
from resilience._runtime.locked import NEEDS_LOCKS
from resilience.errors import ConfigError, Problem
from resilience.slo._duration import RULE, UNITS, seconds_of, text_of
from resilience.slo._machine import Budget
from resilience.typing import Ratio, Seconds

Window: TypeAlias = str | timedelta | Seconds
"""A length of time: a Prometheus duration (``"5m"``, ``"1h"``, ``"30d"``), a timedelta, or seconds."""

SHORTEST: Final[Seconds] = 60.0
"""Seconds of the shortest window."""

LONGEST: Final[Seconds] = UNITS["y"]
"""Seconds of the longest window."""

MINIMUM_EVENTS: Final = 100
"""With so many events one bad one of an objective of 99.9 % burns at 10, and 14.4 is where a page begins."""

REPORTED: Final = ("5m", "30m", "1h", "6h", "1d", "3d")
"""Windows whose burn rate telemetry reports: those of the alerts of the SRE workbook, chapter 5."""

GOOD: Final = (("resilience.sli.result", "good"),)
BAD: Final = (("resilience.sli.result", "bad"),)

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class SLO:
    """
    Count good and bad events, and say how fast the bad ones spend what the objective leaves for them.

    It sees the events of this process since its start. Of a time that it has not watched it says nothing:
    a window that reaches back before the start, or a fork, has no burn rate.

    Args:
        name: Name for telemetry: 1 to 64 letters, digits and ``_ . : -``, fixed in the code.
        objective: Share of events that are to be good, in (0, 1): 0.999, not 99.9.
        window: Time over which they are: a Prometheus duration, a timedelta or seconds, from one minute to
            one year. ``"30d"`` is the usual one.
        route: Template of the route whose requests are the events, such as ``"/orders/{id}"``, for
            `resilience.integrations.asgi.SLIMiddleware`. Default None: every request.
        latency_threshold: Seconds, > 0, within which an answer must begin to be good, for the same. Default
            None: however slow.
        minimum_events: Events that a window must hold before its burn rate is told, >= 1. Default 100: with
            fewer, one bad event of an objective of 99.9 % would burn near the 14.4 at which a page begins.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> checkout = SLO("checkout", objective=0.99, window="30d", minimum_events=10)
        >>> for _ in range(19):
        ...     checkout.good()
        >>> checkout.bad()
        >>> round(checkout.burn_rate(), 1)  # since the start: 5 % are bad where 1 % may be
        5.0
        >>> checkout.burn_rate("1h") is checkout.budget_remaining() is None  # it is not that old
        True

    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_budget",
        "_lock",
        "_reported",
        "_window",
        "latency_threshold",
        "minimum_events",
        "name",
        "objective",
        "route",
        "window",
    )

    kind = "slo"
    _takes_lock: ClassVar[bool] = NEEDS_LOCKS

    def __init__(
        self,
        name: str,
        *,
        objective: Ratio,
        window: Window,
        route: str | None = None,
        latency_threshold: Seconds | None = None,
        minimum_events: int = MINIMUM_EVENTS,
    ) -> None:
        check = Check("SLO")
        named = isinstance(name, str) and _NAME.fullmatch(name)
        check.that(named, "name", name, "must be 1 to 64 letters, digits, '_', '.', ':' or '-'")
        inside = is_finite(objective) and 0 < objective < 1
        check.that(inside, "objective", objective, "must be a share in (0, 1), such as 0.999")
        seconds = seconds_of(window)
        if check.that(seconds is not None, "window", window, RULE) and seconds is not None:
            check.that(SHORTEST <= seconds <= LONGEST, "window", window, "must be from '1m' to '1y'")
        rooted = route is None or (isinstance(route, str) and route.startswith("/"))
        check.that(rooted, "route", route, "must be the template of a route, beginning with '/', or None")
        check.seconds("latency_threshold", latency_threshold, optional=True)
        check.whole("minimum_events", minimum_events)
        check.done()
        self._window: Seconds = seconds or 0.0
        self.name: str = name
        self.objective = objective
        self.window: str = window if isinstance(window, str) else text_of(self._window)
        self.route = route
        self.latency_threshold = latency_threshold
        self.minimum_events = minimum_events
        reported = [(text, seconds_of(text) or 0.0) for text in REPORTED]
        self._attributes: Attributes = (("resilience.slo.window", self.window),)
        self._reported: tuple[tuple[Attributes, Seconds], ...] = tuple(
            ((("resilience.slo.window", text),), length) for text, length in reported if length < self._window
        )
        self._begin()
        fork.register(self)
        census.enroll(self)

    def __del__(self) -> None:
        census.leave(self)

    def __repr__(self) -> str:
        return f"SLO({self.name!r}, objective={self.objective!r}, window={self.window!r})"

    def good(self) -> None:
        """Count an event that went as it should."""
        now, budget = _clock.monotonic(), self._budget
        if now >= budget.due:
            self._turn(budget, now)
        if self._takes_lock:
            with self._lock:
                budget.good += 1
        else:
            budget.good += 1

    def bad(self) -> None:
        """Count an event that did not."""
        now, budget = _clock.monotonic(), self._budget
        if now >= budget.due:
            self._turn(budget, now)
        if self._takes_lock:
            with self._lock:
                budget.bad += 1
        else:
            budget.bad += 1

    @property
    def good_events(self) -> int:
        """Good events since the start."""
        return self._budget.good

    @property
    def bad_events(self) -> int:
        """Bad events since the start."""
        return self._budget.bad

    def burn_rate(self, window: Window | None = None) -> float | None:
        """
        Return how many times faster than allowed the budget was spent lately: at 1.0 it lasts the window.

        Args:
            window: Over which time, from one minute to the objective's own window; exact to one part in 30
                for windows from 5 minutes. Default None: since the start, at most the objective's window.

        Returns:
            None if the window reaches back before the start, or holds fewer than *minimum_events*.

        Raises:
            ConfigError: *window* is not such a length of time.

        """
        if window is None:
            with self._lock:
                return self._budget.burn_since_start(_clock.monotonic())
        seconds = seconds_of(window)
        if seconds is None or not SHORTEST <= seconds <= self._window:
            rule = RULE if seconds is None else f"must be from '1m' to the objective's own {self.window!r}"
            raise ConfigError("SLO.burn_rate", [Problem("window", window, rule)])
        return self._burn(seconds)

    def budget_spent(self) -> float | None:
        """Return the share of the budget that the objective's window spent: above 1.0 it is overspent."""
        return self._burn(self._window)

    def budget_remaining(self) -> float | None:
        """
        Return the share of the budget that the objective's window left: below 0.0 it is overspent.

        None until a whole window has been watched, and while that holds fewer than *minimum_events*.
        """
        spent = self.budget_spent()
        return None if spent is None else 1 - spent

    def readings(self) -> Iterable[Reading]:
        """Return what telemetry reports, by the names of its registry. Unknown rates are left out."""
        yield Reading("resilience.sli.events", self._budget.good, GOOD)
        yield Reading("resilience.sli.events", self._budget.bad, BAD)
        yield Reading("resilience.slo.objective", self.objective, self._attributes, is_level=True)
        for attributes, seconds in self._reported:
            if (burn := self._burn(seconds)) is not None:
                yield Reading("resilience.error_budget.burn_rate", burn, attributes, is_level=True)
        if (spent := self.budget_spent()) is not None:
            yield Reading("resilience.error_budget.burn_rate", spent, self._attributes, is_level=True)
            yield Reading("resilience.error_budget.utilization", spent, self._attributes, is_level=True)

    def _burn(self, seconds: Seconds) -> float | None:
        with self._lock:
            return self._budget.burn(seconds, _clock.monotonic())

    def _turn(self, budget: Budget, now: Seconds) -> None:
        with self._lock:
            budget.turn(now)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._budget = Budget(self.objective, self._window, self.minimum_events, _clock.monotonic())

    def _after_fork(self) -> None:
        self._begin()
