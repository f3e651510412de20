"""Checking settings: every rule says what must hold, and every problem is listed."""

import math
from collections.abc import Callable

import pytest

from resilience._core.check import Check, is_finite
from resilience.errors import ConfigError, Problem

NUMBERS_ONLY = [None, "1", [1], object(), True, False, math.nan, math.inf, -math.inf, 1j, 10**400]


def rule_of(ask: Callable[[Check], bool]) -> str | None:
    """The rule that the value broke; None if it broke none."""
    check = Check("Subject")
    holds = ask(check)
    assert holds == (not check.problems)
    return check.problems[0].rule if check.problems else None


def test_nothing_wrong_raises_nothing() -> None:
    check = Check("Subject")
    assert check.seconds("delay", 1.0)
    check.done()


def test_everything_wrong_is_raised_at_once_in_order() -> None:
    check = Check("Subject")
    check.seconds("delay", -1)
    check.ratio("share", 2)
    check.include([Problem("found", 0, "elsewhere")])
    check.flag("flag", 1)
    with pytest.raises(ConfigError) as caught:
        check.done()
    assert caught.value.subject == "Subject"
    assert [problem.setting for problem in caught.value.problems] == ["delay", "share", "found", "flag"]
    assert [problem.value for problem in caught.value.problems] == [-1, 2, 0, 1]


@pytest.mark.parametrize("value", [0.001, 1, 10.0, 1e300])
def test_a_length_of_time_is_a_finite_number_above_zero(value: float) -> None:
    assert rule_of(lambda check: check.seconds("s", value)) is None


@pytest.mark.parametrize("value", [0, 0.0, -1, *NUMBERS_ONLY], ids=lambda value: repr(value)[:10])
def test_what_is_no_length_of_time_is_refused(value: object) -> None:
    assert rule_of(lambda check: check.seconds("s", value)) == "must be a finite number of seconds > 0"


def test_a_length_of_time_may_be_allowed_to_be_zero_or_none() -> None:
    assert rule_of(lambda check: check.seconds("s", 0, zero=True)) is None
    assert rule_of(lambda check: check.seconds("s", None, optional=True)) is None
    rule = rule_of(lambda check: check.seconds("s", -1, zero=True, optional=True))
    assert rule == "must be a finite number of seconds >= 0 or None"


@pytest.mark.parametrize("value", [0.001, 0.5, 1, 1.0])
def test_a_ratio_is_above_zero_and_at_most_one(value: float) -> None:
    assert rule_of(lambda check: check.ratio("r", value)) is None


@pytest.mark.parametrize("value", [0, 0.0, 1.001, -0.5, *NUMBERS_ONLY], ids=lambda value: repr(value)[:10])
def test_what_is_no_ratio_is_refused(value: object) -> None:
    assert rule_of(lambda check: check.ratio("r", value)) == "must be a number in (0, 1]"


def test_a_ratio_may_be_allowed_to_be_zero_or_none() -> None:
    assert rule_of(lambda check: check.ratio("r", 0.0, zero=True)) is None
    assert rule_of(lambda check: check.ratio("r", None, optional=True)) is None
    assert (
        rule_of(lambda check: check.ratio("r", 2, zero=True, optional=True))
        == "must be a number in [0, 1] or None"
    )


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, *NUMBERS_ONLY[:-1]], ids=lambda value: repr(value)[:10])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    assert rule_of(lambda check: check.whole("n", value)) == "must be a whole number >= 1"


def test_a_whole_number_may_have_a_most() -> None:
    assert rule_of(lambda check: check.whole("n", 5, at_most=5)) is None
    assert rule_of(lambda check: check.whole("n", 6, at_most=5)) == "must be a whole number >= 1 and <= 5"
    assert rule_of(lambda check: check.whole("n", 0, at_most=5)) == "must be a whole number >= 1 and <= 5"


def test_a_whole_number_may_have_another_least_or_be_none() -> None:
    assert rule_of(lambda check: check.whole("n", 1)) is None
    assert rule_of(lambda check: check.whole("n", 0, at_least=0)) is None
    assert rule_of(lambda check: check.whole("n", None, optional=True)) is None
    assert (
        rule_of(lambda check: check.whole("n", 1, at_least=2, optional=True))
        == "must be a whole number >= 2 or None"
    )


@pytest.mark.parametrize("value", NUMBERS_ONLY, ids=lambda value: repr(value)[:10])
def test_what_is_no_number_is_refused(value: object) -> None:
    assert rule_of(lambda check: check.number("x", value)) == "must be a finite number"


def test_a_number_may_have_bounds() -> None:
    for value, holds in ((1, False), (1.5, True), (2, True), (2.5, False)):
        assert (
            rule_of(lambda check, value=value: check.number("x", value, above=1, at_most=2)) is None
        ) is holds
    assert rule_of(lambda check: check.number("x", 1, at_least=1)) is None
    assert rule_of(lambda check: check.number("x", 0, at_least=1)) == "must be a finite number >= 1"
    assert (
        rule_of(lambda check: check.number("x", 9, above=1, at_most=2))
        == "must be a finite number > 1 and <= 2"
    )


@pytest.mark.parametrize("value", [0, 1, None, "True"])
def test_a_flag_is_true_or_false(value: object) -> None:
    assert rule_of(lambda check: check.flag("f", value)) == "must be True or False"
    assert rule_of(lambda check: check.flag("f", True)) is None


def test_a_rule_of_ones_own_counts_what_is_truthy() -> None:
    assert rule_of(lambda check: check.that([1], "x", 1, "must hold")) is None
    assert rule_of(lambda check: check.that([], "x", 1, "must hold")) == "must hold"


@pytest.mark.parametrize("value", NUMBERS_ONLY, ids=lambda value: repr(value)[:10])
def test_finite_numbers_exclude_all_that_is_not(value: object) -> None:
    assert not is_finite(value)


@pytest.mark.parametrize("value", [0, -1, 0.5, 1e308])
def test_finite_numbers_include_the_rest(value: float) -> None:
    assert is_finite(value)
