"""
What this interpreter does in one go.

The hot path relies on it: on a build with a GIL, a line of int and float work without a call and
without a loop is not interrupted by another thread. That is how CPython is made, not what it promises;
so it is tried on every version, in lines like those and in the generated functions themselves: plain,
under a tracer written in Python, and under coverage's, which is written in C.

Elsewhere generated functions take locks. That is tried on every build, too.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import coverage
import pytest

from resilience import (
    CircuitBreaker,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    Retry,
    RetryBudget,
    _clock,
)
from resilience._core.window import Cell
from resilience._runtime import locked

IS_FREE_THREADED = "free-threading" in sys.version

needs_gil = pytest.mark.skipif(IS_FREE_THREADED, reason="without a GIL locks are taken instead")

THREADS = 8
CALLS = {"plain": 10_000, "python tracer": 3_000, "coverage": 6_000}
"""How often each thread calls. Under a tracer threads switch at every line."""


@contextmanager
def python_tracer() -> Iterator[None]:
    def trace(frame: object, event: str, argument: object) -> object:
        return trace

    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(None)


@contextmanager
def coverage_tracer(included: Path) -> Iterator[coverage.Coverage]:
    measured = coverage.Coverage(
        data_file=None, branch=True, include=[f"{included}/*", __file__], config_file=False
    )
    measured.set_option("run:core", "ctrace")
    measured.start()
    try:
        yield measured
    finally:
        measured.stop()


class Tracing:
    """How the threads of one test are traced."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self.seen: set[str] = set()

    @property
    def calls(self) -> int:
        return CALLS[self.name]

    def _block(self) -> AbstractContextManager[Any]:
        if self.name == "plain":
            return nullcontext()
        return python_tracer() if self.name == "python tracer" else coverage_tracer(self._folder)

    def hammer(self, operation: Callable[[], object], *, times: int = 1) -> int:
        """Run *operation* so many times as often as usual in every thread; return how often it ran."""
        calls = self.calls * times
        barrier = threading.Barrier(THREADS)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                barrier.wait()
                for _ in range(calls):
                    operation()
            except BaseException as error:
                errors.append(error)

        with self._block() as measured:
            workers = [threading.Thread(target=work) for _ in range(THREADS)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        if isinstance(measured, coverage.Coverage):
            self.seen |= measured.get_data().measured_files()
        assert errors == []
        return THREADS * calls

    def guarded(self, policy: Policy, fn: Callable[[], Any]) -> Any:
        """Return *fn*, guarded by generated code that lies in a file, as coverage looks at nothing else."""
        made: Any = policy(fn)
        text = policy.source(made)
        assert "def " in text, "it is driven step by step"
        file = self._folder / "generated.py"
        file.write_text(text, encoding="utf-8")
        made()  # what has to be made anew is made before
        running = made.__globals__.get("present", made)
        running.__code__ = running.__code__.replace(co_filename=str(file))
        return made

    def check_that_it_was_traced(self) -> None:
        if self.name == "coverage":
            assert "generated.py" in {Path(each).name for each in self.seen}


@pytest.fixture(params=list(CALLS))
def tracing(request: pytest.FixtureRequest, tmp_path: Path) -> Tracing:
    return Tracing(request.param, tmp_path)


@pytest.fixture(params=[pytest.param(False, marks=needs_gil, id="lines"), pytest.param(True, id="locks")])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether generated code takes locks."""
    monkeypatch.setattr(locked, "_needs_locks", request.param)
    return bool(request.param)


# Lines like those of generated code


@needs_gil
def test_counting_in_a_slot_loses_nothing(tracing: Tracing, quick_switches: None):
    cell = Cell()

    def count() -> None:
        cell.good += 1

    assert tracing.hammer(count, times=3) == cell.good


@needs_gil
def test_the_hammer_strikes_where_a_line_can_be_interrupted(tracing: Tracing, quick_switches: None):
    cell = Cell()

    def one() -> int:
        time.sleep(0)  # lets others run for certain
        return 1

    def count() -> None:
        cell.good += one()  # read before the call, written after it

    assert tracing.hammer(count) > cell.good


@needs_gil
def test_counting_in_a_dict_loses_nothing(tracing: Tracing, quick_switches: None):
    counts = {"success": 0}

    def count() -> None:
        counts["success"] += 1

    assert tracing.hammer(count, times=3) == counts["success"]


@needs_gil
def test_taking_and_leaving_a_place_loses_nothing(tracing: Tracing, quick_switches: None):
    class Places:
        __slots__ = ("inflight", "limit")

    places = Places()
    places.inflight, places.limit = 0, 3
    most: list[int] = []

    def call() -> None:
        places.inflight = (n := places.inflight) + (fits := n < places.limit)
        if fits:
            most.append(n + 1)
            places.inflight -= 1

    tracing.hammer(call, times=3)
    assert (places.inflight, max(most) <= 3) == (0, True)


@needs_gil
def test_the_rate_limiters_line_admits_exactly_what_there_is(tracing: Tracing, quick_switches: None):
    class State:
        __slots__ = ("tat",)

    state = State()
    state.tat = 0.0
    burst = 1000.0
    admitted = []

    def ask() -> None:
        t = 0.0
        state.tat = x = t + 1 if (s := state.tat) <= t else s + 1 if s - t <= burst - 1 else s
        if x != s:
            admitted.append(1)

    tracing.hammer(ask)
    assert len(admitted) == burst


# The generated functions themselves


def test_generated_code_counts_every_good_result_of_a_breaker(
    tracing: Tracing, mode: bool, quick_switches: None
):
    breaker = CircuitBreaker("b", sampling_duration=86_400.0)
    guarded = tracing.guarded(breaker, lambda: None)

    ran = tracing.hammer(guarded)

    tracing.check_that_it_was_traced()
    total, bad, _ = breaker._circuit._window.count(_clock.monotonic())
    assert (total, bad, breaker._circuit.good) == (ran + 1, 0, ran + 1)


def test_generated_code_counts_every_call_of_a_retry(tracing: Tracing, mode: bool, quick_switches: None):
    budget = RetryBudget()
    retry = Retry(budget=budget)
    guarded = tracing.guarded(retry, lambda: None)

    ran = tracing.hammer(guarded)

    tracing.check_that_it_was_traced()
    assert budget.level > 0  # asked for something, it looks at what was counted
    found = (retry.calls, retry.stops["success"], budget.calls, budget.good)
    assert found == (ran + 1,) * 4


def test_generated_code_admits_no_more_at_once_than_the_limit(
    tracing: Tracing, mode: bool, quick_switches: None
):
    limiter = ConcurrencyLimiter("l", limit=3)
    seen: list[int] = []
    refused: list[int] = []
    guarded = tracing.guarded(limiter, lambda: seen.append(limiter.inflight))

    def call() -> None:
        try:
            guarded()
        except ConcurrencyLimitedError:
            refused.append(1)

    ran = tracing.hammer(call)

    tracing.check_that_it_was_traced()
    assert (limiter.inflight, max(seen) <= 3) == (0, True)
    assert (limiter.counts.acquired, limiter.counts.rejected) == (len(seen), len(refused))
    assert len(seen) + len(refused) == ran + 1


def test_generated_code_admits_exactly_the_burst(tracing: Tracing, mode: bool, quick_switches: None):
    limiter = RateLimiter("r", rate=1, per=86_400.0, burst=1000)
    admitted: list[int] = []
    refused: list[int] = []
    guarded = tracing.guarded(limiter, lambda: admitted.append(1))

    def call() -> None:
        try:
            guarded()
        except RateLimitedError:
            refused.append(1)

    ran = tracing.hammer(call)

    tracing.check_that_it_was_traced()
    assert (len(admitted), len(refused)) == (1000, ran + 1 - 1000)
    assert (limiter.counts.acquired, limiter.counts.rejected) == (len(admitted), len(refused))


def test_generated_code_of_a_whole_pipeline_loses_nothing(tracing: Tracing, mode: bool, quick_switches: None):
    retry, breaker = Retry(budget=RetryBudget()), CircuitBreaker(sampling_duration=86_400.0)
    rates, places = RateLimiter(rate=1_000_000_000), ConcurrencyLimiter(limit=1000)
    guarded = tracing.guarded(Pipeline("p", retry, breaker, rates, places), lambda: None)

    ran = tracing.hammer(guarded)

    tracing.check_that_it_was_traced()
    found = [retry.calls, breaker._circuit.good, rates.counts.acquired, places.counts.acquired]
    assert found == [ran + 1] * 4
    assert places.inflight == 0


def test_whoever_changes_settings_meanwhile_costs_no_call_its_count(
    tracing: Tracing, mode: bool, quick_switches: None
):
    breaker, places = CircuitBreaker(sampling_duration=86_400.0), ConcurrencyLimiter(limit=1000)
    guarded: Any = Pipeline("p", breaker, places)(lambda: None)
    is_over = threading.Event()

    def change() -> None:
        while not is_over.is_set():
            breaker.reconfigure(minimum_throughput=20)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        ran = tracing.hammer(guarded)
    finally:
        is_over.set()
        changing.join()

    assert (breaker._circuit.good, places.counts.acquired, places.inflight) == (ran, ran, 0)


def test_a_failing_call_gives_its_place_back_and_is_counted(
    tracing: Tracing, mode: bool, quick_switches: None
):
    def fail() -> None:
        raise ConnectionError

    retry, places = Retry(attempts=1, budget=RetryBudget.inflight()), ConcurrencyLimiter(limit=1000)
    guarded: Any = Pipeline("p", retry, places)(fail)

    def call() -> None:
        with suppress(ConnectionError):
            guarded()

    ran = tracing.hammer(call)

    budget = retry.settings.budget
    assert isinstance(budget, RetryBudget)
    assert budget.limit == 3  # nothing is in flight
    assert (retry.stops["attempts_exhausted"], places.inflight, places.counts.acquired) == (ran, 0, ran)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_a_tool_that_runs_between_a_comparison_and_what_follows_lets_nobody_in(quick_switches: None):
    seen: list[int] = []
    tools: Any = getattr(sys, "monitoring", None)
    tools.use_tool_id(3, "switches")
    try:
        tools.register_callback(3, tools.events.BRANCH, lambda *_: time.sleep(0))
        tools.set_events(3, tools.events.BRANCH)
        limiter = ConcurrencyLimiter("l", limit=3)
        guarded = limiter(lambda: seen.append(limiter.inflight))
        barrier = threading.Barrier(THREADS)

        def work() -> None:
            barrier.wait()
            for _ in range(300):
                with suppress(ConcurrencyLimitedError):
                    guarded()

        workers = [threading.Thread(target=work) for _ in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        tools.set_events(3, 0)
        tools.free_tool_id(3)
    assert (limiter.inflight, max(seen) <= 3, limiter.counts.acquired) == (0, True, len(seen))
