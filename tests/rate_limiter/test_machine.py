"""Properties of the three rules, explored by Hypothesis, and what other libraries' tests pin."""

import ast
import copy
import math
import random
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from resilience._core.gcra import TIE
from resilience._core.permit import NEVER, Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter import _gcra
from resilience.rate_limiter._gcra import RETURNS_KEPT
from resilience.rate_limiter._machine import FixedWindow, Gcra, RatePermit, SlidingWindow, make_machine
from resilience.rate_limiter._settings import RateLimiterSettings

ALGORITHMS = ["gcra", "sliding_window", "fixed_window"]


def settings(algorithm="gcra", **changes):
    return RateLimiterSettings(algorithm=algorithm, **changes)


def make(algorithm="gcra", now=0.0, **changes):
    return make_machine(settings(algorithm, **changes), now)


def admitted(machine, now, tries):
    return sum(bool(isinstance(machine.admit(now), RatePermit)) for _ in range(tries))


def approx(seconds):
    return pytest.approx(seconds, abs=1e-6)


# --- what holds for all three ---


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("gcra", Gcra), ("sliding_window", SlidingWindow), ("fixed_window", FixedWindow)]
)
def test_the_settings_name_the_machine(algorithm, kind):
    wanted = settings(algorithm, rate=5)
    machine = make_machine(wanted, 0.0)
    assert type(machine) is kind
    assert machine.settings is wanted
    assert machine.capacity == 5
    assert machine.rate == 5.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_new_machine_gives_out_its_capacity_at_once_and_then_says_when_to_return(algorithm):
    machine = make(algorithm, rate=4, per=1.0)
    assert machine.remaining(0.0) == 4
    assert admitted(machine, 0.0, 4) == 4
    assert machine.remaining(0.0) == 0
    assert machine.acquired == 4
    refusal = machine.admit(0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == approx(0.25 if algorithm == "gcra" else 1.0)
    assert machine.acquired == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_li_7_more_than_the_capacity_is_refused_for_ever_and_charges_nothing(algorithm):
    machine = make(algorithm, rate=4)
    assert machine.admit(0.0, 5) is NEVER
    assert machine.reserve(0.0, 5) is NEVER
    assert machine.wait_for(0.0, 5) is None
    assert machine.wait_for(0.0, 4) == 0
    assert machine.remaining(0.0) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_refused_request_charges_nothing(algorithm):
    machine = make(algorithm, rate=4)
    machine.admit(0.0, 3)
    for _ in range(10):
        assert not machine.admit(0.0, 2)
    assert machine.remaining(0.0) == 1
    assert machine.admit(0.0, 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_request_for_several_is_worth_as_many_for_one(algorithm):
    lump, singles = make(algorithm, rate=6), make(algorithm, rate=6)
    lump.admit(0.0, 4)
    assert admitted(singles, 0.0, 4) == 4
    for now in (0.0, 0.1, 0.5, 0.9, 1.0, 1.1):
        assert lump.remaining(now) == singles.remaining(now)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_looking_changes_nothing(algorithm):
    machine = make(algorithm, rate=4)
    machine.admit(0.0, 3)
    for now in (0.0, 0.1, 0.2):
        twin = copy.deepcopy(machine)
        for n in range(6):
            machine.wait_for(now, n, 7)
        machine.remaining(now)
        machine.reset_after(now)
        machine.is_idle(now)
        assert admitted(machine, now, 5) == admitted(twin, now, 5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_idle_again_once_nothing_is_remembered(algorithm):
    machine = make(algorithm, rate=4)
    assert machine.is_idle(0.0)
    assert machine.reset_after(0.0) == 0
    machine.admit(0.0, 4)
    left = machine.reset_after(0.0)
    assert left == approx(1.0)
    assert not machine.is_idle(0.0)
    assert not machine.is_idle(left - 0.001)
    assert machine.is_idle(left)
    assert machine.remaining(left) == 4
    assert machine.reset_after(left + 9.0) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_long_afterwards_there_is_nothing_to_wait_for(algorithm):
    machine = make(algorithm, rate=4)
    machine.admit(0.0, 4)
    assert machine.reset_after(50.0) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ck_3_a_jump_of_the_wall_clock_brings_no_permits(algorithm, monkeypatch):
    machine = make(algorithm, rate=4)
    machine.admit(0.0, 4)
    for name in ("time", "time_ns", "monotonic", "monotonic_ns"):
        monkeypatch.setattr(time, name, lambda: 1e18)
    assert not machine.admit(0.1)


def test_ck_3_nothing_in_the_folder_can_ask_for_the_time():
    for name in ("_rule.py", "_gcra.py", "_windows.py", "_machine.py", "_keyed.py", "_settings.py"):
        tree = ast.parse((Path(_gcra.__file__).parent / name).read_text())
        found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        found |= {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        assert not found & {"time", "random", "threading", "asyncio", "os", "datetime"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ck_4_a_clock_that_goes_back_blocks_nobody_who_had_a_permit_left(algorithm):
    machine = make(algorithm, rate=4, now=1_000.0)
    machine.admit(1_000.0, 2)
    assert machine.remaining(0.0) == 2
    assert machine.admit(0.0)
    assert machine.admit(500.0)
    assert not machine.admit(999.9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_goes_back_and_forth_admits_nothing_extra(algorithm):
    machine = make(algorithm, rate=4, now=10.0)
    assert sum(admitted(machine, now, 4) for now in (10.0, 3.0, 10.0, 0.0, 9.9, 10.0)) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_waits_count_from_the_instant_told_even_if_the_clock_went_back(algorithm):
    machine = make(algorithm, rate=4, now=10.0)
    machine.admit(10.0, 4)
    refusal = machine.admit(7.0)
    assert refusal.retry_after == approx(3.25 if algorithm == "gcra" else 4.0)
    assert machine.wait_for(7.0) == refusal.retry_after
    assert machine.reset_after(7.0) == approx(4.0)
    assert machine.admit(7.0 + refusal.retry_after)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_released_permit_can_be_had_again_once(algorithm):
    machine = make(algorithm, rate=2)
    permit = machine.admit(0.0)
    machine.admit(0.0)
    machine.release(permit, 0.0)
    machine.release(permit, 0.0)
    assert machine.remaining(0.0) == 1
    assert machine.admit(0.0)
    assert not machine.admit(0.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_an_ignored_call_gives_its_permit_back(algorithm):
    machine = make(algorithm, rate=9)
    for verdict in Verdict:
        machine.settle(machine.admit(0.0), verdict, 0.0)
    assert machine.remaining(0.0) == 9 - (len(Verdict) - 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_permits_released_at_once_in_any_order_are_all_there_again(algorithm):
    for seed in range(20):
        machine = make(algorithm, rate=50, now=12_345.678)
        permits = [machine.admit(12_345.678) for _ in range(50)]
        random.Random(seed).shuffle(permits)
        for permit in permits:
            machine.release(permit, 12_345.678)
        assert machine.remaining(12_345.678) == 50


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_permit_released_when_it_is_long_spent_brings_nothing(algorithm):
    machine = make(algorithm, rate=4)
    early = machine.admit(0.0)
    machine.admit(5.0, 4)
    machine.release(early, 5.0)
    assert machine.remaining(5.0) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_a_fork_permits_of_the_parent_bring_nothing_and_what_is_owed_stays(algorithm):
    machine = make(algorithm, rate=4)
    permit = machine.admit(0.0, 3)
    machine.after_fork(0.0)
    machine.release(permit, 0.0)
    assert machine.remaining(0.0) == 1
    assert machine.acquired == 0
    fresh = machine.admit(0.0)
    machine.release(fresh, 0.0)
    assert machine.remaining(0.0) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_a_fork_reservations_of_the_parent_hold_nobody_up(algorithm):
    machine = make(algorithm, rate=4, now=1_000.0)
    for _ in range(20):
        machine.reserve(1_000.0)
    machine.after_fork(1_000.0)
    assert machine.admit(1_000.0).retry_after == approx(0.25 if algorithm == "gcra" else 1.0)
    assert admitted(machine, 1_001.0, 5) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reservation_says_when_and_those_who_come_later_come_after_it(algorithm):
    machine = make(algorithm, rate=2)
    waits = [machine.reserve(0.0).wait for _ in range(6)]
    expected = [0, 0, 0.5, 1.0, 1.5, 2.0] if algorithm == "gcra" else [0, 0, 1.0, 1.0, 2.0, 2.0]
    assert waits == approx(expected)
    assert machine.remaining(0.1) == 0
    refusal = machine.admit(0.5)
    assert 0.5 + refusal.retry_after == approx(2.5 if algorithm == "gcra" else 3.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_wait_behind_others_is_the_wait_of_the_last_reservation(algorithm):
    for ahead in range(12):
        for n in (1, 2, 3):
            machine = make(algorithm, rate=3)
            machine.admit(0.0, 2)
            wait = machine.wait_for(0.25, n, ahead)
            for _ in range(ahead):
                machine.reserve(0.25)
            assert machine.reserve(0.25, n).wait == approx(wait), (ahead, n)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_last_reservation_can_be_cancelled_without_a_trace(algorithm):
    machine = make(algorithm, rate=2)
    machine.admit(0.0, 2)
    first = machine.reserve(0.0)
    for _ in range(10):
        second = machine.reserve(0.0)
        assert second.wait == approx(1.0)
        machine.release(second, 0.1)
    machine.release(first, 0.1)
    assert machine.admit(0.1).retry_after == approx(0.4 if algorithm == "gcra" else 0.9)


def test_a_configured_machine_keeps_its_new_settings():
    for algorithm in ALGORITHMS:
        machine = make(algorithm, rate=2)
        changed = settings(algorithm, rate=8, per=2.0)
        machine.configure(changed, 0.0)
        assert machine.settings is changed
        assert machine.rate == 4.0
        assert machine.capacity == 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_permit_released_twice_does_not_bring_back_one_given_out_in_its_place(algorithm):
    machine = make(algorithm, rate=2)
    machine.admit(0.0)
    permit = machine.admit(0.0)
    machine.release(permit, 0.0)
    assert machine.admit(0.0)
    machine.release(permit, 0.0)
    assert machine.remaining(0.0) == 0


# --- GCRA ---

THROTTLED = [
    # t, n, limited, remaining, reset_after, retry_after (None: none, or never)
    (0, 6, True, 5, 0, None),
    (0, 1, False, 4, 1, None),
    (0, 1, False, 3, 2, None),
    (0, 1, False, 2, 3, None),
    (0, 1, False, 1, 4, None),
    (0, 1, False, 0, 5, None),
    (0, 1, True, 0, 5, 1),
    (3, 1, False, 2, 3, None),
    (3.1, 1, False, 1, 3.9, None),
    (4, 1, False, 1, 4, None),
    (8, 1, False, 4, 1, None),
    (9.5, 1, False, 4, 1, None),
    (9.5, 0, False, 4, 1, None),
    (9.5, 2, False, 2, 3, None),
    (9.5, 5, True, 2, 3, 3),
    (15, 6, True, 5, 0, None),
]


def test_it_decides_as_throttled_does():
    machine = make(rate=1, burst=5)
    for t, n, limited, remaining, reset_after, retry_after in THROTTLED:
        decision = machine.admit(t, n)
        assert isinstance(decision, Refusal) == limited
        assert machine.remaining(t) == remaining
        assert machine.reset_after(t) == approx(reset_after)
        if limited:
            assert decision.retry_after == (None if retry_after is None else approx(retry_after))


def smooth(interval):
    return make(rate=1, per=interval, burst=1)


def test_limiter_1_one_permit_per_interval():
    machine = smooth(0.5)
    assert [machine.reserve(0.0).wait for _ in range(7)] == approx([0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert [machine.reserve(0.8).wait for _ in range(3)] == approx([2.7, 3.2, 3.7])
    assert machine.reserve(11.0).wait == 0
    other = smooth(0.2)
    assert [other.reserve(0.0).wait for _ in range(3)] == approx([0, 0.2, 0.4])


@pytest.mark.parametrize(
    ("interval", "calls"),
    [
        # (t, permits, wait of the last, next one free at), as failsafe-go's tests have it
        (0.2, [(0, 3, 0.4, 0.6), (0.55, 2, 0.25, 1.0), (2.21, 2, 0.2, 2.61)]),
        (0.5, [(0, 7, 3.0, 3.5), (0.8, 3, 3.7, 5.0), (11.0, 1, 0.0, 11.5)]),
    ],
)
def test_a_burst_of_one_spaces_permits_evenly(interval, calls):
    # failsafe-go rounds the last of the first case down to its grid, so that permits may be 0 apart; here never.
    machine = smooth(interval)
    for t, permits, wait, free in calls:
        assert [machine.reserve(t).wait for _ in range(permits)][-1] == approx(wait)
        assert t + machine.wait_for(t) == approx(free)


@pytest.mark.parametrize("burst", [1, 2, 20])
@pytest.mark.parametrize("rate", [0.3, 1, 20, 333])
def test_li_6_the_rate_is_delivered_in_the_long_run(rate, burst):
    machine, now, count = make(rate=rate, burst=burst, now=1e6), 1e6, 0
    while count < 2_000:
        decision = machine.admit(now)
        if isinstance(decision, Refusal):
            now += decision.retry_after
        else:
            count += 1
    assert count / rate == pytest.approx(now - 1e6 + burst / rate, rel=1e-3)


def test_li_6_a_caller_that_polls_gets_the_rate_too():
    machine = make(rate=20, burst=1)
    assert sum(admitted(machine, k / 1_000, 1) for k in range(10_001)) == 201


@given(
    start=st.sampled_from([0.0, 12_345.678, 1e6]),
    burst=st.integers(1, 5),
    rate=st.sampled_from([1.0, 3.0, 10.0, 1_000.0]),
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.5, 0.9, 1.0, 1.1, 3.0]), max_size=60),
)
def test_generated_code_decides_as_admit_does(start, burst, rate, gaps):
    machine, m, now = make(rate=rate, burst=burst, now=start), make(rate=rate, burst=burst, now=start), start
    for gap in gaps:
        now += gap / rate
        m.tat = x = (
            t + 1 if (s := m.tat) <= (t := now * m.rate + m.shift) else s + 1 if s - t <= m.room else s
        )
        decision = machine.admit(now)
        assert isinstance(decision, Refusal) == (s - t > m.room)
        assert m.tat == machine.tat
        if not isinstance(decision, Refusal):
            assert m.permit(x).at == decision.at
            assert m.permit(x).n == 1


def test_what_generated_code_took_can_be_released():
    m = make(rate=4, burst=2)
    m.tat = x = m.tat + 1
    permit = m.permit(x)
    m.release(permit, 0.0)
    assert m.remaining(0.0) == 2


def test_half_a_permit_is_given_back_if_half_of_it_is_spent():
    machine = make(rate=1, burst=4)
    permit = machine.admit(0.0)
    machine.admit(0.0, 3)
    machine.release(permit, 0.5)
    assert machine.admit(0.5, 1)
    assert not machine.admit(0.5, 1)
    assert machine.admit(0.5, 1).retry_after == approx(1.0)


def test_permits_of_one_queue_are_not_given_back_twice():
    # Three permits of one second are worked off together, one after the other. After a second one of
    # them is: whichever two are released then, they do not bring back what the third has spent.
    machine = make(rate=1, burst=10)
    first, second, third = (machine.admit(0.0) for _ in range(3))
    machine.release(first, 0.0)
    assert machine.admit(1.0, 2)
    machine.release(third, 1.0)
    machine.release(second, 1.0)
    assert machine.remaining(1.0) == 8


def test_a_reservation_ahead_of_others_cannot_be_cancelled_to_their_cost():
    machine = make(rate=1, burst=1)
    machine.admit(0.0)
    middle, last = machine.reserve(0.0), machine.reserve(0.0)
    machine.release(middle, 0.1)
    assert machine.reserve(0.2).wait == approx(2.8)
    assert last.wait == approx(2.0)


def test_what_is_remembered_of_permits_given_back_is_bounded():
    machine = make(rate=1, burst=100_000)
    machine.admit(0.0, 1_000)
    spared = machine.admit(0.0)
    for _ in range(3 * RETURNS_KEPT):
        following = machine.admit(0.0)
        machine.release(spared, 0.0)
        spared = following
    assert len(machine._returns) <= RETURNS_KEPT
    assert machine.remaining(0.0) == 100_000 - 1_001


def test_what_is_remembered_of_permits_given_back_is_forgotten_when_it_is_worked_off():
    machine = make(rate=1, burst=10)
    first, second, _ = (machine.admit(0.0) for _ in range(3))
    machine.release(second, 0.0)
    assert machine._returns
    machine.release(first, 0.0)
    assert not machine._returns


def test_a_new_rate_counts_from_now_on():
    machine = make(rate=1, burst=4)
    machine.admit(0.0, 4)
    machine.set_rate(10.0, 2.0)
    assert machine.remaining(2.0) == 2
    assert machine.remaining(2.1) == 3
    assert machine.rate == 10.0
    machine.set_rate(0.5, 2.1)
    assert machine.remaining(3.0) == 3
    assert machine.remaining(4.1) == 4


def test_a_permit_can_still_be_released_at_another_rate():
    machine = make(rate=1, burst=4)
    permit = machine.admit(0.0, 2)
    machine.admit(0.0)
    machine.set_rate(100.0, 0.0)
    machine.release(permit, 0.0)
    assert machine.remaining(0.0) == 3


def test_a_new_burst_leaves_what_could_be_had_and_no_more_than_itself():
    machine = make(rate=1, burst=10)
    machine.admit(0.0, 4)
    machine.set_rate(1.0, 0.0, burst=20)
    assert machine.remaining(0.0) == 6
    assert machine.remaining(100.0) == 20
    machine.set_rate(1.0, 100.0, burst=3)
    assert machine.remaining(100.0) == 3
    assert machine.remaining(200.0) == machine.capacity == 3


def test_a_full_bucket_does_not_fill_up_by_becoming_larger():
    machine = make(rate=1, burst=2)
    machine.set_rate(1.0, 50.0, burst=5)
    assert machine.remaining(50.0) == 2
    assert machine.remaining(53.0) == 5


def test_permits_from_before_a_new_burst_bring_nothing():
    machine = make(rate=1, burst=10)
    permits = [machine.admit(0.0) for _ in range(3)]
    machine.release(permits[1], 0.0)
    machine.configure(settings(rate=1, burst=12), 0.0)
    machine.release(permits[0], 0.0)
    assert machine.remaining(0.0) == 8


RATE, BURST = 4, 3


class GcraRules(RuleBasedStateMachine):
    """
    Any interleaving of requests, reservations, returns and waiting keeps the bound.

    The model is a list of when which permits are used; those given back are struck out. Times and
    permits are fractions of two, so that neither the model nor the machine rounds.
    """

    permits = Bundle("permits")

    @initialize(start=st.sampled_from([0.0, 1024.5]))
    def begin(self, start):
        self.now = start
        self.machine = make(rate=RATE, burst=BURST, now=start)
        self.used = []

    @rule(quarters=st.sampled_from([0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 3.25, 5.0]))
    def wait(self, quarters):
        self.now += quarters / RATE

    @rule(target=permits, n=st.integers(1, BURST))
    def admit(self, n):
        wait = self.machine.wait_for(self.now, n)
        decision = self.machine.admit(self.now, n)
        if isinstance(decision, Refusal):
            assert decision.retry_after == wait > 0
            assert self.admits_after(wait, n)
            assert not self.admits_after(wait - 1e-9, n)
            # As strict as if nothing had ever been given back, but never stricter.
            owed = workload([(at, k) for at, k, _ in self.used], self.machine.rate, self.now)
            assert owed + n > BURST
            return None
        assert wait == 0
        return self.use(decision, self.now, n)

    @rule(target=permits, n=st.integers(1, BURST))
    def reserve(self, n):
        wait = self.machine.wait_for(self.now, n)
        permit = self.machine.reserve(self.now, n)
        assert permit.wait == wait
        due = round((self.now + wait) * 1024 * 1024) / 1024 / 1024  # what a tie took off
        return self.use(permit, due, n)

    @rule(permit=consumes(permits))
    def release(self, permit):
        if permit is None:
            return
        token, entry = permit
        was = self.machine.remaining(self.now)
        self.machine.release(token, self.now)
        assert self.machine.remaining(self.now) >= was
        entry[2] = False

    @rule(rate=st.sampled_from([RATE / 2, RATE, 2 * RATE]))
    @precondition(lambda self: all(at <= self.now for at, _, _ in self.used))
    def change_the_rate(self, rate):
        # Seconds are what the model counts in: it is told of the change by stretching its past.
        factor = self.machine.rate / rate
        self.machine.set_rate(rate, self.now)
        for entry in self.used:
            entry[0] = self.now - (self.now - entry[0]) * factor

    def use(self, permit, at, n):
        entry = [at, n, True]
        self.used.append(entry)
        return permit, entry

    def admits_after(self, seconds, n):
        return not isinstance(copy.deepcopy(self.machine).admit(self.now + seconds, n), Refusal)

    @invariant()
    def keeps_the_bound(self):
        kept = [(at, n) for at, n, alive in self.used if alive]
        assert workload(sorted(kept), self.machine.rate) <= BURST

    @invariant()
    def remembers_no_more_than_it_must(self):
        assert len(self.machine._returns) <= len(self.used)


def workload(used, rate, now=None):
    """
    What of *used* is not worked off at *now*, in permits; without *now*, the most there ever is.

    No window holds more than burst + rate * w exactly if the most is never above burst.
    """
    tat, most = -math.inf, 0.0
    for at, n in used:
        tat = max(tat, at * rate) + n
        most = max(most, tat - at * rate)
    return most if now is None else max(0.0, tat - now * rate)


TestGcra = GcraRules.TestCase


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    start=st.one_of(st.sampled_from([0.0, 0.1, 12_345.678, 1e6]), st.floats(0, 1e6)),
    per=st.sampled_from([0.1, 0.3, 1 / 3, 1.0, 60.0, 86_400.0]),
    gaps=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_whatever_the_clock_reads_the_wait_is_exact(algorithm, start, per, gaps):
    machine, now = make(algorithm, rate=3, per=per, now=start), start
    for gap in gaps:
        now += gap * per
        decision = machine.admit(now)
        if isinstance(decision, Refusal):
            assert not copy.deepcopy(machine).admit(now + decision.retry_after - 1e-8)
            assert copy.deepcopy(machine).admit(now + decision.retry_after)


def test_returns_that_are_remembered_together_give_back_what_is_due_ahead_and_no_more_between(monkeypatch):
    def released(*order, at):
        machine = make(rate=1, burst=20)
        permits = [machine.admit(0.0, n) for n in (5, 1, 1, 1, 1, 1)]  # the last one stays the last
        for position in order[:-1]:
            machine.release(permits[position], 0.0)
        was = machine.tat - machine._clock(at)
        machine.release(permits[order[-1]], at)
        return was - (machine.tat - machine._clock(at))

    for kept in (1, 2, RETURNS_KEPT):
        monkeypatch.setattr(_gcra, "RETURNS_KEPT", kept)
        assert released(1, 2, 3, 0, at=0.0) == 5
        assert released(1, 2, 3, 0, at=2.0) == 3
        assert released(1, 3, 2, at=0.0) == 1
        assert released(1, 3, 2, at=6.0) == 0


# --- sliding window ---


def test_a_sliding_window_replays_the_vectors_of_limits():
    machine = make("sliding_window", rate=10, per=120.0)
    assert machine.admit(0.0, 11) is NEVER
    assert machine.admit(0.0, 5)
    assert machine.remaining(0.0) == 5
    assert not machine.admit(0.0, 6)
    machine = make("sliding_window", rate=10, per=1.0)
    machine.admit(0.0, 10)
    assert not machine.admit(0.0)
    assert machine.remaining(0.0) == 0
    assert machine.remaining(2.0) == 10


def test_a_sliding_window_holds_where_a_counter_would_admit_twice_as_many():
    # All permits at the very end of a window: a counter releases them as its estimate fades.
    machine = make("sliding_window", rate=100, per=1.0)
    assert admitted(machine, 0.999, 100) == 100
    assert sum(admitted(machine, 1.0 + k / 1_000, 1) for k in range(999)) == 0
    assert admitted(machine, 1.999, 101) == 100


def test_three_tenths_of_a_second_are_three_tenths_of_a_second():
    for algorithm in ("sliding_window", "fixed_window"):
        machine = make(algorithm, rate=1, per=0.3)
        machine.admit(0.1)
        assert machine.admit(0.1 + 0.1 + 0.1 + 0.1), algorithm
        assert not machine.admit(0.6), algorithm


def test_a_window_of_a_microsecond_is_shortened_by_less_than_a_thousandth():
    machine = make("sliding_window", rate=1, per=1e-6)
    machine.admit(0.0)
    assert not machine.admit(0.999e-6)
    assert machine.admit(1e-6)


def test_another_limit_counts_what_was_given_out_before():
    machine = make("sliding_window", rate=4)
    machine.admit(0.0, 3)
    machine.configure(settings("sliding_window", rate=2), 0.5)
    assert machine.remaining(0.5) == 0
    assert machine.admit(0.5).retry_after == approx(0.5)
    machine.configure(settings("sliding_window", rate=5, per=4.0), 0.5)
    assert machine.remaining(0.5) == 2
    machine.admit(0.5, 2)
    assert machine.admit(1.5, 3).retry_after == approx(2.5)
    assert machine.admit(4.0, 3)


def test_a_sliding_window_is_as_new_when_its_last_permit_is_forgotten():
    machine = make("sliding_window", rate=4, per=2.0)
    machine.admit(0.0)
    machine.admit(1.5)
    assert machine.reset_after(1.5) == approx(2.0)


def test_a_longer_window_does_not_remember_what_was_forgotten():
    machine = make("sliding_window", rate=4)
    machine.admit(0.0, 3)
    machine.configure(settings("sliding_window", rate=4, per=60.0), 1.5)
    assert machine.remaining(1.5) == 4


def test_a_permit_released_in_the_middle_leaves_no_trace():
    machine = make("sliding_window", rate=3)
    machine.admit(0.0)
    middle = machine.admit(0.25, 2)
    machine.release(middle, 0.5)
    machine.admit(0.5)
    assert machine.remaining(0.5) == 1
    second = machine.admit(0.5)
    third = machine.admit(1.0)
    machine.release(second, 1.0)
    machine.release(third, 1.0)
    assert machine.remaining(1.0) == 2


N, PER = 3, 1.0


class SlidingRules(RuleBasedStateMachine):
    """Any interleaving keeps the window, and refuses only what would break it."""

    permits = Bundle("permits")

    @initialize(start=st.sampled_from([0.0, 1024.5]))
    def begin(self, start):
        self.now = start
        self.machine = make("sliding_window", rate=N, per=PER, now=start)
        self.used = []

    @rule(seconds=st.sampled_from([0.125, 0.25, 0.5, 0.875, 1.0, 1.125, 2.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=permits, n=st.integers(1, N))
    def admit(self, n):
        decision = self.machine.admit(self.now, n)
        fits = self.now >= self.last() and self.within(self.now) + n <= N
        assert isinstance(decision, RatePermit) == fits
        if fits:
            return self.use(decision, self.now, n)
        again = copy.deepcopy(self.machine)
        assert not again.admit(self.now + decision.retry_after - 1e-9, n)
        assert again.admit(self.now + decision.retry_after, n)
        return None

    @rule(target=permits, n=st.integers(1, N))
    def reserve(self, n):
        soonest = max(self.now, self.last())
        candidates = [soonest, *(at + PER for at, k in self.used if k and at + PER > soonest)]
        due = min(at for at in candidates if self.within(at) + n <= N)
        permit = self.machine.reserve(self.now, n)
        assert permit.wait == pytest.approx(due - self.now, abs=1e-5)  # each window is a tie shorter
        return self.use(permit, due, n)

    @rule(permit=consumes(permits))
    def release(self, permit):
        if permit is not None:
            token, entry = permit
            self.machine.release(token, self.now)
            if entry[0] + PER > self.now:
                entry[1] = 0

    @invariant()
    def keeps_the_window(self):
        for at, _ in self.used:
            assert self.within(at) <= N

    @invariant()
    def tells_what_is_left(self):
        fits = self.now >= self.last()
        assert self.machine.remaining(self.now) == (N - self.within(self.now) if fits else 0)

    def use(self, permit, at, n):
        entry = [at, n]
        self.used.append(entry)
        return permit, entry

    def within(self, at):
        return sum(n for used, n in self.used if at - PER < used <= at)

    def last(self):
        return max((at for at, n in self.used if n), default=-math.inf)


TestSlidingWindow = SlidingRules.TestCase


# --- fixed window ---


def test_a_fixed_window_replays_the_vectors_of_gubernator():
    machine = make("fixed_window", rate=2, per=0.005)
    assert [machine.admit(0.0) and machine.remaining(0.0) for _ in range(2)] == [1, 0]
    assert machine.admit(0.1)
    assert machine.remaining(0.1) == 1
    machine = make("fixed_window", rate=10, per=30.0)
    assert machine.remaining(0.0) == 10
    machine.admit(0.0)
    assert machine.remaining(0.0) == 9
    assert (
        machine.admit(0.0, 100) is NEVER
    )  # gubernator can be told to empty the bucket; a refusal charges nothing here
    assert machine.remaining(0.0) == 9


def test_a_window_opens_with_its_first_permit():
    machine = make("fixed_window", rate=2)
    machine.admit(0.75)
    assert machine.admit(1.5)
    assert machine.admit(1.5).retry_after == approx(0.25)
    assert admitted(machine, 1.75, 3) == 2
    assert machine.admit(1.75).retry_after == approx(1.0)


def test_a_full_window_that_is_over_is_followed_by_one_that_opens_with_its_first_permit():
    machine = make("fixed_window", rate=2)
    machine.admit(0.0, 2)
    assert admitted(machine, 1.5, 3) == 2
    assert machine.admit(2.25).retry_after == approx(0.25)


def test_waits_are_counted_in_windows_whether_one_is_open_or_not():
    machine = make("fixed_window", rate=3, per=2.0)
    assert [machine.wait_for(10.0, 1, ahead) for ahead in (0, 2, 3, 6)] == approx([0, 0, 2, 4])
    assert machine.is_idle(10.0)
    machine.reserve(10.0, 3)
    assert [machine.reserve(10.5, 2).wait for _ in range(3)] == approx([1.5, 3.5, 5.5])
    assert machine.reset_after(10.5) == approx(7.5)
    assert machine.wait_for(10.5, 2) == approx(7.5)


def test_permits_of_a_later_window_can_be_given_back_however_they_were_taken():
    w = make("fixed_window", rate=3)
    for now in (0.0, 2.0, 4.0):
        w.admit(now, 2)
        w.count += 1
        w.release(w.permit(), now)
        assert w.remaining(now) == 1
        w.admit(now)
        booked = w.reserve(now)
        w.release(booked, now)
        assert w.remaining(now + 1.0) == 3


def test_two_windows_may_meet_with_twice_the_limit():
    machine = make("fixed_window", rate=2)
    machine.admit(0.0)
    assert admitted(machine, 0.999, 2) == 1
    assert admitted(machine, 1.0, 3) == 2


def test_generated_code_takes_permits_of_the_open_window_as_admit_does():
    w = make("fixed_window", rate=2)
    assert not (0.0 < w.end)
    w.admit(0.0)
    assert 0.5 < w.end
    assert w.count < w.limit
    w.count += 1
    permit = w.permit()
    assert not w.admit(0.5)
    w.release(permit, 0.5)
    assert w.remaining(0.5) == 1


def test_a_request_that_does_not_fit_skips_to_the_next_window():
    machine = make("fixed_window", rate=3)
    machine.admit(0.0, 2)
    skipping = machine.reserve(0.0, 2)
    assert skipping.wait == approx(1.0)
    assert machine.remaining(0.0) == 0
    assert machine.remaining(1.0) == 1
    machine.release(skipping, 1.0)
    assert machine.remaining(1.0) == 3


def test_reserved_windows_follow_at_once_and_end_by_themselves():
    machine = make("fixed_window", rate=1)
    assert [machine.reserve(0.25).wait for _ in range(4)] == approx([0, 1, 2, 3])
    assert machine.reset_after(0.25) == approx(4.0)
    assert machine.admit(2.5).retry_after == approx(1.75)
    assert machine.admit(9.0)
    assert machine.admit(9.5).retry_after == approx(0.5)


def test_a_place_in_a_window_with_reservations_behind_it_stays_taken():
    machine = make("fixed_window", rate=2)
    first = machine.admit(0.0)
    machine.admit(0.0)
    machine.reserve(0.0)
    machine.release(first, 0.5)
    assert machine.remaining(0.5) == 0
    assert machine.remaining(1.0) == 1


def test_a_permit_of_a_window_that_is_over_brings_nothing():
    machine = make("fixed_window", rate=2)
    permit = machine.admit(0.0)
    machine.admit(1.5, 2)
    machine.release(permit, 1.5)
    assert machine.remaining(1.5) == 0


def test_a_window_whose_permits_were_all_given_back_still_ends():
    machine = make("fixed_window", rate=2)
    machine.release(machine.admit(0.0), 0.5)
    assert machine.is_idle(0.5)
    assert admitted(machine, 1.5, 3) == 2
    assert machine.admit(1.5).retry_after == approx(1.0)


def test_the_open_window_goes_on_with_another_limit():
    machine = make("fixed_window", rate=3)
    permit = machine.admit(0.0, 2)
    machine.configure(settings("fixed_window", rate=4, per=5.0), 0.5)
    assert machine.remaining(0.5) == 2
    machine.release(permit, 0.5)
    assert machine.remaining(0.5) == 2
    assert machine.remaining(1.0) == 4
    assert admitted(machine, 1.0, 5) == 4
    assert machine.admit(1.0).retry_after == approx(5.0)


def test_a_lower_limit_does_not_push_what_was_given_out_into_the_next_window():
    machine = make("fixed_window", rate=3)
    machine.admit(0.0, 3)
    machine.configure(settings("fixed_window", rate=2), 0.5)
    assert machine.remaining(0.5) == 0
    assert machine.remaining(1.0) == 2
    machine.admit(1.0)
    machine.configure(settings("fixed_window", rate=1), 2.5)  # after that window
    assert machine.remaining(2.5) == 1


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_reservations_ahead_still_count_with_another_limit(limit):
    machine = make("fixed_window", rate=3)
    machine.admit(0.0, 3)
    machine.reserve(0.0)
    machine.configure(settings("fixed_window", rate=limit), 0.5)
    assert machine.remaining(0.5) == 0
    assert machine.remaining(1.0) == limit - 1


def test_a_window_that_was_reserved_and_is_open_ends_when_it_was_to_end():
    machine = make("fixed_window", rate=3)
    machine.admit(0.0, 3)
    machine.reserve(0.0)
    machine.configure(settings("fixed_window", rate=3, per=10.0), 1.5)
    assert machine.remaining(1.5) == 2
    assert machine.remaining(2.0) == 3


def test_a_reservation_whose_window_is_open_can_be_released_even_if_it_is_not_the_last():
    machine = make("fixed_window", rate=2)
    machine.admit(0.0, 2)
    first, _ = machine.reserve(0.0), machine.reserve(0.0)
    machine.release(first, 1.25)
    assert machine.remaining(1.25) == 1


def test_another_length_leaves_permits_returnable():
    machine = make("fixed_window", rate=3, per=1.0)
    permit = machine.admit(0.0, 2)
    machine.configure(settings("fixed_window", rate=3, per=2.0), 0.5)
    machine.release(permit, 0.5)
    assert machine.remaining(0.5) == 3


class FixedRules(RuleBasedStateMachine):
    """Any interleaving keeps every window within the limit, and any time within twice of it."""

    permits = Bundle("permits")

    @initialize(start=st.sampled_from([0.0, 1024.5]))
    def begin(self, start):
        self.now = start
        self.machine = make("fixed_window", rate=N, per=PER, now=start)
        self.used = []

    @rule(seconds=st.sampled_from([0.125, 0.25, 0.5, 0.875, 1.0, 1.125, 2.0, 3.5]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=permits, n=st.integers(1, N))
    def admit(self, n):
        wait = self.machine.wait_for(self.now, n)
        decision = self.machine.admit(self.now, n)
        if isinstance(decision, Refusal):
            assert decision.retry_after == wait > 0
            again = copy.deepcopy(self.machine)
            assert not again.admit(self.now + wait - 1e-9, n)
            assert again.admit(self.now + wait, n)
            return None
        assert wait == 0
        return self.use(decision, self.now, n)

    @rule(target=permits, n=st.integers(1, N))
    def reserve(self, n):
        permit = self.machine.reserve(self.now, n)
        return self.use(permit, round((self.now + permit.wait) * 1024) / 1024, n)

    @rule(permit=consumes(permits))
    def release(self, permit):
        if permit is not None:
            token, entry = permit
            self.machine.release(token, self.now)
            entry[1] = 0

    def use(self, permit, at, n):
        entry = [at, n, (permit.at - 1) // N]
        self.used.append(entry)
        return permit, entry

    @invariant()
    def keeps_every_window(self):
        windows = {}
        for at, n, window in self.used:
            if n:
                windows.setdefault(window, []).append((at, n))
        for uses in windows.values():
            assert sum(n for _, n in uses) <= N
            assert max(uses)[0] - min(uses)[0] < PER
        assert list(windows) == sorted(windows)

    @invariant()
    def keeps_twice_the_limit_in_any_time(self):
        for at, _, _ in self.used:
            assert sum(n for used, n, _ in self.used if at - PER < used <= at) <= 2 * N

    @invariant()
    def what_is_left_can_be_had(self):
        left = self.machine.remaining(self.now)
        assert admitted(copy.deepcopy(self.machine), self.now, N + 1) == left


TestFixedWindow = FixedRules.TestCase


def test_a_bound_is_a_bound_in_exact_arithmetic():
    # What the docstring of the arithmetic promises, for a schedule that is as unlucky as can be.
    machine, now, used = make(rate=1 / 3, burst=2, now=1e6), 1e6, []
    for _ in range(300):
        decision = machine.admit(now)
        if isinstance(decision, Refusal):
            now += decision.retry_after
        else:
            used.append(Fraction(now))
    slack = Fraction(TIE) + 4 * Fraction(math.ulp(now))
    for count, at in enumerate(used, 1):
        assert count <= 2 + Fraction(1 / 3) * (at - used[0] + slack)
