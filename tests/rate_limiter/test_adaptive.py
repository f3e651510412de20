"""Properties of GCRA at a rate that changes, explored by Hypothesis."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience._core.gcra import TIE
from resilience._core.permit import Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter._adaptive import STALE, AdaptiveGcra
from resilience.rate_limiter._machine import make_machine
from resilience.rate_limiter._rule import RatePermit
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.rates import Aimd, Cubic, Fixed

instants = st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 10.0])
clocks = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e-9, -1e-9, 0.3, -0.3, 1_000.0, -1_000.0, 3.2e7, -3.2e7]),
    st.floats(-1e8, 1e8),
)


def make(source, now=0.0, **settings):
    return AdaptiveGcra(RateLimiterSettings(rate=source, **settings), now)


def admitted(machine, now, tries):
    return sum(isinstance(machine.admit(now), RatePermit) for _ in range(tries))


def wait(machine, now):
    answer = machine.admit(now)
    assert isinstance(answer, Refusal)
    return answer.retry_after


def approx(value):
    return pytest.approx(value, abs=1e-5)


def learn(machine, now):
    """Do as the policy does."""
    sample = machine.take_sample(now)
    if sample is not None:
        machine.source.on_sample(sample)
        cause = "throttled" if sample.throttled else "good"
        machine.learn(machine.source.rate, machine.source.window, now, cause)
    return sample


def test_the_settings_make_it():
    assert isinstance(make_machine(RateLimiterSettings(rate=Cubic()), 0.0), AdaptiveGcra)


def test_without_a_limit_everything_passes_however_much_that_is():
    machine = make(Cubic(), 1e6)
    assert machine.limit == math.inf
    assert admitted(machine, 1e6, 5_000) == 5_000
    assert isinstance(machine.admit(1e6, 1_000_000), RatePermit)


def test_who_is_throttled_for_the_first_time_has_nothing_saved_up():
    machine = make(Cubic())
    admitted(machine, 0.0, 10)
    machine.throttled(0.1, 0.05, None)
    learn(machine, 0.1)
    assert machine.limit == pytest.approx(0.7 * 20)  # ten within a bucket of half a second
    assert wait(machine, 0.1) == approx(1 / 14)


def test_a_burst_follows_the_rate_unless_it_is_given():
    machine, own = make(Aimd(start=10)), make(Aimd(start=10), burst=3)
    for each in (machine, own):
        each.learn(5.5, 1.0, 0.0, "throttled")
    assert (machine.burst, own.burst) == (5, 3)
    assert (admitted(machine, 0.0, 9), admitted(own, 0.0, 9)) == (5, 3)


def test_throttled_calls_that_were_sent_before_the_cut_do_not_cut_again():
    machine = make(Aimd(start=80))
    machine.throttled(1.0, 0.5, None)
    assert learn(machine, 1.0).throttled == 1
    for n in range(20):
        machine.throttled(1.1 + n, 0.9, None)
        learn(machine, 1.1 + n)
    assert machine.limit == 40
    machine.throttled(30.0, 29.0, None)
    learn(machine, 30.0)
    assert machine.limit == 20


def test_a_second_cut_waits_for_the_end_of_the_window():
    machine = make(Aimd(start=80))
    machine.throttled(1.0, 0.5, None)
    learn(machine, 1.0)
    machine.throttled(1.5, 1.2, None)
    assert learn(machine, 1.5) is None
    assert not machine.is_due
    machine.settle(machine.admit(2.0), Verdict.GOOD, 2.0)
    assert machine.is_due
    assert learn(machine, 2.0).throttled == 1
    assert machine.limit == 20


def test_only_good_and_throttled_calls_are_in_a_sample():
    machine = make(Aimd(start=80))
    for verdict in (Verdict.GOOD, Verdict.BAD, Verdict.TIMED_OUT, Verdict.IGNORED):
        machine.settle(machine.admit(0.0), verdict, 0.0)
    machine.release(machine.admit(0.0), 0.0)
    sample = machine.take_sample(1.0)
    assert (sample.good, sample.throttled) == (1, 0)
    assert sample.sent == pytest.approx(0.8 * 4)  # the ignored one was not sent


# --- many permits at once ---


def test_who_needs_more_than_a_burst_that_fell_is_served_when_it_is_full_and_owes_the_rest():
    machine = make(Aimd(start=10))
    machine.learn(2.0, 1.0, 0.0, "throttled")
    assert (machine.burst, machine.remaining(0.0)) == (2, 2)
    assert isinstance(machine.admit(0.0), RatePermit)
    refusal = machine.admit(0.0, 8)
    assert refusal.retry_after == machine.wait_for(0.0, 8) == approx(0.5)
    permit = machine.admit(0.5, 8)
    assert (permit.n, machine.acquired) == (8, 9)
    assert wait(machine, 0.5) == approx((8 - 2 + 1) / 2)
    assert machine.wait_for(0.5, 8) == approx(8 / 2)


def test_a_reservation_for_more_than_the_burst_is_for_when_it_is_full():
    machine = make(Fixed(2))
    assert machine.reserve(0.0, 6).wait == 0
    assert machine.reserve(0.0, 6).wait == approx(3.0)


def test_what_was_not_saved_up_is_given_back_too():
    machine = make(Fixed(2))
    machine.release(machine.admit(0.0, 8), 1.0)
    assert machine.remaining(1.0) == 2


def test_more_than_a_burst_that_was_given_is_never_had():
    machine = make(Fixed(10), burst=4)
    assert machine.capacity == 4
    assert machine.admit(0.0, 5).retry_after is None
    assert machine.reserve(0.0, 5).retry_after is None
    assert machine.wait_for(0.0, 5) is None
    assert machine.remaining(0.0) == 4


def test_more_than_can_be_counted_is_never_had():
    assert make(Fixed(10)).admit(0.0, 10**12 + 1).retry_after is None


# --- pauses ---


@pytest.mark.parametrize("source", [Cubic, Aimd, lambda: Fixed(10)])
def test_a_pause_lasts_as_long_as_the_server_said_and_ends_with_one_call(source):
    machine = make(source())
    machine.throttled(0.0, -1.0, 5.0)
    learn(machine, 0.0)
    assert wait(machine, 0.0) == approx(5.0)
    assert machine.remaining(4.9) == 0
    assert wait(machine, 4.9) == approx(0.1)
    assert admitted(machine, 5.0, 1) == 1
    if machine.limit < math.inf:
        assert wait(machine, 5.0) == approx(1 / machine.limit)


@given(
    pause=st.floats(0.1, 8e4),
    changes=st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1e5)), max_size=5),
    own=st.sampled_from([None, 1, 50]),
)
def test_a_pause_lasts_as_long_whatever_becomes_of_the_rate(pause, changes, own):
    machine = make(Fixed(10), burst=own)
    machine.pause(0.0, pause)
    for share, rate in sorted(changes):
        machine.learn(rate, 1.0, 0.99 * share * pause, "good")
        assert wait(machine, 0.99 * share * pause) == pytest.approx(pause * (1 - 0.99 * share), rel=1e-3)
    assert admitted(machine, pause * 1.0001 + 1e-6, 1) == 1


def test_to_end_a_pause_brings_back_no_permit_that_was_spent():
    machine = make(Fixed(10))
    admitted(machine, 0.0, 10)
    machine.pause(0.0, 0.5)
    machine.pin(10.0, 0.0)
    assert wait(machine, 0.0) == approx(0.1)


def test_a_shorter_pause_does_not_end_a_longer_one_and_none_is_longer_than_a_day():
    machine = make(Fixed(10))
    machine.pause(0.0, 8.0)
    machine.pause(1.0, 2.0)
    assert wait(machine, 1.0) == approx(7.0)
    machine.pause(1.0, 1e300)
    assert wait(machine, 1.0) == approx(86_400.0)


def test_a_pause_and_what_was_learnt_go_on_in_a_child():
    machine = make(Aimd(start=80))
    machine.throttled(1.0, 0.5, 5.0)
    learn(machine, 1.0)
    machine.after_fork(2.0)
    assert (machine.limit, wait(machine, 2.0)) == (40, approx(4.0))


# --- the server's word ---


def test_the_quota_is_the_highest_rate_until_the_server_says_otherwise():
    machine = make(Cubic())
    machine.follow(0.0, None, None, 600, 60)
    assert (machine.limit, machine.burst) == (10, 10)
    machine.follow(1e6, None, None, 60, 60)
    assert machine.limit == 1
    machine.follow(1e6, None, None, 600, 1)
    assert machine.limit == 600


def test_what_is_left_is_spread_until_the_reset_and_forgotten_then():
    machine = make(Fixed(100))
    machine.follow(0.0, 20, 10.0, None, None)
    assert (machine.limit, machine.rate_at(9.9), machine.rate_at(10.0)) == (2, 2, 100)
    assert admitted(machine, 0.0, 99) == 2
    assert isinstance(machine.admit(10.0), RatePermit)
    assert machine.limit == 100
    assert [change.cause for change in machine.take_changes()] == ["server", "server"]


def test_nothing_left_is_a_pause_until_the_reset():
    machine = make(Fixed(100))
    machine.follow(0.0, 0, 10.0, None, None)
    assert (machine.limit, wait(machine, 0.0)) == (100, approx(10.0))


def test_no_more_is_saved_up_than_is_left():
    machine = make(Fixed(100), burst=50)
    machine.follow(0.0, 3, 1.0, None, None)
    assert admitted(machine, 0.0, 50) == 3


def test_a_wait_knows_that_the_pace_will_end():
    machine = make(Fixed(100), burst=1)
    machine.follow(0.0, 1, 10.0, None, None)
    machine.admit(0.0)
    assert machine.wait_for(0.0, 1, 4) == approx(10.0 + 0.04)
    machine.pause(0.0, 20.0)
    assert machine.wait_for(0.0, 1, 4) == approx(20.0 + 0.04)


@given(
    words=st.lists(
        st.sampled_from([None, 0, 1, 5, -1, math.nan, math.inf, "5", True, 1e300, 1e-300]), min_size=4
    )
)
def test_what_makes_no_sense_breaks_nothing(words):
    machine = make(Fixed(100))
    machine.follow(0.0, *words[:4])
    assert 1e-9 <= machine.limit <= 100
    answer = machine.admit(0.0)
    assert isinstance(answer, RatePermit) or 0 <= answer.retry_after <= 1e9


# --- pinned ---


def test_a_pinned_rate_stays_and_ends_a_pause_and_teaches_nothing():
    machine = make(Aimd(start=80))
    machine.pause(0.0, 50.0)
    machine.pin(5.0, 1.0)
    assert isinstance(machine.admit(1.0), RatePermit)
    machine.throttled(3.0, 2.0, 60.0)
    machine.follow(3.0, 1, 60.0, 60, 60)
    assert learn(machine, 4.0) is None
    assert machine.limit == 5.0
    assert isinstance(machine.admit(4.0), RatePermit)
    machine.pin(None, 4.0)
    assert machine.limit == pytest.approx(1 / 60)
    assert machine.rate_at(63.0) == 1.0


def test_letting_go_of_a_rate_that_was_off_lets_everything_pass_again():
    machine = make(Cubic())
    machine.pin(1.0, 0.0)
    assert admitted(machine, 0.0, 5) == 1
    machine.pin(None, 0.0)
    assert admitted(machine, 0.0, 500) == 500


# --- idleness ---


def test_it_is_idle_while_it_is_as_new_and_again_when_what_it_learnt_is_stale():
    machine = make(Aimd(start=10))
    assert machine.is_idle(0.0)
    machine.admit(0.0)
    assert not machine.is_idle(0.0)
    assert machine.is_idle(1.0)
    machine.throttled(1.0, 0.5, None)
    learn(machine, 1.0)
    assert not machine.is_idle(5.0)
    assert machine.is_idle(5.0 + STALE)
    machine.pin(10.0, 700.0)
    assert not machine.is_idle(1e6)


def test_other_settings_keep_what_was_learnt_and_another_rate_begins_anew():
    source = Aimd(start=10)
    machine = make(source)
    machine.learn(4.0, 1.0, 0.0, "throttled")
    machine.configure(RateLimiterSettings(rate=source, burst=9), 1.0)
    assert (machine.limit, machine.burst, machine.capacity) == (4.0, 9, 9)
    machine.configure(RateLimiterSettings(rate=Fixed(7)), 1.0)
    assert (machine.limit, machine.burst) == (7.0, 7)


# --- any history ---


class AnyHistory(RuleBasedStateMachine):
    """Calls come and end, the rate and the server's word change, and the clock jumps or stands still."""

    def __init__(self):
        super().__init__()
        self.begin_at(0.0)

    def begin_at(self, now):
        self.now = now
        self.machine = make(Aimd(start=10, floor=0.5, ceiling=50), self.now)
        self.since, self.given = self.now, 0
        self.terms = self.bound_of()
        self.held = []

        self.largest = 1

    def bound_of(self):
        return self.machine.limit, self.machine.burst, self.machine.generation  # there and back is a change

    @initialize(now=clocks)
    def whatever_the_clock_says(self, now):
        self.begin_at(now)

    @rule(passed=instants)
    def let_time_pass(self, passed):
        self.now += passed

    @rule()
    def the_clock_goes_back(self):
        self.now -= 0.3

    @rule(tries=st.integers(1, 30))
    def calls_come(self, tries):
        for _ in range(tries):
            permit = self.machine.admit(self.now)
            if isinstance(permit, RatePermit):
                self.held.append((permit, self.now))
                self.count(1)

    @rule(n=st.integers(2, 60))
    def a_call_comes_that_needs_many(self, n):
        permit = self.machine.admit(self.now, n)
        if isinstance(permit, RatePermit):
            self.largest = max(self.largest, n)
            self.held.append((permit, self.now))
            self.count(n)

    @rule(verdict=st.sampled_from([Verdict.GOOD, Verdict.GOOD, Verdict.BAD, Verdict.TIMED_OUT]))
    def a_call_ends(self, verdict):
        if self.held:
            permit, _ = self.held.pop()
            self.machine.settle(permit, verdict, self.now)

    @rule(retry_after=st.sampled_from([None, None, 0.0, 3.0]))
    def a_call_is_throttled(self, retry_after):
        if self.held:
            _, started = self.held.pop()
            self.machine.throttled(self.now, started, retry_after)

    @rule()
    def the_rate_learns(self):
        learn(self.machine, self.now)

    @rule(remaining=st.sampled_from([0, 1, 20]), reset=instants, quota=st.sampled_from([None, 5, 100]))
    def the_server_speaks(self, remaining, reset, quota):
        self.machine.follow(self.now, remaining, reset, quota, 10)

    @rule(rate=st.sampled_from([None, None, 3.0, 40.0]))
    def somebody_pins(self, rate):
        self.machine.pin(rate, self.now)

    def count(self, n):
        now = self.machine._now
        if self.bound_of() != self.terms:
            self.terms, self.since, self.given = self.bound_of(), now, 0
        self.given += n
        rate, burst, _ = self.terms
        assert self.given <= max(burst, self.largest) + rate * (now - self.since + TIE) + 1e-6

    @invariant()
    def the_rate_is_within_its_bounds(self):
        limit = self.machine.rate_at(self.now)
        assert 0.05 <= limit <= 50
        assert self.machine.burst >= 1

    @invariant()
    def nobody_waits_for_ever_and_whoever_waits_is_served(self):
        seconds = self.machine.wait_for(self.now)
        assert 0 <= seconds <= 2_000
        later = copy.deepcopy(self.machine)
        assert isinstance(later.admit(self.now + seconds + 1e-6), RatePermit)


TestAnyHistory = AnyHistory.TestCase
