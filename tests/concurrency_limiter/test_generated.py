"""What generated code counts of a limit that learns, and what the limit is told of it."""

import asyncio
import threading
from unittest.mock import patch

import pytest
from tests.doubles import clock_replaced

from resilience import ConcurrencyLimiter, RateLimiter
from resilience._runtime import compile as compiling
from resilience._runtime import drive
from resilience._runtime.pipeline import Pipeline
from resilience.limits import Aimd, Vegas
from resilience.testing import FakeClock

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


class Learning:
    """It notes what it is told."""

    window = 1.0

    def __init__(self, limit=10, *, needs_latency=True, quantile=None):
        self.limit = limit
        self.needs_latency = needs_latency
        self.quantile = quantile
        self.samples = []

    def on_sample(self, sample):
        self.samples.append(sample)


@pytest.fixture
def clock():
    with FakeClock() as clock:
        yield clock


def taking(clock, seconds, error=None):
    def call():
        clock.advance(seconds)
        if error is not None:
            raise error

    return call


def generated(fn, limit):
    guarded = ConcurrencyLimiter("reports", limit=limit)(fn)
    assert compiling.source_of(guarded) is not None
    return guarded


@pytest.mark.parametrize("limit", [Aimd, Vegas, lambda: Vegas(quantile=0.9)])
def test_a_call_below_every_limit_that_learns_runs_generated_code(limit):
    guarded = generated(lambda: 7, limit())
    with patch.object(drive, "run", side_effect=AssertionError("driven as a flow")):
        assert [guarded(), guarded()] == [7, 7]


@pytest.mark.parametrize(("limit", "reads"), [(10, 0), (Aimd, 1), (Vegas, 2)])
def test_a_good_call_reads_the_clock_as_often_as_its_limit_needs(limit, reads):
    guarded = generated(lambda: None, limit if limit == 10 else limit())
    seen = []
    with clock_replaced(lambda: seen.append(1) or 0.0):
        guarded()
    assert len(seen) == reads


def test_calls_that_come_fast_look_at_the_clock_now_and_then_only():
    guarded = generated(lambda: None, Aimd())
    seen = []
    with clock_replaced(lambda: seen.append(1) or 0.0):
        for _ in range(1_000):
            guarded()
    assert 1_000 / 17 < len(seen) < 1_000 / 8


@pytest.mark.parametrize(("calls", "late"), [(7, 0), (80, 10), (1_000, 16)])
def test_a_window_ends_at_most_an_eighth_of_its_calls_and_sixteen_late(clock, calls, late):
    learning = Learning(needs_latency=False)
    guarded = generated(lambda: None, learning)
    for _ in range(calls):
        guarded()
    clock.advance(learning.window)
    after = 0
    while not learning.samples:
        guarded()
        after += 1
    assert after <= late + 1
    assert learning.samples[0].good == calls + after


def test_after_calls_that_came_fast_one_that_fails_ends_the_window_at_once(clock):
    learning = Learning(needs_latency=False)

    def fetch(*, fails):
        if fails:
            raise ConnectionError

    guarded = generated(fetch, learning)
    for _ in range(1_000):
        guarded(fails=False)
    clock.advance(learning.window)
    with pytest.raises(ConnectionError):
        guarded(fails=True)
    (sample,) = learning.samples
    assert (sample.good, sample.bad) == (1_000, 1)


def test_a_limit_that_needs_no_times_is_told_none(clock):
    learning = Learning(needs_latency=False)
    guarded = generated(taking(clock, 0.4), learning)
    for _ in range(3):
        guarded()
    (sample,) = learning.samples
    assert (sample.good, sample.peak) == (3, 1)
    assert (sample.mean, sample.shortest, sample.latency) == (None, None, None)


def test_a_quantile_is_that_of_the_calls_that_generated_code_made(clock):
    learning = Learning(quantile=0.5)
    took = iter([0.125, 0.25, 1.0])

    def call():
        clock.advance(next(took))

    guarded = generated(call, learning)
    for _ in range(3):
        guarded()
    (sample,) = learning.samples
    assert (sample.quantile, sample.shortest) == (0.25, 0.125)


@pytest.mark.parametrize("needs_latency", [True, False])
def test_every_call_is_counted_as_what_it_was_and_once(clock, needs_latency):
    learning = Learning(needs_latency=needs_latency)
    limited = ConcurrencyLimiter("reports", limit=learning)
    ends = [None, ConnectionError, None, TimeoutError, KeyboardInterrupt, None]

    def call():
        end = ends.pop(0)
        if not ends:
            clock.advance(1.0)
        if end is not None:
            raise end

    guarded = limited(call)
    while ends:
        try:
            guarded()
        except (ConnectionError, TimeoutError, KeyboardInterrupt):
            pass
    (sample,) = learning.samples
    assert (sample.good, sample.bad, sample.timed_out, sample.throttled) == (3, 1, 1, 0)


def test_a_call_that_another_gate_refused_is_in_no_sample(clock):
    learning = Learning(needs_latency=False)
    places = ConcurrencyLimiter("places", limit=learning)
    guarded = Pipeline("both", places, RateLimiter("rate", rate=1, burst=2))(taking(clock, 0.0))
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(guarded())
        except Exception as error:
            outcomes.append(type(error).__name__)
    clock.advance(1.0)
    guarded()
    assert outcomes == [None, None, "RateLimitedError", "RateLimitedError"]
    assert [sample.good for sample in learning.samples] == [3]


def test_a_call_that_returns_a_coroutine_by_mistake_is_in_no_sample(clock):
    async def late():
        return None

    answers = [late, lambda: None]
    learning = Learning(needs_latency=False)
    guarded = generated(lambda: answers.pop(0)(), learning)
    with pytest.raises(TypeError):
        guarded()
    clock.advance(1.0)
    guarded()
    assert [sample.good for sample in learning.samples] == [1]


def test_the_most_calls_at_once_are_noted(clock):
    learning = Learning(needs_latency=False)
    limited = ConcurrencyLimiter("reports", limit=learning)
    both_in = threading.Barrier(3)

    @limited
    def call():
        both_in.wait(10)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.advance(1.0)
    limited.call(lambda: None)
    assert learning.samples[-1].peak == 3


def test_no_more_calls_than_the_limit_run_at_once():
    inside, most = 0, 0
    limited = ConcurrencyLimiter("reports", limit=Aimd(initial=5), max_queue=100, max_wait=10.0)

    @limited
    async def call():
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    async def body():
        await asyncio.gather(*(call() for _ in range(50)))

    asyncio.run(body())
    assert (most, inside, limited.inflight) == (5, 0, 0)


def test_while_it_rests_no_call_runs_generated_code(clock):
    limited = ConcurrencyLimiter("reports", limit=Aimd(initial=0.5))
    guarded = limited(taking(clock, 0.2))
    guarded()
    refused = limited.try_acquire()
    assert not refused
    assert refused.retry_after == pytest.approx(0.2)


def test_a_limit_that_comes_back_to_one_is_generated_again(clock):
    limited = ConcurrencyLimiter("reports", limit=Aimd(initial=0.5))
    guarded = limited(lambda: 7)
    limited.pin(2)
    with patch.object(drive, "run", side_effect=AssertionError("driven as a flow")):
        assert guarded() == 7


def test_a_limit_that_needs_no_times_is_told_those_of_calls_that_began_below_one(clock):
    learning = Learning(0.5, needs_latency=False)
    guarded = generated(taking(clock, 1.25), learning)
    guarded()
    (sample,) = learning.samples
    assert (sample.mean, sample.shortest) == (1.25, 1.25)
