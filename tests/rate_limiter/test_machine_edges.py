"""The machines at the ends of their rules: a tie, a clock that goes back, a default, a generation."""

import math

import pytest

from resilience._core.gcra import TIE
from resilience.outcome import Verdict
from resilience.rate_limiter._adaptive import STALE, AdaptiveGcra, Change
from resilience.rate_limiter._machine import make_machine
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.rate_limiter._windows import _exact
from resilience.rates import Aimd, Fixed

ALGORITHMS = ["gcra", "sliding_window", "fixed_window"]


def settings(algorithm="gcra", **changes):
    return RateLimiterSettings(algorithm=algorithm, **changes)


def make(algorithm="gcra", now=0.0, **changes):
    return make_machine(settings(algorithm, **changes), now)


def adaptive(source, now=0.0):
    return AdaptiveGcra(RateLimiterSettings(rate=source), now)


def approx(seconds):
    return pytest.approx(seconds, abs=1e-6)


# --- what holds for all three ---


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_permit_is_asked_for_unless_more_are(algorithm):
    machine = make(algorithm, rate=3)
    assert machine.admit(0.0).n == 1
    assert machine.reserve(0.0).n == 1
    assert machine.wait_for(0.0) == 0.0  # the third, and there is no fourth
    assert machine.wait_for(0.0, 2) > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_can_be_had_at_the_latest_instant_seen_does_not_wait_if_the_clock_goes_back(algorithm):
    machine = make(algorithm, rate=4)
    machine.remaining(10.0)
    assert machine.reset_after(9.0) == 0.0
    assert machine.wait_for(9.0) == 0.0
    assert [machine.reserve(9.0).wait for _ in range(4)] == [0.0] * 4


@pytest.mark.parametrize("begin_anew", ["burst", "fork"])
def test_a_permit_that_generated_code_took_belongs_to_the_generation_in_which_it_was_taken(begin_anew):
    machine = make(rate=1, burst=2)
    former = machine.admit(0.0).at
    if begin_anew == "burst":
        machine.configure(settings(rate=1, burst=10), 0.5)
    else:
        machine.after_fork(0.5)
    owed = machine.reset_after(0.5)
    machine.release(machine.permit(former), 0.5)
    assert machine.reset_after(0.5) == owed
    machine.release(machine.permit(machine.admit(0.5).at), 0.5)
    assert machine.reset_after(0.5) == approx(owed)


def test_of_permits_taken_at_a_tie_none_comes_to_life_again_after_a_fork():
    machine = make(rate=1, burst=1)
    machine.admit(0.0)
    early = machine.admit(1.0 - TIE / 2).at
    machine.reserve(1.0 - TIE / 2)
    machine.after_fork(1.0 - TIE / 2)
    owed = machine.reset_after(1.0 - TIE / 2)
    machine.release(machine.permit(early), 1.0 - TIE / 2)
    assert machine.reset_after(1.0 - TIE / 2) == owed


@pytest.mark.parametrize("algorithm", ["gcra", "fixed_window"])
def test_no_change_of_the_burst_and_no_fork_brings_an_earlier_permit_to_life_again(algorithm):
    machine = make(algorithm, rate=4)
    generations = [machine.generation]
    permits = [machine.admit(0.0)]
    for burst in (5, 6, 7):
        machine.configure(settings(algorithm, rate=burst), 0.0)
        generations.append(machine.generation)
        permits.append(machine.admit(0.0) or machine.reserve(0.0))
    machine.after_fork(0.0)
    generations.append(machine.generation)
    assert len(set(generations)) == 5
    before = machine.remaining(0.0)
    for permit in permits:
        machine.release(permit, 0.0)
    assert machine.remaining(0.0) == before


# --- GCRA ---


def test_a_shortfall_of_just_a_tie_counts_as_none():
    machine = make(rate=1, burst=1)
    machine.admit(0.0)
    assert machine.reset_after(1 - TIE) == 0.0
    assert machine.wait_for(1 - TIE) == 0.0
    assert machine.wait_for(0.5) == 0.0  # it counts from the latest instant seen
    assert machine.reserve(0.5).wait == 0.0


def test_while_a_reservation_waits_only_the_last_permit_can_be_given_back():
    machine = make(rate=1, burst=4)
    *_, fourth, reserved = (machine.reserve(0.0) for _ in range(5))
    assert reserved.wait == approx(1.0)
    machine.release(fourth, 0.5)  # the reservation is half a permit away
    assert machine.wait_for(0.5) == approx(1.5)


def test_once_no_reservation_waits_any_permit_can_be_given_back():
    machine = make(rate=1, burst=4)
    *_, fourth, _ = (machine.reserve(0.0) for _ in range(5))
    machine.release(fourth, 1 - TIE)  # the reservation is but a tie away, which counts as nothing
    assert machine.remaining(1 - TIE) == 1


# --- windows ---


def test_a_sliding_window_is_over_when_its_last_permit_is_forgotten():
    machine = make("sliding_window", rate=4)
    for now in (0.0, 0.25, 0.5):
        machine.admit(now)
    assert machine.reset_after(0.5) == approx(1.0)
    assert machine.reset_after(0.75) == approx(0.75)


# --- a rate that changes ---


def test_a_reservation_at_the_very_end_of_the_window_makes_a_sample_due():
    machine = adaptive(Aimd(start=10))
    machine.reserve(math.nextafter(1.0, 0.0))
    assert not machine.is_due
    machine.reserve(1.0)
    assert machine.is_due


def test_all_permits_of_a_reservation_are_measured_when_they_are_given_out():
    machine = adaptive(Fixed(10))
    assert machine.reserve(0.5).n == 1
    machine.reserve(0.5, 6)
    sample = machine.take_sample(1.0)
    assert sample.sent == pytest.approx(0.8 * 7)  # the weight of the latest bucket
    later = adaptive(Fixed(10), 100.0)
    later.reserve(100.0, 2)
    assert later.watch.meter.began == 100.0
    later.reserve(103.0, 2)
    assert later.watch.meter.began == 103.0


def test_settings_with_another_rate_go_on_at_that_one_and_say_so():
    first, second = Fixed(10), Fixed(20)
    machine = adaptive(first)
    machine.configure(RateLimiterSettings(rate=second), 0.0)
    assert machine.source is second
    assert machine.take_changes() == [Change(10.0, 20.0, "reconfigured")]
    machine.configure(RateLimiterSettings(rate=second), 0.0)
    assert machine.take_changes() == []


def test_what_was_learnt_is_worth_keeping_for_ten_minutes_without_a_call():
    machine = adaptive(Aimd(start=10), 1e6)
    machine.admit(1e6)
    machine.learn(5.0, 1.0, 1e6, "throttled")
    for seconds, is_idle in ((60.0, False), (STALE - 1, False), (STALE, True), (STALE + 1, True)):
        assert machine.is_idle(1e6 + seconds) is is_idle


def test_a_call_that_was_ignored_gives_its_permit_back_and_was_not_sent():
    machine = adaptive(Fixed(10))
    permit = machine.admit(0.0, 3)
    machine.settle(permit, Verdict.IGNORED, 0.0)
    assert machine.remaining(0.0) == 10
    assert machine.take_sample(1.0).sent == 0.0


@pytest.mark.parametrize(
    "step",
    [
        lambda machine: machine.admit(1.0),
        lambda machine: machine.reserve(1.0),
        lambda machine: machine.wait_for(1.0),
        lambda machine: machine.settle(machine.permit(0.0), Verdict.GOOD, 1.0),
        lambda machine: machine.throttled(1.0, -math.inf, None),
    ],
    ids=["admit", "reserve", "wait_for", "settle", "throttled"],
)
def test_whatever_happens_at_the_very_end_of_the_window_makes_a_sample_due(step):
    machine = adaptive(Aimd(start=10))
    assert machine.is_due is False
    step(machine)
    assert machine.is_due is True
    assert machine.take_sample(1.0) is not None
    assert machine.is_due is False


def test_a_throttled_call_makes_a_sample_due_at_once():
    machine = adaptive(Aimd(start=10))
    machine.throttled(0.1, 0.05, None)
    assert machine.is_due is True


def test_all_good_calls_and_all_permits_are_in_the_sample():
    machine = adaptive(Aimd(start=10))
    permits = [machine.admit(0.5, n) for n in (1, 2, 4)]
    for permit in permits:
        machine.settle(permit, Verdict.GOOD, 0.6)
    sample = machine.take_sample(1.0)
    assert (sample.good, sample.sent) == (3, pytest.approx(0.8 * 7))


def test_one_permit_is_waited_for_unless_more_are_at_a_rate_that_changes():
    machine = adaptive(Fixed(10))
    machine.admit(0.0, 9)
    assert machine.wait_for(0.0) == 0.0
    assert machine.wait_for(0.0, 2) == approx(0.1)


def test_a_change_of_the_rate_is_told_with_its_cause():
    machine = adaptive(Fixed(10))
    machine.pin(5.0, 0.0)
    assert machine.is_due is True
    assert machine.take_changes() == [Change(10.0, 5.0, "pinned")]
    machine.pin(None, 0.0)
    assert machine.take_changes() == [Change(5.0, 10.0, "unpinned")]
    machine.learn(20.0, 1.0, 0.0, "good")
    assert machine.take_changes() == [Change(10.0, 20.0, "good")]
    machine.follow(0.0, None, None, 2, 1.0)
    assert machine.take_changes() == [Change(20.0, 2.0, "server")]


@pytest.mark.parametrize("window", [None, 0, -1.0, math.nan, math.inf, "1", True])
def test_a_window_that_is_none_changes_nothing(window):
    machine = adaptive(Fixed(10))
    machine.learn(5.0, window, 0.5, "good")
    assert (machine.watch.window, machine.watch.end, machine.limit) == (1.0, 1.0, 5.0)


@pytest.mark.parametrize("rate", [None, 0, -1.0, math.nan, -math.inf, "5", True])
def test_a_rate_that_is_none_changes_nothing(rate):
    machine = adaptive(Fixed(10))
    machine.learn(rate, 1.0, 0.5, "good")
    assert machine.limit == 10.0
    assert machine.take_changes() == []


@pytest.mark.parametrize("rate", [0.5, 1, 20.0, math.inf])
def test_every_other_rate_is_taken(rate):
    machine = adaptive(Fixed(10))
    machine.learn(rate, 1.0, 0.5, "good")
    assert machine.limit == rate


def test_another_window_begins_at_once_and_the_same_one_goes_on():
    machine = adaptive(Fixed(10))
    machine.watch.good = 7
    machine.learn(10.0, 1.0, 0.5, "good")
    assert (machine.watch.good, machine.watch.end) == (7, 1.0)
    machine.learn(10.0, 0.25, 0.5, "good")
    assert (machine.watch.window, machine.watch.good, machine.watch.end) == (0.25, 0, 0.75)
    machine.admit(0.75)
    assert machine.is_due


@pytest.mark.parametrize(
    "remaining, reset_after", [(5, 0.0), (None, 10.0), (5, None), (-1, 10.0), (math.nan, 10.0)]
)
def test_what_the_server_does_not_say_in_full_takes_nothing_that_was_saved_up(remaining, reset_after):
    machine = adaptive(Fixed(10))
    machine.follow(0.0, remaining, reset_after, None, None)
    assert machine.remaining(0.0) == 10


def test_a_pinned_rate_keeps_what_was_saved_up_whatever_is_left():
    machine = adaptive(Fixed(10))
    machine.pin(10.0, 0.0)
    machine.follow(0.0, 2, 10.0, None, None)
    assert machine.remaining(0.0) == 10


def test_one_request_left_may_be_made_at_once_and_none_left_may_not():
    one, none = adaptive(Fixed(10)), adaptive(Fixed(10))
    one.follow(0.0, 1, 10.0, None, None)
    none.follow(0.0, 0.5, 10.0, None, None)
    assert one.admit(0.0)
    assert none.admit(0.0).retry_after == approx(10.0)


def test_a_pace_is_over_and_forgotten_at_its_very_end():
    machine = adaptive(Fixed(10))
    machine.follow(0.0, 5, 10.0, None, None)
    assert machine.limit == 0.5
    machine.admit(10.0)
    assert machine.limit == 10.0
    assert machine.terms.is_empty


# --- windows whose numbers are not round ---


def test_a_reserved_window_is_open_from_the_very_end_of_the_one_before():
    machine = make("fixed_window", rate=2)
    machine.reserve(0.0, 2)
    machine.reserve(0.0)
    end = machine.end
    assert machine.remaining(end) == 1
    assert machine.end == approx(2.0)


@pytest.mark.parametrize(
    "now, due",
    [(1.0, 3.0), (-85706.97016007802, -3.6915283609372604), (-2.932237649830366, 1.3885390633048602)],
)
def test_whoever_waits_as_told_does_not_come_early_and_no_later_than_rounding_asks(now, due):
    seconds = _exact(due, now)
    assert now + seconds >= due
    assert seconds in {due - now, due - now + math.ulp(max(abs(now), due - now))}
    assert seconds == due - now or now + (due - now) < due
