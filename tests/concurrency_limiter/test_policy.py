"""The concurrency limiter around calls, on threads, under asyncio and under trio; its rules have tests of their own."""

import asyncio
import gc
import sys
import threading
import time
import weakref

import pytest
import trio
from tests._runtime.test_interrupts import Interrupt
from tests.collector import collector_off
from tests.dependency import Dependency
from tests.doubles import raising

from resilience import limits
from resilience._runtime import fork
from resilience._runtime.pipeline import Pipeline
from resilience.concurrency_limiter import ConcurrencyLimiter, ConcurrencyLimiterSettings
from resilience.deadline import deadline
from resilience.errors import ConcurrencyLimitedError, ConfigError, DeadlineExceededError, RejectedError
from resilience.outcome import Verdict
from resilience.testing import FakeClock, delayed, script

CHANGE = "resilience.concurrency_limiter.limit_change"
FAILED = "resilience.concurrency_limiter.limit_failed"


@pytest.fixture
def still_clock():
    """A clock that only the test moves, so that those who wait do wait."""
    with FakeClock(auto_advance=False) as clock:
        yield clock


def limiter(limit=1, **settings):
    return ConcurrencyLimiter("reports", limit=limit, **settings)


def queueing(limit=1, max_queue=100, max_wait=60.0, **settings):
    return limiter(limit, max_queue=max_queue, max_wait=max_wait, **settings)


def counts(limited):
    kinds = ("acquired", "waited", "rejected", "timed_out", "cancelled")
    return {kind: n for kind in kinds if (n := getattr(limited.counts, kind))}


async def refused(runtime, limited):
    """Make a call that must be refused, and return the error."""
    fetch = script("answer")
    with pytest.raises(ConcurrencyLimitedError) as caught:
        await runtime.call(limited, fetch)
    assert fetch.calls == 0
    return caught.value


class Busy:
    """Calls under way, each until the test answers it, and others behind them in line."""

    def __init__(self, runtime, limited):
        self.runtime = runtime
        self.limited = limited
        self.dependency = Dependency(runtime)
        self.fetch = runtime.wrap(limited, self.dependency.ask)
        self.jobs = []

    async def run(self, calls):
        """Let so many more calls run."""
        for _ in range(calls):
            self.jobs.append(self.runtime.spawn(self.fetch))
            await self.dependency.called(len(self.jobs))
        return self

    async def queue(self, fn):
        """Let one more wait in line."""
        ahead = self.limited.queued
        job = self.runtime.spawn(fn)
        await self.runtime.until(lambda: self.limited.queued == ahead + 1)
        return job

    async def answer(self, number=0):
        """End one call."""
        self.dependency.requests[number].answer()
        await self.jobs[number].join()


# --- calls -------------------------------------------------------------------------------------------------------


def test_a_good_result_comes_out_as_it_is(runtime):
    async def body():
        return await runtime.wrap(limiter(), lambda: "answer")()

    assert runtime.run(body) == "answer"


def test_an_error_comes_out_as_it_is_and_frees_the_place(runtime):
    error = ConnectionError("down")
    limited = limiter()

    async def body():
        for _ in range(3):
            with pytest.raises(ConnectionError) as caught:
                await runtime.wrap(limited, raising(error))()
            assert caught.value is error

    runtime.run(body)
    assert limited.is_idle


def test_as_many_calls_as_the_limit_run_side_by_side(runtime):
    limited = limiter(3)

    async def body():
        busy = await Busy(runtime, limited).run(3)
        assert (limited.inflight, limited.limit) == (3, 3)
        for number in range(3):
            await busy.answer(number)
        assert limited.inflight == 0

    runtime.run(body)


def test_a_call_over_the_limit_is_refused_and_does_not_run(runtime):
    limited = limiter()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        error = await refused(runtime, limited)
        assert (error.policy, error.retry_after) == ("reports", None)
        assert str(error) == "'reports' is at its concurrency limit"
        assert error.__cause__ is error.__context__ is None
        await busy.answer()
        assert await runtime.call(limited, script("answer")) == "answer"

    runtime.run(body)


def test_of_a_thousand_at_once_exactly_as_many_as_the_limit_run(runtime):
    limited = limiter(5)
    callers = 1_000 if runtime.cancels else 16

    async def body():
        dependency = Dependency(runtime)
        fetch = runtime.wrap(limited, dependency.ask)

        async def caller():
            try:
                return await fetch()
            except ConcurrencyLimitedError:
                return "refused"

        jobs = [runtime.spawn(caller) for _ in range(callers)]
        await runtime.until(lambda: sum(job.done() for job in jobs) == callers - 5)
        assert len(dependency.requests) == limited.inflight == 5
        for request in dependency.requests:
            request.answer()
        answers = [await job for job in jobs]
        assert (answers.count("answer"), answers.count("refused")) == (5, callers - 5)

    runtime.run(body)
    assert counts(limited) == {"acquired": 5, "rejected": callers - 5}


def test_th_3_a_limiter_far_from_its_limit_refuses_nobody(runtime):
    limited = limiter(1_000)

    async def body():
        fetch = runtime.wrap(limited, script("answer"))

        async def caller():
            return [await fetch() for _ in range(200)]

        await runtime.gather(*[caller] * 8)

    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        runtime.run(body)
    finally:
        sys.setswitchinterval(was)
    assert counts(limited) == {"acquired": 1_600}
    assert limited.is_idle


def test_a_call_inside_another_is_refused_if_there_is_one_place(runtime):
    """It would wait for itself for ever."""
    limited = limiter()

    async def body():
        async def outer():
            assert await refused(runtime, limited)
            return "answer"

        assert await runtime.call(limited, outer) == "answer"
        assert limited.is_idle

    runtime.run(body)


def test_a_call_inside_another_waits_no_longer_than_it_may(runtime, fake_clock):
    limited = queueing(max_wait=3.0)
    began = fake_clock.now()

    async def body():
        async def outer():
            await refused(runtime, limited)
            return "answer"

        assert await runtime.call(limited, outer) == "answer"

    runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(3.0)
    assert limited.is_idle


def test_an_ignored_call_frees_its_place(runtime):
    limited = limiter()

    async def body():
        with pytest.raises(RejectedError, match="inner"):
            await runtime.call(limited, raising(RejectedError("inner")))

    runtime.run(body)
    assert limited.is_idle


def test_a_cancelled_call_frees_its_place_at_once(async_runtime):
    limited = limiter()

    async def body():
        busy = await Busy(async_runtime, limited).run(1)
        async_runtime.cancel(busy.jobs[0])
        await busy.jobs[0].join()
        assert limited.inflight == 0
        assert await async_runtime.call(limited, script("answer")) == "answer"

    async_runtime.run(body)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_call_frees_its_place(error):
    limited = limiter()
    with pytest.raises(error):
        limited.call(raising(error()))
    assert limited.is_idle


# --- streams -----------------------------------------------------------------------------------------------------


async def numbers():
    yield 1
    yield 2


def test_a_stream_holds_its_place_until_it_ends(runtime):
    limited = limiter()

    async def body():
        items = runtime.wrap(limited, numbers)()
        assert limited.inflight == 0
        for expected in (1, 2):
            assert await anext(items) == expected
            assert limited.inflight == 1
            await refused(runtime, limited)
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        assert limited.is_idle

    runtime.run(body)


def test_a_stream_that_is_left_early_frees_its_place(runtime):
    limited = limiter()

    async def body():
        items = runtime.wrap(limited, numbers)()
        await anext(items)
        await items.aclose()
        assert limited.is_idle

    runtime.run(body)


def test_a_stream_that_breaks_frees_its_place(runtime):
    limited = limiter()

    async def broken():
        yield 1
        raise ConnectionError

    async def body():
        items = runtime.wrap(limited, broken)()
        await anext(items)
        with pytest.raises(ConnectionError):
            await anext(items)
        assert limited.is_idle

    runtime.run(body)


def test_a_stream_over_the_limit_is_refused_at_its_first_item(runtime):
    limited = limiter()

    async def body():
        stream = runtime.wrap(limited, numbers)
        first, second = stream(), stream()
        await anext(first)
        with pytest.raises(ConcurrencyLimitedError):
            await anext(second)
        await first.aclose()

    runtime.run(body)


def test_a_stream_that_ends_lets_the_next_one_in(runtime):
    limited = queueing()

    async def body():
        items = runtime.wrap(limited, numbers)()
        await anext(items)
        job = await Busy(runtime, limited).queue(runtime.wrap(limited, script("served")))
        await items.aclose()
        assert await job == "served"

    runtime.run(body)


# --- waiting in line ---------------------------------------------------------------------------------------------


def test_a_call_that_ends_lets_the_next_one_in(runtime):
    limited = queueing()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        job = await busy.queue(runtime.wrap(limited, script("served")))
        assert (limited.inflight, limited.queued) == (1, 1)
        await busy.answer()
        assert await job == "served"

    runtime.run(body)
    assert limited.is_idle


def test_li_3_those_who_wait_are_served_in_the_order_in_which_they_came(runtime):
    limited = queueing()
    served = []

    async def body():
        busy = await Busy(runtime, limited).run(1)
        jobs = []
        for number in range(8):
            fetch = runtime.wrap(limited, lambda number=number: served.append(number))
            jobs.append(await busy.queue(fetch))
        await busy.answer()
        for job in jobs:
            await job

    runtime.run(body)
    assert served == list(range(8))


def test_nobody_overtakes_those_who_wait(runtime):
    limited = queueing()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        job = await busy.queue(runtime.wrap(limited, script("served")))
        with limited._lock:  # the one who waits cannot look yet
            limited._bulkhead.resize(2)
            assert not limited.try_acquire()
            limited._line.wake_first()
        assert await job == "served"
        await busy.answer()

    runtime.run(body)


def test_calls_and_blocks_stand_in_one_line(runtime):
    limited = queueing()
    served = []

    async def body():
        busy = await Busy(runtime, limited).run(1)

        async def enter():
            async with runtime.guard(limited):
                served.append("block")

        jobs = [
            await busy.queue(runtime.wrap(limited, lambda: served.append("call"))),
            await busy.queue(enter),
            await busy.queue(runtime.wrap(limited, lambda: served.append("another"))),
        ]
        await busy.answer()
        for job in jobs:
            await job

    runtime.run(body)
    assert served == ["call", "block", "another"]


def test_threads_and_tasks_stand_in_one_line():
    limited = queueing()
    served = []

    async def in_a_task(number):
        async def serve():
            served.append(number)

        await limited.acall(serve)

    ways = [
        lambda number: limited.call(served.append, number),
        lambda number: asyncio.run(in_a_task(number)),
        lambda number: trio.run(in_a_task, number),
    ]
    permit = limited.try_acquire()
    threads = []
    for number, way in enumerate(ways * 3):
        threads.append(threading.Thread(target=way, args=(number,), daemon=True))
        threads[-1].start()
        end = time.monotonic() + 20
        while limited.queued <= number:
            assert time.monotonic() < end, "it never came about"
            time.sleep(0.001)
    permit.release()
    for thread in threads:
        thread.join(20)
    assert served == list(range(9))
    assert limited.is_idle


def test_so_many_may_wait_and_no_more(runtime):
    limited = queueing(max_queue=2)

    async def body():
        busy = await Busy(runtime, limited).run(1)
        jobs = [await busy.queue(runtime.wrap(limited, script("served"))) for _ in range(2)]
        await refused(runtime, limited)
        assert limited.queued == 2
        await busy.answer()
        assert [await job for job in jobs] == ["served"] * 2

    runtime.run(body)


def test_who_waits_too_long_is_refused(runtime, fake_clock):
    limited = queueing(max_wait=3.0)
    began = fake_clock.now()

    async def body():
        permit = limited.try_acquire()
        error = await refused(runtime, limited)
        assert error.retry_after is None
        permit.release()

    runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(3.0)
    assert limited.is_idle


@pytest.mark.parametrize("way", ["call", "block"])
def test_a_deadline_that_passes_in_line_says_that_nothing_ran(runtime, fake_clock, way):
    limited = queueing()
    fetch = script("answer")
    began = fake_clock.now()

    async def body():
        permit = limited.try_acquire()
        with deadline(2.0), pytest.raises(DeadlineExceededError) as caught:
            if way == "call":
                await runtime.call(limited, fetch)
            else:
                async with runtime.guard(limited):
                    fetch()
        assert caught.value.started is False
        permit.release()

    runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert fetch.calls == 0
    assert limited.is_idle


def test_li_5_one_who_is_cancelled_in_line_gives_its_place_back(async_runtime):
    limited = queueing(max_queue=1)

    async def body():
        busy = await Busy(async_runtime, limited).run(1)
        first = await busy.queue(busy.fetch)
        async_runtime.cancel(first)
        await first.join()
        assert limited.queued == 0
        second = await busy.queue(async_runtime.wrap(limited, script("second")))
        await busy.answer()
        assert await second == "second"

    async_runtime.run(body)
    assert limited.is_idle


def test_who_stands_behind_one_who_is_cancelled_when_its_turn_has_come_moves_up(async_runtime):
    limited = queueing()

    async def body():
        permit = limited.try_acquire()
        busy = Busy(async_runtime, limited)
        first = await busy.queue(async_runtime.wrap(limited, script("first")))
        second = await busy.queue(async_runtime.wrap(limited, script("second")))
        permit.release()
        async_runtime.cancel(first)  # woken, and cancelled before it could look
        assert await second == "second"
        await first.join()

    async_runtime.run(body)
    assert limited.is_idle


# --- blocks, and permits by hand ---------------------------------------------------------------------------------


def test_a_guarded_block_holds_a_place(runtime):
    limited = limiter()

    async def body():
        async with runtime.guard(limited):
            assert limited.inflight == 1
            await refused(runtime, limited)
        assert limited.is_idle

    runtime.run(body)


def test_an_error_that_leaves_a_guarded_block_frees_its_place(runtime):
    limited = limiter()

    async def body():
        with pytest.raises(ConnectionError):
            async with runtime.guard(limited):
                raise ConnectionError

    runtime.run(body)
    assert limited.is_idle


def test_a_refused_block_does_not_run(runtime):
    limited = limiter()

    async def body():
        async with runtime.guard(limited):
            with pytest.raises(ConcurrencyLimitedError):
                async with runtime.guard(limited):
                    pytest.fail("it ran")

    runtime.run(body)
    assert limited.is_idle


def test_a_guarded_block_may_give_its_place_back_early(runtime):
    limited = limiter()

    async def body():
        async with runtime.guard(limited) as permit:
            permit.release()
            assert limited.is_idle
            async with runtime.guard(limited):
                assert limited.inflight == 1
        assert limited.is_idle

    runtime.run(body)


def test_a_cancelled_block_frees_its_place(async_runtime):
    limited = limiter()

    async def body():
        dependency = Dependency(async_runtime)

        async def work():
            async with limited.guard():
                await dependency.ask()

        job = async_runtime.spawn(work)
        await dependency.called(1)
        async_runtime.cancel(job)
        await job.join()
        assert limited.is_idle

    async_runtime.run(body)


def test_a_block_that_is_cancelled_while_it_waits_leaves_the_line(async_runtime):
    limited = queueing()

    async def body():
        permit = limited.try_acquire()
        busy = Busy(async_runtime, limited)

        async def enter():
            async with limited.guard():
                pytest.fail("it was entered")

        entering = await busy.queue(enter)
        behind = await busy.queue(async_runtime.wrap(limited, script("served")))
        async_runtime.cancel(entering)
        await entering.join()
        assert isinstance(entering.error, async_runtime.cancelled)
        permit.release()
        assert await behind == "served"

    async_runtime.run(body)
    assert counts(limited) == {"acquired": 1, "cancelled": 1, "waited": 1}
    assert limited.is_idle


def test_a_permit_holds_its_place_until_it_is_given_back_and_counts_once():
    limited = limiter(2)
    first, second = limited.try_acquire(), limited.try_acquire()
    assert not limited.try_acquire()
    first.settle(Verdict.BAD)
    first.settle()
    first.release()
    assert limited.inflight == 1
    second.release()
    assert limited.is_idle


def test_a_rejection_knows_no_time_to_come_back():
    limited = limiter()
    permit, rejection = limited.try_acquire(), limited.try_acquire()
    assert (bool(permit), bool(rejection)) == (True, False)
    assert (rejection.policy, rejection.retry_after) == ("reports", None)
    assert isinstance(rejection.error(), ConcurrencyLimitedError)


# --- new settings ------------------------------------------------------------------------------------------------


def test_a_higher_limit_serves_those_who_wait(runtime):
    limited = queueing()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        waiting = [await busy.queue(busy.fetch) for _ in range(3)]
        limited.reconfigure(limit=3)
        await busy.dependency.called(3)
        assert (limited.inflight, limited.queued) == (3, 1)
        await busy.answer()
        await busy.dependency.called(4)
        for request in busy.dependency.requests[1:]:
            request.answer()
        assert [await job for job in waiting] == ["answer"] * 3

    runtime.run(body)


def test_a_lower_limit_lets_calls_under_way_go_on(runtime):
    limited = limiter(3)

    async def body():
        busy = await Busy(runtime, limited).run(3)
        limited.reconfigure(limit=1)
        assert (limited.inflight, limited.limit) == (3, 1)
        for number in range(2):
            await refused(runtime, limited)
            await busy.answer(number)
        await refused(runtime, limited)
        await busy.answer(2)
        assert await runtime.call(limited, script("answer")) == "answer"

    runtime.run(body)


def test_new_settings_of_the_line_leave_the_places_alone(runtime):
    limited = limiter()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        limited.reconfigure(max_queue=1, max_wait=60.0)
        assert limited.inflight == 1
        job = await busy.queue(runtime.wrap(limited, script("served")))
        await busy.answer()
        assert await job == "served"

    runtime.run(body)


def test_settings_that_cannot_work_change_nothing():
    limited = limiter(2)
    before = limited.settings
    with pytest.raises(ConfigError) as caught:
        limited.reconfigure(limit=5, max_queue=3)
    assert [problem.setting for problem in caught.value.problems] == ["max_wait"]
    assert limited.settings is before
    assert limited.limit == 2


def test_a_reload_keeps_the_places_that_are_taken(runtime):
    limited = limiter()
    pipeline = Pipeline("stock", limited)

    async def body():
        busy = await Busy(runtime, limited).run(1)
        pipeline.reload(limiter(2))
        assert pipeline.policies == (limited,)
        assert (limited.inflight, limited.limit) == (1, 2)
        await busy.answer()

    runtime.run(body)


@pytest.mark.parametrize("kind", [limits.Aimd, limits.Gradient2, limits.Vegas])
def test_a_limit_given_anew_with_equal_settings_keeps_what_it_learnt(runtime, fake_clock, kind):
    limited = limiter(kind(initial=8))
    pipeline = Pipeline("stock", limited)

    async def body():
        with pytest.raises(TimeoutError):
            await runtime.call(limited, script(delayed(1.0, TimeoutError())))
        source, learnt = limited.settings.limit, limited.limit
        assert learnt < 8
        pipeline.reload(limiter(kind(initial=8), max_queue=1, max_wait=1.0))
        assert (limited.limit, limited.settings.max_queue) == (learnt, 1)
        limited.reconfigure(limit=kind(initial=8))
        assert limited.limit == learnt
        assert limited.settings.limit is source

    runtime.run(body)


def test_a_limit_given_anew_with_other_settings_begins_anew(runtime, fake_clock):
    limited = limiter(limits.Aimd(initial=8))

    async def body():
        with pytest.raises(TimeoutError):
            await runtime.call(limited, script(delayed(1.0, TimeoutError())))
        limited.reconfigure(limit=limits.Aimd(initial=8, patience=2))
        assert limited.limit == 8

    runtime.run(body)


# --- limits that learn -------------------------------------------------------------------------------------------


class Learning:
    """A limit that does as it is told when it gets a sample: a limit to take, or an error to raise."""

    window = 1.0

    def __init__(self, limit, *orders):
        self.limit = limit
        self.orders = list(orders)
        self.samples = []

    def on_sample(self, sample):
        self.samples.append(sample)
        order = self.orders.pop(0) if self.orders else self.limit
        if isinstance(order, BaseException):
            raise order
        self.limit = order() if callable(order) else order


def changes(events):
    return [
        (
            event.policy,
            event.attributes["resilience.limiter.change"],
            event.attributes["resilience.limiter.previous_limit"],
            event.attributes["resilience.limiter.limit"],
        )
        for event in events.named(CHANGE)
    ]


def test_a_limit_learns_once_a_window_from_how_calls_ended(runtime, fake_clock):
    learning = Learning(10)
    limited = limiter(learning)

    async def body():
        fetch = script(delayed(0.2), delayed(0.3), ConnectionError, delayed(0.1, TimeoutError), delayed(0.6))
        for _ in range(5):
            try:
                await runtime.call(limited, fetch)
            except (ConnectionError, TimeoutError):
                pass
        assert len(learning.samples) == 1

    runtime.run(body)
    (sample,) = learning.samples
    assert (sample.good, sample.bad, sample.timed_out, sample.throttled, sample.peak) == (3, 1, 1, 0, 1)
    assert (sample.mean, sample.shortest) == (pytest.approx(0.3), pytest.approx(0.2))
    assert sample.now == fake_clock.now()


def test_a_limit_that_learnt_holds_from_then_on_and_says_so(runtime, fake_clock, recorded_events):
    limited = limiter(Learning(2, 3, 1))

    async def body():
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 3
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 1

    runtime.run(body)
    assert changes(recorded_events) == [("reports", "increase", 2, 3), ("reports", "decrease", 3, 1)]


def test_a_limit_that_stays_says_nothing(runtime, fake_clock, recorded_events):
    limited = limiter(Learning(2, 2.9))

    async def body():
        await runtime.call(limited, script(delayed(1.0)))

    runtime.run(body)
    assert limited.limit == 2
    assert changes(recorded_events) == []


def test_a_limit_that_grows_serves_those_who_wait(runtime, still_clock):
    limited = queueing(Learning(1, 3))

    async def body():
        busy = await Busy(runtime, limited).run(1)
        waiting = [await busy.queue(busy.fetch) for _ in range(3)]
        still_clock.advance(1.0)
        await busy.answer()
        await busy.dependency.called(4)
        assert (limited.inflight, limited.queued) == (3, 0)
        for request in busy.dependency.requests[1:]:
            request.answer()
        for job in waiting:
            await job

    runtime.run(body)


@pytest.mark.parametrize("limit", [0, -3, 0.5])
def test_a_limit_that_shrinks_leaves_room_for_one(runtime, fake_clock, limit):
    limited = limiter(Learning(2, limit))

    async def body():
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 1
        await runtime.call(limited, int)

    runtime.run(body)


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), None, "7"])
def test_a_limit_that_is_no_number_changes_nothing(runtime, fake_clock, limit):
    limited = limiter(Learning(2, limit))

    async def body():
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 2

    runtime.run(body)


def test_a_limit_that_raises_breaks_no_call_and_is_reported(runtime, fake_clock, recorded_events):
    limited = limiter(Learning(2, LookupError("broken"), 5))

    async def body():
        assert await runtime.call(limited, script(delayed(1.0, "answer"))) == "answer"
        assert (limited.limit, limited.inflight) == (2, 0)
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 5

    runtime.run(body)
    (event,) = recorded_events.named(FAILED)
    assert (event.policy, event.attributes) == ("reports", {"error.type": "LookupError"})


class Moody:
    """A limit whose every part may come to raise."""

    def __init__(self):
        self.broken = None

    def say(self, part, value):
        if self.broken == part:
            raise LookupError(part)
        return value

    @property
    def limit(self):
        return self.say("limit", 2)

    @property
    def window(self):
        return self.say("window", 1.0)

    def on_sample(self, sample):
        self.say("on_sample", None)


@pytest.mark.parametrize("part", ["limit", "window", "on_sample"])
def test_whatever_part_of_a_limit_raises_the_call_goes_on_and_no_place_is_lost(
    runtime, fake_clock, recorded_events, part
):
    moody = Moody()
    limited = limiter(moody)

    async def body():
        moody.broken = part
        for _ in range(3):
            assert await runtime.call(limited, script(delayed(1.0, "answer"))) == "answer"
        fake_clock.advance(1.0)
        with pytest.raises(ConnectionError):
            await runtime.call(limited, raising(ConnectionError()))
        async with runtime.guard(limited) as permit:
            assert permit
        assert (limited.limit, limited.inflight) == (2, 0)
        moody.broken = None
        await runtime.call(limited, script(delayed(1.0)))

    runtime.run(body)
    events = recorded_events.named(FAILED)
    assert len(events) == 4
    assert all(event.attributes == {"error.type": "LookupError"} for event in events)


def test_settings_whose_limit_raises_change_nothing(fake_clock):
    limited = limiter(2)
    before = limited.settings
    moody = Moody()
    moody.broken = "window"
    with pytest.raises(ConfigError, match=r"limit must be .* raises LookupError"):
        limited.reconfigure(limit=moody)
    assert limited.settings is before
    assert limited.limit == 2


def test_a_window_that_a_limit_changes_holds_from_then_on(runtime, fake_clock):
    learning = Learning(5)
    limited = limiter(learning)

    async def body():
        learning.window = 0.25
        await runtime.call(limited, script(delayed(1.0)))
        await runtime.call(limited, script(delayed(0.25)))
        assert len(learning.samples) == 2
        learning.window = None
        await runtime.call(limited, script(delayed(0.25)))
        await runtime.call(limited, script(delayed(100.0)))
        assert len(learning.samples) == 3

    runtime.run(body)


@pytest.mark.parametrize("happens", ["admitted", "refused"])
def test_a_call_that_begins_is_no_reason_for_a_sample(runtime, fake_clock, happens):
    learning = Learning(1)
    limited = limiter(learning)

    async def body():
        permit = limited.try_acquire() if happens == "refused" else None
        fake_clock.advance(5.0)
        assert bool(limited.try_acquire()) is (permit is None)
        assert learning.samples == []

    runtime.run(body)


def test_a_pinned_limit_stays_until_it_is_released(runtime, fake_clock, recorded_events):
    limited = limiter(Learning(2, 7))

    async def body():
        limited.pin(3)
        assert limited.limit == 3
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 3
        limited.unpin()
        assert limited.limit == 7
        limited.unpin()

    runtime.run(body)
    changes = [
        (
            event.attributes["resilience.limiter.previous_limit"],
            event.attributes["resilience.limiter.limit"],
            event.attributes["resilience.limiter.change"],
            event.attributes["resilience.limiter.cause"],
        )
        for event in recorded_events
        if event.name == "resilience.concurrency_limiter.limit_change"
    ]
    assert changes == [(2, 3, "increase", "pinned"), (3, 7, "increase", "unpinned")]


class Told:
    """A limit that calls *asked* whenever it is asked how many there may be, once that is given."""

    window = 0.0

    def __init__(self, limit):
        self.asked = None
        self.number = limit

    @property
    def limit(self):
        if self.asked is not None:
            self.asked()
        return self.number

    def on_sample(self, sample):
        self.number += 1


class Between:
    """A lock that does *between* right after it was let go of, once."""

    def __init__(self, lock, between):
        self.lock = lock
        self.between = between

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *exc_info):
        self.lock.release()
        between, self.between = self.between, None
        if between is not None:
            between()


def test_a_limit_that_is_pinned_while_another_is_learnt_is_not_overruled(fake_clock):
    source = Told(5)
    limited = limiter(source)

    def pin_after_the_next_decision():
        source.asked = None
        limited._lock = Between(limited._lock, lambda: limited.pin(2))

    permit = limited.try_acquire()
    source.asked = pin_after_the_next_decision
    permit.settle()
    assert (limited.limit, source.number) == (2, 6)
    limited.unpin()
    assert limited.limit == 6


def test_a_limit_that_raises_stays_pinned(fake_clock):
    source = Told(5)
    limited = limiter(source)
    limited.pin(2)
    source.asked = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        limited.unpin()
    limited.try_acquire().settle()
    assert limited.limit == 2
    source.asked = None
    limited.unpin()
    assert limited.limit == 6


def test_a_limit_that_is_replaced_while_it_is_let_go_counts_no_more(fake_clock):
    source = Told(5)
    limited = limiter(source)
    limited.pin(2)

    def replace():
        source.asked = None
        limited.reconfigure(limit=9)

    source.asked = replace
    limited.unpin()
    assert limited.limit == 9


def test_an_interrupt_at_any_line_leaves_a_limiter_that_learns(fake_clock):
    struck, n = set(), 0
    while True:
        n += 1
        source = Learning(5, 6, 7, 8, 9)
        limited = limiter(source)
        permit = limited.try_acquire()
        fake_clock.advance(1.0)
        interrupt = Interrupt(n)
        interrupt.run(permit.settle)
        if not interrupt.struck:
            break
        struck.add(interrupt.struck.partition(":")[0])
        if "if sample is not None and" in interrupt.struck or "_learning_from = None" in interrupt.struck:
            continue  # calls nothing, so the interpreter does not look for signals there
        for _ in range(2):
            before = len(source.samples)
            permit = limited.try_acquire()
            fake_clock.advance(1.0)
            permit.settle()
            assert len(source.samples) > before, interrupt.struck
            assert limited.limit == source.limit, interrupt.struck
    assert {"LimitGate._changed", "LimitGate._learn", "LimitGate._resize"} <= struck


def test_a_pinned_limit_outlives_other_settings():
    limited = limiter(5)
    limited.pin(3)
    limited.reconfigure(limit=9)
    assert limited.limit == 3
    limited.unpin()
    assert limited.limit == 9


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "3", None])
def test_what_is_no_limit_cannot_be_pinned(limit):
    limited = limiter(5)
    with pytest.raises(ConfigError, match="limit must be a whole number >= 1"):
        limited.pin(limit)
    limited.unpin()
    assert limited.limit == 5


def test_a_limit_that_no_float_holds_is_an_error_and_not_a_limit_of_one():
    limited = limiter(5)
    for take in (limited.pin, limiter, lambda limit: limited.reconfigure(limit=limit)):
        with pytest.raises(ConfigError, match=r"limit must be less than 1\.8e308"):
            take(10**400)
    assert (limited.limit, limiter(10**300).limit) == (5, 10**300)


def test_those_in_line_are_served_when_a_limit_is_pinned_higher(runtime, still_clock):
    limited = queueing(1)

    async def body():
        busy = await Busy(runtime, limited).run(1)
        job = await busy.queue(busy.fetch)
        limited.pin(2)
        await busy.dependency.called(2)
        assert (limited.inflight, limited.queued) == (2, 0)
        for request in busy.dependency.requests:
            request.answer()
        await job

    runtime.run(body)


def test_the_line_waits_while_a_limit_below_one_rests(runtime, fake_clock):
    limited = limiter(Learning(1, 0.5), max_queue=3, max_wait=10.0)

    async def body():
        await runtime.call(limited, script(delayed(1.0)))
        began = fake_clock.now()
        await runtime.call(limited, script(delayed(1.0)))  # the first one taught it to rest
        assert fake_clock.now() - began == pytest.approx(1.0)
        await runtime.call(limited, script(delayed(1.0)))
        assert fake_clock.now() - began == pytest.approx(3.0)

    runtime.run(body)


def test_a_call_that_fails_keeps_its_error_if_the_limit_raises_too(runtime, fake_clock):
    limited = limiter(Learning(2, LookupError("broken")))

    async def body():
        with pytest.raises(ConnectionError):
            await runtime.call(limited, script(delayed(1.0, ConnectionError)))

    runtime.run(body)
    assert limited.is_idle


def test_a_limit_learns_outside_the_lock(runtime, fake_clock):
    limited = limiter(2)
    held = []

    def look():
        held.append(limited._lock._is_owned())
        return 2

    async def body():
        limited.reconfigure(limit=Learning(2, look))
        await runtime.call(limited, script(delayed(1.0)))

    runtime.run(body)
    assert held == [False]


def test_a_limit_may_make_calls_itself_while_it_learns(runtime, fake_clock):
    limited = limiter(2)

    def ask():
        assert limited.try_acquire()
        return 4

    async def body():
        learning = Learning(2, ask)
        limited.reconfigure(limit=learning)
        await runtime.call(limited, script(delayed(1.0)))
        assert (limited.limit, len(learning.samples)) == (4, 1)

    runtime.run(body)


def test_a_limit_that_was_replaced_while_it_learnt_says_nothing_any_more(
    runtime, fake_clock, recorded_events
):
    limited = limiter(2)

    def replace():
        limited.reconfigure(limit=7)
        return 50

    async def body():
        limited.reconfigure(limit=Learning(2, replace))
        await runtime.call(limited, script(delayed(1.0)))
        assert limited.limit == 7

    runtime.run(body)
    assert changes(recorded_events) == [("reports", "increase", 2, 7)]  # by the new settings


def test_cancelled_and_ignored_calls_teach_a_limit_nothing(async_runtime, fake_clock):
    learning = Learning(5)
    limited = limiter(learning)

    async def body():
        busy = await Busy(async_runtime, limited).run(1)
        async_runtime.cancel(busy.jobs[0])
        await busy.jobs[0].join()
        with pytest.raises(RejectedError, match="inner"):
            await async_runtime.call(limited, raising(RejectedError("inner")))
        await async_runtime.call(limited, script(delayed(1.0)))

    async_runtime.run(body)
    (sample,) = learning.samples
    assert (sample.calls, sample.good) == (1, 1)


def test_on_says_which_errors_are_bad_for_a_limit(runtime, fake_clock):
    learning = Learning(5)
    limited = limiter(learning, on=ConnectionError)

    async def body():
        for error in (ConnectionError, KeyError):
            with pytest.raises(error):
                await runtime.call(limited, raising(error()))
        await runtime.call(limited, script(delayed(1.0)))

    runtime.run(body)
    (sample,) = learning.samples
    assert (sample.good, sample.bad) == (2, 1)


def test_a_limit_keeps_what_it_learnt_when_other_settings_change(runtime, fake_clock):
    limited = limiter(Learning(2, 6))

    async def body():
        await runtime.call(limited, script(delayed(1.0)))
        limited.reconfigure(max_queue=3, max_wait=1.0)
        assert limited.limit == 6

    runtime.run(body)


# --- counts ------------------------------------------------------------------------------------------------------


def test_admissions_and_refusals_are_counted(runtime):
    limited = limiter()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        await refused(runtime, limited)
        await busy.answer()

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "rejected": 1}


def test_a_rejection_by_hand_counts_as_refused():
    limited = limiter()
    permits = [limited.try_acquire() for _ in range(3)]
    assert [bool(permit) for permit in permits] == [True, False, False]
    assert counts(limited) == {"acquired": 1, "rejected": 2}


def test_those_who_waited_are_counted_apart(runtime):
    limited = queueing()

    async def body():
        busy = await Busy(runtime, limited).run(1)
        job = await busy.queue(runtime.wrap(limited, int))
        await busy.answer()
        await job

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "waited": 1}


def test_who_finds_no_room_in_the_line_counts_as_refused(runtime):
    limited = queueing(max_queue=1)

    async def body():
        busy = await Busy(runtime, limited).run(1)
        job = await busy.queue(runtime.wrap(limited, int))
        await refused(runtime, limited)
        await busy.answer()
        await job

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "rejected": 1, "waited": 1}


def test_who_waited_in_vain_is_counted(runtime, fake_clock):
    limited = queueing(max_wait=1.0)

    async def body():
        permit = limited.try_acquire()
        await refused(runtime, limited)
        permit.release()

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "timed_out": 1}


def test_whose_deadline_passed_in_line_is_counted(runtime, fake_clock):
    limited = queueing()

    async def body():
        permit = limited.try_acquire()
        with deadline(2.0), pytest.raises(DeadlineExceededError):
            async with runtime.guard(limited):
                pytest.fail("it was entered")
        permit.release()

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "timed_out": 1}


def test_who_is_cancelled_in_line_is_counted(async_runtime):
    limited = queueing()

    async def body():
        permit = limited.try_acquire()
        job = await Busy(async_runtime, limited).queue(async_runtime.wrap(limited, int))
        async_runtime.cancel(job)
        await job.join()
        permit.release()

    async_runtime.run(body)
    assert counts(limited) == {"acquired": 1, "cancelled": 1}


# --- what remains ------------------------------------------------------------------------------------------------


def test_a_limiter_that_nobody_uses_any_more_is_forgotten():
    before = len(fork._followers)
    limited = limiter()
    guarded = limited(len)
    guarded("four")
    forgotten = weakref.ref(limited)
    del limited, guarded
    gc.collect()
    assert forgotten() is None
    assert len(fork._followers) <= before


def test_a_failed_call_keeps_nothing_alive(runtime):
    alive = []

    class Precious:
        pass

    def failing():
        precious = Precious()
        alive.append(weakref.ref(precious))
        raise ConnectionError

    async def body():
        guarded = runtime.wrap(limiter(), failing)
        with collector_off():
            for _ in range(2):
                try:
                    await guarded()
                except ConnectionError:
                    pass
            assert [each() for each in alive] == [None, None]

    runtime.run(body)


def test_the_constructor_has_the_defaults_of_the_settings():
    assert ConcurrencyLimiter().settings == ConcurrencyLimiterSettings()


def test_one_error_lists_every_problem_those_of_the_name_and_the_judge_too():
    with pytest.raises(ConfigError) as caught:
        ConcurrencyLimiter(" ", limit=0, max_queue=-1, max_wait=-1.0, on=3, classify=4)
    assert [problem.setting for problem in caught.value.problems] == [
        "name",
        "on",
        "classify",
        "classify",
        "limit",
        "max_queue",
        "max_wait",
    ]
    assert caught.value.subject == "ConcurrencyLimiter"


def test_a_bad_name_alone_is_a_problem_too():
    with pytest.raises(ConfigError) as caught:
        ConcurrencyLimiter("")
    assert caught.value.subject == "ConcurrencyLimiter"
    assert [problem.setting for problem in caught.value.problems] == ["name"]


def test_what_stands_in_the_place_of_the_name_is_told_its_own_place():
    for first in (10, Learning(3)):
        with pytest.raises(ConfigError, match=r"None \(write ConcurrencyLimiter\(limit=\.\.\.\)\), got"):
            ConcurrencyLimiter(first)
    with pytest.raises(
        ConfigError, match=r"\(write @ConcurrencyLimiter\(\), with parentheses\), got <function"
    ):

        @ConcurrencyLimiter
        def fetch():
            """Never made."""


@pytest.mark.parametrize("max_wait", ["1", True, float("inf"), float("nan"), -1])
def test_a_wait_that_is_no_length_of_time_is_an_error_that_says_so(max_wait):
    with pytest.raises(ConfigError, match="max_wait must be a finite number of seconds >= 0, got"):
        queueing(max_wait=max_wait)
