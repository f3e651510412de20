"""Shares, importance and order around calls, on threads, under asyncio and under trio."""

import sys
import threading
from collections import Counter

import pytest
from tests.dependency import Dependency

from resilience._runtime.flow import Call
from resilience._runtime.pipeline import Pipeline
from resilience.concurrency_limiter import ConcurrencyLimiter
from resilience.errors import ConcurrencyLimitedError, ConfigError
from resilience.outcome import CallContext
from resilience.priority import Priority, priority_scope
from resilience.testing import script

HALVES = {"live": 0.5, "batch": 0.5}


def shared(limit=2, shares=HALVES, **settings):
    return ConcurrencyLimiter("search", limit=limit, shares=shares, share_of=lambda who: who, **settings)


def queueing(limit=1, max_queue=4, max_wait=60.0, **settings):
    return ConcurrencyLimiter("search", limit=limit, max_queue=max_queue, max_wait=max_wait, **settings)


class Line:
    """Those who wait in a limiter, each of whom notes its name when it is served."""

    def __init__(self, runtime, limited):
        self.runtime = runtime
        self.limited = limited
        self.served = []
        self.jobs = {}

    async def queue(self, name, priority=None, ahead=None):
        """Let one more wait; *ahead* are those in line, of whom one may have to go."""
        ahead = self.limited.queued if ahead is None else ahead

        async def call():
            with priority_scope(priority):
                await self.runtime.call(self.limited, lambda who: self.served.append(who), name)

        self.jobs[name] = self.runtime.spawn(call)
        await self.runtime.until(lambda: self.limited.queued == ahead + 1)

    async def end(self):
        for job in self.jobs.values():
            await job.join()


# --- shares ------------------------------------------------------------------------------------------------------


def test_the_arguments_of_a_call_say_whose_share_it_takes(runtime):
    limited = shared()

    async def body():
        dependency = Dependency(runtime)

        async def search(who):
            return await dependency.ask()

        fetch = runtime.wrap(limited, search)
        jobs = [runtime.spawn(fetch, "batch") for _ in range(2)]
        await dependency.called(2)
        with pytest.raises(ConcurrencyLimitedError):
            await fetch("batch")
        with pytest.raises(ConcurrencyLimitedError):
            await fetch("a stranger")
        jobs.append(runtime.spawn(fetch, "live"))
        await dependency.called(3)
        assert (limited.inflight, limited.limit) == (3, 2)
        for request in dependency.requests:
            request.answer()
        assert [await job for job in jobs] == ["answer"] * 3

    runtime.run(body)
    assert limited.is_idle
    assert (limited.counts.acquired, limited.counts.rejected) == (3, 2)


def test_a_call_that_ends_frees_its_place_in_its_share_however_it_ends(runtime):
    limited = shared()

    async def body():
        def fail(who):
            raise KeyError(who)

        for _ in range(5):
            with pytest.raises(KeyError):
                await runtime.call(limited, fail, "live")

    runtime.run(body)
    assert limited.is_idle
    assert limited._partitions.parts["live"].inflight == 0


def test_a_call_waits_for_its_own_share_and_not_for_others(runtime):
    limited = shared(max_queue=4, max_wait=60.0)

    async def body():
        taken = [limited.try_acquire(share="batch") for _ in range(2)]
        line = Line(runtime, limited)
        await line.queue("batch")
        assert await runtime.call(limited, script("at once"), "live") == "at once"
        mine = limited.try_acquire(share="live")
        await line.queue("live")
        mine.release()
        await line.jobs["live"]
        assert (line.served, limited.queued) == (["live"], 1)
        for permit in taken:
            permit.release()
        await line.end()
        assert line.served == ["live", "batch"]

    runtime.run(body)
    assert limited.is_idle


def test_one_who_is_cancelled_in_line_lets_those_of_other_shares_go_on(async_runtime):
    limited = shared(max_queue=4, max_wait=60.0)

    async def body():
        taken = [limited.try_acquire(share=who) for who in ("batch", "live", "batch")]
        line = Line(async_runtime, limited)
        for name in ("live", "batch", "a stranger"):
            await line.queue(name)
        for permit in taken:
            if permit:
                permit.release()
        async_runtime.cancel(line.jobs["live"])  # woken, and cancelled before it could look
        await line.end()
        assert sorted(line.served) == ["a stranger", "batch"]

    async_runtime.run(body)
    assert limited.is_idle
    assert all(part.inflight == 0 for part in limited._partitions.parts.values())


def test_a_share_may_be_that_of_the_priority():
    limited = ConcurrencyLimiter("search", limit=1, shares={Priority.HIGH: 0.5})
    permit = limited.try_acquire()
    assert not limited.try_acquire()
    with priority_scope(Priority.LOW):
        assert not limited.try_acquire()
    with priority_scope(Priority.HIGH), limited.guard():
        assert limited.inflight == 2
    assert limited.try_acquire(share=Priority.HIGH)
    permit.release()
    assert limited.inflight == 1


def test_a_share_may_be_that_of_the_calls_own_priority():
    limited = ConcurrencyLimiter("search", limit=1, shares={Priority.HIGH: 0.5})
    priorities = [None, Priority.HIGH, Priority.LOW]
    asks = [limited._ask_of(Call(print, (), {}, CallContext(priority=each))) for each in priorities]
    assert asks == [(None, 2), (Priority.HIGH, 1), (None, 3)]


def test_a_block_may_name_its_share(runtime):
    limited = shared(limit=1)

    async def body():
        permit = limited.try_acquire(share="batch")
        with limited.guard(share="live"):
            assert limited.inflight == 2
        with pytest.raises(ConcurrencyLimitedError), limited.guard(share="batch"):
            pass
        permit.release()

    runtime.run(body)
    assert limited.is_idle


def test_a_share_too_many_or_too_few_is_an_error():
    with pytest.raises(
        TypeError, match="'search' takes shares from the arguments of calls: say which with share="
    ):
        shared().try_acquire()
    with pytest.raises(TypeError, match="'search' was made without shares=, got share='live'"):
        queueing().guard(share="live")
    with pytest.raises(TypeError, match=r"share of 'search' must be hashable, got \['live'\]"):
        shared().try_acquire(share=["live"])
    with pytest.raises(TypeError, match=r"what share_of returns of 'search' must be hashable, got \{\}"):
        shared().call(lambda who: who, {})


def test_shares_follow_the_limit_and_a_pin():
    limited = shared(limit=4)
    places = lambda: [part.limit for part in limited._partitions.parts.values()]
    assert places() == [2, 2]
    limited.reconfigure(limit=7)
    assert places() == [4, 4]
    limited.pin(1)
    assert places() == [1, 1]
    limited.unpin()
    assert places() == [4, 4]


def test_shares_follow_a_limit_that_learns(fake_clock):
    class Halving:
        limit, window = 8, 1.0

        def on_sample(self, sample):
            self.limit //= 2

    limited = shared(limit=Halving())
    fake_clock.advance(1.0)
    limited.call(lambda who: who, "live")
    assert (limited.limit, limited._partitions.parts["live"].limit) == (4, 2)


def test_new_shares_serve_those_who_wait_for_them(runtime):
    limited = shared(limit=4, shares={"live": 0.25}, max_queue=4, max_wait=60.0)

    async def body():
        taken = [limited.try_acquire(share="batch") for _ in range(4)]
        taken.append(limited.try_acquire(share="live"))
        line = Line(runtime, limited)
        await line.queue("live")
        limited.reconfigure(shares={"live": 0.5})
        await line.end()
        assert line.served == ["live"]
        for permit in taken:
            permit.release()

    runtime.run(body)
    assert limited.is_idle


def test_shares_come_and_go_only_with_a_new_limiter():
    rule = "shares must stay given, or stay None: make a new limiter"
    with pytest.raises(ConfigError, match=rule):
        queueing().reconfigure(shares={Priority.HIGH: 0.5})
    with pytest.raises(ConfigError, match=rule):
        shared().reconfigure(shares=None, share_of=None)
    with pytest.raises(ConfigError, match="share_of must be given"):
        shared().reconfigure(share_of=None)


def test_a_reload_takes_other_shares_and_keeps_what_is_taken():
    limited = shared(limit=4)
    pipeline = Pipeline("search", limited)
    permits = [limited.try_acquire(share="batch") for _ in range(4)]
    pipeline.reload(shared(limit=4, shares={"live": 0.25, "batch": 0.75}))
    assert limited.try_acquire(share="live")
    assert not limited.try_acquire(share="live")
    assert [part.inflight for part in limited._partitions.parts.values()] == [1, 4]
    assert all(permits)


def test_a_child_of_a_fork_has_all_shares_free():
    limited = shared(max_queue=1, max_wait=1.0)
    permits = [limited.try_acquire(share="batch") for _ in range(2)]
    limited._after_fork()
    assert limited.is_idle
    assert all(limited.try_acquire(share=who) for who in ("batch", "batch", "live"))
    permits[0].release()
    assert limited.inflight == 3


def test_the_description_shows_what_was_set():
    described = Pipeline("search", shared(max_queue=4, max_wait=1.0, order="adaptive_lifo")).describe()
    assert "order = 'adaptive_lifo' (set)" in described
    assert "shares = {'live': 0.5, 'batch': 0.5} (set)" in described
    assert "shares = None (default)" in Pipeline("plain", queueing()).describe()


def test_under_contention_shares_hold_and_no_place_is_lost():
    limited = shared(limit=2, shares={"live": 0.5}, max_queue=50, max_wait=20.0)
    lock, running, most = threading.Lock(), Counter(), Counter()
    refused = []

    def work(who):
        with lock:
            running[who] += 1
            most[who] = max(most[who], running[who])
            most["all"] = max(most["all"], running.total())
        with lock:
            running[who] -= 1

    def caller(who):
        for _ in range(100):
            try:
                limited.call(work, who)
            except ConcurrencyLimitedError as error:
                refused.append(error)

    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=caller, args=(who,)) for who in ["live", "batch", "batch", "x"] * 2
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
    finally:
        sys.setswitchinterval(was)
    assert not any(thread.is_alive() for thread in threads)
    assert refused == []
    assert limited.is_idle
    assert limited._partitions.parts["live"].inflight == 0
    assert limited.counts.acquired + limited.counts.waited == 800
    assert most["all"] <= 3
    assert most["batch"] <= 2


# --- importance --------------------------------------------------------------------------------------------------


def test_the_more_important_are_served_first_and_alike_ones_in_order(runtime):
    limited = queueing()

    async def body():
        permit = limited.try_acquire()
        line = Line(runtime, limited)
        for name, priority in [("a", Priority.LOW), ("b", None), ("c", Priority.CRITICAL), ("d", None)]:
            await line.queue(name, priority)
        permit.release()
        await line.end()
        assert line.served == ["c", "b", "d", "a"]

    runtime.run(body)
    assert limited.is_idle


def test_one_who_matters_more_takes_the_place_in_a_full_line_of_one_who_matters_least(runtime):
    limited = queueing(max_queue=3)

    async def body():
        permit = limited.try_acquire()
        line = Line(runtime, limited)
        for name, priority in [("a", Priority.LOW), ("b", Priority.LOW), ("c", Priority.NORMAL)]:
            await line.queue(name, priority)
        await line.queue("d", Priority.HIGH, ahead=2)
        await runtime.until(line.jobs["b"].done)
        with pytest.raises(ConcurrencyLimitedError):
            await line.jobs["b"]
        with priority_scope(Priority.LOW), pytest.raises(ConcurrencyLimitedError):
            await runtime.call(limited, script("never"))
        permit.release()
        await line.end()
        assert line.served == ["d", "c", "a"]

    runtime.run(body)
    assert limited.is_idle
    assert (limited.counts.waited, limited.counts.rejected) == (3, 2)


def test_a_block_waits_with_the_priority_around_it(runtime):
    limited = queueing()
    served = []

    async def body():
        permit = limited.try_acquire()
        jobs = []

        async def enter(name, priority):
            with priority_scope(priority):
                async with runtime.guard(limited):
                    served.append(name)

        for ahead, priority in enumerate([Priority.LOW, Priority.HIGH]):
            jobs.append(runtime.spawn(enter, priority.value, priority))
            await runtime.until(lambda ahead=ahead: limited.queued == ahead + 1)
        permit.release()
        for job in jobs:
            await job

    runtime.run(body)
    assert served == ["high", "low"]


def test_a_call_waits_with_its_own_priority_if_it_has_one():
    limited = queueing()
    with priority_scope(Priority.HIGH):
        calls = [Call(print, (), {}, CallContext(priority=each)) for each in (None, Priority.LOW)]
        assert [limited._waiter(call).group for call in calls] == [(1, None), (3, None)]
        assert limited._waiter(1).group == (1, None)


# --- the last first ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order, served", [("fifo", ["a", "b", "c", "d"]), ("adaptive_lifo", ["d", "c", "a", "b"])]
)
def test_the_last_to_come_goes_first_while_the_line_is_long_if_that_was_asked_for(runtime, order, served):
    limited = queueing(order=order)

    async def body():
        permit = limited.try_acquire()
        line = Line(runtime, limited)
        for name in "abcd":
            await line.queue(name)
        permit.release()
        await line.end()
        assert line.served == served

    runtime.run(body)
    assert limited.is_idle


def test_another_order_holds_from_then_on(runtime):
    limited = queueing()

    async def body():
        permit = limited.try_acquire()
        line = Line(runtime, limited)
        for name in "abcd":
            await line.queue(name)
        limited.reconfigure(order="adaptive_lifo")
        permit.release()
        await line.end()
        assert line.served == ["d", "c", "a", "b"]

    runtime.run(body)
