"""A rate limiter as a gate: what it asks its machine, and who waits for which permits."""

import math
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Any

from resilience import _clock
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call
from resilience._runtime.gate import Decision, Gate
from resilience._runtime.hot import Hot
from resilience._runtime.line import Line
from resilience._runtime.policy import Binding, Traits
from resilience.errors import Problem, RateLimitedError, shown
from resilience.outcome import Classifier, ErrorMatch, Verdict
from resilience.rate_limiter._adaptive import AdaptiveGcra
from resilience.rate_limiter._ask import ANY, Ask, check_hashable, impossible
from resilience.rate_limiter._gcra import Gcra
from resilience.rate_limiter._hot import hot
from resilience.rate_limiter._keyed import OVERFLOW, KeyedGcra, KeyedPermit
from resilience.rate_limiter._machine import RateMachine, make_machine
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.typing import Seconds

_NOBODY = Line()


class RateGate(Gate):
    """
    What a gate supplies, for one machine or one that keeps keys apart.

    Without keys there is one line; with them there is one for each key for which somebody waits.
    """

    __slots__ = ("_adaptive", "_lines", "_machine", "_settings")

    kind = "rate_limiter"
    learning = ("rate",)
    error = RateLimitedError
    _one = ANY

    def __init__(
        self,
        settings: RateLimiterSettings,
        name: str | None,
        *,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        super().__init__(name, on=on, classify=classify)
        self._settings = settings
        now = _clock.monotonic()
        self._machine: RateMachine | KeyedGcra = (
            make_machine(settings, now) if settings.key is None else KeyedGcra(settings, now)
        )
        self._adaptive = self._machine if isinstance(self._machine, AdaptiveGcra) else None
        if isinstance(self._machine, Gcra):
            self._line = Line(self._machine.bar)
        self._lines: dict[Hashable, Line] = {}  # of keys for which somebody waits

    @property
    def settings(self) -> RateLimiterSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """A gate that spends a permit."""
        return Traits(waits=self._settings.max_wait, rank=2)

    @property
    def _max_wait(self) -> Seconds:
        return self._settings.max_wait

    def obstacles(self, settings: RateLimiterSettings) -> list[Problem]:
        """Return why the settings cannot be taken: another rule counts in another state."""
        before, problems = self._settings, list[Problem]()
        if settings.algorithm != before.algorithm:
            rule = f"must stay {before.algorithm!r}: make a new limiter"
            problems.append(Problem("algorithm", settings.algorithm, rule))
        if (settings.key is None) != (before.key is None):
            rule = "must stay given, or stay None: make a new limiter"
            problems.append(Problem("key", settings.key, rule))
        if isinstance(settings.rate, (int, float)) != isinstance(before.rate, (int, float)):
            rule = "must stay a number, or stay a Rate: make a new limiter"
            problems.append(Problem("rate", settings.rate, rule))
        return problems

    def _configure(self, settings: RateLimiterSettings) -> None:
        adaptive = self._adaptive
        if adaptive is not None and settings.rate is not adaptive.source and settings.rate == adaptive.source:
            settings = replace(settings, rate=adaptive.source)  # given anew: it keeps what it learnt
        rate = settings.rate
        terms: tuple[float, Seconds] | None = None
        if adaptive is not None and not isinstance(rate, (int, float)) and rate is not adaptive.source:
            terms = rate.rate, rate.window  # outside the lock, because the rate may be a user's
        with self._lock:
            now = _clock.monotonic()
            if adaptive is None:
                self._machine.configure(settings, now)
            else:
                adaptive.configure(settings, now, terms)
            self._settings = settings
            # Not the first alone: those who wait for more than the new burst are refused now.
            for line in (self._line, *self._lines.values()):
                line.wake_all()

    def _ask_of(self, call: Call) -> Ask:
        key_of = self._settings.key
        if key_of is None:
            return ANY
        key = key_of(*call.args, **call.kwargs)
        check_hashable(key, f"key= of {self.name!r} returned {shown(key)}, which is not hashable")
        return Ask(1, key)

    def _admit(self, now: Seconds, ask: Ask) -> Decision:
        machine = self._machine
        if isinstance(machine, KeyedGcra):
            return machine.admit(ask.key, now, ask.permits)
        return machine.admit(now, ask.permits)

    def _settle(
        self,
        token: Any,
        verdict: Verdict,
        now: Seconds,
        started: Seconds,
        retry_after: Seconds | None,
    ) -> None:
        token = self._permit_of(token)
        if verdict is Verdict.THROTTLED and self._adaptive is not None:  # a number does not follow the server
            self._adaptive.throttled(now, started, retry_after)
        else:
            self._machine.settle(token, verdict, now)

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:
        token = self._permit_of(token)
        if not cancelled and self._adaptive is not None:
            self._adaptive.unsent(token.n)
        self._machine.release(token, now)

    def _permit_of(self, token: Any) -> Any:
        # Generated code holds the number alone, of which it seldom needs to make a permit.
        machine = self._machine
        return machine.permit(token) if isinstance(token, float) and isinstance(machine, Gcra) else token

    def hot(self, binding: Binding) -> Hot | None:
        """Return what a call runs that gets a permit at once; none but for GCRA, which is one line."""
        machine = self._machine
        if type(machine) is not Gcra:
            return None
        return hot(self, machine, self.counts, self.failing(self.judge(binding)))

    def _wait_for(self, now: Seconds, ask: Ask, ahead: int) -> Seconds | None:
        machine = self._machine
        if isinstance(machine, KeyedGcra):
            return machine.wait_for(ask.key, now, ask.permits, ahead)
        return machine.wait_for(now, ask.permits, ahead)

    def _hopeless(self, ask: Ask) -> Exception | None:
        most = self._machine.capacity
        return None if ask.permits <= most else impossible(self.name, ask.permits, most)

    def _weight(self, ask: Ask) -> int:
        return ask.permits

    def _line_of(self, ask: Ask, *, join: bool = False) -> Line:
        if not isinstance(self._machine, KeyedGcra):
            return self._line
        line = self._lines.get(ask.key)
        if line is not None:
            return line
        if not join:
            return _NOBODY
        return self._lines.setdefault(ask.key, Line())

    def _line_left(self, ask: Ask) -> None:
        if ask.key in self._lines and not self._lines[ask.key]:
            del self._lines[ask.key]

    def _wake_for(self, token: Any) -> None:
        if not isinstance(token, KeyedPermit):
            self._line.wake_first()
        elif token.key is not OVERFLOW:
            self._lines.get(token.key, _NOBODY).wake_first()
        else:  # nobody knows which of the keys share the permit that came back
            for line in self._lines.values():
                line.wake_first()

    def readings(self) -> Iterator[Reading]:
        """Return who got a permit, the rate, and how many wait. A rate without a limit is no number."""
        yield from self.counts.readings("rate_limiter")
        machine, adaptive = self._machine, self._adaptive
        rate = machine.rate if adaptive is None else adaptive.limit
        if rate != math.inf:
            yield Reading("resilience.rate_limiter.limit", rate, is_level=True)
        waiting = len(self._line) + sum(len(line) for line in list(self._lines.values()))
        yield Reading("resilience.rate_limiter.queue.usage", waiting, is_level=True)
        overflowed = machine.overflowed if isinstance(machine, KeyedGcra) else 0
        yield Reading("resilience.rate_limiter.overflows", overflowed)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._lines.clear()
        self._machine.after_fork(_clock.monotonic())
