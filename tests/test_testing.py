"""The kit for users' tests: the fake clock, scripted functions and recorded events."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
import trio

from resilience import _clock, testing
from resilience._runtime import drive
from resilience._runtime.flow import Park, Waiter
from resilience.errors import ConfigError, LoadShedError
from resilience.events import emit
from resilience.testing import FakeClock, _asyncio, _threads, delayed, fail_times, recorded_events, script

from ._runtime.dummies import Around, Race, Tap, Turnstile, again, nap, through, within

# --- the clock ---


def test_the_clock_starts_at_the_real_time_and_stands_still() -> None:
    before = time.monotonic()
    with FakeClock() as clock:
        start = clock.now()
        assert start >= before
        time.sleep(0.002)
        assert clock() == clock.now() == start


def test_the_clock_starts_where_it_is_told() -> None:
    with FakeClock(1000.0) as clock:
        assert _clock.monotonic() == clock.now() == 1000.0


def test_advance_moves_the_clock_for_the_whole_package(fake_clock: FakeClock) -> None:
    start = _clock.monotonic()
    fake_clock.advance(2.5)
    fake_clock.advance(0.0)
    assert _clock.monotonic() == start + 2.5


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), "1", None, True])
def test_advance_takes_a_finite_length_of_time(fake_clock: FakeClock, seconds: object) -> None:
    with pytest.raises(ConfigError, match="seconds must be a finite number of seconds >= 0"):
        fake_clock.advance(seconds)


def test_a_wrong_clock_is_refused_with_every_reason() -> None:
    with pytest.raises(ConfigError) as caught:
        FakeClock(float("nan"), auto_advance=1)
    assert [problem.setting for problem in caught.value.problems] == ["start", "auto_advance"]


def test_a_later_clock_begins_where_an_earlier_one_ended() -> None:
    with FakeClock() as earlier:
        earlier.advance(3600.0)
    with FakeClock() as later:
        assert later.now() >= earlier.now()


def test_a_clock_inside_another_begins_with_it_and_leaves_it_in_charge() -> None:
    with FakeClock() as outer:
        outer.advance(100.0)
        with FakeClock() as inner:
            assert inner.now() == outer.now()
            inner.advance(1.0)
            assert _clock.monotonic() == outer.now() + 1.0
        assert _clock.fake is outer
        assert _clock.monotonic() == outer.now()


def test_the_real_clock_returns_also_after_an_error() -> None:
    with pytest.raises(KeyError), FakeClock():
        raise KeyError
    assert _clock.monotonic is time.monotonic
    assert _clock.fake is None


def test_a_clock_is_entered_once() -> None:
    with FakeClock() as clock, pytest.raises(RuntimeError, match="entered once"):
        clock.__enter__()


def test_a_policy_made_before_the_clock_follows_it() -> None:
    tap = Tap(every=60.0)
    tap.call(int)
    with pytest.raises(LoadShedError):
        tap.call(int)
    with FakeClock() as clock:
        clock.advance(60.0)
        assert tap.call(int) == 0


# --- sleeping on a thread ---


def test_sleeping_takes_no_real_time_and_is_written_down(runtime, fake_clock: FakeClock) -> None:
    start, began = fake_clock.now(), time.monotonic()

    async def body() -> None:
        policy = Around(nap(3600.0))
        assert await runtime.call(policy, script("here")) == "here"
        assert await runtime.call(policy, script("here")) == "here"

    runtime.run(body)
    assert fake_clock.sleeps == [3600.0, 3600.0]
    assert fake_clock.now() == start + 7200.0
    assert time.monotonic() - began < 10.0


def test_no_sleep_is_no_sleep(runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()

    async def body() -> None:
        assert await runtime.call(Around(nap(0.0)), script("here")) == "here"

    runtime.run(body)
    assert fake_clock.sleeps == []
    assert fake_clock.now() == start


def test_the_clock_itself_can_be_slept_by() -> None:
    with FakeClock(0.0) as clock:
        clock.sleep(1.5)
        clock.sleep(0.0)

        async def body() -> None:
            await clock.asleep(2.0)
            await clock.asleep(0.0)

        asyncio.run(body())
        trio.run(body)
        assert clock.now() == 5.5
        assert clock.sleeps == [1.5, 2.0, 2.0]


def test_a_rest_too_short_to_add_up_still_moves_the_clock() -> None:
    with FakeClock(1e9) as clock:
        drive.result(iter_of(Park(Waiter(), 1e-12)))
        assert clock.now() > 1e9


def iter_of(command):
    return (yield command)


def test_waiting_on_a_gate_ends_by_moving_the_clock(runtime, fake_clock: FakeClock) -> None:
    tap = Tap(every=10.0, max_wait=30.0)
    start = fake_clock.now()

    async def body() -> list[float]:
        await runtime.call(tap, int)
        return [await runtime.call(tap, fake_clock.now) for _ in range(3)]

    assert runtime.run(body) == [start + 10.0, start + 20.0, start + 30.0]
    assert fake_clock.sleeps == [], "waiting in line is no sleep"


def test_a_waiter_woken_in_time_lets_no_time_pass(async_runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile(max_wait=5.0)
    start = fake_clock.now()

    async def hold() -> None:
        while not gate.waiting:
            await async_runtime.checkpoint()

    async def body() -> None:
        holding = async_runtime.spawn(async_runtime.call, gate, hold)
        while not gate.inside:
            await async_runtime.checkpoint()
        assert await async_runtime.call(gate, script("in")) == "in"
        await holding

    async_runtime.run(body)
    assert fake_clock.now() == start


def test_a_wait_without_a_limit_really_waits(runtime, fake_clock: FakeClock) -> None:
    waiter = Waiter()
    start = fake_clock.now()

    def flow(call, inner):
        yield Park(waiter, None)
        return (yield from inner(call))

    async def body() -> None:
        waiting = runtime.spawn(runtime.call, Around(flow), script("woken"))
        await runtime.until(lambda: waiter.signal is not None)
        waiter.wake()
        assert await waiting == "woken"

    runtime.run(body)
    assert fake_clock.now() == start


def test_a_waiter_woken_before_it_waits_does_not_wait(runtime, fake_clock: FakeClock) -> None:
    waiter = Waiter()
    waiter.wake()

    def flow(call, inner):
        yield Park(waiter, 9.0)
        yield Park(waiter, None)
        return (yield from inner(call))

    start = fake_clock.now()
    runtime.run(lambda: runtime.call(Around(flow), int))
    assert fake_clock.now() == start
    assert waiter.signal is None


# --- timers ---


def test_timers_on_the_way_are_fired_in_order_each_at_its_own_time() -> None:
    with FakeClock(0.0) as clock:
        fired = []
        clock.call_at(3.0, lambda: fired.append(("third", clock.now())))
        clock.call_at(1.0, lambda: fired.append(("first", clock.now())))
        clock.call_at(1.0, lambda: fired.append(("second", clock.now())))
        clock.call_at(9.0, lambda: fired.append(("never", clock.now())))
        clock.sleep(5.0)
        assert fired == [("first", 1.0), ("second", 1.0), ("third", 3.0)]
        assert clock.now() == 5.0


def test_a_cancelled_timer_is_not_fired() -> None:
    with FakeClock(0.0) as clock:
        fired = []
        clock.call_at(1.0, lambda: fired.append(1)).cancel()
        clock.advance(2.0)
        assert fired == []


def test_a_timer_for_an_instant_that_has_come_is_fired_at_once() -> None:
    with FakeClock(1.0) as clock:
        fired = []
        clock.call_at(1.0, lambda: fired.append(1))
        assert fired == [1]


def test_a_timeout_ends_a_sleep_at_its_own_instant(async_runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()

    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(Around(within(0.5)), script(delayed(10.0, "late")))

    async_runtime.run(body)
    assert fake_clock.now() == start + 0.5


def test_at_one_instant_the_timeout_comes_before_the_sleep(async_runtime, fake_clock: FakeClock) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(Around(within(0.5)), script(delayed(0.5, "late")))

    async_runtime.run(body)


def test_a_timeout_is_in_time_if_time_had_run_out_before(async_runtime, fake_clock: FakeClock) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(Around(within(-1.0)), script(delayed(0.5, "late")))

    async_runtime.run(body)


def test_a_timeout_alone_does_not_move_the_clock(async_runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()

    async def body() -> None:
        never = async_runtime.event()
        waiting = async_runtime.spawn(async_runtime.call, Around(within(2.0)), never.wait)
        await async_runtime.sleep(0.02)
        assert fake_clock.now() == start
        assert not waiting.done()
        fake_clock.advance(2.0)
        with pytest.raises(TimeoutError):
            await waiting

    async_runtime.run(body)


def test_a_timeout_that_fires_too_late_to_matter_is_ignored(async_runtime, fake_clock: FakeClock) -> None:
    # The timer is fired in the very step in which the call ends by itself.
    async def body() -> None:
        waiter = Waiter()

        def flow(call, inner):
            yield Park(waiter, None)
            return (yield from inner(call))

        def guarded(call, inner):
            return (yield from within(1.0)(call, lambda call: flow(call, inner)))

        waiting = async_runtime.spawn(async_runtime.call, Around(guarded), script("made it"))
        await async_runtime.until(lambda: waiter.signal is not None)
        waiter.wake()
        for _ in range(3):
            await async_runtime.checkpoint()
        fake_clock.advance(1.0)
        assert await waiting == "made it"

    async_runtime.run(body)


# --- sleeping in tasks ---


def test_tasks_wake_in_the_order_of_their_instants(async_runtime, fake_clock: FakeClock) -> None:
    woken: list[float] = []

    async def one(number: int) -> None:
        await fake_clock.asleep((number * 37 % 20 + 1) / 2)
        woken.append(fake_clock.now())
        for _ in range(number % 5):
            await async_runtime.checkpoint()
        await fake_clock.asleep(1.25)
        woken.append(fake_clock.now())

    async def body() -> None:
        await async_runtime.gather(*[lambda number=number: one(number) for number in range(60)])

    async_runtime.run(body)
    assert woken == sorted(woken)
    assert len(woken) == 120


def test_the_order_is_the_same_in_every_run(async_runtime) -> None:
    def once() -> list[tuple[float, int]]:
        woken: list[tuple[float, int]] = []
        with FakeClock(0.0) as clock:

            async def one(number: int) -> None:
                for pause in (1.0, 0.5, 0.5):
                    await clock.asleep(pause)
                    woken.append((clock.now(), number))
                    await async_runtime.checkpoint()

            async def first(number: int) -> None:
                # Enters the line alone: how tasks begin is the event loop's own affair.
                await clock.asleep(number / 1024)
                await one(number)

            async def body() -> None:
                await async_runtime.gather(*[lambda number=number: first(number) for number in range(1, 9)])

            async_runtime.run(body)
        return woken

    runs = [once() for _ in range(5)]
    assert all(run == runs[0] for run in runs)
    assert runs[0] == sorted(runs[0])


def test_who_is_due_at_the_same_instant_wakes_in_order_of_arrival(
    async_runtime, fake_clock: FakeClock
) -> None:
    woken = []

    async def one(number: int) -> None:
        await fake_clock.asleep(number)  # arrive one after the other
        await fake_clock.asleep(100.0 - number)
        woken.append(number)
        await fake_clock.asleep(1.0)
        woken.append(number)

    async def body() -> None:
        await async_runtime.gather(*[lambda number=number: one(number) for number in range(1, 6)])

    async_runtime.run(body)
    assert woken == [1, 2, 3, 4, 5] * 2


def test_time_waits_for_tasks_that_have_something_to_do(async_runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()
    seen = []

    async def worker() -> None:
        for _ in range(50):
            await async_runtime.checkpoint()
        seen.append(fake_clock.now())

    async def body() -> None:
        await async_runtime.gather(worker, lambda: fake_clock.asleep(5.0))

    async_runtime.run(body)
    assert seen == [start]
    assert fake_clock.now() == start + 5.0


def test_a_cancelled_sleeper_hands_its_turn_on(async_runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()

    async def body() -> None:
        early = async_runtime.spawn(fake_clock.asleep, 1.0)
        late = async_runtime.spawn(fake_clock.asleep, 3.0)
        async_runtime.cancel(early)
        await early.join()
        await late

    async_runtime.run(body)
    assert fake_clock.now() == start + 3.0
    assert not fake_clock._tasks._asleep


def test_a_sleeper_that_comes_late_and_is_due_early_goes_first(async_runtime, fake_clock: FakeClock) -> None:
    woken = []

    async def sleeper(seconds: float) -> None:
        await fake_clock.asleep(seconds)
        woken.append(seconds)

    async def latecomer() -> None:
        for _ in range(2):
            await async_runtime.checkpoint()
        await sleeper(1.0)

    async def body() -> None:
        await async_runtime.gather(lambda: sleeper(3.0), lambda: sleeper(2.0), latecomer)

    async_runtime.run(body)
    assert woken == [1.0, 2.0, 3.0]


def test_a_thread_may_wake_a_task_that_waits_with_a_limit(async_runtime) -> None:
    waiter = Waiter()
    with FakeClock(0.0, auto_advance=False) as clock:

        def wake() -> None:
            while waiter.signal is None:
                time.sleep(0.001)
            waiter.wake()

        async def body() -> None:
            thread = threading.Thread(target=wake)
            thread.start()
            await clock.apark(waiter, 5.0)
            thread.join()

        async_runtime.run(body)
        assert clock.now() == 0.0


def test_a_task_that_moves_the_clock_is_woken_at_once(async_runtime, fake_clock: FakeClock) -> None:
    # The one that is due first looks out for idleness; being woken comes before that.
    waiter = Waiter()
    ended = []

    async def parked() -> None:
        await fake_clock.apark(waiter, 5.0)
        ended.append(True)

    async def body() -> None:
        start = fake_clock.now()
        waiting = async_runtime.spawn(parked)
        while waiter.signal is None:
            await async_runtime.checkpoint()
        waiter.wake()
        while not ended:  # never idle
            await async_runtime.checkpoint()
        await waiting
        assert fake_clock.now() == start

    async_runtime.run(body)


def test_waking_a_task_of_a_closed_loop_says_so() -> None:
    waiter = Waiter()
    with FakeClock() as clock:
        loop = asyncio.new_event_loop()
        task = loop.create_task(clock.apark(waiter, None))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        assert waiter.signal is not None
        assert waiter.wake() is False
        task._log_destroy_pending = False
        del task, waiter
    del clock
    gc.collect()


def test_a_loop_that_was_closed_while_a_task_slept_leaves_nothing_behind() -> None:
    with FakeClock() as clock:
        loop = asyncio.new_event_loop()
        task = loop.create_task(clock.asleep(1.0))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        task._log_destroy_pending = False
        del task
        gc.collect()
        asyncio.run(clock.asleep(1.0))
        assert loop not in _asyncio._watched


@pytest.mark.parametrize("blocked", [True, False])
def test_a_loop_that_hides_its_queue_is_judged_by_its_tasks(blocked: bool) -> None:
    async def main() -> bool:
        loop = asyncio.get_running_loop()
        task = loop.create_task(asyncio.sleep(3600) if blocked else asyncio.sleep(0))
        for _ in range(1 if blocked else 0):
            await asyncio.sleep(0)
        busy = []

        class Hidden:
            def __getattr__(self, name: str) -> object:
                if name == "_ready":
                    raise AttributeError(name)
                return getattr(loop, name)

        hidden = Hidden()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "all_tasks", lambda here: others if here is hidden else set())
            busy.append(_asyncio.is_busy(hidden))
        task.cancel()
        return busy[0]

    assert asyncio.run(main()) is not blocked


# --- moved by hand ---


def test_without_auto_advance_a_sleeper_waits_for_somebody_to_move_the_clock(runtime) -> None:
    with FakeClock(0.0, auto_advance=False) as clock:

        async def body() -> None:
            policy = Around(nap(2.0))
            sleeping = runtime.spawn(runtime.call, policy, clock.now)
            await runtime.until(lambda: clock.sleeps == [2.0])
            await runtime.sleep(0.01)
            clock.advance(1.5)
            await runtime.sleep(0.01)
            assert not sleeping.done()
            clock.advance(0.5)
            assert await sleeping == 2.0

        runtime.run(body)


def test_without_auto_advance_a_wait_ends_when_its_time_has_passed(runtime) -> None:
    with FakeClock(0.0, auto_advance=False) as clock:
        tap = Tap(every=2.0, max_wait=5.0)

        async def body() -> None:
            await runtime.call(tap, int)
            waiting = runtime.spawn(runtime.call, tap, clock.now)
            await runtime.until(lambda: tap.waiting == 1)
            await runtime.sleep(0.01)
            clock.advance(2.0)
            assert await waiting == 2.0

        runtime.run(body)


def test_when_the_clock_is_taken_away_sleepers_wake(runtime) -> None:
    clock = FakeClock(auto_advance=False).__enter__()

    async def body() -> None:
        waiter = Waiter()
        jobs = [
            runtime.spawn(runtime.call, Around(nap(1e6)), script("slept")),
            runtime.spawn(
                runtime.call, Around(lambda call, inner: parked(waiter, call, inner)), script("waited")
            ),
        ]
        await runtime.until(lambda: bool(clock.sleeps) and waiter.signal is not None)
        clock.__exit__(None, None, None)
        assert [await job for job in jobs] == ["slept", "waited"]

    def parked(waiter, call, inner):
        yield Park(waiter, 1e6)
        return (yield from inner(call))

    runtime.run(body)
    assert _clock.fake is None


# --- the package's own threads ---


def test_on_threads_too_what_is_due_first_happens_first(runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()
    race = Race(n=2, after=0.2)
    slow_then_fast = script(delayed(1.0, "slow"), delayed(0.1, "fast"))

    async def body() -> None:
        assert await runtime.call(Around(race), slow_then_fast) == "fast"

    runtime.run(body)
    assert fake_clock.now() == pytest.approx(start + 0.3)
    assert slow_then_fast.calls == 2


def test_the_first_attempt_may_win_before_the_next_one_is_due(runtime, fake_clock: FakeClock) -> None:
    start = fake_clock.now()
    quick = script(delayed(0.15, "first"), "second")

    async def body() -> None:
        race = Race(n=1, after=0.2)
        assert await runtime.call(Around(race), quick) == "first"

    runtime.run(body)
    assert fake_clock.now() == start + 0.15
    assert quick.calls == 1


def test_a_worker_left_behind_does_not_move_the_clock(fake_clock: FakeClock) -> None:
    start = fake_clock.now()
    slow = script(delayed(5.0, "late"))
    with pytest.raises(TimeoutError):
        Around(within(1.0, thread=True)).call(slow)
    time.sleep(0.01)
    assert fake_clock.now() == start + 1.0
    assert slow.calls == 1


def test_workers_count_again_once_they_are_woken(fake_clock: FakeClock) -> None:
    # The worker sleeps and is woken many times while its caller waits: neither overtakes the other.
    start = fake_clock.now()

    def steps() -> list[float]:
        instants = []
        for _ in range(20):
            fake_clock.sleep(0.25)
            instants.append(fake_clock.now() - start)
        return instants

    expected = [0.25 * (number + 1) for number in range(20)]
    assert Around(within(10.0, thread=True)).call(steps) == expected
    assert fake_clock._threads._computing == 0


def test_a_worker_that_is_blocked_for_good_holds_the_clock_only_for_a_moment(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "PATIENCE", 0.01)
    start = fake_clock.now()
    never = threading.Event()
    with pytest.raises(TimeoutError):
        Around(within(1.0, thread=True)).call(never.wait)
    assert fake_clock.now() == start + 1.0
    never.set()


def test_a_worker_that_computes_for_long_delays_whoever_waits_without_a_limit(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "PATIENCE", 0.001)
    start = fake_clock.now()

    def compute() -> str:
        time.sleep(0.05)
        return "computed"

    assert Around(Race(n=1)).call(compute) == "computed"
    assert fake_clock.now() == start


def test_a_worker_whose_thread_cannot_be_had_does_not_hold_the_clock(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            Around(within(1.0, thread=True)).call(int)
    assert fake_clock._threads._computing == 0


def test_a_worker_may_wait_for_a_waiter_that_was_woken_before(fake_clock: FakeClock) -> None:
    woken = Waiter()
    woken.wake()
    parks = lambda: drive.result(iter_of(Park(woken, 1.0)))
    assert Around(within(5.0, thread=True)).call(parks) is None
    assert fake_clock._threads._computing == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_can_use_the_clock(fake_clock: FakeClock) -> None:
    blocked = threading.Event()
    release = threading.Event()

    def hold() -> None:
        sys.settrace(None)  # a tracer has locks of its own
        with fake_clock._timeline.lock:
            blocked.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    blocked.wait(10)
    child = os.fork()
    if child == 0:
        fake_clock.sleep(5.0)
        os._exit(0)
    release.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0


# --- scripted functions ---


def test_fail_times_fails_so_often_and_then_works() -> None:
    ask = fail_times(2, ConnectionError, then="here")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            ask("any", arguments=True)
    assert [ask(), ask()] == ["here", "here"]
    assert ask.calls == 4


def test_a_scripted_function_works_under_a_policy_in_every_colour(runtime, fake_clock: FakeClock) -> None:
    async def body() -> None:
        ask = fail_times(1, ConnectionError("down"), then="up")
        guarded = runtime.wrap(Around(again), ask)
        assert await guarded() == "up"
        assert ask.calls == 2

    runtime.run(body)


def test_every_script_has_a_name_of_its_own_in_both_colours() -> None:
    names = []
    for ask in (fail_times(1, KeyError), script(1)):
        plain, coroutine = Turnstile(), Turnstile()
        plain(ask)
        coroutine(ask.acall)
        assert plain.name == coroutine.name
        names.append(plain.name)
    assert len(set(names)) == 2
    assert all(name.startswith("resilience.testing.script") for name in names)


def test_a_coroutine_function_may_call_a_script_and_share_its_count() -> None:
    ask = fail_times(1, KeyError, then=7)

    @Around(again)
    async def guarded() -> int:
        return ask()

    with FakeClock():
        assert asyncio.run(guarded()) == 7
    assert ask.calls == 2


def test_a_script_plays_values_errors_and_delays_and_repeats_the_last(fake_clock: FakeClock) -> None:
    start = fake_clock.now()
    error = OSError("broken")
    play = script("value", error, KeyError, delayed(2.0, delayed(1.0, ValueError)), delayed(0.5, "last"))
    assert play() == "value"
    with pytest.raises(OSError, match="broken") as caught:
        play()
    assert caught.value is error
    with pytest.raises(KeyError):
        play()
    with pytest.raises(ValueError):
        play()
    assert fake_clock.now() == start + 3.0
    assert [play(), play()] == ["last", "last"]
    assert fake_clock.now() == start + 4.0
    assert fake_clock.sleeps == [], "only what policies sleep is written down"


def test_a_script_may_raise_what_is_no_exception() -> None:
    with pytest.raises(KeyboardInterrupt):
        script(KeyboardInterrupt)()


def test_an_error_that_is_raised_again_and_again_keeps_a_short_traceback() -> None:
    ask = fail_times(50, ValueError("again"))
    lengths = []
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            ask()
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1


def test_without_a_fake_clock_a_delay_is_real(runtime) -> None:
    began = time.monotonic()

    async def body() -> None:
        assert await runtime.call(Around(through), script(delayed(0.02, "slept"))) == "slept"

    runtime.run(body)
    assert time.monotonic() - began >= 0.02


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda: fail_times(-1, KeyError), ["n"]),
        (lambda: fail_times(True, "no error"), ["n", "error"]),
        (lambda: fail_times(1, int), ["error"]),
        (lambda: delayed(-1.0), ["seconds"]),
        (lambda: delayed(float("inf")), ["seconds"]),
        (script, ["outcomes"]),
    ],
)  # fmt: skip
def test_a_wrong_script_is_refused_at_once(make, settings: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert [problem.setting for problem in caught.value.problems] == settings


# --- events ---


def test_events_are_recorded_while_the_block_runs() -> None:
    emit("before", "policy", {})
    with testing.recorded_events() as events:
        emit("first", "policy", {"n": 1})
        threading.Thread(target=emit, args=("second", "other", {})).start()
        while len(events) < 2:
            time.sleep(0.001)
        emit("first", "policy", {"n": 2})
    emit("after", "policy", {})
    assert [event.name for event in events] == ["first", "second", "first"]
    assert [event.attributes for event in events.named("first")] == [{"n": 1}, {"n": 2}]
    assert events.named("after") == []


def test_recording_ends_also_after_an_error() -> None:
    with pytest.raises(KeyError), recorded_events() as events:
        raise KeyError
    emit("after", "policy", {})
    assert events == []


# --- pytest ---


def test_the_fixtures_give_what_the_kit_gives(fake_clock, recorded_events) -> None:
    assert _clock.fake is fake_clock
    emit("seen", "policy", {})
    assert [event.name for event in recorded_events] == ["seen"]


def test_the_plugin_is_what_the_package_announces() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"resilience": "resilience._pytest_plugin"}


def test_the_plugin_alone_makes_the_fixtures_known(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_time_passes(fake_clock, recorded_events):\n"
        "    fake_clock.sleep(5)\n"
        "    assert fake_clock.sleeps == [5] and recorded_events == []\n"
    )
    source = Path(testing.__file__).parents[2]
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"
    )
    options = ["-q", "-p", "resilience._pytest_plugin", "-p", "no:cacheprovider", "-c", os.devnull]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), *options, "--rootdir", str(tmp_path), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
