"""Limits in a limiter, in front of a dependency that can take so much: end to end, on a clock that stands still."""

import sys
import threading
import time
from contextlib import suppress

import pytest

from resilience import ConcurrencyLimitedError, ConcurrencyLimiter
from resilience.limits import Aimd, Gradient2, Vegas
from resilience.testing import FakeClock


class Scene:
    """
    Rounds of calls through a limiter, to a dependency that works on *capacity* of them at once.

    *takes* is how long, in seconds, where there is no queue.
    """

    def __init__(self, limit, *, impatient, takes=0.1):
        self.clock = FakeClock(auto_advance=False)
        self.limit = limit
        self.impatient = impatient
        self.takes = takes
        self.seen = []

    def __enter__(self):
        self.clock.__enter__()
        self.limiter = ConcurrencyLimiter("scene", limit=self.limit)
        return self

    def __exit__(self, *raised):
        self.clock.__exit__(*raised)

    def run(self, capacity, *, seconds, offered=200):
        """Let so much time pass, with *offered* calls at the beginning of each round."""
        self.seen = []
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            guards = []
            limit = self.limiter.limit
            with suppress(ConcurrencyLimitedError):
                for _ in range(offered):
                    guard = self.limiter.guard()
                    guard.__enter__()
                    guards.append(guard)
            assert self.limiter.inflight == len(guards) <= limit
            self.end(guards, capacity)
            self.seen.append(self.limiter.limit)

    def end(self, guards, capacity):
        """Those beyond the capacity are not answered in time; or all of them wait in a queue together."""
        if self.impatient:
            self.clock.advance(self.takes)
            served, late = guards[:capacity], guards[capacity:]
        else:
            self.clock.advance(self.takes * max(1.0, len(guards) / capacity))
            served, late = guards, []
        for guard in served:
            guard.__exit__(None, None, None)
        for guard in late:
            with suppress(TimeoutError):
                guard.__exit__(TimeoutError, TimeoutError(), None)

    def settled(self):
        """The lowest and the highest limit of the latest half."""
        latest = self.seen[len(self.seen) // 2 :]
        return min(latest), max(latest)


def settled_at(limit, capacities, **scene):
    """Where the limit settles at each capacity, one after the other: the capacity, the lowest, the highest."""
    with Scene(limit, **scene) as scene:
        for capacity in capacities:
            scene.run(capacity, seconds=120)
            yield capacity, *scene.settled()


@pytest.mark.parametrize(
    "limit, takes, least, most",
    [(Aimd, 1.0, 0.6, 1.4), (Vegas, 0.1, 0.7, 1.3), (Gradient2, 0.1, 0.5, 1.2)],
)
def test_it_settles_near_what_the_dependency_answers_in_time(limit, takes, least, most):
    for capacity, lowest, highest in settled_at(limit(), (30, 60, 15, 60), takes=takes, impatient=True):
        assert least * capacity <= lowest <= highest <= most * capacity


@pytest.mark.parametrize(
    "limit, capacities, most",
    [(Vegas, (30, 30, 30, 60, 30), 3), (Gradient2, (30,), 2.2)],  # Gradient2 gets used to a queue that stays
)
def test_a_queue_that_nobody_is_lost_in_stays_bounded(limit, capacities, most):
    for capacity, lowest, highest in settled_at(limit(), capacities, impatient=False):
        assert 0.9 * capacity <= lowest <= highest <= most * capacity


def test_a_dependency_that_takes_hardly_any_calls_gets_one_now_and_then():
    with Scene(Aimd(), impatient=True) as scene:
        scene.run(0, seconds=60)
        assert (scene.limiter.limit, scene.limit.limit) == (1, 0.35)
        scene.run(20, seconds=60)
        assert scene.limiter.limit >= 15


@pytest.mark.parametrize("limit", [Aimd, Vegas, Gradient2])
def test_what_is_not_in_use_does_not_grow(limit):
    with Scene(limit(), impatient=True) as scene:
        scene.run(1000, seconds=30, offered=4)
        assert scene.limiter.limit <= 20


class Recorded:
    """A limit that says what it was, too."""

    window = 0.0

    def __init__(self, limit):
        self.within = limit
        self.highest = int(limit.limit)

    @property
    def limit(self):
        return self.within.limit

    def on_sample(self, sample):
        self.within.on_sample(sample)
        self.highest = max(self.highest, int(self.limit))


@pytest.fixture
def quick_switches():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("limit", [Aimd, Vegas, Gradient2])
def test_threads_never_have_more_in_flight_than_the_highest_limit(limit, quick_switches):
    recorded = Recorded(limit(initial=2, max_limit=5, window=0))
    limiter = ConcurrencyLimiter("hammered", limit=recorded)
    inside, most, admitted = set(), [], []
    barrier = threading.Barrier(8)

    def call():
        inside.add(threading.get_ident())
        most.append(len(inside))
        time.sleep(0)
        inside.discard(threading.get_ident())
        if len(most) % 20 == 0:
            raise TimeoutError

    def work():
        barrier.wait()
        for _ in range(300):
            with suppress(ConcurrencyLimitedError, TimeoutError):
                limiter.call(call)
                admitted.append(None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted
    assert max(most) <= recorded.highest <= 5
    assert limiter.inflight == 0
