"""The errors: attributes for programs, words for people."""

import copy
import pickle

import pytest

from resilience import errors
from resilience.errors import (
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConfigError,
    ConfigWarning,
    DeadlineExceededError,
    LoadShedError,
    Problem,
    RateLimitedError,
    RejectedError,
)

REFUSALS = {
    CircuitOpenError: "'payments' is not admitting calls: the circuit is open",
    RateLimitedError: "'payments' is over its rate",
    ConcurrencyLimitedError: "'payments' is at its concurrency limit",
    LoadShedError: "'payments' is shedding load",
    RejectedError: "'payments' refused",
}


@pytest.mark.parametrize(("kind", "words"), REFUSALS.items())
def test_a_refusal_says_who_refused_and_when_to_come_back(kind: type[RejectedError], words: str) -> None:
    error = kind("payments", 2.5)
    assert (error.policy, error.retry_after) == ("payments", 2.5)
    assert str(error) == f"{words}; retry after 2.5 s"
    assert str(kind("payments")) == words
    assert kind("payments").retry_after is None


@pytest.mark.parametrize(
    "error",
    [
        *[kind("payments", 2.5) for kind in REFUSALS],
        DeadlineExceededError("late", started=True),
        ConfigError("Retry", [Problem("attempts", 0, "must be >= 1")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_errors_survive_the_way_to_another_process(error: Exception, through) -> None:
    again = through(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_family_tree_is_as_drawn() -> None:
    for kind in (CircuitOpenError, RateLimitedError, ConcurrencyLimitedError, LoadShedError):
        assert kind.__bases__ == (RejectedError,)
    assert RejectedError.__bases__ == (Exception,)
    assert DeadlineExceededError.__bases__ == (TimeoutError,)
    assert ConfigError.__bases__ == (ValueError,)
    assert ConfigWarning.__bases__ == (UserWarning,)
    drawn = errors.__doc__ or ""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert name in drawn, f"{name} is missing in the tree"


def test_a_config_error_lists_every_problem() -> None:
    error = ConfigError(
        "Retry", [Problem("attempts", 0, "must be >= 1"), Problem("name", "", "must be non-empty")]
    )
    assert [problem.setting for problem in error.problems] == ["attempts", "name"]
    assert str(error) == (
        "Retry: 2 problems\n  - attempts must be >= 1, got 0\n  - name must be non-empty, got ''"
    )


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * 500, "got '" + "x" * 199 + "..."),
        pytest.param(10**5000, "got <int that cannot be shown>", id="a number of 5001 digits"),
        (Unshowable(), "got <Unshowable that cannot be shown>"),
    ],
)
def test_whatever_the_value_is_the_error_can_be_read(value: object, words: str) -> None:
    assert str(Problem("attempts", value, "must be >= 1")).endswith(words)


def test_a_single_problem_takes_a_single_line() -> None:
    error = ConfigError("Retry", iter([Problem("attempts", 0, "must be >= 1")]))
    assert str(error) == "Retry: attempts must be >= 1, got 0"
    assert error.subject == "Retry"


def test_a_missed_deadline_says_whether_the_function_ran() -> None:
    assert DeadlineExceededError().started is False
    assert DeadlineExceededError(started=True).started is True
    assert str(DeadlineExceededError("too late")) == "too late"
