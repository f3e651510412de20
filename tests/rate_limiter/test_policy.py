"""The rate limiter around calls, on threads, under asyncio and under trio; its rules have tests of their own."""

import asyncio
import gc
import sys
import threading
import time
import weakref

import pytest
import trio
from tests.collector import collector_off
from tests.dependency import Dependency
from tests.doubles import raising
from tests.rate_limiter.waiting import Queue, acquire

from resilience._runtime import fork
from resilience._runtime.pipeline import Pipeline
from resilience.deadline import deadline
from resilience.errors import ConfigError, DeadlineExceededError, RateLimitedError, RejectedError
from resilience.outcome import Verdict
from resilience.rate_limiter import RateLimiter, RateLimiterSettings
from resilience.testing import FakeClock, script

ALGORITHMS = ["gcra", "sliding_window", "fixed_window"]


def limiter(rate=10, burst=1, **settings):
    """One permit every 0.1 seconds, and none saved up."""
    return RateLimiter("stock", rate=rate, burst=burst, **settings)


def windowed(algorithm, rate=2, per=1.0, **settings):
    return RateLimiter("stock", rate=rate, per=per, algorithm=algorithm, **settings)


def approx(seconds):
    return pytest.approx(seconds, abs=1e-6)  # a microsecond is no wait


def admitted(limited, tries, permits=1):
    return sum(bool(limited.try_acquire(permits)) for _ in range(tries))


def counts(limited):
    kinds = ("acquired", "waited", "rejected", "timed_out", "cancelled")
    return {kind: n for kind in kinds if (n := getattr(limited.counts, kind))}


async def refused(runtime, limited):
    """Make a call that must be refused, and return the error."""
    fetch = script("answer")
    with pytest.raises(RateLimitedError) as caught:
        await runtime.call(limited, fetch)
    assert fetch.calls == 0
    return caught.value


# --- calls -------------------------------------------------------------------------------------------------------


def test_a_good_result_comes_out_as_it_is(runtime):
    async def body():
        return await runtime.wrap(limiter(), lambda: "answer")()

    assert runtime.run(body) == "answer"


def test_an_error_comes_out_as_it_is_and_spends_its_permit(runtime, fake_clock):
    error = ConnectionError("down")
    limited = limiter()

    async def body():
        with pytest.raises(ConnectionError) as caught:
            await runtime.wrap(limited, raising(error))()
        assert caught.value is error

    runtime.run(body)
    assert limited.remaining() == 0


def test_a_refused_call_does_not_run_and_says_exactly_when_to_come_back(runtime, fake_clock):
    limited = limiter()

    async def body():
        await runtime.call(limited, int)
        fake_clock.advance(0.03)
        error = await refused(runtime, limited)
        assert (error.policy, error.retry_after) == ("stock", approx(0.07))
        assert str(error).startswith("'stock' is over its rate; retry after 0.07")

    runtime.run(body)


def test_who_comes_back_when_told_is_served_and_a_little_earlier_is_not(runtime, fake_clock):
    limited = limiter()

    async def body():
        await runtime.call(limited, int)
        error = await refused(runtime, limited)
        fake_clock.advance(error.retry_after - 0.001)
        error = await refused(runtime, limited)
        assert error.retry_after == approx(0.001)
        fake_clock.advance(error.retry_after)
        assert await runtime.call(limited, script("answer")) == "answer"

    runtime.run(body)


def test_a_refusal_keeps_nothing_alive_and_spends_nothing(runtime, fake_clock):
    limited = limiter()

    async def body():
        await runtime.call(limited, int)
        for _ in range(5):
            error = await refused(runtime, limited)
            assert error.__cause__ is None
            assert error.__context__ is None
            assert error.retry_after == approx(0.1)

    runtime.run(body)


def test_the_burst_may_be_taken_at_once_and_comes_back_one_by_one(runtime, fake_clock):
    limited = limiter(burst=3)

    async def body():
        for _ in range(3):
            await runtime.call(limited, int)
        await refused(runtime, limited)
        fake_clock.advance(0.2)
        assert limited.remaining() == 2
        await runtime.call(limited, int)
        await runtime.call(limited, int)
        assert (await refused(runtime, limited)).retry_after == approx(0.1)

    runtime.run(body)


def test_a_long_pause_saves_up_no_more_than_the_burst(fake_clock):
    limited = limiter(burst=3)
    fake_clock.advance(3_600.0)
    assert admitted(limited, 10) == 3


def test_without_a_burst_the_permits_of_one_period_may_be_taken_at_once(fake_clock):
    assert admitted(RateLimiter(rate=5, per=60.0), 10) == 5


def test_an_ignored_call_gives_its_permit_back(runtime, fake_clock):
    limited = limiter()

    async def body():
        with pytest.raises(RejectedError, match="inner"):
            await runtime.call(limited, raising(RejectedError("inner")))
        assert limited.remaining() == 1

    runtime.run(body)


def test_a_cancelled_call_gives_its_permit_back(async_runtime, fake_clock):
    limited = limiter()

    async def body():
        dependency = Dependency(async_runtime)
        job = async_runtime.spawn(async_runtime.wrap(limited, dependency.ask))
        await dependency.called(1)
        assert limited.remaining() == 0
        async_runtime.cancel(job)
        await job.join()
        assert limited.remaining() == 1

    async_runtime.run(body)


def test_calls_run_side_by_side(runtime):
    """TH-1: no lock is held around a call."""

    async def body():
        dependency = Dependency(runtime)
        fetch = runtime.wrap(RateLimiter(rate=1_000), dependency.ask)
        jobs = [runtime.spawn(fetch) for _ in range(3)]
        await dependency.called(3)
        for request in dependency.requests:
            request.answer()
        assert [await job for job in jobs] == ["answer"] * 3

    runtime.run(body)


def test_a_stream_spends_one_permit_when_it_begins(runtime, fake_clock):
    limited = limiter()

    async def numbers():
        yield 1
        yield 2

    async def body():
        stream = runtime.wrap(limited, numbers)
        assert [item async for item in stream()] == [1, 2]
        with pytest.raises(RateLimitedError):
            await anext(stream())

    runtime.run(body)


# --- what its peers get wrong ------------------------------------------------------------------------------------


def test_th_3_a_limiter_far_from_its_limit_refuses_nobody(runtime):
    limited = RateLimiter(rate=1e9, burst=10**9)

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


@pytest.mark.parametrize("burst", [1, 7])
def test_li_1_no_interval_sees_more_than_the_burst_and_the_rate(runtime, still_clock, burst):
    limited = limiter(rate=100, burst=burst)
    instants = []

    async def body():
        fetch = runtime.wrap(limited, lambda: instants.append(still_clock.now()))

        async def caller():
            for _ in range(5):
                try:
                    await fetch()
                except RateLimitedError:
                    await runtime.checkpoint()

        for _ in range(15):
            await runtime.gather(*[caller] * 4)
            still_clock.advance(0.007)

    runtime.run(body)
    for first, start in enumerate(instants):
        for last in range(first, len(instants)):
            assert last - first + 1 <= burst + 100 * (instants[last] - start) + 1e-6
    # Nor is anything lost: so many come back in 14 steps of 7 ms.
    assert len(instants) >= burst + 7


def test_li_1_a_thousand_at_once_get_the_burst_exactly(runtime, fake_clock):
    limited = limiter(rate=1, burst=100)
    callers = 1_000 if runtime.cancels else 16
    each = 1 if runtime.cancels else 20

    async def body():
        async def caller():
            return admitted(limited, each)

        return sum(await runtime.gather(*[caller] * callers))

    assert runtime.run(body) == 100


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
def test_li_2_nothing_happens_where_a_second_ends(fraction):
    with FakeClock(start=1_000_000.0 + fraction) as clock:
        limited = limiter(rate=60, burst=3)
        served = 0
        for _ in range(100):
            served += admitted(limited, 5)
            clock.advance(0.01)
        assert served <= 3 + 60 * 0.99


def test_li_3_those_who_wait_are_served_in_the_order_in_which_they_came(runtime, still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        for name in range(8):
            await queue.join(name)
        await queue.drain(still_clock)
        assert queue.served == list(range(8))

    runtime.run(body)


def test_li_4_those_who_want_many_are_not_overtaken_by_those_who_want_one(runtime, still_clock):
    limited = limiter(burst=5, max_wait=60.0)
    admitted(limited, 5)

    async def body():
        queue = Queue(runtime, limited)
        for name, permits in enumerate([5, 1, 1, 4, 1]):
            await queue.join(name, permits)
        await queue.drain(still_clock)
        assert queue.served == [0, 1, 2, 3, 4]

    runtime.run(body)


def test_li_4_nobody_who_wants_one_passes_by_the_line(runtime, still_clock):
    limited = limiter(burst=5, max_wait=60.0)
    admitted(limited, 5)

    async def body():
        queue = Queue(runtime, limited)
        await queue.join("heavy", 5)
        still_clock.advance(0.3)
        rejection = limited.try_acquire()
        assert not rejection
        # 0.2 s until the five are there, and 0.1 s for one more.
        assert rejection.retry_after == approx(0.3)
        still_clock.advance(0.2)
        await queue.jobs[0]

    runtime.run(body)


def test_li_5_one_who_is_cancelled_in_line_gives_its_place_back(async_runtime, still_clock):
    limited = limiter(rate=5, burst=5, max_wait=60.0)
    admitted(limited, 5)

    async def body():
        queue = Queue(async_runtime, limited)
        heavy = await queue.join("heavy", 5)
        light = await queue.join("light")
        async_runtime.cancel(heavy)
        await heavy.join()
        assert queue.waiting() == 1
        still_clock.advance(0.2)
        await light
        assert queue.served == ["light"]

    async_runtime.run(body)


def test_li_5_who_stands_behind_one_who_is_cancelled_goes_at_once_if_there_is_enough(
    async_runtime, still_clock
):
    limited = limiter(burst=5, max_wait=60.0)
    admitted(limited, 5)

    async def body():
        queue = Queue(async_runtime, limited)
        heavy = await queue.join("heavy", 5)
        light = await queue.join("light", 2)
        still_clock.advance(0.2)
        assert not light.done()
        now = still_clock.now()
        async_runtime.cancel(heavy)
        await light
        assert still_clock.now() == now

    async_runtime.run(body)


@pytest.mark.parametrize("burst", [1, 20])
def test_li_6_the_rate_is_delivered_in_the_long_run(runtime, fake_clock, burst):
    limited = limiter(rate=20, burst=burst, max_wait=10.0)

    async def body():
        fetch = runtime.wrap(limited, fake_clock.now)
        began = fake_clock.now()
        for _ in range(200 + burst):
            last = await fetch()
        assert last - began == approx(200 / 20)

    runtime.run(body)


def test_li_6_the_rate_is_delivered_by_the_real_clock_too(runtime):
    limited = limiter(rate=500, burst=1, max_wait=10.0)

    async def body():
        fetch = runtime.wrap(limited, time.monotonic)
        instants = [await fetch() for _ in range(26)]
        assert 0.049 <= instants[-1] - instants[0] < 2.0

    runtime.run(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_li_7_more_than_the_burst_is_an_error_at_once(runtime, fake_clock, algorithm):
    limited = windowed(algorithm, rate=3, max_wait=60.0)
    now = fake_clock.now()

    async def body():
        for ask in (
            limited.try_acquire,
            limited.reserve,
            limited.guard,
            lambda permits: limited.acquire(permits),
        ):
            with pytest.raises(ValueError, match=r"from 1 to 3, the burst of 'stock', got 4"):
                ask(4)
        with pytest.raises(ValueError, match="from 1 to 3"):
            await acquire(runtime, limited, 4)

    runtime.run(body)
    assert fake_clock.now() == now
    assert limited.remaining() == 3


@pytest.mark.parametrize("permits", [0, -1, 1.0, True, "1", None, float("nan")])
def test_permits_are_a_whole_number_of_at_least_one(runtime, permits):
    limited = limiter(burst=3)

    async def body():
        with pytest.raises(ValueError, match="must be a whole number from 1 to 3"):
            await acquire(runtime, limited, permits)
        with pytest.raises(ValueError, match="must be a whole number from 1 to 3"):
            limited.try_acquire(permits)

    runtime.run(body)


@pytest.fixture
def wall_clock(monkeypatch):
    """Let the wall clock jump by so many seconds."""
    time_of_day, nanoseconds = time.time, time.time_ns

    def jump(seconds):
        monkeypatch.setattr(time, "time", lambda: time_of_day() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(seconds * 1e9))

    return jump


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ck_3_a_wall_clock_that_jumps_forward_brings_no_permits(runtime, wall_clock, algorithm):
    limited = windowed(algorithm, per=60.0)

    async def body():
        assert admitted(limited, 3) == 2
        wall_clock(+7_200.0)
        await refused(runtime, limited)

    runtime.run(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ck_4_a_wall_clock_that_jumps_back_blocks_nobody(runtime, wall_clock, algorithm):
    limited = windowed(algorithm, per=0.04)

    async def body():
        admitted(limited, 2)
        wall_clock(-7_200.0)
        await runtime.until(lambda: limited.remaining() > 0)
        await runtime.call(limited, int)

    runtime.run(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ck_4_a_clock_that_goes_back_blocks_nobody_who_had_a_permit_left(algorithm):
    with FakeClock(start=1_000.0):
        limited = windowed(algorithm)
        assert limited.try_acquire()
    with FakeClock(start=500.0):
        assert limited.try_acquire()
        assert not limited.try_acquire()


# --- permits by hand ---------------------------------------------------------------------------------------------


def test_a_rejection_says_exactly_when_so_many_can_be_had(fake_clock):
    limited = limiter(burst=4)
    limited.try_acquire(3)
    rejection = limited.try_acquire(4)
    assert not rejection
    assert (rejection.policy, rejection.retry_after) == ("stock", approx(0.3))
    error = rejection.error()
    assert isinstance(error, RateLimitedError)
    assert (error.policy, error.retry_after) == ("stock", rejection.retry_after)
    fake_clock.advance(rejection.retry_after)
    assert limited.try_acquire(4)


def test_so_many_permits_are_spent_at_once_or_none(fake_clock):
    limited = limiter(burst=5)
    assert limited.try_acquire(3)
    assert not limited.try_acquire(3)
    assert limited.remaining() == 2
    assert limited.try_acquire(2)


def test_a_permit_that_is_released_was_never_spent(fake_clock):
    limited = limiter(burst=5)
    permit = limited.try_acquire(3)
    permit.release()
    permit.release()
    assert limited.remaining() == 5


@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED])
def test_a_permit_that_is_settled_stays_spent(fake_clock, verdict):
    limited = limiter()
    limited.try_acquire().settle(verdict)
    assert limited.remaining() == 0


def test_a_permit_settled_as_ignored_comes_back(fake_clock):
    limited = limiter()
    limited.try_acquire().settle(Verdict.IGNORED)
    assert limited.remaining() == 1


def test_a_permit_that_comes_back_serves_the_first_in_line(runtime, still_clock):
    limited = limiter(max_wait=60.0)

    async def body():
        permit = limited.try_acquire()
        queue = Queue(runtime, limited)
        job = await queue.join("waiting")
        now = still_clock.now()
        permit.release()
        await job
        assert still_clock.now() == now

    runtime.run(body)


def test_nobody_uses_it_and_it_is_idle_again(fake_clock):
    limited = limiter(burst=2)
    assert limited.is_idle
    limited.try_acquire()
    assert not limited.is_idle
    fake_clock.advance(0.1)
    assert limited.is_idle


# --- waiting by hand ---------------------------------------------------------------------------------------------


def test_acquire_waits_for_its_turn(runtime, fake_clock):
    limited = limiter(max_wait=1.0)
    now = fake_clock.now()

    async def body():
        for _ in range(4):
            assert await acquire(runtime, limited)

    runtime.run(body)
    assert fake_clock.now() - now == approx(0.3)


def test_acquire_waits_for_as_many_as_it_wants(runtime, fake_clock):
    limited = limiter(burst=5, max_wait=1.0)
    now = fake_clock.now()

    async def body():
        await acquire(runtime, limited, 5)
        await acquire(runtime, limited, 4)

    runtime.run(body)
    assert fake_clock.now() - now == approx(0.4)


def test_acquire_does_not_wait_unless_it_may(runtime, fake_clock):
    limited = limiter()
    now = fake_clock.now()

    async def body():
        await acquire(runtime, limited)
        with pytest.raises(RateLimitedError) as caught:
            await acquire(runtime, limited)
        assert caught.value.retry_after == approx(0.1)

    runtime.run(body)
    assert fake_clock.now() == now


def test_acquire_may_wait_longer_than_the_limiter_says(runtime, fake_clock):
    limited = limiter()

    async def body():
        await acquire(runtime, limited)
        assert await acquire(runtime, limited, max_wait=0.11)

    runtime.run(body)


def test_acquire_may_wait_less_than_the_limiter_says(runtime, fake_clock):
    limited = limiter(max_wait=60.0)

    async def body():
        await acquire(runtime, limited)
        with pytest.raises(RateLimitedError):
            await acquire(runtime, limited, max_wait=0)

    runtime.run(body)


def test_acquire_may_wait_for_years(runtime, fake_clock):
    limited = limiter(rate=1, per=3_600.0)

    async def body():
        await acquire(runtime, limited)
        assert await acquire(runtime, limited, max_wait=1e9)

    runtime.run(body)


@pytest.mark.parametrize("max_wait", [-0.1, -1, float("nan"), float("inf"), True, "1", 10**400])
def test_a_wait_that_is_no_length_of_time_is_an_error_that_says_so(runtime, max_wait):
    limited = limiter()

    async def body():
        with pytest.raises(
            ValueError, match=r"^max_wait must be a finite number of seconds >= 0 or None, got \S"
        ):
            await acquire(runtime, limited, max_wait=max_wait)
        assert limited.remaining() == 1

    runtime.run(body)


def test_who_would_wait_too_long_is_refused_at_once(runtime, fake_clock):
    limited = limiter()
    now = fake_clock.now()

    async def body():
        await acquire(runtime, limited)
        with pytest.raises(RateLimitedError) as caught:
            await acquire(runtime, limited, max_wait=0.099)
        assert caught.value.retry_after == approx(0.1)

    runtime.run(body)
    assert fake_clock.now() == now


def test_who_would_wait_too_long_behind_others_is_refused_at_once_with_the_time_behind_them(
    runtime, still_clock
):
    limited = limiter(burst=3, max_wait=60.0)
    limited.try_acquire(3)

    async def body():
        queue = Queue(runtime, limited)
        await queue.join("first", 3)
        await queue.join("second", 2)
        with pytest.raises(RateLimitedError) as caught:
            await acquire(runtime, limited, max_wait=0.59)
        assert caught.value.retry_after == approx(0.6)
        await queue.join("third", max_wait=0.61)
        await queue.drain(still_clock)
        assert queue.served == ["first", "second", "third"]

    runtime.run(body)


def test_a_call_waits_in_the_same_line(runtime, still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        call = runtime.wrap(limited, lambda: queue.served.append("call"))

        async def enter():
            async with runtime.guard(limited):
                queue.served.append("block")

        await queue.join("by hand")
        await queue.joins(call)
        await queue.joins(enter)
        await queue.drain(still_clock)
        assert queue.served == ["by hand", "call", "block"]

    runtime.run(body)


def test_threads_and_tasks_stand_in_one_line(still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()
    served = []

    def on_a_thread(number):
        limited.acquire()
        served.append(number)

    async def in_a_task(number):
        await limited.aacquire()
        served.append(number)

    ways = [
        on_a_thread,
        lambda number: asyncio.run(in_a_task(number)),
        lambda number: trio.run(in_a_task, number),
    ]
    threads = []

    def wait_until(holds):
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, "it never came about"
            time.sleep(0.001)

    for number, way in enumerate(ways * 2):
        threads.append(threading.Thread(target=way, args=(number,), daemon=True))
        threads[-1].start()
        wait_until(lambda number=number: len(limited._line) == number + 1)
    for number in range(6):
        still_clock.advance(0.1)
        wait_until(lambda number=number: len(served) == number + 1)
    assert served == list(range(6))
    for thread in threads:
        thread.join(20)


def test_one_who_waits_is_not_served_before_its_time(runtime, still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        job = await queue.join("waiting")
        still_clock.advance(0.099)
        await runtime.sleep(0.01)
        assert not job.done()
        still_clock.advance(0.002)
        await job

    runtime.run(body)


def test_whose_deadline_comes_before_its_turn_is_refused_at_once(runtime, fake_clock):
    limited = limiter(max_wait=60.0)
    now = fake_clock.now()

    async def body():
        await acquire(runtime, limited)
        with deadline(0.05), pytest.raises(RateLimitedError) as caught:
            await acquire(runtime, limited)
        assert caught.value.retry_after == approx(0.1)
        with deadline(0.05), pytest.raises(RateLimitedError):
            await runtime.call(limited, int)

    runtime.run(body)
    assert fake_clock.now() == now


@pytest.mark.parametrize("way", ["by hand", "call", "block"])
def test_a_deadline_that_passes_in_line_says_that_nothing_ran(runtime, still_clock, way):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()
    fetch = script("answer")

    async def body():
        queue = Queue(runtime, limited)

        async def wait():
            with deadline(5.0):
                if way == "by hand":
                    await acquire(runtime, limited)
                elif way == "call":
                    await runtime.call(limited, fetch)
                else:
                    async with runtime.guard(limited):
                        fetch()

        job = await queue.joins(wait)
        limited.reconfigure(rate=0.01)  # now its turn comes after its deadline
        still_clock.advance(5.0)
        with pytest.raises(DeadlineExceededError) as caught:
            await job
        assert caught.value.started is False
        assert queue.waiting() == 0

    runtime.run(body)
    assert fetch.calls == 0


def test_who_waited_in_vain_is_refused_when_its_wait_is_over(runtime, still_clock):
    limited = limiter(max_wait=1.0)
    limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        job = await queue.join("waiting")
        limited.reconfigure(rate=0.01)  # now its turn comes too late
        still_clock.advance(1.0)
        with pytest.raises(RateLimitedError) as caught:
            await job
        assert caught.value.retry_after == approx(99.0)
        assert queue.waiting() == 0

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "timed_out": 1}


# --- reservations ------------------------------------------------------------------------------------------------


def test_a_reservation_says_how_long_to_wait(fake_clock):
    limited = limiter(burst=2)
    waits = [limited.reserve().wait for _ in range(5)]
    assert waits == approx([0.0, 0.0, 0.1, 0.2, 0.3])


def test_a_reservation_may_be_for_many(fake_clock):
    limited = limiter(burst=3)
    assert [limited.reserve(3).wait for _ in range(3)] == approx([0.0, 0.3, 0.6])


def test_who_asks_after_a_reservation_comes_after_it(fake_clock):
    limited = limiter()
    limited.reserve()
    limited.reserve()
    assert limited.try_acquire().retry_after == approx(0.2)


def test_a_reservation_that_is_cancelled_leaves_no_trace(fake_clock):
    limited = limiter()
    limited.try_acquire()
    booked = limited.reserve()
    booked.cancel()
    assert limited.try_acquire().retry_after == approx(0.1)


def test_a_reservation_cancelled_twice_is_cancelled_once(fake_clock):
    limited = limiter(burst=3)
    kept, booked = limited.reserve(), limited.reserve()
    booked.cancel()
    booked.cancel()
    assert kept.wait == 0.0
    assert limited.remaining() == 2


def test_a_reservation_that_others_have_booked_behind_stays(fake_clock):
    limited = limiter()
    limited.try_acquire()
    first, second = limited.reserve(), limited.reserve()
    first.cancel()
    assert second.wait == approx(0.2)
    assert limited.reserve().wait == approx(0.3)


def test_a_block_that_fails_cancels_its_reservation(fake_clock):
    limited = limiter()
    with pytest.raises(KeyError), limited.reserve():
        raise KeyError
    assert limited.remaining() == 1


def test_a_block_that_ends_well_keeps_its_reservation(fake_clock):
    limited = limiter()
    with limited.reserve() as booked:
        assert booked.wait == 0.0
    assert limited.remaining() == 0


def test_nobody_books_ahead_of_those_who_wait(runtime, still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        await queue.join("waiting")
        rejection = limited.reserve()
        assert not rejection
        assert rejection.retry_after == approx(0.2)
        await queue.drain(still_clock)

    runtime.run(body)


def test_a_cancelled_reservation_serves_the_first_in_line(runtime, still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()

    async def body():
        booked = limited.reserve()
        queue = Queue(runtime, limited)
        job = await queue.join("waiting")
        booked.cancel()
        still_clock.advance(0.1)
        await job

    runtime.run(body)


def test_a_limiter_with_keys_takes_no_reservations():
    with pytest.raises(TypeError, match="has no reservations"):
        limiter(key=lambda: "all").reserve()


# --- keys --------------------------------------------------------------------------------------------------------


def by_user(**settings):
    return limiter(key=lambda user, **_: user, **settings)


def test_each_key_has_permits_of_its_own(runtime, fake_clock):
    limited = by_user()

    async def body():
        fetch = runtime.wrap(limited, lambda user, **_: user)
        assert await fetch("ann") == "ann"
        with pytest.raises(RateLimitedError) as caught:
            await fetch("ann", page=2)
        assert caught.value.retry_after == approx(0.1)
        assert await fetch("bob") == "bob"

    runtime.run(body)
    assert (limited.remaining(key="ann"), limited.remaining(key="cyd")) == (0, 1)


def test_permits_of_a_key_are_taken_by_hand_too(runtime, fake_clock):
    limited = by_user(burst=3)

    async def body():
        await acquire(runtime, limited, 2, key="ann")
        assert not limited.try_acquire(2, key="ann")
        assert limited.try_acquire(2, key="bob")
        with limited.guard(1, key="ann"):
            assert limited.remaining(key="ann") == 0

    runtime.run(body)


def test_by_hand_the_key_must_be_said(runtime):
    limited = by_user()

    async def body():
        for ask in (limited.try_acquire, limited.guard):
            with pytest.raises(TypeError, match="'stock' keeps keys apart: say which with key="):
                ask()
        with pytest.raises(TypeError, match="say which with key="):
            await acquire(runtime, limited)

    runtime.run(body)


def test_by_hand_no_key_is_taken_where_none_are_kept_apart(runtime):
    limited = limiter(burst=3)

    async def body():
        for ask in (limited.try_acquire, limited.guard, limited.remaining):
            with pytest.raises(TypeError, match=r"'stock' was made without key= .*, got key='ann'"):
                ask(key="ann")
        with pytest.raises(TypeError, match="'stock' was made without key="):
            await acquire(runtime, limited, key="ann")

    runtime.run(body)
    assert limited.remaining() == 3


def test_what_remains_is_asked_for_a_key():
    limited = by_user(burst=3)
    with pytest.raises(TypeError, match="'stock' keeps keys apart: say which with key="):
        limited.remaining()
    limited.try_acquire(key="ann")
    assert (limited.remaining(key="ann"), limited.remaining(key="bob")) == (2, 3)


def test_by_hand_a_key_that_cannot_be_hashed_is_an_error_that_says_so(runtime):
    limited = by_user()

    async def body():
        for ask in (limited.try_acquire, limited.guard, limited.remaining):
            with pytest.raises(TypeError, match=r"key of 'stock' must be hashable, got \['ann'\]"):
                ask(key=["ann"])
        with pytest.raises(TypeError, match="key of 'stock' must be hashable"):
            await acquire(runtime, limited, key=["ann"])

    runtime.run(body)
    assert not limited._lines


def test_a_key_that_cannot_be_hashed_is_an_error_that_says_so(runtime):
    limited = by_user()
    fetch = script("answer")

    async def body():
        with pytest.raises(TypeError, match=r"key= of 'stock' returned \['ann'\], which is not hashable"):
            await runtime.call(limited, fetch, ["ann"])
        assert await runtime.call(limited, fetch, "ann") == "answer"

    runtime.run(body)
    assert fetch.calls == 1


def test_an_error_of_the_key_function_comes_out(runtime):
    def broken(user):
        raise LookupError(user)

    limited = limiter(key=broken)

    async def body():
        with pytest.raises(LookupError, match="ann"):
            await runtime.call(limited, int, "ann")

    runtime.run(body)
    assert counts(limited) == {}


def test_each_key_has_a_line_of_its_own(runtime, still_clock):
    limited = by_user(max_wait=60.0)
    for user in ("ann", "bob"):
        limited.try_acquire(key=user)

    async def body():
        queue = Queue(runtime, limited)
        for number in range(3):
            await queue.join(f"ann {number}", key="ann")
        bob = await queue.join("bob", key="bob")
        still_clock.advance(0.1)
        await runtime.until(lambda: len(queue.served) == 2)
        assert sorted(queue.served) == ["ann 0", "bob"]
        assert bob.done()
        assert limited.try_acquire(key="cyd")
        for number in (1, 2):
            still_clock.advance(0.1)
            await queue.jobs[number]
        assert [name for name in queue.served if name != "bob"] == ["ann 0", "ann 1", "ann 2"]

    runtime.run(body)


def test_nobody_overtakes_those_who_wait_for_the_same_key(runtime, still_clock):
    limited = by_user(burst=3, max_wait=60.0)
    limited.try_acquire(3, key="ann")

    async def body():
        queue = Queue(runtime, limited)
        job = await queue.join("heavy", 3, key="ann")
        still_clock.advance(0.2)
        assert limited.try_acquire(key="ann").retry_after == approx(0.2)
        still_clock.advance(0.1)
        await job

    runtime.run(body)


def test_a_line_that_nobody_stands_in_is_forgotten(runtime, still_clock):
    limited = by_user(max_wait=60.0)

    async def body():
        queue = Queue(runtime, limited)
        for user in range(5):
            limited.try_acquire(key=user)
            await queue.join(user, key=user)
        assert len(limited._lines) == 5
        still_clock.advance(0.1)
        for job in queue.jobs:
            await job
        assert not limited._lines

    runtime.run(body)


def test_one_who_is_cancelled_leaves_the_line_of_its_key(async_runtime, still_clock):
    limited = by_user(burst=5, max_wait=60.0)
    limited.try_acquire(5, key="ann")

    async def body():
        queue = Queue(async_runtime, limited)
        heavy = await queue.join("heavy", 5, key="ann")
        light = await queue.join("light", key="ann")
        still_clock.advance(0.1)
        assert not light.done()
        async_runtime.cancel(heavy)
        await light
        assert not limited._lines

    async_runtime.run(body)


def test_a_refused_call_leaves_no_line_behind(runtime, fake_clock):
    limited = by_user(max_wait=0.05)

    async def body():
        for user in range(5):
            await acquire(runtime, limited, key=user)
            with pytest.raises(RateLimitedError):
                await acquire(runtime, limited, key=user)

    runtime.run(body)
    assert not limited._lines


def test_a_permit_of_a_key_that_comes_back_serves_the_first_of_that_key(runtime, still_clock):
    limited = by_user(max_wait=60.0)

    async def body():
        permit = limited.try_acquire(key="ann")
        queue = Queue(runtime, limited)
        job = await queue.join("ann", key="ann")
        permit.release()
        await job

    runtime.run(body)


def test_a_permit_that_many_keys_share_serves_those_who_wait_for_it(runtime, still_clock):
    limited = by_user(max_keys=1, max_wait=60.0)

    async def body():
        limited.try_acquire(key="ann")
        shared = limited.try_acquire(key="bob")
        assert shared
        queue = Queue(runtime, limited)
        jobs = [await queue.join(user, key=user) for user in ("eve", "dan")]
        now = still_clock.now()
        shared.release()
        await runtime.until(lambda: len(queue.served) == 1)
        assert still_clock.now() == now
        while not all(job.done() for job in jobs):
            still_clock.advance(0.1)
            await runtime.sleep(0.001)

    runtime.run(body)
    assert not limited._lines


def test_a_permit_of_a_key_for_which_nobody_waits_wakes_nobody(fake_clock):
    limited = by_user()
    limited.try_acquire(key="ann").release()
    assert limited.remaining(key="ann") == 1
    assert not limited._lines


def test_beyond_the_most_keys_further_ones_share_one_more(fake_clock):
    limited = by_user(max_keys=2)
    assert [bool(limited.try_acquire(key=user)) for user in range(4)] == [True, True, True, False]


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sliding_window", "fixed_window"])
def test_a_window_gives_out_its_permits_and_says_exactly_when_to_return(runtime, fake_clock, algorithm):
    limited = windowed(algorithm)

    async def body():
        await runtime.call(limited, int)
        fake_clock.advance(0.25)
        await runtime.call(limited, int)
        assert (await refused(runtime, limited)).retry_after == approx(0.75)
        fake_clock.advance(0.75)
        await runtime.call(limited, int)

    runtime.run(body)


def test_a_sliding_window_holds_over_every_period(runtime, fake_clock):
    limited = windowed("sliding_window")

    async def body():
        await runtime.call(limited, int)
        fake_clock.advance(0.9)
        await runtime.call(limited, int)
        fake_clock.advance(0.1)
        await runtime.call(limited, int)
        assert (await refused(runtime, limited)).retry_after == approx(0.9)

    runtime.run(body)


def test_a_fixed_window_begins_anew_with_all_its_permits(runtime, fake_clock):
    limited = windowed("fixed_window")

    async def body():
        await runtime.call(limited, int)
        fake_clock.advance(0.9)
        await runtime.call(limited, int)
        fake_clock.advance(0.1)
        await runtime.call(limited, int)
        await runtime.call(limited, int)
        assert (await refused(runtime, limited)).retry_after == approx(1.0)

    runtime.run(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whatever_the_algorithm_those_who_wait_are_served_in_order(runtime, still_clock, algorithm):
    limited = windowed(algorithm, rate=4, max_wait=60.0)
    limited.try_acquire(4)

    async def body():
        queue = Queue(runtime, limited)
        for name, permits in enumerate([3, 1, 4, 1]):
            await queue.join(name, permits)
        await queue.drain(still_clock, step=0.25)
        assert queue.served == [0, 1, 2, 3]

    runtime.run(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whatever_the_algorithm_a_permit_comes_back(fake_clock, algorithm):
    limited = windowed(algorithm)
    permit = limited.try_acquire(2)
    assert not limited.try_acquire()
    permit.release()
    assert limited.try_acquire(2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whatever_the_algorithm_reservations_are_booked(fake_clock, algorithm):
    limited = windowed(algorithm)
    assert [limited.reserve(2).wait for _ in range(3)] == approx([0.0, 1.0, 2.0])


# --- blocks ------------------------------------------------------------------------------------------------------


def test_a_guarded_block_spends_its_permits(runtime, fake_clock):
    limited = limiter(burst=3)

    async def body():
        async with runtime.guard(limited):
            assert limited.remaining() == 2
        assert limited.remaining() == 2

    runtime.run(body)


def test_a_guarded_block_may_need_many(fake_clock):
    limited = limiter(burst=3)
    with limited.guard(3):
        assert limited.remaining() == 0


def test_a_refused_block_does_not_run(runtime, fake_clock):
    limited = limiter()
    limited.try_acquire()

    async def body():
        with pytest.raises(RateLimitedError) as caught:
            async with runtime.guard(limited):
                pytest.fail("it ran")
        assert caught.value.retry_after == approx(0.1)

    runtime.run(body)


def test_a_guarded_block_may_give_its_permit_back(runtime, fake_clock):
    limited = limiter()

    async def body():
        async with runtime.guard(limited) as permit:
            permit.release()
        assert limited.remaining() == 1

    runtime.run(body)


def test_a_cancelled_block_gives_its_permit_back(async_runtime, fake_clock):
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
        assert limited.remaining() == 1

    async_runtime.run(body)


def test_a_block_that_is_cancelled_while_it_waits_leaves_the_line(async_runtime, still_clock):
    limited = limiter(burst=2, max_wait=60.0)
    limited.try_acquire(2)

    async def body():
        queue = Queue(async_runtime, limited)

        async def enter():
            async with limited.guard(2):
                pytest.fail("it was entered")

        entering = await queue.joins(enter)
        light = await queue.join("light")
        still_clock.advance(0.1)
        async_runtime.cancel(entering)
        await entering.join()
        assert isinstance(entering.error, async_runtime.cancelled)
        await light

    async_runtime.run(body)
    assert counts(limited) == {"acquired": 1, "cancelled": 1, "waited": 1}


# --- new settings ------------------------------------------------------------------------------------------------


def test_a_new_rate_counts_from_now_on(fake_clock):
    limited = limiter()
    limited.try_acquire()
    limited.reconfigure(rate=2)
    assert limited.settings.rate == 2
    assert limited.try_acquire().retry_after == approx(0.5)


def test_new_settings_bring_no_permits(fake_clock):
    limited = limiter()
    limited.try_acquire()
    limited.reconfigure(burst=5)
    assert limited.remaining() == 0
    fake_clock.advance(0.5)
    assert limited.remaining() == 5


def test_new_settings_hold_for_what_is_decorated_already(runtime, fake_clock):
    limited = limiter()

    async def body():
        fetch = runtime.wrap(limited, int)
        await fetch()
        limited.reconfigure(max_wait=1.0)
        await fetch()

    runtime.run(body)


def test_a_faster_rate_serves_those_who_wait_earlier(runtime, still_clock):
    limited = limiter(rate=0.1, max_wait=60.0)
    limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        job = await queue.join("waiting")
        limited.reconfigure(rate=10)
        # Only one who looked again since the change is served as early as this.
        await runtime.until(lambda: not next(iter(limited._line.waiters)).woken)
        still_clock.advance(0.1)
        await runtime.sleep(0.01)
        still_clock.advance(0.1)
        await job

    runtime.run(body)


def test_a_faster_rate_serves_those_who_wait_for_a_key_earlier(runtime, still_clock):
    limited = by_user(rate=0.1, max_wait=60.0)
    limited.try_acquire(key="ann")

    async def body():
        queue = Queue(runtime, limited)
        job = await queue.join("waiting", key="ann")
        limited.reconfigure(rate=10)
        await runtime.until(lambda: not next(iter(limited._lines["ann"].waiters)).woken)
        still_clock.advance(0.1)
        await runtime.sleep(0.01)
        still_clock.advance(0.1)
        await job

    runtime.run(body)


@pytest.mark.parametrize("position", ["first", "in the middle"])
@pytest.mark.parametrize("keyed", [False, True], ids=["one line", "a key"])
def test_who_waits_for_more_than_a_lower_burst_is_refused_at_once_and_the_line_goes_on(
    runtime, still_clock, keyed, position
):
    limited = by_user(burst=5, max_wait=60.0) if keyed else limiter(burst=5, max_wait=60.0)
    how = {"key": "ann"} if keyed else {}
    limited.try_acquire(5, **how)

    async def body():
        queue = Queue(runtime, limited)
        jobs = [await queue.join("light", **how)] if position == "in the middle" else []
        heavy = await queue.join("heavy", 4, **how)
        jobs.append(await queue.join("last", 2, **how))
        now = still_clock.now()
        limited.reconfigure(burst=3)
        with pytest.raises(ValueError, match=r"permits must be a whole number from 1 to 3, .*, got 4"):
            await heavy
        assert still_clock.now() == now
        assert queue.waiting() == len(jobs)
        while not all(job.done() for job in jobs):
            still_clock.advance(0.1)
            await runtime.sleep(0.001)
        assert queue.served[-1] == "last"

    runtime.run(body)
    assert not limited._lines
    assert counts(limited) == {"acquired": 1, "rejected": 1, "waited": 2 if position != "first" else 1}


def test_a_block_that_waits_for_more_than_a_lower_burst_is_refused_too(runtime, still_clock):
    limited = limiter(burst=5, max_wait=60.0)
    limited.try_acquire(5)

    async def body():
        queue = Queue(runtime, limited)

        class Wide:
            guard = staticmethod(lambda: limited.guard(5))

        async def enter():
            async with runtime.guard(Wide):
                pytest.fail("it was entered")

        entering = await queue.joins(enter)
        limited.reconfigure(burst=3)
        with pytest.raises(ValueError, match="from 1 to 3"):
            await entering

    runtime.run(body)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"algorithm": "sliding_window", "burst": None, "rate": 7}, "algorithm"),
        ({"key": len, "rate": 7}, "key"),
        ({"rate": -1, "per": 7.0}, "rate"),
        ({"rats": 1, "per": 7.0}, "rats"),
    ],
)
def test_settings_that_cannot_be_taken_change_nothing(fake_clock, changes, setting):
    limited = limiter(burst=3)
    limited.try_acquire()
    before = limited.settings
    with pytest.raises(ConfigError) as caught:
        limited.reconfigure(**changes)
    assert [problem.setting for problem in caught.value.problems] == [setting]
    assert limited.settings is before
    assert limited.remaining() == 2
    assert limited.reserve(3).wait == approx(0.1)


def test_the_refused_change_of_algorithm_says_what_to_do():
    with pytest.raises(ConfigError, match="must stay 'gcra': make a new limiter, got 'fixed_window'"):
        limiter(burst=None).reconfigure(algorithm="fixed_window")


def test_a_limiter_with_keys_stays_one(fake_clock):
    limited = by_user()
    with pytest.raises(ConfigError, match="must stay given, or stay None"):
        limited.reconfigure(key=None)
    limited.reconfigure(key=lambda user: user.lower())
    limited.call(str, "Ann")
    with pytest.raises(RateLimitedError):
        limited.call(str, "ann")


@pytest.mark.parametrize("order", [1, -1])
def test_a_reload_with_another_algorithm_changes_nothing_at_all(fake_clock, order):
    first, second = RateLimiter("first", rate=5), RateLimiter("second", rate=5)
    pipeline = Pipeline("stock", first, second)
    first.try_acquire()
    settings = first.settings, second.settings
    new = [RateLimiter(rate=50), RateLimiter(rate=50, algorithm="fixed_window")]
    with pytest.raises(ConfigError, match="algorithm must stay 'gcra'"):
        pipeline.reload(*new[::order])
    assert pipeline.policies == (first, second)
    assert (first.settings, second.settings) == settings
    assert (first.remaining(), second.remaining()) == (4, 5)


def test_a_reload_keeps_what_is_owed(fake_clock):
    present = RateLimiter("present", rate=5)
    pipeline = Pipeline("stock", present)
    present.try_acquire(5)
    pipeline.reload(RateLimiter(rate=50, burst=5))
    assert pipeline.policies == (present,)
    assert present.try_acquire().retry_after == approx(0.02)


# --- counts ------------------------------------------------------------------------------------------------------


def test_admissions_and_refusals_are_counted(runtime, fake_clock):
    limited = limiter()

    async def body():
        await runtime.call(limited, int)
        await refused(runtime, limited)
        await refused(runtime, limited)

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "rejected": 2}


def test_a_rejection_by_hand_counts_as_refused(fake_clock):
    limited = limiter()
    assert [bool(limited.try_acquire()) for _ in range(3)] == [True, False, False]
    assert counts(limited) == {"acquired": 1, "rejected": 2}


def test_those_who_waited_are_counted_apart(runtime, fake_clock):
    limited = limiter(max_wait=1.0)

    async def body():
        await acquire(runtime, limited)
        await acquire(runtime, limited)
        await runtime.call(limited, int)

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "waited": 2}


def test_who_would_wait_too_long_counts_as_refused(runtime, fake_clock):
    limited = limiter(max_wait=0.05)

    async def body():
        await acquire(runtime, limited)
        await refused(runtime, limited)

    runtime.run(body)
    assert counts(limited) == {"acquired": 1, "rejected": 1}


def test_who_is_cancelled_in_line_is_counted(async_runtime, still_clock):
    limited = limiter(max_wait=60.0)
    limited.try_acquire()

    async def body():
        queue = Queue(async_runtime, limited)
        job = await queue.join("waiting")
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)

    async_runtime.run(body)
    assert counts(limited) == {"acquired": 1, "cancelled": 1}


# --- what remains ------------------------------------------------------------------------------------------------


def test_one_limiter_guards_many_functions(runtime, fake_clock):
    limited = limiter()

    async def body():
        await runtime.wrap(limited, lambda: "one")()
        with pytest.raises(RateLimitedError):
            await runtime.wrap(limited, lambda: "another")()

    runtime.run(body)


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


def test_nothing_of_a_refused_call_stays_alive(runtime, fake_clock):
    limited = limiter()
    alive = []

    class Precious:
        pass

    async def body():
        fetch = runtime.wrap(limited, lambda precious: None)
        await fetch(None)
        with collector_off():
            precious = Precious()
            alive.append(weakref.ref(precious))
            try:
                await fetch(precious)
            except RateLimitedError:
                pass
            del precious
            assert [each() for each in alive] == [None]

    runtime.run(body)


def test_the_constructor_has_the_defaults_of_the_settings():
    assert RateLimiter().settings == RateLimiterSettings()


def test_one_error_lists_every_problem_those_of_the_name_and_the_judge_too():
    with pytest.raises(ConfigError) as caught:
        RateLimiter(
            " ", rate=-1, per=0, burst=0, max_wait=-1, algorithm="leaky", key=3, max_keys=0, on=3, classify=4
        )
    assert [problem.setting for problem in caught.value.problems] == [
        "name",
        "on",
        "classify",
        "classify",
        "rate",
        "per",
        "burst",
        "max_wait",
        "algorithm",
        "key",
        "max_keys",
    ]
    assert caught.value.subject == "RateLimiter"


def test_a_bad_name_alone_is_a_problem_too():
    with pytest.raises(ConfigError) as caught:
        RateLimiter("")
    assert caught.value.subject == "RateLimiter"
    assert [problem.setting for problem in caught.value.problems] == ["name"]


def test_what_stands_in_the_place_of_the_name_is_told_its_own_place():
    with pytest.raises(ConfigError, match=r"string or None \(write RateLimiter\(rate=\.\.\.\)\), got 10$"):
        RateLimiter(10)
    with pytest.raises(ConfigError, match=r"\(write @RateLimiter\(\), with parentheses\), got <function"):

        @RateLimiter
        def fetch():
            """Never made."""

    with pytest.raises(ConfigError, match=r"None, got ''$"):
        RateLimiter("")


def test_a_call_that_did_not_go_out_gives_back_nothing_across_a_new_burst(runtime, fake_clock):
    limited = RateLimiter("stock", rate=1, burst=1)

    async def body():
        def turned_away():
            fake_clock.advance(0.75)
            limited.reconfigure(burst=10)
            raise RejectedError("inner")

        with pytest.raises(RejectedError):
            await runtime.wrap(limited, turned_away)()
        assert admitted(limited, 20) == 0

    runtime.run(body)
