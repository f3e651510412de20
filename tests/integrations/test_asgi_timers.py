"""How the deadlines of one event loop share timers, and what is cut short by them."""

import asyncio

import pytest

from resilience.integrations import _asgi_asyncio
from resilience.integrations._asgi_asyncio import FURTHEST, STEP, cut_after, timers_of


class Timed(asyncio.SelectorEventLoop):
    """An event loop that counts its timers."""

    timers = 0

    def call_at(self, *args, **kwargs):
        self.timers += 1
        return super().call_at(*args, **kwargs)


@pytest.fixture
def loop():
    loop = Timed()
    yield loop
    loop.close()


def test_deadlines_in_one_step_share_a_timer(loop):
    async def body():
        cuts = [cut_after(30.0) for _ in range(100)]
        for cut in cuts:
            cut.__enter__()
        for cut in cuts:
            cut.__exit__(None, None, None)

    loop.run_until_complete(body())
    assert 1 <= loop.timers < 100


def test_a_block_that_ends_in_time_leaves_nothing_behind(loop):
    async def body():
        with cut_after(30.0):
            pass
        return timers_of(asyncio.get_running_loop())

    timers = loop.run_until_complete(body())
    assert [*timers._steps.values()] == [{}]


def test_a_block_is_cut_short_never_early_and_at_most_a_step_late(loop):
    async def body():
        began = asyncio.get_running_loop().time()
        with (cut := cut_after(0.03)):
            await asyncio.Event().wait()
        return cut.was_made, asyncio.get_running_loop().time() - began

    was_made, took = loop.run_until_complete(body())
    assert was_made
    assert took >= 0.03


def test_the_timer_of_a_deadline_is_set_for_the_next_step():
    set_for = []

    class Loop:
        def time(self):
            return 1000.0

        def call_at(self, when, *args, context):
            set_for.append(when)

    timers = timers_of(Loop())
    for number in range(50):
        left = 0.001 + number * STEP / 7
        timers.add(object(), left)
        assert 1000.0 + left < max(set_for) <= 1000.0 + left + STEP
    assert len(set_for) == len(set(set_for)) == 8


def test_after_its_end_a_block_is_not_cut_short(loop):
    async def body():
        with (cut := cut_after(0.01)):
            cut.lift()
            await asyncio.sleep(0.03)
        return cut.was_made

    assert loop.run_until_complete(body()) is False


def test_one_who_was_cancelled_before_is_cut_short_alike(loop):
    async def body():
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        with (cut := cut_after(0.01)):
            await asyncio.Event().wait()
        return cut.was_made, asyncio.current_task().cancelling()

    assert loop.run_until_complete(body()) == (True, 1)


def test_one_who_is_cancelled_by_others_as_well_stays_cancelled(loop):
    async def body():
        with cut_after(0.01) as _:
            try:
                await asyncio.Event().wait()
            finally:
                asyncio.current_task().cancel()

    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(body())


def test_another_loop_of_the_thread_has_timers_of_its_own(loop):
    async def body():
        with cut_after(0.01):
            await asyncio.Event().wait()

    other = Timed()
    try:
        loop.run_until_complete(body())
        other.run_until_complete(body())
        loop.run_until_complete(body())
    finally:
        other.close()


def test_where_no_task_runs_there_is_nothing_to_cut_short(loop):
    found = []
    loop.call_soon(lambda: found.append(cut_after(1.0)))
    loop.run_until_complete(asyncio.sleep(0))
    assert (found, cut_after(1.0)) == ([None], None)


def test_far_deadlines_leave_no_timers_for_as_long_as_they_would_last(loop):
    async def body():
        for seconds in range(100, 200):
            with cut_after(float(seconds)):
                pass
        return timers_of(asyncio.get_running_loop())

    timers = loop.run_until_complete(body())
    assert len(timers._steps) <= 3
    assert max(timers._steps) * STEP <= loop.time() + FURTHEST + STEP


def test_a_far_deadline_is_kept_like_a_near_one(loop, monkeypatch):
    monkeypatch.setattr(_asgi_asyncio, "FURTHEST", 0.02)

    async def body():
        began = asyncio.get_running_loop().time()
        with (cut := cut_after(0.07)):
            await asyncio.Event().wait()
        with cut_after(0.07):
            await asyncio.sleep(0.03)
        await asyncio.sleep(0.06)
        return cut.was_made, asyncio.get_running_loop().time() - began

    was_made, took = loop.run_until_complete(body())
    assert was_made
    assert took >= 0.07 + 0.03 + 0.06
    assert [cuts for cuts in timers_of(loop)._steps.values() if cuts] == []
