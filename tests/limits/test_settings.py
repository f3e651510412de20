"""What an error says of a setting that cannot work, in full, and the ends of the ranges."""

import inspect

import pytest

from resilience import ConcurrencyLimiter
from resilience.errors import ConfigError
from resilience.limits import Aimd, Gradient2, Headroom, Vegas

COMMON = [
    ({"min_limit": 0}, "min_limit must be a finite number > 0, got 0"),
    ({"max_limit": 0.5, "initial": 0.5, "min_limit": 0.5}, "max_limit must be a finite number >= 1, got 0.5"),
    ({"initial": 5, "min_limit": 6}, "initial must be from min_limit to max_limit, got 5"),
    ({"initial": 5, "max_limit": 4}, "initial must be from min_limit to max_limit, got 5"),
    ({"initial": "5"}, "initial must be a finite number > 0, got '5'"),
    ({"backoff": 1}, "backoff must be a number >= 0.5 and < 1, got 1"),
    ({"window": -1}, "window must be a finite number of seconds >= 0, got -1"),
]
ON_LATENCY = [
    ({"quantile": 1}, "quantile must be a number in (0, 1) or None, got 1"),
    ({"headroom": 5}, "headroom must be a Headroom or None, got 5"),
    ({"smoothing": 0}, "smoothing must be a number in (0, 1], got 0"),
]
OWN = [
    (Aimd, {"tolerance": -0.1}, "tolerance must be a number in [0, 1], got -0.1"),
    (Aimd, {"tolerance": 1}, "tolerance must be < 1, got 1"),
    (Aimd, {"increase": 0}, "increase must be a finite number > 0, got 0"),
    (Aimd, {"patience": 0}, "patience must be a whole number >= 1 or None, got 0"),
    (Gradient2, {"tolerance": 0.9}, "tolerance must be a finite number >= 1, got 0.9"),
    (Gradient2, {"queue": -1}, "queue must be a number >= 0 or a function of the limit, got -1"),
    (
        Gradient2,
        {"long_window": 1_000_000_001},
        "long_window must be a whole number >= 1 and <= 1000000000, got 1000000001",
    ),
    (Vegas, {"alpha": -1}, "alpha must be a number >= 0, a function of the limit, or None, got -1"),
    (Vegas, {"beta": "5"}, "beta must be a number >= 0, a function of the limit, or None, got '5'"),
    (Vegas, {"alpha": 5, "beta": 5}, "alpha must be less than beta, got 5"),
    (Headroom, {"factor": 0.5, "least": 1}, "factor must be a finite number >= 1, got 0.5"),
    (Headroom, {"decay": -1}, "decay must be a finite number >= 0, got -1"),
    (Headroom, {"least": 0.5}, "least must be a finite number >= 1, got 0.5"),
    (Headroom, {"factor": 2, "least": 3}, "least must be at most factor, got 3"),
    (Headroom, {"windows": 10_001}, "windows must be a whole number >= 1 and <= 10000, got 10001"),
]
ALL = [
    *((limit, *case) for limit in (Aimd, Gradient2, Vegas) for case in COMMON),
    *((limit, *case) for limit in (Gradient2, Vegas) for case in ON_LATENCY),
    *OWN,
]


@pytest.mark.parametrize("kind, settings, text", ALL)
def test_an_error_names_the_limit_the_setting_the_range_and_the_value(kind, settings, text):
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    assert str(caught.value) == f"{kind.__name__}: {text}"


@pytest.mark.parametrize("kind", [Aimd, Gradient2, Vegas])
def test_limits_of_one_kind_and_equal_settings_are_equal_whatever_they_learnt(kind):
    learnt, anew = kind(initial=8), kind(initial=8)
    learnt.limit = 3.0
    assert learnt == anew
    assert hash(learnt) == hash(anew)
    others = [each(initial=8) for each in (Aimd, Gradient2, Vegas) if each is not kind]
    assert learnt not in [kind(initial=9), kind(initial=8, window=2.0), *others, 8]


@pytest.mark.parametrize("kind", [Aimd, Gradient2, Vegas])
def test_a_limit_of_a_subclass_which_may_have_settings_of_its_own_equals_itself_alone(kind):
    class OfATenant(kind):
        def __init__(self, tenant, **settings):
            super().__init__(**settings)
            self.tenant = tenant

    class WithoutSettings(kind):
        def __init__(self):
            pass

    first, second = OfATenant("a"), OfATenant("b")
    assert first == first
    assert second not in {first, WithoutSettings()}
    limiter = ConcurrencyLimiter(limit=first)
    limiter.reconfigure(limit=second)
    assert limiter.settings.limit is second


@pytest.mark.parametrize("kind", [Aimd, Gradient2, Vegas])
def test_limits_that_differ_in_one_setting_differ(kind):
    one = {
        "initial": 9, "min_limit": 0.5, "max_limit": 99, "backoff": 0.6, "tolerance": 1.25 if kind is Gradient2 else 0.25,
        "window": 2.0, "increase": 2.0, "patience": 2, "alpha": 1, "beta": 99, "smoothing": 0.3, "headroom": None,
        "quantile": 0.5, "queue": 5, "long_window": 99,
    }  # fmt: skip
    taken = set(inspect.signature(kind).parameters)
    assert taken <= one.keys()
    assert all(kind(**{name: one[name]}) != kind() for name in taken)


def test_of_bounds_that_contradict_each_other_all_that_do_are_told():
    with pytest.raises(ConfigError) as caught:
        Aimd(initial=5, min_limit=7, max_limit=6)
    assert [str(problem) for problem in caught.value.problems] == [
        "min_limit must be at most max_limit, got 7",
        "initial must be from min_limit to max_limit, got 5",
    ]


@pytest.mark.parametrize(
    "kind, settings",
    [
        (Aimd, {"tolerance": 0, "patience": 1, "increase": 0.001, "window": 0}),
        (Aimd, {"max_limit": 1, "initial": 1, "patience": None}),
        (Gradient2, {"tolerance": 1, "queue": 0, "long_window": 1_000_000_000, "smoothing": 1}),
        (Gradient2, {"long_window": 1, "backoff": None}),
        (Vegas, {"alpha": 0, "beta": 0.001, "backoff": None, "headroom": None}),
        (Vegas, {"beta": 0}),
        (Headroom, {"windows": 10_000, "factor": 2, "least": 2}),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(kind, settings):
    assert isinstance(kind(**settings), kind)
