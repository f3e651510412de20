"""Properties of the bulkhead, explored by Hypothesis, and what a limit that learns is told."""

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resilience._core.permit import NEVER, Refusal
from resilience.concurrency_limiter import _machine
from resilience.concurrency_limiter._limit import Sample, terms_of
from resilience.concurrency_limiter._machine import LONGEST_REST, Bulkhead, Slot
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.outcome import Verdict


def make(limit=2, now=0.0):
    return Bulkhead(ConcurrencyLimiterSettings(limit=limit), now)


class Learning:
    """A limit in the fewest lines: it halves when calls are throttled or time out, else it grows by one."""

    def __init__(self, limit=20, window=1.0):
        self.limit = limit
        self.window = window

    def on_sample(self, sample):
        if sample.throttled or sample.timed_out:
            self.limit = max(1, self.limit // 2)
        elif 2 * sample.peak >= self.limit:
            self.limit += 1


def learn(bulkhead, now):
    """What the policy does after a call has ended."""
    sample = bulkhead.take_sample(now)
    if sample is not None:
        bulkhead.source.on_sample(sample)
        bulkhead.resize(bulkhead.source.limit)
    return sample


def test_it_admits_up_to_the_limit_and_refuses_without_knowing_until_when():
    bulkhead = make(limit=2)
    slots = [bulkhead.admit(0.0), bulkhead.admit(0.0)]
    assert bulkhead.admit(0.0) is NEVER
    assert (bulkhead.inflight, bulkhead.limit, bulkhead.free) == (2, 2, 0)
    bulkhead.release(slots[0], 0.0)
    assert bulkhead.free == 1
    assert bulkhead.admit(0.0)
    assert bulkhead.cell.started == 3


def test_without_shares_no_place_is_anybodys_own():
    assert not make(limit=2).has_own_room("live")


def test_it_replays_the_vector_of_netflix():
    bulkhead = make(limit=10)
    slots = [slot for slot in (bulkhead.admit(0.0) for _ in range(10)) if slot]
    assert len(slots) == bulkhead.inflight == 10
    assert not bulkhead.admit(0.0)
    bulkhead.release(slots.pop(), 0.0)
    assert bulkhead.inflight == 9
    assert bulkhead.admit(0.0)


def test_the_limit_is_twenty_by_default():
    bulkhead = Bulkhead(ConcurrencyLimiterSettings(), 0.0)
    assert sum(isinstance(bulkhead.admit(0.0), Slot) for _ in range(30)) == 20


def test_a_bulkhead_knows_its_settings():
    settings = ConcurrencyLimiterSettings(limit=3, max_queue=2, max_wait=1.0)
    assert Bulkhead(settings, 0.0).settings is settings


def test_it_is_idle_while_nothing_is_in_flight():
    bulkhead = make()
    assert bulkhead.is_idle(0.0)
    slot = bulkhead.admit(0.0)
    assert not bulkhead.is_idle(0.0)
    bulkhead.settle(slot, Verdict.BAD, 1.0)
    assert bulkhead.is_idle(1.0)


@pytest.mark.parametrize("verdict", Verdict)
def test_a_place_is_given_back_once_however_the_call_ended(verdict):
    bulkhead = make(limit=3)
    bulkhead.admit(0.0)
    slot = bulkhead.admit(0.0)
    for _ in range(3):
        bulkhead.settle(slot, verdict, 1.0)
        bulkhead.release(slot, 1.0)
    assert bulkhead.inflight == 1


def test_after_a_fork_places_taken_in_the_parent_are_gone_and_bring_nothing():
    bulkhead = make(limit=2)
    slots = [bulkhead.admit(0.0), bulkhead.admit(0.0)]
    bulkhead.resize(3)
    bulkhead.after_fork(1.0)
    assert (bulkhead.inflight, bulkhead.limit, bulkhead.cell.started) == (0, 3, 0)
    bulkhead.admit(1.0)
    bulkhead.settle(slots[0], Verdict.GOOD, 1.0)
    bulkhead.release(slots[1], 1.0)
    assert bulkhead.inflight == 1
    assert bulkhead.cell.timed == 0


def test_generated_code_that_was_under_way_during_a_fork_changes_nothing_either():
    bulkhead = make(limit=2)
    cell = bulkhead.cell
    if (n := cell.started) < cell.ceiling:
        cell.started = n + 1.0
    bulkhead.after_fork(0.0)
    cell.ceiling += 1.0
    assert bulkhead.inflight == 0


def test_generated_code_and_the_methods_count_in_one_place():
    bulkhead = make(limit=2)
    cell = bulkhead.cell
    bulkhead.admit(0.0)
    if (n := cell.started) < cell.ceiling:
        cell.started = n + 1.0
    assert bulkhead.admit(0.0) is NEVER
    cell.ceiling += 1.0
    assert bulkhead.admit(0.0)


def test_the_last_place_is_not_given_out_twice_if_generated_code_takes_it_meanwhile(monkeypatch):
    bulkhead = make(limit=1)
    cell = bulkhead.cell

    def slow(cell, now, *, rested):
        cell.started += 1.0  # another thread, without the lock
        return Slot(cell, now, rested=rested)

    monkeypatch.setattr(_machine, "Slot", slow)
    assert bulkhead.admit(0.0) is NEVER
    assert cell.inflight == cell.started == 1


@pytest.mark.parametrize("limit", [3, Learning(3)])
def test_while_somebody_waits_generated_code_lets_nobody_in_and_admit_still_does(limit):
    bulkhead = make(limit)
    bulkhead.admit(0.0)
    bulkhead.bar(True)
    assert bulkhead.is_barred
    assert bulkhead.cell.started >= bulkhead.cell.ceiling
    assert bulkhead.inflight == 1
    assert bulkhead.admit(0.0)
    assert bulkhead.cell.started >= bulkhead.cell.ceiling
    bulkhead.resize(9)
    assert bulkhead.cell.started >= bulkhead.cell.ceiling
    bulkhead.bar(False)
    assert bulkhead.cell.ceiling == (9 if limit == 3 else 2)
    assert bulkhead.inflight == 2


def test_the_ceiling_follows_the_limit_while_calls_come_and_go():
    bulkhead = make(limit=3)
    slots = [bulkhead.admit(0.0) for _ in range(3)]
    bulkhead.release(slots.pop(), 0.0)
    assert (bulkhead.cell.started, bulkhead.cell.ceiling) == (3.0, 4.0)
    bulkhead.resize(1)
    assert (bulkhead.inflight, bulkhead.cell.ceiling) == (2, 2.0)


def test_a_lower_limit_lets_calls_in_flight_go_on_and_admits_nobody_until_they_are_fewer():
    bulkhead = make(limit=3)
    slots = [bulkhead.admit(0.0) for _ in range(3)]
    bulkhead.resize(1)
    assert (bulkhead.inflight, bulkhead.limit, bulkhead.free) == (3, 1, 0)
    for slot in slots[:2]:
        bulkhead.release(slot, 0.0)
        assert bulkhead.admit(0.0) is NEVER
    bulkhead.release(slots[2], 0.0)
    assert bulkhead.admit(0.0)


def test_a_higher_limit_counts_at_once():
    bulkhead = make(limit=1)
    bulkhead.admit(0.0)
    bulkhead.resize(2)
    assert bulkhead.admit(0.0)
    assert not bulkhead.admit(0.0)


@pytest.mark.parametrize(
    ("limit", "result"),
    [
        (5, 5),
        (7.9, 7),
        (0, 1),
        (-3, 1),
        (0.5, 1),
        (math.nan, 4),
        (math.inf, 4),
        (None, 4),
        ("9", 4),
        (True, 4),
    ],
)
def test_whatever_a_limit_says_there_is_always_room_for_one(limit, result):
    bulkhead = make(limit=4)
    bulkhead.resize(limit)
    assert bulkhead.limit == result


def test_other_settings_leave_calls_in_flight_alone():
    bulkhead = make(limit=2)
    slot = bulkhead.admit(0.0)
    changed = ConcurrencyLimiterSettings(limit=5, max_queue=1, max_wait=1.0)
    bulkhead.configure(changed, terms_of(changed.make_limit()), 0.0)
    assert bulkhead.settings is changed
    assert (bulkhead.inflight, bulkhead.limit) == (1, 5)
    bulkhead.release(slot, 0.0)
    assert bulkhead.inflight == 0


def test_the_same_learning_limit_keeps_what_it_learnt():
    learning = Learning(10)
    bulkhead = make(learning)
    bulkhead.resize(33)
    same = ConcurrencyLimiterSettings(limit=learning, max_queue=1, max_wait=1.0)
    bulkhead.configure(same, terms_of(same.make_limit()), 0.5)
    assert bulkhead.limit == 33
    assert bulkhead.window_end == 1.0
    other = Learning(12)
    changed = ConcurrencyLimiterSettings(limit=other)
    bulkhead.configure(changed, terms_of(changed.make_limit()), 0.5)
    assert bulkhead.source is other
    assert bulkhead.limit == 12
    assert bulkhead.window_end == 1.5


# --- samples ---


def test_another_window_holds_for_the_sample_that_has_begun_too():
    bulkhead = make(Learning(10), now=100.0)
    bulkhead.set_window(0.25)
    assert bulkhead.window_end == 100.25
    bulkhead.settle(bulkhead.admit(100.0), Verdict.GOOD, 100.5)
    bulkhead.take_sample(101.0)
    assert bulkhead.window_end == 101.25
    bulkhead.set_window(None)
    assert bulkhead.window_end == math.inf


@pytest.mark.parametrize("window", [math.nan, math.inf, -0.1, -1.0, True, "1"])
def test_a_window_that_is_no_length_of_time_changes_nothing(window):
    bulkhead = make(Learning(10))
    bulkhead.set_window(window)
    assert bulkhead.window_end == 1.0


def test_a_fixed_limit_takes_no_samples():
    bulkhead = make(limit=2)
    bulkhead.settle(bulkhead.admit(0.0), Verdict.GOOD, 5.0)
    assert bulkhead.window_end == math.inf
    assert bulkhead.take_sample(1e9) is None


def test_a_sample_tells_what_the_calls_of_a_window_showed():
    bulkhead = make(Learning(10), now=100.0)
    slots = [bulkhead.admit(100.0) for _ in range(7)]
    endings = [
        (Verdict.GOOD, 0.25), (Verdict.GOOD, 0.125), (Verdict.TIMED_OUT, 0.75), (Verdict.BAD, 0.0),
        (Verdict.THROTTLED, 0.0), (Verdict.IGNORED, 0.0),
    ]  # fmt: skip
    for slot, (verdict, took) in sorted(zip(slots, endings, strict=False), key=lambda pair: pair[1][1]):
        bulkhead.settle(slot, verdict, 100.0 + took)
    assert bulkhead.take_sample(100.999) is None
    assert bulkhead.take_sample(101.0) == Sample(
        now=101.0, good=2, bad=1, timed_out=1, throttled=1, peak=7, mean=0.375, shortest=0.125
    )


def test_the_next_sample_begins_anew_with_what_is_in_flight():
    bulkhead = make(Learning(10))
    slots = [bulkhead.admit(0.0) for _ in range(4)]
    for slot in slots[:3]:
        bulkhead.settle(slot, Verdict.GOOD, 0.5)
    assert bulkhead.take_sample(1.0).peak == 4
    assert bulkhead.window_end == 2.0
    bulkhead.settle(slots[3], Verdict.BAD, 1.5)
    assert bulkhead.take_sample(1.5) is None
    assert bulkhead.take_sample(2.25) == Sample(
        now=2.25, good=0, bad=1, timed_out=0, throttled=0, peak=1, mean=None, shortest=None
    )
    assert bulkhead.window_end == 3.25


def test_a_window_in_which_no_call_ended_goes_on_until_one_does():
    bulkhead = make(Learning(10))
    slots = [bulkhead.admit(0.0), bulkhead.admit(0.0)]
    bulkhead.settle(slots[0], Verdict.IGNORED, 0.5)
    assert bulkhead.take_sample(5.0) is None
    bulkhead.settle(slots[1], Verdict.GOOD, 6.0)
    sample = bulkhead.take_sample(6.0)
    assert (sample.calls, sample.peak, bulkhead.window_end) == (1, 2, 7.0)


def test_a_window_of_no_length_gives_a_sample_for_each_call():
    bulkhead = make(Learning(10, window=0))
    first, second = bulkhead.admit(0.0), bulkhead.admit(0.0)
    assert bulkhead.take_sample(0.0) is None
    bulkhead.settle(first, Verdict.GOOD, 0.25)
    sample = bulkhead.take_sample(0.25)
    assert (sample.calls, sample.peak) == (1, 2)
    bulkhead.settle(second, Verdict.TIMED_OUT, 0.25)
    sample = bulkhead.take_sample(0.25)
    assert (sample.calls, sample.peak) == (1, 1)


@pytest.mark.parametrize(
    ("quantile", "time"), [(0.5, 0.25), (0.75, 0.5), (0.999, 1.0), (0.01, 0.125), (None, None)]
)
def test_a_limit_may_ask_for_a_quantile_of_the_times(quantile, time):
    learning = Learning(10)
    learning.quantile = quantile
    bulkhead = make(learning)
    slots = [bulkhead.admit(0.0) for _ in range(5)]
    for slot, took in zip(slots, (0.125, 0.25, 0.5, 1.0), strict=False):
        bulkhead.settle(slot, Verdict.GOOD, took)
    bulkhead.settle(slots[4], Verdict.BAD, 100.0)
    sample = bulkhead.take_sample(100.0)
    assert (sample.quantile, sample.latency) == (time, sample.mean if time is None else time)
    bulkhead.settle(bulkhead.admit(100.0), Verdict.BAD, 200.0)
    assert bulkhead.take_sample(200.0).quantile is None


def test_below_one_it_rests_after_each_call_in_proportion_to_what_it_took():
    bulkhead = make(limit=4)
    bulkhead.resize(0.25)
    assert bulkhead.limit == 1
    bulkhead.settle(bulkhead.admit(0.0), Verdict.BAD, 0.5)
    refusal = bulkhead.admit(1.0)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == 1.0
    slot = bulkhead.admit(2.0)
    assert isinstance(slot, Slot)
    assert bulkhead.admit(2.0) is NEVER
    bulkhead.settle(slot, Verdict.TIMED_OUT, 12.0)
    assert bulkhead.admit(12.0).retry_after == LONGEST_REST
    bulkhead.resize(1.0)
    assert isinstance(bulkhead.admit(12.0), Slot)


def test_a_call_that_taught_nothing_asks_for_no_rest():
    bulkhead = make(limit=4)
    bulkhead.resize(0.5)
    bulkhead.settle(bulkhead.admit(0.0), Verdict.IGNORED, 1.0)
    bulkhead.release(bulkhead.admit(1.0), 2.0)
    assert isinstance(bulkhead.admit(2.0), Slot)


def test_a_call_that_began_before_it_rested_asks_for_no_rest():
    bulkhead = make(limit=4)
    early = bulkhead.admit(0.0)
    bulkhead.resize(0.5)
    bulkhead.settle(early, Verdict.TIMED_OUT, 1.0)
    assert isinstance(bulkhead.admit(1.0), Slot)


def test_a_child_process_does_not_rest_for_its_parent():
    bulkhead = make(limit=4)
    bulkhead.resize(0.5)
    bulkhead.settle(bulkhead.admit(0.0), Verdict.GOOD, 1.0)
    bulkhead.after_fork(1.0)
    assert isinstance(bulkhead.admit(1.0), Slot)


def test_each_sample_has_its_own_mean_and_its_own_fastest_call():
    bulkhead = make(Learning(10))
    bulkhead.settle(bulkhead.admit(0.0), Verdict.GOOD, 0.125)
    first = bulkhead.take_sample(1.0)
    assert (first.good, first.mean, first.shortest) == (1, 0.125, 0.125)
    slots = [bulkhead.admit(1.0), bulkhead.admit(1.0)]
    for slot, took in zip(slots, (0.25, 0.5), strict=True):
        bulkhead.settle(slot, Verdict.GOOD, 1.0 + took)
    second = bulkhead.take_sample(2.0)
    assert (second.good, second.mean, second.shortest) == (2, 0.375, 0.25)


def test_a_late_result_from_before_a_fork_is_in_no_sample():
    bulkhead = make(Learning(10))
    slots = [bulkhead.admit(0.0) for _ in Verdict]
    bulkhead.after_fork(0.0)
    for slot, verdict in zip(slots, Verdict, strict=True):
        bulkhead.settle(slot, verdict, 0.5)
    assert bulkhead.take_sample(1.0) is None


def test_a_timeout_counts_in_the_mean_but_is_nobodys_fastest():
    bulkhead = make(Learning(10))
    bulkhead.settle(bulkhead.admit(0.0), Verdict.TIMED_OUT, 0.5)
    sample = bulkhead.take_sample(1.0)
    assert (sample.mean, sample.shortest) == (0.5, None)


def test_what_generated_code_counted_is_in_the_sample():
    bulkhead = Bulkhead(ConcurrencyLimiterSettings(limit=Learning(10)), 0.0)
    cell = bulkhead.cell
    if (n := cell.started) < cell.ceiling:
        cell.started = n + 1.0
    took = 0.25
    cell.timed += 1
    cell.seconds += took
    if took < cell.shortest:
        cell.shortest = took
    cell.ceiling += 1.0
    bulkhead.settle(bulkhead.admit(0.5), Verdict.GOOD, 1.25)
    assert bulkhead.take_sample(1.25) == Sample(
        now=1.25, good=2, bad=0, timed_out=0, throttled=0, peak=1, mean=0.5, shortest=0.25
    )


def test_a_fork_begins_a_new_window():
    bulkhead = make(Learning(10))
    bulkhead.settle(bulkhead.admit(0.0), Verdict.BAD, 0.5)
    bulkhead.admit(0.5)
    bulkhead.after_fork(0.75)
    assert bulkhead.window_end == 1.75
    assert bulkhead.take_sample(1.75) is None
    bulkhead.settle(bulkhead.admit(1.75), Verdict.GOOD, 2.0)
    sample = bulkhead.take_sample(2.0)
    assert (sample.calls, sample.bad, sample.peak) == (1, 0, 1)


def test_a_limit_of_ten_lines_learns():
    learning = Learning(4)
    bulkhead = make(learning)
    now = 0.0
    for verdict, limit in [(Verdict.GOOD, 5), (Verdict.GOOD, 6), (Verdict.THROTTLED, 3), (Verdict.BAD, 4)]:
        slots = [bulkhead.admit(now) for _ in range(bulkhead.limit)]
        now += 1.0
        for slot in slots:
            bulkhead.settle(slot, verdict, now)
        learn(bulkhead, now)
        assert bulkhead.limit == limit
    slot = bulkhead.admit(now)
    bulkhead.settle(slot, Verdict.GOOD, now + 1.0)
    assert learn(bulkhead, now + 1.0).peak == 1
    assert bulkhead.limit == 4  # hardly used: no reason to grow


def test_a_clock_that_goes_back_counts_as_standing_still():
    bulkhead = make(Learning(10), now=10.0)
    slot = bulkhead.admit(10.5)
    bulkhead.settle(slot, Verdict.GOOD, 3.0)
    bulkhead.settle(bulkhead.admit(9.0), Verdict.GOOD, 10.75)
    sample = bulkhead.take_sample(11.0)
    assert (sample.good, sample.mean, sample.shortest) == (2, 0.125, 0.0)
    bulkhead.settle(bulkhead.admit(11.5), Verdict.BAD, 12.0)
    assert bulkhead.take_sample(3.0).now == 12.0


# --- any interleaving ---


class BulkheadRules(RuleBasedStateMachine):
    """Any interleaving of calls, late ends, resizing and forks keeps the count."""

    slots = Bundle("slots")

    @initialize(limit=st.sampled_from([1, 2, 3]))
    def begin(self, limit):
        self.now = 0.0
        self.bulkhead = make(Learning(limit))
        self.limit = limit
        self.inflight = set()
        self.ended = dict.fromkeys(Verdict, 0)
        self.took = []
        self.peak = 0
        self.begun = 0.0

    @rule(seconds=st.sampled_from([0.25, 0.75, 1.0, 1.25]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=slots)
    def admit(self):
        decision = self.bulkhead.admit(self.now)
        if len(self.inflight) < self.limit:
            self.inflight.add(decision)
            self.peak = max(self.peak, len(self.inflight))
            assert isinstance(decision, Slot)
        else:
            assert isinstance(decision, Refusal)
            assert decision.retry_after is None
        return decision

    @rule(slot=slots, verdict=st.sampled_from(Verdict))  # not consumed: ends may come twice
    def settle(self, slot, verdict):
        if not isinstance(slot, Slot):
            return
        self.bulkhead.settle(slot, verdict, self.now)
        if slot in self.inflight:
            self.inflight.remove(slot)
            self.ended[verdict] += 1
            if verdict in (Verdict.GOOD, Verdict.TIMED_OUT):
                self.took.append((self.now - slot.started, verdict))

    @rule(slot=consumes(slots))
    def release(self, slot):
        if isinstance(slot, Slot):
            self.bulkhead.release(slot, self.now)
            self.inflight.discard(slot)

    @rule(limit=st.integers(1, 4))
    def resize(self, limit):
        self.bulkhead.resize(limit)
        self.limit = limit

    @rule()
    def fork(self):
        self.bulkhead.after_fork(self.now)
        self.inflight.clear()
        self.begin_window()

    @rule()
    def take_sample(self):
        sample = self.bulkhead.take_sample(self.now)
        is_due = self.now >= self.begun + 1.0
        taught = sum(count for verdict, count in self.ended.items() if verdict is not Verdict.IGNORED)
        assert (sample is not None) == (is_due and taught > 0)
        if sample is not None:
            fastest = [took for took, verdict in self.took if verdict is Verdict.GOOD]
            assert sample == Sample(
                now=self.now,
                good=self.ended[Verdict.GOOD],
                bad=self.ended[Verdict.BAD],
                timed_out=self.ended[Verdict.TIMED_OUT],
                throttled=self.ended[Verdict.THROTTLED],
                peak=self.peak,
                mean=sum(took for took, _ in self.took) / len(self.took) if self.took else None,
                shortest=min(fastest, default=None),
            )
            self.begin_window()

    def begin_window(self):
        self.ended = dict.fromkeys(Verdict, 0)
        self.took = []
        self.peak = len(self.inflight)
        self.begun = self.now

    @invariant()
    def counts_what_is_in_flight(self):
        assert self.bulkhead.inflight == len(self.inflight) >= 0
        assert self.bulkhead.limit == self.limit
        assert self.bulkhead.free == max(0, self.limit - len(self.inflight))


TestBulkhead = BulkheadRules.TestCase
