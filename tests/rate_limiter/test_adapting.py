"""A rate limiter that learns its rate, around calls, on threads, under asyncio and under trio."""

import math
import os
import threading
from dataclasses import replace

import pytest
from tests._runtime.test_interrupts import Interrupt
from tests.doubles import raising
from tests.rate_limiter.waiting import Queue, acquire

from resilience import Keyed, RateLimiter, Verdict, listen, rates
from resilience._runtime import fork
from resilience._runtime.pipeline import Pipeline
from resilience.errors import ConfigError, RateLimitedError

CHANGE = "resilience.rate_limiter.limit_change"
FAILED = "resilience.rate_limiter.limit_failed"


class Throttled(Exception):
    """What a server answers that has too much to do."""

    def __init__(self, retry_after=0.0):
        super().__init__("429")
        self.retry_after = retry_after


class Scripted:
    """A rate that says one thing after the other; what is an error is raised."""

    window = 1.0

    def __init__(self, *rates):
        self.rate = 10.0
        self.left = list(rates)
        self.samples = []

    def on_sample(self, sample):
        self.samples.append(sample)
        if self.left:
            answer = self.left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            self.rate = answer


def adaptive(rate=None, burst=1, **settings):
    """One permit every 0.1 seconds, and none saved up."""
    return RateLimiter("api", rate=rates.Aimd(start=10) if rate is None else rate, burst=burst, **settings)


def approx(seconds):
    return pytest.approx(seconds, abs=1e-5)


def sent(limited):
    """Permits that the limiter's rate is told were used, a second."""
    return limited._adaptive.watch.meter.read(limited._adaptive.watch.meter.began)


def test_a_reservation_that_is_cancelled_was_never_sent(fake_clock):
    limited = adaptive(Scripted(), burst=10)
    kept, booked = limited.reserve(2), limited.reserve(3)
    assert sent(limited) == 5.0
    for _ in range(2):
        booked.cancel()
    assert (kept.wait, sent(limited)) == (0.0, 2.0)


@pytest.mark.parametrize(("waited", "counted"), [(0.0, 10.0), (0.3, 13.0)])
def test_a_block_that_an_error_leaves_sent_nothing_before_it_was_due(fake_clock, waited, counted):
    limited = adaptive(Scripted(), burst=10)
    limited.reserve(10)
    with pytest.raises(KeyError), limited.reserve(3) as booked:
        assert booked.wait == approx(0.3)
        fake_clock.advance(waited)
        raise KeyError
    assert sent(limited) == counted


def throttle(limited, retry_after=None):
    """Take a permit, and be throttled."""
    limited.try_acquire().settle(Verdict.THROTTLED, retry_after=retry_after)


def told(events):
    """What was said about the rate: before, after and why."""
    keys = ("previous_limit", "limit", "cause")
    return [
        tuple(event.attributes[f"resilience.limiter.{key}"] for key in keys) for event in events.named(CHANGE)
    ]


async def throttled(runtime, limited, retry_after=0.0):
    async def refuse():
        raise Throttled(retry_after)

    with pytest.raises(Throttled):
        await runtime.call(limited, refuse)


# --- what calls teach --------------------------------------------------------------------------------------------


def test_a_throttled_call_cuts_the_rate_and_good_ones_let_it_grow(runtime, fake_clock):
    limited = adaptive(burst=10)

    async def body():
        await throttled(runtime, limited)
        assert limited.rate == 5
        for _ in range(30):
            fake_clock.advance(0.25)
            await runtime.call(limited, int)
        assert 7 <= limited.rate <= 9  # one more each second, while half of it is used

    runtime.run(body)


@pytest.mark.parametrize("error", [ValueError, TimeoutError, ConnectionError])
def test_other_failures_teach_nothing(runtime, fake_clock, error):
    limited = adaptive(burst=10)

    async def fail():
        raise error

    async def body():
        for _ in range(5):
            with pytest.raises(error):
                await runtime.call(limited, fail)
            fake_clock.advance(1.0)

    runtime.run(body)
    assert limited.rate == 10


def test_a_call_that_was_on_its_way_at_the_cut_does_not_cut_again(fake_clock):
    limited = adaptive(rates.Aimd(start=80), burst=None)
    permits = [limited.try_acquire() for _ in range(20)]
    for permit in permits:
        fake_clock.advance(2.0)
        permit.settle(Verdict.THROTTLED)
    assert limited.rate == 40


def test_a_call_that_an_inner_policy_refuses_was_not_sent(fake_clock):
    source = Scripted()
    limited = adaptive(source, burst=10)
    pipeline = Pipeline("api", limited, RateLimiter("inner", rate=1e-9, burst=1))
    for _ in range(10):
        try:
            pipeline.call(int)
        except RateLimitedError:
            fake_clock.advance(0.01)
    fake_clock.advance(1.0)
    limited.try_acquire()
    (sample,) = source.samples
    assert (sample.good, sample.sent < 2) == (1, True)


def test_a_throttled_call_pauses_all_for_as_long_as_the_server_says(runtime, fake_clock):
    limited = adaptive(rates.Fixed(10), burst=5)

    async def body():
        await throttled(runtime, limited, retry_after=3.0)
        with pytest.raises(RateLimitedError) as caught:
            await runtime.call(limited, int)
        assert caught.value.retry_after == approx(3.0)
        fake_clock.advance(3.0 + 1e-6)
        await runtime.call(limited, int)
        with pytest.raises(RateLimitedError) as caught:  # one goes at once, the others one by one
            await runtime.call(limited, int)
        assert caught.value.retry_after == approx(0.1)

    runtime.run(body)
    assert limited.rate == 10


def test_a_number_does_not_follow_the_server(fake_clock):
    limited = RateLimiter("api", rate=10)
    throttle(limited, retry_after=50.0)
    assert limited.try_acquire()
    assert limited.rate == 10
    for method, given in [("follow", {"quota": 1}), ("pin", {"rate": 1}), ("unpin", {})]:
        with pytest.raises(TypeError, match=rf"^{method}\(\) needs a rate that may change: 'api' was made"):
            getattr(limited, method)(**given)


# --- waiting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda limited: limited.pin(10),
        lambda limited: limited.reconfigure(rate=rates.Fixed(10)),
    ],
    ids=["pinned", "reconfigured"],
)
def test_a_faster_rate_serves_those_who_wait_earlier(runtime, still_clock, change):
    limited = adaptive(rates.Fixed(1), max_wait=60)

    async def body():
        queue = Queue(runtime, limited)
        limited.try_acquire()
        for name in "abc":
            await queue.join(name)
        change(limited)
        await queue.drain(still_clock, step=0.1 + 1e-6, rounds=4)
        assert queue.served == ["a", "b", "c"]

    runtime.run(body)


def test_a_rate_that_is_let_go_serves_those_who_wait_earlier(runtime, still_clock):
    limited = adaptive(rates.Cubic(), burst=None, max_wait=60)
    limited.pin(0.1)

    async def body():
        queue = Queue(runtime, limited)
        limited.try_acquire()
        for name in "abc":
            await queue.join(name)
        limited.unpin()
        for job in queue.jobs:
            await job
        assert queue.served == ["a", "b", "c"]

    runtime.run(body)


def test_a_rate_that_grows_serves_those_who_wait_earlier(runtime, still_clock):
    limited = adaptive(Scripted(100.0), max_wait=60)
    first = limited.try_acquire()

    async def body():
        queue = Queue(runtime, limited)
        still_clock.advance(1.0)
        limited.try_acquire()
        await queue.join("a")
        first.settle(Verdict.GOOD)
        assert limited.rate == 100
        still_clock.advance(0.01 + 1e-6)
        await queue.jobs[0]

    runtime.run(body)


def test_a_slower_rate_serves_those_who_wait_later(runtime, still_clock):
    limited = adaptive(max_wait=60)

    async def body():
        queue = Queue(runtime, limited)
        permit = limited.try_acquire()
        await queue.join("a")
        permit.settle(Verdict.THROTTLED)
        assert limited.rate == 5
        still_clock.advance(0.15)
        for _ in range(20):
            await runtime.checkpoint()
        assert queue.served == []
        still_clock.advance(0.05 + 1e-6)
        await queue.jobs[0]

    runtime.run(body)


def test_those_who_wait_are_served_when_the_pace_of_the_server_ends(runtime, still_clock):
    limited = adaptive(rates.Fixed(10), max_wait=60)

    async def body():
        queue = Queue(runtime, limited)
        limited.follow(remaining=1, reset_after=5)
        limited.try_acquire()
        await queue.join("a")
        await queue.join("b")
        still_clock.advance(4.9)
        for _ in range(20):
            await runtime.checkpoint()
        assert queue.served == []
        await queue.drain(still_clock, step=0.1 + 1e-6, rounds=4)

    runtime.run(body)


@pytest.mark.parametrize("rate", [10, 3])
def test_a_pinned_rate_ends_a_pause_for_those_who_wait_even_if_it_is_the_same(runtime, still_clock, rate):
    limited = adaptive(rates.Fixed(10), max_wait=1000)

    async def body():
        queue = Queue(runtime, limited)
        throttle(limited, retry_after=500)
        still_clock.advance(1.0)
        await queue.join("a")
        limited.pin(rate)
        await queue.jobs[0]

    runtime.run(body)


def test_who_waits_for_more_than_a_burst_that_fell_is_served_later(runtime, still_clock):
    limited = adaptive(burst=None, max_wait=60)

    async def body():
        queue = Queue(runtime, limited)
        permit = limited.try_acquire(10)
        await queue.join("many", permits=8)
        permit.settle(Verdict.THROTTLED)
        await queue.join("one")
        await queue.drain(still_clock, step=0.1)
        assert queue.served == ["many", "one"]

    runtime.run(body)


def test_who_wants_more_than_a_burst_that_was_given_is_told_so_at_once(runtime):
    limited = adaptive(burst=3, max_wait=60)

    async def body():
        with pytest.raises(ValueError, match="from 1 to 3, the burst of 'api', got 4"):
            await acquire(runtime, limited, 4)

    runtime.run(body)


def test_who_is_cancelled_while_it_waits_takes_no_permit_along(async_runtime, still_clock):
    limited = adaptive(max_wait=60)

    async def body():
        queue = Queue(async_runtime, limited)
        permit = limited.try_acquire()
        gone = await queue.join("gone")
        await queue.join("next")
        permit.settle(Verdict.THROTTLED)
        async_runtime.cancel(gone)
        await gone.join()
        still_clock.advance(0.2 + 1e-6)
        await queue.jobs[1]
        assert queue.served == ["next"]
        assert limited.try_acquire().retry_after == approx(0.2)

    async_runtime.run(body)
    assert limited.counts.cancelled == 1


# --- what is told ------------------------------------------------------------------------------------------------


def test_every_change_is_told_with_its_cause(fake_clock, recorded_events):
    limited = adaptive(burst=None)
    throttle(limited)
    fake_clock.advance(0.5)
    for _ in range(3):
        limited.try_acquire().settle(Verdict.GOOD)
    fake_clock.advance(0.5)
    limited.try_acquire().settle(Verdict.GOOD)
    limited.follow(quota=60, window=60)
    limited.pin(4)
    limited.pin(4)
    limited.unpin()
    limited.reconfigure(rate=rates.Fixed(0.5))
    assert told(recorded_events) == [
        (10, 5, "throttled"),
        (5, 6, "good"),
        (6, 1, "server"),
        (1, 4, "pinned"),
        (4, 1, "unpinned"),
        (1, 0.5, "reconfigured"),
    ]
    changes = [event.attributes["resilience.limiter.change"] for event in recorded_events.named(CHANGE)]
    assert changes == ["decrease", "increase", "decrease", "increase", "decrease", "decrease"]
    assert {event.policy for event in recorded_events.named(CHANGE)} == {"api"}


def test_the_end_of_the_pace_is_told_by_the_next_call(runtime, fake_clock, recorded_events):
    limited = adaptive()
    limited.follow(remaining=20, reset_after=10)

    async def body():
        fake_clock.advance(10.0)
        assert limited.rate == 10
        await runtime.call(limited, int)

    runtime.run(body)
    assert told(recorded_events) == [(10, 2, "server"), (2, 10, "server")]


def test_a_listener_may_use_the_limiter(fake_clock):
    limited = adaptive()
    heard = []
    stop = listen(lambda event: heard.append((event.name, limited.rate, bool(limited.try_acquire()))))
    try:
        throttle(limited)
    finally:
        stop()
    assert heard == [(CHANGE, 5, False)]


# --- rates of a user's own ---------------------------------------------------------------------------------------


def test_a_rate_that_raises_breaks_no_call_and_changes_nothing_and_is_reported(
    runtime, fake_clock, recorded_events
):
    source = Scripted(ZeroDivisionError("oh"), 4.0)
    limited = adaptive(source)

    async def body():
        await throttled(runtime, limited)
        assert limited.rate == 10
        fake_clock.advance(1.0)
        assert await runtime.call(limited, lambda: "answer") == "answer"

    runtime.run(body)
    (event,) = recorded_events.named(FAILED)
    assert (event.policy, dict(event.attributes)) == ("api", {"error.type": "ZeroDivisionError"})
    assert limited.rate == 4  # it goes on learning


def test_a_rate_that_cannot_be_read_any_more_is_reported_too(fake_clock, recorded_events):
    class Hidden(Scripted):
        window = 1.0

        @property
        def rate(self):
            if getattr(self, "samples", None):
                raise LookupError
            return 10.0

        @rate.setter
        def rate(self, value):
            pass

    limited = adaptive(Hidden())
    throttle(limited)
    assert limited.rate == 10
    assert [event.attributes["error.type"] for event in recorded_events.named(FAILED)] == ["LookupError"]


@pytest.mark.parametrize("nonsense", [math.nan, -1.0, 0, "5", None, True, -math.inf])
def test_a_rate_that_makes_no_sense_changes_nothing(fake_clock, recorded_events, nonsense):
    limited = adaptive(Scripted(nonsense))
    throttle(limited)
    assert limited.rate == 10
    assert not recorded_events.named(CHANGE)


def test_a_rate_may_use_the_limiter_while_it_learns(fake_clock):
    class Curious(Scripted):
        def on_sample(self, sample):
            super().on_sample(sample)
            throttle(limited)
            limited.follow(quota=2, window=1)

    limited = adaptive(Curious(4.0), burst=5)
    throttle(limited)
    assert limited.rate == 2


def test_only_one_sample_is_learnt_from_at_a_time(fake_clock):
    entered, leave = threading.Event(), threading.Event()

    class Slow(Scripted):
        def on_sample(self, sample):
            super().on_sample(sample)
            entered.set()
            assert leave.wait(20)

    source = Slow()
    limited = adaptive(source, burst=100)
    thread = threading.Thread(target=throttle, args=(limited,))
    thread.start()
    assert entered.wait(20)
    for _ in range(5):
        fake_clock.advance(1.0)
        throttle(limited)
        limited.call(int)
    assert len(source.samples) == 1
    leave.set()
    thread.join(20)
    fake_clock.advance(1.0)
    limited.call(int)
    assert [sample.throttled for sample in source.samples] == [1, 5]


def test_what_was_learnt_from_a_sample_taken_before_it_was_pinned_comes_too_late(fake_clock):
    class Pinning(Scripted):
        def on_sample(self, sample):
            super().on_sample(sample)
            limited.pin(7)

    limited = adaptive(Pinning(3.0))
    throttle(limited)
    assert limited.rate == 7
    limited.unpin()
    assert limited.rate == 10


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, "5", True, None, 1e10])
def test_a_rate_to_pin_is_a_number_that_can_be_kept(rate):
    limited = adaptive()
    with pytest.raises(ValueError, match=r"^rate must be a number from 1e-09 to 1e\+09 a second, got"):
        limited.pin(rate)
    assert limited.rate == 10


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limited", "rate"),
    [(RateLimiter("api", rate=10), rates.Fixed(10)), (RateLimiter("api", rate=rates.Fixed(10)), 10)],
    ids=["to a Rate", "to a number"],
)
def test_a_number_stays_a_number_and_a_rate_a_rate(limited, rate):
    before = limited.settings
    with pytest.raises(ConfigError, match="rate must stay a number, or stay a Rate: make a new limiter"):
        limited.reconfigure(rate=rate)
    assert limited.settings is before


def test_other_settings_keep_what_was_learnt_and_what_the_server_said(fake_clock):
    limited = adaptive()
    throttle(limited)
    limited.reconfigure(max_wait=2.0, burst=7)
    assert (limited.rate, limited.settings.max_wait, limited.settings.burst) == (5, 2.0, 7)
    limited.follow(quota=3, window=1)
    limited.reconfigure(rate=rates.Fixed(50))
    assert limited.rate == 3


class Asked(Scripted):
    """A rate that calls *asked* whenever it is asked for its window."""

    def __init__(self, asked):
        super().__init__()
        self.asked = asked

    @property
    def window(self):
        self.asked()
        return 1.0


def test_a_new_rate_is_asked_outside_the_lock(fake_clock):
    limited = adaptive(rates.Fixed(3))
    held = []
    limited.reconfigure(rate=Asked(lambda: held.append(limited._lock._is_owned())))
    assert limited.rate == 10
    assert held
    assert not any(held)


def test_a_new_rate_that_cannot_be_read_changes_nothing(fake_clock):
    former, source = rates.Fixed(3), Asked(lambda: None)
    limited = adaptive(former)
    settings = replace(limited.settings, rate=source)
    source.asked = raising(ZeroDivisionError())  # well while the settings looked at it, but no longer
    with pytest.raises(ZeroDivisionError):
        limited._configure(settings)
    assert (limited.rate, limited.settings.rate) == (3, former)


def test_a_reload_with_the_same_rate_keeps_what_it_learnt_and_with_another_begins_anew(fake_clock):
    source = rates.Aimd(start=10)
    pipeline = Pipeline("api", adaptive(source))
    throttle(pipeline.policies[0])
    pipeline.reload(RateLimiter(rate=source, burst=3))
    (limited,) = pipeline.policies
    assert (limited.rate, limited.settings.burst) == (5, 3)
    fake_clock.advance(2.0)
    throttle(limited)
    assert (limited.rate, source.rate) == (2.5, 2.5)
    pipeline.reload(RateLimiter(rate=rates.Aimd(start=20), burst=3))
    assert limited.rate == 20


@pytest.mark.parametrize("make", [lambda: rates.Aimd(start=10), rates.Cubic])
def test_a_rate_given_anew_with_equal_settings_keeps_what_it_learnt(fake_clock, make):
    pipeline = Pipeline("api", adaptive(make()))
    (limited,) = pipeline.policies
    throttle(limited)
    source, learnt = limited.settings.rate, limited.rate
    pipeline.reload(RateLimiter(rate=make(), burst=3))
    assert (limited.rate, limited.settings.burst) == (learnt, 3)
    limited.reconfigure(rate=make())
    assert limited.rate == learnt
    assert limited.settings.rate is source
    fake_clock.advance(2.0)
    throttle(limited)
    assert limited.rate < learnt


# --- one for each key --------------------------------------------------------------------------------------------


def test_with_keyed_each_key_learns_a_rate_of_its_own_and_is_kept_while_that_counts(runtime, fake_clock):
    hosts = Keyed("hosts", factory=lambda: RateLimiter(rate=rates.Aimd(start=10)), key="host", max_keys=2)

    async def body():
        async def busy(host):
            raise Throttled

        with pytest.raises(Throttled):
            await runtime.wrap(hosts, busy)(host="slow")
        for host in "abcd":
            fake_clock.advance(1.0)
            await runtime.wrap(hosts, lambda host: host)(host=host)

    runtime.run(body)
    assert (hosts["slow"].rate, hosts["d"].rate) == (5, 10)
    assert "a" not in hosts


def test_a_pinned_limiter_of_a_key_is_not_forgotten(fake_clock):
    hosts = Keyed("hosts", factory=lambda: RateLimiter(rate=rates.Fixed(10)), max_keys=1)
    hosts["a"].pin(10)
    fake_clock.advance(5_000)
    hosts["b"].try_acquire()
    assert "a" in hosts
    assert "b" not in hosts


# --- forks and interrupts ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_goes_on_with_what_was_learnt_and_learns_by_itself(fake_clock):
    entered, leave = threading.Event(), threading.Event()

    class Slow(rates.Aimd):
        def on_sample(self, sample):
            super().on_sample(sample)
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                assert leave.wait(20)

    limited = adaptive(Slow(start=80), burst=100)
    throttle(limited)
    fake_clock.advance(1.0)
    thread = threading.Thread(target=throttle, args=(limited,))  # it is learning when the child is born
    thread.start()
    assert entered.wait(20)
    child = os.fork()
    if child == 0:  # pragma: no cover  # nothing here is seen by the parent
        code = 1
        try:
            fake_clock.advance(2.0)
            before = limited.rate
            throttle(limited)
            code = 0 if (before, limited.rate) == (40, 20) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    thread.join(20)
    assert limited.rate == 20


def test_a_pause_goes_on_in_a_child(fake_clock):
    limited = adaptive()
    throttle(limited, retry_after=5.0)
    fake_clock.advance(1.0)
    fork._renew()
    assert (limited.rate, limited.try_acquire().retry_after) == (5, approx(4.0))


def is_free(lock):
    found = []

    def look():
        found.append(lock.acquire(timeout=5))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(20)
    return found == [True]


def test_an_interrupt_at_any_line_leaves_a_limiter_that_learns(fake_clock):
    struck, n = set(), 0
    while True:
        n += 1
        limited = adaptive(rates.Aimd(start=80), burst=100)
        permit = limited.try_acquire()
        interrupt = Interrupt(n)
        interrupt.run(lambda permit=permit: permit.settle(Verdict.THROTTLED, retry_after=1.0))
        if not interrupt.struck:
            break
        struck.add(interrupt.struck.partition(":")[0])
        if "if sample is not None and" in interrupt.struck or "_learning_from = None" in interrupt.struck:
            continue  # calls nothing, so the interpreter does not look for signals there
        assert is_free(limited._lock), interrupt.struck
        assert limited._learning_from is None, interrupt.struck
        for _ in range(3):
            fake_clock.advance(2.0)
            before = limited.rate
            throttle(limited)
            assert limited.rate == limited.settings.rate.rate < before, interrupt.struck
            assert limited._machine.rate == limited.rate, interrupt.struck
    assert {"AdaptingGate._changed", "AdaptiveGcra.throttled", "VariableGcra.go_on_at"} <= struck
