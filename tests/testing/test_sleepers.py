"""The fake clock with many who sleep: each wakes at its own instant, in the order of the instants."""

import heapq
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtimes import AsyncioRuntime, TrioRuntime

from resilience.hedge import Hedge
from resilience.testing import FakeClock, delayed, script
from resilience.timeout import Timeout

START = 1000.0
ASYNC = [AsyncioRuntime, TrioRuntime]

naps = st.lists(st.lists(st.integers(1, 4).map(float), min_size=1, max_size=4), min_size=3, max_size=6)


def expected(chains: list[list[float]], arrivals: list[int]) -> list[tuple[int, float]]:
    """Who wakes when: by due time, ties in the order in which they went to sleep."""
    numbers = iter(range(1000))
    heap = [(START + chains[who][0], next(numbers), who, 1) for who in arrivals]
    heapq.heapify(heap)
    woken: list[tuple[int, float]] = []
    while heap:
        now, _, who, naps_taken = heapq.heappop(heap)
        woken.append((who, now))
        if naps_taken < len(chains[who]):
            heapq.heappush(heap, (now + chains[who][naps_taken], next(numbers), who, naps_taken + 1))
    return woken


@pytest.mark.parametrize("kind", ASYNC, ids=lambda kind: kind.name)
@given(chains=naps)
def test_each_wakes_at_its_own_instant_and_ties_go_by_order_of_sleeping(
    kind: Any, chains: list[list[float]]
) -> None:
    runtime = kind()
    arrivals: list[int] = []
    woken: list[tuple[int, float]] = []
    with FakeClock(START) as clock:

        async def sleeper(who: int) -> None:
            arrivals.append(who)
            for seconds in chains[who]:
                await clock.asleep(seconds)
                woken.append((who, clock.now()))

        async def body() -> None:
            for job in [runtime.spawn(sleeper, who) for who in range(len(chains))]:
                await job

        runtime.run(body)
    assert woken == expected(chains, arrivals)


@pytest.mark.parametrize("kind", ASYNC, ids=lambda kind: kind.name)
@given(
    limits=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), min_size=3, max_size=5
    )
)
def test_nested_timeouts_of_many_end_at_the_shortest_time_each(
    kind: Any, limits: list[tuple[int, int, int]]
) -> None:
    runtime = kind()
    arrivals: list[int] = []
    ended: list[tuple[int, float, bool]] = []
    with FakeClock(START) as clock:

        async def caller(who: int) -> None:
            outer, inner, takes = (float(seconds) for seconds in limits[who])
            slow = script(delayed(takes, "here")).acall
            arrivals.append(who)
            try:
                await Timeout(outer).acall(Timeout(inner)(slow))
            except TimeoutError:
                ended.append((who, clock.now(), True))
            else:
                ended.append((who, clock.now(), False))

        async def body() -> None:
            for job in [runtime.spawn(caller, who) for who in range(len(limits))]:
                await job

        runtime.run(body)
    # At one instant a timeout comes before a sleep; each kind goes by order of arrival.
    due = [(float(min(limits[who])), limits[who][2] < min(limits[who][:2]), who) for who in arrivals]
    due.sort(key=lambda each: each[:2])
    assert ended == [(who, START + instant, not slept) for instant, slept, who in due]


def test_on_three_threads_of_the_package_what_is_due_first_happens_first() -> None:
    seen: list[tuple[str, float]] = []
    with FakeClock(START) as clock:
        plays = {name: script(delayed(seconds)) for name, seconds in [("a", 9.0), ("b", 5.0), ("c", 1.0)]}
        names = iter(plays)

        def work() -> str:
            name = next(names)
            plays[name]()
            seen.append((name, clock.now()))
            return name

        policy = Hedge(after=2.0, max_extra=2, idempotent=True, budget=None)
        assert policy.call(work) == "c"
        assert clock.now() == START + 5.0
    assert seen[0] == ("c", START + 5.0)


def test_timeouts_of_one_instant_end_in_the_order_in_which_they_began(
    async_runtime: Any, fake_clock: FakeClock
) -> None:
    for _ in range(10):  # trio resumes what becomes ready together in any order
        arrivals: list[int] = []
        ended: list[int] = []

        async def caller(who: int, arrivals: list[int] = arrivals, ended: list[int] = ended) -> None:
            arrivals.append(who)
            with pytest.raises(TimeoutError):
                await Timeout(2.0).acall(script(delayed(2.0)).acall)
            ended.append(who)

        async def body() -> None:
            for job in [async_runtime.spawn(caller, who) for who in range(5)]:
                await job

        async_runtime.run(body)
        assert ended == arrivals
