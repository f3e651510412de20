"""How a call ended and what that means: outcomes, verdicts, and the classifiers behind ``on=``."""

import math
from typing import cast

import pytest

from resilience.errors import (
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    LoadShedError,
    RateLimitedError,
    RejectedError,
)
from resilience.outcome import CallContext, Outcome, Verdict, any_error_is_bad, bad_results, errors_in

PLAIN = CallContext()
REFUSALS = [CircuitOpenError, RateLimitedError, ConcurrencyLimitedError, LoadShedError]


class Overloaded(Exception):
    def __init__(self, retry_after: object) -> None:
        super().__init__()
        self.retry_after = retry_after


def judged(classify, error: Exception | None = None, value: object = None) -> Verdict:
    return classify(Outcome(value, error), PLAIN)


# --- outcomes ---


def test_an_outcome_has_a_value_or_an_error() -> None:
    good, bad = Outcome(7), Outcome(error=KeyError("k"))
    assert (good.value, good.error, good.is_error) == (7, None, False)
    assert (bad.value, str(bad.error), bad.is_error) == (None, "'k'", True)
    assert (repr(good), repr(bad)) == ("Outcome(value=7)", "Outcome(error=KeyError('k'))")


@pytest.mark.parametrize("seconds", [0, 2.5, 10**6, "5", " 2.5 "])
def test_an_error_may_say_when_to_come_back(seconds: object) -> None:
    assert Outcome(error=Overloaded(seconds)).retry_after == float(cast("float", seconds))


@pytest.mark.parametrize(
    "hint", [None, -1, math.nan, math.inf, 10**400, True, "soon", "nan", "-1", b"5", [1]]
)
def test_what_is_no_length_of_time_is_no_hint(hint: object) -> None:
    assert Outcome(error=Overloaded(hint)).retry_after is None
    assert Outcome(error=KeyError()).retry_after is None


def test_a_value_carries_no_hint_of_its_own() -> None:
    assert Outcome(Overloaded(3.0)).retry_after is None


def test_a_context_can_be_used_as_a_key_and_not_be_changed() -> None:
    assert CallContext(operation="GET /stock") == CallContext(operation="GET /stock")
    with pytest.raises(AttributeError):
        PLAIN.attempt = 2
    with pytest.raises(TypeError):
        CallContext("GET /stock")


# --- the default ---


def test_a_value_is_good_whatever_it_is() -> None:
    for value in (7, None, False, KeyError()):
        assert judged(any_error_is_bad, value=value) is Verdict.GOOD


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (KeyError(), Verdict.BAD),
        (TimeoutError(), Verdict.TIMED_OUT),
        (DeadlineExceededError(started=True), Verdict.TIMED_OUT),
        (DeadlineExceededError(), Verdict.IGNORED),
        (Overloaded(1.0), Verdict.THROTTLED),
        (Overloaded(None), Verdict.BAD),
        (LoadShedError("inner", 1.0), Verdict.IGNORED),
    ],
    ids=repr,
)
def test_errors_are_told_apart(error: Exception, verdict: Verdict) -> None:
    assert judged(any_error_is_bad, error) is verdict


@pytest.mark.parametrize("refusal", REFUSALS)
def test_an_inner_refusal_teaches_nothing(refusal: type[RejectedError]) -> None:
    assert judged(any_error_is_bad, refusal("inner", 1.0)) is Verdict.IGNORED


# --- on= ---


@pytest.mark.parametrize(
    "on", [ConnectionError, (ConnectionError, KeyError), lambda error: isinstance(error, ConnectionError)]
)
def test_only_matching_errors_are_bad(on) -> None:
    classify = errors_in(on)
    assert judged(classify, ConnectionError()) is Verdict.BAD
    assert judged(classify, ConnectionResetError()) is Verdict.BAD
    assert judged(classify, ValueError()) is Verdict.GOOD
    assert judged(classify, value=ConnectionError()) is Verdict.GOOD


def test_matching_errors_are_told_apart_like_any_other() -> None:
    classify = errors_in((TimeoutError, Overloaded))
    assert judged(classify, TimeoutError()) is Verdict.TIMED_OUT
    assert judged(classify, Overloaded(2.0)) is Verdict.THROTTLED
    assert judged(errors_in(Overloaded), TimeoutError()) is Verdict.GOOD


@pytest.mark.parametrize("on", [Exception, (Exception,), lambda error: True])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_does_not_count_unless_it_is_named(on, refusal: type[RejectedError]) -> None:
    assert judged(errors_in(on), refusal("inner")) is Verdict.IGNORED


@pytest.mark.parametrize("on", [RejectedError, (KeyError, RejectedError), LoadShedError])
def test_a_refusal_counts_if_it_is_named(on) -> None:
    assert judged(errors_in(on), LoadShedError("inner")) is Verdict.BAD


def test_naming_one_refusal_names_no_other() -> None:
    assert judged(errors_in((LoadShedError, Exception)), RateLimitedError("inner")) is Verdict.IGNORED


def test_a_predicate_is_not_asked_about_refusals_and_values() -> None:
    asked = []
    classify = errors_in(lambda error: bool(asked.append(error)))
    judged(classify, LoadShedError("inner"))
    judged(classify, value=7)
    assert asked == []


# --- results ---


def test_results_may_be_bad_as_well() -> None:
    classify = bad_results(lambda rows: not rows)
    assert judged(classify, value=[]) is Verdict.BAD
    assert judged(classify, value=[1]) is Verdict.GOOD


def test_beside_bad_results_errors_are_judged_as_by_on() -> None:
    classify = bad_results(bool, on=ConnectionError)
    assert judged(classify, ConnectionError()) is Verdict.BAD
    assert judged(classify, ValueError()) is Verdict.GOOD
    assert judged(classify, LoadShedError("inner")) is Verdict.IGNORED
    assert judged(bad_results(bool), TimeoutError()) is Verdict.TIMED_OUT
