"""What is taken in one function and given back in another: as permits do it, by generated code."""

import gc
import weakref
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import ConcurrencyLimiter, Priority, Verdict
from resilience._runtime import compile as compiling
from resilience._runtime.epoch import epoch
from resilience._runtime.gate import Gate
from resilience.limits import Aimd, Vegas
from resilience.streaming import Halved, Work
from resilience.testing import FakeClock

pytestmark = pytest.mark.usefixtures("mode")

generated = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")

GATES = {
    "a fixed limit": lambda: ConcurrencyLimiter("gate", limit=2),
    "aimd": lambda: ConcurrencyLimiter("gate", limit=Aimd(initial=2, window=0.5)),
    "vegas": lambda: ConcurrencyLimiter("gate", limit=Vegas(initial=2, window=0.0)),
    "vegas with a quantile": lambda: ConcurrencyLimiter(
        "gate", limit=Vegas(initial=2, window=0.0, quantile=0.5)
    ),
    "shares": lambda: ConcurrencyLimiter("gate", limit=2, shares={Priority.HIGH: 0.5}),
}
LIMITS = sorted(set(GATES) - {"shares"})

STEPS = st.one_of(
    st.tuples(
        st.sampled_from(["end", "fail", "let go", *(f"settle {each.value}" for each in Verdict)]),
        st.integers(0, 2),
    ),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 0.5, 1.0])),
    st.tuples(st.just("renew"), st.none()),
)


async def done():
    pass


async def failed():
    raise ConnectionError


def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration:
        return
    except ConnectionError:
        return
    raise AssertionError("it waits")


class Site:
    """Works that take from one gate, or ask it for permits."""

    def __init__(self, gate):
        self.gate, self.halved = gate, Halved(gate)

    def begin(self):
        work = Work()
        work.halves, work.holds = self.halved.halves or self.halved.renewed(), False
        if not work.halves.take(work) and (permit := self.gate.try_acquire()):
            work.hold_by(permit)
        return work


def history(make, schedule, *, is_on):
    """Run the schedule; return what could be seen of the gate after each step."""
    seen = []
    with patch.object(compiling, "is_on", lambda: is_on), FakeClock() as clock:
        site = Site(make())
        works = [site.begin() for _ in range(3)]
        for step, which in schedule:
            if step == "pass":
                clock.advance(which)
            elif step == "renew":
                epoch.end()
            elif not works[which].holds:
                works[which] = site.begin()
            elif step == "end":
                run(works[which].halves.give_back_after(works[which], done()))
            elif step == "fail":
                run(works[which].halves.give_back_after(works[which], failed()))
            elif step == "let go":
                works[which].halves.let_go(works[which])
            else:
                works[which].settle(Verdict(step.removeprefix("settle ")))
            readings = list(site.gate.readings())
            seen.append(([work.holds for work in works], readings))
    return seen


@generated
@pytest.mark.parametrize("gate", GATES)
@given(schedule=st.lists(STEPS, max_size=30))
def test_both_ways_everything_is_the_same(gate, schedule):
    make = GATES[gate]
    assert history(make, schedule, is_on=True) == history(make, schedule, is_on=False)


@generated
@pytest.mark.parametrize("limit", LIMITS)
def test_what_is_to_be_had_at_once_is_taken_and_given_back_without_a_permit(limit):
    site = Site(GATES[limit]())
    with patch.object(Gate, "try_acquire", side_effect=AssertionError("a permit")):
        work = site.begin()
        assert site.gate.inflight == 1
        run(work.halves.give_back_after(work, done()))
    assert site.gate.inflight == 0


@pytest.mark.parametrize("gate", LIMITS)
def test_work_whose_last_step_fails_holds_on(gate):
    site = Site(GATES[gate]())
    work = site.begin()
    run(work.halves.give_back_after(work, failed()))
    assert (work.holds, site.gate.inflight) == (True, 1)
    work.halves.let_go(work)
    assert (work.holds, site.gate.inflight) == (False, 0)


@pytest.mark.parametrize("gate", LIMITS)
@pytest.mark.parametrize("by_permit", [False, True])
def test_what_is_held_is_given_back_once(gate, by_permit):
    site = Site(GATES[gate]())
    other, work = site.begin(), site.begin()
    if by_permit:
        work.halves.let_go(work)
        work.hold_by(site.gate.try_acquire())
    for _ in range(2):
        run(work.halves.give_back_after(work, done()))
        work.halves.let_go(work)
        work.settle(Verdict.GOOD)
    assert (other.holds, site.gate.inflight) == (True, 1)


def test_what_was_taken_before_the_settings_changed_is_given_back():
    site = Site(ConcurrencyLimiter("gate", limit=1))
    work = site.begin()
    site.gate.reconfigure(limit=Vegas(initial=1))
    assert not site.begin().holds
    run(work.halves.give_back_after(work, done()))
    assert site.gate.inflight == 0
    assert site.begin().holds


def test_a_permit_that_cannot_be_settled_is_released():
    site = Site(ConcurrencyLimiter("gate", limit=1))
    work = Work()
    work.hold_by(site.gate.try_acquire())
    with patch.object(site.gate.__class__, "_settle", side_effect=ArithmeticError):
        work.settle(Verdict.GOOD)
    assert site.gate.inflight == 0


@generated
def test_nothing_is_left_for_the_garbage_collector():
    while gc.collect():  # what is left of others may take more than one
        pass
    gc.disable()
    try:
        site = Site(ConcurrencyLimiter("gate", limit=1))
        run(site.begin().halves.give_back_after(site.begin(), done()))
        gone = weakref.ref(site.gate), weakref.ref(site.halved)
        del site
        assert [each() for each in gone] == [None, None]
        assert gc.collect() == 0
    finally:
        gc.enable()
