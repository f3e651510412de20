"""The mean that forgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.limits._average import Average

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def test_before_the_first_value_it_is_zero():
    assert Average(10, 3).value == 0


def test_it_begins_as_a_plain_mean():
    average = Average(100, 3)
    assert [average.add(value) for value in (1, 3, 8)] == [1, 2, 4]


def test_after_the_warmup_a_value_weighs_two_parts_of_the_window_and_one():
    average = Average(9, 1)
    average.add(10)
    assert average.add(20) == pytest.approx(10 + 0.2 * 10)
    assert average.value == pytest.approx(12)


def test_without_a_warmup_it_starts_at_zero():
    assert Average(3, 0).add(8) == 4


def test_a_window_of_one_value_is_that_value():
    average = Average(1, 0)
    assert [average.add(value) for value in (5, 7)] == [5, 7]


def test_scaled_it_goes_on_from_there():
    average = Average(3, 1)
    average.add(10)
    average.scale(0.5)
    assert average.value == 5
    assert average.add(7) == 6


@given(values, st.integers(1, 50), st.integers(1, 20))
def test_it_stays_between_the_lowest_and_the_highest_value(values, window, warmup):
    average = Average(window, warmup)
    for value in values:
        average.add(value)
    rounding = 1e-9 * max(values)
    assert max(0.0, min(values) - rounding) <= average.value <= max(values) + rounding
