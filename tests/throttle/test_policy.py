"""The adaptive throttle on threads, under asyncio and under trio: who passes, and what is learnt."""

import asyncio
import contextlib
import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.doubles import Slots, raising

from resilience import _clock
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.policy import Traits
from resilience.circuit_breaker import CircuitBreaker
from resilience.errors import ConfigError, LoadShedError, RateLimitedError
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.priority import Priority, priority_scope, usage
from resilience.testing import FakeClock
from resilience.throttle import AdaptiveThrottle, AdaptiveThrottleSettings
from resilience.timeout import Timeout

CRITICAL, HIGH, NORMAL, LOW, SHEDDABLE = Priority
THREADS = 8


class Draws:
    """Chance that is set by hand."""

    def __init__(self, draw: float = 0.0) -> None:
        self.draw = draw

    def random(self) -> float:
        return self.draw


def throttle(draw: float = 0.0, **settings: Any) -> AdaptiveThrottle:
    """Return a throttle without a floor that refuses whatever it may refuse."""
    settings = {"floor": None, "minimum_throughput": 1, "sampling_duration": 1000.0, **settings}
    return AdaptiveThrottle("stock", rng=Draws(draw), **settings)


def shedding(**settings: Any) -> AdaptiveThrottle:
    """Return one that refuses every call of normal priority."""
    made = throttle(**settings)
    permit = made.try_acquire()
    assert permit
    permit.settle(Verdict.THROTTLED)
    return made


def answer() -> str:
    return "answer"


# --- who passes ---


def test_what_passes_is_called_and_comes_back(runtime: Any) -> None:
    policy = throttle()

    async def body() -> None:
        fetch = runtime.wrap(policy, answer)
        assert [await fetch() for _ in range(3)] == ["answer"] * 3
        assert await runtime.call(policy, answer) == "answer"

    runtime.run(body)
    assert policy.rejection_probability() == 0.0


def test_a_refused_call_does_not_run(runtime: Any) -> None:
    policy = shedding()
    calls: list[None] = []

    async def body() -> None:
        fetch = runtime.wrap(policy, lambda: calls.append(None))
        with pytest.raises(LoadShedError) as caught:
            await fetch()
        assert (caught.value.policy, caught.value.retry_after) == ("stock", None)

    runtime.run(body)
    assert calls == []
    assert policy.counts.rejected == 1
    assert policy.rejection_probability() == 2 / 3  # it was asked for, all the same


@pytest.mark.parametrize(
    ("error", "share"),
    [
        (TimeoutError(), 0.5),
        (ConnectionRefusedError(), 0.5),
        (RateLimitedError("inner", 1.0), 0.0),
        (LoadShedError("inner"), 0.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_call_that_was_not_accepted_and_an_inner_refusal_is_none(
    runtime: Any, error: Exception, share: float
) -> None:
    policy = throttle()

    async def body() -> None:
        with pytest.raises(type(error)):
            await runtime.call(policy, raising(error))

    runtime.run(body)
    assert policy.rejection_probability() == share


def test_on_says_which_errors_are_mere_answers(runtime: Any) -> None:
    policy = throttle(on=ConnectionError)

    async def body() -> None:
        with pytest.raises(KeyError):
            await runtime.call(policy, raising(KeyError("not found")))
        assert policy.rejection_probability() == 0.0
        for _ in range(2):  # one in three accepted
            with pytest.raises(ConnectionResetError):
                await runtime.call(policy, raising(ConnectionResetError()))
        assert policy.rejection_probability() == 1 / 4

    runtime.run(body)


def test_a_result_may_be_what_was_not_accepted(runtime: Any) -> None:
    def by_status(outcome: Outcome[Any], context: CallContext) -> Verdict:
        return Verdict.THROTTLED if outcome.value == 429 else Verdict.GOOD

    policy = throttle()
    pipeline = Pipeline("web", policy, classify=by_status)

    async def body() -> None:
        assert await runtime.call(pipeline, lambda: 404) == 404
        assert policy.rejection_probability() == 0.0
        for _ in range(2):
            assert await runtime.call(pipeline, lambda: 429) == 429
        assert policy.rejection_probability() == 1 / 4

    runtime.run(body)


def test_a_cancelled_call_teaches_nothing(async_runtime: Any) -> None:
    runtime, policy = async_runtime, throttle()

    async def body() -> None:
        started = runtime.event()

        async def hang() -> None:
            started.set()
            await runtime.event().wait()

        call = runtime.spawn(runtime.wrap(policy, hang))
        await started.wait()
        runtime.cancel(call)
        await call.join()

    runtime.run(body)
    assert policy._throttle.cancelled == 1
    assert policy.rejection_probability() == 0.0
    assert policy.try_acquire()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_call_teaches_nothing(interrupt: type[BaseException]) -> None:
    policy = throttle()
    with pytest.raises(interrupt):
        policy.call(raising(interrupt()))
    assert policy._throttle.cancelled == 1
    assert policy.rejection_probability() == 0.0


def test_a_stream_counts_when_it_has_ended(runtime: Any) -> None:
    policy = throttle()

    async def rows(*, broken: bool) -> Any:
        yield 1
        if broken:
            raise ConnectionError
        yield 2

    async def body() -> None:
        stream = runtime.wrap(policy, rows)
        assert [row async for row in stream(broken=False)] == [1, 2]
        assert policy._throttle.good == 1
        source = stream(broken=True)
        assert await anext(source) == 1
        assert policy._throttle.ended[Verdict.BAD] == 0
        with pytest.raises(ConnectionError):
            await anext(source)
        assert policy._throttle.ended[Verdict.BAD] == 1
        abandoned = stream(broken=False)
        assert await anext(abandoned) == 1
        await abandoned.aclose()
        assert (policy._throttle.good, policy._throttle.cancelled) == (1, 1)

    runtime.run(body)


def test_a_guarded_block_counts_like_a_call(runtime: Any) -> None:
    policy = throttle()

    async def body() -> None:
        async with runtime.guard(policy) as permit:
            assert permit
        with pytest.raises(ConnectionError):
            async with runtime.guard(policy):
                raise ConnectionError
        assert policy.rejection_probability() == 0.0
        async with runtime.guard(policy) as permit:
            permit.settle(Verdict.THROTTLED)
        assert policy.rejection_probability() == 1 / 4
        with pytest.raises(LoadShedError):
            async with runtime.guard(policy):
                raise AssertionError("the block must not run")

    runtime.run(body)


def test_a_rejection_by_hand_is_false_and_names_no_time() -> None:
    rejection = shedding().try_acquire()
    assert not rejection
    assert rejection.retry_after is None
    assert isinstance(rejection.error(), LoadShedError)


def test_chance_comes_from_rng() -> None:
    policy = shedding()
    policy._random.draw = 0.49
    assert not policy.try_acquire()
    policy._random.draw = 0.75
    assert policy.try_acquire()


def test_others_may_use_the_throttle_while_its_source_of_chance_is_asked(runtime: Any) -> None:
    found: list[bool] = []

    class Nosy:
        def random(self) -> float:
            other = threading.Thread(target=lambda: policy.is_shedding, daemon=True)
            other.start()
            other.join(1.0)
            found.append(not other.is_alive())
            return 0.99

    policy = AdaptiveThrottle("stock", rng=Nosy(), floor=None, minimum_throughput=1)

    async def body() -> None:
        with pytest.raises(ConnectionError):
            await runtime.call(policy, raising(ConnectionError()))
        assert await runtime.call(policy, answer) == "answer"
        with policy.guard():
            pass
        assert policy.try_acquire()

    runtime.run(body)
    assert found
    assert all(found)


def test_the_process_own_generator_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = AdaptiveThrottle(floor=None, minimum_throughput=1)
    policy.try_acquire().settle(Verdict.BAD)
    monkeypatch.setattr(random, "random", lambda: 0.9)
    assert policy.try_acquire()
    monkeypatch.setattr(random, "random", lambda: 0.1)
    assert not policy.try_acquire()


def test_the_floor_lets_a_probe_pass(runtime: Any) -> None:
    async def body() -> None:
        with FakeClock() as clock:
            policy = shedding(floor=0.5)
            assert policy.try_acquire()
            assert not policy.try_acquire()
            clock.advance(2.0)
            assert await runtime.call(policy, answer) == "answer"
            clock.advance(1.0)
            assert policy.rejection_probability() == 0.25
            with pytest.raises(LoadShedError):
                await runtime.call(policy, answer)

    runtime.run(body)


# --- priority ---


def crowded() -> AdaptiveThrottle:
    """Return a throttle whose dependency accepts what is important, and no more."""
    policy = throttle(k=1.0)
    permits = []
    for priority in (HIGH, NORMAL, LOW):
        with priority_scope(priority):
            permits.append(policy.try_acquire())
    for permit, verdict in zip(permits, (Verdict.GOOD, Verdict.BAD, Verdict.BAD), strict=True):
        assert permit
        permit.settle(verdict)
    return policy


def test_the_least_important_calls_are_refused_first() -> None:
    policy = crowded()
    assert [policy.rejection_probability(priority) for priority in Priority] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert policy.rejection_probability() == policy.rejection_probability(NORMAL)


def test_a_block_makes_calls_important(runtime: Any) -> None:
    policy = crowded()

    async def body() -> None:
        fetch = runtime.wrap(policy, answer)
        with pytest.raises(LoadShedError):
            await fetch()
        with priority_scope(CRITICAL):
            assert await fetch() == "answer"
            async with runtime.guard(policy):
                pass
            assert policy.try_acquire()
            with priority_scope(SHEDDABLE), pytest.raises(LoadShedError):
                await fetch()

    runtime.run(body)
    assert policy._throttle.rejected == [0, 0, 1, 0, 1]


def test_a_calls_own_priority_wins_over_the_block(runtime: Any) -> None:
    policy = crowded()
    pipeline = Pipeline("web", policy)
    important = CallContext(priority=HIGH)

    async def body() -> None:
        fetch = pipeline.bind(runtime.coloured(answer), context=lambda: important)
        with priority_scope(SHEDDABLE):
            got = fetch()
            assert (got if runtime.name == "sync" else await got) == "answer"

    runtime.run(body)


def test_a_call_with_a_wrong_priority_is_not_made() -> None:
    inner = Slots()
    pipeline = Pipeline("web", Slots(), throttle(), inner)
    with pytest.raises(TypeError, match="must be a Priority"):
        pipeline.bind(answer, context=lambda: CallContext(priority="high"))()
    assert pipeline.policies[0].used == inner.most == 0  # type: ignore[attr-defined]  # a double of ours


def test_priorities_cost_nothing_while_nobody_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = crowded()
    with priority_scope(CRITICAL):
        monkeypatch.setattr(usage, "used", False)
        assert not policy.try_acquire()  # the context variable was not looked at


# --- in a pipeline ---


def test_it_is_asked_before_the_other_gates() -> None:
    policy = throttle()
    assert policy.traits == Traits(window=1000.0, rank=0)
    assert "1. throttle 'stock'" in Pipeline("web", CircuitBreaker(), policy).describe()


def test_a_window_that_is_short_for_the_timeout_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampling_duration must be at least 8 s"):
        Pipeline("web", AdaptiveThrottle(), Timeout(4.0))


def test_a_new_setting_holds_at_once_and_keeps_what_was_learnt() -> None:
    policy = shedding()
    assert not policy.try_acquire()
    policy.reconfigure(minimum_throughput=10)
    assert policy.settings.minimum_throughput == 10
    assert policy.try_acquire()
    policy.reconfigure(minimum_throughput=2)
    assert not policy.try_acquire()
    with pytest.raises(ConfigError):
        policy.reconfigure(k=0)
    assert policy.settings == AdaptiveThrottleSettings(
        floor=None, minimum_throughput=2, sampling_duration=1000.0
    )


def test_it_makes_no_difference_which_loop_asks() -> None:
    policy = throttle()
    guarded = policy(answer_later)
    assert [asyncio.run(guarded()) for _ in range(2)] == ["answer"] * 2
    assert policy._throttle.good == 2


async def answer_later() -> str:
    await asyncio.sleep(0)
    return answer()


# --- what it reports ---


def test_it_reports_when_it_begins_to_refuse_and_when_it_is_over(recorded_events: Any) -> None:
    with FakeClock() as clock:
        policy = shedding(sampling_duration=5.0)
        assert not policy.is_shedding
        for _ in range(3):
            assert not policy.try_acquire()
        assert policy.is_shedding
        assert not policy.is_idle
        clock.advance(6.0)
        assert not policy.is_shedding
        assert policy.is_idle
        policy.call(answer)
    found = [(event.name, event.policy, dict(event.attributes)) for event in recorded_events]
    assert found == [
        ("resilience.throttle.state_change", "stock", {"resilience.throttle.state": state})
        for state in ("shedding", "passing")
    ]


# --- threads and processes ---


@contextlib.contextmanager
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def hammer(work: Callable[[int], None]) -> None:
    """Do *work* in eight threads at once."""
    barrier = threading.Barrier(THREADS)
    ended: list[int] = []

    def run(number: int) -> None:
        barrier.wait()
        work(number)
        ended.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ended) == THREADS


def test_threads_lose_no_call() -> None:
    calls = 400
    policy = AdaptiveThrottle("stock", minimum_throughput=20, sampling_duration=1000.0, rng=random.Random(7))
    ran: list[int] = []
    refused: list[int] = []

    def work(number: int) -> None:
        priority = list(Priority)[number % len(Priority)]
        with priority_scope(priority):
            for call in range(calls):
                try:
                    with policy.guard() as permit:
                        ran.append(number)
                        if call % 10 == 0:
                            permit.release()
                        elif call % 3:
                            permit.settle(Verdict.BAD)
                except LoadShedError:
                    refused.append(number)

    hammer(work)
    machine = policy._throttle
    assert len(ran) + len(refused) == THREADS * calls
    assert sum(machine.rejected) == len(refused) == policy.counts.rejected > 0
    assert machine.good + sum(machine.ended.values()) + machine.ignored == len(ran) == policy.counts.acquired
    above, requests, accepts = machine._counts(_clock.monotonic(), SHEDDABLE.rank)
    assert above + requests == len(ran) + len(refused) - machine.ignored
    assert accepts == machine.good
    shares = [policy.rejection_probability(priority) for priority in Priority]
    assert shares == sorted(shares)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_a_lock_of_its_own_and_keeps_what_was_learnt() -> None:
    policy = shedding()
    assert not policy.try_acquire()
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with policy._lock:
            locked.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(30)

    def child() -> None:
        ok = (
            policy.rejection_probability() == 2 / 3
            and policy._throttle.rejected == [0, 0, 0, 0, 0]
            and not policy.try_acquire()
            and policy._throttle.rejected == [0, 0, 1, 0, 0]
        )
        os._exit(0 if ok else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    done.set()
    holder.join()
    assert process.exitcode == 0
    assert policy._throttle.rejected == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("way", ["call", "guard", "try_acquire"])
def test_rng_is_asked_while_no_lock_is_held(way: str) -> None:
    class Elsewhere:
        """Asks the throttle something on another thread, as a generator with a lock of its own may have to."""

        def random(self) -> float:
            asking = threading.Thread(target=lambda: policy.rejection_probability(), daemon=True)
            asking.start()
            asking.join(5.0)
            assert not asking.is_alive()
            return 0.5

    policy = AdaptiveThrottle("stock", minimum_throughput=1, rng=Elsewhere())
    for _ in range(3):
        if way == "call":
            with contextlib.suppress(KeyError, LoadShedError):
                policy.call(raising(KeyError()))
        elif way == "guard":
            with contextlib.suppress(KeyError, LoadShedError), policy.guard():
                raise KeyError
        elif permit := policy.try_acquire():
            permit.settle(Verdict.BAD)


@pytest.mark.parametrize("rng", [0, False, 0.5, "random", random.random], ids=str)
def test_what_cannot_give_chance_is_an_error_that_says_so(rng: object) -> None:
    with pytest.raises(ConfigError, match=r"rng must have a method random\(\), .* or be None, got"):
        AdaptiveThrottle(rng=rng)  # type: ignore[arg-type]  # what is tested


def test_what_is_wrong_with_rng_stands_in_one_list_with_the_rest() -> None:
    with pytest.raises(ConfigError) as caught:
        AdaptiveThrottle(" ", k=0, rng=0)  # type: ignore[arg-type]  # what is tested
    assert [problem.setting for problem in caught.value.problems] == ["name", "k", "rng"]
    assert caught.value.subject == "AdaptiveThrottle"


def test_chance_may_come_from_something_that_is_false() -> None:
    class Empty(random.Random):
        def __len__(self) -> int:
            return 0

    rng = Empty(7)
    assert AdaptiveThrottle(rng=rng)._random is rng


def test_what_stands_in_the_place_of_the_name_is_told_its_own_place() -> None:
    with pytest.raises(ConfigError, match=r"\(write AdaptiveThrottle\(k=\.\.\.\)\), got 2.0"):
        AdaptiveThrottle(2.0)  # type: ignore[arg-type]  # what is tested
