"""What is the same for all gates: permits, guards, waiting in line, and giving back."""

import asyncio
import contextlib
import gc
import sys
import threading
import time

import pytest
import trio

from resilience._core.permit import Refusal
from resilience._runtime.gate import Gate
from resilience._runtime.permit import Permit, Rejection
from resilience._runtime.pipeline import Pipeline
from resilience.deadline import deadline
from resilience.errors import DeadlineExceededError, LoadShedError
from resilience.outcome import Verdict
from resilience.testing import FakeClock, fail_times, script
from resilience.timeout import Timeout

from .dummies import Tap, Turnstile


class Overloaded(Exception):
    retry_after = 2.5


# --- permits by hand ---


def test_a_permit_is_true_and_a_rejection_is_false() -> None:
    gate = Turnstile("stock")
    permit, rejection = gate.try_acquire(), gate.try_acquire()
    assert isinstance(permit, Permit)
    assert permit
    assert isinstance(rejection, Rejection)
    assert not rejection


def test_a_rejection_says_who_refused_and_knows_the_error() -> None:
    tap = Tap("stock", every=4.0)
    with FakeClock():
        tap.try_acquire()
        rejection = tap.try_acquire()
        assert rejection.policy == "stock"
        assert rejection.retry_after == pytest.approx(4.0, abs=1.0)
        error = rejection.error()
    assert isinstance(error, LoadShedError)
    assert (error.policy, error.retry_after) == ("stock", rejection.retry_after)


@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED])
def test_a_permit_takes_the_lesson_home(verdict: Verdict) -> None:
    gate = Turnstile()
    gate.try_acquire().settle(verdict, retry_after=2.5)
    assert (gate.ended, gate.retry_after) == ([verdict], [2.5])
    assert gate.inside == 0


@pytest.mark.parametrize("verdict", ["good", True, None, 1])
def test_what_is_no_verdict_is_refused_and_the_permit_is_still_held(verdict: object) -> None:
    gate = Turnstile()
    permit = gate.try_acquire()
    with pytest.raises(TypeError, match="verdict must be a Verdict, got"):
        permit.settle(verdict)
    assert gate.inside == 1
    permit.release()
    assert gate.inside == 0


def test_a_hint_that_is_no_length_of_time_is_no_hint() -> None:
    gate = Turnstile()
    gate.try_acquire().settle(Verdict.THROTTLED, retry_after=-3)
    gate.try_acquire().settle(Verdict.THROTTLED, retry_after="7")
    assert gate.retry_after == [None, 7.0]


def test_a_permit_is_good_unless_something_else_is_said() -> None:
    gate = Turnstile()
    gate.try_acquire().settle()
    assert gate.ended == [Verdict.GOOD]


def test_a_permit_that_is_released_or_ignored_teaches_nothing() -> None:
    gate = Turnstile()
    gate.try_acquire().release()
    gate.try_acquire().settle(Verdict.IGNORED)
    assert gate.ended == ["released"] * 2
    assert gate.inside == 0


def test_giving_a_permit_back_twice_changes_nothing() -> None:
    gate = Turnstile(limit=2)
    first, second = gate.try_acquire(), gate.try_acquire()
    first.settle()
    first.settle(Verdict.BAD)
    first.release()
    assert gate.ended == [Verdict.GOOD]
    assert gate.inside == 1
    second.release()
    second.settle()
    assert gate.inside == 0


def test_many_threads_may_give_one_permit_back_and_it_counts_once() -> None:
    gate = Turnstile()
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            permit = gate.try_acquire()
            threads = [threading.Thread(target=permit.settle) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert gate.free == [0]
    finally:
        sys.setswitchinterval(was)
    assert len(gate.ended) == 50


def test_changes_are_reported_after_the_lock_was_released() -> None:
    owned = []

    class Reporting(Turnstile):
        def _changed(self) -> None:
            owned.append(self._lock._is_owned())

    gate = Reporting()
    gate.call(int)
    gate.try_acquire().release()
    assert owned == [False] * 4


# --- guards ---


def test_a_guarded_block_is_admitted_and_settled(runtime) -> None:
    gate = Turnstile()

    async def body() -> None:
        async with runtime.guard(gate) as permit:
            assert permit
            assert gate.inside == 1
        assert gate.inside == 0

    runtime.run(body)
    assert gate.ended == [Verdict.GOOD]


@pytest.mark.parametrize(
    ("error", "lesson"),
    [
        (KeyError(), Verdict.BAD),
        (TimeoutError(), Verdict.TIMED_OUT),
        (Overloaded(), Verdict.THROTTLED),
        (LoadShedError("inner"), "released"),
        (SystemExit(), "cancelled"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_leaves_the_block_is_judged(runtime, error: BaseException, lesson: object) -> None:
    gate = Turnstile()

    async def body() -> None:
        with pytest.raises(type(error)) as caught:
            async with runtime.guard(gate):
                raise error
        assert caught.value is error

    runtime.run(body)
    assert gate.ended == [lesson]
    assert gate.inside == 0
    if lesson is Verdict.THROTTLED:
        assert gate.retry_after == [2.5]


def test_a_refused_block_does_not_run(runtime) -> None:
    gate = Turnstile("stock", limit=0)

    async def body() -> None:
        with pytest.raises(LoadShedError) as caught:
            async with runtime.guard(gate):
                raise AssertionError("it ran")
        assert caught.value.policy == "stock"

    runtime.run(body)
    assert gate.ended == []


def test_the_block_may_settle_its_permit_itself(runtime) -> None:
    gate = Turnstile()

    async def body() -> None:
        async with runtime.guard(gate) as permit:
            permit.settle(Verdict.THROTTLED, retry_after=1.0)
            assert gate.inside == 0
        async with runtime.guard(gate) as permit:
            permit.release()

    runtime.run(body)
    assert gate.ended == [Verdict.THROTTLED, "released"]


def test_a_guard_uses_the_judge_of_its_gate(runtime) -> None:
    gate = Turnstile(on=ConnectionError)

    async def body() -> None:
        for error in (ConnectionError, KeyError):
            with pytest.raises(error):
                async with runtime.guard(gate):
                    raise error

    runtime.run(body)
    assert gate.ended == [Verdict.BAD, Verdict.GOOD]


def test_a_judge_that_fails_gives_the_permit_back(runtime) -> None:
    gate = Turnstile(classify=lambda outcome, context: 7)

    async def body() -> None:
        with pytest.raises(TypeError, match="must return a Verdict"):
            async with runtime.guard(gate):
                pass

    runtime.run(body)
    assert gate.inside == 0
    assert gate.ended == ["cancelled"]


def test_a_guard_is_entered_once(runtime) -> None:
    gate = Turnstile(limit=2)

    class Once:
        """A gate that hands out one and the same guard."""

        def __init__(self) -> None:
            made = gate.guard()
            self.guard = lambda: made

    async def body() -> None:
        once = Once()
        async with runtime.guard(once):
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            async with runtime.guard(once):
                raise AssertionError("it was entered")

    runtime.run(body)
    assert gate.ended == [Verdict.GOOD]


def test_a_guard_waits_in_line_like_a_call(runtime) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        permit = gate.try_acquire()

        async def enter() -> str:
            async with runtime.guard(gate):
                return "entered"

        entering = runtime.spawn(enter)
        await runtime.until(lambda: gate.waiting == 1)
        permit.release()
        assert await entering == "entered"

    runtime.run(body)
    assert gate.inside == 0


def test_a_cancelled_block_teaches_nothing(async_runtime) -> None:
    gate = Turnstile()

    async def body() -> None:
        async def stay() -> None:
            async with gate.guard():
                await async_runtime.event().wait()

        staying = async_runtime.spawn(stay)
        await async_runtime.until(lambda: gate.inside == 1)
        async_runtime.cancel(staying)
        await staying.join()

    async_runtime.run(body)
    assert gate.ended == ["cancelled"]
    assert gate.inside == 0


def test_a_guard_that_is_cancelled_while_it_waits_leaves_the_line(async_runtime) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        permit = gate.try_acquire()

        async def enter() -> None:
            async with gate.guard():
                raise AssertionError("it was entered")

        entering = async_runtime.spawn(enter)
        await async_runtime.until(lambda: gate.waiting == 1)
        async_runtime.cancel(entering)
        await entering.join()
        assert gate.waiting == 0
        permit.release()

    async_runtime.run(body)
    assert gate.ended == ["released"]


# --- waiting in line ---


def test_a_gate_that_does_not_wait_refuses_at_once(runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile()
    gate.try_acquire()
    start = fake_clock.now()

    async def body() -> None:
        with pytest.raises(LoadShedError):
            await runtime.call(gate, int)

    runtime.run(body)
    assert fake_clock.now() == start


def test_who_waits_too_long_is_refused(runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile(max_wait=3.0)
    gate.try_acquire()
    start = fake_clock.now()

    async def body() -> None:
        with pytest.raises(LoadShedError):
            await runtime.call(gate, int)

    runtime.run(body)
    assert fake_clock.now() == pytest.approx(start + 3.0)
    assert gate.waiting == 0


def test_who_cannot_be_served_in_time_is_refused_at_once_with_the_time_to_come_back(
    runtime, fake_clock: FakeClock
) -> None:
    tap = Tap(every=10.0, max_wait=5.0)
    start = fake_clock.now()

    async def body() -> None:
        await runtime.call(tap, int)
        with pytest.raises(LoadShedError) as caught:
            await runtime.call(tap, int)
        assert caught.value.retry_after == pytest.approx(10.0)

    runtime.run(body)
    assert fake_clock.now() == start


def test_the_line_may_be_limited(runtime) -> None:
    gate = Turnstile(max_wait=30.0, max_queue=1)

    async def body() -> None:
        permit = gate.try_acquire()
        waiting = runtime.spawn(runtime.call, gate, script("served"))
        await runtime.until(lambda: gate.waiting == 1)
        with pytest.raises(LoadShedError):
            await runtime.call(gate, int)
        permit.release()
        assert await waiting == "served"

    runtime.run(body)


def test_those_who_wait_are_served_in_order_of_arrival(runtime) -> None:
    gate = Turnstile(max_wait=30.0)
    served: list[int] = []

    async def body() -> None:
        permit = gate.try_acquire()
        jobs = []
        for number in range(8):
            jobs.append(runtime.spawn(runtime.call, gate, lambda number=number: served.append(number)))
            await runtime.until(lambda number=number: gate.waiting == number + 1)
        permit.settle()
        for job in jobs:
            await job

    runtime.run(body)
    assert served == list(range(8))
    assert gate.inside == gate.waiting == 0


def test_nobody_overtakes_those_who_wait(runtime) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        permit = gate.try_acquire()
        waiting = runtime.spawn(runtime.call, gate, script("served"))
        await runtime.until(lambda: gate.waiting == 1)
        with gate._lock:  # the one who waits cannot look yet
            gate.free.append(0)
            assert not gate.try_acquire()
            gate._line.wake_first()
        assert await waiting == "served"
        del permit

    runtime.run(body)


def test_one_line_for_threads_asyncio_and_trio_together() -> None:
    gate = Turnstile(max_wait=30.0)
    served: list[str] = []

    def on_a_thread(name: str) -> None:
        gate.call(lambda: served.append(name))

    async def in_a_task(name: str) -> None:
        async def serve() -> None:
            served.append(name)

        await gate.acall(serve)

    runners = [
        on_a_thread,
        lambda name: asyncio.run(in_a_task(name)),
        lambda name: trio.run(in_a_task, name),
    ] * 3
    permit = gate.try_acquire()
    threads = []
    for number, runner in enumerate(runners):
        threads.append(threading.Thread(target=runner, args=(str(number),)))
        threads[-1].start()
        while gate.waiting <= number:
            time.sleep(0.001)
    permit.release()
    for thread in threads:
        thread.join(20)
    assert served == [str(number) for number in range(9)]
    assert gate.inside == 0


def test_a_call_that_ends_lets_the_next_one_in_however_it_ends(runtime) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        for ending in (lambda: 1, fail_times(9, KeyError), fail_times(9, LoadShedError("inner"))):
            event = runtime.event()

            async def first(event=event, ending=ending) -> object:
                await event.wait()
                return ending()

            running = runtime.spawn(runtime.call, gate, first)
            await runtime.until(lambda: gate.inside == 1)
            waiting = runtime.spawn(runtime.call, gate, script("served"))
            await runtime.until(lambda: gate.waiting == 1)
            event.set()
            assert await waiting == "served"
            await running.join()

    runtime.run(body)


def test_an_ignored_call_lets_the_next_one_in_also_where_settling_does_not() -> None:
    class Keeps(Turnstile):
        settling_frees = False

        def _settle(self, token, verdict, now, started, retry_after) -> None: ...

    gate = Keeps(max_wait=30.0)
    permit = gate.try_acquire()
    served = []
    waiting = threading.Thread(target=gate.call, args=(lambda: served.append(1),))
    waiting.start()
    while not gate.waiting:
        time.sleep(0.001)
    permit.settle(Verdict.IGNORED)
    waiting.join(10)
    assert served == [1]


def test_a_cancelled_waiter_leaves_the_line_and_the_next_one_is_served(async_runtime) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        permit = gate.try_acquire()
        first = async_runtime.spawn(async_runtime.call, gate, script("first"))
        await async_runtime.until(lambda: gate.waiting == 1)
        second = async_runtime.spawn(async_runtime.call, gate, script("second"))
        await async_runtime.until(lambda: gate.waiting == 2)
        permit.release()
        async_runtime.cancel(first)  # woken, and cancelled before it could look
        assert await second == "second"
        await first.join()

    async_runtime.run(body)
    assert gate.inside == gate.waiting == 0


def thread_waits(gate: Turnstile) -> bool:
    """Whether somebody stands in line who is no task: threads do not go."""
    return any(waiter.is_gone is None for waiter in tuple(gate._line.waiters))


def test_one_whose_event_loop_is_closed_counts_as_gone() -> None:
    gate = Turnstile(max_wait=30.0)
    permit = gate.try_acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(gate.acall(asyncio.sleep, 0))
    loop.run_until_complete(asyncio.sleep(0))
    assert gate.waiting == 1
    loop.close()
    served = []
    waiting = threading.Thread(target=gate.call, args=(lambda: served.append(1),))
    waiting.start()
    while not thread_waits(gate):
        time.sleep(0.001)
    permit.release()
    waiting.join(10)
    assert served == [1]
    task._log_destroy_pending = False
    del task
    gc.collect()
    assert gate.waiting == 0


@pytest.mark.parametrize("room", ["free", "full line"])
def test_one_whose_event_loop_is_closed_keeps_nobody_out(room: str) -> None:
    gate = Turnstile(max_wait=30.0, max_queue=1)
    permit = gate.try_acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(gate.acall(asyncio.sleep, 0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    if room == "free":
        gate.free.append(0)  # given back while nobody was told
        assert gate.try_acquire()
    else:
        served: list[int] = []
        waiting = threading.Thread(target=gate.call, args=(lambda: served.append(1),))
        waiting.start()
        while not thread_waits(gate):
            time.sleep(0.001)
        permit.release()
        waiting.join(10)
        assert served == [1]
    task._log_destroy_pending = False
    del task
    gc.collect()


def test_a_wait_ends_at_the_deadline_and_says_that_nothing_ran(runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile(max_wait=30.0)
    gate.try_acquire()
    start = fake_clock.now()

    async def body() -> None:
        with deadline(2.0), pytest.raises(DeadlineExceededError) as caught:
            await runtime.call(gate, int)
        assert caught.value.started is False

    runtime.run(body)
    assert fake_clock.now() == pytest.approx(start + 2.0)
    assert gate.waiting == 0


def test_a_deadline_after_the_longest_wait_changes_nothing(runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile(max_wait=1.0)
    gate.try_acquire()

    async def body() -> None:
        with deadline(2.0), pytest.raises(LoadShedError):
            await runtime.call(gate, int)

    runtime.run(body)


def counted(gate: Gate) -> dict[str, int]:
    kinds = ("acquired", "waited", "rejected", "timed_out", "cancelled")
    return {kind: n for kind in kinds if (n := getattr(gate.counts, kind))}


def test_whose_deadline_passes_in_line_timed_out_in_every_runtime(runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        gate.try_acquire()
        with deadline(2.0), pytest.raises(DeadlineExceededError):
            await runtime.call(gate, int)
        with pytest.raises(TimeoutError):
            await runtime.call(Pipeline("stock", Timeout(lambda context: 2.0), gate), int)

    runtime.run(body)
    assert counted(gate) == {"acquired": 1, "timed_out": 2}


def test_whose_deadline_passes_in_line_timed_out_by_the_real_clock_too(runtime) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        gate.try_acquire()
        for _ in range(5):
            with deadline(0.002), pytest.raises(DeadlineExceededError):
                await runtime.call(gate, int)

    runtime.run(body)
    assert counted(gate) == {"acquired": 1, "timed_out": 5}


def test_who_has_waited_as_long_as_it_may_timed_out_in_every_runtime(runtime, fake_clock: FakeClock) -> None:
    gate = Turnstile(max_wait=1.0)

    async def body() -> None:
        gate.try_acquire()
        with deadline(2.0), pytest.raises(LoadShedError):
            await runtime.call(gate, int)

    runtime.run(body)
    assert counted(gate) == {"acquired": 1, "timed_out": 1}


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_who_is_cancelled_in_line_while_there_is_time_was_cancelled(async_runtime, seconds) -> None:
    gate = Turnstile(max_wait=30.0)

    async def body() -> None:
        gate.try_acquire()

        async def wait() -> None:
            with deadline(seconds):
                await async_runtime.call(gate, int)

        waiting = async_runtime.spawn(wait)
        await async_runtime.until(lambda: gate.waiting == 1)
        async_runtime.cancel(waiting)
        await waiting.join()
        assert isinstance(waiting.error, async_runtime.cancelled)

    async_runtime.run(body)
    assert counted(gate) == {"acquired": 1, "cancelled": 1}


def test_who_is_served_after_waiting_is_served_by_time_alone(runtime, fake_clock: FakeClock) -> None:
    tap = Tap(every=2.0, max_wait=100.0)

    async def body() -> None:
        start = fake_clock.now()
        await runtime.call(tap, int)
        if runtime.name == "sync":
            instants = [await runtime.call(tap, fake_clock.now) for _ in range(5)]
        else:
            instants = await runtime.gather(*[lambda: runtime.call(tap, fake_clock.now) for _ in range(5)])
        assert sorted(instant - start for instant in instants) == pytest.approx([2.0, 4.0, 6.0, 8.0, 10.0])

    runtime.run(body)


def test_a_missed_deadline_that_the_judge_raises_is_no_refusal() -> None:
    def judge(outcome: object, context: object) -> Verdict:
        raise DeadlineExceededError("in the judge")

    gate = Turnstile(classify=judge)
    with pytest.raises(DeadlineExceededError, match="in the judge"):
        gate.call(int)
    assert gate.ended == ["cancelled"]
    assert gate.inside == 0


def test_a_gate_survives_many_threads_that_wait_and_give_up() -> None:
    gate = Turnstile(limit=2, max_wait=0.002)
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    most = []

    def work() -> None:
        for _ in range(40):
            with contextlib.suppress(LoadShedError):
                gate.call(lambda: most.append(gate.inside))

    threads = [threading.Thread(target=work) for _ in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(was)
    assert gate.inside == gate.waiting == 0
    assert max(most) <= 2


# --- refusals ---


def test_a_refusal_is_false_and_says_when() -> None:
    assert not Refusal(1.0)
    assert repr(Refusal(None)) == "Refusal(retry_after=None)"


class Bare(Gate):
    """A gate that says no more than it must."""

    kind = "bare"
    error = LoadShedError
    settings = None

    def _configure(self, settings) -> None: ...

    def _admit(self, now, ask):
        return ask

    def _settle(self, token, verdict, now, started, retry_after) -> None: ...

    def _release(self, token, now, *, cancelled) -> None: ...


def test_a_gate_that_says_no_more_than_it_must_does_not_wait_and_reports_nothing() -> None:
    gate = Bare(None)
    assert gate.call(lambda: 1) == 1
    assert gate.try_acquire().settle() is None
    assert (gate._max_wait, gate._max_queue, gate._wait_for(0.0, 1, 0)) == (0.0, None, None)
