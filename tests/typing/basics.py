"""
Types that users rely on. Never run: mypy and pyright read it, both in their strict mode.

An `assert_type` that fails, or a comment that silences an error which is not there, fails `make check`.
"""

import random
from typing import assert_type

from resilience.errors import (
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConfigError,
    DeadlineExceededError,
    LoadShedError,
    Problem,
    RateLimitedError,
    RejectedError,
)
from resilience.outcome import CallContext, Classifier, Outcome, Verdict, any_error_is_bad, errors_in
from resilience.typing import Clock, Random


def errors(config: ConfigError, late: DeadlineExceededError) -> None:
    assert_type(config.problems, tuple[Problem, ...])
    assert_type(late.started, bool)
    builtin: TimeoutError = late
    value: ValueError = config
    del builtin, value


def refusals(
    circuit: CircuitOpenError, rate: RateLimitedError, slots: ConcurrencyLimitedError, shed: LoadShedError
) -> None:
    refused: RejectedError = circuit or rate or slots or shed
    assert_type(refused.retry_after, float | None)
    assert_type(refused.policy, str)


def outcomes(outcome: Outcome[int]) -> None:
    assert_type(outcome.value, int)
    assert_type(outcome.error, Exception | None)
    wider: Outcome[object] = outcome  # an outcome is read-only in its type
    del wider


def judge(outcome: Outcome[object], context: CallContext) -> Verdict:
    return Verdict.GOOD if context.idempotent and not outcome.is_error else Verdict.BAD


classifiers: list[Classifier] = [
    judge,
    any_error_is_bad,
    errors_in(ConnectionError),
    errors_in((ConnectionError, TimeoutError)),
    errors_in(lambda error: "later" in str(error)),
]


def own_clock() -> float:
    return 0.0


clock: Clock = own_clock
chance: Random = random.Random(7)
