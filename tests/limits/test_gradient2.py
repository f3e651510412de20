"""The limit that follows the ratio of the usual time of a call to the present one."""

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
from resilience.limits import Gradient2, Headroom, square_root


def used_to(latency=0.1, **settings):
    """A limit for which a call usually takes so long, and which did not change yet."""
    limit = Gradient2(**{"headroom": None, **settings})
    for _ in range(10):
        limit.on_sample(window(good=10, peak=0, latency=latency))
    assert limit.cause == "start"
    return limit


def after(history, **settings):
    limit = Gradient2(**settings)
    for sample in history:
        limit.on_sample(sample)
    return limit


# Steps


@pytest.mark.parametrize("limit, root", [(0, 4), (0.5, 4), (16, 4), (24.9, 4), (25, 5), (2500, 50)])
def test_the_root_is_whole_and_at_least_four(limit, root):
    assert square_root(limit) == root


@pytest.mark.parametrize(
    "latency, ratio, cause",
    [
        (0.05, 1, "growth"),
        (0.1, 1, "growth"),
        (0.15, 1, "growth"),
        (0.2, 0.75, "gradient"),
        (0.25, 0.6, "gradient"),
        (0.3, 0.5, "gradient"),
        (10.0, 0.5, "gradient"),
    ],
)
def test_it_follows_the_ratio_of_the_times(latency, ratio, cause):
    limit = used_to(initial=100, long_window=10**9)
    limit.on_sample(busy(100, latency=latency))
    assert limit.limit == pytest.approx(0.8 * 100 + 0.2 * (100 * ratio + 4))
    assert limit.cause == cause


def test_tolerance_says_how_much_longer_is_no_congestion():
    limit = used_to(initial=100, tolerance=3, long_window=10**9)
    limit.on_sample(busy(100, latency=0.3))
    assert limit.limit == pytest.approx(100.8)


@pytest.mark.parametrize("queue, room", [(0, 0), (7, 7), (square_root, 10), (lambda limit: limit / 4, 25)])
def test_room_for_a_queue_is_added(queue, room):
    limit = used_to(initial=100, queue=queue)
    limit.on_sample(busy(100))
    assert limit.limit == pytest.approx(100 + 0.2 * room)


def test_smoothing_is_the_weight_of_the_new_limit():
    limit = used_to(initial=100, smoothing=1)
    limit.on_sample(busy(100))
    assert limit.limit == pytest.approx(104)


@pytest.mark.parametrize("peak, grows", [(49, False), (50, True)])
def test_it_changes_if_half_of_it_was_in_use(peak, grows):
    limit = used_to(initial=100)
    limit.on_sample(window(good=100, peak=peak, latency=0.1))
    assert (limit.limit > 100) is grows


@pytest.mark.parametrize("good, grows", [(9, False), (10, True)])
def test_fewer_than_ten_calls_with_a_time_say_nothing(good, grows):
    limit = used_to(initial=10)
    usual = limit._long.value
    limit.on_sample(window(good=good, bad=100, peak=10, latency=0.05))
    assert (limit.limit > 10) is grows
    assert (limit._long.value < usual) is grows


def test_with_a_window_of_one_call_that_call_counts():
    limit = Gradient2(initial=20, window=0)
    limit.on_sample(window(good=1, peak=20, latency=0.1))
    assert limit.limit == pytest.approx(20.8)


def test_a_quantile_takes_the_place_of_the_mean():
    limit = used_to(initial=100)
    limit.on_sample(window(good=100, peak=100, latency=0.1, quantile=1.0))
    assert limit.cause == "gradient"


def test_calls_that_take_no_time_let_it_grow():
    limit = used_to(initial=100)
    limit.on_sample(busy(100, latency=0.0))
    assert (limit.limit, limit.cause) == (pytest.approx(100.8), "growth")


def test_bad_calls_alone_teach_nothing():
    limit = used_to(initial=100)
    limit.on_sample(window(bad=1000, peak=100))
    assert (limit.limit, limit.cause, limit._long.value) == (100, "start", pytest.approx(0.1))


# The usual time


def test_the_usual_time_is_a_mean_of_the_long_window():
    limit = used_to(0.1, long_window=19)
    limit.on_sample(busy(20, latency=0.2))
    assert limit._long.value == pytest.approx(0.1 + 0.1 * 0.1)


@pytest.mark.parametrize("latency, forgotten", [(0.0501, False), (0.0499, True)])
def test_once_calls_take_less_than_half_of_it_it_is_lowered_faster(latency, forgotten):
    limit = used_to(0.1, long_window=10**9)
    limit.on_sample(window(good=10, peak=0, latency=latency))
    assert limit._long.value == pytest.approx(0.1 * (0.95 if forgotten else 1))


@pytest.mark.parametrize("kind", ["timed_out", "throttled"])
def test_a_window_with_a_drop_cuts_it_and_leaves_the_usual_time_alone(kind):
    limit = used_to(initial=100)
    usual = limit._long.value
    limit.on_sample(window(good=1000, **{kind: 1}, peak=100, latency=5.0))
    assert (limit.limit, limit.cause) == (80, "drops")
    assert limit._long.value == usual


def test_without_a_backoff_drops_are_times_like_others():
    limit = used_to(initial=100, backoff=None, long_window=10**9)
    limit.on_sample(window(timed_out=10, peak=100, latency=5.0))
    assert (limit.limit, limit.cause) == (pytest.approx(0.8 * 100 + 0.2 * 54), "gradient")


# Headroom


def test_it_stays_near_what_is_in_flight():
    limit = Gradient2(initial=100, headroom=Headroom(factor=2))
    limit.on_sample(window(good=100, peak=20, latency=0.1))
    assert (limit.limit, limit.cause) == (40, "headroom")


def test_near_nothing_in_flight_it_stays_within_its_range():
    limit = Gradient2(initial=100, min_limit=10, headroom=Headroom(factor=2))
    limit.on_sample(window(good=100, peak=1, latency=0.1))
    assert limit.limit == 10


# Whatever happens


@given(
    ranges,
    st.lists(any_window, max_size=60),
    st.sampled_from([None, 0.5, 0.8]),
    st.floats(0.01, 1),
    st.sampled_from([None, Headroom(), Headroom(factor=1, least=1, windows=1)]),
    st.sampled_from([0, 1]),
)
def test_it_stays_within_its_range(bounds, samples, backoff, smoothing, headroom, seconds):
    assume(bounds["max_limit"] >= 1)
    limit = Gradient2(**bounds, backoff=backoff, smoothing=smoothing, headroom=headroom, window=seconds)
    for sample in samples:
        limit.on_sample(sample)
        assert bounds["min_limit"] <= limit.limit <= bounds["max_limit"]


@given(histories, any_window)
def test_a_window_with_a_drop_never_raises_it_and_cuts_it_once_at_most(history, sample):
    assume(sample.drops)
    limit = after(history, headroom=None)
    before, usual = limit.limit, limit._long.value
    limit.on_sample(sample)
    assert limit.limit == max(1, 0.8 * before)
    assert limit._long.value == usual


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
    assert (with_bad.limit, with_bad._long.value) == (plain.limit, plain._long.value)


@given(histories, usual_times, st.floats(1, 200))
def test_it_recovers_from_any_history(history, latency, target):
    """
    Within 340 windows the usual time has come so near to the present one that *tolerance* covers the rest:
    two thirds of it, where it was nothing. From there the limit grows by 0.8 per window.
    """
    limit = after(history)
    limit = limit if limit.limit < target else Gradient2(initial=1)
    bound = 340 + math.ceil(target / 0.8)
    windows_until(limit, lambda now: now >= target, bound, latency=latency)


# Settings


def refused(**settings):
    with pytest.raises(ConfigError) as caught:
        Gradient2(**settings)
    return [problem.setting for problem in caught.value.problems]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "2", None, 0.99])
def test_a_tolerance_is_at_least_one(value):
    assert refused(tolerance=value) == ["tolerance"]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "4", None, -0.01])
def test_a_queue_is_a_number_or_a_function(value):
    assert refused(queue=value) == ["queue"]


@pytest.mark.parametrize("value", [math.nan, True, "600", None, 0, 1.5])
def test_the_long_window_is_a_number_of_samples(value):
    assert refused(long_window=value) == ["long_window"]


def test_all_problems_are_named_at_once():
    settings = {
        "tolerance": 0,
        "queue": -1,
        "smoothing": 0,
        "backoff": 1,
        "long_window": 0,
        "headroom": 1,
        "window": -1,
    }
    assert set(refused(**settings, initial=0, quantile=0)) == {*settings, "initial", "quantile"}
