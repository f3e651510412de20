"""How far above what is in flight a limit may be."""

import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigError
from resilience.limits import Headroom
from resilience.limits._headroom import Peaks

NOT_NUMBERS = [math.nan, math.inf, True, "5", None]


@pytest.mark.parametrize(
    "settings, inflight, most",
    [
        ({}, 1, 5),
        ({}, 100, 500),
        ({"factor": 2}, 100, 200),
        ({"factor": 5, "decay": 1}, 1, 5),
        ({"factor": 5, "decay": 1}, 10, 40),
        ({"factor": 5, "decay": 1}, 100, 300),
        ({"factor": 5, "decay": 1}, 1000, 2000),
        ({"factor": 5, "decay": 2}, 10_000, 12_000),
        ({"factor": 5, "decay": 2, "least": 3}, 1000, 3000),
        ({"factor": 1, "least": 1}, 7, 7),
        ({"decay": 1}, 0, 0),
    ],
)
def test_the_factor_shrinks_with_each_power_of_ten_down_to_the_least(settings, inflight, most):
    """limiter-4 (failsafe-go)."""
    assert Headroom(**settings).most(inflight) == pytest.approx(most)


@given(st.integers(0, 10**6), st.floats(1, 10), st.floats(0, 5))
def test_there_is_always_room_above_what_is_in_flight(inflight, factor, decay):
    headroom = Headroom(factor=factor, decay=decay, least=1)
    assert inflight <= headroom.most(inflight) <= factor * inflight


def test_the_highest_of_the_latest_windows_counts():
    peaks = Peaks(Headroom(factor=2, windows=3))
    assert [peaks.most(peak) for peak in (10, 4, 3, 2, 6)] == [20, 20, 20, 8, 12]


def test_a_window_without_calls_in_flight_counts_as_one_call():
    assert Peaks(Headroom(factor=2)).most(0) == 2


def test_ten_windows_are_looked_back_upon():
    """limiter-4 (failsafe-go)."""
    peaks = Peaks(Headroom())
    assert peaks.most(10) == 50
    assert [peaks.most(1) for _ in range(10)] == [50] * 9 + [5]


def test_it_cannot_be_changed():
    headroom = Headroom()
    with pytest.raises(FrozenInstanceError):
        headroom.factor = 2.0
    assert headroom == Headroom(factor=5.0, decay=0.0, least=1.2, windows=10)
    assert hash(headroom) == hash(Headroom())


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("setting", ["factor", "decay", "least", "windows"])
def test_what_is_no_number_is_refused(setting, value):
    with pytest.raises(ConfigError) as caught:
        Headroom(**{setting: value})
    assert [(problem.setting, problem.value) for problem in caught.value.problems] == [(setting, value)]


@pytest.mark.parametrize(
    "settings, wrong",
    [
        ({"factor": 0.99, "least": 1}, ["factor"]),
        ({"decay": -0.01}, ["decay"]),
        ({"least": 0.99}, ["least"]),
        ({"factor": 2, "least": 2.1}, ["least"]),
        ({"windows": 0}, ["windows"]),
        ({"windows": 1.5}, ["windows"]),
        ({"factor": 0, "decay": -1, "least": 0, "windows": 0}, ["factor", "decay", "least", "windows"]),
    ],
)
def test_every_problem_is_named(settings, wrong):
    with pytest.raises(ConfigError) as caught:
        Headroom(**settings)
    assert [problem.setting for problem in caught.value.problems] == wrong
    assert caught.value.subject == "Headroom"


def test_the_edges_are_allowed():
    assert Headroom(factor=1, decay=0, least=1, windows=1).most(3) == 3
