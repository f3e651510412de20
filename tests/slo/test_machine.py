"""The arithmetic of an error budget, against a model that remembers every event."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.slo._machine import RESOLUTIONS, Budget

HOUR, DAY = 3_600.0, 86_400.0
WINDOWS = (60.0, 300.0, HOUR, 6 * HOUR, DAY, 3 * DAY, 4 * DAY + 1, 30 * DAY)
# From the bounds of the steps, and from either side of them: evenly spread instants hide < and <=.
STEPS = (10.0, 60.0, 300.0, HOUR, 6 * HOUR, 3 * DAY)
PAUSES = st.sampled_from(
    (0.0, 0.25, *STEPS, *(step - 0.25 for step in STEPS), *(step + 0.25 for step in STEPS))
)


def counted(budget, now, *, good=0, bad=0):
    """Count as the policy does."""
    if now >= budget.due:
        budget.turn(now)
    budget.good += good
    budget.bad += bad


class Model(RuleBasedStateMachine):
    """Every event is remembered with its instant; a window is what the list says."""

    @initialize(window=st.sampled_from(WINDOWS), began=st.sampled_from((0.0, 1_000_000.0, 7.25)))
    def begin(self, window, began):
        self.now = self.began = began
        self.budget = Budget(0.99, window, 1, began)
        self.events = []

    @rule(pause=PAUSES)
    def wait(self, pause):
        self.now += pause

    @rule(is_bad=st.booleans())
    def event(self, is_bad):
        counted(self.budget, self.now, good=not is_bad, bad=is_bad)
        self.events.append((self.now, is_bad))

    @rule()
    def look(self):
        self.budget.turn(self.now)

    def step(self, window):
        for step, span in RESOLUTIONS:
            if span >= window or span >= self.budget.window:
                return step
        return self.budget._rings[-1].step

    def between(self, start):
        inside = [is_bad for at, is_bad in self.events if at >= start]
        return len(inside) - sum(inside), sum(inside)

    @precondition(lambda self: hasattr(self, "budget"))
    @invariant()
    def every_window_holds_the_events_since_the_step_that_it_begins_with(self):
        for window in (each for each in WINDOWS if each <= self.budget.window):
            step = self.step(window)
            start = math.ceil((self.now - window) / step) * step
            assert tuple(self.budget.count(window, self.now)) == self.between(start), window

    @precondition(lambda self: hasattr(self, "budget"))
    @invariant()
    def a_burn_rate_is_told_only_of_a_time_that_was_watched(self):
        for window in (each for each in WINDOWS if each <= self.budget.window):
            burn = self.budget.burn(window, self.now)
            good, bad = self.budget.count(window, self.now)
            if self.now - self.began < window or good + bad == 0:
                assert burn is None
            else:
                assert burn == pytest.approx(bad / (good + bad) / 0.01)

    @precondition(lambda self: hasattr(self, "budget"))
    @invariant()
    def memory_is_bounded(self):
        for ring in self.budget._rings:
            assert len(ring._points) <= ring.span / ring.step + 2


TestBudget = Model.TestCase


@given(st.lists(st.tuples(PAUSES, st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_all_that_came_since_the_start_counts_while_the_window_is_longer(events):
    budget, now = Budget(0.9, 10_000 * DAY, 1, 0.0), 0.0
    for pause, good, bad in events:
        now += pause
        counted(budget, now, good=good, bad=bad)
    total = sum(good + bad for _, good, bad in events)
    expected = sum(bad for *_, bad in events) / total / 0.1 if total else None
    assert budget.burn_since_start(now) == (None if expected is None else pytest.approx(expected))


def test_since_the_start_forgets_what_has_left_the_window():
    budget = Budget(0.9, HOUR, 1, 0.0)
    counted(budget, 0.0, bad=10)
    assert budget.burn_since_start(HOUR - 1) == pytest.approx(10.0)
    counted(budget, HOUR + 11, good=10)
    assert budget.burn_since_start(HOUR + 11) == 0.0


def test_too_few_events_say_nothing():
    budget = Budget(0.9, HOUR, 5, 0.0)
    counted(budget, HOUR, good=4)
    assert budget.burn(60.0, HOUR) is None
    counted(budget, HOUR, bad=1)
    assert budget.burn(60.0, HOUR) == pytest.approx(2.0)


class Interrupted(list):
    """Rings of which the second is not reached."""

    def __iter__(self):
        yield self[0]
        raise KeyboardInterrupt


def test_an_interrupt_in_the_middle_of_a_turn_changes_nothing():
    budget = Budget(0.9, 30 * DAY, 1, 0.0)
    counted(budget, 0.0, bad=2)
    whole, budget._rings = budget._rings, Interrupted(budget._rings)
    with pytest.raises(KeyboardInterrupt):
        counted(budget, 7 * HOUR, bad=1)
    budget._rings = whole
    counted(budget, 7 * HOUR, bad=1)
    assert [budget.count(window, 7 * HOUR) for window in (60.0, 6 * HOUR, DAY)] == [(0, 1), (0, 1), (0, 3)]


def test_a_clock_that_goes_back_counts_as_standing_still():
    budget = Budget(0.9, HOUR, 1, 1_000.0)
    counted(budget, 5_000.0, bad=3)
    assert budget.count(60.0, 4_000.0) == budget.count(60.0, 5_000.0) == (0, 3)
    counted(budget, 4_000.0, good=1)
    assert budget.count(60.0, 5_000.0) == (1, 3)


def test_a_clock_that_jumps_over_years_costs_one_step():
    budget = Budget(0.9, 30 * DAY, 1, 0.0)
    counted(budget, 0.0, bad=3)
    counted(budget, 10_000 * DAY, good=1)
    assert budget.count(30 * DAY, 10_000 * DAY) == (1, 0)
    assert all(len(ring._points) == 2 for ring in budget._rings)


# The table of the SRE workbook: an SLO of 99.9 % under a constant ratio of errors, page rows of 30 d.
@pytest.mark.parametrize(
    ("errors", "minute"), [(1000, 1), (500, 2), (100, 9), (50, 18), (20, 44), (10, 217), (7, 309), (5, None)]
)
def test_a_page_fires_in_the_minute_that_prometheus_fires_in(errors, minute):
    budget = Budget(0.999, 30 * DAY, 1, 0.0)
    for at in range(420):
        counted(budget, at * 60.0, good=1_000)
    fired = None
    for at in range(420):
        counted(budget, (420 + at) * 60.0, good=1_000 - errors, bad=errors)
        now = (421 + at) * 60.0
        rows = ((14.4, HOUR, 300.0), (6.0, 6 * HOUR, 1_800.0))
        if any(min(budget.burn(long, now), budget.burn(short, now)) > factor for factor, long, short in rows):
            fired = at + 1
            break
    assert fired == minute
