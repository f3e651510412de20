"""Stop waiting when time runs out."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilience import _clock
from resilience._runtime import fork
from resilience._runtime.census import Reading
from resilience._runtime.flow import PLAIN, Bound, Call, Command, Dispose, Flow, Inner
from resilience._runtime.hot import NOTHING, Hot, weakly
from resilience._runtime.policy import Binding, Policy, Step, Traits, all_right
from resilience._runtime.queues import NO_QUEUE, Queues
from resilience.deadline import bounded, current_deadline, usage
from resilience.errors import ConcurrencyLimitedError, DeadlineExceededError
from resilience.outcome import CallContext, Outcome
from resilience.timeout._settings import MAX_ABANDONED, DurationOf, TimeoutSettings, checked
from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience._runtime.adrive import Limit

EARLY: Final = 0.001
"""Seconds by which a timer may be early: some event loops count in milliseconds."""


class Timeout(Policy):
    """
    Give a call *duration* seconds; raise the builtin `TimeoutError` when they are used up.

    An async function is cancelled at the next await. A plain function cannot be interrupted: its
    waits inside this package (for a permit, for a retry) end in time, `remaining` tells it how long
    it has, and a result that it returns late is returned all the same. With *thread* it runs in a
    thread of its own, and the caller stops waiting in time; the thread goes on to its end. Of a
    generator, the time until its first item is bounded.

    A cancellation by the caller passes through unchanged. If the caller's own `deadline` comes
    first, the error is `DeadlineExceededError`.

    Args:
        duration: Seconds, > 0; None for no limit; or a callable that takes the `CallContext` and
            returns either. No default.
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        thread: Whether plain functions run in a thread that can be left behind. Default False.
        max_abandoned: Threads left behind, >= 1, beyond which calls are refused with
            `ConcurrencyLimitedError`; None for no bound. Default 40, as AnyIO's worker threads.
        propagate: Whether what is called inside is told how long there is: the end of this
            timeout becomes its `deadline`. False bounds the call in the same way and is cheaper;
            only the policies of the same pipeline know the end. Default True, our own choice of
            what is safe: nothing begins for which nobody waits any more.

    Attributes:
        timed_out: Calls that used up their duration. A call that the caller's deadline ended is not
            one of them.
        refused: Calls refused because too many threads were left behind.

    Raises:
        ConfigError: A setting is wrong; see `TimeoutSettings`.

    Example:
        >>> from resilience.deadline import remaining
        >>> @Timeout(0.8)
        ... def time_left() -> float | None:
        ...     return remaining()
        >>> 0.7 < time_left() <= 0.8
        True

    """

    __slots__ = ("_abandoned", "_lock", "_queues", "_settings", "queue", "refused", "timed_out")

    kind = "timeout"

    def __init__(
        self,
        duration: Seconds | DurationOf | None,
        *,
        name: str | None = None,
        thread: bool = False,
        max_abandoned: int | None = MAX_ABANDONED,
        propagate: bool = True,
    ) -> None:
        settings = all_right(
            name,
            lambda: TimeoutSettings(
                duration=duration, thread=thread, max_abandoned=max_abandoned, propagate=propagate
            ),
        )
        super().__init__(name)
        self._settings = settings
        self._lock = threading.RLock()
        self._abandoned = 0
        self.timed_out = 0
        self.refused = 0
        self._queues = Queues()
        self.queue: Any = NO_QUEUE
        """That of the event loop which asked last, for generated code."""
        fork.register(self)

    @property
    def settings(self) -> TimeoutSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """It bounds what is inside."""
        duration = self._settings.duration
        return Traits(bound=None if callable(duration) else duration)

    @property
    def abandoned(self) -> int:
        """How many threads are at work now for callers that have stopped waiting."""
        return self._abandoned

    def guard(self) -> "Guard":
        """
        Bound a block of async code: ``async with timeout.guard():``.

        A plain ``with`` raises `TypeError`: nothing can end such a block from outside. Use
        ``with deadline(seconds)``, which tells what is called inside how long there is.
        """
        return Guard(self)

    def step_for(self, binding: Binding) -> Step:  # noqa: ARG002  # nothing of it matters here
        """Return the step that waits so long and no longer."""
        return self._around

    def hot(self, binding: Binding) -> Hot | None:  # noqa: ARG002  # every call may take as long
        """Return what a call runs that may take a fixed time, and is not handed to a thread."""
        settings = self._settings
        if settings.duration is None:
            return NOTHING
        if callable(settings.duration) or settings.thread:
            return None
        if settings.propagate:
            usage.begin()  # before the code is made: the deadline is there for whoever looks
        return Hot(
            names={"settings": settings},
            limit=self,
            token="$settings",  # noqa: S106  # no secret
            fail=weakly(self._fail),
        )

    def queue_of(self, loop: Any) -> Any:
        """Return the calls under way in *loop*, for generated code; None if that is not asyncio's."""
        with self._lock:  # else a change of settings at the same time would leave a queue of the former ones
            duration = self._settings.duration
            if loop is None or duration is None or callable(duration):
                return None
            queue = self._queues.of(loop, duration)
            if queue is not None:
                self.queue = queue
            return queue

    def out_of_time(self, seconds: Seconds | None) -> TimeoutError:
        """Return the error of a call that used up its *seconds*, and count it."""
        with self._lock:
            self.timed_out += 1
        return TimeoutError(f"{self.name!r} took longer than {seconds:g} s")

    def _fail(
        self,
        tokens: list[Any],
        place: int,
        outcome: Outcome[Any],
        began: Seconds | None,  # noqa: ARG002  # see Fail
    ) -> None:
        if not isinstance(outcome.error, DeadlineExceededError):  # that one may be ours: see `_around`
            tokens[place] = None

    def _configure(self, settings: TimeoutSettings) -> None:
        with self._lock:
            self._settings = settings
            self.queue = NO_QUEUE

    def _around(self, call: Call, inner: Inner) -> Flow:
        replay = call.replay
        # A call that began in generated code keeps the settings that it began with.
        begun_with: TimeoutSettings | None = None if replay is None else replay.take(self)
        began = None if replay is None or begun_with is None else replay.began
        settings = begun_with or self._settings
        bound = _Bound(self, settings.duration, call.context, began)
        # One that began in generated code was in time then, and its outcome is still to be found.
        if bound.is_over and (replay is None or replay.outcome is None):
            return Outcome(error=DeadlineExceededError("deadline exceeded: not started"))
        if bound.until is None:
            return (yield from inner(call))
        attempt = call.again(replace(call.context, deadline=bound.until))
        attempt.replay = replay
        outcome: Outcome[Any] | None
        try:
            if settings.thread:
                outcome = yield from self._in_thread(attempt, inner, bound.until, tells=settings.propagate)
            else:
                outcome = yield Bound(inner(attempt), bound.until, tells=settings.propagate)
        except BaseException:
            attempt.let_go(None)
            raise
        if outcome is None:
            attempt.let_go(None)
            return Outcome(error=bound.error())
        call.adopt(attempt)
        if isinstance(outcome.error, DeadlineExceededError) and bound.ended_it():
            # What is inside was told our deadline and kept it: the caller's is not used up.
            error = bound.error()
            error.__cause__ = outcome.error
            ours: Outcome[Any] = Outcome(error=error)
            ours.unsent = outcome.unsent
            return ours
        return outcome

    def _in_thread(
        self, attempt: Call, inner: Inner, until: Seconds, *, tells: bool
    ) -> Generator[Command, Any, Outcome[Any] | None]:
        limit = self._settings.max_abandoned
        if limit is not None and self._abandoned >= limit:
            with self._lock:
                self.refused += 1
            return Outcome(error=ConcurrencyLimitedError(self.name))
        work = _Work()
        try:
            outcome: Outcome[Any] | None = yield Bound(
                self._work(work, attempt, inner), until, thread=True, tells=tells
            )
        except BaseException as error:
            late = self._abandon(work)
            if late is not None and not isinstance(error, GeneratorExit):
                attempt.let_go(None)
                yield Dispose(late.value)
            raise
        return self._abandon(work) if outcome is None else outcome

    def _work(self, work: "_Work", attempt: Call, inner: Inner) -> Flow:
        # Runs in the worker, or in the caller's own task where functions are async.
        with self._lock:
            if work.is_abandoned:
                return Outcome(error=DeadlineExceededError("deadline exceeded: not started"))
            work.has_begun = True
        brought: Outcome[Any] | None = None
        try:
            outcome = brought = yield from inner(attempt)
        finally:
            with self._lock:
                work.has_begun = False
                work.outcome = brought
                if work.is_abandoned:
                    self._abandoned -= 1
        if work.is_abandoned:
            attempt.let_go(None)
            yield Dispose(outcome.value)
        return outcome

    def _abandon(self, work: "_Work") -> Outcome[Any] | None:
        """Leave the worker behind, unless it has ended in the meantime; return what it brought."""
        with self._lock:
            if work.outcome is None:
                work.is_abandoned = True
                if work.has_begun:
                    self._abandoned += 1
            return work.outcome

    def readings(self) -> Iterator[Reading]:
        """Return how often time ran out, and what was left behind."""
        yield Reading("resilience.timeout.timeouts", self.timed_out)
        yield Reading("resilience.timeout.rejections", self.refused)
        yield Reading("resilience.timeout.abandoned", self.abandoned, is_level=True)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._abandoned = 0
        self.timed_out = 0
        self.refused = 0
        self._queues = Queues()
        self.queue = NO_QUEUE


class _Work:
    """What a caller and its worker tell each other. The policy's lock is held."""

    __slots__ = ("has_begun", "is_abandoned", "outcome")

    def __init__(self) -> None:
        self.has_begun = False
        self.is_abandoned = False
        self.outcome: Outcome[Any] | None = None


class _Bound:
    """
    How long one call may take, and who says so.

    Attributes:
        until: The instant on the monotonic clock at which waiting ends; None if nothing ends it.
        is_over: Whether the caller's deadline had passed before the call began.

    """

    __slots__ = ("_duration", "_is_callers", "_timeout", "is_over", "until")

    def __init__(
        self,
        timeout: Timeout,
        duration: Seconds | DurationOf | None,
        context: CallContext,
        began: Seconds | None = None,
    ) -> None:
        self._timeout = timeout
        if callable(duration):
            duration = checked(duration(context))
        self._duration = duration
        now = _clock.monotonic() if began is None else began
        deadline = context.deadline
        self.is_over = deadline is not None and deadline <= now
        self.until = deadline
        self._is_callers = True
        if duration is None:
            self.until = None
        elif deadline is None or now + duration < deadline:
            self.until = now + duration
            self._is_callers = False

    def ended_it(self) -> bool:
        """Whether a deadline that was missed inside was ours, and not the caller's."""
        return not self._is_callers and self.until is not None and _clock.monotonic() >= self.until - EARLY

    def error(self) -> TimeoutError:
        """Return the error to raise, and count it."""
        if self._is_callers:
            return DeadlineExceededError(started=True)
        return self._timeout.out_of_time(self._duration)


class Guard:
    """A bounded block of async code. One use each: ask for a new one every time."""

    __slots__ = ("_block", "_bound", "_limit", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._bound: _Bound | None = None
        self._limit: Limit | None = None

    async def __aenter__(self) -> None:
        from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async use

        if self._bound is not None:
            raise RuntimeError("a guard is entered once: ask for a new one")
        settings = self._timeout.settings
        self._bound = bound = _Bound(
            self._timeout, settings.duration, replace(PLAIN, deadline=current_deadline())
        )
        if bound.is_over:
            raise DeadlineExceededError("deadline exceeded: not started")
        if bound.until is None:
            return
        self._block = bounded(bound.until if settings.propagate else None)
        self._limit = adrive.backend().limit(bound.until)
        await self._limit.__aenter__()
        self._block.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit is None or self._bound is None:
            return
        self._block.__exit__(kind, error, trace)
        if await self._limit.__aexit__(kind, error, trace) or (
            isinstance(error, DeadlineExceededError) and self._bound.ended_it()
        ):
            raise self._bound.error() from error

    if not TYPE_CHECKING:  # so that type checkers refuse it as well

        def __enter__(self) -> NoReturn:
            raise TypeError(
                "nothing can end a plain block from outside: use `async with`, or `with deadline(...)`"
            )

        def __exit__(self, *exc_info: object) -> None: ...
