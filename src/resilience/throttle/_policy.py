"""Stop asking a dependency for more than it accepts."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from resilience import _clock
from resilience._core.check import Check
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call
from resilience._runtime.gate import Ask, Decision, Gate
from resilience._runtime.hot import Hot
from resilience._runtime.permit import Hold
from resilience._runtime.policy import Binding, Traits, all_right
from resilience.errors import ConfigError, LoadShedError
from resilience.events import emit
from resilience.outcome import Classifier, ErrorMatch, Verdict
from resilience.priority import Priority, current_priority, priority_of
from resilience.throttle._hot import hot
from resilience.throttle._machine import Throttle
from resilience.throttle._settings import AdaptiveThrottleSettings
from resilience.typing import Random, Ratio, Seconds


class AdaptiveThrottle(Gate):
    """
    Stop asking a dependency for more than it accepts: refuse the rest here, by chance.

    Of all calls asked for within *sampling_duration*, the dependency gets *k* times as many as it
    accepts. A call beyond that raises `LoadShedError` at once, with the probability ::

        max(0, (requests - k * accepts) / (requests + 1))

    where calls refused here are requests as well. The least important calls go first: each
    `Priority` has its own requests, and is left what the more important ones do not use up.

    Accepted means good. A timeout, a throttled answer and an error are not, so that a dependency
    that cannot be reached, or is behind a gateway that says so, counts as one that refuses work;
    *on* or *classify* say which errors are mere answers. Ignored and cancelled calls do not count.

    Args:
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        k: Calls that may reach the dependency for each one it accepts, >= 1. Default 2.0 (SRE book).
        floor: Calls per second that pass in any case, > 0, or None. Default 1.0.
        minimum_throughput: Calls in the window needed before any is refused, >= 1. Default 20
            (Hystrix).
        sampling_duration: Seconds of history the rule is applied to. Default 5.0.
        on: Errors that count as not accepted: a type, a tuple of types, or a predicate.
        classify: Judge of outcomes, in place of *on*.
        rng: Where chance comes from: anything with a method ``random()``. Default None: the process's
            own generator.

    Raises:
        ConfigError: A setting is wrong, see `AdaptiveThrottleSettings`; every problem is listed.

    Example:
        >>> throttle = AdaptiveThrottle("search", floor=None, minimum_throughput=10)
        >>> for _ in range(10):
        ...     throttle.try_acquire().settle(Verdict.THROTTLED)
        >>> round(throttle.rejection_probability(), 2)
        0.91

    """

    __slots__ = ("_random", "_throttle")

    kind = "throttle"
    error = LoadShedError

    def __init__(
        self,
        name: str | None = None,
        *,
        k: float = 2.0,
        floor: float | None = 1.0,
        minimum_throughput: int = 20,
        sampling_duration: Seconds = 5.0,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
        rng: Random | None = None,
    ) -> None:
        settings = all_right(
            name,
            lambda: _checked(
                rng,
                lambda: AdaptiveThrottleSettings(
                    k=k,
                    floor=floor,
                    minimum_throughput=minimum_throughput,
                    sampling_duration=sampling_duration,
                ),
            ),
            first="k",
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._random: Random = random if rng is None else rng
        self._throttle = Throttle(
            settings,
            _clock.monotonic(),
        )

    @property
    def settings(self) -> AdaptiveThrottleSettings:
        """Its settings, frozen."""
        return self._throttle.settings

    @property
    def traits(self) -> Traits:
        """A gate that holds nothing, and looks back over its window."""
        return Traits(window=self.settings.sampling_duration, rank=0)

    @property
    def is_shedding(self) -> bool:
        """Whether it refused a call within the last *sampling_duration*."""
        with self._lock:
            return self._throttle.is_shedding_at(_clock.monotonic())

    @property
    def is_idle(self) -> bool:
        """Whether it knows as little as a new one."""
        with self._lock:
            return self._throttle.is_idle(_clock.monotonic())

    def rejection_probability(self, priority: Priority = Priority.NORMAL) -> Ratio:
        """Return the share of calls of *priority* that are refused now, but for the floor."""
        with self._lock:
            return self._throttle.probability(_clock.monotonic(), priority.rank)

    # What a gate supplies

    def _configure(self, settings: AdaptiveThrottleSettings) -> None:
        with self._lock:
            self._throttle.configure(settings, _clock.monotonic())
        self._changed()

    def _ask_of(self, call: Call) -> Ask:
        return priority_of(call.context)

    def _weight(self, ask: Ask) -> int:  # noqa: ARG002  # a call is a call
        return 1

    def _decide(self, ask: Ask, hold: Hold) -> Decision:
        # A permit taken by hand, or for a block, has no call to ask.
        priority = ask if isinstance(ask, Priority) else current_priority()
        # Drawn outside the lock, because the generator may be a user's.
        return super()._decide((self._random.random(), priority.rank), hold)

    def _admit(self, now: Seconds, ask: Ask) -> Decision:
        draw, rank = ask
        return self._throttle.admit(now, draw, rank)

    def _settle(
        self,
        token: Any,
        verdict: Verdict,
        now: Seconds,
        started: Seconds,  # noqa: ARG002  # how long it took does not matter
        retry_after: Seconds | None,  # noqa: ARG002  # nor does when to come back
    ) -> None:
        self._throttle.settle(token, verdict, now)

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:
        self._throttle.release(token, now, cancelled=cancelled)

    def hot(self, binding: Binding) -> Hot:
        """Return what a call of normal priority runs while nobody is refused."""
        return hot(self, self._throttle, self.counts, self.failing(self.judge(binding)))

    def _rotate(self, now: Seconds) -> None:
        """Get ready for one good result, which generated code is about to count."""
        with self._lock:
            self._throttle.rotate(now)
        self._changed()

    def _changed(self) -> None:
        if not self._throttle.has_news:
            return
        with self._lock:
            news = self._throttle.drain()
        for shedding in news:
            emit(
                "resilience.throttle.state_change",
                self.name,
                {"resilience.throttle.state": "shedding" if shedding else "passing"},
            )

    def readings(self) -> Iterator[Reading]:
        """Return how calls ended, whom it refused, and what share it would refuse now."""
        throttle, kind, outcome = self._throttle, "resilience.throttle", "resilience.outcome"
        calls = f"{kind}.calls"
        with self._lock:  # a class may come that was not asked about before
            good = throttle.good
        yield Reading(calls, good, ((outcome, "success"),))
        yield Reading(calls, sum(throttle.ended.values()), ((outcome, "failure"),))
        yield Reading(calls, throttle.ignored, ((outcome, "ignored"),))
        yield Reading(calls, sum(throttle.rejected), ((outcome, "rejected"),))
        yield Reading(calls, throttle.cancelled, ((outcome, "cancelled"),))
        for priority in Priority:
            refused = throttle.rejected[priority.rank]
            yield Reading(f"{kind}.rejections", refused, (("resilience.priority", priority.value),))
        yield Reading(f"{kind}.spared", throttle.spared)
        yield Reading(f"{kind}.rejection_ratio", self.rejection_probability(), is_level=True)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._throttle.after_fork(_clock.monotonic())


def _checked(rng: object, make: Callable[[], AdaptiveThrottleSettings]) -> AdaptiveThrottleSettings:
    """Make the settings, and check *rng*, which stands beside them, for the same list."""
    check = Check("AdaptiveThrottle")
    holds = rng is None or callable(getattr(rng, "random", None))
    check.that(holds, "rng", rng, "must have a method random(), as random.Random has, or be None")
    try:
        settings = make()
    except ConfigError as error:
        raise ConfigError(error.subject, [*error.problems, *check.problems]) from None
    check.done()
    return settings
