"""Properties of places with guaranteed shares, explored by Hypothesis against a model of a few lines."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resilience._core.permit import NEVER, Refusal
from resilience.concurrency_limiter._ask import Ask
from resilience.concurrency_limiter._cell import Slot
from resilience.concurrency_limiter._limit import terms_of
from resilience.concurrency_limiter._partitions import Partitions
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.outcome import Verdict


def make(shares, limit=10, now=0.0):
    return Partitions(ConcurrencyLimiterSettings(limit=limit, shares=shares, share_of=str), now)


def take(machine, key, calls=1, now=0.0):
    """Return the places that so many calls got."""
    answers = [machine.admit(now, Ask(key, 2)) for _ in range(calls)]
    return [answer for answer in answers if isinstance(answer, Slot)]


def guaranteed(machine):
    return {key: part.limit for key, part in machine.parts.items()}


def test_a_share_is_had_even_while_others_hold_all_places():
    machine = make({"live": 0.7, "batch": 0.3})
    assert len(take(machine, "batch", 11)) == 10
    assert machine.admit(0.0, Ask("batch", 2)) is NEVER
    assert len(take(machine, "live", 8)) == 7
    assert machine.inflight == 17


def test_calls_without_a_share_get_only_what_is_common():
    machine = make({"live": 0.7})
    take(machine, "live", 7)
    assert len(take(machine, None, 5)) == 3
    assert len(take(machine, "a stranger", 1)) == 0


def test_a_share_is_no_upper_bound():
    machine = make({"live": 0.7, "batch": 0.3})
    assert len(take(machine, "batch", 12)) == 10


@pytest.mark.parametrize(
    "limit, share, places", [(10, 0.7, 7), (100, 0.07, 7), (1, 0.01, 1), (20, 0.31, 7), (1000, 0.001, 1)]
)
def test_a_share_guarantees_its_part_of_the_limit_rounded_up(limit, share, places):
    assert guaranteed(make({"live": share}, limit=limit)) == {"live": places}


@given(limit=st.integers(1, 5_000), hundredths=st.integers(1, 100))
def test_rounding_up_is_exact_whatever_floats_do(limit, hundredths):
    places = max(1, math.ceil(limit * Fraction(hundredths, 100)))
    assert guaranteed(make({"live": hundredths / 100}, limit=limit)) == {"live": places}


def test_another_limit_changes_what_shares_guarantee():
    machine = make({"live": 0.7, "batch": 0.3})
    machine.resize(20)
    assert guaranteed(machine) == {"live": 14, "batch": 6}
    machine.resize(0.3)
    assert (machine.limit, guaranteed(machine)) == (1, {"live": 1, "batch": 1})
    machine.resize(math.nan)
    assert guaranteed(machine) == {"live": 1, "batch": 1}


def test_a_limit_below_one_rests_for_those_with_shares_too():
    machine = make({"live": 0.7})
    machine.resize(0.5)
    (slot,) = take(machine, None)
    machine.settle(slot, Verdict.GOOD, 1.0)
    answer = machine.admit(1.5, Ask("live", 2))
    assert isinstance(answer, Refusal)
    assert answer.retry_after == 0.5
    assert take(machine, "live", now=2.0)


def test_a_short_call_of_another_share_does_not_end_the_rest_after_a_long_one():
    machine = make({"live": 0.7, "batch": 0.3})
    machine.resize(0.5)
    (long,), (short,) = take(machine, "live"), take(machine, "batch", now=0.75)
    machine.settle(long, Verdict.GOOD, 1.0)
    machine.settle(short, Verdict.GOOD, 1.0)
    assert machine.admit(1.0, Ask("live", 2)).retry_after == 1.0
    assert take(machine, "live", now=2.0)


def test_new_shares_hold_from_then_on_and_calls_under_way_go_on():
    machine = make({"live": 0.7, "batch": 0.3})
    live, batch = take(machine, "live", 5), take(machine, "batch", 5)
    settings = ConcurrencyLimiterSettings(
        limit=machine.source, shares={"live": 0.5, "test": 0.2}, share_of=str
    )
    machine.configure(settings, terms_of(settings.make_limit()), 0.0)
    assert machine.settings is settings
    assert guaranteed(machine) == {"live": 5, "test": 2}
    assert take(machine, "live") == take(machine, "batch") == []
    assert len(take(machine, "test", 3)) == 2
    for slot in live + batch:
        machine.release(slot, 0.0)
    assert (machine.inflight, machine.parts["live"].inflight) == (2, 0)


def test_a_child_of_a_fork_has_all_places_and_all_shares():
    machine = make({"live": 0.7, "batch": 0.3})
    slots = take(machine, "batch", 10) + take(machine, "live", 7)
    machine.after_fork(0.0)
    assert (machine.inflight, guaranteed(machine)) == (0, {"live": 7, "batch": 3})
    for slot in slots:
        machine.settle(slot, Verdict.GOOD, 0.0)
    assert machine.inflight == 0
    assert len(take(machine, "batch", 11) + take(machine, "live", 8)) == 17


def test_a_sample_tells_the_most_calls_in_flight_those_above_the_limit_too():
    class Learning:
        limit, window = 4, 1.0

        def on_sample(self, sample): ...

    machine = make({"live": 0.5}, limit=Learning())
    slots = take(machine, None, 4) + take(machine, "live", 2)
    machine.settle(slots[0], Verdict.GOOD, 1.0)
    assert machine.take_sample(1.0).peak == 6


SHARES = {"live": 0.6, "batch": 0.25, "tiny": 0.01}
KEYS = [*SHARES, None, "a stranger"]


class PartitionRules(RuleBasedStateMachine):
    """Any interleaving of calls, late ends, resizing, new shares and forks."""

    slots = Bundle("slots")

    @initialize(limit=st.integers(1, 12))
    def begin(self, limit):
        self.machine = make(SHARES, limit=limit)
        self.limit = limit
        self.held = {}  # slot to key
        self.never_lowered = True

    def count(self, key):
        return Counter(self.held.values())[key]

    def part(self, key):
        share = SHARES.get(key, 0)
        return max(1, math.ceil(Fraction(str(share)) * self.limit)) if share else 0

    @rule(target=slots, key=st.sampled_from(KEYS))
    def admit(self, key):
        fits = len(self.held) < self.limit or self.count(key) < self.part(key)
        assert self.machine.has_room(key) == fits
        answer = self.machine.admit(0.0, Ask(key, 2))
        assert isinstance(answer, Slot) == fits
        if fits:
            self.held[answer] = key
        return answer

    @rule(slot=consumes(slots), verdict=st.sampled_from([*Verdict, None]), times=st.integers(1, 2))
    def end(self, slot, verdict, times):
        if not isinstance(slot, Slot):
            return
        for _ in range(times):
            if verdict is None:
                self.machine.release(slot, 0.0)
            else:
                self.machine.settle(slot, verdict, 0.0)
        self.held.pop(slot, None)

    @rule(limit=st.integers(1, 12))
    def resize(self, limit):
        self.never_lowered = self.never_lowered and limit >= self.limit
        self.limit = limit
        self.machine.resize(limit)

    @rule()
    def fork(self):
        self.machine.after_fork(0.0)
        self.held.clear()
        self.never_lowered = True

    @rule()
    def every_share_can_be_had(self):
        """Whoever has a share gets its places, whatever the others hold."""
        for key in SHARES:
            missing = max(0, self.part(key) - self.count(key))
            slots = take(self.machine, key, missing)
            assert len(slots) == missing
            for slot in slots:
                self.machine.release(slot, 0.0)

    @invariant()
    def nothing_is_lost(self):
        assert self.machine.inflight == len(self.held)
        assert {key: part.inflight for key, part in self.machine.parts.items()} == {
            key: self.count(key) for key in SHARES
        }

    @invariant()
    def so_many_are_in_flight_and_no_more(self):
        if not self.never_lowered:
            return
        most = self.limit + sum(map(self.part, SHARES))
        assert len(self.held) <= most
        if not (self.count(None) or self.count("a stranger")):
            assert len(self.held) <= most - 1


TestPartitions = PartitionRules.TestCase
