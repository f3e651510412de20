"""What a concurrency limiter does as a gate: who gets a place, who waits, and what a `Limit` learns."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from resilience import _clock
from resilience._core.permit import NEVER
from resilience._runtime.admission import Counts
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call, Waiter
from resilience._runtime.gate import Ask as AnyAsk
from resilience._runtime.gate import Decision, Gate
from resilience._runtime.hot import Fail, Hot, takes_any_value, weakly
from resilience._runtime.locked import needs_locks
from resilience._runtime.policy import Binding, Traits
from resilience.concurrency_limiter._ask import Ask, check_hashable
from resilience.concurrency_limiter._cell import Cell, Slot
from resilience.concurrency_limiter._hot import hot
from resilience.concurrency_limiter._limit import FixedLimit, Limit, Sample, terms_of
from resilience.concurrency_limiter._machine import Bulkhead
from resilience.concurrency_limiter._partitions import Partitions
from resilience.concurrency_limiter._queue import Queue, Ticket
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.errors import ConcurrencyLimitedError, ConfigError, Problem, RejectedError, shown
from resilience.events import emit
from resilience.outcome import Classifier, ErrorMatch, Outcome, Verdict
from resilience.priority import Priority, current_priority, priority_of
from resilience.typing import Seconds


class LimitGate(Gate):
    """
    What a gate supplies, for one machine or one that keeps shares.

    Without shares a call asks for nothing in particular. How important it is matters only once it has to
    wait, and is looked up then.
    """

    __slots__ = ("_bulkhead", "_has_ended", "_learning_from", "_partitions", "_pinned")

    kind = "concurrency_limiter"
    learning = ("limit",)
    error = ConcurrencyLimitedError
    counts_acquired = False
    settling_frees = True

    def __init__(
        self,
        settings: ConcurrencyLimiterSettings,
        name: str | None,
        *,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        super().__init__(name, on=on, classify=classify)
        now = _clock.monotonic()
        self._partitions = None if settings.shares is None else Partitions(settings, now)
        self._bulkhead = self._partitions or Bulkhead(settings, now)
        self._line = Queue(self._bulkhead)
        self.counts = PlaceCounts(self._bulkhead)
        self._has_ended = False  # since the last look for a sample that is due
        self._learning_from: Sample | None = None
        self._pinned: int | None = None

    @property
    def settings(self) -> ConcurrencyLimiterSettings:
        """Its settings, frozen."""
        return self._bulkhead.settings

    @property
    def traits(self) -> Traits:
        """A gate that holds a place, and so is asked last."""
        return Traits(waits=self.settings.max_wait, rank=3)

    @property
    def _max_wait(self) -> Seconds:
        return self.settings.max_wait

    @property
    def _max_queue(self) -> int:
        return self.settings.max_queue

    def obstacles(self, settings: ConcurrencyLimiterSettings) -> list[Problem]:
        """Return why the settings cannot be taken: places are counted in another way."""
        problems = key_problems(settings.shares, settings.share_of)
        if (settings.shares is None) != (self._partitions is None):
            rule = "must stay given, or stay None: make a new limiter"
            problems.append(Problem("shares", settings.shares, rule))
        return problems

    def _configure(self, settings: ConcurrencyLimiterSettings) -> None:
        source = self._bulkhead.source
        if settings.limit is not source and settings.limit == source:  # given anew: it keeps what it learnt
            settings = replace(settings, limit=source)
        terms = terms_of(settings.make_limit())  # outside the lock, because the limit may be a user's
        with self._lock:
            before = self._bulkhead.limit
            self._bulkhead.configure(settings, terms, _clock.monotonic())
            if self._pinned is not None:
                self._bulkhead.resize(self._pinned)
            self._line.wake_first()
            after = self._bulkhead.limit
        self._report(before, after, "reconfigured")

    # Calls

    def _ask_of(self, call: Call) -> AnyAsk:
        return call if self._partitions is None else self._share_asked_for(self._partitions, call)

    def _share_asked_for(self, partitions: Partitions, call: Call) -> Ask:
        priority = priority_of(call.context)
        share_of = partitions.settings.share_of
        key: Hashable = priority
        if share_of is not None:
            key = share_of(*call.args, **call.kwargs)
            check_hashable(self.name, "what share_of returns", key)
        return Ask(key if key in partitions.parts else None, priority.rank)

    def _asked_by_hand(self, share: Hashable) -> AnyAsk:
        partitions = self._partitions
        if partitions is None:
            if share is not None:
                msg = f"{self.name!r} was made without shares=, got share={shown(share)}"
                raise TypeError(msg)
            return 1
        priority, key = current_priority(), share
        if key is None:
            if partitions.settings.share_of is not None:
                msg = f"{self.name!r} takes shares from the arguments of calls: say which with share="
                raise TypeError(msg)
            key = priority
        check_hashable(self.name, "share", key)
        return Ask(key if key in partitions.parts else None, priority.rank)

    def _weight(self, ask: AnyAsk) -> int:  # noqa: ARG002  # a call takes one place
        return 1

    def _waiter(self, ask: AnyAsk) -> Waiter:
        if isinstance(ask, Ask):
            return Ticket(ask.rank, ask.key)
        # A permit taken for a block has no call to ask.
        priority = priority_of(ask.context) if isinstance(ask, Call) else current_priority()
        return Ticket(priority.rank)

    def _admit(self, now: Seconds, ask: AnyAsk) -> Decision:
        return self._bulkhead.admit(now, ask)

    def _settle(
        self,
        token: Any,
        verdict: Verdict,
        now: Seconds,
        started: Seconds,
        retry_after: Seconds | None,  # noqa: ARG002  # when to return is a question of rate
    ) -> None:
        self._bulkhead.settle(slot_of(token, started), verdict, now)
        self._has_ended = True

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:  # noqa: ARG002  # either way
        self._bulkhead.release(slot_of(token, now), now)

    def hot(self, binding: Binding) -> Hot | None:
        """Return what a call runs for which there is a place; none if it takes more than a count."""
        if self._partitions is not None:
            return None
        fail, refuse = self.failing(self.judge(binding)), self._refuse
        if needs_locks():
            refuse = self._refuse_for_certain
        elif takes_any_value(self._classify or binding.classify):
            fail = self._failing_at_rest(fail)
        return hot(self, self._bulkhead, refuse=None if self._max_wait > 0 else weakly(refuse), fail=fail)

    def _refuse(self) -> RejectedError | None:
        """Refuse a call, for generated code, if all places are taken; None if a flow must say."""
        cell = self._bulkhead.cell
        if self._bulkhead.is_barred or cell.inflight < cell.limit:
            return None
        self.counts.rejected += 1
        return self._refused(NEVER)

    def _refuse_for_certain(self) -> RejectedError | None:
        """Do as `_refuse` does where what it reads may change meanwhile."""
        with self._lock:
            if self._bulkhead.is_barred or self._bulkhead.has_room():
                return None
            self.counts.rejected += 1
        return self._refused(NEVER)

    def _failing_at_rest(self, fail: Fail) -> Fail:
        """Return what does as *fail* does, at once where nobody learns from calls."""
        bulkhead, wake_next = self._bulkhead, weakly(self._wake_next)

        def at_once(tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None) -> None:
            cell = tokens[place]
            if type(cell) is not Cell or type(bulkhead.source) is not FixedLimit:
                fail(tokens, place, outcome, began)
                return
            # As generated code gives it back: no call until it is done, at which an interrupt could strike.
            tokens[place] = None
            cell.ceiling += 1.0
            cell.others += 1
            if bulkhead.is_barred:
                wake_next()

        return at_once

    # Learning

    def _take_sample(self) -> None:
        """Let the limit learn, if a window is over. Generated code calls it when a call has ended well."""
        if _clock.monotonic() < self._bulkhead.window_end or self._learning_from is not None:
            return
        sample: Sample | None = None
        try:
            with self._lock:
                source = self._bulkhead.source
                if self._learning_from is None:
                    sample = self._learning_from = self._bulkhead.take_sample(_clock.monotonic())
            if sample is not None:
                self._learn(source, sample)
        finally:
            # Also where an interrupt struck: a limit that seems to be learning would never learn again.
            if sample is not None and self._learning_from is sample:
                self._learning_from = None

    def _look_for_sample(self) -> None:
        """Let the limit learn, if a window is over; else let some calls pass without a look at the clock."""
        if _clock.monotonic() < self._bulkhead.window_end:
            self._bulkhead.looked()
        else:
            self._take_sample()

    def _changed(self) -> None:
        if self._has_ended:
            self._has_ended = False
            self._take_sample()

    def _learn(self, source: Limit, sample: Sample) -> None:
        # Outside the lock, because the limit may be a user's.
        try:
            source.on_sample(sample)
            wanted, window = source.limit, source.window
            cause = str(getattr(source, "cause", "sample"))
        except Exception as error:  # noqa: BLE001  # a limit that cannot learn does not break the call it watches
            details = {"error.type": type(error).__qualname__}
            emit("resilience.concurrency_limiter.limit_failed", self.name, details)
            return
        with self._lock:
            if source is not self._bulkhead.source:  # replaced while it learnt
                return
            self._bulkhead.set_window(window)
            if self._pinned is not None:
                return
            before, after = self._resize(wanted)
        self._report(before, after, cause)

    def _resize(self, wanted: float) -> tuple[int, int]:
        """
        Take a limit, and let those who wait look again; return the former one and the present one.

        The lock is held, also for the look at who else has a say: a limit that is pinned, or replaced,
        between the two would be lost.
        """
        before = self._bulkhead.limit
        self._bulkhead.resize(wanted)
        self._line.wake_first()
        return before, self._bulkhead.limit

    def _report(self, before: int, after: int, cause: str) -> None:
        if after != before:
            with self._lock:
                self.counts.change(is_raised=after > before)
            emit(
                "resilience.concurrency_limiter.limit_change",
                self.name,
                {
                    "resilience.limiter.change": "increase" if after > before else "decrease",
                    "resilience.limiter.previous_limit": before,
                    "resilience.limiter.limit": after,
                    "resilience.limiter.cause": cause,
                },
            )

    def readings(self) -> Iterator[Reading]:
        """Return who got a place, and how many there are and are taken."""
        yield from self.counts.readings("concurrency_limiter")
        bulkhead = self._bulkhead
        with self._lock:
            inflight = bulkhead.inflight
        yield Reading("resilience.concurrency_limiter.usage", inflight, is_level=True)
        yield Reading("resilience.concurrency_limiter.limit", bulkhead.limit, is_level=True)
        yield Reading("resilience.concurrency_limiter.queue.usage", len(self._line), is_level=True)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._learning_from = None
        self._bulkhead.after_fork(_clock.monotonic())
        self.counts = PlaceCounts(self._bulkhead)


def slot_of(token: Slot | Cell, started: Seconds) -> Slot:
    """
    Return the slot that *token* is, or stands for.

    Generated code holds the cell alone. Where it has not looked at the clock, it is as if the call had taken
    no time, which only a limit that came meanwhile asks.
    """
    return Slot(token, started) if isinstance(token, Cell) else token


class PlaceCounts(Counts):
    """How calls fared at a gate whose machine counts the places that it gives out."""

    __slots__ = ("_bulkhead",)

    def __init__(self, bulkhead: Bulkhead) -> None:
        super().__init__()
        self._bulkhead = bulkhead

    @property
    def acquired(self) -> int:
        """Admitted at once."""
        return int(self._bulkhead.cell.started) - self.waited


def key_problems(shares: object, share_of: object) -> list[Problem]:
    """Return what is wrong with the keys of shares that no function tells: they must be priorities."""
    if share_of is not None or not isinstance(shares, Mapping):
        return []
    keys = cast("Mapping[object, object]", shares).keys()
    if all(isinstance(key, Priority) for key in keys):
        return []
    return [Problem("share_of", None, "must be given, unless all keys of shares are priorities")]


def checked(
    make: Callable[[], ConcurrencyLimiterSettings], shares: object, share_of: object
) -> ConcurrencyLimiterSettings:
    """
    Make the settings with *make*, and look at their keys for the same list.

    Raises:
        ConfigError: Something is wrong; every problem is listed.

    """
    problems = key_problems(shares, share_of)
    try:
        settings = make()
    except ConfigError as error:
        raise ConfigError(error.subject, [*error.problems, *problems]) from None
    if problems:
        raise ConfigError("ConcurrencyLimiter", problems)
    return settings
