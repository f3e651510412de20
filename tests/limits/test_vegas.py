"""The limit that keeps the queue at the dependency short."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.limits.samples import (
    any_window,
    busy,
    counts,
    histories,
    ranges,
    usual_times,
    window,
    windows_until,
)

from resilience.errors import ConfigError
from resilience.limits import Headroom, Vegas, log10_root
from resilience.limits._vegas import PROBE_MULTIPLIER, RISE


def based(latency=0.1, **settings):
    """A limit that has seen what a call takes without a queue."""
    limit = Vegas(**settings)
    limit.on_sample(busy(limit.limit, latency=latency))
    return limit


def after(history, **settings):
    limit = Vegas(**settings)
    for sample in history:
        limit.on_sample(sample)
    return limit


def with_queue(calls):
    """What a call takes if so many of a hundred stand in a queue, and one that finds none takes a second."""
    return 1 / (1 - max(0, calls - 0.5) / 100)


# Steps


@pytest.mark.parametrize(
    "limit, step", [(0, 1), (0.5, 1), (1, 1), (99, 1), (100, 2), (999, 2), (1000, 3), (10_000, 4)]
)
def test_a_step_is_the_number_of_digits_less_one(limit, step):
    assert log10_root(limit) == step


@pytest.mark.parametrize(
    "queue, limit, cause",
    [
        (0, 110, "growth"),
        (2, 110, "growth"),
        (3, 102, "growth"),
        (4, 102, "growth"),
        (5, 100, "growth"),
        (10, 100, "growth"),
        (11, 90, "queue"),
        (99, 90, "queue"),
    ],
)
def test_the_queue_says_how_it_changes(queue, limit, cause):
    learnt = based(latency=1.0, initial=100, alpha=5, beta=10)
    learnt.on_sample(busy(100, latency=with_queue(queue)))
    assert (round(learnt.limit, 6), learnt.cause) == (limit, cause)


@pytest.mark.parametrize(
    "queue, limit", [(0, 112), (2, 112), (3, 102), (5, 102), (6, 100), (12, 100), (13, 90)]
)
def test_by_default_the_bounds_are_three_and_six_steps(queue, limit):
    learnt = based(latency=1.0, initial=100)
    learnt.on_sample(busy(100, latency=with_queue(queue)))
    assert round(learnt.limit, 6) == limit


def test_bounds_may_be_functions_of_the_limit():
    learnt = based(latency=1.0, initial=100, alpha=lambda limit: limit / 10, beta=lambda limit: limit / 5)
    learnt.on_sample(busy(100, latency=1 / (1 - 0.085)))
    assert learnt.limit == 102
    learnt.on_sample(busy(100, latency=1 / (1 - 0.3)))
    assert learnt.limit == pytest.approx(0.9 * 102)


def test_without_a_backoff_it_shrinks_by_one_step():
    learnt = based(latency=1.0, initial=100, backoff=None)
    learnt.on_sample(busy(100, latency=2.0))
    assert learnt.limit == 98
    learnt.on_sample(window(timed_out=1, peak=100))
    assert learnt.limit == 97  # below a hundred a step is one


@pytest.mark.parametrize("peak, grows", [(49, False), (50, True)])
def test_it_changes_if_half_of_it_was_in_use(peak, grows):
    learnt = based(initial=100)
    learnt.on_sample(window(good=100, peak=peak, latency=0.1))
    assert (learnt.limit > 100) is grows
    assert learnt.cause == ("growth" if grows else "start")


@pytest.mark.parametrize("good, grows", [(9, False), (10, True)])
def test_fewer_than_ten_good_calls_say_nothing(good, grows):
    learnt = based(initial=10)
    learnt.on_sample(window(good=good, bad=100, peak=10, latency=0.1))
    assert (learnt.limit > 10) is grows


def test_with_a_window_of_one_call_that_call_counts():
    learnt = Vegas(initial=10, window=0)
    for _ in range(2):
        learnt.on_sample(window(good=1, peak=10, latency=0.1))
    assert learnt.limit == 16


def test_smoothing_is_the_weight_of_the_new_limit():
    learnt = based(initial=100, smoothing=0.25)
    learnt.on_sample(busy(100, latency=0.1))
    assert learnt.limit == pytest.approx(100 + 0.25 * 12)


def test_smoothing_leads_no_further_than_to_the_highest_limit():
    learnt = based(initial=100, max_limit=104, smoothing=0.5)
    learnt.on_sample(busy(100))
    assert learnt.limit == 102


@pytest.mark.parametrize("smoothing", [0.2, 0.3])
def test_smoothing_rounds_to_nothing_outside_the_range(smoothing):
    learnt = based(initial=3, min_limit=3, max_limit=3, smoothing=smoothing)
    learnt.on_sample(busy(3))
    assert learnt.limit == 3


def test_a_quantile_takes_the_place_of_the_mean():
    learnt = based(initial=100)
    learnt.on_sample(window(good=100, peak=100, latency=0.1, quantile=0.5))
    assert (learnt.limit, learnt.cause) == (90, "queue")


@pytest.mark.parametrize("kind", ["timed_out", "throttled"])
def test_one_drop_makes_it_shrink(kind):
    learnt = based(initial=100)
    learnt.on_sample(window(good=1000, **{kind: 1}, peak=100, latency=0.1))
    assert (learnt.limit, learnt.cause) == (90, "drops")


def test_bad_calls_alone_teach_nothing():
    learnt = based(initial=100)
    learnt.on_sample(window(bad=1000, peak=100))
    assert (learnt.limit, learnt.cause) == (100, "start")


# Headroom


def test_it_stays_near_what_is_in_flight():
    learnt = Vegas(initial=100, headroom=Headroom(factor=2))
    learnt.on_sample(window(good=100, peak=20, latency=0.1))
    assert (learnt.limit, learnt.cause) == (40, "headroom")


def test_near_nothing_in_flight_it_stays_within_its_range():
    learnt = Vegas(initial=100, min_limit=10, headroom=Headroom(factor=2))
    learnt.on_sample(window(good=100, peak=1, latency=0.1))
    assert learnt.limit == 10


def test_without_headroom_any_distance_is_allowed():
    learnt = Vegas(initial=100, headroom=None)
    learnt.on_sample(window(good=100, peak=1, latency=0.1))
    assert learnt.limit == 100


# Whatever happens


@given(
    ranges,
    st.lists(any_window, max_size=60),
    st.sampled_from([None, 0.5, 0.9]),
    st.floats(0.01, 1),
    st.sampled_from([None, Headroom(), Headroom(factor=1, least=1, windows=1)]),
    st.sampled_from([0, 1]),
)
def test_it_stays_within_its_range(bounds, samples, backoff, smoothing, headroom, seconds):
    assume(bounds["max_limit"] >= 1)
    limit = Vegas(**bounds, backoff=backoff, smoothing=smoothing, headroom=headroom, window=seconds)
    for sample in samples:
        limit.on_sample(sample)
        assert bounds["min_limit"] <= limit.limit <= bounds["max_limit"]


@given(histories, any_window)
def test_a_window_with_a_drop_never_raises_it_and_cuts_it_once_at_most(history, sample):
    assume(sample.drops)
    limit = after(history, headroom=None)
    before = limit.limit
    limit.on_sample(sample)
    assert limit.limit == max(1, 0.9 * before)


@given(histories, counts, st.floats(0.001, 1000))
def test_what_was_not_in_use_does_not_grow(history, good, latency):
    limit = after(history)
    before = limit.limit
    limit.on_sample(window(good=good, peak=math.ceil(before / 2) - 1, latency=latency))
    assert limit.limit <= before


@given(histories, any_window, counts)
def test_bad_calls_change_nothing(history, sample, bad):
    plain, with_bad = after(history), after(history)
    values = {name: getattr(sample, name) for name in ("good", "timed_out", "throttled", "peak", "shortest")}
    plain.on_sample(window(**values, latency=sample.latency))
    with_bad.on_sample(window(**values, latency=sample.latency, bad=bad))
    assert (with_bad.limit, with_bad._baseline) == (plain.limit, plain._baseline)


@given(histories, usual_times, st.floats(1, 1000))
def test_it_recovers_from_any_history(history, latency, target):
    """
    Within so many windows of one round each, in which all calls take the same time:

    - two probes, until times of before are forgotten, and one for each quarter that the baseline is too low,
      each after thirty windows at most;
    - one for each two that the limit is to grow by, with one more for each probe.
    """
    limit = after(history)
    limit = limit if limit.limit < target else Vegas(initial=1)
    too_low = max(1.0, latency / limit._baseline)
    probes = 2 + math.ceil(math.log(too_low, RISE))
    growing = math.ceil(target / 2)
    bound = (PROBE_MULTIPLIER + 1) * probes + growing + 10
    windows_until(limit, lambda now: now >= target, bound, latency=latency)


# Settings


def refused(**settings):
    with pytest.raises(ConfigError) as caught:
        Vegas(**settings)
    return [problem.setting for problem in caught.value.problems]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "3", -0.01])
@pytest.mark.parametrize("setting", ["alpha", "beta"])
def test_a_bound_is_a_number_or_a_function(setting, value):
    assert refused(**{setting: value}) == [setting]


@pytest.mark.parametrize("alpha, wrong", [(6, True), (7, True), (5.9, False)])
def test_the_lower_bound_is_below_the_upper(alpha, wrong):
    if wrong:
        assert refused(alpha=alpha, beta=6) == ["alpha"]
    else:
        assert Vegas(alpha=alpha, beta=6).limit == 20


def test_all_problems_are_named_at_once():
    settings = {
        "max_limit": 0,
        "alpha": -1,
        "beta": "",
        "backoff": 0,
        "smoothing": 0,
        "headroom": 1,
        "window": -1,
    }
    assert set(refused(**settings, quantile=2)) == {*settings, "quantile", "min_limit", "initial"}
