"""A clock that tests move, and that whatever the package does sleeps by."""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

from resilience import _clock
from resilience._core.check import Check
from resilience._runtime import budgets, fork
from resilience._runtime.flow import Waiter
from resilience.testing._tasks import Tasks
from resilience.testing._threads import Threads, Worker
from resilience.testing._timeline import Timeline, Timer
from resilience.typing import Budget, Clock, Seconds


class FakeClock:
    """
    A clock that stands still until it is moved; every policy follows it while the block runs.

    It takes the place of the package's clock, sleeps and timeouts, for policies made before as
    well. It does not touch ``time.sleep``, ``asyncio.sleep`` or anything else in your own code.

    It begins without any default budget, the one that retries and hedges of one name share, and puts
    the former ones back at its end: what one test spends, another one does not miss. Nothing else is
    set apart. A budget passed as ``budget=``, and whatever a policy that was made before has learnt
    (a circuit that is open, permits, latencies, cached results), is the same in the block and after it.

    It moves by itself as soon as nothing else can happen. On a thread that is at once: a backoff of
    ten seconds takes none. In an event loop that is when every other task is blocked; those who
    sleep then wake one by one, in the order of their instants, each at its own, and at one instant
    in the order in which they went to sleep, after the timeouts. A timeout alone never moves it.

    Args:
        start: The first instant, in seconds. Default: the real monotonic time, or where an earlier
            fake clock of this process ended, if that is later, so that time never goes back.
        auto_advance: Whether it moves by itself. If not, whoever sleeps waits until another thread
            or task calls `advance`.

    Attributes:
        sleeps: The sleeps asked for, in seconds and in order: the backoffs of retries.

    Raises:
        ConfigError: *start* is not a finite number, or *auto_advance* is not a bool.

    Example:
        >>> from resilience import Retry
        >>> from resilience.testing import FakeClock, fail_times
        >>> with FakeClock() as clock:
        ...     Retry(attempts=3).call(fail_times(2, ConnectionError, then="here"))
        'here'
        >>> len(clock.sleeps)
        2

    """

    def __init__(self, start: Seconds | None = None, *, auto_advance: bool = True) -> None:
        check = Check("FakeClock")
        if start is not None:
            check.number("start", start)
        check.flag("auto_advance", auto_advance)
        check.done()
        self.sleeps: list[Seconds] = []
        first = max(_clock.monotonic(), _latest.instant) if start is None else float(start)
        self._timeline = Timeline(first, auto=auto_advance)
        self._threads = Threads(self._timeline)
        self._tasks = Tasks(self._timeline)
        self._outer: tuple[Clock, FakeClock | None, dict[str, Budget]] | None = None
        fork.register(self)

    def __enter__(self) -> Self:
        if self._outer is not None:
            raise RuntimeError("a FakeClock is entered once: make a new one")
        self._outer = _clock.monotonic, _clock.fake, budgets.replace({})
        _clock.fake = self
        _clock.replace(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outer is not None:
            outer, _clock.fake, former = self._outer
            _clock.replace(outer)
            budgets.replace(former)
        _latest.instant = max(_latest.instant, self.now())
        self._timeline.over = True
        self._threads.wake_all()
        self._tasks.wake_all()

    def __call__(self) -> Seconds:
        """Return the present instant, in seconds."""
        return self._timeline.now

    def now(self) -> Seconds:
        """Return the present instant, in seconds."""
        return self._timeline.now

    def advance(self, seconds: Seconds) -> None:
        """
        Let *seconds* pass: fire the timeouts on the way, in order, and wake whoever is due.

        Those who slept run after that, in order, and see the time at its end.

        Args:
            seconds: How long, a finite number >= 0.

        Raises:
            ConfigError: *seconds* is not such a number.

        """
        check = Check("advance")
        check.seconds("seconds", seconds, zero=True)
        check.done()
        self._timeline.move_all_the_way(self._timeline.after(seconds))

    def sleep(self, seconds: Seconds) -> None:
        """Let *seconds* pass on this thread, as policies do."""
        if seconds <= 0:
            return
        self.sleeps.append(seconds)
        self._threads.rest(None, seconds)

    async def asleep(self, seconds: Seconds) -> None:
        """Let *seconds* pass in this task, as policies do."""
        if seconds <= 0:
            from anyio.lowlevel import checkpoint  # noqa: PLC0415  # anyio comes with the first async use

            await checkpoint()
            return
        self.sleeps.append(seconds)
        await self._tasks.rest(None, seconds)

    # For the drivers alone.

    def park(self, waiter: Waiter, seconds: Seconds | None) -> None:
        """Block this thread until *waiter* is woken, at most for *seconds*."""
        self._threads.rest(waiter, seconds)

    async def apark(self, waiter: Waiter, seconds: Seconds | None) -> None:
        """Suspend this task until *waiter* is woken, at most for *seconds*."""
        await self._tasks.rest(waiter, seconds)

    def call_at(self, when: Seconds, callback: Callable[[], object]) -> Timer:
        """Call *callback* when the time reaches *when*, in whatever thread moves it."""
        return self._timeline.call_at(when, callback)

    def worker(self, work: Callable[[], None]) -> Worker:
        """Return *work* for a thread that the package starts: time stands still while it computes."""
        return self._threads.worker(work)

    def _after_fork(self) -> None:
        self._timeline.after_fork()
        self._threads.after_fork()
        self._tasks.after_fork()


class _Latest:
    """The latest instant that a fake clock of this process has reached."""

    instant: Seconds = -math.inf


_latest = _Latest()
