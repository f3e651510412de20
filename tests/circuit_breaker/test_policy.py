"""The circuit breaker around calls, on threads, under asyncio and under trio; its rules have tests of their own."""

import asyncio
import contextlib
import functools
import gc
import inspect
import json
import multiprocessing
import os
import sys
import threading
import time
import weakref

import pytest
from tests.collector import collector_off
from tests.dependency import Dependency, Draws
from tests.doubles import nap, raising

from resilience._runtime import fork
from resilience._runtime.pipeline import Pipeline
from resilience.circuit_breaker import CircuitBreaker, CircuitBreakerSettings, CircuitState
from resilience.errors import CircuitOpenError, ConfigError, RejectedError
from resilience.events import listen
from resilience.outcome import Verdict, bad_results
from resilience.testing import FakeClock, delayed, fail_times, script

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
ISOLATED, DISABLED = CircuitState.ISOLATED, CircuitState.DISABLED
CHANGE = "resilience.circuit_breaker.state_change"


def tripping(failures=1, **settings):
    """A breaker that opens after so many failures in a row, for five seconds."""
    rules = {"failure_ratio": None, "consecutive_failures": failures, "break_jitter": 0.0}
    return CircuitBreaker("payments", **{**rules, **settings})


async def fail(runtime, breaker, times=1):
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await runtime.call(breaker, raising(ConnectionError()))


async def opened(runtime, failures=1, **settings):
    breaker = tripping(failures, **settings)
    await fail(runtime, breaker, failures)
    assert breaker.state is OPEN
    return breaker


async def half_open(runtime, clock, **settings):
    """A breaker whose break is over; no probe has been asked for yet."""
    breaker = await opened(runtime, **settings)
    clock.advance(5.0)
    assert breaker.state is HALF_OPEN
    return breaker


async def refused(runtime, breaker):
    """Make a call that must be refused, and return the error."""
    fetch = script("answer")
    with pytest.raises(CircuitOpenError) as caught:
        await runtime.call(breaker, fetch)
    assert fetch.calls == 0
    return caught.value


async def answered(runtime, breaker):
    assert await runtime.call(breaker, lambda: "answer") == "answer"


def changes(events):
    return [
        (
            event.attributes["resilience.circuit_breaker.previous_state"],
            event.attributes["resilience.circuit_breaker.state"],
            event.attributes["resilience.circuit_breaker.reason"],
        )
        for event in events.named(CHANGE)
    ]


# --- calls -------------------------------------------------------------------------------------------------------


def test_a_good_result_comes_out_as_it_is(runtime):
    async def body():
        return await runtime.wrap(tripping(), lambda: "answer")()

    assert runtime.run(body) == "answer"


def test_an_error_comes_out_as_it_is(runtime):
    error = ConnectionError("down")

    async def body():
        with pytest.raises(ConnectionError) as caught:
            await runtime.wrap(tripping(), raising(error))()
        assert caught.value is error

    runtime.run(body)


def test_it_opens_on_a_success_that_brings_the_throughput(runtime):
    """breaker-3 (Resilience4j): fail, fail, fail, ok, ok with at least 5 calls and 50 %."""
    breaker = CircuitBreaker("payments", failure_ratio=0.5, minimum_throughput=5)

    async def body():
        await fail(runtime, breaker, 3)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED
        await answered(runtime, breaker)
        assert breaker.state is OPEN
        await refused(runtime, breaker)

    runtime.run(body)
    assert breaker.counts.rejected == 1


def test_the_failure_ratio_is_unknown_below_the_minimum_throughput(runtime):
    """breaker-4 (Resilience4j): unknown is None here, not -1."""
    breaker = CircuitBreaker("payments", failure_ratio=1.0, minimum_throughput=4)

    async def body():
        await answered(runtime, breaker)
        await fail(runtime, breaker, 2)
        assert breaker.failure_ratio is None
        await fail(runtime, breaker)
        assert breaker.failure_ratio == 0.75

    runtime.run(body)


def test_a_refused_call_does_not_run_and_says_when_to_come_back(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        fake_clock.advance(2.0)
        error = await refused(runtime, breaker)
        assert (error.policy, error.retry_after) == ("payments", pytest.approx(3.0))
        assert str(error) == "'payments' is not admitting calls: the circuit is open; retry after 3 s"

    runtime.run(body)


def test_a_refusal_keeps_nothing_of_the_failed_call_alive(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        error = await refused(runtime, breaker)
        assert error.__cause__ is None
        assert error.__context__ is None

    runtime.run(body)


def test_single_calls_are_guarded_too(runtime):
    async def body():
        breaker = tripping()
        assert await runtime.call(
            breaker, lambda amount, *, currency: (amount, currency), 5, currency="EUR"
        ) == (
            5,
            "EUR",
        )

    runtime.run(body)


def test_it_is_named_after_the_first_function_it_guards(runtime):
    breaker = CircuitBreaker()

    def charge():
        return 1

    def refund():
        return -1

    runtime.guarded(breaker, charge)
    runtime.guarded(breaker, refund)
    assert breaker.name.endswith("charge")


def test_a_name_of_its_own_stays(runtime):
    breaker = tripping()
    runtime.guarded(breaker, len)
    assert breaker.name == "payments"


def test_one_breaker_guards_many_functions(runtime):
    async def body():
        breaker = await opened(runtime)
        with pytest.raises(CircuitOpenError):
            await runtime.wrap(breaker, lambda: "another")()

    runtime.run(body)


# --- judging -----------------------------------------------------------------------------------------------------


def test_an_error_that_on_does_not_name_is_a_good_answer(runtime):
    breaker = tripping(on=ConnectionError)

    async def body():
        with pytest.raises(KeyError):
            await runtime.call(breaker, raising(KeyError("not found")))
        assert breaker.state is CLOSED
        await fail(runtime, breaker)
        assert breaker.state is OPEN

    runtime.run(body)


def test_a_predicate_says_which_errors_are_bad(runtime):
    breaker = tripping(on=lambda error: "later" in str(error))

    async def body():
        with pytest.raises(ValueError, match="never"):
            await runtime.call(breaker, raising(ValueError("never")))
        assert breaker.state is CLOSED
        with pytest.raises(ValueError, match="later"):
            await runtime.call(breaker, raising(ValueError("later")))
        assert breaker.state is OPEN

    runtime.run(body)


def test_a_result_may_be_bad_and_still_comes_out(runtime):
    breaker = tripping(classify=bad_results(lambda rows: not rows))

    async def body():
        assert await runtime.call(breaker, list) == []
        assert breaker.state is OPEN

    runtime.run(body)


def test_an_ignored_result_teaches_nothing(runtime):
    breaker = tripping(classify=lambda outcome, context: Verdict.IGNORED)

    async def body():
        await fail(runtime, breaker, 3)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_an_error_of_the_classifier_comes_out_and_teaches_nothing(runtime, fake_clock):
    def broken(outcome, context):
        raise LookupError("broken classifier")

    async def body():
        breaker = tripping(classify=broken)
        with pytest.raises(LookupError, match="broken classifier"):
            await runtime.call(breaker, lambda: "answer")
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_refusal_by_an_inner_policy_teaches_nothing(runtime):
    breaker = tripping()

    async def body():
        with pytest.raises(RejectedError):
            await runtime.call(breaker, raising(RejectedError("inner")))
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_timeout_is_bad(runtime):
    breaker = tripping()

    async def body():
        with pytest.raises(TimeoutError):
            await runtime.call(breaker, raising(TimeoutError()))
        assert breaker.state is OPEN

    runtime.run(body)


def test_slow_answers_open_the_circuit(runtime, fake_clock):
    breaker = CircuitBreaker(
        "payments", failure_ratio=None, slow_call_duration=1.0, slow_call_ratio=0.5, minimum_throughput=2
    )
    fetch = script(delayed(1.5, "slow"), delayed(0.5, "fast"))

    async def body():
        assert await runtime.call(breaker, fetch) == "slow"
        assert breaker.state is CLOSED
        assert await runtime.call(breaker, fetch) == "fast"
        assert breaker.state is OPEN

    runtime.run(body)


def test_the_share_of_slow_answers_is_known(runtime, fake_clock):
    breaker = CircuitBreaker("payments", slow_call_duration=1.0, minimum_throughput=2)

    async def body():
        assert breaker.slow_call_ratio is None
        fetch = script(delayed(1.5), delayed(0.5))
        await runtime.call(breaker, fetch)
        await runtime.call(breaker, fetch)
        assert breaker.slow_call_ratio == 0.5

    runtime.run(body)


class Overloaded(Exception):
    def __init__(self, retry_after):
        super().__init__(retry_after)
        self.retry_after = retry_after


def test_an_error_that_says_when_to_return_may_open_the_circuit_until_then(runtime, fake_clock):
    breaker = CircuitBreaker("payments", open_on_throttle=True, break_jitter=0.0)

    async def body():
        with pytest.raises(Overloaded):
            await runtime.call(breaker, raising(Overloaded(30.0)))
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(30.0)
        fake_clock.advance(30.0)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_by_default_an_error_that_says_when_to_return_is_one_failure_of_many(runtime, fake_clock):
    async def body():
        breaker = CircuitBreaker("payments")
        with pytest.raises(Overloaded):
            await runtime.call(breaker, raising(Overloaded(30.0)))
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_function_decides_how_long_the_break_is(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime, break_duration=lambda cause: 7.0 * cause.attempt)
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(7.0)
        fake_clock.advance(7.0)
        await fail(runtime, breaker)
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(14.0)

    runtime.run(body)


def is_free(breaker):
    """Say whether another thread can use *breaker* at once."""
    other = threading.Thread(target=lambda: breaker.state, daemon=True)
    other.start()
    other.join(1.0)
    return not other.is_alive()


class Nosy:
    """A source of chance that looks, at each draw, whether the breaker is free meanwhile."""

    def __init__(self):
        self.found = []
        self.breaker = None

    def random(self):
        self.found.append(is_free(self.breaker))
        return 0.0


async def fail_in_function(runtime, breaker):
    await fail(runtime, breaker)


async def fail_in_block(runtime, breaker):
    with pytest.raises(ConnectionError), breaker.guard():
        raise ConnectionError


async def fail_by_hand(runtime, breaker):
    breaker.try_acquire().settle(Verdict.BAD)


async def succeed_in_function(runtime, breaker):
    await answered(runtime, breaker)


async def open_with_a_good_result(runtime, breaker):
    breaker.reconfigure(failure_ratio=0.5, minimum_throughput=2, consecutive_failures=None)
    await fail(runtime, breaker)
    await answered(runtime, breaker)
    assert breaker.state is OPEN


@pytest.mark.parametrize(
    "use", [fail_in_function, fail_in_block, fail_by_hand, succeed_in_function, open_with_a_good_result]
)
def test_others_may_use_the_breaker_while_its_source_of_chance_is_asked(runtime, use):
    async def body():
        chance = Nosy()
        chance.breaker = breaker = tripping(rng=chance, slow_call_duration=1.0)
        await use(runtime, breaker)
        assert chance.found
        assert all(chance.found)

    runtime.run(body)


@pytest.mark.parametrize("use", [fail_in_function, fail_in_block, fail_by_hand, open_with_a_good_result])
def test_others_may_use_the_breaker_while_its_break_is_asked_for(runtime, use):
    async def body():
        found = []
        breaker = tripping(break_duration=lambda _: found.append((is_free(breaker), breaker.state)) or 1.0)
        await use(runtime, breaker)
        assert found == [(True, OPEN)]

    runtime.run(body)


def test_while_the_break_is_asked_for_others_are_refused_and_nobody_asks_again(runtime, fake_clock):
    async def body():
        asked, told = [], []

        def plan(cause):
            asked.append(cause.attempt)
            told.append(breaker.try_acquire())
            return 1.0

        breaker = tripping(break_duration=plan, max_break_duration=8.0)
        with listening(told.append):
            await fail(runtime, breaker)
        rejection, change = told
        assert rejection.retry_after == 8.0
        assert change.attributes["resilience.retry_after"] == 1.0
        assert asked == [1]

    runtime.run(body)


def test_a_break_that_nobody_could_say_is_the_longest(runtime, fake_clock):
    async def body():
        def plan(cause):
            raise KeyboardInterrupt

        breaker = tripping(break_duration=plan, max_break_duration=8.0)
        with pytest.raises(KeyboardInterrupt):
            breaker.try_acquire().settle(Verdict.BAD)
        assert (await refused(runtime, breaker)).retry_after == 8.0
        fake_clock.advance(8.0)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_chance_lengthens_the_break(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime, break_jitter=0.2, rng=Draws(0.5))
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(5.5)

    runtime.run(body)


# --- half-open ---------------------------------------------------------------------------------------------------


def test_a_good_probe_closes_the_circuit(runtime, fake_clock):
    """breaker-9 (Polly)."""

    async def body():
        breaker = await half_open(runtime, fake_clock)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_bad_probe_opens_it_again_for_longer(runtime, fake_clock):
    """breaker-5 (Resilience4j) and breaker-15 (cockatiel): 5 s, growing by half; a closed circuit starts anew."""

    async def body():
        breaker = await opened(runtime, break_factor=1.5)
        fake_clock.advance(3.0)
        await refused(runtime, breaker)
        fake_clock.advance(2.0)
        await fail(runtime, breaker)
        fake_clock.advance(6.0)
        await refused(runtime, breaker)
        fake_clock.advance(1.5)
        await answered(runtime, breaker)
        await fail(runtime, breaker)
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(5.0)

    runtime.run(body)


def test_a_call_beside_the_only_probe_is_refused_and_may_come_back_at_once(runtime, fake_clock):
    """breaker-9 (Polly): the refusal has a retry_after; nobody knows when the probe ends, so it is 0."""

    async def body():
        breaker = await half_open(runtime, fake_clock)
        dependency = Dependency(runtime)
        probe = runtime.spawn(runtime.wrap(breaker, dependency.ask))
        request = await dependency.called(1)
        assert (await refused(runtime, breaker)).retry_after == 0.0
        request.answer()
        assert await probe == "answer"
        assert breaker.state is CLOSED

    runtime.run(body)


@pytest.mark.parametrize("probes", [1, 3])
def test_exactly_the_probes_are_admitted_however_many_call_at_once(runtime, fake_clock, probes):
    """HO-1: 16 threads, or a thousand tasks. breaker-11 (failsafe-go): three probes block, all others are refused."""
    callers = 1_000 if runtime.cancels else 16

    async def body():
        breaker = await half_open(runtime, fake_clock, probes=probes)
        dependency = Dependency(runtime)
        guarded = runtime.wrap(breaker, dependency.ask)
        go = runtime.event()

        async def caller():
            await go.wait()
            try:
                return await guarded()
            except CircuitOpenError:
                return "refused"

        jobs = [runtime.spawn(caller) for _ in range(callers)]
        go.set()
        await runtime.until(lambda: sum(job.done() for job in jobs) == callers - probes)
        assert len(dependency.requests) == probes
        for request in dependency.requests:
            request.answer()
        answers = [await job for job in jobs]
        assert answers.count("answer") == probes
        assert answers.count("refused") == callers - probes
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_probe_that_never_returns_gives_up_its_place(runtime, fake_clock):
    """HO-2 and breaker-16, after Polly#1979 and R4#935."""

    async def body():
        breaker = await half_open(runtime, fake_clock, probe_timeout=60.0)
        dependency = Dependency(runtime)
        hanging = runtime.spawn(runtime.wrap(breaker, dependency.ask))
        request = await dependency.called(1)
        fake_clock.advance(59.0)
        await refused(runtime, breaker)
        fake_clock.advance(1.0)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED
        request.fail()
        await hanging.join()
        assert breaker.state is CLOSED

    runtime.run(body)


def test_the_round_is_decided_as_early_as_arithmetic_allows(runtime, fake_clock):
    """breaker-7 (Resilience4j) and breaker-13 (cockatiel): four probes, of which three must be good."""

    async def body():
        breaker = await half_open(runtime, fake_clock, probes=4, required_successes=3)
        await fail(runtime, breaker, 2)
        assert breaker.state is OPEN
        fake_clock.advance(10.0)
        await fail(runtime, breaker)
        for _ in range(3):
            assert breaker.state is HALF_OPEN
            await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_probe_that_is_released_makes_room_for_another(runtime, fake_clock):
    """breaker-6 (Resilience4j): four permits."""

    async def body():
        breaker = await half_open(runtime, fake_clock, probes=4)
        permits = [breaker.try_acquire() for _ in range(6)]
        assert [bool(permit) for permit in permits] == [True] * 4 + [False] * 2
        permits[0].release()
        assert breaker.try_acquire()
        assert not breaker.try_acquire()

    runtime.run(body)


def test_an_ignored_probe_gives_its_place_back_and_teaches_nothing(runtime, fake_clock):
    """breaker-8 (Resilience4j), where three good ones of four would have closed the circuit already."""

    async def body():
        breaker = await half_open(runtime, fake_clock, probes=4)
        for _ in range(3):
            await answered(runtime, breaker)
        with pytest.raises(RejectedError):
            await runtime.call(breaker, raising(RejectedError("inner")))
        assert breaker.state is HALF_OPEN
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_the_state_that_a_call_would_find_is_seen_before_the_call(runtime, fake_clock, recorded_events):
    async def body():
        breaker = await half_open(runtime, fake_clock)
        assert [change[1] for change in changes(recorded_events)] == ["open"]
        assert breaker.state is HALF_OPEN

    runtime.run(body)


def test_after_closing_the_share_of_admitted_calls_rises(runtime, fake_clock):
    async def body():
        breaker = await half_open(runtime, fake_clock, ramp_duration=10.0, rng=Draws(0.5))
        await answered(runtime, breaker)
        fake_clock.advance(4.9)
        await refused(runtime, breaker)
        fake_clock.advance(0.2)
        await answered(runtime, breaker)

    runtime.run(body)


# --- cancellation, and whatever is no exception ------------------------------------------------------------------


async def cancel_one(runtime, breaker):
    dependency = Dependency(runtime)
    job = runtime.spawn(runtime.wrap(breaker, dependency.ask))
    await dependency.called(1)
    runtime.cancel(job)
    await job.join()
    assert isinstance(job.error, runtime.cancelled)


def test_a_cancelled_call_is_not_a_failure(async_runtime):
    """CX-1."""

    async def body():
        breaker = tripping()
        await cancel_one(async_runtime, breaker)
        assert breaker.state is CLOSED

    async_runtime.run(body)


def test_a_cancelled_call_does_not_end_a_row_of_failures(async_runtime):
    """CX-1: it is no success either."""

    async def body():
        breaker = tripping(2)
        await fail(async_runtime, breaker)
        await cancel_one(async_runtime, breaker)
        await fail(async_runtime, breaker)
        assert breaker.state is OPEN

    async_runtime.run(body)


def test_a_cancelled_probe_gives_its_place_back_at_once_and_decides_nothing(async_runtime, fake_clock):
    """CX-2 and breaker-16."""

    async def body():
        breaker = await half_open(async_runtime, fake_clock)
        await cancel_one(async_runtime, breaker)
        assert breaker.state is HALF_OPEN
        await answered(async_runtime, breaker)
        assert breaker.state is CLOSED

    async_runtime.run(body)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_probe_gives_its_place_back(fake_clock, error):
    """CX-3."""
    breaker = tripping()
    with pytest.raises(ConnectionError):
        breaker.call(raising(ConnectionError()))
    fake_clock.advance(5.0)
    with pytest.raises(error):
        breaker.call(raising(error()))
    assert breaker.state is HALF_OPEN
    assert breaker.call(lambda: "answer") == "answer"
    assert breaker.state is CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_async_probe_gives_its_place_back(fake_clock, error):
    """CX-3. asyncio lets these two out of its loop."""
    breaker = tripping()
    with pytest.raises(ConnectionError):
        breaker.call(raising(ConnectionError()))
    fake_clock.advance(5.0)

    async def interrupted():
        raise error

    async def main():
        await breaker.acall(interrupted)

    with pytest.raises(error):
        asyncio.run(main())
    assert breaker.state is HALF_OPEN
    assert breaker.try_acquire()


def test_a_cancelled_guarded_block_gives_the_probe_back(async_runtime, fake_clock):
    """CX-2."""

    async def body():
        breaker = await half_open(async_runtime, fake_clock)
        dependency = Dependency(async_runtime)

        async def work():
            async with breaker.guard():
                await dependency.ask()

        job = async_runtime.spawn(work)
        await dependency.called(1)
        async_runtime.cancel(job)
        await job.join()
        assert breaker.state is HALF_OPEN
        await answered(async_runtime, breaker)

    async_runtime.run(body)


# --- late results ------------------------------------------------------------------------------------------------


class Late:
    """A call that began while the circuit was closed, and is still under way."""

    def __init__(self, runtime, breaker):
        self.runtime = runtime
        self.breaker = breaker
        self.dependency = Dependency(runtime)

    async def begin(self):
        self.job = self.runtime.spawn(self.runtime.wrap(self.breaker, self.dependency.ask))
        self.request = await self.dependency.called(1)
        return self

    async def answer(self):
        self.request.answer()
        await self.job.join()

    async def fail(self):
        self.request.fail()
        await self.job.join()


def test_a_success_that_began_closed_and_ends_open_changes_nothing(runtime, fake_clock):
    """LR-1."""

    async def body():
        breaker = tripping()
        late = await Late(runtime, breaker).begin()
        await fail(runtime, breaker)
        await late.answer()
        assert breaker.state is OPEN
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(5.0)

    runtime.run(body)


def test_a_stale_success_beside_a_probe_neither_closes_nor_frees_a_place(runtime, fake_clock):
    """LR-2."""

    async def body():
        breaker = tripping()
        late = await Late(runtime, breaker).begin()
        await fail(runtime, breaker)
        fake_clock.advance(5.0)
        probe = await Late(runtime, breaker).begin()
        await late.answer()
        assert breaker.state is HALF_OPEN
        await refused(runtime, breaker)
        await probe.answer()
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_stale_failure_beside_a_probe_does_not_spoil_it(runtime, fake_clock):
    """LR-3."""

    async def body():
        breaker = tripping()
        late = await Late(runtime, breaker).begin()
        await fail(runtime, breaker)
        fake_clock.advance(5.0)
        probe = await Late(runtime, breaker).begin()
        await late.fail()
        assert breaker.state is HALF_OPEN
        await probe.answer()
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_stale_failure_while_open_does_not_prolong_the_break(runtime, fake_clock):
    """LR-4."""

    async def body():
        breaker = tripping()
        late = await Late(runtime, breaker).begin()
        await fail(runtime, breaker)
        fake_clock.advance(3.0)
        await late.fail()
        fake_clock.advance(2.0)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_probe_of_an_earlier_round_neither_frees_a_place_nor_counts(runtime, fake_clock):
    """LR-5."""

    async def body():
        breaker = await half_open(runtime, fake_clock, probes=2)
        late = await Late(runtime, breaker).begin()
        await fail(runtime, breaker)
        assert breaker.state is OPEN
        fake_clock.advance(10.0)
        probes = [await Late(runtime, breaker).begin() for _ in range(2)]
        await late.answer()
        await refused(runtime, breaker)
        await probes[0].answer()
        assert breaker.state is HALF_OPEN
        await probes[1].answer()
        assert breaker.state is CLOSED

    runtime.run(body)


# --- clocks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def wall_clock(monkeypatch):
    """Let the wall clock jump by so many seconds."""
    time_of_day, nanoseconds = time.time, time.time_ns

    def jump(seconds):
        monkeypatch.setattr(time, "time", lambda: time_of_day() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(seconds * 1e9))

    return jump


def test_a_wall_clock_that_jumps_forward_does_not_end_a_break(runtime, wall_clock):
    """CK-1."""

    async def body():
        breaker = await opened(runtime, break_duration=60.0)
        wall_clock(+7_200.0)
        assert (await refused(runtime, breaker)).retry_after > 30.0

    runtime.run(body)


def test_a_wall_clock_that_jumps_back_does_not_prolong_a_break(runtime, wall_clock):
    """CK-2."""

    async def body():
        breaker = await opened(runtime, break_duration=0.02)
        wall_clock(-7_200.0)
        await runtime.until(lambda: breaker.state is HALF_OPEN)
        await answered(runtime, breaker)

    runtime.run(body)


def test_a_break_ends_by_the_real_clock_too(runtime):
    async def body():
        breaker = await opened(runtime, break_duration=0.02)
        await refused(runtime, breaker)
        await runtime.until(lambda: breaker.state is HALF_OPEN)
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


# --- blocks, and permits by hand ---------------------------------------------------------------------------------


def test_an_error_that_leaves_a_guarded_block_is_judged(runtime):
    async def body():
        breaker = tripping()
        with pytest.raises(ConnectionError):
            async with runtime.guard(breaker):
                raise ConnectionError
        assert breaker.state is OPEN

    runtime.run(body)


def test_a_guarded_block_that_ends_well_is_a_success(runtime, fake_clock):
    async def body():
        breaker = await half_open(runtime, fake_clock)
        async with runtime.guard(breaker):
            assert breaker.state is HALF_OPEN
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_refused_block_does_not_run(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        with pytest.raises(CircuitOpenError):
            async with runtime.guard(breaker):
                pytest.fail("it ran")

    runtime.run(body)


def test_a_guarded_block_may_judge_itself(runtime):
    async def body():
        breaker = tripping()
        async with runtime.guard(breaker) as permit:
            permit.settle(Verdict.BAD)
        assert breaker.state is OPEN

    runtime.run(body)


def test_a_guarded_block_may_give_its_permit_back(runtime):
    async def body():
        breaker = tripping()
        with pytest.raises(ConnectionError):
            async with runtime.guard(breaker) as permit:
                permit.release()
                raise ConnectionError
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_permit_is_settled_by_hand(runtime, fake_clock):
    async def body():
        breaker = tripping()
        permit = breaker.try_acquire()
        assert permit
        permit.settle(Verdict.BAD)
        rejection = breaker.try_acquire()
        assert not rejection
        assert rejection.retry_after == pytest.approx(5.0)
        error = rejection.error()
        assert isinstance(error, CircuitOpenError)
        assert (error.policy, error.retry_after) == ("payments", rejection.retry_after)

    runtime.run(body)


def test_a_permit_settled_twice_counts_once(runtime):
    async def body():
        breaker = tripping(2)
        permit = breaker.try_acquire()
        permit.settle(Verdict.BAD)
        permit.settle(Verdict.BAD)
        permit.release()
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_permit_may_say_when_to_come_back(runtime, fake_clock):
    async def body():
        breaker = tripping(open_on_throttle=True)
        breaker.try_acquire().settle(Verdict.THROTTLED, retry_after=20.0)
        assert breaker.try_acquire().retry_after == pytest.approx(20.0)

    runtime.run(body)


def test_a_permit_by_hand_is_timed(runtime, fake_clock):
    async def body():
        breaker = CircuitBreaker("payments", failure_ratio=None, slow_call_duration=1.0, minimum_throughput=1)
        permit = breaker.try_acquire()
        await nap(runtime, 1.5)
        permit.settle()
        assert breaker.state is OPEN

    runtime.run(body)


# --- orders ------------------------------------------------------------------------------------------------------


def test_an_isolated_circuit_refuses_without_a_time_until_the_block_ends(runtime, recorded_events):
    """breaker-10 (Polly): what was "manual" there is the event's reason here."""

    async def body():
        breaker = tripping()
        with breaker.isolate():
            assert breaker.state is ISOLATED
            assert (await refused(runtime, breaker)).retry_after is None
        assert breaker.state is CLOSED
        await answered(runtime, breaker)

    runtime.run(body)
    assert changes(recorded_events) == [
        ("closed", "forced_open", "manual"),
        ("forced_open", "closed", "manual"),
    ]


def test_isolation_lasts_until_the_last_order_ends(runtime, recorded_events):
    """breaker-14 (cockatiel): one event when it closes."""

    async def body():
        breaker = tripping()
        first, second = breaker.isolate(), breaker.isolate()
        first.end()
        first.end()
        assert breaker.state is ISOLATED
        second.end()
        assert breaker.state is CLOSED

    runtime.run(body)
    assert len(recorded_events.named(CHANGE)) == 2


def test_an_order_ends_with_its_block_also_after_an_error(runtime):
    async def body():
        breaker = tripping()
        with pytest.raises(LookupError), breaker.isolate():
            raise LookupError
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_disabled_circuit_lets_every_call_pass_and_learns_nothing(runtime):
    async def body():
        breaker = tripping()
        with breaker.disable():
            await fail(runtime, breaker, 3)
            assert breaker.state is DISABLED
        assert breaker.state is CLOSED
        await answered(runtime, breaker)

    runtime.run(body)


def test_isolation_is_stronger_than_disabling(runtime):
    async def body():
        breaker = tripping()
        with breaker.disable(), breaker.isolate():
            await refused(runtime, breaker)

    runtime.run(body)


def test_a_shadow_counts_and_reports_but_refuses_nobody(runtime, fake_clock, recorded_events):
    async def body():
        breaker = tripping()
        with breaker.shadow():
            await fail(runtime, breaker)
            assert breaker.state is OPEN
            await answered(runtime, breaker)
            fake_clock.advance(5.0)
            await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)
    assert [change[1] for change in changes(recorded_events)] == ["open", "half_open", "closed"]


def test_refusing_begins_when_the_shadow_ends(runtime, fake_clock):
    async def body():
        breaker = tripping()
        with breaker.shadow():
            await fail(runtime, breaker)
        await refused(runtime, breaker)

    runtime.run(body)


def test_a_reset_closes_the_circuit_as_if_it_were_new(runtime, recorded_events):
    async def body():
        breaker = await opened(runtime, failures=2)
        breaker.reset()
        assert breaker.state is CLOSED
        await fail(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)
    assert changes(recorded_events)[-1] == ("open", "closed", "manual")


# --- from one process to the next --------------------------------------------------------------------------------


def test_a_break_goes_on_from_a_snapshot_that_went_through_json(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        fake_clock.advance(2.0)
        other = tripping()
        other.restore(json.loads(json.dumps(breaker.snapshot())))
        assert other.state is OPEN
        assert (await refused(runtime, other)).retry_after == pytest.approx(3.0)
        fake_clock.advance(3.0)
        await fail(runtime, other)
        assert (await refused(runtime, other)).retry_after == pytest.approx(10.0)

    runtime.run(body)


def test_a_closed_circuit_is_restored_closed(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        breaker.restore(json.loads(json.dumps(tripping().snapshot())))
        await answered(runtime, breaker)

    runtime.run(body)


def test_a_restored_state_is_reported(runtime, fake_clock, recorded_events):
    async def body():
        snapshot = (await opened(runtime)).snapshot()
        tripping().restore(snapshot)

    runtime.run(body)
    assert changes(recorded_events)[-1] == ("closed", "open", "restored")


def test_what_is_no_snapshot_is_refused_and_changes_nothing(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        with pytest.raises(ConfigError):
            breaker.restore({"state": "closed"})
        await refused(runtime, breaker)

    runtime.run(body)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_keeps_the_state_even_if_the_lock_was_held_while_it_was_forked():
    breaker = tripping()
    with pytest.raises(ConnectionError):
        breaker.call(raising(ConnectionError()))
    held, done = threading.Event(), threading.Event()

    def hold():
        with breaker._lock:
            held.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)

    def child():
        try:
            breaker.call(lambda: None)
        except CircuitOpenError:
            os._exit(0 if breaker.state is OPEN and breaker.counts.rejected == 1 else 1)
        os._exit(2)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    done.set()
    holder.join()
    assert process.exitcode == 0


# --- events ------------------------------------------------------------------------------------------------------


def test_each_transition_is_reported_once(runtime, fake_clock, recorded_events):
    async def body():
        breaker = await half_open(runtime, fake_clock)
        await fail(runtime, breaker)
        fake_clock.advance(10.0)
        await answered(runtime, breaker)
        await answered(runtime, breaker)

    runtime.run(body)
    assert changes(recorded_events) == [
        ("closed", "open", "consecutive_failures"),
        ("open", "half_open", "break_over"),
        ("half_open", "open", "probes"),
        ("open", "half_open", "break_over"),
        ("half_open", "closed", "probes"),
    ]
    assert {event.policy for event in recorded_events} == {"payments"}


def test_an_event_says_how_long_the_break_is(runtime, fake_clock, recorded_events):
    async def body():
        await opened(runtime)

    runtime.run(body)
    assert recorded_events[0].attributes["resilience.retry_after"] == pytest.approx(5.0)


def test_transitions_are_reported_once_however_many_calls_end_at_once(runtime, recorded_events):
    async def body():
        breaker = tripping(4)
        dependency = Dependency(runtime)
        jobs = [runtime.spawn(runtime.wrap(breaker, dependency.ask)) for _ in range(16)]
        await dependency.called(16)
        for request in dependency.requests:
            request.fail()
        for job in jobs:
            await job.join()

    runtime.run(body)
    assert len(recorded_events.named(CHANGE)) == 1


@contextlib.contextmanager
def listening(listener):
    stop = listen(listener)
    try:
        yield
    finally:
        stop()


def test_a_listener_may_call_the_breaker(runtime):
    seen = []

    async def body():
        breaker = tripping()

        def listener(event):
            seen.append(breaker.state)
            with contextlib.suppress(CircuitOpenError):
                breaker.call(seen.append, "called")
            breaker.reset()

        with listening(listener):
            await fail(runtime, breaker)
            assert breaker.state is CLOSED

    runtime.run(body)
    assert seen == [OPEN, CLOSED, "called"]


def test_no_lock_is_held_while_listeners_are_told(runtime):
    free = []

    async def body():
        breaker = tripping()

        def listener(event):
            other = threading.Thread(target=lambda: free.append(breaker.state), daemon=True)
            other.start()
            other.join(20)

        with listening(listener):
            await fail(runtime, breaker)

    runtime.run(body)
    assert free == [OPEN]


def test_a_listener_that_raises_does_not_break_the_call(runtime):
    async def body():
        with listening(raising_listener):
            breaker = await opened(runtime)
            await refused(runtime, breaker)

    runtime.run(body)


def raising_listener(event):
    raise LookupError("broken listener")


# --- threads, and a function that calls itself -------------------------------------------------------------------


def test_guarded_calls_run_side_by_side(runtime):
    """TH-1: no lock is held around the call."""

    async def body():
        dependency = Dependency(runtime)
        guarded = runtime.wrap(tripping(), dependency.ask)
        jobs = [runtime.spawn(guarded) for _ in range(8)]
        await dependency.called(8)
        for request in dependency.requests:
            request.answer()
        assert [await job for job in jobs] == ["answer"] * 8

    runtime.run(body)


@pytest.mark.parametrize(
    "failures", [2_000, pytest.param(100_000, marks=[pytest.mark.fuzz, pytest.mark.timeout(900)])]
)
def test_no_failure_of_eight_threads_is_lost(failures):
    """TH-2: the circuit opens with the very last one."""
    threads = 8
    breaker = CircuitBreaker(
        "payments", failure_ratio=1.0, minimum_throughput=threads * failures, sampling_duration=3_600.0
    )

    def work():
        guarded = breaker(raising(ConnectionError()))
        for _ in range(failures - 1):
            with contextlib.suppress(ConnectionError):
                guarded()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    for _ in range(threads - 1):
        breaker.try_acquire().settle(Verdict.BAD)
    assert breaker.state is CLOSED
    breaker.try_acquire().settle(Verdict.BAD)
    assert breaker.state is OPEN


def test_one_breaker_serves_threads_asyncio_and_trio():
    import trio

    breaker = tripping(3)
    with pytest.raises(ConnectionError):
        breaker.call(raising(ConnectionError()))

    async def failing():
        raise ConnectionError

    async def main():
        await breaker.acall(failing)

    with pytest.raises(ConnectionError):
        asyncio.run(main())
    with pytest.raises(ConnectionError):
        trio.run(main)
    assert breaker.state is OPEN


def test_a_guarded_function_may_call_itself(runtime):
    async def body():
        breaker = tripping()

        async def countdown(n):
            return [n, *(await guarded(n - 1))] if n else [0]

        guarded = runtime.wrap(breaker, countdown)
        assert await guarded(5) == [5, 4, 3, 2, 1, 0]

    runtime.run(body)


def test_a_probe_that_calls_itself_is_refused_and_gives_its_place_back(runtime, fake_clock):
    async def body():
        breaker = await half_open(runtime, fake_clock)

        async def again():
            return await guarded()

        guarded = runtime.wrap(breaker, again)
        with pytest.raises(CircuitOpenError):
            await guarded()
        assert breaker.state is HALF_OPEN
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_constructor_and_the_settings_have_the_same_defaults():
    assert CircuitBreaker("payments").settings == CircuitBreakerSettings()


def test_the_constructor_takes_every_setting():
    taken = inspect.signature(CircuitBreaker).parameters.keys()
    assert taken - CircuitBreakerSettings.__dataclass_fields__.keys() == {"name", "on", "classify", "rng"}
    assert CircuitBreakerSettings.__dataclass_fields__.keys() <= taken


def test_one_error_lists_every_problem():
    with pytest.raises(ConfigError) as caught:
        CircuitBreaker("payments", failure_ratio=2.0, minimum_throughput=0, break_duration=-1)
    assert [problem.setting for problem in caught.value.problems] == [
        "failure_ratio",
        "minimum_throughput",
        "break_duration",
    ]


def test_new_settings_hold_for_what_is_guarded_already_and_keep_the_window(runtime):
    async def body():
        breaker = CircuitBreaker("payments", failure_ratio=1.0, minimum_throughput=10)
        guarded = runtime.wrap(breaker, raising(ConnectionError()))
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await guarded()
        breaker.reconfigure(minimum_throughput=3)
        assert breaker.state is CLOSED
        with pytest.raises(ConnectionError):
            await guarded()
        assert breaker.state is OPEN

    runtime.run(body)


def test_new_settings_leave_an_open_circuit_open(runtime, fake_clock):
    async def body():
        breaker = await opened(runtime)
        breaker.reconfigure(break_duration=1.0, consecutive_failures=9)
        assert (await refused(runtime, breaker)).retry_after == pytest.approx(5.0)

    runtime.run(body)


@pytest.mark.parametrize("change", [{"consecutive_failures": 0}, {"consecutive_failure": 3}])
def test_new_settings_that_cannot_work_change_nothing(change):
    breaker = tripping()
    before = breaker.settings
    with pytest.raises(ConfigError):
        breaker.reconfigure(**change)
    assert breaker.settings is before


def test_a_reloaded_pipeline_keeps_an_open_circuit_open(runtime, fake_clock):
    async def body():
        pipeline = Pipeline("stock", tripping())
        guarded = runtime.wrap(pipeline, raising(ConnectionError()))
        with pytest.raises(ConnectionError):
            await guarded()
        breaker = pipeline.policies[0]
        pipeline.reload(tripping(7))
        assert pipeline.policies[0] is breaker
        assert breaker.settings.consecutive_failures == 7
        with pytest.raises(CircuitOpenError):
            await guarded()

    runtime.run(body)


def test_a_breaker_that_nobody_uses_any_more_is_forgotten():
    before = len(fork._followers)
    breaker = tripping()
    guarded = breaker(len)
    guarded("four")
    forgotten = weakref.ref(breaker)
    del breaker, guarded
    gc.collect()
    assert forgotten() is None
    assert len(fork._followers) <= before


# --- what can be guarded -----------------------------------------------------------------------------------------


def plain(sku: str, *, count: int = 1) -> int:
    """Count what is in stock."""
    return count


async def coroutine(sku: str, *, count: int = 1) -> int:
    """Count what is in stock."""
    return count


def stream(sku: str, *, count: int = 1):
    """Count what is in stock."""
    yield count


async def async_stream(sku: str, *, count: int = 1):
    """Count what is in stock."""
    yield count


@pytest.mark.parametrize("fn", [plain, coroutine, stream, async_stream], ids=lambda fn: fn.__name__)
def test_name_signature_and_colour_of_a_function_survive(fn):
    """DE-1."""
    guarded = tripping()(fn)
    assert (guarded.__name__, guarded.__qualname__) == (fn.__name__, fn.__qualname__)
    assert (guarded.__doc__, guarded.__module__) == (fn.__doc__, fn.__module__)
    assert inspect.signature(guarded) == inspect.signature(fn)
    assert guarded.__wrapped__ is fn
    for ask in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert ask(guarded) is ask(fn)


class Shop:
    def __init__(self, stock):
        self.stock = stock

    @tripping()
    def method(self, sku):
        return self.stock, sku

    @classmethod
    @tripping()
    def of_the_class(cls, sku):
        return cls.__name__, sku

    @tripping()
    @classmethod
    def wrapped_class_method(cls, sku):
        return cls.__name__, sku

    @staticmethod
    @tripping()
    def static(sku):
        return sku

    @tripping()
    @staticmethod
    def wrapped_static(sku):
        return sku

    @tripping()
    async def async_method(self, sku):
        return self.stock, sku

    def __call__(self, sku):
        return self.stock, sku


def test_methods_of_every_kind_can_be_guarded():
    """DE-2."""
    shop = Shop(7)
    assert shop.method("a-1") == (7, "a-1")
    assert shop.of_the_class("a-1") == Shop.of_the_class("a-1") == ("Shop", "a-1")
    assert shop.wrapped_class_method("a-1") == Shop.wrapped_class_method("a-1") == ("Shop", "a-1")
    assert shop.static("a-1") == Shop.static("a-1") == "a-1"
    assert shop.wrapped_static("a-1") == Shop.wrapped_static("a-1") == "a-1"
    assert asyncio.run(shop.async_method("a-1")) == (7, "a-1")


def test_partials_bound_methods_and_callable_objects_can_be_guarded():
    """DE-2."""
    shop = Shop(7)
    assert tripping()(functools.partial(plain, count=3))("a-1") == 3
    assert tripping()(shop.method)("a-1") == (7, "a-1")
    assert tripping()(shop)("a-1") == (7, "a-1")
    assert asyncio.run(tripping()(functools.partial(coroutine, count=3))("a-1")) == 3


@pytest.mark.parametrize("fn", [Shop, 7, None], ids=repr)
def test_what_is_no_function_is_refused_at_once(fn):
    with pytest.raises(TypeError, match="guards functions and callable objects"):
        tripping()(fn)


def test_an_async_function_is_never_guarded_as_a_plain_one():
    """DE-3: a decorator takes either colour; where only a plain function fits, the other is refused."""
    breaker = tripping()
    with pytest.raises(TypeError, match=r"use acall\(\)"):
        breaker.call(coroutine, "a-1")
    assert inspect.iscoroutinefunction(breaker(coroutine))


def test_a_plain_function_that_returns_a_coroutine_is_refused_and_teaches_nothing():
    """DE-3."""
    breaker = tripping()
    guarded = breaker(lambda: coroutine("a-1"))
    with pytest.raises(TypeError, match="returned a coroutine"):
        guarded()
    assert breaker.state is CLOSED


def test_a_stream_is_guarded_to_its_end(runtime):
    """DE-4: an error in mid-stream counts."""

    async def broken():
        yield 1
        yield 2
        raise ConnectionError

    async def body():
        breaker = tripping()
        items = []
        with pytest.raises(ConnectionError):
            async for item in runtime.wrap(breaker, broken)():
                assert breaker.state is CLOSED
                items.append(item)
        assert items == [1, 2]
        assert breaker.state is OPEN

    runtime.run(body)


def test_a_stream_that_fails_before_its_first_item_counts(runtime):
    """DE-4."""

    async def broken():
        raise ConnectionError
        yield

    async def body():
        breaker = tripping()
        with pytest.raises(ConnectionError):
            async for _ in runtime.wrap(breaker, broken)():
                pytest.fail("there was an item")
        assert breaker.state is OPEN

    runtime.run(body)


def test_an_open_circuit_refuses_a_stream_at_its_first_item(runtime, fake_clock):
    """DE-4."""

    async def numbers():
        yield 1

    async def body():
        breaker = await opened(runtime)
        items = runtime.wrap(breaker, numbers)()
        with pytest.raises(CircuitOpenError):
            await anext(items)

    runtime.run(body)


def test_a_stream_that_is_read_to_its_end_is_a_success(runtime, fake_clock):
    """DE-4."""

    async def numbers():
        yield 1

    async def body():
        breaker = await half_open(runtime, fake_clock)
        items = runtime.wrap(breaker, numbers)()
        assert await anext(items) == 1
        assert breaker.state is HALF_OPEN
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_stream_that_is_left_early_teaches_nothing_and_gives_its_place_back(runtime, fake_clock):
    """DE-4."""

    async def numbers():
        yield 1
        yield 2

    async def body():
        breaker = await half_open(runtime, fake_clock)
        items = runtime.wrap(breaker, numbers)()
        await anext(items)
        await refused(runtime, breaker)
        await items.aclose()
        assert breaker.state is HALF_OPEN
        await answered(runtime, breaker)
        assert breaker.state is CLOSED

    runtime.run(body)


def test_a_failed_call_leaves_no_reference_cycle_behind(runtime):
    """RE-3 for the breaker: gc is off, and still nothing of the failed call lives on."""
    alive = []

    class Precious:
        pass

    def failing():
        precious = Precious()
        alive.append(weakref.ref(precious))
        raise ConnectionError

    async def body():
        guarded = runtime.wrap(tripping(3), failing)
        with collector_off():
            for _ in range(2):
                with contextlib.suppress(ConnectionError):
                    await guarded()
            assert [each() for each in alive] == [None, None]

    runtime.run(body)


def test_a_constant_error_keeps_a_short_traceback(runtime):
    constant = ConnectionError("down")
    depths = []

    def failing():
        raise constant.with_traceback(None)

    async def body():
        guarded = runtime.wrap(tripping(100), failing)
        for _ in range(10):
            with contextlib.suppress(ConnectionError):
                await guarded()
            depths.append(depth(constant))

    runtime.run(body)
    assert len(set(depths[1:])) == 1  # the first call finds no generated code yet


def depth(error):
    trace, frames = error.__traceback__, 0
    while trace is not None:
        trace, frames = trace.tb_next, frames + 1
    return frames


def test_a_breaker_made_before_a_fake_clock_follows_it_as_well(runtime):
    async def body():
        breaker = tripping()
        fetch = fail_times(1, ConnectionError, then="answer")
        with FakeClock() as clock:
            with pytest.raises(ConnectionError):
                await runtime.call(breaker, fetch)
            clock.advance(5.0)
            assert await runtime.call(breaker, fetch) == "answer"

    runtime.run(body)


class Zeros(list[float]):
    """A source of chance that is false, being empty."""

    draws = 0

    def random(self) -> float:
        self.draws += 1
        return 0.0


def test_a_source_of_chance_that_is_false_is_used_all_the_same():
    chance = Zeros()
    CircuitBreaker(rng=chance).try_acquire().settle()
    assert chance.draws > 0


@pytest.mark.parametrize("wrong", [7, "dice", object(), 0])
def test_what_has_no_random_method_is_refused_with_every_other_problem(wrong):
    with pytest.raises(ConfigError, match=r"rng must have a random\(\) method or be None") as caught:
        CircuitBreaker("", probes=0, rng=wrong)
    assert [problem.setting for problem in caught.value.problems] == ["name", "probes", "rng"]
    with pytest.raises(ConfigError, match="CircuitBreaker: rng must have"):
        CircuitBreaker(rng=wrong)
