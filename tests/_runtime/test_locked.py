"""Generated code under locks: what it holds, for how long, and what becomes of that when an interrupt strikes."""

import os
import subprocess
import sys
import threading
from collections import Counter

import pytest

from resilience import (
    AdaptiveThrottle,
    CircuitBreaker,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    listen,
)
from resilience._runtime import compile as compiling
from resilience._runtime import drive, locked
from resilience._runtime.watch import watch
from resilience.limits import Aimd
from resilience.priority import usage as priorities
from resilience.telemetry._calls import CallCounts
from resilience.telemetry._watcher import Watcher
from resilience.testing import FakeClock

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


@pytest.fixture(autouse=True)
def locks(monkeypatch):
    """Generated code takes locks, whatever the build; nobody has said a priority, whatever ran before."""
    monkeypatch.setattr(locked, "_needs_locks", True)
    monkeypatch.setattr(priorities, "used", False)  # from the first block on, throttles are driven


def is_free(lock):
    """Whether another thread gets the lock."""
    answers = []

    def ask():
        answers.append(lock.acquire(timeout=0.2))
        if answers == [True]:
            lock.release()

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    return answers == [True]


class Watched:
    """A lock that says how many are held at once, and lets an interrupt strike at its *nth* step."""

    def __init__(self, lock, steps, nth=0):
        self._lock, self._steps, self._nth = lock, steps, nth

    def _step(self):
        self._steps["all"] += 1
        if self._steps["all"] == self._nth:
            raise KeyboardInterrupt

    def __enter__(self):
        self._step()  # while it waits: it does not get the lock then
        self._lock.__enter__()
        self._steps["held"] += 1
        self._steps["most"] = max(self._steps["most"], self._steps["held"])

    def __exit__(self, *exc_info):
        self._steps["held"] -= 1
        self._lock.__exit__(*exc_info)
        self._step()  # on the way out: what stands in the block was done


class Scene:
    """A pipeline of policies that hold something, or count, and what can be seen of them."""

    def __init__(self, limit=2):
        self.budget = RetryBudget.inflight()
        self.retry = Retry(budget=self.budget)
        self.throttle, self.breaker = AdaptiveThrottle(), CircuitBreaker()
        self.rates, self.places = RateLimiter(rate=1, per=86_400.0, burst=10), ConcurrencyLimiter(limit=limit)
        self.gates = [self.throttle, self.breaker, self.rates, self.places]
        self.pipeline = Pipeline("p", self.retry, *self.gates)

    def watch(self, steps, nth=0):
        """Count the steps that are taken at the locks of all policies from now on."""
        for each in (self.budget, self.retry, *self.gates):
            each._lock = Watched(each._lock, steps, nth)

    def held(self):
        """Return what calls under way hold."""
        assert self.budget.level > 0  # asked for something, it looks at what was counted
        return self.places.inflight, self.budget._machine._calls


def test_what_counts_stands_under_the_lock_of_its_policy_and_what_wakes_others_does_not():
    limiter = ConcurrencyLimiter(limit=2)
    lines = limiter.source(limiter(lambda: 7)).splitlines()
    under: set[str] = set()
    depth = 100
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent > depth:
            under.add(line.strip())
        else:
            depth = indent if line.strip() == "with limiter_1._lock:" else 100
    counting = {
        "if (n_1 := cell_1.started) < cell_1.ceiling: cell_1.started = n_1 + 1.0",
        "cell_1.ceiling += 1.0",
    }
    waking = "if bulkhead_1.is_barred: limiter_1._wake_next()"
    assert counting < under
    assert waking not in under
    assert waking in {line.strip() for line in lines}


def test_one_lock_is_held_at_a_time_and_none_during_the_call():
    scene, steps = Scene(), Counter()
    during = []
    guarded = scene.pipeline(lambda: during.append(steps["held"]))
    guarded()
    scene.watch(steps)
    guarded()
    assert (during, steps["held"], steps["most"]) == ([0, 0], 0, 1)
    assert steps["all"] > 2 * len(scene.gates)


@pytest.mark.parametrize("error", [None, ConnectionError, SystemExit])
def test_an_interrupt_at_a_lock_costs_no_place_and_no_permit(error):
    def strike(nth):
        scene = Scene()
        done = []

        @scene.pipeline
        def work():
            done.append(1)
            if error is not None and len(done) > 1:
                raise error

        work()
        spent = scene.rates.remaining()
        scene.watch(steps := Counter(), nth)
        try:
            work()
        except (KeyboardInterrupt, SystemExit, ConnectionError):
            pass
        is_over = steps["all"] < nth
        steps["all"] = nth  # no more of them
        free = [is_free(each._lock._lock) for each in (scene.budget, *scene.gates)]
        assert all(free)
        return is_over, len(done) > 1, scene.held(), spent - scene.rates.remaining()

    for nth in range(1, 100):
        is_over, has_run, held, cost = strike(nth)
        if error is None:  # an interrupt on the way out of a failed call is what flows have to see to
            assert held == (0, 0), nth
            assert cost == has_run, nth
        elif not has_run:
            assert (*held, cost) == (0, 0, 0), nth
        if is_over:
            return
    pytest.fail("the call never came through")


def test_a_refusal_gives_back_what_the_others_gave_under_their_locks():
    scene = Scene(limit=1)
    guarded = scene.pipeline(lambda: 7)
    guarded()
    with scene.places.guard():
        scene.watch(steps := Counter())
        with pytest.raises(ConcurrencyLimitedError):
            guarded()
    assert (steps["held"], scene.held(), scene.rates.remaining()) == (0, (0, 0), 9)


def test_a_refusal_is_counted_under_the_lock_and_reported_outside_of_it():
    places = ConcurrencyLimiter(limit=1)
    guarded = places(lambda: 7)
    guarded()
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "note", lambda name, details: told.append(is_free(places._lock)))
        with places.guard(), pytest.raises(ConcurrencyLimitedError):
            guarded()
    assert (told, places.counts.rejected) == ([True], 1)


def test_listeners_are_called_under_no_lock():
    with FakeClock() as clock:
        breaker = CircuitBreaker(failure_ratio=0.1, minimum_throughput=3, sampling_duration=10.0)
        free, fails = [], [True]

        @breaker
        def work():
            if fails.pop():
                raise ConnectionError

        stop = listen(lambda event: free.append(is_free(breaker._lock)))
        with pytest.raises(ConnectionError):
            work()
        clock.advance(0.5)
        for _ in range(2):  # the second good result brings the throughput that the circuit needs to open
            fails.append(False)
            work()
        stop()
    assert free == [True]


def test_a_limit_learns_under_no_lock():
    class Limit(Aimd):
        def on_sample(self, sample):
            free.append(is_free(places._lock))

    free = []
    with FakeClock() as clock:
        places = ConcurrencyLimiter(limit=Limit(window=0.1))
        guarded = places(lambda: clock.advance(1.0))
        with pytest.MonkeyPatch.context() as patch:
            guarded()
            patch.setattr(drive, "run", None)
            guarded()
    assert free
    assert all(free)


def test_what_a_function_is_made_of_never_changes_under_those_who_call_it():
    limit = Timeout(1.0)
    guarded = Pipeline("p", limit, CircuitBreaker())(lambda: 7)
    code, before = guarded.__code__, guarded.__globals__["present"]
    guarded()
    after = guarded.__globals__["present"]
    limit.reconfigure(duration=2.0)
    assert guarded() == 7
    assert guarded.__code__ is code
    assert before is not after is not guarded.__globals__["present"]


def test_a_parameter_may_be_called_like_the_function_that_has_the_code():
    guarded = CircuitBreaker()(lambda present, *, present_=2: (present, present_))
    assert [guarded(1), guarded(1, present_=3)] == [(1, 2), (1, 3)]


def test_calls_as_a_whole_are_counted_under_a_lock():
    counts: dict[str, CallCounts] = {}
    try:
        watch.put(Watcher(counts, None, None))
        guarded = CircuitBreaker("counted")(lambda: 7)
        guarded()
        counts["counted"]._lock = Watched(counts["counted"]._lock, steps := Counter())
        guarded()
    finally:
        watch.put(None)
    assert (steps["all"], steps["held"], counts["counted"].quick) == (
        2,
        0,
        1.0 + (counts["counted"].good[0] == 0),
    )


@pytest.mark.skipif(locked.IS_FREE_THREADED, reason="there all code has locks")
@pytest.mark.parametrize(
    ("said", "found"), [("1", "7 True Guard"), ("0", "7 False QuickGuard"), ("", "7 False QuickGuard")]
)
def test_the_environment_can_ask_for_locks(said, found):
    program = (
        "from resilience import ConcurrencyLimiter; c = ConcurrencyLimiter('c');"
        "f = c(lambda: 7); print(f(), 'with limiter_1._lock' in c.source(f), type(c.guard()).__name__)"
    )
    env = {**os.environ, "RESILIENCE_LOCKS": said}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )  # our own interpreter
    assert ran.stdout.strip() == found


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
@pytest.mark.parametrize("event", ["BRANCH", "INSTRUCTION", "LINE"])
def test_a_tool_that_may_run_within_a_line_is_reason_enough(event, monkeypatch):
    monkeypatch.setattr(locked, "_needs_locks", False)
    tools = sys.monitoring
    limiter = ConcurrencyLimiter("c")
    tools.use_tool_id(3, "test")
    try:
        tools.set_events(3, getattr(tools.events, event))
        during = limiter.source(limiter(lambda: 7))
    finally:
        tools.set_events(3, 0)
        tools.free_tool_id(3)
    assert ("with " in during) == (event != "LINE")
    assert "with " not in limiter.source(limiter(lambda: 7))


def test_a_coroutine_that_is_refused_is_counted_once():
    async def fetch():
        """Never runs."""

    retry = Retry(budget=RetryBudget.inflight(min_concurrency=1))
    with pytest.raises(TypeError, match="returned a coroutine"):
        Pipeline("p", retry, ConcurrencyLimiter(limit=1))(lambda: fetch())()
    assert (retry.calls, retry.stops["cancelled"]) == (1, 1)
