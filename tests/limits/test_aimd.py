"""The limit that grows while calls end well and is cut when they are not answered."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.limits.samples import any_window, busy, counts, histories, ranges, window, windows_until

from resilience.errors import ConfigError
from resilience.limits import Aimd
from resilience.limits._aimd import HOLD, STEADY

peaks = st.integers(1, 500)


def steady(**settings):
    """A limit that has seen so many good calls that it grows by one per round."""
    limit = Aimd(**settings)
    limit.on_sample(window(good=STEADY, peak=0))
    return limit


def share(ratio, *, peak, calls=100):
    """A window with a share of drops."""
    drops = round(ratio * calls)
    return window(good=calls - drops, timed_out=drops, peak=peak)


def given_up(ratio=0.3, **settings):
    """A limit that has just found its cuts to be in vain, and where it was before them."""
    limit = Aimd(**{"initial": 100, **settings})
    before = limit.limit
    while limit.cause != "cuts_in_vain":
        limit.on_sample(share(ratio, peak=100))
    return limit, before


# Growth


def test_a_round_of_good_calls_lets_it_grow_by_one():
    limit = steady(initial=20)
    limit.on_sample(window(good=20, peak=20))
    assert (limit.limit, limit.cause) == (21, "growth")


@pytest.mark.parametrize("initial, grown", [(4, 5), (20, 21), (40, 42), (100, 105)])
def test_many_rounds_in_a_window_let_it_grow_by_one_or_a_twentieth(initial, grown):
    limit = steady(initial=initial)
    limit.on_sample(window(good=10_000, peak=initial))
    assert limit.limit == pytest.approx(grown)


def test_in_a_window_with_a_cut_it_does_not_grow():
    limit = Aimd(initial=10)
    limit.on_sample(window(good=850, throttled=150, peak=10))
    assert limit.limit == 8


@pytest.mark.parametrize("initial, grown", [(1, 1.04), (2, 2.08), (5, 5.2), (10, 10.1)])
def test_where_it_is_small_it_grows_by_a_share_until_twenty_calls_in_a_row_were_good(initial, grown):
    limit = Aimd(initial=initial)
    limit.on_sample(window(good=1, peak=initial))
    assert limit.limit == pytest.approx(grown)


@pytest.mark.parametrize("good, grown", [(18, 0.5 + 18 * 0.02), (19, 1.5)])
def test_the_twentieth_good_call_in_a_row_counts_as_a_round_below_one(good, grown):
    limit = Aimd(initial=0.5)
    limit.on_sample(window(good=1, peak=0, bad=3))
    assert limit.limit == pytest.approx(0.52)
    limit = Aimd(initial=0.5)
    limit._steady = 1
    limit.on_sample(window(good=good, peak=1))
    assert limit.limit == pytest.approx(grown)


@pytest.mark.parametrize("kind", ["timed_out", "throttled"])
def test_a_drop_ends_the_row_of_good_calls(kind):
    limit = steady(initial=1, tolerance=0.9)
    limit.on_sample(window(good=9, **{kind: 1}))
    assert limit.limit == pytest.approx(1 + 9 * 0.04)
    limit.on_sample(window(good=9))
    assert limit.limit == pytest.approx(1.36 + 9 * 0.04 * 1.36)


def test_an_increase_of_ones_own_is_that_per_window():
    limit = Aimd(increase=2.5)
    for good in (1, 1000):
        limit.on_sample(window(good=good, peak=10))
    assert limit.limit == 15


def test_an_increase_of_ones_own_needs_a_window_without_drops():
    limit = Aimd(increase=2.5, tolerance=0.5)
    limit.on_sample(window(good=9, throttled=1, peak=10))
    assert limit.limit == 10


@pytest.mark.parametrize("increase", [None, 1])
@pytest.mark.parametrize(
    "initial, peak, grows", [(10, 4, False), (10, 5, True), (11.9, 5, False), (11.9, 6, True)]
)
def test_it_grows_if_half_of_it_was_in_use(increase, initial, peak, grows):
    limit = Aimd(initial=initial, increase=increase)
    limit.on_sample(window(good=20, peak=peak))
    assert (limit.limit > initial) is grows


def test_bad_calls_alone_teach_nothing():
    limit = steady(initial=20)
    limit.on_sample(window(bad=1000, peak=20))
    assert limit.limit == 20


# Cuts


@pytest.mark.parametrize("kind", ["timed_out", "throttled"])
def test_a_share_of_drops_cuts_it_once_for_the_window(kind):
    limit = Aimd(initial=100, backoff=0.7)
    limit.on_sample(window(good=80, **{kind: 20}, peak=30))
    assert (limit.limit, limit.cause) == (70, "drops")


@pytest.mark.parametrize("drops, cut", [(14, False), (15, True)])
def test_drops_below_the_tolerance_are_no_congestion(drops, cut):
    limit = Aimd(initial=100)
    limit.on_sample(window(good=100 - drops, timed_out=drops, peak=30))
    assert limit.limit == (80 if cut else 100)
    assert limit.cause == ("drops" if cut else "growth")


def test_bad_calls_do_not_thin_out_the_drops():
    limit = Aimd(initial=100)
    limit.on_sample(window(good=8, timed_out=2, bad=1000, peak=30))
    assert limit.limit == 80


@pytest.mark.parametrize("drops, left", [(49, 80), (50, 0.8**3 * 30)])
def test_heavy_drops_cut_three_times_and_from_what_was_in_flight(drops, left):
    limit = Aimd(initial=100)
    limit.on_sample(window(good=100 - drops, timed_out=drops, peak=30))
    assert limit.limit == pytest.approx(left)


def test_heavy_drops_never_cut_from_more_than_the_limit():
    limit = Aimd(initial=10)
    limit.on_sample(window(timed_out=10, peak=50))
    assert limit.limit == pytest.approx(5.12)


def test_heavy_drops_without_calls_in_flight_count_one():
    limit = Aimd(initial=10)
    limit.on_sample(window(timed_out=10, peak=0))
    assert limit.limit == pytest.approx(0.512)


def test_with_no_tolerance_a_window_without_drops_is_no_reason_to_cut():
    limit = Aimd(tolerance=0)
    limit.on_sample(window(good=1, peak=1))
    assert (limit.limit, limit.cause) == (10, "growth")


# Cuts in vain


def test_after_three_cuts_in_vain_it_goes_back_to_where_it_was():
    limit = Aimd(initial=100)
    seen = []
    for _ in range(5):
        limit.on_sample(share(0.3, peak=1))
        seen.append((round(limit.limit, 2), limit.cause))
    assert seen[:3] == [(80, "drops"), (64, "drops"), (51.2, "drops")]
    assert seen[3:] == [(51.2, "drops"), (100, "cuts_in_vain")]  # the third cut gets a window to show


def test_where_it_was_it_stays_for_thirty_windows_and_is_cut_then():
    limit, before = given_up()
    for _ in range(HOLD):
        limit.on_sample(share(0.3, peak=int(limit.limit)))
        assert limit.limit == before
    limit.on_sample(share(0.3, peak=1))
    assert (limit.limit, limit.cause) == (0.8 * before, "drops")


def test_cuts_that_help_only_a_window_later_go_on():
    limit = Aimd(initial=60)
    for ratio in (0.75, 0.75, 0.69, 0.61, 0.51):
        limit.on_sample(share(ratio, peak=60))
    assert limit.cause == "drops"
    assert limit.limit == pytest.approx(60 * 0.8**12)


@pytest.mark.parametrize("patience", [1, 2, 7])
def test_patience_is_how_many_cuts_may_be_in_vain(patience):
    limit = Aimd(initial=100, patience=patience)
    for cuts in range(1, patience + 1):
        limit.on_sample(share(0.3, peak=1))
        assert limit.limit == pytest.approx(100 * 0.8**cuts)
    limit.on_sample(share(0.3, peak=1))
    limit.on_sample(share(0.3, peak=1))
    assert limit.cause == "cuts_in_vain"


def test_without_patience_it_is_cut_for_ever():
    limit = Aimd(initial=100, patience=None)
    for _ in range(12):
        limit.on_sample(share(0.3, peak=1))
    assert limit.limit == pytest.approx(100 * 0.8**12)
    assert limit.cause == "drops"


@pytest.mark.parametrize("later, helped", [(0.39, True), (0.4, False), (0.89, False), (0.9, True)])
def test_cuts_go_on_if_they_helped_or_if_nothing_is_left(later, helped):
    limit = Aimd(initial=100)
    for _ in range(4):
        limit.on_sample(share(0.5, peak=100))
    limit.on_sample(share(later, peak=100))
    assert limit.cause == ("drops" if helped else "cuts_in_vain")


def test_a_first_window_that_the_trouble_only_began_in_is_no_measure():
    limit = Aimd(initial=22)
    for ratio in (0.38, 0.7, 0.65, 0.6, 0.5):
        limit.on_sample(share(ratio, peak=22))
    assert limit.cause == "drops"


def test_where_nearly_nothing_works_no_window_is_waited():
    limit = Aimd(initial=100)
    for _ in range(6):
        limit.on_sample(share(0.95, peak=100))
    assert limit.limit == pytest.approx(100 * 0.8**18)


def test_a_window_without_congestion_begins_the_count_of_cuts_anew():
    limit = Aimd(initial=100)
    for ratio in (0.3, 0.3, 0.3, 0.1, 0.3):
        limit.on_sample(share(ratio, peak=1))
    assert limit.limit == pytest.approx(100 * 0.8**4)


@pytest.mark.parametrize(
    "ratio, worse, cut", [(0.3, 0.55, False), (0.3, 0.56, True), (0.8, 0.95, False), (0.8, 0.96, True)]
)
def test_when_it_gets_worse_it_is_cut_again(ratio, worse, cut):
    limit, before = given_up(ratio)
    limit.on_sample(share(worse, peak=100))
    assert limit.limit == before
    limit.on_sample(share(worse, peak=100))
    assert (limit.limit < before) is cut


# Whatever happens


@given(
    ranges,
    st.lists(any_window, max_size=60),
    st.sampled_from([None, 0.5, 1e6]),
    st.sampled_from([None, 1, 4]),
)
def test_it_stays_within_its_range(bounds, samples, increase, patience):
    limit = Aimd(**bounds, increase=increase, patience=patience)
    for sample in samples:
        limit.on_sample(sample)
        assert bounds["min_limit"] <= limit.limit <= bounds["max_limit"]


@given(histories, st.integers(0, 10**15), st.integers(0, 10**15), peaks, counts)
def test_a_window_of_nothing_but_drops_never_raises_it(history, timed_out, throttled, peak, bad):
    limit = after(history)
    before = limit.limit
    limit.on_sample(window(timed_out=timed_out, throttled=throttled, peak=peak, bad=bad))
    assert limit.limit <= before


@given(histories, counts, counts, counts)
def test_a_window_without_drops_never_lowers_it(history, good, bad, peak):
    limit = after(history)
    before = limit.limit
    limit.on_sample(window(good=good, bad=bad, peak=peak))
    assert limit.limit >= before


@given(histories, any_window)
def test_a_window_cuts_it_once_at_most_or_three_times_where_half_is_dropped(history, sample):
    limit = after(history)
    before = limit.limit
    limit.on_sample(sample)
    left = 0.512 * min(before, max(1, sample.peak)) if sample.drop_ratio >= 0.5 else 0.8 * before
    assert limit.limit >= max(0.35, left) * (1 - 1e-12)


@given(histories, any_window, counts)
def test_bad_calls_change_nothing(history, sample, bad):
    plain, with_bad = after(history), after(history)
    plain.on_sample(sample)
    fewer = {name: getattr(sample, name) for name in ("good", "timed_out", "throttled", "peak")}
    with_bad.on_sample(window(**fewer, bad=bad))
    assert with_bad.limit == plain.limit


@given(histories, st.floats(1, 200))
def test_it_recovers_from_any_history_within_forty_windows_and_one_per_step(history, target):
    limit = after(history)
    limit = limit if limit.limit < target else Aimd(initial=0.5)
    windows_until(limit, lambda now: now >= target, HOLD + STEADY + math.ceil(target))


def after(history):
    limit = Aimd()
    for sample in history:
        limit.on_sample(sample)
    return limit


def test_the_bound_of_recovery_is_reached_with_one_round_per_window():
    limit = Aimd(initial=0.5)
    for _ in range(20):
        limit.on_sample(busy(limit.limit, good=max(1, int(limit.limit))))
    assert 10 < limit.limit < 20


# Settings


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "0.1", None, -0.01, 1])
def test_a_tolerance_is_a_share_below_one(value):
    assert refused(tolerance=value) == ["tolerance"]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", 0, -1])
def test_an_increase_is_above_zero(value):
    assert refused(increase=value) == ["increase"]


@pytest.mark.parametrize("value", [math.nan, True, "4", 0, 1.5])
def test_patience_is_a_number_of_cuts(value):
    assert refused(patience=value) == ["patience"]


def test_all_problems_are_named_at_once():
    settings = {"initial": 0, "backoff": 1, "tolerance": 2, "window": -1, "increase": 0, "patience": 0}
    assert sorted(refused(**settings)) == sorted([*settings, "initial"])


def refused(**settings):
    with pytest.raises(ConfigError) as caught:
        Aimd(**settings)
    return [problem.setting for problem in caught.value.problems]
