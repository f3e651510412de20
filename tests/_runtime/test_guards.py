"""Guarded blocks that are quick: the statements of generated code, in two halves."""

import asyncio
import gc
import sys
import weakref
from contextlib import suppress
from unittest.mock import patch

import pytest

from resilience import (
    AdaptiveThrottle,
    CircuitBreaker,
    ConcurrencyLimiter,
    RateLimiter,
    Verdict,
    bad_results,
    priority,
)
from resilience._runtime import compile as compiling
from resilience._runtime import guards as guarding
from resilience._runtime import locked
from resilience._runtime.admission import Admission
from resilience._runtime.epoch import epoch
from resilience._runtime.guards import QuickGuard
from resilience._runtime.permit import Guard
from resilience.limits import Aimd, Vegas
from resilience.testing import FakeClock

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")

GATES = {
    "places": lambda: ConcurrencyLimiter("g", limit=2),
    "aimd": lambda: ConcurrencyLimiter("g", limit=Aimd(initial=5)),
    "vegas": lambda: ConcurrencyLimiter("g", limit=Vegas(initial=5)),
    "rate": lambda: RateLimiter("g", rate=100),
    "breaker": lambda: CircuitBreaker("g"),
    "breaker of calls": lambda: CircuitBreaker("g", sampling_calls=100),
    "throttle": lambda: AdaptiveThrottle("g"),
}
SLOW = ["_decide", "_take_back", "_give_back", "_refused_at_once"]
"""What quick blocks do not come by."""


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    """Where locks are needed no guard is quick."""
    monkeypatch.setattr(locked, "_needs_locks", False)


@pytest.fixture(params=GATES)
def gate(request):
    made = GATES[request.param]()
    for _ in range(2):  # the first tells the gate how things stand
        with made.guard():
            pass
    return made


@pytest.fixture
def nothing_slow(monkeypatch):
    monkeypatch.setattr(priority.usage, "used", False)  # other tests may have set one
    slow = [patch.object(Admission, name, side_effect=AssertionError("the slow way")) for name in SLOW]
    for each in slow:
        each.start()
    yield
    for each in slow:
        each.stop()


def test_a_block_that_goes_well_takes_no_lock_and_no_flow(gate, nothing_slow):
    with gate.guard() as permit:
        assert permit


def test_an_async_block_that_goes_well_takes_no_lock_and_no_flow(async_runtime, gate, nothing_slow):
    async def body():
        async with gate.guard() as permit:
            assert permit

    async_runtime.run(body)


def test_a_guard_is_entered_once(gate):
    guard = gate.guard()
    with guard, pytest.raises(RuntimeError, match="entered once"), guard:
        pytest.fail("it ran")
    with pytest.raises(RuntimeError, match="entered once"), guard:
        pytest.fail("it ran")


def test_a_guard_that_was_never_entered_may_be_ended_and_settled(fake_clock, gate):
    before = [repr(reading) for reading in gate.readings()]
    guard = gate.guard()
    guard.__exit__(None, None, None)
    guard.settle()
    guard.release()
    assert [repr(reading) for reading in gate.readings()] == before


def test_an_ended_guard_cannot_be_settled_again(fake_clock, gate):
    with gate.guard() as permit:
        pass
    before = [repr(reading) for reading in gate.readings()]
    permit.settle(Verdict.BAD)
    permit.release()
    assert [repr(reading) for reading in gate.readings()] == before


def test_an_ended_guard_may_be_ended_again(fake_clock, gate):
    guard = gate.guard()
    with guard:
        pass
    before = [repr(reading) for reading in gate.readings()]
    guard.__exit__(None, None, None)
    assert [repr(reading) for reading in gate.readings()] == before


def test_a_guard_whose_making_was_interrupted_goes_away_in_silence(gate, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    kind = type(gate.guard())
    kind()
    assert said == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_after_a_quick_start_is_settled_once(gate, error):
    with pytest.raises(error), gate.guard() as permit:
        raise error
    assert permit.is_empty


def test_a_guard_made_before_a_change_follows_the_change():
    limiter = ConcurrencyLimiter("g", limit=1)
    with limiter.guard():
        pass
    guard = limiter.guard()
    limiter.reconfigure(limit=Aimd(initial=5))
    with guard:
        assert limiter.inflight == 1
    assert limiter.is_idle


@pytest.mark.parametrize("is_async", [False, True])
def test_a_guard_made_before_an_epoch_ended_and_entered_after_it_is_plain(async_runtime, gate, is_async):
    guard = gate.guard()
    assert isinstance(guard, QuickGuard)
    epoch.end()

    async def body():
        async with guard:
            assert type(guard) is Guard

    if is_async:
        async_runtime.run(body)
    else:
        with guard:
            assert type(guard) is Guard
    assert guard.is_empty
    assert isinstance(gate.guard(), QuickGuard)


def test_a_guard_that_had_to_wait_gives_its_place_back():
    limiter = ConcurrencyLimiter("g", limit=Aimd(initial=1), max_queue=1, max_wait=5.0)
    with limiter.guard():
        pass
    permit = limiter.try_acquire()
    guard = limiter.guard()
    with patch.object(type(limiter), "_refused_at_once", lambda *_: after(permit.release, limiter, guard)):
        guard.__enter__()
    assert limiter.inflight == 1
    guard.__exit__(None, None, None)
    assert limiter.inflight == 0


def after(first, gate, guard):
    """Admit *guard* once *first* was done, as one who waits for it is."""
    first()
    return gate._decide(1, guard)
    yield


def test_the_probe_of_a_half_open_breaker_ends_as_every_probe():
    with FakeClock() as clock:
        breaker = CircuitBreaker("g", consecutive_failures=1, break_duration=1.0, probes=1, break_jitter=0.0)
        with breaker.guard():
            pass
        with pytest.raises(ValueError), breaker.guard():
            raise ValueError
        clock.advance(2.0)
        with breaker.guard():
            assert breaker.state.value == "half_open"
        assert breaker.state.value == "closed"


@pytest.mark.parametrize("how", ["settle", "release"])
def test_a_permit_settled_within_its_block_is_not_settled_by_its_end(fake_clock, gate, how):
    with gate.guard() as permit:
        getattr(permit, how)()
        before = [repr(reading) for reading in gate.readings()]
    assert [repr(reading) for reading in gate.readings()] == before
    with pytest.raises(RuntimeError, match="entered once"), permit:
        pytest.fail("it ran")


def test_a_verdict_that_is_none_leaves_the_permit_with_its_block(gate):
    with gate.guard() as permit:
        with pytest.raises(TypeError, match="must be a Verdict"):
            permit.settle("good")
        assert not permit.is_empty
    assert permit.is_empty
    assert gate.is_idle or gate.kind != "concurrency_limiter"


def test_a_guard_that_was_entered_twice_holds_one_place():
    limiter = ConcurrencyLimiter("g", limit=2)
    with limiter.guard():
        pass
    guard = limiter.guard()
    with guard:
        with pytest.raises(RuntimeError, match="entered once"):
            guard.__enter__()
        assert limiter.inflight == 1
    assert limiter.inflight == 0
    guard.__exit__(None, None, None)
    del guard
    assert limiter.inflight == 0


@pytest.mark.parametrize("method", ["__enter__", "__exit__"])
def test_an_interrupt_on_the_way_into_either_end_leaves_nothing_taken(method):
    limiter = ConcurrencyLimiter("g", limit=1)
    with limiter.guard():
        pass
    struck = []

    def strike(frame, _event, _arg):
        if frame.f_code.co_filename == "<resilience guard>" and frame.f_code.co_name == method:
            struck.append(method)
            sys.settrace(None)
            raise KeyboardInterrupt

    def block():
        guard = limiter.guard()
        sys.settrace(strike)
        with guard:
            pass

    was = sys.gettrace()
    try:
        with suppress(KeyboardInterrupt):
            block()
    finally:
        sys.settrace(was)
    assert struck == [method]
    assert limiter.inflight == 0


def test_whoever_makes_guards_quick_at_the_same_time_makes_one_class(gate):
    epoch.end()
    guards, inner = gate._guards, []
    real = guarding._class_for

    def meanwhile(gate):
        if not inner:
            inner.append(None)
            inner.append(guards.renewed())
        return real(gate)

    with patch.object(guarding, "_class_for", meanwhile):
        outer = guards.renewed()
    assert outer is inner[1] is type(gate.guard())


def test_an_epoch_that_ends_while_guards_become_quick_leaves_them_plain_this_time(gate):
    epoch.end()
    real = guarding._class_for

    def meanwhile(gate):
        epoch.end()
        return real(gate)

    with patch.object(guarding, "_class_for", meanwhile):
        assert type(gate.guard()) is Guard
    assert isinstance(gate.guard(), QuickGuard)


def test_a_block_during_which_something_changes_ends_as_it_began(gate):
    with gate.guard():
        epoch.end()
    assert gate.is_idle or gate.kind != "concurrency_limiter"


def test_a_fake_clock_that_comes_later_is_followed():
    breaker = CircuitBreaker("g", sampling_duration=1.0)
    with breaker.guard():
        pass
    with FakeClock() as clock:
        with breaker.guard():
            clock.advance(0.1)
        assert not breaker.is_idle
        clock.advance(5.0)
        assert breaker.is_idle


def test_a_classifier_that_judges_values_makes_blocks_slow():
    breaker = CircuitBreaker("g", classify=bad_results(lambda value: value is None), consecutive_failures=1)
    with breaker.guard():
        pass
    assert breaker.state.value == "open"


def test_where_nothing_is_generated_guards_are_plain(gate):
    with patch.object(compiling, "is_on", lambda: False):
        epoch.end()
        with gate.guard():  # was it made before?
            pass
        assert not isinstance(gate.guard(), QuickGuard)
    epoch.end()
    assert isinstance(gate.guard(), QuickGuard)


def test_a_guard_that_nobody_ends_gives_back_what_it_took():
    limiter = RateLimiter("g", rate=1, burst=1)
    with FakeClock():
        guard = limiter.guard()
        guard.__enter__()
        assert limiter.remaining() == 0
        del guard
        assert limiter.remaining() == 1


def test_a_rate_limiter_with_keys_still_wants_to_know_which():
    limiter = RateLimiter("g", rate=1, key=lambda key: key)
    with pytest.raises(TypeError, match="keeps keys apart"):
        limiter.guard()
    with limiter.guard(key="a"):
        pass


@pytest.mark.parametrize("permits", [0, True, 1.0])
def test_a_wrong_number_of_permits_is_refused(permits):
    with pytest.raises(ValueError, match="whole number"):
        RateLimiter("g").guard(permits)


def test_whoever_waits_for_a_place_is_let_in_when_a_quick_block_ends():
    async def body():
        limiter = ConcurrencyLimiter("g", limit=1, max_queue=1, max_wait=5.0)
        order = []

        async def second():
            async with limiter.guard():
                order.append("second")

        async with limiter.guard():
            task = asyncio.create_task(second())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert limiter.queued == 1
            order.append("first")
        await task
        assert order == ["first", "second"]
        assert limiter.is_idle

    asyncio.run(body())


def test_a_gate_whose_guards_were_used_goes_away_by_itself(no_gc, gate, request):
    make = GATES[request.node.callspec.params["gate"]]
    own = make()
    for _ in range(3):
        with own.guard():
            pass
    reference = weakref.ref(own)
    del own
    assert reference() is None


def test_the_class_of_a_gate_that_is_gone_is_collected(gate, request):
    make = GATES[request.node.callspec.params["gate"]]
    own = make()
    with own.guard() as permit:
        pass
    reference = weakref.ref(type(permit))
    del own, permit
    gc.collect()
    assert reference() is None


class Client:
    """Owns a gate that asks it."""

    window = None
    limit = 5

    def __init__(self, kind):
        if kind == "breaker":
            self.gate = CircuitBreaker("g", break_duration=self.plan)
        else:
            self.gate = ConcurrencyLimiter("g", limit=self if kind == "places" else Vegas(alpha=self.plan))
        self.fetch = self.gate(self._fetch)

    def plan(self, _broken):
        return 1.0

    def on_sample(self, sample):
        pass

    def _fetch(self):
        return 1


@pytest.mark.parametrize("kind", ["breaker", "places", "vegas"])
@pytest.mark.parametrize("how", ["block", "call"])
def test_who_owns_a_gate_that_asks_it_is_collected(kind, how):
    client = Client(kind)
    for _ in range(3):
        if how == "call":
            client.fetch()
        else:
            with client.gate.guard() as permit:
                assert type(permit) is not Guard
            del permit
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("kind", ["breaker", "places", "vegas"])
def test_a_quick_block_of_a_gate_that_asks_its_owner_may_become_plain(kind):
    gate = Client(kind).gate
    with gate.guard() as permit:
        with pytest.raises(TypeError):
            permit.settle(None)
        assert type(permit) is Guard
    assert permit.token is None


def test_blocks_leave_nothing_for_the_collector(no_gc, gate):
    gc.collect()
    for _ in range(10):
        with gate.guard():
            pass
        with pytest.raises(ValueError), gate.guard():
            raise ValueError
    assert [each for each in gc.get_objects() if isinstance(each, Guard)] == []


def test_a_gate_lives_as_long_as_its_block(gate, request):
    make = GATES[request.node.callspec.params["gate"]]
    with make().guard() as permit:
        pass
    assert permit.is_empty
