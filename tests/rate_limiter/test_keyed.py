"""Keys by themselves: as one limiter each, as long as there is room, and never more than that."""

import gc
import math
import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resilience._core.permit import NEVER, Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter._keyed import OVERFLOW, SHARD, SPARE, SWEEP_EVERY, KeyedGcra, KeyedPermit
from resilience.rate_limiter._machine import Gcra
from resilience.rate_limiter._settings import RateLimiterSettings


def make(now=0.0, **changes):
    return KeyedGcra(RateLimiterSettings(**changes), now)


def admitted(keyed, key, now, tries):
    return sum(isinstance(keyed.admit(key, now), KeyedPermit) for _ in range(tries))


def approx(seconds):
    return pytest.approx(seconds, abs=1e-6)


def test_each_key_has_permits_of_its_own():
    keyed = make(rate=2)
    assert keyed.capacity == keyed.burst == 2
    assert admitted(keyed, "a", 0.0, 5) == 2
    assert admitted(keyed, "b", 0.0, 5) == 2
    assert keyed.admit("a", 0.0).retry_after == approx(0.5)
    assert keyed.admit("a", 0.5)
    assert keyed.acquired == 5
    assert len(keyed) == 2


def test_more_than_the_capacity_is_refused_for_ever():
    keyed = make(rate=2)
    assert keyed.admit("a", 0.0, 3) is NEVER
    assert keyed.wait_for("a", 0.0, 3) is None
    assert len(keyed) == 0


def test_looking_makes_no_entry():
    keyed = make(rate=2)
    assert keyed.remaining("a", 0.0) == 2
    assert keyed.wait_for("a", 0.0) == 0
    assert keyed.wait_for("a", 0.0, 1, ahead=3) == approx(1.0)
    assert len(keyed) == 0
    keyed.admit("a", 0.0, 2)
    assert keyed.remaining("a", 0.0) == 0
    assert keyed.remaining("a", 0.5) == 1
    assert keyed.wait_for("a", 0.5, 2) == approx(0.5)


def test_a_key_that_cannot_be_hashed_is_a_type_error_and_changes_nothing():
    keyed = make()
    with pytest.raises(TypeError):
        keyed.admit([], 0.0)
    assert len(keyed) == keyed.acquired == 0


def test_a_clock_that_goes_back_admits_nothing_extra_and_blocks_no_permit_that_is_left():
    keyed = make(rate=4, now=10.0)
    assert admitted(keyed, "a", 10.0, 2) == 2
    assert keyed.remaining("a", 0.0) == 2
    assert admitted(keyed, "a", 0.0, 5) == 2
    refusal = keyed.admit("a", 7.0)
    assert refusal.retry_after == approx(3.25)
    assert keyed.admit("a", 7.0 + refusal.retry_after)


# --- forgetting ---


def test_keys_that_owe_nothing_are_forgotten_after_two_bursts_at_most():
    keyed = make(rate=10)  # a burst takes a second to come back
    for number in range(50):
        keyed.admit(number, 0.0)
    assert len(keyed) == 50
    keyed.admit("a", 1.1)
    assert len(keyed) == 51
    keyed.admit("a", 2.2)
    assert len(keyed) == 1


def test_a_long_silence_forgets_everybody_at_once():
    keyed = make(rate=10)
    for number in range(50):
        keyed.admit(number, 0.9)
    keyed.admit("a", 2.0 + 3 * SPARE)
    assert len(keyed) == 1


def test_what_a_key_owes_is_never_forgotten():
    keyed = make(rate=10)
    assert admitted(keyed, "a", 0.999, 20) == 10
    for now in (1.1, 1.2, 1.3, 1.9):
        keyed.admit("b", now)
        assert keyed.remaining("a", now) == math.floor((now - 0.999) * 10)
    assert admitted(keyed, "a", 1.998, 20) == 9


def test_a_key_that_is_refused_stays_as_it_was():
    keyed = make(rate=10)
    keyed.admit("a", 0.999, 10)
    for step in range(1, 100):
        assert not keyed.admit("a", 0.999 + step / 1_000, 2)
    assert keyed.admit("a", 1.199, 2)


def test_a_key_served_again_moves_to_the_young():
    keyed = make(rate=10)
    keyed.admit("a", 0.0, 10)
    keyed.admit("b", 0.5)
    assert keyed.admit("a", 1.1, 10)
    assert len(keyed) == 2
    keyed.admit("c", 2.2)
    assert len(keyed) == 2
    assert keyed.remaining("a", 2.0) == 10


# --- too many keys ---


def test_beyond_the_most_keys_further_ones_share_one_more():
    keyed = make(rate=2, max_keys=3)
    for key in "abc":
        assert keyed.admit(key, 0.0, 2)
    assert keyed.overflowed == 0
    assert keyed.admit("d", 0.0)
    assert keyed.admit("e", 0.0)
    assert not keyed.admit("f", 0.0)
    assert not keyed.admit("d", 0.0)
    assert len(keyed) == 3
    assert keyed.overflowed == 2
    assert keyed.remaining("z", 0.0) == 0
    assert keyed.remaining("a", 0.5) == 1


def test_a_full_table_makes_room_for_those_that_owe_something():
    keyed = make(rate=1, burst=3_600, max_keys=3)
    for key in "abc":
        keyed.admit(key, 0.0)
    assert keyed.admit("d", 0.5).key is OVERFLOW
    keyed.admit("d", SWEEP_EVERY + 0.6)
    assert len(keyed) == 1
    assert keyed.admit("e", SWEEP_EVERY + 0.7).key == "e"


def test_a_full_table_is_looked_through_once_in_a_while_only():
    keyed = make(rate=1, burst=3_600, max_keys=2)
    keyed.admit("a", 0.0, 1)
    keyed.admit("b", 0.0, 100)
    assert keyed.admit("c", 0.1).key is OVERFLOW  # looked through: both owe
    assert keyed.admit("d", 1.05).key is OVERFLOW  # "a" owes no more, but nobody looks
    assert keyed.admit("e", 1.1 + SWEEP_EVERY).key == "e"


def test_a_key_that_leaves_the_shared_entry_takes_what_is_owed_there_along():
    keyed = make(rate=1, burst=4, max_keys=1)
    keyed.admit("a", 0.0)
    assert keyed.admit("b", 0.0, 4).key is OVERFLOW
    assert keyed.admit("b", 2.0, 2).key == "b"
    assert not keyed.admit("b", 2.0)


def test_a_shared_permit_can_be_given_back():
    keyed = make(rate=1, burst=4, max_keys=1)
    keyed.admit("a", 0.0)
    first, second = keyed.admit("b", 0.0), keyed.admit("c", 0.0)
    keyed.release(first, 0.0)
    assert keyed.remaining("z", 0.0) == 2
    keyed.release(second, 0.0)
    assert keyed.remaining("z", 0.0) == 3


# --- giving back ---


def test_the_last_permit_of_a_key_can_be_given_back_once():
    keyed = make(rate=2)
    keyed.admit("a", 0.0)
    permit = keyed.admit("a", 0.0)
    keyed.release(permit, 0.0)
    keyed.release(permit, 0.0)
    assert keyed.remaining("a", 0.0) == 1
    assert keyed.admit("a", 0.0)
    keyed.release(permit, 0.0)
    assert keyed.remaining("a", 0.0) == 0


def test_a_permit_that_is_not_the_last_of_its_key_stays_spent():
    keyed = make(rate=4)
    first, _ = keyed.admit("a", 0.0), keyed.admit("a", 0.0)
    keyed.release(first, 0.0)
    assert keyed.remaining("a", 0.0) == 2


def test_half_a_permit_is_given_back_if_half_of_it_is_spent():
    keyed = make(rate=1, burst=2)
    keyed.admit("a", 0.0)
    permit = keyed.admit("a", 0.0)
    keyed.release(permit, 1.5)
    assert keyed.remaining("a", 1.5) == 2


def test_a_key_that_owes_nothing_any_more_leaves_no_entry():
    keyed = make(rate=2)
    for now in (0.0, 0.2, 1.3):  # also after a swap, when it is an old one
        permit = keyed.admit("a", now)
        keyed.release(permit, now)
        assert len(keyed) == 0
    permit = keyed.admit("a", 2.3)
    keyed.admit("b", 3.2)
    keyed.release(permit, 2.3)
    assert keyed.remaining("a", 3.2) == 2


def test_a_permit_whose_key_is_forgotten_brings_nothing():
    keyed = make(rate=2)
    permit = keyed.admit("a", 0.0)
    keyed.admit("b", 10.0)
    keyed.admit("a", 10.0)
    keyed.release(permit, 10.0)
    assert keyed.remaining("a", 10.0) == 1


def test_only_an_ignored_call_gives_its_permit_back():
    keyed = make(rate=9)
    for verdict in Verdict:
        keyed.settle(keyed.admit("a", 0.0), verdict, 0.0)
    assert keyed.remaining("a", 0.0) == 9 - (len(Verdict) - 1)


def test_after_a_fork_permits_of_the_parent_bring_nothing_and_what_is_owed_stays():
    keyed = make(rate=4)
    permit = keyed.admit("a", 0.0, 3)
    keyed.after_fork(0.0)
    keyed.release(permit, 0.0)
    assert keyed.remaining("a", 0.0) == 1
    assert keyed.acquired == keyed.overflowed == 0
    keyed.after_fork(0.5)
    assert keyed.remaining("a", 0.0) == 3


# --- other settings ---


def test_a_new_rate_counts_from_now_on_for_every_key():
    keyed = make(rate=1, burst=4)
    keyed.admit("a", 0.0, 4)
    keyed.admit("b", 0.0, 1)
    permit = keyed.admit("c", 0.0, 2)
    keyed.set_rate(10.0, 2.0)
    keyed.release(permit, 2.0)
    assert [keyed.remaining(key, 2.0) for key in "abcd"] == [2, 4, 4, 4]
    assert keyed.remaining("a", 2.1) == 3
    assert keyed.rate == 10.0


def test_a_slower_rate_makes_keys_stay_longer():
    keyed = make(rate=10)
    keyed.admit("a", 0.0, 10)
    keyed.set_rate(0.1, 0.0)
    for now in (1.0, 2.0, 50.0, 99.0):
        keyed.admit("b", now)
    assert keyed.remaining("a", 99.0) == 9


def test_a_slower_rate_makes_keys_stay_longer_that_were_about_to_be_forgotten():
    keyed = make(rate=10)
    keyed.admit("a", 0.999, 10)
    keyed.admit("b", 1.001)  # a swap: "a" is an old one now
    keyed.set_rate(0.1, 1.1)
    keyed.admit("b", 2.2)
    assert keyed.remaining("a", 2.2) == 1


def test_other_settings_keep_what_is_owed():
    keyed = make(rate=1, burst=4)
    keyed.admit("a", 0.0, 3)
    keyed.admit("b", 0.0, 1)
    changed = RateLimiterSettings(rate=2, burst=2, max_keys=SHARD + 1)
    keyed.configure(changed, 0.0)
    assert keyed.settings is changed
    assert len(keyed) == 1  # "b" may have 2 at once, as a new one
    assert [keyed.remaining(key, 0.0) for key in "abc"] == [1, 2, 2]
    assert keyed.remaining("a", 0.5) == 2


def test_a_larger_burst_brings_no_permits_by_itself():
    keyed = make(rate=1, burst=2)
    keyed.admit("a", 0.0, 2)
    keyed.configure(RateLimiterSettings(rate=1, burst=5), 1.0)
    assert [keyed.remaining(key, 1.0) for key in "ab"] == [1, 2]
    assert [keyed.remaining(key, 3.0) for key in "ab"] == [3, 4]
    assert keyed.remaining("b", 4.0) == 5


def test_other_settings_look_at_old_and_young_keys_alike():
    keyed = make(rate=1, burst=4)
    keyed.admit("a", 3.9, 4)
    keyed.admit("b", 0.0)
    keyed.admit("c", 4.1, 4)  # a swap: "a" and "b" are old ones now
    keyed.configure(RateLimiterSettings(rate=1, burst=5), 4.9)
    assert [keyed.remaining(key, 4.9) for key in "abcd"] == [1, 4, 0, 4]
    assert [keyed.remaining(key, 5.9) for key in "abcd"] == [2, 5, 1, 5]


def test_permits_from_before_a_new_burst_bring_nothing_and_those_from_before_a_new_rate_do():
    keyed = make(rate=1, burst=4)
    first, second = keyed.admit("a", 0.0), keyed.admit("b", 0.0)
    keyed.configure(RateLimiterSettings(rate=3, burst=4), 0.0)
    keyed.release(first, 0.0)
    assert keyed.remaining("a", 0.0) == 4
    keyed.configure(RateLimiterSettings(rate=3, burst=3), 0.0)
    keyed.admit("b", 0.0)
    keyed.release(second, 0.0)
    assert keyed.remaining("b", 0.0) == 2


# --- size ---


@pytest.mark.parametrize("names", ["user-{:06}", None], ids=["str", "int"])
def test_a_key_takes_80_bytes_at_most_beside_itself(names):
    keys = [names.format(number) if names else number for number in range(100_000)]
    keyed = make(rate=100, max_keys=200_000)
    gc.collect()
    tracemalloc.start()
    try:
        for key in keys:
            keyed.admit(key, 0.0)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(keyed) == len(keys)
    assert used / len(keys) <= 80


def test_no_table_that_is_dropped_at_once_is_much_larger_than_a_shard():
    keyed = make(rate=100, max_keys=1_000_000)
    assert len(keyed._shards) == math.ceil(1_000_000 / SHARD)
    for number in range(20_000):
        keyed.admit(f"user-{number}", 0.0)
    assert max(map(len, keyed._shards)) < 2 * 20_000 / len(keyed._shards)
    for number in range(20_000):
        assert keyed.remaining(f"user-{number}", 0.0) == 99


# --- any interleaving ---

RATE, BURST, KEYS = 4, 3, "abcde"


class KeyedRules(RuleBasedStateMachine):
    """
    Any interleaving is as one limiter a key; and beyond the most keys it is stricter, never laxer.

    Times are multiples of the interval, the burst's time and what lies beside them. The model is one
    `Gcra` a key, which never forgets anything and gives back nothing but the last permit.
    """

    permits = Bundle("permits")

    @initialize(start=st.sampled_from([0.0, 1024.5]), max_keys=st.sampled_from([2, 3, 5]))
    def begin(self, start, max_keys):
        self.now = start
        self.keyed = make(rate=RATE, burst=BURST, max_keys=max_keys, now=start)
        settings = RateLimiterSettings(rate=RATE, burst=BURST)
        self.models = {key: Gcra(settings, start) for key in KEYS}
        self.used = {key: [] for key in KEYS}
        self.strict = False

    @rule(permits=st.sampled_from([0.5, 1.0, 2.0, 3.0, 3.25, 4.0, 7.0]))
    def wait(self, permits):
        self.now += permits / RATE

    @rule(target=permits, key=st.sampled_from(KEYS), n=st.integers(1, BURST))
    def admit(self, key, n):
        wait = self.keyed.wait_for(key, self.now, n)
        decision = self.keyed.admit(key, self.now, n)
        if isinstance(decision, Refusal):
            assert decision.retry_after == wait > 0
            if not self.strict:
                refusal = self.models[key].admit(self.now, n)
                assert refusal.retry_after == approx(wait)
            return None
        assert wait == 0
        self.strict |= decision.key is OVERFLOW
        entry = [self.now, n]
        self.used[key].append(entry)
        return decision, entry, None if self.strict else self.models[key].admit(self.now, n)

    @rule(permit=consumes(permits))
    def release(self, permit):
        if permit is not None:
            token, entry, twin = permit
            is_last = token.key is not OVERFLOW and self.used[token.key][-1] is entry
            self.keyed.release(token, self.now)
            entry[1] = 0
            if twin is not None and is_last:
                self.models[token.key].release(twin, self.now)
            if not is_last or twin is None:
                self.strict = True  # the model gave back more, or knows nothing of it

    @invariant()
    def keeps_the_bound_of_every_key(self):
        for used in self.used.values():
            tat = -math.inf
            for at, n in used:
                if n:
                    tat = max(tat, at * RATE) + n
                    assert tat - at * RATE <= BURST

    @invariant()
    def is_as_one_limiter_a_key(self):
        for key, model in self.models.items():
            if not self.strict:
                assert self.keyed.remaining(key, self.now) == model.remaining(self.now)

    @invariant()
    def counts_its_keys(self):
        assert len(self.keyed) == sum(map(len, self.keyed._shards)) <= self.keyed.settings.max_keys


TestKeyedGcra = KeyedRules.TestCase
