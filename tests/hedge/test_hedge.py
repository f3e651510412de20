"""Hedges on threads, under asyncio and under trio: who starts, who wins, who pays, and what is left behind."""

import asyncio
import contextvars
import math
import random
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests.collector import collector_off
from tests.doubles import Again, Closeable, Slots, nap, raising

from resilience._runtime import budgets, drive
from resilience._runtime.attempt import current_attempt
from resilience._runtime.flow import Call, Child, Nursery, Park, Spawn
from resilience._runtime.pipeline import Pipeline
from resilience.deadline import deadline, remaining
from resilience.errors import ConcurrencyLimitedError, ConfigError, DeadlineExceededError, RejectedError
from resilience.hedge import Hedge, HedgeSettings, quantile
from resilience.hedge._heat import Heat
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.testing import FakeClock, delayed, script
from resilience.timeout import Timeout


class Purse:
    """
    A budget that pays for *left* attempts and remembers everything.

    Attributes:
        said: What was done to it, in order.

    """

    def __init__(self, left: int = 1_000, price: int = 1) -> None:
        self.left = left
        self.price = price
        self.said: list[Any] = []

    def deposit(self) -> None:
        self.said.append("deposit")

    def try_withdraw(self, verdict: Verdict = Verdict.BAD) -> int:
        self.said.append(("withdraw", verdict))
        if self.left == 0:
            return 0
        self.left -= 1
        return self.price

    def fail(self, verdict: Verdict = Verdict.BAD) -> None:
        self.said.append(("fail", verdict))

    def release(self) -> None:
        self.said.append("release")

    def finish(self, *, good: bool, charges: int = 0) -> None:
        self.said.append(("finish", good, charges))

    def count(self, what: str) -> int:
        return sum(each == what or each[0] == what for each in self.said)


def hedge(after: Any = 0.2, **settings: Any) -> Hedge:
    settings.setdefault("budget", Purse())
    settings.setdefault("idempotent", True)
    return Hedge("stock", after=after, **settings)


def by_status(outcome: Outcome[Any], context: CallContext) -> Verdict:
    """Judge results that are HTTP status codes, or have one."""
    if outcome.error is not None:
        return Verdict.IGNORED if isinstance(outcome.error, RejectedError) else Verdict.BAD
    status = getattr(outcome.value, "name", outcome.value)
    return {429: Verdict.THROTTLED, 200: Verdict.GOOD, 408: Verdict.TIMED_OUT}.get(status, Verdict.BAD)


def settles(holds: Callable[[], bool]) -> None:
    """Wait for threads that were left behind. They may need time to pass, and even to begin."""
    for _ in range(2_000):
        if holds():
            return
        threading.Event().wait(0.005)
    pytest.fail("it never came about")


def runs(runtime: Any, policy: Any, fn: Callable[..., Any]) -> Any:
    async def body() -> Any:
        return await runtime.call(policy, fn)

    return runtime.run(body)


# --- settings ----------------------------------------------------------------------------------------------------


def test_idempotent_must_be_said() -> None:
    with pytest.raises(ConfigError, match="must be said, since a hedge makes a call again"):
        Hedge("stock")


def test_what_must_not_be_done_twice_must_not_be_hedged() -> None:
    with pytest.raises(ConfigError, match="must not be hedged"):
        Hedge("stock", idempotent=False)


def test_one_error_lists_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        Hedge(after=-1, idempotent="yes", max_extra=0, budget=3, max_abandoned=0)  # type: ignore[arg-type]  # on purpose
    listed = [problem.setting for problem in caught.value.problems]
    assert listed == ["after", "idempotent", "max_extra", "budget", "max_abandoned"]


@pytest.mark.parametrize("after", [-0.1, math.nan, math.inf, True, "0.2"])
def test_hedge_2_a_delay_that_is_none_is_refused(after: Any) -> None:
    # Upstream reads a negative delay as "no hedge". Here None says so, and a negative delay is a mistake.
    with pytest.raises(ConfigError, match="after"):
        hedge(after)


def test_hedge_2_no_delay_is_no_hedge_and_the_answer_still_arrives(runtime: Any, fake_clock: Any) -> None:
    policy = hedge(None)
    assert runs(runtime, policy, script(delayed(1e6, "late"))) == "late"
    assert policy.hedges == 0


@pytest.mark.parametrize("extra", [0, 11, -1, 1.5, True, None])
def test_too_few_or_too_many_extra_attempts_are_refused(extra: Any) -> None:
    with pytest.raises(ConfigError, match="max_extra"):
        hedge(max_extra=extra)


def test_the_constructor_has_the_defaults_of_the_settings() -> None:
    assert Hedge(idempotent=True).settings == HedgeSettings(idempotent=True)


def test_a_pipeline_needs_a_hedge_that_is_paid_for() -> None:
    assert hedge().traits.races
    assert hedge().traits.budgeted
    Pipeline("stock", hedge())
    with pytest.raises(ConfigError, match="budget"):
        Pipeline("stock", hedge(budget=None))


def test_a_generator_cannot_be_hedged() -> None:
    def items() -> Any:
        yield 1

    with pytest.raises(ConfigError, match="stream"):
        hedge()(items)


def test_a_change_of_settings_holds_for_what_is_decorated_already(runtime: Any, fake_clock: Any) -> None:
    policy, purse = hedge(60.0), Purse()
    fetch = script(delayed(30.0, "slow"), delayed(30.0, "slow"), delayed(1.0, "fast"))

    async def body() -> None:
        guarded = runtime.wrap(policy, fetch)
        assert await guarded() == "slow"
        policy.reconfigure(after=0.2, budget=purse)
        assert await guarded() == "fast"

    runtime.run(body)
    assert purse.count("withdraw") == 1


# --- who starts and who wins -------------------------------------------------------------------------------------


def test_a_fast_answer_is_not_hedged(runtime: Any, fake_clock: Any) -> None:
    policy, fetch = hedge(), script(delayed(0.1, "fast"))
    assert runs(runtime, policy, fetch) == "fast"
    assert (fetch.calls, policy.calls, policy.hedges, policy.wins) == (1, 1, 0, {1: 1})


def test_a_slow_answer_is_overtaken(runtime: Any, fake_clock: FakeClock) -> None:
    policy, fetch = hedge(), script(delayed(10.0, "slow"), delayed(0.1, "fast"))
    began = fake_clock.now()
    assert runs(runtime, policy, fetch) == "fast"
    assert fake_clock.now() - began == pytest.approx(0.3)
    assert (fetch.calls, policy.hedges, policy.wins) == (2, 1, {2: 1})


def test_the_first_may_win_after_all(runtime: Any, fake_clock: FakeClock) -> None:
    policy, fetch = hedge(), script(delayed(0.3, "first"), delayed(10.0, "second"))
    began = fake_clock.now()
    assert runs(runtime, policy, fetch) == "first"
    assert fake_clock.now() - began == pytest.approx(0.3)
    assert (fetch.calls, policy.hedges, policy.wins) == (2, 1, {1: 1})


def test_each_further_attempt_waits_for_the_last_one(runtime: Any, fake_clock: FakeClock) -> None:
    policy, fetch = (
        hedge(max_extra=3),
        script(delayed(10.0), delayed(10.0), delayed(10.0), delayed(0.1, "last")),
    )
    began = fake_clock.now()
    assert runs(runtime, policy, fetch) == "last"
    assert fake_clock.now() - began == pytest.approx(0.7)
    assert policy.hedges == 3


def test_without_delay_all_start_at_once(runtime: Any, fake_clock: FakeClock) -> None:
    policy, fetch = hedge(0, max_extra=2), script(delayed(1.0, "fast"), delayed(2.0), delayed(3.0))
    began = fake_clock.now()
    assert runs(runtime, policy, fetch) == "fast"
    assert fake_clock.now() - began == pytest.approx(1.0)
    assert fetch.calls == 3


def test_without_after_only_a_failure_starts_the_next(runtime: Any, fake_clock: Any) -> None:
    policy, fetch = hedge(None), script(delayed(10.0, ConnectionError), delayed(10.0, "second"))
    assert runs(runtime, policy, fetch) == "second"
    assert policy.hedges == 1


def test_a_failure_starts_the_next_at_once(runtime: Any, fake_clock: FakeClock) -> None:
    fetch = script(delayed(0.1, ConnectionError), delayed(0.1, "second"))
    began = fake_clock.now()
    assert runs(runtime, hedge(60.0), fetch) == "second"
    assert fake_clock.now() - began == pytest.approx(0.2)


def test_the_delay_may_depend_on_the_attempt(runtime: Any, fake_clock: FakeClock) -> None:
    asked: list[int] = []

    def after(context: CallContext) -> float | None:
        asked.append(context.attempt)
        return {2: 1.0, 3: 2.0}.get(context.attempt)

    fetch = script(delayed(10.0), delayed(10.0), delayed(0.5, "third"))
    began = fake_clock.now()
    assert runs(runtime, hedge(after, max_extra=3), fetch) == "third"
    assert fake_clock.now() - began == pytest.approx(3.5)
    assert asked == [2, 3, 4]


def test_a_callable_that_answers_nonsense_is_found_out(runtime: Any, fake_clock: Any) -> None:
    slots, purse = Slots(), Purse()
    policy = hedge(lambda context: 0.2 if context.attempt == 2 else -1.0, max_extra=2, budget=purse)

    async def body() -> None:
        with pytest.raises(ConfigError, match="after"):
            await runtime.call(Pipeline(policy, slots), script(delayed(10.0)))
        if runtime.cancels:
            await runtime.until(lambda: policy.abandoned == 0)
            assert slots.used == 0

    runtime.run(body)
    assert purse.count("withdraw") == purse.count("release") == 0
    settles(lambda: fake_clock.advance(10.0) or slots.used == 0)


def test_a_good_error_wins(runtime: Any, fake_clock: Any) -> None:
    policy, fetch = hedge(on=ConnectionError), script(delayed(10.0), delayed(0.1, KeyError("not found")))
    with pytest.raises(KeyError, match="not found"):
        runs(runtime, policy, fetch)
    assert policy.wins == {2: 1}


def test_hedge_3_the_third_answers(runtime: Any, fake_clock: Any) -> None:
    fetch = script(500, 503, 200)
    assert runs(runtime, hedge(max_extra=2, classify=by_status), fetch) == 200
    assert fetch.calls == 3


def test_hedge_3_there_are_no_more_attempts_than_allowed(runtime: Any, fake_clock: Any) -> None:
    # Upstream counts routes. Here an attempt finds its route by `current_attempt().attempt`, and the
    # number of routes is one more than max_extra.
    fetch = script(500)
    assert runs(runtime, hedge(max_extra=1, classify=by_status), fetch) == 500
    assert fetch.calls == 2


def test_hedge_3_if_all_fail_the_first_is_the_result(runtime: Any, fake_clock: Any) -> None:
    policy, fetch = hedge(max_extra=2, classify=by_status), script(delayed(1.0, 503), delayed(2.0, 500), 500)
    assert runs(runtime, policy, fetch) == 503
    assert (fetch.calls, policy.wins) == (3, {})


def test_if_all_raise_the_first_error_comes_out_as_it_is(runtime: Any, fake_clock: Any) -> None:
    first = ConnectionError("first")
    with pytest.raises(ConnectionError) as caught:
        runs(runtime, hedge(), script(delayed(1.0, first), ConnectionError("second")))
    assert caught.value is first


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_refusal_of_the_first_attempt_is_not_hedged(runtime: Any) -> None:
    policy, fetch = hedge(), script("here")
    with pytest.raises(ConcurrencyLimitedError):
        runs(runtime, Pipeline(policy, Slots(limit=0)), fetch)
    assert (fetch.calls, policy.hedges) == (0, 0)


def test_a_refusal_that_is_named_starts_the_next(runtime: Any, fake_clock: Any) -> None:
    policy, fetch = hedge(on=RejectedError), script("here")
    with pytest.raises(ConcurrencyLimitedError):
        runs(runtime, Pipeline(policy, Slots(limit=0)), fetch)
    assert policy.hedges == 1


def test_a_refusal_of_a_further_attempt_lets_the_first_go_on(runtime: Any, fake_clock: Any) -> None:
    policy, fetch = hedge(max_extra=3), script(delayed(10.0, "first"))
    assert runs(runtime, Pipeline(policy, Slots(limit=1)), fetch) == "first"
    assert (fetch.calls, policy.hedges) == (1, 1)


def test_a_late_refusal_of_the_first_lets_the_second_go_on(runtime: Any, fake_clock: Any) -> None:
    turns = iter([delayed(0.5, RejectedError("gate")), delayed(1.0, "second")])
    assert runs(runtime, hedge(), script(*turns)) == "second"


def test_a_failure_says_more_than_a_refusal(runtime: Any, fake_clock: Any) -> None:
    turns = [delayed(0.5, RejectedError("gate")), delayed(1.0, ConnectionError("second"))]
    with pytest.raises(ConnectionError, match="second"):
        runs(runtime, hedge(), script(*turns))


@pytest.mark.parametrize("slow", [0.0, 0.5])
def test_a_throttled_dependency_is_left_alone(runtime: Any, fake_clock: Any, slow: float) -> None:
    fetch = script(delayed(slow, 429), delayed(5.0, 200), 200)
    expected = 200 if slow else 429
    assert runs(runtime, hedge(0.3, max_extra=2, classify=by_status), fetch) == expected
    assert fetch.calls == (2 if slow else 1)


def test_a_missed_deadline_is_not_hedged(runtime: Any) -> None:
    fetch = script(DeadlineExceededError("deeper", started=True), "here")
    with pytest.raises(DeadlineExceededError, match="deeper"):
        runs(runtime, hedge(), fetch)
    assert fetch.calls == 1


# --- what the others leave behind --------------------------------------------------------------------------------


def test_a_late_result_is_closed(runtime: Any, fake_clock: FakeClock) -> None:
    if runtime.cancels:
        late = Closeable()

        async def fetch() -> Closeable:
            if current_attempt().attempt == 2:
                return Closeable("fast")
            try:
                await nap(runtime, 10.0)
            except runtime.cancelled:
                pass  # bad manners, and late
            return late
    else:
        late = Closeable()
        fetch = script(delayed(10.0, late), Closeable("fast"))

    async def body() -> None:
        won = await runtime.call(hedge(), fetch)
        assert (won.name, won.closed) == ("fast", 0)
        if runtime.cancels:
            await runtime.until(lambda: late.closed == 1)

    runtime.run(body)
    settles(lambda: fake_clock.advance(10.0) or late.closed == 1)


def test_results_that_are_not_good_enough_are_closed(runtime: Any, fake_clock: Any) -> None:
    results = [Closeable(str(status)) for status in (500, 503, 200)]

    def judge(outcome: Outcome[Any], context: CallContext) -> Verdict:
        return Verdict.GOOD if outcome.value.name == "200" else Verdict.BAD

    assert runs(runtime, hedge(max_extra=2, classify=judge), script(*results)) is results[2]
    assert [result.closed for result in results] == [1, 1, 0]


def test_of_results_that_are_all_bad_the_first_stays_open(runtime: Any, fake_clock: Any) -> None:
    results = [Closeable(), Closeable(), Closeable()]
    bad = hedge(max_extra=2, classify=lambda outcome, context: Verdict.BAD)
    assert runs(runtime, bad, script(*results)) is results[0]
    assert [result.closed for result in results] == [0, 1, 1]


def test_of_two_good_results_in_one_instant_one_is_closed(runtime: Any, fake_clock: Any) -> None:
    results = [Closeable("first"), Closeable("second")]
    # In one turn of an event loop; on threads, at one instant.
    fetch = script(*(results if runtime.cancels else [delayed(1.0, result) for result in results]))
    won = runs(runtime, hedge(0), fetch)
    lost = results[1 - results.index(won)]
    settles(lambda: lost.closed == fetch.calls - 1)  # asyncio may cancel a task before it begins
    assert won.closed == 0


def test_one_object_returned_twice_stays_open(runtime: Any, fake_clock: FakeClock) -> None:
    shared = Closeable()
    bad_once = iter([Verdict.BAD, Verdict.GOOD])
    policy = hedge(classify=lambda outcome, context: next(bad_once))
    assert runs(runtime, policy, script(shared)) is shared
    assert shared.closed == 0


def test_losers_are_cancelled(async_runtime: Any, fake_clock: Any) -> None:
    ended: list[int] = []

    async def fetch() -> str:
        number = current_attempt().attempt
        try:
            await nap(async_runtime, 0.1 if number == 3 else 60.0)
        finally:
            ended.append(number)
        return "third"

    policy = hedge(max_extra=2)

    async def body() -> None:
        assert await async_runtime.call(policy, fetch) == "third"
        await async_runtime.until(lambda: policy.abandoned == 0)

    async_runtime.run(body)
    assert sorted(ended) == [1, 2, 3]


def test_trio_waits_for_losers_and_asyncio_does_not(async_runtime: Any, fake_clock: FakeClock) -> None:
    if async_runtime.name == "trio":
        import trio

        shield = lambda: trio.CancelScope(shield=True)
    ended: list[str] = []

    async def fetch() -> str:
        if current_attempt().attempt == 2:
            return "second"
        try:
            await nap(async_runtime, 60.0)
        finally:
            if async_runtime.name == "trio":
                with shield():
                    await nap(async_runtime, 5.0)
            else:
                await nap(async_runtime, 5.0)
            ended.append("first")
        return "first"

    policy = hedge()

    async def body() -> None:
        assert await async_runtime.call(policy, fetch) == "second"
        assert ended == (["first"] if async_runtime.name == "trio" else [])
        await nap(async_runtime, 6.0)
        await async_runtime.until(lambda: policy.abandoned == 0)

    async_runtime.run(body)
    assert ended == ["first"]


def test_no_permit_is_lost_in_races(runtime: Any, fake_clock: FakeClock) -> None:
    slots = Slots(limit=3)
    policy = hedge(0.2, max_extra=2, max_abandoned=None)
    chance = random.Random(7)
    pipeline = Pipeline("stock", policy, slots)

    async def body() -> None:
        for _ in range(60):
            turns = [
                delayed(chance.choice([0.0, 0.1, 0.2, 0.3, 5.0]), chance.choice(["ok", ConnectionError]))
                for _ in range(3)
            ]
            try:
                await runtime.call(pipeline, script(*turns))
            except (ConnectionError, RejectedError):
                pass
            if runtime.cancels:
                await runtime.until(lambda: slots.used == 0)
            else:
                settles(lambda: fake_clock.advance(5.0) or slots.used == 0)
        assert policy.abandoned == 0

    runtime.run(body)
    assert slots.most > 1
    assert slots.verdicts


def test_cancelling_the_call_cancels_every_attempt(async_runtime: Any) -> None:
    slots, purse = Slots(), Purse()
    policy = hedge(0, max_extra=2, budget=purse)
    pipeline = Pipeline("stock", policy, slots)

    async def steps() -> None:
        for _ in range(4):
            await async_runtime.checkpoint()

    async def body() -> None:
        fetch = async_runtime.wrap(pipeline, steps)
        cancelled = 0
        for turn in range(1, 16):
            job = async_runtime.spawn(fetch)
            for _ in range(turn):
                await async_runtime.checkpoint()
            was_over = job.done()
            job.cancel()
            await job.join()
            if async_runtime.name == "asyncio":
                assert was_over or isinstance(job.error, async_runtime.cancelled)
            else:  # an answer that was there already, while losers were waited for, comes out
                assert job.error is None or isinstance(job.error, async_runtime.cancelled)
            cancelled += job.error is not None
            await async_runtime.until(lambda: policy.abandoned == 0)
            assert slots.used == 0
            assert purse.count("withdraw") == purse.count("release")
        assert 0 < cancelled < 15
        if async_runtime.name == "asyncio":
            assert len(asyncio.all_tasks()) == 1

    async_runtime.run(body)
    assert slots.released


def test_an_answer_that_comes_with_a_cancellation_is_closed(async_runtime: Any) -> None:
    closed = 0

    async def body() -> None:
        nonlocal closed
        for turn in range(1, 12):
            answers: list[Closeable] = []

            async def fetch(answers: list[Closeable] = answers) -> Closeable:
                await async_runtime.checkpoint()
                answers.append(Closeable())
                return answers[0]

            job = async_runtime.spawn(async_runtime.wrap(hedge(60.0), fetch))
            for _ in range(turn):
                await async_runtime.checkpoint()
            job.cancel()
            await job.join()
            for answer in answers:
                await async_runtime.checkpoint()
                assert answer.closed == (job.value is None)
                closed += answer.closed

    async_runtime.run(body)
    if async_runtime.name == "asyncio":
        assert closed  # at least once the cancellation came between the answer and its taking


def test_an_interrupt_ends_the_wait_and_tells_the_threads() -> None:
    policy, slots, outside = hedge(0.01), Slots(), Slots()
    release, told = threading.Event(), []

    def slow() -> None:
        if current_attempt().attempt == 2:
            release.wait(0.1)  # until the caller waits: a signal just before that would go unheard
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        release.wait(20)
        told.append(remaining())

    with pytest.raises(KeyboardInterrupt):
        Pipeline(outside, policy, slots).call(slow)
    assert (outside.used, policy.abandoned) == (0, 2)
    release.set()
    settles(lambda: policy.abandoned == 0)
    assert told == [0.0, 0.0]
    assert slots.used == 0


def test_a_losing_thread_is_told_that_time_is_up(fake_clock: FakeClock) -> None:
    policy = hedge()
    told: list[Any] = []
    entered = threading.Event()

    def fetch() -> str:
        if current_attempt().attempt == 2:
            assert entered.wait(20)
            return "second"
        with deadline(60.0):
            entered.set()
            script(delayed(10.0))()
            told.append(remaining())
        told.append(remaining())
        return "first"

    assert policy.call(fetch) == "second"
    assert policy.abandoned == 1
    settles(lambda: fake_clock.advance(10.0) or policy.abandoned == 0)
    assert told == [0.0, 0.0]
    assert remaining() is None


def test_policies_inside_a_losing_thread_take_no_further_step(fake_clock: FakeClock) -> None:
    policy, fetch = hedge(), script(ConnectionError, "second")
    assert Pipeline(policy, Again(5, nap=1.0)).call(fetch) == "second"
    # Both attempts tried once and failed or won; who lost is told before its nap ends.
    settles(lambda: fake_clock.advance(10.0) or policy.abandoned == 0)
    assert fetch.calls == 2


def test_a_losing_thread_that_waits_in_line_does_not_call(fake_clock: FakeClock) -> None:
    policy, slots, deeper = hedge(), Slots(limit=1, max_wait=60.0), script("second")
    permit = slots.try_acquire()

    def fetch() -> Any:
        if current_attempt().attempt == 2:
            return slots.call(deeper)
        return script(delayed(5.0, "first"))()

    assert policy.call(fetch) == "first"
    permit.release()
    settles(lambda: policy.abandoned == 0)
    assert (deeper.calls, slots.used) == (0, 0)


def test_a_loser_does_not_begin_with_the_permit_of_the_winner(
    async_runtime: Any, fake_clock: FakeClock
) -> None:
    policy, slots = hedge(), Slots(limit=1, max_wait=60.0)
    fetch = script(delayed(5.0, "first"))

    async def body() -> None:
        assert await async_runtime.call(Pipeline(policy, slots), fetch) == "first"
        await async_runtime.until(lambda: policy.abandoned == 0)

    async_runtime.run(body)
    assert (fetch.calls, slots.used) == (1, 0)


def test_a_loser_is_cancelled_once(async_runtime: Any, fake_clock: FakeClock) -> None:
    cleaned: list[int] = []

    async def fetch() -> str:
        if current_attempt().attempt == 2:
            return "second"
        try:
            await nap(async_runtime, 60.0)
        finally:
            if async_runtime.name == "asyncio":  # in trio a cancelled scope cancels every await
                await nap(async_runtime, 1.0)
            cleaned.append(1)
        return "first"

    policy = hedge()

    async def body() -> None:
        assert await async_runtime.call(policy, fetch) == "second"
        await nap(async_runtime, 2.0)
        await async_runtime.until(lambda: policy.abandoned == 0)

    async_runtime.run(body)
    assert cleaned == [1]


# --- context -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("winner", [1, 2])
def test_hedge_1_only_what_the_winner_set_is_seen(runtime: Any, fake_clock: Any, winner: int) -> None:
    common: contextvars.ContextVar[str] = contextvars.ContextVar("common")
    own = {number: contextvars.ContextVar(f"own {number}", default="unset") for number in (1, 2)}
    seen: list[str] = []

    async def fetch() -> int:
        number = current_attempt().attempt
        seen.append(common.get())
        common.set(f"attempt {number}")
        own[number].set("set")
        await nap(runtime, 0.5 if number == winner else 60.0)
        return number

    async def body() -> None:
        common.set("caller")
        with deadline(100.0):
            assert await runtime.call(hedge(), fetch) == winner
            assert remaining() == pytest.approx(100.0 - (0.5 if winner == 1 else 0.7))
        assert remaining() is None
        assert current_attempt() == CallContext()
        assert common.get() == f"attempt {winner}"
        assert [own[number].get() for number in (winner, 3 - winner)] == ["set", "unset"]

    runtime.run(body)
    assert seen == ["caller", "caller"]


def test_an_attempt_knows_its_number(runtime: Any, fake_clock: Any) -> None:
    judged: list[int] = []
    numbers: list[int] = []

    def judge(outcome: Outcome[Any], context: CallContext) -> Verdict:
        judged.append(context.attempt)
        return Verdict.BAD

    async def fetch() -> None:
        numbers.append(current_attempt().attempt)

    runs(runtime, hedge(max_extra=2, classify=judge), fetch)
    assert numbers == judged == [1, 2, 3]


def test_inside_a_further_attempt_of_a_retry_counting_goes_on(runtime: Any, fake_clock: Any) -> None:
    purse, numbers = Purse(), []

    async def fetch() -> None:
        numbers.append(current_attempt().attempt)
        raise ConnectionError

    async def body() -> None:
        async def plain() -> None:
            await fetch()

        bound = Pipeline(hedge(budget=purse)).bind(
            runtime.coloured(plain), context=lambda: CallContext(attempt=3)
        )
        with pytest.raises(ConnectionError):
            result = bound()
            if runtime.cancels:
                await result

    runtime.run(body)
    assert numbers == [3, 4]
    # Nobody further out has told this budget of the call.
    assert purse.count("deposit") == 1
    assert purse.said[-1] == ("finish", False, 1)


# --- the budget --------------------------------------------------------------------------------------------------


def test_a_hedge_is_paid_for_and_never_given_back(runtime: Any, fake_clock: FakeClock) -> None:
    purse = Purse(price=5)
    runs(runtime, hedge(budget=purse), script(delayed(10.0), "fast"))
    settles(lambda: fake_clock.advance(10.0) or purse.count("release") == 1)
    assert purse.said[:2] == ["deposit", ("withdraw", Verdict.IGNORED)]
    assert ("finish", True, 0) in purse.said
    assert len(purse.said) == 4


def test_an_attempt_after_a_failure_is_given_back_when_it_helped(runtime: Any, fake_clock: Any) -> None:
    purse = Purse(price=5)
    runs(runtime, hedge(budget=purse), script(ConnectionError, "second"))
    assert purse.said == ["deposit", ("withdraw", Verdict.BAD), "release", ("finish", True, 5)]


def test_a_failure_that_starts_nothing_is_reported(runtime: Any, fake_clock: Any) -> None:
    purse = Purse(price=5)
    with pytest.raises(TimeoutError):
        runs(runtime, hedge(budget=purse), script(TimeoutError, ConnectionError))
    paid = ["deposit", ("withdraw", Verdict.TIMED_OUT), "release"]
    assert purse.said == [*paid, ("fail", Verdict.BAD), ("finish", False, 5)]


def test_a_call_that_is_not_hedged_pays_in_as_well(runtime: Any) -> None:
    purse = Purse()
    policy = hedge(budget=purse, idempotent="context")
    runs(runtime, policy, script("here"))
    with pytest.raises(ConnectionError):
        runs(runtime, policy, raising(ConnectionError()))
    with pytest.raises(RejectedError):
        runs(runtime, policy, raising(RejectedError("gate")))
    assert purse.said == [
        "deposit", ("finish", True, 0),
        "deposit", ("fail", Verdict.BAD), ("finish", False, 0),
        "deposit", ("finish", False, 0),
    ]  # fmt: skip


def test_budget_3_an_exhausted_budget_means_no_hedge(
    runtime: Any, fake_clock: Any, recorded_events: Any
) -> None:
    policy, fetch = hedge(max_extra=3, budget=Purse(left=0)), script(delayed(10.0, "first"))
    assert runs(runtime, policy, fetch) == "first"
    assert (fetch.calls, policy.hedges, policy.denied) == (1, 0, 1)
    assert [(event.name, event.policy) for event in recorded_events] == [
        ("resilience.hedge.budget_exhausted", "stock")
    ]


def test_budget_3_the_event_comes_once_for_each_time_it_runs_dry(
    runtime: Any, fake_clock: Any, recorded_events: Any
) -> None:
    purse = Purse(left=1)
    policy = hedge(budget=purse, max_abandoned=None)
    for _ in range(4):
        runs(runtime, policy, script(delayed(1.0)))
    assert len(recorded_events) == 1
    purse.left = 1
    for _ in range(4):
        runs(runtime, policy, script(delayed(1.0)))
    assert len(recorded_events) == 2
    assert policy.denied == 6


def test_a_denied_failure_is_the_result(runtime: Any, fake_clock: Any) -> None:
    with pytest.raises(ConnectionError):
        runs(runtime, hedge(budget=Purse(left=0)), script(ConnectionError, "second"))


def test_a_hedge_without_a_budget_pays_nobody(runtime: Any, fake_clock: Any) -> None:
    assert runs(runtime, hedge(budget=None), script(delayed(10.0), "fast")) == "fast"


def test_the_budget_is_that_of_the_pipelines_name(
    runtime: Any, fake_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Purse] = {}
    monkeypatch.setattr(budgets, "_by_name", {})
    monkeypatch.setattr(budgets, "make", lambda name: made.setdefault(name, Purse()))
    policy = Hedge(after=0.2, idempotent=True)
    runs(runtime, Pipeline("inventory", policy), script("here"))
    runs(runtime, Pipeline("payments", policy), script("here"))
    assert {name: purse.count("deposit") for name, purse in made.items()} == {"inventory": 1, "payments": 1}


# --- the learnt delay --------------------------------------------------------------------------------------------


def test_hedge_2_nothing_is_hedged_while_warming_up(runtime: Any, fake_clock: FakeClock) -> None:
    policy = hedge(quantile(0.95, min_samples=20, samples=30), max_abandoned=None)
    for number in range(20):
        assert policy.delay is None
        # The longest is on top of the quantile, or an answer would tie with the delay.
        runs(runtime, policy, script(delayed(0.006 if number < 2 else 0.005)))
    assert policy.hedges == 0
    assert policy.delay == pytest.approx(0.006)
    for _ in range(5):
        runs(runtime, policy, script(delayed(0.005)))
    assert policy.hedges == 0
    runs(runtime, policy, script(delayed(0.2), delayed(0.005)))
    assert policy.hedges == 1
    fake_clock.advance(1.0)


def test_a_failure_starts_the_next_while_warming_up_too(runtime: Any, fake_clock: Any) -> None:
    policy = hedge(quantile())
    assert runs(runtime, policy, script(ConnectionError, "second")) == "second"


def test_it_learns_from_good_first_attempts_and_timeouts(runtime: Any, fake_clock: FakeClock) -> None:
    policy = hedge(quantile(1.0, min_samples=1), max_abandoned=None)
    for turns in ([delayed(9.0, ConnectionError), delayed(9.0)], [delayed(9.0, RejectedError("gate"))]):
        try:
            runs(runtime, policy, script(*turns))
        except RejectedError:
            pass
        assert (
            policy.delay is None
        )  # neither a failure, nor a refusal, nor a further attempt says how long it takes
    runs(runtime, policy, script(delayed(0.25)))
    assert policy.delay == pytest.approx(0.25)
    with pytest.raises(TimeoutError):
        runs(runtime, policy, script(delayed(3.0, TimeoutError), delayed(9.0, ConnectionError)))
    assert policy.delay == pytest.approx(3.0)
    fake_clock.advance(60.0)


def test_it_learns_from_a_first_attempt_that_lost(runtime: Any, fake_clock: FakeClock) -> None:
    policy = hedge(quantile(1.0, min_samples=1), max_abandoned=None)
    runs(runtime, policy, script(delayed(1.0)))
    runs(runtime, policy, script(delayed(60.0), delayed(0.5)))
    assert policy.delay == pytest.approx(1.5)
    fake_clock.advance(60.0)


def test_it_learns_nothing_from_a_call_that_is_not_hedged(runtime: Any, fake_clock: Any) -> None:
    policy = hedge(quantile(1.0, min_samples=1), idempotent=lambda context: False)
    runs(runtime, policy, script(delayed(1.0)))
    assert policy.delay is None


def test_what_was_learnt_stays_when_the_quantile_changes(runtime: Any, fake_clock: Any) -> None:
    policy = hedge(quantile(1.0, min_samples=1))
    runs(runtime, policy, script(delayed(1.0)))
    policy.reconfigure(after=quantile(0.5, min_samples=1))
    assert policy.delay == pytest.approx(1.0)
    policy.reconfigure(after=0.3)
    assert policy.delay == 0.3
    policy.reconfigure(after=quantile(0.5, min_samples=1))
    assert policy.delay is None
    policy.reconfigure(after=lambda context: 1.0)
    assert policy.delay is None


# --- the deadline ------------------------------------------------------------------------------------------------


def test_it_waits_no_longer_than_the_caller(runtime: Any, fake_clock: FakeClock) -> None:
    policy = hedge()
    began = fake_clock.now()

    async def body() -> None:
        with deadline(1.0), pytest.raises(DeadlineExceededError) as caught:
            await runtime.call(policy, script(delayed(10.0)))
        assert caught.value.started
        assert fake_clock.now() - began == pytest.approx(1.0)
        if runtime.cancels:
            await runtime.until(lambda: policy.abandoned == 0)

    runtime.run(body)
    assert policy.hedges == 1
    settles(lambda: fake_clock.advance(10.0) or policy.abandoned == 0)


def test_a_timeout_around_it_ends_the_wait_even_on_threads(runtime: Any, fake_clock: FakeClock) -> None:
    policy = hedge()
    began = fake_clock.now()
    with pytest.raises(TimeoutError, match="took longer than 1 s") as caught:
        runs(runtime, Pipeline("stock", Timeout(1.0), policy), script(delayed(10.0)))
    assert type(caught.value) is TimeoutError
    assert fake_clock.now() - began == pytest.approx(1.0)
    settles(lambda: fake_clock.advance(10.0) or policy.abandoned == 0)


def test_nothing_starts_after_the_deadline(fake_clock: FakeClock) -> None:
    policy, fetch = hedge(), script(ConnectionError)
    with deadline(2.5), pytest.raises(DeadlineExceededError) as caught:
        Pipeline(Again(2, nap=3.0), policy).call(fetch)
    assert not caught.value.started
    assert fetch.calls == 2  # the first attempt and its hedge


def test_no_hedge_starts_after_the_deadline(fake_clock: FakeClock) -> None:
    def fetch() -> None:
        fake_clock.advance(3.0)
        raise ConnectionError

    policy = hedge()
    with deadline(2.0), pytest.raises((ConnectionError, DeadlineExceededError)):  # whoever is heard first
        policy.call(fetch)
    assert policy.hedges == 0


# --- which calls are hedged --------------------------------------------------------------------------------------

SAFE, UNSAFE, KEYED = (
    CallContext(idempotent=True),
    CallContext(idempotent=False),
    CallContext(idempotency_key="order-42"),
)
KEYED_UNSAFE = CallContext(idempotent=False, idempotency_key="order-42")


@pytest.mark.parametrize(
    ("said", "context", "hedged"),
    [
        (True, CallContext(), True),
        (True, SAFE, True),
        (True, UNSAFE, False),
        (True, KEYED, True),
        (True, KEYED_UNSAFE, True),
        ("context", CallContext(), False),
        ("context", SAFE, True),
        ("context", UNSAFE, False),
        ("context", KEYED, True),
        ("context", KEYED_UNSAFE, True),
        (lambda context: context.operation == "GET", CallContext(operation="GET"), True),
        (lambda context: context.operation == "GET", CallContext(operation="POST"), False),
    ],
)
def test_only_what_may_be_repeated_is_hedged(
    runtime: Any, fake_clock: FakeClock, said: Any, context: CallContext, hedged: bool
) -> None:
    policy, fetch = hedge(idempotent=said), script(delayed(10.0, "first"), "second")
    bound = Pipeline(policy).bind(runtime.coloured(fetch), context=lambda: context)

    async def body() -> Any:
        answer = bound()
        return await answer if runtime.cancels else answer

    assert runtime.run(body) == ("second" if hedged else "first")
    assert policy.hedges == hedged
    fake_clock.advance(10.0)


def test_what_is_not_hedged_runs_in_the_callers_own_thread() -> None:
    here = threading.get_ident()
    assert hedge(idempotent="context").call(threading.get_ident) == here
    assert hedge().call(threading.get_ident) != here


def test_too_many_losers_at_work_end_the_hedging(fake_clock: FakeClock) -> None:
    policy = hedge(max_abandoned=2)
    fetch = script(delayed(60.0), "fast", delayed(60.0), "fast", delayed(60.0, "unhedged"))
    assert [policy.call(fetch) for _ in range(2)] == ["fast", "fast"]
    assert policy.abandoned == 2
    assert policy.call(fetch) == "unhedged"
    assert (policy.hedges, policy.crowded) == (2, 1)
    settles(lambda: policy.abandoned == 0)
    assert policy.call(script(delayed(60.0), "fast")) == "fast"
    fake_clock.advance(60.0)


# --- what escapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_no_outcome_comes_out(runtime: Any, fake_clock: FakeClock, number: int) -> None:
    policy, slots = hedge(), Slots()

    async def fetch() -> None:
        if current_attempt().attempt == number:
            await nap(runtime, 1.0)
            raise SystemExit(7)
        await nap(runtime, 10.0)

    async def body() -> None:
        with pytest.raises(SystemExit, match="7"):
            await runtime.call(Pipeline(policy, slots), fetch)
        if runtime.cancels:
            await runtime.until(lambda: policy.abandoned == 0)

    runtime.run(body)
    settles(lambda: fake_clock.advance(10.0) or (slots.used, policy.abandoned) == (0, 0))


def test_a_classifier_that_fails_is_noticed(runtime: Any) -> None:
    with pytest.raises(TypeError, match="must return a Verdict"):
        runs(runtime, hedge(classify=lambda outcome, context: True), script("here"))  # type: ignore[arg-type]  # on purpose


def test_a_cancellation_of_the_functions_own_making_comes_out() -> None:
    async def fetch() -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    async def body() -> None:
        with pytest.raises(asyncio.CancelledError):
            await hedge().acall(fetch)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(body())


def test_an_exit_from_a_loser_is_not_swallowed_by_asyncio() -> None:
    async def fetch() -> str:
        if current_attempt().attempt == 2:
            return "fast"
        try:
            await asyncio.sleep(60)
        finally:
            raise SystemExit(7)

    async def body() -> None:
        assert await hedge(0.01).acall(fetch) == "fast"
        await asyncio.sleep(1)

    with pytest.raises(SystemExit, match="7"):
        asyncio.run(body())


def test_without_a_thread_the_call_is_made_right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    policy, purse = hedge(0, budget=(purse := Purse())), purse
    assert policy.call(threading.get_ident) == threading.get_ident()
    assert (policy.hedges, policy.abandoned) == (0, 0)
    assert purse.said == ["deposit", ("finish", True, 0)]


def test_without_a_second_thread_the_first_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = drive._start, []

    def once(work: Any) -> Any:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(work)
        return start(work)

    monkeypatch.setattr(drive, "_start", once)
    release = threading.Event()
    purse = Purse()
    threading.Timer(0.05, release.set).start()
    policy = hedge(0.01, max_extra=3, budget=purse)
    assert policy.call(lambda: release.wait(20)) is True
    assert (policy.hedges, policy.abandoned) == (0, 0)
    assert purse.said == ["deposit", ("withdraw", Verdict.IGNORED), "release", ("finish", True, 0)]


def test_a_flow_that_is_closed_cancels_who_is_under_way() -> None:
    cancelled: list[int] = []
    policy = hedge()
    calls = policy.flow_for("stock")(Call(script("here"), (), {}))
    nursery = next(calls)
    assert isinstance(nursery, Nursery)
    assert isinstance(next(nursery.flow), Spawn)
    assert isinstance(nursery.flow.send(Child(lambda: cancelled.append(1))), Park)
    nursery.flow.close()
    calls.close()
    assert cancelled == [1]
    assert policy.abandoned == 1


# --- the rest ----------------------------------------------------------------------------------------------------


def test_hedges_need_no_fake_clock(runtime: Any) -> None:
    async def fetch() -> str:
        if current_attempt().attempt == 1:
            await runtime.sleep(0.3)
            return "slow"
        return "fast"

    policy = hedge(0.01)

    async def body() -> None:
        assert await runtime.call(policy, fetch) == "fast"
        await runtime.until(lambda: policy.abandoned == 0)

    runtime.run(body)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_may_end_before_they_are_begun() -> None:
    async def body() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # since Python 3.12
        assert await hedge().acall(script("here").acall) == "here"
        with pytest.raises(ConnectionError):
            await hedge().acall(script(ConnectionError).acall)
        assert await hedge(0.01).acall(script(delayed(1.0), "fast").acall) == "fast"

    asyncio.run(body())


def test_a_race_leaves_no_cycle_behind(runtime: Any, fake_clock: Any) -> None:
    gone: list[weakref.ref[Any]] = []

    class Marker:
        pass

    async def fetch() -> None:
        marker = Marker()
        gone.append(weakref.ref(marker))
        raise ConnectionError

    async def body() -> None:
        policy = hedge(max_extra=2)
        try:
            await runtime.call(policy, fetch)
        except ConnectionError:
            pass
        await runtime.until(lambda: all(each() is None for each in gone))

    with collector_off():
        runtime.run(body)
    assert len(gone) == 3


def test_a_child_process_begins_with_nothing_left_behind(fake_clock: Any) -> None:
    policy = hedge()
    policy.call(script(delayed(10.0), "fast"))
    policy._after_fork()
    assert (policy.abandoned, policy.calls, policy.hedges, policy.denied, policy.wins) == (0, 0, 0, 0, {})


def test_concurrent_calls_share_one_hedge(runtime: Any, fake_clock: FakeClock) -> None:
    policy, slots = hedge(max_abandoned=None), Slots()
    pipeline = Pipeline("stock", policy, slots)

    async def one() -> Any:
        return await runtime.call(pipeline, script(delayed(1.0, "slow"), delayed(0.1, "fast")))

    async def body() -> None:
        assert await runtime.gather(*[one] * 8) == ["fast"] * 8
        if runtime.cancels:
            await runtime.until(lambda: slots.used == 0)

    runtime.run(body)
    settles(lambda: fake_clock.advance(10.0) or slots.used == 0)
    assert (policy.calls, policy.hedges, policy.wins) == (8, 8, {2: 8})


def test_a_deadline_that_passes_just_before_the_first_attempt_starts_nothing(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Heat._read

    def late(heat: Heat) -> None:
        fake_clock.advance(10.0)
        read(heat)

    monkeypatch.setattr(Heat, "_read", late)
    hedge = Hedge(after=1.0, idempotent=True)
    with deadline(5.0), pytest.raises(DeadlineExceededError) as caught:
        hedge.call(lambda: 1)
    assert not caught.value.started
