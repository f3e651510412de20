"""The throttle, told the time and the draw: the formula, and one behaviour a test."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resilience._core.permit import NEVER, Refusal
from resilience.outcome import Verdict
from resilience.priority import Priority
from resilience.throttle._machine import NEWS_KEPT, NORMAL, RANKS, Throttle, rejection_probability
from resilience.throttle._settings import AdaptiveThrottleSettings

GOOD, BAD, TIMED_OUT, THROTTLED, IGNORED = Verdict
CRITICAL, HIGH, _, LOW, SHEDDABLE = range(RANKS)
START = 100.0
LUCKY = math.nextafter(1.0, 0.0)
"""The draw that passes whenever any does."""

counts = st.integers(0, 10**9)
factors = st.floats(1.0, 1e6)
shares = st.floats(0.0, 1.0)


class Scene:
    """A throttle without a floor, unless it is given one, and the time of day."""

    def __init__(self, **settings):
        self.now = START
        self.throttle = Throttle(self.settings(**settings), self.now)

    @staticmethod
    def settings(**settings):
        return AdaptiveThrottleSettings(**{"floor": None, "minimum_throughput": 1, **settings})

    def wait(self, seconds):
        self.now += seconds

    def admit(self, draw=LUCKY, rank=NORMAL):
        return self.throttle.admit(self.now, draw, rank)

    def passes(self, draw=LUCKY, rank=NORMAL):
        return self.admit(draw, rank) is not NEVER

    def settle(self, token, verdict):
        self.throttle.settle(token, verdict, self.now)

    def call(self, *verdicts, rank=NORMAL):
        """Make calls that chance lets pass, all at once."""
        self.mix({rank: verdicts})

    def mix(self, classes):
        """Make calls of several classes at once."""
        ends = [
            (self.admit(rank=rank), verdict) for rank, verdicts in classes.items() for verdict in verdicts
        ]
        assert NEVER not in [token for token, _ in ends]
        for token, verdict in ends:
            self.settle(token, verdict)

    def refuse(self, calls, rank=NORMAL):
        for _ in range(calls):
            assert self.admit(0.0, rank) is NEVER

    def p(self, rank=NORMAL):
        return self.throttle.probability(self.now, rank)


# The formula


@pytest.mark.parametrize(
    ("requests", "accepts", "k", "cap", "p"),
    [
        (0, 0, 2.0, 1.0, 0.0),
        (1, 0, 2.0, 1.0, 0.5),
        (120, 90, 1 / 0.9, 0.9, 20 / 121),
        (100, 95, 1 / 0.9, 0.9, 0.0),
        (1000, 10, 1 / 0.9, 0.9, 0.9),
        (100, 50, 2.0, 1.0, 0.0),
        (100, 49, 2.0, 1.0, 2 / 101),
    ],
)
def test_the_share_is_what_is_asked_for_beyond_k_times_the_accepted(requests, accepts, k, cap, p):
    """limiter-6 (failsafe-go), with the limit at half of the requests added."""
    assert rejection_probability(requests, accepts, k, cap=cap) == pytest.approx(p)


def test_twice_what_is_accepted_may_be_asked_for_unless_told_otherwise():
    assert rejection_probability(10, 5) == 0.0
    assert rejection_probability(10, 4) == 2 / 11


def test_a_padding_makes_the_share_smaller():
    assert rejection_probability(1, 0, padding=3.0) == 0.25


def test_below_the_minimum_nothing_is_refused():
    assert rejection_probability(19, 0, minimum=20) == 0.0
    assert rejection_probability(20, 0, minimum=20) == 20 / 21
    assert rejection_probability(15, 0, above=5, minimum=20) == 1.0


def test_what_more_important_classes_ask_for_uses_up_the_accepted():
    assert rejection_probability(9, 5, 2.0, above=1) == 0.0
    assert rejection_probability(9, 5, 2.0, above=2) == 0.1
    assert rejection_probability(9, 5, 2.0, above=11) == 1.0


def test_a_class_that_asks_for_the_first_time_gets_what_is_left():
    assert rejection_probability(0, 5, 2.0, above=10) == 0.0
    assert rejection_probability(0, 5, 2.0, above=11) == 1.0


@given(requests=counts, accepts=counts, k=factors, above=counts, minimum=counts, cap=shares)
def test_the_share_is_never_below_zero_nor_above_the_cap(requests, accepts, k, above, minimum, cap):
    p = rejection_probability(requests, accepts, k, above=above, minimum=minimum, cap=cap)
    assert 0.0 <= p <= cap


@given(requests=counts, accepts=counts, k=factors)
def test_one_class_alone_is_never_refused_for_sure(requests, accepts, k):
    assert rejection_probability(requests, accepts, k) < 1.0


@given(accepts=counts, k=factors, share=shares)
def test_nothing_is_refused_while_enough_is_accepted(accepts, k, share):
    requests = int(accepts * k * share)
    assert rejection_probability(requests, accepts, k) == 0.0


@given(requests=counts, accepts=counts, more=counts, k=factors, above=counts, minimum=counts)
def test_more_accepted_calls_never_raise_the_share(requests, accepts, more, k, above, minimum):
    def share(accepts):
        return rejection_probability(requests, accepts, k, above=above, minimum=minimum)

    assert share(accepts + more) <= share(accepts)


@given(requests=counts, accepts=counts, more=counts, k=factors, above=counts, minimum=counts)
def test_more_requests_never_lower_the_share(requests, accepts, more, k, above, minimum):
    def share(requests, above):
        return rejection_probability(requests, accepts, k, above=above, minimum=minimum)

    assert share(requests + more, above) >= share(requests, above) - 1e-12
    assert share(requests, above + more) >= share(requests, above)


@given(accepts=counts, k=factors, minimum=counts, classes=st.lists(counts, min_size=2, max_size=RANKS))
def test_the_share_never_falls_with_the_priority(accepts, k, minimum, classes):
    shares = [
        rejection_probability(requests, accepts, k, above=sum(classes[:rank]), minimum=minimum)
        for rank, requests in enumerate(classes)
    ]
    assert shares == sorted(shares)


# Counting


def test_a_new_throttle_refuses_nobody():
    scene = Scene()
    assert scene.p() == 0.0
    assert all(scene.passes(0.0) for _ in range(100))


def test_a_call_passes_unless_its_draw_is_below_the_share():
    """adaptive_throttle/envoy_first_version_half_fail: half of a thousand calls accepted."""
    scene = Scene(k=1.0)
    scene.call(*[GOOD] * 500, *[BAD] * 500)
    assert scene.p() == 500 / 1001
    assert not scene.passes(0.45)
    scene = Scene(k=1.0)
    scene.call(*[GOOD] * 500, *[BAD] * 500)
    assert scene.passes(0.55)
    assert scene.passes(500 / 1001)


@pytest.mark.parametrize("verdict", [BAD, TIMED_OUT, THROTTLED])
def test_only_a_good_result_was_accepted(verdict):
    scene = Scene()
    scene.call(verdict)
    assert scene.p() == 0.5
    scene.call(GOOD)
    assert scene.p() == 0.0
    assert scene.throttle.ended[verdict] == 1
    assert scene.throttle.good == 1


def test_a_refused_call_was_asked_for_as_well():
    scene = Scene(k=1.0)
    scene.call(GOOD, GOOD, BAD)
    assert scene.p() == 1 / 4
    scene.refuse(6)
    assert scene.p() == 7 / 10
    assert scene.throttle.rejected == [0, 0, 6, 0, 0]


def test_calls_under_way_are_held_against_nobody():
    scene = Scene(minimum_throughput=2)
    tokens = [scene.admit(0.0) for _ in range(100)]
    assert NEVER not in tokens
    assert scene.p() == 0.0
    for token in tokens:
        scene.settle(token, GOOD)
    assert scene.p() == 0.0


def test_a_call_counts_when_it_ends_however_long_it_took():
    scene = Scene(sampling_duration=5.0)
    token = scene.admit()
    scene.wait(60.0)
    scene.settle(token, TIMED_OUT)
    assert scene.p() == 0.5


def test_an_ignored_and_a_cancelled_call_teach_nothing():
    scene = Scene()
    scene.call(BAD)
    before = scene.p()
    scene.call(IGNORED)
    scene.throttle.release(scene.admit(), scene.now, cancelled=True)
    assert scene.p() == before
    assert (scene.throttle.ignored, scene.throttle.cancelled, scene.throttle.good) == (1, 1, 0)


def test_every_ignored_and_every_cancelled_call_is_counted():
    scene = Scene()
    for _ in range(3):
        scene.call(IGNORED)
    for _ in range(2):
        scene.throttle.release(scene.admit(), scene.now, cancelled=True)
    assert (scene.throttle.ignored, scene.throttle.cancelled) == (3, 2)


def test_without_a_draw_a_call_is_refused_if_any_would_be():
    scene = Scene()
    scene.call(BAD)
    assert scene.throttle.admit(scene.now) is NEVER


def test_nothing_is_refused_before_the_minimum():
    scene = Scene(minimum_throughput=20)
    scene.call(*[THROTTLED] * 19)
    assert scene.passes(0.0)
    scene.call(THROTTLED)
    assert scene.p() == 20 / 21
    assert not scene.passes(0.0)


def test_what_is_older_than_the_window_is_forgotten():
    scene = Scene(sampling_duration=5.0)
    scene.call(BAD)
    scene.wait(4.5 - 1e-9)
    assert scene.p() == 0.5
    scene.wait(0.5 + 1e-9)
    assert scene.p() == 0.0


def test_refusals_are_forgotten_too_so_that_it_always_asks_again():
    scene = Scene()
    scene.call(BAD)
    scene.refuse(1000)
    scene.wait(5.0)
    assert scene.passes(0.0)


def test_a_clock_that_goes_back_counts_as_one_that_stands_still():
    scene = Scene()
    scene.call(BAD)
    scene.wait(-60.0)
    assert scene.p() == 0.5
    scene.call(BAD)
    assert scene.p() == 2 / 3
    scene.wait(65.0)
    assert scene.p() == 0.0


def test_a_refusal_names_no_time():
    scene = Scene()
    scene.call(BAD)
    assert scene.admit(0.0).retry_after is None


def test_a_clock_that_goes_back_brings_no_call_of_the_floor():
    scene = Scene(floor=1.0)
    scene.call(*[BAD] * 10)
    scene.wait(-50.0)
    assert scene.passes(LUCKY)
    scene.wait(10.0)
    assert not scene.passes(0.0)


# Priority


def test_the_classes_are_those_of_priority():
    assert len(Priority) == RANKS
    assert [priority.rank for priority in Priority] == list(range(RANKS))
    assert Priority.NORMAL.rank == NORMAL


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_class_alone_follows_the_formula(rank):
    scene = Scene(k=1.0)
    scene.call(GOOD, BAD, BAD, rank=rank)
    assert scene.p(rank) == 0.5


def test_the_most_important_calls_are_refused_last():
    scene = Scene(k=1.0)
    others = {rank: [BAD] * 4 for rank in (CRITICAL, HIGH, LOW, SHEDDABLE)}
    scene.mix({NORMAL: [GOOD] * 10, **others})
    assert [scene.p(rank) for rank in range(RANKS)] == [0.0, 0.0, 8 / 11, 1.0, 1.0]


def test_what_more_important_classes_do_not_need_goes_to_the_next():
    scene = Scene(k=2.0)
    scene.mix({CRITICAL: [GOOD] * 4, SHEDDABLE: [BAD] * 8})
    assert [scene.p(rank) for rank in (CRITICAL, LOW, SHEDDABLE)] == [0.0, 0.0, 4 / 9]


def test_less_important_calls_get_nobody_refused():
    scene = Scene(k=1.0, minimum_throughput=5)
    scene.mix({NORMAL: [BAD] * 4, SHEDDABLE: [BAD] * 1000})
    assert scene.p() == 0.0
    assert scene.p(LOW) == 0.0
    assert scene.p(SHEDDABLE) == 1.0


def test_the_classes_together_get_about_k_times_what_is_accepted():
    """As much is refused of a mix as of one class: what is asked for beyond k times the accepted."""
    scene = Scene(k=2.0)
    asked = {CRITICAL: 50, NORMAL: 200, SHEDDABLE: 100}
    scene.mix({rank: [BAD] * (calls - 30) + [GOOD] * 30 for rank, calls in asked.items()})
    refused = sum(scene.p(rank) * calls for rank, calls in asked.items())
    assert refused == pytest.approx(350 - 2 * 90, abs=2)


# The floor


def test_the_floor_lets_one_call_pass_in_so_much_time():
    scene = Scene(floor=2.0)
    scene.call(*[BAD] * 50)
    scene.wait(0.5)
    passed = []
    for _ in range(32):
        if scene.passes(0.0):
            passed.append(scene.now)
        scene.wait(0.125)
    assert passed == [START + 0.5 * n for n in range(1, 9)]
    assert scene.throttle.spared == 8


def test_a_call_that_chance_let_pass_is_one_of_the_floor():
    scene = Scene(floor=1.0)
    scene.call(*[BAD] * 10)
    scene.wait(0.75)
    assert scene.passes(LUCKY)
    assert scene.throttle.spared == 0
    scene.wait(0.75)
    assert not scene.passes(0.0)
    scene.wait(0.25)
    assert scene.passes(0.0)
    assert scene.throttle.spared == 1


def test_a_call_that_nobody_would_have_refused_is_none_of_the_floor():
    scene = Scene(floor=1.0)
    scene.mix({NORMAL: [GOOD] * 2, LOW: [BAD] * 10})
    scene.wait(1.0)
    assert scene.passes(0.0)
    assert scene.passes(0.0, LOW)
    assert not scene.passes(0.0, LOW)


def test_the_floor_is_for_calls_of_whatever_priority():
    scene = Scene(floor=1.0)
    scene.call(*[BAD] * 10)
    scene.wait(1.0)
    assert scene.p(SHEDDABLE) == 1.0
    assert scene.passes(0.0, SHEDDABLE)
    assert not scene.passes(0.0)


def test_without_a_floor_nothing_passes_but_by_chance():
    scene = Scene(floor=None, sampling_duration=1000.0)
    scene.call(*[BAD] * 10)
    scene.wait(900.0)
    assert not scene.passes(0.0)


@given(
    floor=st.sampled_from([0.25, 1.0, 8.0]),
    gaps=st.lists(st.sampled_from([0.0, 0.125, 0.5, 1.0, 4.0]), min_size=1, max_size=60),
    draws=st.lists(st.sampled_from([0.0, 0.5, LUCKY]), min_size=60, max_size=60),
    ranks=st.lists(st.integers(0, RANKS - 1), min_size=60, max_size=60),
)
def test_the_floor_always_probes(floor, gaps, draws, ranks):
    """Whoever comes when nobody has passed for 1 / floor seconds passes."""
    scene = Scene(floor=floor)
    scene.mix({rank: [BAD] * 5 for rank in range(RANKS)})
    last = scene.now
    for gap, draw, rank in zip(gaps, draws, ranks, strict=False):
        scene.wait(gap)
        token = scene.admit(draw, rank)
        if token is NEVER:
            assert scene.now - last < 1.0 / floor
        else:
            last = scene.now
            scene.settle(token, BAD)  # so that any call might be refused


def test_the_floor_makes_a_recovery_faster():
    def seconds_until_nothing_is_refused(floor):
        scene = Scene(floor=floor, sampling_duration=5.0, minimum_throughput=20)
        draws = iter(number * 0.618034 % 1.0 for number in range(100_000))
        for second in range(60):
            was_refused = sum(scene.throttle.rejected)
            for _ in range(16):
                scene.wait(1 / 16)
                token = scene.admit(next(draws))
                if token is not NEVER:
                    scene.settle(token, GOOD if second >= 10 else BAD)
            if second >= 10 and sum(scene.throttle.rejected) == was_refused:
                return second - 10
        return 60

    assert seconds_until_nothing_is_refused(2.0) <= seconds_until_nothing_is_refused(1.0)
    assert seconds_until_nothing_is_refused(1.0) < seconds_until_nothing_is_refused(None)


# What is reported


def test_it_sheds_from_the_first_refusal_until_a_window_after_the_last():
    scene = Scene(sampling_duration=5.0)
    scene.call(BAD)
    assert not scene.throttle.is_shedding
    assert not scene.throttle.has_news
    scene.refuse(1)
    assert scene.throttle.is_shedding
    assert scene.throttle.drain() == [True]
    scene.wait(2.0)
    scene.refuse(1)
    scene.wait(4.5)
    scene.call(GOOD)
    assert scene.throttle.is_shedding_at(scene.now)
    assert scene.throttle.drain() == []
    scene.wait(0.5)
    assert not scene.throttle.is_shedding_at(scene.now)
    scene.call(GOOD)
    assert scene.throttle.drain() == [False]
    assert not scene.throttle.has_news


def test_the_last_changes_wait_to_be_reported():
    scene = Scene(sampling_duration=1.0)
    for _ in range(20):
        scene.call(BAD)
        scene.refuse(1)
        scene.wait(2.0)
        scene.call(GOOD)
        scene.wait(2.0)
    assert scene.throttle.drain() == [True, False] * (NEWS_KEPT // 2)


@pytest.mark.parametrize("verdict", [GOOD, BAD])
@pytest.mark.parametrize("rank", [CRITICAL, SHEDDABLE])
def test_it_is_idle_when_the_window_is_empty(verdict, rank):
    scene = Scene(sampling_duration=5.0)
    assert scene.throttle.is_idle(scene.now)
    scene.call(verdict, rank=rank)
    assert not scene.throttle.is_idle(scene.now)
    scene.wait(5.0)
    assert scene.throttle.is_idle(scene.now)


def test_it_is_not_idle_while_it_sheds():
    scene = Scene(sampling_duration=5.0)
    scene.wait(0.25)
    scene.call(BAD)
    scene.refuse(1)
    scene.wait(4.75)
    assert scene.p() == 0.0
    assert not scene.throttle.is_idle(scene.now)
    assert scene.throttle.is_shedding_at(scene.now - 60.0)
    scene.wait(0.25)
    assert scene.throttle.is_idle(scene.now)
    assert not scene.throttle.is_shedding_at(scene.now - 60.0)


# Settings, processes


def test_a_new_window_starts_cold_and_does_not_know_calls_under_way():
    scene = Scene()
    token = scene.admit()
    late = scene.admit()
    scene.call(GOOD, BAD, BAD, BAD)
    assert scene.p() > 0
    scene.throttle.configure(scene.settings(sampling_duration=7.0), scene.now)
    assert scene.p() == 0.0
    scene.settle(token, BAD)
    scene.settle(late, GOOD)
    assert scene.p() == 0.0
    assert scene.throttle.good == 2
    assert scene.throttle.ended[BAD] == 4


def test_other_settings_hold_at_once_and_keep_the_window():
    scene = Scene(k=2.0)
    token = scene.admit()
    scene.call(GOOD, BAD)
    assert scene.p() == 0.0
    scene.throttle.configure(scene.settings(k=1.0), scene.now)
    assert scene.p() == 1 / 3
    assert not scene.passes(0.0)
    scene.throttle.configure(scene.settings(k=1.0, minimum_throughput=10), scene.now)
    assert scene.passes(0.0)
    scene.throttle.configure(scene.settings(k=1.0, floor=1.0), scene.now)
    scene.settle(token, GOOD)
    assert scene.p() == 2 / 5


def test_a_child_process_keeps_what_was_learnt_and_forgets_what_is_under_way():
    scene = Scene()
    token, late = scene.admit(), scene.admit()
    scene.call(GOOD, BAD, BAD, BAD)
    scene.refuse(3)
    scene.throttle.release(scene.admit(), scene.now)
    scene.throttle.release(scene.admit(), scene.now, cancelled=True)
    before = scene.p()
    scene.throttle.after_fork(scene.now)
    assert scene.p() == before
    assert scene.throttle.is_shedding
    assert not scene.throttle.has_news
    scene.settle(token, BAD)
    scene.settle(late, GOOD)
    assert scene.p() == before
    assert (scene.throttle.good, scene.throttle.ended[BAD]) == (1, 1)
    assert (scene.throttle.ignored, scene.throttle.cancelled, scene.throttle.spared) == (0, 0, 0)
    assert scene.throttle.rejected == [0] * RANKS
    scene.call(GOOD)
    assert scene.p() < before


# For generated code


def test_the_cell_is_shown_while_normal_calls_surely_pass():
    scene = Scene(k=2.0)
    cell = scene.throttle.cell
    assert cell is scene.admit(0.0)
    scene.call(GOOD, BAD)
    assert scene.throttle.cell is cell
    scene.call(BAD)
    assert scene.throttle.cell is None
    assert scene.throttle.bucket_end == -math.inf
    scene.call(GOOD)
    assert scene.throttle.cell is cell


def test_a_call_that_surely_passes_shows_the_cell_again():
    scene = Scene(sampling_duration=5.0)
    scene.call(BAD)
    assert scene.throttle.cell is None
    scene.wait(5.0)
    scene.admit(0.0)
    assert scene.throttle.cell is not None
    assert scene.now < scene.throttle.bucket_end


def test_less_important_calls_do_not_hide_the_cell():
    scene = Scene(k=1.0)
    scene.call(*[BAD] * 5, rank=LOW)
    assert scene.throttle.cell is not None
    scene.call(BAD, rank=HIGH)
    assert scene.throttle.cell is None


def test_the_cell_is_not_to_be_trusted_once_its_bucket_has_ended():
    scene = Scene(k=2.0, sampling_duration=5.0)
    scene.call(*[GOOD] * 10)
    scene.wait(4.5)
    scene.call(*[BAD] * 10)
    assert scene.throttle.cell is not None
    scene.wait(0.5)
    assert scene.now >= scene.throttle.bucket_end
    assert scene.admit(0.0) is NEVER
    assert scene.throttle.cell is None


def test_a_good_result_at_the_very_end_of_a_bucket_is_of_the_next():
    scene = Scene(sampling_duration=5.0)
    token = scene.admit()
    end = scene.now = scene.throttle.bucket_end
    scene.settle(token, GOOD)
    assert scene.throttle.bucket_end > end


def test_rotating_finds_out_that_good_results_have_left_the_window():
    scene = Scene(k=2.0, sampling_duration=5.0)
    scene.call(*[GOOD] * 10)
    scene.wait(4.5)
    scene.call(*[BAD] * 10)
    scene.wait(0.5)
    scene.throttle.rotate(scene.now)
    assert scene.throttle.cell is None


# Any interleaving

WIDTH = 0.5
SETTINGS = {
    "book": {"floor": None, "minimum_throughput": 1},
    "floor": {"floor": 1.0, "minimum_throughput": 4},
    "eager": {"floor": 0.5, "minimum_throughput": 2, "k": 1.0},
}


class ThrottleRules(RuleBasedStateMachine):
    """
    Any interleaving agrees with a list of all that ever happened.

    Beside the throttle stands a second one, which is used as generated code would.
    """

    tokens = Bundle("tokens")

    @initialize(name=st.sampled_from(sorted(SETTINGS)))
    def begin(self, name):
        self.now = START
        self.settings = AdaptiveThrottleSettings(sampling_duration=10 * WIDTH, **SETTINGS[name])
        self.throttle = Throttle(self.settings, self.now)
        self.twin = Throttle(self.settings, self.now)
        self.past = []  # (bucket, rank, whether it was accepted)
        self.passed = -math.inf
        self.generation = 0
        self.seen = Counter()

    def window(self):
        bucket = self.now // WIDTH
        return [(rank, good) for when, rank, good in self.past if bucket - 10 < when <= bucket]

    def share(self, rank):
        window = self.window()
        own = sum(each == rank for each, _ in window)
        above = sum(each < rank for each, _ in window)
        accepted = sum(good for _, good in window)
        excess = own + above - self.settings.k * accepted
        if own + above < self.settings.minimum_throughput or excess <= 0:
            return 0.0
        return min(1.0, excess / (own + 1))

    def note(self, rank, good):
        self.past.append((self.now // WIDTH, rank, good))

    @rule(seconds=st.sampled_from([0.0, 0.25, WIDTH, 1.0, 2.0, 4.5, 5.0, 60.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(
        target=tokens, rank=st.sampled_from([NORMAL, *range(RANKS)]), draw=st.sampled_from([0.0, 0.5, LUCKY])
    )
    def admit(self, rank, draw):
        share = self.share(rank)
        refused = draw < share
        floor = self.settings.floor
        if refused and floor is not None and self.now - self.passed >= 1 / floor:
            refused = False
            self.seen["spared"] += 1
        decision = self.throttle.admit(self.now, draw, rank)
        assert isinstance(decision, Refusal) == refused
        cell = self.twin.cell
        if rank != NORMAL or cell is None or self.now >= self.twin.bucket_end:
            cell = self.twin.admit(self.now, draw, rank)
        assert isinstance(cell, Refusal) == refused
        if refused:
            self.seen["rejected", rank] += 1
            self.note(rank, False)
            return None
        if share > 0:
            self.passed = self.now
        return decision, cell, rank, self.generation

    @rule(token=consumes(tokens), verdict=st.sampled_from(Verdict), cancelled=st.booleans())
    def end(self, token, verdict, cancelled):
        if token is None:
            return
        mine, twins, rank, generation = token
        if verdict is IGNORED and cancelled:
            self.throttle.release(mine, self.now, cancelled=True)
            self.twin.release(twins, self.now, cancelled=True)
            self.seen["cancelled"] += 1
            return
        self.throttle.settle(mine, verdict, self.now)
        self.seen[verdict] += 1
        if verdict is not IGNORED and generation == self.generation:
            self.note(rank, verdict is GOOD)
        if verdict is GOOD and rank == NORMAL and generation == self.generation:
            if self.now >= self.twin.bucket_end:
                self.twin.rotate(self.now)
            twins.good += 1
        else:
            self.twin.settle(twins, verdict, self.now)

    @rule()
    def fork(self):
        self.throttle.after_fork(self.now)
        self.twin.after_fork(self.now)
        self.generation += 1
        self.seen.clear()

    @rule(k=st.sampled_from([1.0, 1.5, 2.0]), floor=st.sampled_from([None, 0.5, 2.0]))
    def configure(self, k, floor):
        least = self.settings.minimum_throughput
        self.settings = AdaptiveThrottleSettings(
            sampling_duration=10 * WIDTH, k=k, floor=floor, minimum_throughput=least
        )
        self.throttle.configure(self.settings, self.now)
        self.twin.configure(self.settings, self.now)

    @invariant()
    def they_agree(self):
        if not hasattr(self, "throttle"):
            return
        for throttle in (self.throttle, self.twin):
            shares = [throttle.probability(self.now, rank) for rank in range(RANKS)]
            assert shares == [self.share(rank) for rank in range(RANKS)]
            assert shares == sorted(shares)
            assert all(0.0 <= share <= 1.0 for share in shares)
            assert self.window() or not any(shares)
            assert throttle.good == self.seen[GOOD]
            assert throttle.ended == {verdict: self.seen[verdict] for verdict in (BAD, TIMED_OUT, THROTTLED)}
            assert throttle.rejected == [self.seen["rejected", rank] for rank in range(RANKS)]
            assert throttle.spared == self.seen["spared"]
            assert (throttle.ignored, throttle.cancelled) == (self.seen[IGNORED], self.seen["cancelled"])


TestThrottle = ThrottleRules.TestCase
