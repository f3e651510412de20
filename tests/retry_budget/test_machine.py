"""The four rules for who pays for a further attempt, against naive models and their promises."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from resilience.errors import ConfigError
from resilience.outcome import Verdict
from resilience.retry_budget._grpc import GrpcBudget
from resilience.retry_budget._inflight import InflightBudget
from resilience.retry_budget._machine import BudgetMachine, machine_for
from resilience.retry_budget._ratio import SLICES, RatioBudget
from resilience.retry_budget._refund import RefundBudget
from resilience.retry_budget._settings import (
    BudgetSettings,
    GrpcSettings,
    InflightSettings,
    RatioSettings,
    RefundSettings,
)
from resilience.retry_budget._tokens import TOKEN

BAD, TIMED_OUT, THROTTLED, IGNORED = Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED, Verdict.IGNORED
FAMILIES = [RatioSettings(), RefundSettings(), GrpcSettings(), InflightSettings()]
each_family = pytest.mark.parametrize("settings", FAMILIES, ids=lambda settings: type(settings).__name__)
CLOSE = Fraction(1, 10**6)  # of a token: further from a boundary than this, machine and model must agree

# Times at and around the slices' bounds, the life of a deposit, and the filling of the floor.
WAITS = st.sampled_from([0.0, 0.125, 0.5, 1.0, 5.0, 9.0, 9.5, 10.0, 10.5, 20.0, 1000.0])
VERDICTS = st.sampled_from([BAD, TIMED_OUT, THROTTLED, IGNORED])


def price(settings: RatioSettings | RefundSettings, verdict: Verdict) -> int:
    return {TIMED_OUT: settings.timeout_cost, THROTTLED: settings.throttle_cost}.get(verdict, settings.cost)


def ratio(**changes: object) -> RatioBudget:
    """A ratio budget of nothing but its deposits, at time 0."""
    bare = {"min_per_second": 0.0}
    return RatioBudget(RatioSettings(**(bare | changes)), 0.0)


def withdrawals(machine: BudgetMachine, now: float, most: int = 10_000) -> int:
    """Withdraw until refused, or *most* times."""
    for count in range(most):
        if not machine.try_withdraw(BAD, now):
            return count
    return most


class Coin:
    """A deposit, or a part of one, in one slice of the naive model."""

    def __init__(self, slice_: int, made: Fraction) -> None:
        self.slice, self.made, self.left = slice_, made, made


class NaiveRatio:
    """The rule of `RatioBudget`, with a list of coins and exact fractions."""

    def __init__(self, settings: RatioSettings) -> None:
        self.settings = settings
        self.width = Fraction(settings.ttl) / SLICES
        enough = max(2 * settings.cost, settings.timeout_cost, settings.throttle_cost)
        rate = Fraction(settings.min_per_second)
        self.reserve = max(rate * Fraction(settings.ttl), Fraction(enough)) if rate else Fraction(0)
        self.floor = self.reserve
        self.coins: list[Coin] = []
        self.pending = 0
        self.now = Fraction(0)

    def advance(self, now: float) -> None:
        then, self.now = self.now, max(self.now, Fraction(now))
        first, last = math.floor(then / self.width), math.floor(self.now / self.width)
        for number in range(first, last + 1):
            begin, end = max(then, number * self.width), min(self.now, (number + 1) * self.width)
            part = (end - begin) / (self.now - then) if self.now > then else Fraction(1)
            self.coins.append(Coin(number, Fraction(self.settings.ratio) * self.pending * part))
        self.pending = 0
        self.coins = [coin for coin in self.coins if coin.slice > last - SLICES]
        grown = Fraction(self.settings.min_per_second) * (self.now - then)
        self.floor = min(self.reserve, self.floor + grown)

    @property
    def tokens(self) -> Fraction:
        return sum((coin.left for coin in self.coins), self.floor)

    def spend(self, tokens: Fraction) -> None:
        for coin in sorted(self.coins, key=lambda coin: coin.slice):
            part = min(tokens, coin.left)
            coin.left -= part
            tokens -= part
        self.floor -= tokens

    def give(self, tokens: Fraction) -> None:
        for coin in sorted(self.coins, key=lambda coin: -coin.slice):
            part = min(tokens, coin.made - coin.left)
            coin.left += part
            tokens -= part
        self.floor = min(self.reserve, self.floor + tokens)


class RatioRules(RuleBasedStateMachine):
    """Any interleaving of calls, charges, ends and waiting gives what the coins give."""

    charges = Bundle("charges")

    @initialize(
        settings=st.sampled_from(
            [
                RatioSettings(),
                RatioSettings(ratio=0.25, min_per_second=0.0),
                RatioSettings(ratio=0.1, min_per_second=0.1, timeout_cost=2),
                RatioSettings(ratio=1 / 3, min_per_second=1.0, cost=2, timeout_cost=3, throttle_cost=1),
                RatioSettings(ratio=2.0, min_per_second=0.2, refund=False, ttl=5.0),
                RatioSettings(ratio=0.0, min_per_second=0.1),
            ]
        )
    )
    def start(self, settings: RatioSettings) -> None:
        self.now = 0.0
        self.settings = settings
        self.machine = RatioBudget(settings, self.now)
        self.model = NaiveRatio(settings)
        self.deposits = self.refunds = self.taken = self.granted = self.denied = 0

    @rule(seconds=WAITS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(calls=st.sampled_from([1, 3, 9, 10, 11, 100]))
    def deposit(self, calls: int) -> None:
        self.machine.collect(calls, 0)
        self.model.pending += calls
        self.deposits += calls

    @rule(target=charges, verdict=VERDICTS, earlier=st.sampled_from([0.0, 0.0, 3.0]))
    def withdraw(self, verdict: Verdict, earlier: float) -> object:
        charge = self.machine.try_withdraw(verdict, self.now - earlier)
        self.model.advance(self.now - earlier)
        cost = price(self.settings, verdict)
        spare = self.model.tokens - cost
        if abs(spare) > CLOSE:
            assert bool(charge) == (spare > 0)
        self.granted += bool(charge)
        self.denied += not charge
        if not charge:
            return multiple()
        self.taken += cost
        self.model.spend(Fraction(cost))
        assert charge == min(cost, self.settings.cost)
        return charge

    @rule(charge=consumes(charges), good=st.booleans())
    def finish(self, charge: int, good: bool) -> None:
        self.machine.finish(good, charge, self.now)
        if good and self.settings.refund:
            self.model.advance(self.now)
            self.model.give(Fraction(charge))
            self.refunds += charge

    @rule(target=charges, charge=consumes(charges), verdict=VERDICTS)
    def pass_on(self, charge: int, verdict: Verdict) -> object:
        passed = self.machine.pass_on(charge, verdict, self.now)
        if not passed:
            return charge
        assert verdict is Verdict.BAD
        assert passed == self.settings.cost <= charge
        self.granted += 1
        self.taken += passed
        self.refunds += passed
        return multiple(passed, charge - passed) if charge > passed else passed

    @rule()
    def look(self) -> None:
        level, limit = self.machine.level(self.now), self.machine.limit(self.now)
        self.model.advance(self.now)
        assert abs(self.tokens() - self.model.tokens) < CLOSE
        assert 0 <= level <= limit
        assert level == (sum(self.machine._left) + self.machine._floor) // (self.settings.cost * TOKEN)

    def tokens(self) -> Fraction:
        return Fraction(sum(self.machine._left) + self.machine._floor, TOKEN)

    @invariant()
    def nothing_is_spent_twice(self) -> None:
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        assert all(0 <= left <= made for left, made in zip(machine._left, machine._made, strict=True))
        assert 0 <= machine._floor <= machine._reserve
        earned = Fraction(self.settings.ratio) * self.deposits + self.model.reserve
        earned += Fraction(self.settings.min_per_second) * Fraction(self.now)
        assert self.taken - self.refunds <= earned + CLOSE
        assert (machine.granted, machine.denied, machine.refunded) == (
            self.granted,
            self.denied,
            self.refunds,
        )


TestRatio = RatioRules.TestCase


class BucketRules(RuleBasedStateMachine):
    """The bucket of `RefundBudget` holds what an exact one holds."""

    charges = Bundle("charges")

    @initialize(
        settings=st.sampled_from(
            [
                RefundSettings(),
                RefundSettings(capacity=30, initial=30, refill_per_second=0.0),
                RefundSettings(capacity=10, cost=5, timeout_cost=10, throttle_cost=3, reward=0.1),
                RefundSettings(
                    capacity=5, initial=0, cost=1, timeout_cost=2, throttle_cost=1, refill_per_second=0.3
                ),
            ]
        )
    )
    def start(self, settings: RefundSettings) -> None:
        self.now = 0.0
        self.settings = settings
        self.machine = RefundBudget(settings, self.now)
        initial = 2 * settings.cost if settings.initial is None else settings.initial
        self.tokens = min(Fraction(settings.capacity), Fraction(initial))
        self.granted = self.denied = self.refunded = 0

    def add(self, tokens: Fraction) -> None:
        self.tokens = min(Fraction(self.settings.capacity), self.tokens + tokens)

    @rule(seconds=WAITS)
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.add(Fraction(self.settings.refill_per_second) * Fraction(seconds))

    @rule(good=st.sampled_from([1, 5, 14, 100]))
    def succeed(self, good: int) -> None:
        self.machine.level(self.now)
        self.machine.collect(good, good)
        self.add(Fraction(self.settings.reward) * good)

    @rule(target=charges, verdict=VERDICTS)
    def withdraw(self, verdict: Verdict) -> object:
        charge = self.machine.try_withdraw(verdict, self.now)
        cost = price(self.settings, verdict)
        if abs(self.tokens - cost) > CLOSE:
            assert bool(charge) == (self.tokens > cost)
        self.granted += bool(charge)
        self.denied += not charge
        if not charge:
            return multiple()
        self.tokens -= cost
        assert charge == min(cost, self.settings.cost)
        return charge

    @rule(charge=consumes(charges), good=st.booleans())
    def finish(self, charge: int, good: bool) -> None:
        self.machine.finish(good, charge, self.now)
        if good:
            self.add(Fraction(charge))
            self.refunded += charge

    @rule()
    def look(self) -> None:
        assert self.machine.level(self.now) == self.machine._tokens // (self.settings.cost * TOKEN)
        assert self.machine.limit(self.now) == self.settings.capacity // self.settings.cost
        assert abs(Fraction(self.machine._tokens, TOKEN) - self.tokens) < CLOSE

    @invariant()
    def the_bucket_neither_overflows_nor_owes(self) -> None:
        if hasattr(self, "machine"):
            assert 0 <= self.machine._tokens <= self.settings.capacity * TOKEN
            counters = (self.machine.granted, self.machine.denied, self.machine.refunded)
            assert counters == (self.granted, self.denied, self.refunded)


TestBucket = BucketRules.TestCase


class GrpcRules(RuleBasedStateMachine):
    """The throttle of gRPC, against exact decimals."""

    @initialize(
        settings=st.sampled_from(
            [
                GrpcSettings(),
                GrpcSettings(max_tokens=4, token_ratio=0.8),
                GrpcSettings(max_tokens=3, token_ratio=0.333, refill_per_second=0.1),
                GrpcSettings(max_tokens=1, token_ratio=5.0),
            ]
        )
    )
    def start(self, settings: GrpcSettings) -> None:
        self.now = 0.0
        self.settings = settings
        self.machine = GrpcBudget(settings, self.now)
        self.tokens = Fraction(settings.max_tokens)
        self.granted = self.denied = 0

    def add(self, tokens: Fraction) -> None:
        self.tokens = min(Fraction(self.settings.max_tokens), self.tokens + tokens)

    @rule(seconds=WAITS)
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.add(Fraction(str(self.settings.refill_per_second)) * Fraction(seconds))

    @rule(good=st.sampled_from([1, 2, 50]), on_the_hot_path=st.booleans())
    def succeed(self, good: int, on_the_hot_path: bool) -> None:
        self.machine.level(self.now)
        if on_the_hot_path:
            self.machine.collect(good, good)
        else:
            for _ in range(good):
                self.machine.finish(True, 1, self.now)
        self.add(Fraction(str(self.settings.token_ratio)) * good)

    @rule(verdict=VERDICTS, ask=st.booleans())
    def fail(self, verdict: Verdict, ask: bool) -> None:
        if verdict is not IGNORED:
            self.tokens = max(Fraction(0), self.tokens - 1)
        if ask:
            allowed = self.machine.try_withdraw(verdict, self.now) == 1
            assert allowed == (self.tokens > Fraction(self.settings.max_tokens, 2))
            self.granted += allowed
            self.denied += not allowed
        else:
            self.machine.fail(verdict, self.now)

    @rule()
    def end_badly(self) -> None:
        self.machine.finish(False, 3, self.now)
        self.machine.refund(3, self.now)
        self.machine.release()

    @rule()
    def look(self) -> None:
        half = Fraction(self.settings.max_tokens, 2)
        level = max(k for k in range(1001) if k == 0 or self.tokens - k > half)
        assert self.machine.level(self.now) == level
        assert level <= self.machine.limit(self.now)

    @invariant()
    def tokens_are_exact(self) -> None:
        if hasattr(self, "machine"):
            self.machine.level(self.now)
            assert Fraction(self.machine._tokens, TOKEN) == self.tokens
            counters = (self.machine.granted, self.machine.denied, self.machine.refunded)
            assert counters == (self.granted, self.denied, 0)


TestGrpc = GrpcRules.TestCase


class InflightRules(RuleBasedStateMachine):
    """Further attempts are a share of what is in flight, whatever begins and ends."""

    running = Bundle("running")

    @initialize(
        settings=st.sampled_from(
            [
                InflightSettings(),
                InflightSettings(ratio=0.5, min_concurrency=1),
                InflightSettings(ratio=0.29, min_concurrency=0),
                InflightSettings(ratio=1.0, min_concurrency=2),
            ]
        )
    )
    def start(self, settings: InflightSettings) -> None:
        self.settings = settings
        self.machine = InflightBudget(settings, 0.0)
        self.calls = self.extras = self.granted = self.denied = 0

    @rule(target=running, calls=st.sampled_from([1, 2, 10]))
    def begin(self, calls: int) -> object:
        self.machine.collect(calls, 0)
        self.calls += calls
        return multiple(*[1] * calls)

    @rule(_=consumes(running), good=st.booleans(), charges=st.integers(0, 2))
    def end(self, _: int, good: bool, charges: int) -> None:
        if good and not charges:
            self.machine.collect(0, 1)  # counted on the hot path
        else:
            self.machine.finish(good, charges, 0.0)
        self.calls -= 1

    @rule()
    def withdraw(self) -> None:
        share = Fraction(str(self.settings.ratio)) * (self.calls + self.extras)
        allowed = self.extras < self.settings.min_concurrency or self.extras <= share
        assert (self.machine.level(0.0) > 0) == allowed
        assert self.machine.try_withdraw(BAD, 0.0) == allowed
        self.extras += allowed
        self.granted += allowed
        self.denied += not allowed

    @rule()
    def release(self) -> None:
        self.machine.release()
        self.extras = max(0, self.extras - 1)

    @rule()
    def hear_what_does_not_matter(self) -> None:
        self.machine.fail(BAD, 0.0)
        self.machine.refund(2, 0.0)

    @invariant()
    def counts_are_right(self) -> None:
        if hasattr(self, "machine"):
            assert (self.machine._calls, self.machine._extras) == (self.calls, self.extras)
            counters = (self.machine.granted, self.machine.denied, self.machine.refunded)
            assert counters == (self.granted, self.denied, 0)
            assert self.machine.level(0.0) <= self.machine.limit(0.0)


TestInflight = InflightRules.TestCase


# The ratio of calls.


@pytest.mark.parametrize("share", [0.5, 0.25, 0.9999, 0.75, 0.3, 0.1, 0.01, 0.001, 0.0001])
def test_a_ratio_is_kept_without_rounding(share: float) -> None:
    machine = ratio(ratio=share)
    granted = 0
    for _ in range(10_000):
        machine.collect(1, 0)
        granted += machine.try_withdraw(BAD, 0.0)
    assert granted == round(10_000 * share)


def test_ten_calls_at_a_tenth_make_a_whole_attempt() -> None:
    machine = ratio(ratio=0.1)
    for call in range(10):
        assert not machine.try_withdraw(BAD, 0.0), f"{call} calls pay for nothing"
        machine.collect(1, 0)
    assert machine.try_withdraw(BAD, 0.0)
    assert not machine.try_withdraw(BAD, 0.0)


def test_three_calls_at_a_third_make_a_whole_attempt() -> None:
    machine = ratio(ratio=1 / 3)
    machine.collect(3, 0)
    assert withdrawals(machine, 0.0) == 1


@pytest.mark.parametrize(("ttl", "per_second"), [(1.0, 10.0), (2.0, 5.0)])
def test_a_new_budget_holds_its_floor(ttl: float, per_second: float) -> None:
    machine = ratio(ratio=0.0, min_per_second=per_second, ttl=ttl)
    assert machine.level(0.0) == machine.limit(0.0) == 10
    assert withdrawals(machine, 0.0) == 10


def test_the_floor_adds_to_the_share() -> None:
    machine = ratio(ratio=0.5, min_per_second=5.0, ttl=2.0)
    machine.collect(10_000, 0)
    assert withdrawals(machine, 0.0) == 5010


def test_nothing_comes_of_nothing() -> None:
    machine = ratio(ratio=0.0)
    machine.collect(1000, 1000)
    assert machine.level(1000.0) == machine.limit(1000.0) == 0
    assert machine.try_withdraw(BAD, 1000.0) == 0
    assert (machine._made, machine._left, machine._floor) == ([0] * SLICES, [0] * SLICES, 0)


def test_a_deposit_keeps_for_its_time_and_no_longer() -> None:
    machine = ratio(ratio=1.0, ttl=10.0)
    machine.collect(5, 0)
    assert machine.level(0.0) == 5
    assert machine.level(9.875) == 5
    assert machine.level(10.0) == 0


def test_the_limit_follows_the_traffic() -> None:
    machine = ratio(ratio=1.0, ttl=10.0)
    machine.collect(5, 0)
    assert [machine.limit(now) for now in (0.0, 9.875, 10.0)] == [5, 5, 0]


def test_level_and_limit_are_whole_attempts() -> None:
    machine = ratio(ratio=0.25, cost=2)
    machine.collect(15, 0)  # three tokens and three quarters
    for whole in (machine.level(0.0), machine.limit(0.0)):
        assert (whole, type(whole)) == (1, int)


def test_calls_at_one_hertz_do_not_stretch_the_life_of_a_deposit() -> None:
    machine = ratio(ratio=1.0, ttl=3.0)
    machine.collect(100, 0)
    assert [machine.level(float(second)) for second in range(5)] == [100, 100, 100, 0, 0]


def test_an_attempt_does_not_weigh_on_later_calls() -> None:
    machine = ratio(ratio=1.0, ttl=10.0)
    machine.collect(5, 0)
    assert machine.level(0.0) == 5
    assert withdrawals(machine, 9.5) == 5
    assert machine.level(10.0) == 0
    machine.collect(5, 0)
    assert withdrawals(machine, 12.0) == 5, "what was spent at 9.5 is not owed at 12"


def test_the_oldest_deposits_are_spent_first() -> None:
    machine = ratio(ratio=1.0, ttl=10.0)
    machine.collect(3, 0)
    assert machine.level(0.0) == 3
    assert machine.level(5.0) == 3
    machine.collect(3, 0)
    assert machine.level(5.0) == 6
    assert withdrawals(machine, 5.0, most=3) == 3
    assert machine.level(10.0) == 3, "what expires was spent already"


def test_the_floor_is_spent_last_and_fills_again() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.5, ttl=4.0)
    machine.collect(1, 0)
    assert withdrawals(machine, 0.0) == 3
    assert [machine.level(t) for t in (1.9, 2.0, 3.9, 4.0, 100.0)] == [0, 1, 1, 2, 2]


def test_asking_often_does_not_slow_the_floor_down() -> None:
    machine = ratio(ratio=0.0, min_per_second=0.1)
    assert withdrawals(machine, 0.0) == 2
    steps = 10_007
    assert all(machine.level(10.0 * step / steps) == 0 for step in range(1, steps))
    assert machine.level(10.0) == 1


@pytest.mark.parametrize("costs", [{}, {"cost": 3}, {"timeout_cost": 2}, {"cost": 3, "throttle_cost": 5}])
def test_the_floor_is_enough_for_the_further_attempts_of_one_call(costs: dict[str, int]) -> None:
    machine = ratio(ratio=0.0, min_per_second=0.01, **costs)
    assert withdrawals(machine, 0.0) == machine.limit(0.0) == 2


@pytest.mark.parametrize("verdict", [BAD, TIMED_OUT, THROTTLED, IGNORED])
def test_a_new_budget_pays_for_two_attempts_however_the_first_one_ended(verdict: Verdict) -> None:
    machine = RatioBudget(RatioSettings(), 0.0)
    assert [machine.try_withdraw(verdict, 0.0) for _ in range(3)] == [1, 1, 0]


def test_the_floor_is_enough_for_the_dearest_attempt() -> None:
    machine = ratio(ratio=0.0, min_per_second=0.01, timeout_cost=7)
    assert machine.try_withdraw(TIMED_OUT, 0.0)
    assert not machine.try_withdraw(TIMED_OUT, 699.0)
    assert machine.try_withdraw(TIMED_OUT, 700.0)


def test_calls_between_two_questions_are_spread_over_the_time_between() -> None:
    machine = ratio(ratio=1.0, ttl=10.0)
    machine.collect(100, 0)
    assert machine.level(20.0) == 45, "of twenty seconds, the last nine and a bit are alive"
    assert machine.limit(20.0) == 45
    assert [machine.level(20.0 + wait) for wait in (1.0, 5.0, 8.0, 9.0)] == [40, 20, 5, 0]
    short = ratio(ratio=1.0, ttl=5.0)
    short.collect(100, 0)
    assert [short.level(10.0 + wait) for wait in (0.0, 0.5, 4.0, 4.5)] == [45, 40, 5, 0]


def test_after_a_long_silence_the_average_rate_counts() -> None:
    machine = ratio(ratio=0.1, ttl=10.0)
    machine.collect(3600 * 50, 0)  # an hour at 50 per second
    assert 45 <= machine.level(3600.0) <= 50
    assert machine.level(7200.0) == 0


@pytest.mark.parametrize("ttl", [1.1, 2.3, 3.0, 7.0])
def test_every_slice_begins_at_a_multiple_of_its_length(ttl: float) -> None:
    width = ttl / SLICES
    for number in range(200):
        begin = number * width  # as a float, which may lie a little below the quotient's own bound
        machine = RatioBudget(RatioSettings(ratio=1.0, min_per_second=0.0, ttl=ttl), begin)
        machine.collect(1, 0)
        assert machine.level(begin) == 1
        assert machine.level(math.nextafter((number + SLICES) * width, 0.0)) == 1
        assert machine.level((number + SLICES) * width) == 0


def test_deposits_without_passing_time_count_at_once() -> None:
    machine = RatioBudget(RatioSettings(ratio=1.0, min_per_second=0.0), 1e6 + 0.1)
    machine.collect(7, 0)
    assert machine.level(1e6 + 0.1) == 7


def test_a_clock_that_goes_back_counts_as_standing_still() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.1)
    assert withdrawals(machine, 100.0) == 2
    assert machine.level(50.0) == 0
    machine.collect(1, 0)
    assert machine.try_withdraw(BAD, 0.0)
    assert machine.level(109.875) == 0
    assert machine.level(110.0) == 1


def test_time_may_begin_below_zero() -> None:
    machine = RatioBudget(RatioSettings(ratio=1.0, min_per_second=0.0), -12.5)
    machine.collect(4, 0)
    assert machine.level(-12.5) == 4
    assert machine.level(-3.125) == 4
    assert machine.level(-3.0) == 0


def test_a_timeout_costs_more_than_a_quick_failure_and_the_surcharge_is_kept() -> None:
    machine = ratio(ratio=1.0, timeout_cost=2)
    machine.collect(4, 0)
    charge = machine.try_withdraw(TIMED_OUT, 0.0)
    assert (charge, machine.level(0.0)) == (1, 2)
    machine.finish(True, charge, 0.0)
    assert machine.level(0.0) == 3


def test_a_cheap_attempt_gives_back_no_more_than_it_took() -> None:
    machine = ratio(ratio=1.0, cost=3, throttle_cost=2)
    machine.collect(6, 0)
    charge = machine.try_withdraw(THROTTLED, 0.0)
    assert charge == 2
    machine.finish(True, charge, 0.0)
    assert machine.level(0.0) == 2


def test_without_refund_what_is_spent_is_spent() -> None:
    machine = ratio(ratio=1.0, refund=False)
    machine.collect(2, 0)
    machine.finish(True, machine.try_withdraw(BAD, 0.0), 0.0)
    assert machine.level(0.0) == 1
    machine.refund(1, 0.0)  # but by hand it can be given back
    assert machine.level(0.0) == 2


def test_a_refund_does_not_revive_what_has_expired() -> None:
    machine = ratio(ratio=1.0)
    machine.collect(3, 0)
    charges = sum(machine.try_withdraw(BAD, 0.0) for _ in range(3))
    machine.finish(True, charges, 10.0)
    assert machine.level(10.0) == 0


def test_a_refund_that_no_deposit_has_room_for_goes_to_the_floor() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.05)
    machine.collect(1, 0)
    assert withdrawals(machine, 0.0) == 3
    machine.finish(True, 2, 10.0)
    assert machine.level(10.0) == machine.limit(10.0) == 2


def test_no_refund_lifts_a_budget_above_its_limit() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.1)
    machine.collect(3, 0)
    machine.refund(1000, 0.0)
    assert machine.level(0.0) == machine.limit(0.0) == 5


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(0, 30), st.integers(0, 8), st.booleans()
        ),
        min_size=1,
        max_size=25,
    )
)
def test_no_window_pays_for_more_than_was_deposited(steps: list[tuple[float, int, int, bool]]) -> None:
    settings = RatioSettings(ratio=0.25, min_per_second=0.5, ttl=4.0)
    machine = RatioBudget(settings, 0.0)
    now = 0.0
    history: list[tuple[float, int, int, int]] = []
    for wait, deposits, attempts, good in steps:
        now += wait
        machine.collect(deposits, 0)
        charges = [machine.try_withdraw(BAD, now) for _ in range(attempts)]
        if good:
            machine.finish(True, sum(charges), now)
        history.append((now, deposits, sum(charges), sum(charges) if good else 0))
    floor, silence = 2, 3.0
    for first, (begin, *_) in enumerate(history):
        for last in range(first, len(history)):
            end = history[last][0]
            taken = sum(step[2] for step in history[first : last + 1])
            given = sum(step[3] for step in history[first : last + 1])
            alive = sum(step[1] for step in history[: last + 1] if step[0] >= begin - settings.ttl - silence)
            assert taken <= 0.25 * alive + floor + 0.5 * (end - begin) + given + 1e-6


# Refund on success.


def test_a_call_gets_back_all_it_took() -> None:
    machine = RefundBudget(RefundSettings(capacity=30, initial=30, refill_per_second=0.0), 0.0)
    charges = machine.try_withdraw(BAD, 0.0) + machine.try_withdraw(BAD, 0.0)
    assert (charges, machine.level(0.0)) == (28, 0)
    machine.finish(True, charges, 0.0)
    assert machine._tokens == 30 * TOKEN
    assert machine.refunded == 28


def test_a_call_that_ends_badly_gets_nothing_back() -> None:
    machine = RefundBudget(RefundSettings(capacity=500, initial=500, refill_per_second=0.0), 0.0)
    machine.finish(False, machine.try_withdraw(BAD, 0.0), 0.0)
    assert machine._tokens == 486 * TOKEN


@pytest.mark.parametrize(("cost", "retries"), [(5, 100), (14, 35)])
def test_a_full_bucket_bounds_a_run_of_failures(cost: int, retries: int) -> None:
    settings = RefundSettings(initial=500, cost=cost, timeout_cost=cost, refill_per_second=0.0)
    assert withdrawals(RefundBudget(settings, 0.0), 0.0) == retries


@pytest.mark.parametrize(
    ("verdict", "left"), [(BAD, 495), (TIMED_OUT, 490), (THROTTLED, 497), (IGNORED, 495)]
)
def test_the_kind_of_failure_decides_the_cost(verdict: Verdict, left: int) -> None:
    settings = RefundSettings(initial=500, cost=5, timeout_cost=10, throttle_cost=3, refill_per_second=0.0)
    machine = RefundBudget(settings, 0.0)
    assert machine.try_withdraw(verdict, 0.0)
    assert machine._tokens == left * TOKEN


def test_fourteen_good_calls_pay_for_one_attempt() -> None:
    machine = RefundBudget(RefundSettings(initial=0, refill_per_second=0.0), 0.0)
    machine.collect(13, 13)
    assert not machine.try_withdraw(BAD, 0.0)
    machine.collect(1, 1)
    assert machine.try_withdraw(BAD, 0.0)


def test_a_bucket_starts_low_and_fills_with_time() -> None:
    machine = RefundBudget(RefundSettings(), 0.0)
    assert withdrawals(machine, 0.0) == 2
    assert [machine.level(t) for t in (13.0, 14.0, 28.0)] == [0, 1, 2]
    assert machine.level(1e6) == machine.limit(1e6) == 35


def test_a_small_bucket_starts_full() -> None:
    assert RefundBudget(RefundSettings(capacity=20), 0.0)._tokens == 20 * TOKEN


# gRPC.


def test_grpc_charges_first_and_compares_then() -> None:
    machine = GrpcBudget(GrpcSettings(max_tokens=4, token_ratio=0.8), 0.0)
    assert [machine.try_withdraw(BAD, 0.0) for _ in range(6)] == [1, 0, 0, 0, 0, 0]
    allowed = []
    for _ in range(6):
        machine.finish(True, 1, 0.0)
        allowed.append(machine.try_withdraw(IGNORED, 0.0))
    assert allowed == [0, 0, 1, 1, 1, 1]
    assert [machine.try_withdraw(BAD, 0.0) for _ in range(2)] == [1, 0]


def test_grpc_grants_less_than_half_of_its_tokens_in_a_total_failure() -> None:
    for most in (10, 9, 1, 1000):
        machine = GrpcBudget(GrpcSettings(max_tokens=most), 0.0)
        expected = math.ceil(most / 2) - 1
        assert machine.level(0.0) == machine.limit(0.0) == expected
        assert withdrawals(machine, 0.0) == expected


@pytest.mark.parametrize(("most", "successes"), [(10, 51), (100, 501)])
def test_grpc_comes_back_after_half_of_its_tokens_in_successes(most: int, successes: int) -> None:
    machine = GrpcBudget(GrpcSettings(max_tokens=most), 0.0)
    for _ in range(most):
        machine.fail(BAD, 0.0)
    for _ in range(successes - 1):
        machine.collect(1, 1)
    assert not machine.try_withdraw(IGNORED, 0.0)
    machine.collect(1, 1)
    assert machine.try_withdraw(IGNORED, 0.0)


def test_grpc_follows_upstreams_own_sequence() -> None:
    # The server answers these requests; four attempts per call, without waiting.
    answered = {0, 3, 6, 10, 11, 12, 13, 14, 16, 18}
    machine = GrpcBudget(GrpcSettings(max_tokens=10, token_ratio=0.5), 0.0)
    request = -1
    ends = []
    for _ in range(12):
        request += 1
        charges = 0
        while request not in answered and (charge := machine.try_withdraw(BAD, 0.0)):
            charges += charge
            request += 1
        machine.finish(request in answered, charges, 0.0)
        ends.append((request, machine._tokens / TOKEN))
    requests = [0, 3, 6, 8, 9, 10, 11, 12, 13, 14, 16, 17]
    tokens = [10, 8.5, 7, 5, 4, 4.5, 5, 5.5, 6, 6.5, 6, 5]
    assert ends == list(zip(requests, tokens, strict=True))


def test_grpc_counts_a_failure_after_which_nobody_asks() -> None:
    machine = GrpcBudget(GrpcSettings(), 0.0)
    for verdict in (BAD, TIMED_OUT, THROTTLED, IGNORED, Verdict.GOOD):
        machine.fail(verdict, 0.0)
    machine.finish(False, 0, 0.0)
    assert machine._tokens == 7 * TOKEN


def test_grpc_without_refill_never_comes_back_by_itself_and_with_it_does() -> None:
    for refill, back in ((0.0, 0), (0.1, 1)):
        machine = GrpcBudget(GrpcSettings(refill_per_second=refill), 0.0)
        for _ in range(10):
            machine.fail(BAD, 0.0)
        assert machine.try_withdraw(IGNORED, 50.0) == 0
        assert machine.try_withdraw(IGNORED, 51.0) == back


# What is in flight.


def test_budget_1_a_share_of_what_is_in_flight_may_be_exceeded_by_one() -> None:
    machine = InflightBudget(InflightSettings(ratio=0.5, min_concurrency=1), 0.0)
    machine.collect(1, 0)
    assert machine.try_withdraw(BAD, 0.0)  # now two executions, one of them a further attempt
    assert machine.try_withdraw(BAD, 0.0)
    assert not machine.try_withdraw(BAD, 0.0)
    machine.release()
    assert machine.try_withdraw(BAD, 0.0)


def test_budget_2_the_floor_permits_what_the_share_does_not() -> None:
    machine = InflightBudget(InflightSettings(ratio=0.5, min_concurrency=2), 0.0)
    assert machine.try_withdraw(BAD, 0.0)  # one execution, and it is a further attempt
    assert machine.try_withdraw(BAD, 0.0)
    assert not machine.try_withdraw(BAD, 0.0)


def test_a_release_too_many_frees_nothing() -> None:
    machine = InflightBudget(InflightSettings(min_concurrency=1), 0.0)
    machine.release()
    machine.release()
    assert withdrawals(machine, 0.0, most=10) == 1


def test_a_call_that_ended_twice_does_not_count_as_owed() -> None:
    machine = InflightBudget(InflightSettings(ratio=1.0, min_concurrency=0), 0.0)
    machine.finish(True, 1, 0.0)
    machine.finish(False, 0, 0.0)
    machine.collect(3, 0)
    assert machine.limit(0.0) == 4


# Stability: what a family does to a dependency that fails.


def gain(settings: BudgetSettings, failing: float, calls: int, rate: float = 20.0) -> float:
    """Attempts per call over the second half of *calls*, at most three attempts each."""
    machine = machine_for(settings, 0.0)
    draws = random.Random(3)
    attempts = 0
    for call in range(calls):
        now = call / rate
        machine.collect(1, 0)
        charges = 0
        for attempt in range(1, 4):
            attempts += call >= calls // 2
            if draws.random() >= failing:
                if charges:
                    machine.finish(True, charges, now)
                else:
                    machine.collect(0, 1)
                break
            charge = machine.try_withdraw(BAD, now) if attempt < 3 else machine.fail(BAD, now) or 0
            machine.release()
            if not charge:
                machine.finish(False, charges, now)
                break
            charges += charge
    return attempts / (calls - calls // 2)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (RatioSettings(), 1.1 + 0.1 / 20),
        (RatioSettings(ratio=0.5), 1.5 + 0.1 / 20),
        (RefundSettings(), 1.0 + 1 / 14 / 20),
        (GrpcSettings(), 1.0),
    ],
)
def test_when_everything_fails_attempts_per_call_come_down(settings: BudgetSettings, most: float) -> None:
    assert gain(settings, failing=1.0, calls=4000) <= most + 0.003


@pytest.mark.parametrize("settings", [RatioSettings(), RefundSettings()])
def test_retries_that_help_are_free(settings: BudgetSettings) -> None:
    assert gain(settings, failing=0.2, calls=4000) == pytest.approx(1.24, abs=0.03)


@pytest.mark.parametrize("verdict", [BAD, TIMED_OUT, THROTTLED])
def test_a_thousand_small_clients_add_little_to_an_outage(verdict: Verdict) -> None:
    calls, extra = 0, 0
    for _ in range(1000):
        machine = RatioBudget(RatioSettings(), 0.0)
        for second in range(60):  # one call per second each
            machine.collect(1, 0)
            calls += 1
            extra += bool(machine.try_withdraw(verdict, float(second)))
    assert extra <= 1000 * 2 + 0.2 * calls, "two at the start, then a tenth of the calls and the floor"


@each_family
def test_when_everything_succeeds_nothing_changes(settings: BudgetSettings) -> None:
    machine, untouched = machine_for(settings, 0.0), machine_for(settings, 0.0)
    for call in range(100):
        for each in (machine, untouched):
            each.collect(1, 0)
        charges = sum(machine.try_withdraw(IGNORED, call / 10) for _ in range(2))
        machine.release()
        machine.release()
        machine.finish(True, charges, call / 10)
        if isinstance(untouched, InflightBudget | GrpcBudget):
            untouched.collect(0, 1)
        untouched.level(call / 10)  # asked as often, so that deposits are dated alike
    machine.granted = machine.denied = machine.refunded = 0
    where_to_look_first = {"_oldest", "_spent"}
    slots = [name for name in type(machine).__slots__ if name not in {"_settings", *where_to_look_first}]
    assert [getattr(machine, name) for name in slots] == [getattr(untouched, name) for name in slots]


# New settings, and forks.


def test_a_new_ratio_holds_for_new_deposits() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.1)
    machine.collect(4, 0)
    assert withdrawals(machine, 0.0) == 6
    machine.collect(4, 0)  # before the change, though nobody has asked since
    machine.configure(RatioSettings(ratio=0.5, min_per_second=0.5), 2.0)
    assert machine.level(2.0) == 4
    machine.collect(4, 0)
    assert machine.level(2.0) == 6
    assert machine.level(3.5) == 6, "the floor filled at the old rate until the change"
    assert machine.level(3.6) == 7


def test_a_new_life_time_keeps_what_is_there() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.5)
    machine.collect(8, 0)
    assert withdrawals(machine, 2.0, most=3) == 3
    machine.configure(RatioSettings(ratio=1.0, min_per_second=0.1, ttl=2.0), 2.0)
    assert (machine.level(2.0), machine.limit(2.0)) == (5 + 2, 8 + 2)
    assert (machine.level(4.0), machine.limit(4.0)) == (2, 2)


def test_a_floor_that_is_switched_on_fills_from_nothing() -> None:
    machine = ratio(ratio=0.0)
    machine.configure(RatioSettings(ratio=0.0, min_per_second=0.1), 5.0)
    assert machine.level(5.0) == 0
    assert machine.level(15.0) == 1


def test_a_smaller_bucket_keeps_what_fits() -> None:
    bucket = RefundBudget(RefundSettings(initial=500), 0.0)
    bucket.configure(RefundSettings(capacity=28), 0.0)
    assert bucket.level(0.0) == bucket.limit(0.0) == 2
    grpc = GrpcBudget(GrpcSettings(max_tokens=100), 0.0)
    grpc.configure(GrpcSettings(max_tokens=10), 0.0)
    assert grpc.level(0.0) == grpc.limit(0.0) == 4


def test_time_before_new_settings_counts_at_the_old_rate() -> None:
    bucket = RefundBudget(RefundSettings(initial=0, refill_per_second=1.0), 0.0)
    bucket.configure(RefundSettings(refill_per_second=0.0), 14.0)
    assert bucket.level(100.0) == 1
    grpc = GrpcBudget(GrpcSettings(refill_per_second=1.0), 0.0)
    for _ in range(10):
        grpc.fail(BAD, 0.0)
    grpc.configure(GrpcSettings(), 7.0)
    assert grpc.level(100.0) == 1


def test_new_settings_keep_what_is_in_flight() -> None:
    machine = InflightBudget(InflightSettings(), 0.0)
    machine.collect(9, 0)
    assert machine.try_withdraw(BAD, 0.0)
    machine.configure(InflightSettings(ratio=0.1, min_concurrency=0), 0.0)
    assert (machine.limit(0.0), machine.level(0.0)) == (2, 1)


def test_a_child_does_not_spend_what_its_parent_earned() -> None:
    machine = ratio(ratio=1.0, min_per_second=0.1)
    machine.collect(100, 0)
    assert machine.try_withdraw(BAD, 1.0)
    machine.collect(100, 0)
    machine.after_fork(2.0)
    assert machine.level(2.0) == machine.limit(2.0) == 2
    assert (machine._made, machine._left) == ([0] * SLICES, [0] * SLICES)
    assert (machine.granted, machine.denied, machine.refunded) == (0, 0, 0)
    bucket = RefundBudget(RefundSettings(initial=None), 0.0)
    bucket.collect(1000, 1000)
    bucket.after_fork(100.0)
    assert bucket.level(100.0) == 2


def test_a_child_does_not_get_more_than_its_parent_had_left() -> None:
    machine = ratio(ratio=0.0, min_per_second=0.1)
    assert withdrawals(machine, 0.0) == 2
    machine.after_fork(0.0)
    assert machine.level(0.0) == 0
    bucket = RefundBudget(RefundSettings(), 0.0)
    assert withdrawals(bucket, 0.0) == 2
    bucket.after_fork(0.0)
    assert bucket.level(0.0) == 0


def test_a_child_knows_what_its_parent_learnt_of_the_dependency() -> None:
    machine = GrpcBudget(GrpcSettings(), 0.0)
    for _ in range(10):
        machine.fail(BAD, 0.0)
    machine.after_fork(0.0)
    assert machine.level(0.0) == 0


@each_family
def test_a_child_has_granted_denied_and_got_back_nothing_yet(settings: BudgetSettings) -> None:
    machine = machine_for(settings, 0.0)
    machine.collect(1, 0)
    assert withdrawals(machine, 0.0)
    machine.refund(1, 0.0)
    assert machine.granted
    assert machine.denied
    machine.after_fork(0.0)
    assert (machine.granted, machine.denied, machine.refunded) == (0, 0, 0)


def test_nothing_is_in_flight_in_a_child() -> None:
    machine = InflightBudget(InflightSettings(ratio=0.5, min_concurrency=1), 0.0)
    machine.collect(10, 0)
    assert withdrawals(machine, 0.0, most=3) == 3
    machine.after_fork(0.0)
    assert (machine.level(0.0), machine.limit(0.0), machine.granted) == (1, 1, 0)
    machine.finish(True, 1, 0.0)  # a call that began before the fork
    machine.collect(1, 0)
    assert machine.limit(0.0) == 1


@each_family
def test_families_ignore_what_is_not_theirs(settings: BudgetSettings) -> None:
    machine = machine_for(settings, 0.0)
    level = machine.level(0.0)
    machine.fail(IGNORED, 0.0)
    machine.release()
    machine.finish(False, 0, 0.0)
    assert machine.level(0.0) == level


# Settings.


@pytest.mark.parametrize(
    ("kind", "setting", "wrong"),
    [
        *[(RatioSettings, "ratio", wrong) for wrong in (-0.1, 1000.1, math.nan, math.inf, True, "0.1", None)],
        *[
            (RatioSettings, "min_per_second", wrong)
            for wrong in (-1, 1e7, math.nan, math.inf, False, "1", None)
        ],
        *[(RatioSettings, "ttl", wrong) for wrong in (0, 0.9, 61, math.nan, math.inf, True, "10", None)],
        *[(RatioSettings, "refund", wrong) for wrong in (0, 1, None, "yes")],
        *[
            (RatioSettings, name, wrong)
            for name in ("cost", "timeout_cost", "throttle_cost")
            for wrong in (0, 1.0)
        ],
        *[(RefundSettings, "capacity", wrong) for wrong in (0, -1, 500.0, True, None, 13)],
        *[(RefundSettings, "initial", wrong) for wrong in (-1, 1.0, True, 501)],
        *[(RefundSettings, "reward", wrong) for wrong in (-0.1, 1e7, math.nan, math.inf, True, None)],
        *[
            (RefundSettings, "refill_per_second", wrong)
            for wrong in (-0.1, 1e7, math.nan, math.inf, True, None)
        ],
        *[
            (RefundSettings, name, wrong)
            for name in ("cost", "timeout_cost", "throttle_cost")
            for wrong in (0, True)
        ],
        *[(GrpcSettings, "max_tokens", wrong) for wrong in (0, 1001, 10.0, True, math.nan, None)],
        *[
            (GrpcSettings, "token_ratio", wrong)
            for wrong in (0, 0.0009, 1001, math.nan, math.inf, True, None)
        ],
        *[
            (GrpcSettings, "refill_per_second", wrong)
            for wrong in (-0.1, 1e7, math.nan, math.inf, True, None)
        ],
        *[(InflightSettings, "ratio", wrong) for wrong in (0, -0.1, 1.1, math.nan, math.inf, True, None)],
        *[(InflightSettings, "min_concurrency", wrong) for wrong in (-1, 1.0, True, math.nan, None)],
    ],
)
def test_a_setting_that_cannot_work_is_refused(kind: type, setting: str, wrong: object) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**{setting: wrong})
    assert [problem.setting for problem in caught.value.problems] == [setting]


@pytest.mark.parametrize(
    "settings",
    [
        RatioSettings(ratio=0, min_per_second=0, ttl=1),
        RatioSettings(ratio=1000, min_per_second=1_000_000, ttl=60),
        RefundSettings(capacity=14, initial=14, reward=0, refill_per_second=0),
        RefundSettings(capacity=10**9, initial=0),
        GrpcSettings(max_tokens=1, token_ratio=0.001),
        GrpcSettings(max_tokens=1000, token_ratio=1000),
        InflightSettings(ratio=1, min_concurrency=0),
    ],
    ids=repr,
)
def test_a_setting_at_its_bound_works(settings: BudgetSettings) -> None:
    machine = machine_for(settings, 1e7)
    machine.collect(10**6, 0)
    machine.level(1e7)
    machine.try_withdraw(TIMED_OUT, 1e7 + 0.3)
    assert 0 <= machine.level(1e9) <= machine.limit(1e9)


def test_every_problem_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        RefundSettings(capacity=-1, initial=-1, reward=-1, refill_per_second=-1, cost=0, throttle_cost=0)
    names = ["capacity", "initial", "reward", "refill_per_second", "cost", "throttle_cost"]
    assert [problem.setting for problem in caught.value.problems] == names
    assert caught.value.subject == "RetryBudget.refund"
