"""The queue of calls whose time is bounded: one timer for all of them, and nothing that stays behind."""

import asyncio
import contextvars
import gc
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from unittest.mock import patch

import pytest
from tests.collector import collector_off
from tests.virtual_loop import VirtualLoop

from resilience import Pipeline, Timeout
from resilience._runtime import compile as compiling
from resilience._runtime.queues import Queues
from resilience.deadline import current_deadline, remaining

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")

SHORT = 0.03
LONG = 5.0


async def nap(seconds=LONG, result="late"):
    await asyncio.sleep(seconds)
    return result


def cancels():
    return asyncio.current_task().cancelling()


def timers(loop, limit):
    """Return the timers that run for the queue of *limit*."""
    queue = limit.queue
    return [each for each in loop._scheduled if getattr(each._callback, "__self__", None) is queue]


# --- how long ----------------------------------------------------------------------------------------------------


def test_ten_thousand_calls_at_once_all_end_in_time():
    limit = Timeout(0.5, name="stock")
    fetch = limit(nap)
    took = []

    async def one():
        began = time.monotonic()
        with suppress(TimeoutError):
            await fetch()
        took.append(time.monotonic() - began)

    async def body():
        await asyncio.gather(*(one() for _ in range(10_000)))
        await asyncio.sleep(0)
        return len(limit.queue.began), limit.queue.is_armed

    assert asyncio.run(body()) == (0, False)
    assert len(took) == limit.timed_out == 10_000
    assert min(took) >= 0.5
    assert max(took) < 5.0


def test_any_number_of_calls_has_one_timer():
    limit = Timeout(LONG)
    fetch = limit(nap)

    async def body():
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(fetch()) for _ in range(100)]
        await asyncio.sleep(0)
        seen = len(limit.queue.began), len(timers(loop, limit))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return seen, len(limit.queue.began), len(timers(loop, limit))

    assert asyncio.run(body()) == ((100, 1), 0, 1)


def test_a_queue_that_is_idle_has_no_timer():
    limit = Timeout(SHORT)
    fetch = limit(nap)

    async def body():
        for _ in range(3):
            await fetch(0)
        await asyncio.sleep(2 * SHORT)
        return limit.queue.is_armed, timers(asyncio.get_running_loop(), limit)

    assert asyncio.run(body()) == (False, [])


def test_a_queue_that_was_idle_has_a_timer_again():
    limit = Timeout(SHORT)
    fetch = limit(nap)

    async def body():
        await fetch(0)
        await asyncio.sleep(2 * SHORT)
        with pytest.raises(TimeoutError):
            await fetch()

    asyncio.run(body())


def test_the_timer_does_not_keep_what_the_first_call_knew():
    class Request:
        pass

    variable = contextvars.ContextVar("request")
    limit = Timeout(LONG)
    fetch = limit(nap)

    async def first():
        request = Request()
        variable.set(request)
        await fetch(0)
        return weakref.ref(request)

    async def body():
        known = await asyncio.create_task(first())
        await asyncio.sleep(0)
        gc.collect()
        return limit.queue.is_armed, known()

    assert asyncio.run(body()) == (True, None)


def test_a_task_that_cannot_be_cancelled_does_not_stop_the_timer():
    class Stubborn(asyncio.Task):
        def cancel(self, msg=None):
            super().cancel(msg)
            raise RuntimeError("not me")

    limit = Timeout(SHORT)
    fetch = limit(nap)

    async def body():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, about: errors.append(type(about["exception"])))
        tasks = [Stubborn(fetch(), loop=loop) for _ in range(3)]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(end) for end in ends], limit.queue.is_armed

    errors = []
    ends, is_armed = asyncio.run(body())
    assert ends == [TimeoutError] * 3
    assert errors == [RuntimeError] * 3
    assert not is_armed


# --- loops and threads -------------------------------------------------------------------------------------------


def test_loops_in_two_threads_share_a_policy():
    limit = Timeout(0.1)
    fetch = limit(nap)
    ends = []

    async def body():
        for n in range(200):
            ends.append(await fetch(0, n))
        calls = [fetch(LONG if n % 2 else 0.01) for n in range(20)]
        ends.extend(await asyncio.gather(*calls, return_exceptions=True))
        assert cancels() == 0

    threads = [threading.Thread(target=asyncio.run, args=(body(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sum(isinstance(end, TimeoutError) for end in ends) == limit.timed_out == 30
    assert ends.count("late") == 30
    assert len(ends) == 660


def test_a_loop_that_went_on_in_another_thread_is_not_taken_for_the_one_here():
    limit = Timeout(SHORT)
    fetch = limit(nap)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fetch(0))  # from here on, the policy knows the loop in this thread
    blocking, done = threading.Event(), threading.Event()

    async def block():
        blocking.set()
        done.wait(20)
        await asyncio.sleep(2 * SHORT)
        return cancels()

    async def here():
        try:
            return await fetch(0.5)
        except TimeoutError:
            return "out of time"

    left = []
    thread = threading.Thread(target=lambda: left.append(loop.run_until_complete(block())))
    thread.start()
    blocking.wait(20)
    try:
        assert asyncio.run(here()) == "out of time"
    finally:
        done.set()
        thread.join(20)
        loop.close()
    assert left == [0]


def test_a_loop_that_does_not_say_which_thread_runs_it_has_a_queue_too():
    class Reticent(asyncio.SelectorEventLoop):
        def __getattribute__(self, name):
            if name == "_thread_id" and sys._getframe(1).f_globals is not vars(asyncio.base_events):
                raise AttributeError(name)
            return super().__getattribute__(name)

    limit = Timeout(SHORT)
    fetch = limit(nap)
    with asyncio.Runner(loop_factory=Reticent) as runner:
        with pytest.raises(TimeoutError):
            runner.run(fetch())
        assert runner.run(fetch(0)) == "late"
        assert limit.queue.runner is not limit.queue.loop
    assert asyncio.run(fetch(0)) == "late"


def test_a_loop_that_was_closed_with_calls_in_it_is_let_go_of():
    limit = Timeout(LONG)
    fetch = limit(nap)

    def begin():
        loop = asyncio.new_event_loop()
        task = loop.create_task(fetch())
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        return weakref.ref(loop)

    loops = [begin() for _ in range(3)]
    assert asyncio.run(fetch(0)) == "late"
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


def test_calls_that_never_ended_with_their_loop_do_not_matter_to_the_next_one():
    limit = Timeout(SHORT)
    fetch = limit(nap)
    loop = asyncio.new_event_loop()
    task = loop.create_task(fetch())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with pytest.raises(TimeoutError):
        asyncio.run(fetch())
    assert not task.done()
    task._log_destroy_pending = False
    task.get_coro().close()
    assert current_deadline() is None


def test_a_loop_that_stands_still_for_a_while_goes_on():
    limit = Timeout(SHORT)
    fetch = limit(nap)
    loop = asyncio.new_event_loop()
    task = loop.create_task(fetch())
    loop.run_until_complete(asyncio.sleep(0))
    time.sleep(2 * SHORT)
    with pytest.raises(TimeoutError):
        loop.run_until_complete(task)
    assert loop.run_until_complete(fetch(0)) == "late"
    loop.close()


def test_in_a_loop_with_a_time_of_its_own_that_time_counts():
    fetch = Timeout(10.0)(nap)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(fetch(9.0)) == "late"
        with pytest.raises(TimeoutError):
            runner.run(fetch(1_000.0))


# --- coroutines that no task runs to their end -------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_coroutine_that_is_closed_leaves_nothing(elsewhere):
    limit = Timeout(SHORT)

    @limit
    async def hang():
        await asyncio.get_running_loop().create_future()

    async def body():
        coroutine = hang()
        coroutine.send(None)
        assert len(limit.queue.began) == 1
        (contextvars.Context() if elsewhere else contextvars.copy_context()).run(coroutine.close)
        seen = len(limit.queue.began)
        await asyncio.sleep(2 * SHORT)
        return seen, cancels()

    assert asyncio.run(body()) == (0, 0)


def test_a_coroutine_that_is_closed_after_its_time_takes_its_cancellation_back():
    limit = Timeout(SHORT)

    @limit
    async def hang():
        await asyncio.get_running_loop().create_future()

    async def body():
        coroutine = hang()
        coroutine.send(None)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(2 * SHORT)
        coroutine.close()
        return cancels(), current_deadline()

    assert asyncio.run(body()) == (0, None)


def test_without_a_task_a_call_goes_the_slow_way():
    limit = Timeout(LONG)

    @limit
    async def here():
        return "here"

    asyncio.run(here())
    with pytest.raises(RuntimeError, match=r"no running event loop|inside a task"):
        here().send(None)
    assert current_deadline() is None


def test_in_a_callback_of_the_loop_a_call_goes_the_slow_way():
    limit = Timeout(LONG)
    seen = []

    @limit
    async def here():
        return "here"

    def callback():
        try:
            here().send(None)
        except BaseException as error:
            seen.append(type(error))

    async def body():
        await here()
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.001)
        return len(limit.queue.began)

    assert asyncio.run(body()) == 0
    assert seen == [RuntimeError]  # as asyncio.timeout says: not in a task


# --- changes while calls are under way ---------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [LONG, None, SHORT])
def test_calls_under_way_keep_the_time_that_they_began_with(duration):
    limit = Timeout(3 * SHORT)
    fetch = limit(nap)

    async def body():
        before = asyncio.create_task(fetch())
        await asyncio.sleep(0)
        limit.reconfigure(duration=duration)
        after = asyncio.create_task(fetch(6 * SHORT))
        ends = await asyncio.gather(before, after, return_exceptions=True)
        return [type(end) for end in ends], cancels()

    expected = TimeoutError if duration == SHORT else str
    assert asyncio.run(body()) == ([TimeoutError, expected], 0)


def test_a_change_of_settings_while_a_loop_asks_for_its_queue_is_not_lost():
    limit = Timeout(LONG)
    fetch = limit(nap)
    of = limit._queues.of

    def meanwhile(loop, seconds):
        queue = of(loop, seconds)
        changing.start()
        changing.join(0.1)
        return queue

    changing = threading.Thread(target=lambda: limit.reconfigure(duration=SHORT))

    async def body():
        with patch.object(Queues, "of", staticmethod(meanwhile)):
            await fetch(0)
        changing.join()
        with pytest.raises(TimeoutError):
            await fetch()

    asyncio.run(body())


def test_a_policy_that_nobody_has_any_more_still_ends_its_calls():
    async def body():
        limit = Timeout(SHORT)
        gone = weakref.ref(limit)
        task = asyncio.create_task(limit(nap)())
        await asyncio.sleep(0)
        del limit
        gc.collect()
        with pytest.raises(TimeoutError):
            await task
        del task
        await asyncio.sleep(0)  # until then the loop still has the error
        gc.collect()
        return gone()

    assert asyncio.run(body()) is None


def test_a_child_process_begins_with_an_empty_queue():
    limit = Timeout(LONG)
    fetch = limit(nap)

    async def body():
        task = asyncio.create_task(fetch())
        await asyncio.sleep(0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                asyncio._set_running_loop(None)
                limit.reconfigure(duration=SHORT)
                try:
                    asyncio.run(fetch())
                except TimeoutError:
                    os.write(write, b"in time")
            finally:
                os._exit(0)
        os.close(write)
        said = b"".join(iter(lambda: os.read(read, 100), b""))
        os.close(read)
        os.waitpid(child, 0)  # noqa: ASYNC222  # it has ended: the pipe is read to its end
        task.cancel()
        await asyncio.wait([task])
        return said, len(limit.queue.began)

    assert asyncio.run(body()) == (b"in time", 0)


# --- what a pipeline sees ----------------------------------------------------------------------------------------


def test_the_shorter_of_two_limits_is_the_deadline_also_after_a_change():
    inner = Timeout(1.0)
    pipeline = Pipeline("stock", Timeout(2.0), inner)

    @pipeline
    async def look():
        return remaining()

    @pipeline
    def look_plainly():
        return remaining()

    assert asyncio.run(look()) <= 1.0
    inner.reconfigure(duration=60.0)
    assert asyncio.run(look()) <= 2.0
    assert look_plainly() <= 2.0


# --- garbage -----------------------------------------------------------------------------------------------------


class Bad(Exception):
    pass


@pytest.mark.parametrize("how", ["error", "late", "cancelled", "refused"])
def test_a_task_that_failed_needs_no_collector(how):
    limit = Timeout(SHORT)

    @limit
    async def fetch(depth=0):
        if how == "error":
            raise Bad
        if how == "refused" and depth == 0:
            await fetch(1)
        if how == "refused":
            raise Bad
        await nap()

    async def body():
        task = asyncio.create_task(fetch())
        await asyncio.sleep(0)
        if how == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        if how != "cancelled":
            task.exception()
        return weakref.ref(task)

    with collector_off():
        assert asyncio.run(body())() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
def test_eager_tasks_have_their_own_time():
    limit = Timeout(SHORT)
    fetch = limit(nap)

    async def body():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        ends = await asyncio.gather(fetch(0, 1), fetch(), fetch(0, 2), return_exceptions=True)
        return [end if isinstance(end, int) else type(end) for end in ends], cancels(), len(limit.queue.began)

    assert asyncio.run(body()) == ([1, TimeoutError, 2], 0, 0)
