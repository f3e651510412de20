"""Calls whose results are read later: permits until the end, on threads, under asyncio and trio."""

import gc
import threading
import time
import weakref
from contextlib import suppress

import anyio
import pytest
from tests.collector import collector_off
from tests.doubles import Again, Slots
from tests.runtimes import Runtime

from resilience import (
    Cache,
    CallContext,
    ConcurrencyLimiter,
    Fallback,
    Outcome,
    Pipeline,
    Retry,
    Verdict,
    current_attempt,
)
from resilience.backoff import constant
from resilience.errors import ConfigError
from resilience.streaming import StreamedCalls


class Page:
    """A result that is read later."""

    def __init__(self, verdict=Verdict.GOOD):
        self.verdict = verdict
        self.closed = 0

    def close(self):
        self.closed += 1


def judge(outcome: Outcome[object], context: CallContext) -> Verdict:
    return getattr(outcome.value, "verdict", Verdict.BAD)


async def made(runtime: Runtime, calls: StreamedCalls, fn, **kwargs):
    if runtime.name == "sync":
        return calls.call(fn, **kwargs)

    async def afn():
        await runtime.checkpoint()
        return fn()

    return await calls.acall(afn, **kwargs)


@pytest.mark.parametrize(
    "ending, verdicts, released",
    [
        (Outcome(Page()), [Verdict.GOOD], 0),
        (Outcome(error=OSError()), [Verdict.BAD], 0),
        (None, [], 1),
    ],
)
def test_a_good_result_is_settled_by_how_reading_it_ended_and_only_once(
    runtime, ending, verdicts, released
) -> None:
    async def body():
        slots = Slots(limit=1)
        streamed = await made(runtime, StreamedCalls(slots, "pages", classify=judge), Page)
        assert slots.used == 1
        for _ in range(2):
            streamed.end(ending)
        assert (slots.used, slots.verdicts, slots.released) == (0, verdicts, released)

    runtime.run(body)


@pytest.mark.parametrize("ending", [Outcome(Page()), Outcome(error=OSError()), None])
@pytest.mark.parametrize(
    "verdict, verdicts, released",
    [(Verdict.BAD, [Verdict.BAD], 0), (Verdict.THROTTLED, [Verdict.THROTTLED], 0), (Verdict.IGNORED, [], 1)],
)
def test_a_bad_result_keeps_its_place_until_it_was_read_and_is_settled_as_it_was_judged(
    runtime, verdict, verdicts, released, ending
) -> None:
    async def body():
        slots, page = Slots(limit=1), Page(verdict)
        streamed = await made(runtime, StreamedCalls(slots, "pages", classify=judge), lambda: page)
        assert (streamed.value, slots.used, slots.verdicts) == (page, 1, [])
        for _ in range(2):
            streamed.end(ending)
        assert (slots.used, slots.verdicts, slots.released) == (0, verdicts, released)
        assert page.closed == 0

    runtime.run(body)


def test_a_bad_result_is_settled_at_once_where_that_frees_no_place(runtime) -> None:
    class Learner(Slots):
        settling_frees = False

    async def body():
        slots, page = Learner(), Page(Verdict.BAD)
        streamed = await made(runtime, StreamedCalls(slots, "pages", classify=judge), lambda: page)
        assert slots.verdicts == [Verdict.BAD]
        streamed.end(Outcome(page))
        assert (slots.verdicts, page.closed) == ([Verdict.BAD], 0)

    runtime.run(body)


def test_a_bad_result_whose_settling_is_interrupted_gives_its_place_back() -> None:
    class Interrupting(Slots):
        def _settle(self, *args):
            raise KeyboardInterrupt

    slots = Interrupting(limit=1)
    streamed = StreamedCalls(slots, "pages", classify=judge).call(lambda: Page(Verdict.BAD))
    with pytest.raises(KeyboardInterrupt):
        streamed.end(Outcome("read"))
    assert (slots.used, slots.released) == (0, 1)


def test_a_result_that_is_repeated_is_closed_and_only_the_last_is_held(runtime) -> None:
    async def body():
        slots = Slots()
        pages = [Page(Verdict.BAD), Page()]
        left = list(pages)
        policy = Pipeline("pages", Retry(backoff=constant(0.0), budget=None), slots)
        streamed = await made(runtime, StreamedCalls(policy, "x", classify=judge), lambda: left.pop(0))
        assert ([page.closed for page in pages], slots.used) == ([1, 0], 1)
        assert streamed.value is pages[1]
        streamed.end(None)
        assert (slots.used, policy.name) == (0, "pages")

    runtime.run(body)


def test_an_error_is_raised_and_nothing_is_held(runtime) -> None:
    async def body():
        slots = Slots()

        def fail():
            raise OSError("down")

        with pytest.raises(OSError, match="down"):
            await made(runtime, StreamedCalls(slots, "pages"), fail)
        assert (slots.used, slots.verdicts) == (0, [Verdict.BAD])

    runtime.run(body)


def test_the_context_reaches_the_policies(runtime) -> None:
    async def body():
        retry = Retry(backoff=constant(0.0), budget=None)
        calls = StreamedCalls(retry, "pages", classify=judge)
        for idempotent in (True, False):
            await made(runtime, calls, lambda: Page(Verdict.BAD), context=CallContext(idempotent=idempotent))
        assert retry.retries == 2
        assert current_attempt().attempt == 1

    runtime.run(body)


@pytest.mark.parametrize("part", [Fallback(value=1), Cache(ttl=1.0, key=str)], ids=["fallback", "cache"])
def test_what_replaces_or_keeps_results_is_refused(part) -> None:
    with pytest.raises(ConfigError, match="put it around the reader"):
        StreamedCalls(Pipeline("pages", part), "pages")


def test_a_result_made_when_the_call_is_interrupted_is_closed() -> None:
    page = Page()

    class Interrupting(Slots):
        settling_frees = False

        def _settle(self, *args):
            raise KeyboardInterrupt

    page.verdict = Verdict.BAD
    slots = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        StreamedCalls(slots, "pages", classify=judge).call(lambda: page)
    assert (slots.used, page.closed) == (0, 1)


def test_a_failed_call_leaves_nothing_for_the_garbage_collector() -> None:
    class Failed(Exception):
        pass

    def fail():
        raise Failed

    calls = StreamedCalls(
        Pipeline("pages", Retry(attempts=2, backoff=constant(0.0), budget=None), Slots()), "x"
    )
    with collector_off():
        try:
            calls.call(fail)
        except Failed as error:
            gone = weakref.ref(error)
        assert gone() is None


class Lost(Again):
    """A policy that makes two results, and loses both."""

    def __init__(self):
        super().__init__(2)

    def step_for(self, binding):
        def step(call, inner):
            yield from inner(call)
            yield from inner(call)
            raise LookupError

        return step


def test_one_who_is_cancelled_while_lost_results_are_closed_still_closes_them_all(async_runtime) -> None:
    class Slow(Page):
        async def aclose(self):
            await anyio.sleep(0.01)
            self.close()

    pages = []

    async def opened():
        pages.append(Slow())
        return pages[-1]

    async def body():
        with suppress(LookupError), anyio.move_on_after(0.005):
            await StreamedCalls(Lost(), "pages").acall(opened)
        await anyio.sleep(0.03)
        assert [page.closed for page in pages] == [1, 1]

    async_runtime.run(body)


def test_an_interrupt_while_lost_results_are_closed_still_closes_them_all() -> None:
    class Stubborn(Page):
        def close(self):
            super().close()
            raise KeyboardInterrupt

    pages = []

    def opened():
        pages.append(Stubborn())
        return pages[-1]

    with pytest.raises(KeyboardInterrupt):
        StreamedCalls(Lost(), "pages").call(opened)
    assert [page.closed for page in pages] == [1, 1]


def test_a_result_that_is_put_aside_for_a_retry_holds_its_place_until_it_is_closed(runtime) -> None:
    slots = Slots(limit=1)
    used = []

    class Counted(Page):
        def close(self):
            super().close()
            used.append(slots.used)

    async def body():
        pages = iter([Counted(Verdict.BAD), Page()])
        retry = Retry(attempts=2, backoff=constant(0.0), budget=None)
        calls = StreamedCalls(Pipeline("pages", retry, slots), "pages", classify=judge)
        streamed = await made(runtime, calls, lambda: next(pages))
        assert used == [1]
        assert slots.used == 1  # that of the page to read
        streamed.end(Outcome(streamed.value))
        assert slots.used == 0

    runtime.run(body)


# --- given up without a word ---


class Around:
    """Holds what holds it, as a response and its body do: garbage that somebody must collect."""

    def __init__(self, streamed):
        self.streamed = streamed
        self.around = self


def came_back(limiter: ConcurrencyLimiter) -> bool:
    end = time.monotonic() + 10.0
    while limiter.inflight and time.monotonic() < end:
        time.sleep(0.001)
    return limiter.inflight == 0


@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.BAD])
@pytest.mark.parametrize("around", [Around, lambda streamed: streamed])
def test_the_place_of_a_result_that_is_collected_unended_comes_back(runtime, verdict, around) -> None:
    async def body():
        limiter = ConcurrencyLimiter(limit=1)
        calls = StreamedCalls(limiter, "pages", classify=judge)
        dropped = around(await made(runtime, calls, lambda: Page(verdict)))
        assert limiter.inflight == 1
        del dropped
        gc.collect()
        assert came_back(limiter)

    runtime.run(body)


def test_one_that_waits_gets_the_place_of_a_result_that_is_collected_unended(runtime) -> None:
    async def body():
        calls = StreamedCalls(
            ConcurrencyLimiter(limit=1, max_queue=1, max_wait=30.0), "pages", classify=judge
        )
        dropped = Around(await made(runtime, calls, Page))

        def drop():
            dropped.__dict__.clear()

        timer = threading.Timer(0.05, drop)
        timer.start()
        streamed = await made(runtime, calls, Page)
        streamed.end(None)
        timer.join()

    runtime.run(body)


def test_a_result_that_is_collected_in_the_midst_of_a_decision_does_not_disturb_it() -> None:
    limiter = ConcurrencyLimiter(limit=1)
    dropped = Around(StreamedCalls(limiter, "pages", classify=judge).call(Page))
    with limiter._lock:  # as the one who decides has it
        del dropped
        gc.collect()
        time.sleep(0.02)
        assert limiter.inflight == 1
    assert came_back(limiter)


def test_a_policy_that_fails_when_a_result_is_collected_is_not_heard_of(recwarn) -> None:
    ended = threading.Event()

    class Failing(Slots):
        def _release(self, token, now, *, cancelled):
            super()._release(token, now, cancelled=cancelled)
            ended.set()
            raise OSError

    streamed = StreamedCalls(Failing(), "pages", classify=judge).call(Page)
    del streamed
    gc.collect()
    assert ended.wait(10.0)
    assert not recwarn.list


def test_where_no_thread_can_be_started_collecting_a_result_raises_nothing() -> None:
    def full(*_):
        raise RuntimeError

    streamed = StreamedCalls(Slots(), "pages", classify=judge).call(Page)
    streamed.__del__(full)
    streamed.end(None)
