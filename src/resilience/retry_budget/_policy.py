"""The budget that threads and tasks share: a machine, a lock and the clock."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

from resilience import _clock
from resilience._runtime import census, fork
from resilience._runtime.census import Reading
from resilience._runtime.hot import Tally
from resilience._runtime.locked import NEEDS_LOCKS
from resilience._runtime.policy import name_problems
from resilience.errors import ConfigError, Problem
from resilience.outcome import Verdict
from resilience.retry_budget._machine import machine_for
from resilience.retry_budget._settings import (
    BudgetSettings,
    GrpcSettings,
    InflightSettings,
    RatioSettings,
    RefundSettings,
)
from resilience.retry_budget._tokens import Counter
from resilience.retry_budget._two_refunds import Refund
from resilience.typing import Ratio, Seconds


class RetryBudget:
    """
    What further attempts, retries and hedges alike, are paid from.

    Share one among all that call one dependency. Made by one of four classmethods, or from settings; the
    default, `ratio`, is for everybody. Thread-safe, and bound to no event loop. `Retry` and `Hedge` drive
    it; around a loop of your own it goes like this::

        budget.deposit()                                # a call begins
        ...
        charge = budget.try_withdraw(Verdict.BAD)       # an attempt has failed; may there be another one?
        if charge:
            charges += charge
            ...                                         # the further attempt
            budget.release()                            # it has ended
        ...
        budget.finish(good=True, charges=charges)       # the call has ended

    Args:
        settings: The rule and its settings; default ``RatioSettings()``.
        name: Name for telemetry, or None.

    Attributes:
        name: Name for telemetry, or None.
        calls: Calls that began. ``budget.calls += 1`` is all that `deposit` does; it takes a lock if there is
            no GIL.
        good: Calls that ended good without charges. ``budget.good += 1`` is all that `finish` does for them,
            likewise. What generated code has counted comes into both when the budget is next asked for
            something.
        counts_in_flight: Whether it must know of a call when that begins, and not only when its first attempt
            has ended.

    Raises:
        ConfigError: A setting is outside its range.

    Example:
        >>> budget = RetryBudget.ratio(0.1, min_per_second=0.2)
        >>> budget.level
        2
        >>> budget.try_withdraw(), budget.try_withdraw(), budget.try_withdraw()
        (1, 1, 0)

    """

    # Where no locks are needed, generated code and users add to the two counters without one: a physical line
    # of int work is not interrupted. They are never set back meanwhile: what is new is found by comparison.
    __slots__ = (
        "__weakref__",
        "_lock",
        "_machine",
        "_returned",
        "_seen_calls",
        "_seen_good",
        "_seen_returned",
        "_settings",
        "_takes_back",
        "_tallies",
        "calls",
        "counts_in_flight",
        "good",
        "name",
    )

    kind: ClassVar[str] = "retry_budget"
    """What it is in telemetry."""

    refund = Refund()

    counts_calls: ClassVar[bool] = True
    """That *calls* and *good* may be counted by whoever makes the calls: the budget looks at them later."""

    def __init__(self, settings: BudgetSettings | None = None, *, name: str | None = None) -> None:
        chosen = RatioSettings() if settings is None else settings
        problems = name_problems(name)
        if not isinstance(chosen, BudgetSettings):
            rule = "must be the settings of one of the families, or None"
            if callable(settings):
                rule += "; a budget is no decorator: give it to Retry(budget=...) or Hedge(budget=...)"
            problems.append(Problem("settings", settings, rule))
        if problems:
            raise ConfigError("RetryBudget", problems)
        self.name = name
        self.calls = self.good = 0
        self._seen_calls: int = 0
        self._seen_good: int = 0
        # What good calls give back is counted as they are: the machine gets it before it is next asked.
        self._takes_back = _takes_back(chosen)
        self._returned = self._seen_returned = 0
        self._tallies: list[Tally] = []
        self._settings = chosen
        self.counts_in_flight = isinstance(chosen, InflightSettings)
        self._machine = machine_for(chosen, _clock.monotonic())
        self._lock = threading.RLock()
        fork.register(self)
        census.enroll(self)

    def __del__(self, leave: Callable[[Any], None] = census.leave) -> None:
        leave(self)  # bound, because names are gone when the interpreter ends

    def __repr__(self) -> str:
        return f"RetryBudget({self._settings!r}, name={self.name!r})"

    @classmethod
    def ratio(
        cls,
        ratio: float = 0.1,
        *,
        min_per_second: float = 0.1,
        ttl: Seconds = 10.0,
        refund: bool = True,
        cost: int = 1,
        timeout_cost: int = 1,
        throttle_cost: int = 1,
        name: str | None = None,
    ) -> Self:
        """
        Make a budget that a share of the calls pays for, with a floor for clients that call rarely.

        The arguments are those of `RatioSettings`.
        """
        make = partial(
            RatioSettings,
            ratio=ratio,
            min_per_second=min_per_second,
            ttl=ttl,
            refund=refund,
            cost=cost,
            timeout_cost=timeout_cost,
            throttle_cost=throttle_cost,
        )
        return cls._checked(make, name)

    @classmethod
    def _with_refund(
        cls,
        capacity: int = 500,
        *,
        initial: int | None = None,
        reward: float = 1.0,
        refill_per_second: float = 1.0,
        cost: int = 14,
        timeout_cost: int = 14,
        throttle_cost: int = 5,
        name: str | None = None,
    ) -> Self:
        make = partial(
            RefundSettings,
            capacity=capacity,
            initial=initial,
            reward=reward,
            refill_per_second=refill_per_second,
            cost=cost,
            timeout_cost=timeout_cost,
            throttle_cost=throttle_cost,
        )
        return cls._checked(make, name)

    @classmethod
    def grpc(
        cls,
        max_tokens: int = 10,
        token_ratio: float = 0.1,
        *,
        refill_per_second: float = 0.0,
        name: str | None = None,
    ) -> Self:
        """
        Make a budget that allows further attempts only while most attempts succeed.

        The arguments are those of `GrpcSettings`.
        """
        make = partial(
            GrpcSettings, max_tokens=max_tokens, token_ratio=token_ratio, refill_per_second=refill_per_second
        )
        return cls._checked(make, name)

    @classmethod
    def inflight(cls, ratio: Ratio = 0.2, *, min_concurrency: int = 3, name: str | None = None) -> Self:
        """
        Make a budget whose further attempts are a share of what is in flight.

        The arguments are those of `InflightSettings`.
        """
        make = partial(InflightSettings, ratio=ratio, min_concurrency=min_concurrency)
        return cls._checked(make, name)

    @classmethod
    def _checked(cls, make: Callable[[], BudgetSettings], name: str | None) -> Self:
        """Make a budget, or list what is wrong with its settings and its name at once."""
        try:
            settings = make()
        except ConfigError as error:
            raise ConfigError(error.subject, [*name_problems(name), *error.problems]) from None
        return cls(settings, name=name)

    # The life of a call.

    def deposit(self) -> None:
        """Note that a call began."""
        if NEEDS_LOCKS:
            with self._lock:
                self.calls += 1
        else:
            self.calls += 1

    def try_withdraw(self, verdict: Verdict = Verdict.BAD) -> int:
        """
        Ask for one further attempt.

        Args:
            verdict: How the attempt before it ended; IGNORED if none has ended, as for a hedge.

        Returns:
            The charge, at least 1: what `finish` or `refund` may give back. 0 if there must be no further
            attempt.

        Raises:
            TypeError: *verdict* is no verdict. Nothing has changed then.

        """
        if verdict.__class__ is not Verdict:
            _require_verdict(verdict)
        now = _clock.monotonic()
        with self._lock:
            fresh = self._returned - self._seen_returned
            if fresh and (charge := self._machine.pass_on(fresh, verdict, now)):
                self._seen_returned += charge
                return charge
            self._collect()
            return self._machine.try_withdraw(verdict, now)

    def fail(self, verdict: Verdict = Verdict.BAD) -> None:
        """
        Note that an attempt failed and that no further one is asked for. Only the gRPC family looks at it.

        An attempt is reported once: to `try_withdraw` or here.

        Raises:
            TypeError: *verdict* is no verdict. Nothing has changed then.

        """
        _require_verdict(verdict)
        now = _clock.monotonic()
        with self._lock:
            self._collect()
            self._machine.fail(verdict, now)

    def release(self) -> None:
        """Note that a further attempt ended, however it did. Only the in-flight family looks at it."""
        if not self.counts_in_flight:
            return
        with self._lock:
            self._machine.release()

    def finish(self, *, good: bool, charges: int = 0) -> None:
        """
        Note that a call ended.

        Args:
            good: Whether it ended good. A cancelled call did not.
            charges: The sum of its charges, as returned by `try_withdraw`. Leave those of hedges out: were
                they given back whenever the call ends good, hedges would be free.

        Raises:
            TypeError: *charges* is no whole number.
            ValueError: It is negative. Nothing has changed in either case.

        """
        if good and charges == 0:
            if NEEDS_LOCKS:
                with self._lock:
                    self.good += 1
            else:
                self.good += 1
            return
        if charges.__class__ is not int or charges < 0:
            _require_charges(charges)
        if good and self._takes_back:
            if NEEDS_LOCKS:
                with self._lock:
                    self._returned += charges
            else:
                self._returned += charges
            return
        now = _clock.monotonic()
        with self._lock:
            self._collect()
            self._machine.finish(good, charges, now)

    def _give_back(self, charges: int = 1) -> None:
        _require_charges(charges)
        now = _clock.monotonic()
        with self._lock:
            self._collect()
            self._machine.refund(charges, now)

    # What can be seen of it.

    @property
    def settings(self) -> BudgetSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def reads(self) -> frozenset[Counter]:
        """Which of the counters `calls` and `good` its rule looks at; the others need not be kept."""
        return self._machine.reads

    @property
    def level(self) -> int:
        """How many further attempts at plain cost it would pay for now."""
        now = _clock.monotonic()
        with self._lock:
            self._collect()
            return self._machine.level(now)

    @property
    def limit(self) -> int:
        """How many it would pay for now, had none been taken. It follows the traffic in some families."""
        now = _clock.monotonic()
        with self._lock:
            self._collect()
            return self._machine.limit(now)

    @property
    def granted(self) -> int:
        """Further attempts granted so far in this process."""
        return self._machine.granted

    @property
    def denied(self) -> int:
        """Further attempts refused so far in this process."""
        return self._machine.denied

    @property
    def refunded(self) -> int:
        """Tokens given back so far in this process."""
        with self._lock:
            self._collect()
            return self._machine.refunded

    def reconfigure(self, **changes: Any) -> None:
        """
        Change settings at run time and keep the tokens, as far as they fit. The family stays.

        Raises:
            ConfigError: A setting is unknown or wrong. Nothing has changed then.

        """
        known = self._settings.__dataclass_fields__
        unknown = [
            Problem(name, value, "is not a setting") for name, value in changes.items() if name not in known
        ]
        if unknown:
            raise ConfigError("RetryBudget", unknown)
        now = _clock.monotonic()
        with self._lock:
            settings = replace(self._settings, **changes)
            self._collect()
            self._machine.configure(settings, now)
            self._settings, self._takes_back = settings, _takes_back(settings)

    def readings(self) -> Iterator[Reading]:
        """Return what telemetry knows of it."""
        limit = self.limit
        yield Reading("resilience.retry_budget.usage", max(0, limit - self.level), is_level=True)
        yield Reading("resilience.retry_budget.limit", limit, is_level=True)
        yield Reading("resilience.retry_budget.grants", self.granted)
        yield Reading("resilience.retry_budget.rejections", self.denied)
        yield Reading("resilience.retry_budget.refunds", self.refunded)

    def enlist(self, tally: Tally) -> None:
        """Count the calls of *tally* too, from now on: calls that began and ended good."""
        with self._lock:
            if tally not in self._tallies:  # two threads may have come with it at once
                self._tallies.append(tally)

    def dismiss(self, tally: Tally) -> None:
        """Keep what *tally* has counted, and look at it no more."""
        with self._lock:
            self._collect()
            if tally in self._tallies:
                self._tallies.remove(tally)

    def _collect(self) -> None:
        """Tell the machine by how much the counters have grown. The lock is held."""
        for tally in self._tallies:
            if (good := tally.good) != tally.seen:
                fresh = int(good) - tally.seen
                tally.seen += fresh
                self.calls += fresh
                self.good += fresh
        if fresh := self._returned - self._seen_returned:  # first: it was spent before what is collected here
            self._seen_returned += fresh
            self._machine.give_back(fresh)
        counted = self.good  # first, so that every call counted in it is counted in `calls`, too
        calls = self.calls
        if calls != self._seen_calls or counted != self._seen_good:
            self._machine.collect(calls - self._seen_calls, counted - self._seen_good)
            self._seen_calls, self._seen_good = calls, counted

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self.calls = self.good = 0
        self._seen_calls = self._seen_good = 0
        self._returned = self._seen_returned = 0
        self._tallies = []
        self._machine.after_fork(_clock.monotonic())


def _takes_back(settings: BudgetSettings) -> bool:
    """Whether a call that ends good gives back what it was charged."""
    return settings.refund if isinstance(settings, RatioSettings) else isinstance(settings, RefundSettings)


def _require_verdict(verdict: object) -> None:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"RetryBudget: verdict must be a Verdict, got {verdict!r}")


def _require_charges(charges: object) -> None:
    rule = "RetryBudget: charges must be a whole number >= 0, the sum of what try_withdraw() returned"
    if not isinstance(charges, int) or isinstance(charges, bool):
        raise TypeError(f"{rule}; got {charges!r}")
    if charges < 0:
        raise ValueError(f"{rule}; got {charges!r}")
