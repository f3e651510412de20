"""Units, and the protocols that users may implement."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from resilience.outcome import Classifier as Classifier
from resilience.outcome import ErrorMatch as ErrorMatch
from resilience.outcome import Verdict

Seconds: TypeAlias = float
"""A length of time, or an instant on the monotonic clock, in seconds."""

Ratio: TypeAlias = float
"""A share between 0 and 1."""


class Clock(Protocol):
    """Where the time comes from: an instant that never goes back, in seconds."""

    def __call__(self) -> Seconds:
        """Return the present instant."""
        ...


class Random(Protocol):
    """Where chance comes from. A `random.Random` is one."""

    def random(self) -> float:
        """Return the next draw, in [0, 1)."""
        ...


@runtime_checkable
class Budget(Protocol):
    """What retries and hedges are paid from. `resilience.RetryBudget` is one."""

    def deposit(self) -> None:
        """Note that a call began."""
        ...

    def try_withdraw(self, verdict: Verdict = Verdict.BAD) -> int:
        """Ask for one further attempt after one that ended so; return its charge, 0 for no."""
        ...

    def fail(self, verdict: Verdict = Verdict.BAD) -> None:
        """Note that an attempt ended so, and that no further one was asked for."""
        ...

    def release(self) -> None:
        """Note that a further attempt ended."""
        ...

    def finish(self, *, good: bool, charges: int = 0) -> None:
        """Note that a call ended, with the sum of its charges."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    What the calls that ended within one window showed.

    Calls that taught nothing (cancelled, or refused by an inner policy) are not in it.

    Attributes:
        now: Instant at which the window ended.
        good: Calls that ended well.
        bad: Calls that failed.
        timed_out: Calls that were not answered in time.
        throttled: Calls that the dependency refused because it was overloaded.
        peak: Most calls in flight at once.
        mean: Mean seconds that good and timed out calls took, or None if there were none. A fast failure
            says nothing about how long the work takes; a timeout says that it takes at least so long,
            and without it only those that were fast would be looked at. For a limit that
            needs no latency this and *shortest* are of the calls that began while it was below 1.
        shortest: Seconds that the fastest of the good calls took, or None if there were none.
        quantile: The quantile of the same times that the limit asked for, or None if it asked for none.

    """

    now: Seconds
    good: int
    bad: int
    timed_out: int
    throttled: int
    peak: int
    mean: Seconds | None
    shortest: Seconds | None
    quantile: Seconds | None = None

    @property
    def drops(self) -> int:
        """Calls that say that the dependency has too much to do: timed out or throttled."""
        return self.timed_out + self.throttled

    @property
    def drop_ratio(self) -> Ratio:
        """Share of drops in the calls that ended well or were dropped; 0 if there were none."""
        drops = self.drops
        return drops / (drops + self.good) if drops else 0.0

    @property
    def latency(self) -> Seconds | None:
        """The quantile if the limit asked for one, else the mean."""
        return self.mean if self.quantile is None else self.quantile

    @property
    def calls(self) -> int:
        """How many calls the sample is about. Below about ten it says little."""
        return self.good + self.bad + self.timed_out + self.throttled


@runtime_checkable
class Limit(Protocol):
    """
    What may be given as ``limit=`` in place of a number. One object serves one limiter.

    The limiter takes a sample as soon as a call ends *window* seconds or more after the one before; a sample
    always covers at least one call. `on_sample` runs in the thread or task of that call and outside all
    locks, never for two samples of one limiter at once: what falls due meanwhile comes with a later sample.
    Afterwards the limiter reads `limit` and `window`, and then not again until after the next sample.

    A fraction of a limit is cut off. Below 1, one call runs at a time, and after each the limiter rests so
    long that calls are under way only that share of the time: many small clients would be too many
    otherwise, with one call each. A limit that is no finite number changes nothing, nor does a *window* that
    is neither None nor a finite number of at least 0. If `on_sample` or reading them raises, the call goes
    on, all stays as it was, and the event ``resilience.concurrency_limiter.limit_failed`` says so.

    Three attributes may be there besides: ``quantile``, in (0, 1), asks for that quantile of the times in
    every sample; ``needs_latency = False`` says that no sample need tell how long calls took, unless the
    limit is below 1, which spares each call one look at the clock; ``cause`` is a word for the latest change,
    which its event carries. The first two are read when the limiter is made or reconfigured.
    """

    @property
    def limit(self) -> float:
        """How many calls may run at once."""
        ...

    @property
    def window(self) -> Seconds | None:
        """Seconds that a sample covers, 0 for one per call; None if the limit never changes."""
        ...

    def on_sample(self, sample: Sample) -> None:
        """Learn from the calls of one window. Must not wait."""
        ...
