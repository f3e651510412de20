"""Real policies inside one another, on threads, under asyncio and under trio: who sees what, and who holds what when."""

import contextlib
import weakref

import pytest
from tests.collector import collector_off
from tests.dependency import Dependency
from tests.doubles import Closeable, raising
from tests.runtimes import SyncRuntime

from resilience import (
    Cache,
    CallContext,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    ConfigError,
    ConfigWarning,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Pipeline,
    Priority,
    RateLimitedError,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    bad_results,
    current_priority,
    deadline,
    remaining,
)
from resilience.backoff import constant
from resilience.testing import FakeClock, delayed, fail_times, script
from resilience.throttle import AdaptiveThrottle

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def retrying(attempts=3, **settings):
    """A retry without delay, jitter or budget, unless they are given."""
    return Retry(**{"attempts": attempts, "backoff": constant(0.0), "budget": None, **settings})


def tripping(failures, **settings):
    """A breaker that opens after so many failures in a row."""
    rules = {"failure_ratio": None, "consecutive_failures": failures, "break_jitter": 0.0}
    return CircuitBreaker(**{**rules, **settings})


async def fails(runtime, policy, fetch, error=ConnectionError):
    with pytest.raises(error) as caught:
        await runtime.call(policy, fetch)
    return caught.value


# --- retry and breaker -------------------------------------------------------------------------------------------


def test_a_breaker_inside_a_retry_sees_every_attempt(runtime):
    """composition-1 (Failsafe): fail, fail, ok: two failures and a success recorded, closed."""
    breaker = CircuitBreaker(minimum_throughput=3, failure_ratio=1.0)
    fetch = fail_times(2, ConnectionError, then="here")

    async def body():
        return await runtime.call(Pipeline("stock", retrying(), breaker), fetch)

    assert runtime.run(body) == "here"
    assert fetch.calls == 3
    assert breaker.failure_ratio == pytest.approx(2 / 3)
    assert breaker.state is CLOSED


def test_a_breaker_around_a_retry_sees_the_call(runtime):
    """composition-1 (Failsafe): all attempts fail: one failure is counted."""
    breaker = CircuitBreaker(minimum_throughput=2, failure_ratio=1.0)
    fetch = script(ConnectionError)

    async def body():
        pipeline = Pipeline("stock", breaker, retrying())
        await fails(runtime, pipeline, fetch)
        assert breaker.state is CLOSED
        await fails(runtime, pipeline, fetch)
        assert breaker.state is OPEN

    runtime.run(body)
    assert fetch.calls == 6


def test_an_open_circuit_ends_the_retrying_with_the_real_error(runtime):
    """
    composition-2 (Failsafe, failsafe-go): Retry 7 (Breaker 3), three executions.

    There the open circuit's error comes out; here the last real one, since it says what is wrong.
    """
    fetch = script(ConnectionError("down"))

    async def body():
        error = await fails(runtime, Pipeline("stock", retrying(7), tripping(3)), fetch)
        assert error.__notes__ == ["resilience: gave up after 4 attempts: rejected"]

    runtime.run(body)
    assert fetch.calls == 3


def test_a_circuit_that_was_open_before_is_not_asked_again(runtime):
    breaker = tripping(1)
    fetch = script("here")

    async def body():
        await fails(runtime, breaker, raising(ConnectionError()))
        await fails(runtime, Pipeline("stock", retrying(7), breaker), fetch, CircuitOpenError)

    runtime.run(body)
    assert fetch.calls == 0
    assert breaker.counts.rejected == 1


def test_a_circuit_that_is_waited_for_is_asked_again_when_its_break_is_over(runtime, fake_clock):
    breaker = tripping(1, break_duration=3.0)
    fetch = fail_times(1, ConnectionError, then="here")

    async def body():
        retry = retrying(on=(ConnectionError, CircuitOpenError))
        return await runtime.call(Pipeline("stock", retry, breaker), fetch)

    assert runtime.run(body) == "here"
    assert fake_clock.sleeps == [pytest.approx(3.0)]
    assert breaker.state is CLOSED


def test_a_retry_gives_a_probe_its_one_chance(runtime, fake_clock):
    breaker = tripping(1)
    fetch = script(ConnectionError)

    async def body():
        pipeline = Pipeline("stock", retrying(), breaker)
        await fails(runtime, pipeline, fetch)
        fake_clock.advance(5.0)
        await fails(runtime, pipeline, fetch)

    runtime.run(body)
    assert fetch.calls == 2


# --- retry and limits --------------------------------------------------------------------------------------------


def test_a_refusal_by_a_limiter_is_not_retried(runtime, fake_clock):
    """composition-2 (Failsafe): Retry 7 (Limiter 3 per s). By default a refusal is not retried here."""
    limiter = RateLimiter(rate=3, burst=3)
    fetch = script(ConnectionError("down"))

    async def body():
        await fails(runtime, Pipeline("stock", retrying(7), limiter), fetch)

    runtime.run(body)
    assert fetch.calls == 3
    assert limiter.counts.rejected == 1


def test_a_refusal_by_a_limiter_is_retried_if_it_is_named(runtime, fake_clock):
    """composition-2 (Failsafe): 7 attempts, 3 executions; the wait that the limiter names is switched off."""
    limiter = RateLimiter(rate=3, burst=3)
    fetch = script(ConnectionError("down"))
    retry = retrying(7, on=(ConnectionError, RateLimitedError), retry_after_window=0.0)

    async def body():
        await fails(runtime, Pipeline("stock", retry, limiter), fetch)

    runtime.run(body)
    assert fetch.calls == 3
    assert limiter.counts.rejected == 4


def test_a_retry_comes_back_when_the_limiter_says(runtime, fake_clock):
    limiter = RateLimiter(rate=2, burst=1)
    fetch = fail_times(1, ConnectionError, then="here")
    retry = retrying(3, on=(ConnectionError, RateLimitedError))

    async def body():
        return await runtime.call(Pipeline("stock", retry, limiter), fetch)

    assert runtime.run(body) == "here"
    assert fake_clock.sleeps == [pytest.approx(0.5)]


def test_a_full_bulkhead_refuses_every_attempt(runtime):
    """composition-2 (Failsafe): Retry 7 (full Bulkhead): 7 attempts, 0 executions, if the refusal is named."""
    bulkhead = ConcurrencyLimiter(limit=1)
    fetch = script("here")

    async def body():
        with bulkhead.guard():
            pipeline = Pipeline("stock", retrying(7, on=ConcurrencyLimitedError), bulkhead)
            await fails(runtime, pipeline, fetch, ConcurrencyLimitedError)

    runtime.run(body)
    assert fetch.calls == 0
    assert bulkhead.counts.rejected == 7


def test_a_full_bulkhead_is_not_asked_again_by_default(runtime):
    """composition-2 (Failsafe), with our default."""
    bulkhead = ConcurrencyLimiter(limit=1)

    async def body():
        with bulkhead.guard():
            await fails(runtime, Pipeline("stock", retrying(7), bulkhead), int, ConcurrencyLimitedError)

    runtime.run(body)
    assert bulkhead.counts.rejected == 1


@pytest.mark.parametrize(("outside", "held"), [(False, 0), (True, 1)], ids=["inside", "around"])
def test_a_slot_inside_the_retry_is_free_during_the_delay(runtime, outside, held):
    bulkhead = ConcurrencyLimiter(limit=1)
    seen = []

    def delay(context):
        seen.append(bulkhead.inflight)
        return 0.0

    async def body():
        policies = [retrying(2, backoff=delay), bulkhead]
        pipeline = Pipeline("stock", *(reversed(policies) if outside else policies))
        await fails(runtime, pipeline, script(ConnectionError))

    runtime.run(body)
    assert seen == [held]
    assert bulkhead.inflight == 0


def test_every_attempt_spends_a_permit_of_the_limiter_inside(runtime, fake_clock):
    limiter = RateLimiter(rate=10, burst=10)

    async def body():
        await fails(runtime, Pipeline("stock", retrying(4), limiter), script(ConnectionError))

    runtime.run(body)
    assert limiter.remaining() == 6


def test_an_open_circuit_spends_no_permit_of_the_limiter_before_it(runtime, fake_clock):
    limiter, breaker = RateLimiter(rate=10, burst=10), tripping(1)

    async def body():
        await fails(runtime, breaker, raising(ConnectionError()))
        await fails(runtime, Pipeline("stock", limiter, breaker), int, CircuitOpenError)

    runtime.run(body)
    assert limiter.remaining() == 10


def test_a_refusal_by_a_full_bulkhead_gives_the_permit_before_it_back(runtime, fake_clock):
    limiter, bulkhead, throttle = (
        RateLimiter(rate=10, burst=10),
        ConcurrencyLimiter(limit=1),
        AdaptiveThrottle(),
    )

    async def body():
        with bulkhead.guard():
            await fails(runtime, Pipeline("stock", limiter, bulkhead, throttle), int, ConcurrencyLimitedError)

    runtime.run(body)
    assert limiter.remaining() == 10


def test_a_probe_that_an_inner_gate_refuses_is_no_probe(runtime, fake_clock):
    breaker, bulkhead = tripping(1), ConcurrencyLimiter(limit=1)

    async def body():
        pipeline = Pipeline("stock", breaker, bulkhead)
        await fails(runtime, pipeline, raising(ConnectionError()))
        fake_clock.advance(5.0)
        with bulkhead.guard():
            await fails(runtime, pipeline, int, ConcurrencyLimitedError)
        assert breaker.state is HALF_OPEN
        assert await runtime.call(pipeline, lambda: "here") == "here"
        assert breaker.state is CLOSED

    runtime.run(body)


# --- timeouts ----------------------------------------------------------------------------------------------------


def test_an_attempt_that_timed_out_is_retried_and_counted_as_timed_out(async_runtime, fake_clock):
    breaker = tripping(9)
    fetch = script(delayed(60.0), "here")

    async def body():
        pipeline = Pipeline("stock", retrying(), breaker, Timeout(1.0))
        return await async_runtime.call(pipeline, fetch)

    assert async_runtime.run(body) == "here"
    assert breaker._circuit.ended[Verdict.TIMED_OUT] == 1


def test_a_pending_retry_is_never_hit_by_the_timeout_of_the_attempt_before(async_runtime, fake_clock):
    """composition-3 (failsafe-go): Retry(Timeout 50 ms) with 100 ms delay."""
    fetch = script(delayed(0.2), delayed(0.04, "here"))
    timeout = Timeout(0.05)

    async def body():
        pipeline = Pipeline("stock", retrying(2, backoff=constant(0.1)), timeout)
        return await async_runtime.call(pipeline, fetch)

    assert async_runtime.run(body) == "here"
    assert timeout.timed_out == 1


def test_a_delay_that_does_not_fit_the_timeout_around_is_not_begun(runtime, fake_clock):
    """
    composition-3 (failsafe-go): Timeout 100 ms (Retry, delay 1 s): one attempt, then a timeout.

    Here the retry knows how long there is: the real error comes out at once, and nobody waits for nothing.
    """
    fetch = script(ConnectionError("down"))
    timeout = Timeout(0.1)
    began = fake_clock.now()

    async def body():
        error = await fails(runtime, Pipeline("stock", timeout, retrying(backoff=constant(1.0))), fetch)
        assert error.__notes__ == ["resilience: gave up after 1 attempt: deadline exceeded"]

    runtime.run(body)
    assert fetch.calls == 1
    assert timeout.timed_out == 0
    assert fake_clock.now() == began


def test_many_inner_timeouts_make_one_outer(async_runtime, fake_clock):
    """composition-4 (Failsafe): Timeout 500 ms (Retry 10 (Timeout 100 ms)), calls of 150 ms."""
    outer, inner = Timeout(0.5, name="all"), Timeout(0.1, name="attempt")

    async def body():
        pipeline = Pipeline("stock", outer, retrying(10), inner)
        error = await fails(async_runtime, pipeline, script(delayed(0.15)), TimeoutError)
        assert type(error) is TimeoutError
        assert "'all' took longer than 0.5 s" in str(error)

    async_runtime.run(body)
    assert inner.timed_out >= 3
    assert outer.timed_out == 1


def test_the_function_sees_the_nearest_bound(runtime, fake_clock):
    async def body():
        pipeline = Pipeline("stock", Timeout(2.0), retrying(), Timeout(0.5))
        assert await runtime.call(pipeline, remaining) == pytest.approx(0.5)
        with deadline(0.2):
            assert await runtime.call(pipeline, remaining) == pytest.approx(0.2)

    runtime.run(body)


def test_a_wait_for_a_permit_ends_with_the_deadline(runtime, fake_clock):
    limiter = RateLimiter(rate=1, burst=1, max_wait=5.0)
    began = fake_clock.now()

    async def body():
        pipeline = Pipeline("stock", limiter)
        assert await runtime.call(pipeline, lambda: "here") == "here"
        with deadline(0.5), pytest.raises((RateLimitedError, DeadlineExceededError)):
            await runtime.call(pipeline, lambda: "never")

    runtime.run(body)
    assert fake_clock.now() - began <= 0.5


def test_a_thread_that_was_left_behind_teaches_the_breaker_a_timeout_and_nothing_later(fake_clock):
    breaker, timeout = tripping(2), Timeout(1.0, thread=True)
    fetch = script(delayed(2.0, ConnectionError()))
    with pytest.raises(TimeoutError):
        Pipeline("stock", breaker, timeout).call(fetch)
    assert timeout.abandoned == 1
    threads = SyncRuntime()
    fake_clock.advance(2.0)
    threads.run(lambda: threads.until(lambda: timeout.abandoned == 0))
    assert breaker.state is CLOSED
    assert (breaker._circuit.ended[Verdict.TIMED_OUT], breaker._circuit.ended[Verdict.BAD]) == (1, 0)


# --- budgets -----------------------------------------------------------------------------------------------------


def test_the_share_of_what_is_in_flight_pays_for_a_further_attempt():
    """budget-1 (failsafe-go): rate 0.5, minimum 1; two executions in flight, one of them an extra."""
    budget = RetryBudget.inflight(0.5, min_concurrency=1)
    budget.deposit()
    assert budget.try_withdraw()
    assert budget.try_withdraw()
    assert not budget.try_withdraw()
    budget.release()
    assert budget.try_withdraw()


def test_the_floor_pays_although_the_share_does_not():
    """budget-2 (failsafe-go): the minimum is two."""
    budget = RetryBudget.inflight(0.01, min_concurrency=2)
    budget.deposit()
    assert budget.try_withdraw()
    assert budget.try_withdraw()
    assert not budget.try_withdraw()


def test_a_hedge_that_nobody_pays_for_leaves_the_call_alone(runtime, fake_clock, recorded_events):
    """budget-3 (failsafe-go): the primary still answers, 0 hedges."""
    budget = RetryBudget.ratio(0.0, min_per_second=0.0)
    while budget.try_withdraw():
        pass
    hedge = Hedge(after=0.1, idempotent=True, budget=budget)

    async def body():
        return await runtime.call(hedge, script(delayed(1.0, "slow but here")))

    assert runtime.run(body) == "slow but here"
    assert (hedge.hedges, hedge.denied) == (0, 1)
    assert len(recorded_events.named("resilience.hedge.budget_exhausted")) == 1


def test_retries_and_hedges_of_one_name_spend_from_one_budget(runtime, fake_clock):
    name = f"retries and hedges, {runtime.name}"
    hedge = Hedge(after=0.1, idempotent=True)
    fetch = script(ConnectionError)

    async def body():
        await fails(runtime, Pipeline(name, Retry(attempts=9, backoff=constant(0.0))), fetch)
        assert fetch.calls == 3  # the floor of the default budget: two further attempts
        assert await runtime.call(Pipeline(name, hedge), script(delayed(1.0, "here"))) == "here"

    runtime.run(body)
    assert (hedge.hedges, hedge.denied) == (0, 1)


def test_a_retry_around_a_hedge_spends_from_one_budget(runtime, fake_clock):
    name = f"a retry around a hedge, {runtime.name}"
    hedge = Hedge(after=None, idempotent=True)
    fetch = script(ConnectionError)

    async def body():
        await fails(runtime, Pipeline(name, Retry(attempts=9, backoff=constant(0.0)), hedge), fetch)

    runtime.run(body)
    assert fetch.calls == 3


# --- fallbacks, caches, hedges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionError, CircuitOpenError("breaker"), TimeoutError], ids=repr)
def test_a_fallback_around_everything_hides_whatever_went_wrong(runtime, fake_clock, error):
    pipeline = Pipeline("stock", Fallback(value="instead"), retrying(2), tripping(5))

    async def body():
        return await runtime.call(pipeline, script(error))

    assert runtime.run(body) == "instead"


def test_a_fallback_around_everything_does_not_hide_failures_from_the_breaker(runtime, fake_clock):
    breaker = tripping(2)

    async def body():
        pipeline = Pipeline("stock", Fallback(value="instead"), retrying(2), breaker)
        assert await runtime.call(pipeline, script(ConnectionError)) == "instead"

    runtime.run(body)
    assert breaker.state is OPEN


def test_a_fallback_inside_a_breaker_is_unwise():
    with pytest.warns(ConfigWarning, match="put it first"):
        Pipeline("stock", tripping(2), Fallback(value="instead"))


def test_what_is_in_the_cache_asks_nobody(runtime, fake_clock):
    breaker = tripping(1)
    fetch = script("fresh")

    async def body():
        guarded = runtime.wrap(Pipeline("stock", Cache(ttl=10.0), breaker), fetch)
        assert await guarded("a-1") == "fresh"
        with breaker.isolate():
            assert await guarded("a-1") == "fresh"
            with pytest.raises(CircuitOpenError):
                await guarded("a-2")

    runtime.run(body)
    assert fetch.calls == 1


def test_the_loser_of_a_race_teaches_the_breaker_nothing(async_runtime, fake_clock):
    breaker = tripping(1)

    async def body():
        pipeline = Pipeline("stock", Hedge(after=0.1, idempotent=True, budget=RetryBudget.ratio()), breaker)
        assert await async_runtime.call(pipeline, script(delayed(60.0), "second")) == "second"
        await async_runtime.checkpoint()

    async_runtime.run(body)
    assert breaker.state is CLOSED
    assert breaker._circuit.good == 1
    assert sum(breaker._circuit.ended.values()) == 0


def test_every_attempt_of_a_race_asks_the_bulkhead_inside(async_runtime, fake_clock):
    bulkhead = ConcurrencyLimiter(limit=1)

    async def body():
        pipeline = Pipeline("stock", Hedge(after=0.1, idempotent=True, budget=RetryBudget.ratio()), bulkhead)
        assert await async_runtime.call(pipeline, script(delayed(1.0, "first"))) == "first"

    async_runtime.run(body)
    assert bulkhead.counts.rejected == 1
    assert bulkhead.inflight == 0


# --- giving back -------------------------------------------------------------------------------------------------


def everything(**settings):
    """One of nearly each, in the order of the golden path."""
    parts = {
        "timeout": Timeout(60.0),
        "retry": retrying(3, backoff=constant(1.0)),
        "breaker": tripping(9, probes=1),
        "limiter": RateLimiter(rate=10, burst=10),
        "bulkhead": ConcurrencyLimiter(limit=1, max_queue=4, max_wait=30.0),
        **settings,
    }
    return Pipeline("stock", *parts.values()), parts


def is_idle(parts):
    return parts["bulkhead"].inflight == 0 and parts["bulkhead"].queued == 0


def test_a_call_that_is_cancelled_under_way_gives_everything_back(async_runtime, fake_clock):
    pipeline, parts = everything()

    async def body():
        dependency = Dependency(async_runtime)
        job = async_runtime.spawn(async_runtime.wrap(pipeline, dependency.ask))
        await dependency.called(1)
        assert parts["bulkhead"].inflight == 1
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert is_idle(parts)
        assert parts["breaker"]._circuit.cancelled == 1
        assert await async_runtime.call(pipeline, lambda: "here") == "here"

    async_runtime.run(body)


def test_a_call_that_is_cancelled_in_the_waiting_line_gives_everything_back(async_runtime):
    pipeline, parts = everything()

    async def body():
        with FakeClock(auto_advance=False):
            permit = parts["bulkhead"].try_acquire()
            job = async_runtime.spawn(async_runtime.wrap(pipeline, script("never")))
            await async_runtime.until(lambda: parts["bulkhead"].queued == 1)
            async_runtime.cancel(job)
            await job.join()
            assert isinstance(job.error, async_runtime.cancelled)
            permit.release()
            assert is_idle(parts)
            assert parts["breaker"]._circuit.cancelled == 1
            assert parts["limiter"].remaining() == 10

    async_runtime.run(body)


def test_a_call_that_is_cancelled_between_two_attempts_holds_nothing(async_runtime):
    pipeline, parts = everything()

    async def body():
        with FakeClock(auto_advance=False) as clock:
            job = async_runtime.spawn(async_runtime.wrap(pipeline, script(ConnectionError)))
            await async_runtime.until(lambda: clock.sleeps == [1.0])
            assert is_idle(parts)
            async_runtime.cancel(job)
            await job.join()
            assert isinstance(job.error, async_runtime.cancelled)
            assert parts["breaker"].state is CLOSED

    async_runtime.run(body)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_call_gives_everything_back(fake_clock, error):
    pipeline, parts = everything()
    with pytest.raises(error):
        pipeline.call(raising(error()))
    assert is_idle(parts)
    assert parts["breaker"]._circuit.cancelled == 1
    assert pipeline.call(lambda: "here") == "here"


def test_a_call_that_fails_gives_everything_back(runtime, fake_clock):
    pipeline, parts = everything()

    async def body():
        await fails(runtime, pipeline, script(ConnectionError))

    runtime.run(body)
    assert is_idle(parts)


def test_a_stream_holds_its_slot_until_it_is_read(runtime, fake_clock):
    pipeline, parts = everything()

    async def rows():
        yield 1
        yield 2

    async def body():
        items = runtime.wrap(pipeline, rows)()
        assert parts["bulkhead"].inflight == 0
        assert await anext(items) == 1
        assert parts["bulkhead"].inflight == 1
        assert [item async for item in items] == [2]
        assert is_idle(parts)

    runtime.run(body)


def test_a_stream_that_is_closed_early_gives_everything_back(runtime, fake_clock):
    pipeline, parts = everything()

    async def rows():
        yield 1
        yield 2

    async def body():
        items = runtime.wrap(pipeline, rows)()
        await anext(items)
        await items.aclose()
        assert is_idle(parts)

    runtime.run(body)


def test_no_frame_of_a_failed_attempt_lives_on_in_a_whole_pipeline(runtime, fake_clock):
    """RE-3 and RE-4."""
    pipeline, _ = everything()
    alive = []

    class Precious:
        pass

    def failing():
        precious = Precious()
        alive.append(weakref.ref(precious))
        if len(alive) != 6:
            raise ConnectionError
        return "here"

    async def body():
        guarded = runtime.wrap(pipeline, failing)
        with collector_off():
            for _ in range(2):
                with contextlib.suppress(ConnectionError):
                    await guarded()
            assert [each() for each in alive] == [None] * 6

    runtime.run(body)


def test_a_discarded_result_is_closed_while_nothing_is_held(runtime, fake_clock):
    pipeline, parts = everything(retry=retrying(2, classify=bad_results(lambda value: value != "here")))
    seen = []

    class Response(Closeable):
        def close(self):
            super().close()
            seen.append(parts["bulkhead"].inflight)

    async def body():
        return await runtime.call(pipeline, script(Response(), "here"))

    assert runtime.run(body) == "here"
    assert seen == [0]


# --- waiting, by the real clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "outcomes"),
    [
        (lambda: retrying(backoff=constant(0.01)), (ConnectionError, "here")),
        (lambda: RateLimiter(rate=100, burst=1, max_wait=20.0), ("first", "here")),
        (lambda: ConcurrencyLimiter(limit=1, max_queue=9, max_wait=20.0), (delayed(0.01), "here")),
        (lambda: Hedge(after=0.01, idempotent=True, budget=RetryBudget.ratio()), (delayed(0.5), "here")),
        (lambda: Cache(ttl=20.0), (delayed(0.01, "here"), "never")),
    ],
    ids=["retry", "rate_limiter", "concurrency_limiter", "hedge", "cache"],
)
def test_whatever_waits_waits_in_every_runtime(runtime, policy, outcomes):
    """TR-1: a delay, a permit, a place in a line, another attempt, somebody else's refresh."""
    fetch = script(*outcomes)

    async def body():
        guarded = runtime.wrap(Pipeline("stock", policy()), fetch)
        return await runtime.gather(guarded, guarded)

    assert "here" in runtime.run(body)


# --- shared, and reloaded ----------------------------------------------------------------------------------------


def test_one_breaker_in_two_pipelines_is_one_breaker(runtime):
    breaker = tripping(2)
    first, second = Pipeline("first", retrying(1), breaker), Pipeline("second", Timeout(5.0), breaker)

    async def body():
        await fails(runtime, first, raising(ConnectionError()))
        await fails(runtime, second, raising(ConnectionError()))
        await fails(runtime, first, int, CircuitOpenError)

    runtime.run(body)


def test_many_calls_at_once_pass_one_pipeline(runtime):
    bulkhead = ConcurrencyLimiter(limit=4, max_queue=100, max_wait=20.0)
    pipeline = Pipeline("stock", retrying(3), CircuitBreaker(minimum_throughput=1_000), bulkhead)
    attempts = {}
    most = []

    async def fetch(key):
        most.append(bulkhead.inflight)
        await runtime.checkpoint()
        attempts[key] = attempts.get(key, 0) + 1
        if attempts[key] < 3:
            raise ConnectionError
        return key

    async def body():
        guarded = runtime.wrap(pipeline, fetch)

        def one(key):
            async def work():
                return await guarded(key)

            return work

        return await runtime.gather(*[one(key) for key in range(24)])

    assert runtime.run(body) == list(range(24))
    assert max(most) <= 4
    assert bulkhead.inflight == bulkhead.queued == 0


def test_a_reload_swaps_settings_and_keeps_state(runtime, fake_clock, recorded_events):
    """composition-5 (Polly): there the old pipeline is disposed once; here policies stay, and nothing is disposed."""
    pipeline, parts = everything(retry=retrying(1))

    async def body():
        guarded = runtime.wrap(pipeline, raising(ConnectionError()))
        for _ in range(8):
            with pytest.raises(ConnectionError):
                await guarded()
        pipeline.reload(
            Timeout(30.0), retrying(2), tripping(9), RateLimiter(rate=50), ConcurrencyLimiter(limit=2)
        )
        assert pipeline.policies == tuple(parts.values())
        with pytest.raises(ConnectionError):
            await guarded()
        assert parts["breaker"].state is OPEN

    runtime.run(body)
    assert parts["bulkhead"].limit == 2
    assert len(recorded_events.named("resilience.pipeline.reload")) == 1


def test_a_reload_that_cannot_work_leaves_the_old_pipeline_and_is_reported(runtime, recorded_events):
    """composition-5 (Polly): a factory that raises; here the policies are made before, so it is their combination."""
    pipeline, parts = everything()

    async def body():
        guarded = runtime.wrap(pipeline, lambda: "here")
        with pytest.raises(ConfigError):
            pipeline.reload(Timeout(1.0), retrying(), Timeout(2.0))
        assert pipeline.policies == tuple(parts.values())
        assert parts["timeout"].settings.duration == 60.0
        assert await guarded() == "here"

    runtime.run(body)
    assert len(recorded_events.named("resilience.pipeline.reload_failed")) == 1
    assert recorded_events.named("resilience.pipeline.reload") == []


def test_a_reload_of_the_classifier_holds_for_a_retry_guarded_before(runtime):
    pipeline = Pipeline("stock", retrying())
    fetch = script([], ["row"])

    async def body():
        guarded = runtime.wrap(pipeline, fetch)
        assert await guarded() == []
        pipeline.reload(retrying(), classify=bad_results(lambda rows: not rows))
        fetch.calls = 0
        assert await guarded() == ["row"]

    runtime.run(body)


def test_a_refusal_of_any_gate_is_one_kind_of_error(runtime, fake_clock):
    isolated = tripping(1)
    empty = RateLimiter(rate=1, burst=1)
    full = ConcurrencyLimiter(limit=1)

    async def body():
        with isolated.isolate(), full.guard():
            empty.try_acquire()
            for gate in (isolated, empty, full):
                error = await fails(runtime, Pipeline("stock", gate), int, RejectedError)
                assert error.policy == gate.name

    runtime.run(body)


def test_the_priority_of_a_call_is_that_of_the_calls_that_it_makes(runtime):
    pipeline = Pipeline("stock", Timeout(60.0))

    class Bound:
        """Guards as a decorator does, but with a context for each call."""

        def __call__(self, fn):
            return pipeline.bind(fn, context=lambda: CallContext(priority=Priority.LOW))

    async def body():
        assert await runtime.wrap(Bound(), current_priority)() is Priority.LOW
        assert await runtime.wrap(pipeline, current_priority)() is Priority.NORMAL
        assert current_priority() is Priority.NORMAL

    runtime.run(body)
