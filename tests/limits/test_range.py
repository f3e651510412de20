"""What the settings of all limits have in common."""

import math

import pytest

from resilience.errors import ConfigError
from resilience.limits import Aimd, Gradient2, Headroom, Vegas
from resilience.limits._range import Range, as_function
from resilience.typing import Limit

LIMITS = [Aimd, Vegas, Gradient2]
ON_LATENCY = [Vegas, Gradient2]
NOT_NUMBERS = [math.nan, math.inf, -math.inf, True, "5", [], 10**400]


def refused(limit, **settings):
    """The names of the settings that are refused, in order."""
    with pytest.raises(ConfigError) as caught:
        limit(**settings)
    assert caught.value.subject == limit.__name__
    return [problem.setting for problem in caught.value.problems]


@pytest.mark.parametrize("wanted, kept", [(0.4, 0.5), (0.5, 0.5), (3.3, 3.3), (10, 10), (11, 10)])
def test_a_limit_is_kept_within_the_range(wanted, kept):
    assert Range(0.5, 10).clamp(wanted) == kept


def test_a_number_is_the_same_for_every_limit_and_a_function_is_asked():
    assert [as_function(3)(limit) for limit in (1, 100)] == [3, 3]
    assert [as_function(lambda limit: limit / 2)(limit) for limit in (1, 100)] == [0.5, 50]


@pytest.mark.parametrize("limit", LIMITS)
def test_each_is_a_limit_and_starts_where_it_is_told(limit):
    learnt = limit(initial=7, window=2.5)
    assert isinstance(learnt, Limit)
    assert (learnt.limit, learnt.window, learnt.cause) == (7.0, 2.5, "start")


@pytest.mark.parametrize(
    "limit, initial, least, most", [(Aimd, 10, 0.35, 200), (Vegas, 20, 1, 1000), (Gradient2, 20, 1, 200)]
)
def test_the_defaults_are_the_documented_ones(limit, initial, least, most):
    learnt = limit()
    assert (learnt.limit, learnt._range.least, learnt._range.most) == (initial, least, most)
    assert learnt.window == 1.0
    assert getattr(learnt, "quantile", None) is None


@pytest.mark.parametrize("value", [*NOT_NUMBERS, None, 0, -1])
@pytest.mark.parametrize("setting", ["initial", "min_limit", "max_limit"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_bound_that_is_no_number_above_zero_is_refused(limit, setting, value):
    assert setting in refused(limit, **{setting: value})


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    "settings, wrong",
    [
        ({"initial": 5, "min_limit": 6}, ["initial"]),
        ({"initial": 5, "max_limit": 4}, ["initial"]),
        ({"initial": 5, "min_limit": 7, "max_limit": 6}, ["min_limit", "initial"]),
        ({"initial": 0.5, "min_limit": 0.1, "max_limit": 0.9}, ["max_limit"]),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(limit, settings, wrong):
    assert refused(limit, **settings) == wrong


@pytest.mark.parametrize("limit", LIMITS)
def test_a_range_of_one_limit_is_allowed(limit):
    assert limit(initial=5, min_limit=5, max_limit=5).limit == 5


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0.49, 1])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_cut_leaves_half_of_a_limit_at_least_and_not_all(limit, value):
    assert refused(limit, backoff=value) == ["backoff"]
    assert limit(backoff=0.5)._backoff == 0.5


@pytest.mark.parametrize("value", [*NOT_NUMBERS, None, -0.1])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_window_is_a_length_of_time(limit, value):
    assert refused(limit, window=value) == ["window"]
    assert limit(window=0).window == 0


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0, 1])
@pytest.mark.parametrize("limit", ON_LATENCY)
def test_a_quantile_lies_between_zero_and_one(limit, value):
    assert refused(limit, quantile=value) == ["quantile"]
    assert limit(quantile=0.9).quantile == 0.9


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 5, Headroom])
@pytest.mark.parametrize("limit", ON_LATENCY)
def test_headroom_is_a_headroom_or_none(limit, value):
    assert refused(limit, headroom=value) == ["headroom"]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, None, 0, 1.01])
@pytest.mark.parametrize("limit", ON_LATENCY)
def test_smoothing_is_a_weight(limit, value):
    assert refused(limit, smoothing=value) == ["smoothing"]
    assert limit(smoothing=1)._smoothing == 1


@pytest.mark.parametrize("limit", [Aimd(), Vegas(initial=10), Gradient2(initial=10)])
def test_a_limit_shows_where_it_is(limit):
    assert repr(limit) == f"<{type(limit).__name__} limit=10>"
