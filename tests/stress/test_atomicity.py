"""
What this interpreter does in one go.

The hot path relies on it: on a build with a GIL, a line of int and float work without a call and
without a loop is not interrupted by another thread. That is how CPython is made, not what it promises;
so it is tried on every version, also with a tracer.
"""

import sys
import threading
from collections.abc import Callable

import pytest

from resilience._core.window import Cell

pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="without a GIL locks are taken instead"
)

THREADS = 8


@pytest.fixture(params=["plain", "traced"])
def traced(request: pytest.FixtureRequest) -> bool:
    return request.param == "traced"


def hammer(operation: Callable[[], object], *, traced: bool) -> int:
    """Run *operation* in every thread; return how often it ran."""
    each = 4_000 if traced else 40_000
    barrier = threading.Barrier(THREADS)

    def trace(frame: object, event: str, argument: object) -> object:
        return trace

    def work() -> None:
        if traced:
            sys.settrace(trace)
        barrier.wait()
        for _ in range(each):
            operation()
        sys.settrace(None)

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return THREADS * each


def test_counting_in_a_slot_loses_nothing(traced: bool, quick_switches: None):
    cell = Cell()

    def count() -> None:
        cell.good += 1

    assert hammer(count, traced=traced) == cell.good


def test_taking_and_leaving_a_place_loses_nothing(traced: bool, quick_switches: None):
    class Places:
        __slots__ = ("inflight", "limit", "refused", "worst")

    places = Places()
    places.inflight = places.worst = places.refused = 0
    places.limit = 3

    def call() -> None:
        taken = False
        if (n := places.inflight) < places.limit: places.inflight = n + 1; taken = True; places.worst = n + 1 if n >= places.worst else places.worst  # noqa: E701, E702  # fmt: skip
        if taken:
            places.inflight -= 1

    hammer(call, traced=traced)
    assert (places.inflight, places.worst <= 3) == (0, True)


def test_the_rate_limiters_line_admits_exactly_what_there_is(traced: bool, quick_switches: None):
    class Clock:
        __slots__ = ("tat",)

    clock = Clock()
    clock.tat = 0.0
    burst = 1000.0
    admitted = []

    def ask() -> None:
        t = 0.0
        clock.tat = x = t + 1 if (s := clock.tat) <= t else s + 1 if s - t <= burst - 1 else s
        if x != s:
            admitted.append(1)

    hammer(ask, traced=traced)
    assert len(admitted) == burst
