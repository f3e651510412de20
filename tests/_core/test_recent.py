"""The last few values, and what is usual among them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience._core.recent import Recent


def median_of(*values: float, size: int = 100, least: int = 1) -> float | None:
    recent = Recent(size, least)
    for value in values:
        recent.add(value)
    return recent.median()


@pytest.mark.parametrize(
    ("values", "median"),
    [((7.0,), 7.0), ((3.0, 1.0), 1.0), ((9.0, 1.0, 2.0), 2.0), ((4.0, 3.0, 2.0, 1.0), 2.0)],
)
def test_the_median_is_the_middle_value_the_lower_of_two(values: tuple[float, ...], median: float) -> None:
    assert median_of(*values) == median


def test_there_is_no_median_before_there_are_enough_values() -> None:
    assert median_of(1.0, 2.0, least=3) is None
    assert median_of(1.0, 2.0, 3.0, least=3) == 2.0


def test_five_values_are_enough_unless_told_otherwise() -> None:
    recent = Recent(10)
    for value in (1.0, 2.0, 3.0, 4.0):
        recent.add(value)
    assert recent.median() is None
    recent.add(5.0)
    assert recent.median() == 3.0


def test_only_the_latest_values_count() -> None:
    assert median_of(1.0, 1.0, 1.0, 8.0, 9.0, 7.0, size=3) == 8.0


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=30), st.integers(1, 10))
def test_as_many_of_the_latest_are_above_the_median_as_below_or_one_more(
    values: list[int], size: int
) -> None:
    latest = sorted(values[-size:])
    median = median_of(*values, size=size)
    assert median in latest
    assert latest.index(median) <= (len(latest) - 1) / 2
    assert sum(value > median for value in latest) <= len(latest) / 2


def test_threads_may_add_while_others_ask() -> None:
    recent = Recent(3, least=1)

    def work(number: int) -> list[float | None]:
        found: list[float | None] = []
        for _ in range(2_000):
            recent.add(float(number))
            found.append(recent.median())
        return found

    with ThreadPoolExecutor(4) as pool:
        found = [median for medians in pool.map(work, range(4)) for median in medians]
    assert set(found) <= {0.0, 1.0, 2.0, 3.0}
    for _ in range(10):
        recent.add(9.0)
    assert recent.median() == 9.0
