"""The composition root: the golden path, and the budgets that retries inherit by name."""

import enum
from typing import Final, Self

from resilience._runtime import budgets
from resilience._runtime import pipeline as _pipeline
from resilience._runtime.policy import Policy, inherited_problems
from resilience.circuit_breaker import CircuitBreaker
from resilience.errors import ConfigError, Problem, shown
from resilience.outcome import Classifier, ErrorMatch
from resilience.retry import Retry
from resilience.retry_budget import RetryBudget
from resilience.timeout import Timeout
from resilience.typing import Seconds

TOTAL_TIMEOUT: Seconds = 3.0
"""Default time for a call with all its attempts: what a person waits before trying again."""

ATTEMPT_TIMEOUT: Seconds = 1.0
"""Longest default time for one attempt."""

ATTEMPTS_IN_TOTAL = 3
"""Attempts that the total time has room for by default, each of full length: as many as `Retry` makes."""


class _Default(enum.Enum):
    """Stands for a part that was not given, since None leaves it out."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "default"


DEFAULT: Final = _Default.DEFAULT


class Pipeline(_pipeline.Pipeline):  # noqa: D101  # it has that of its base
    __doc__ = _pipeline.Pipeline.__doc__
    __slots__ = ()

    @classmethod
    def standard(
        cls,
        name: str,
        /,
        *,
        total_timeout: Seconds | Timeout | None = TOTAL_TIMEOUT,
        retry: Retry | _Default | None = DEFAULT,
        circuit_breaker: CircuitBreaker | _Default | None = DEFAULT,
        attempt_timeout: Seconds | Timeout | _Default | None = DEFAULT,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> Self:
        """
        Return the golden path: total timeout, retry with a budget, circuit breaker, attempt timeout.

        Every part can be replaced by one of its kind, or left out with None.

        Args:
            name: Name for telemetry, errors and the retry budget.
            total_timeout: Seconds for a call with all its attempts, > 0, or a `Timeout`.
            retry: Default ``Retry()``: three attempts, full jitter, paid from the budget of *name*.
            circuit_breaker: Default ``CircuitBreaker()``.
            attempt_timeout: Seconds for one attempt, > 0 and less than the total, or a `Timeout`.
                Default: a third of the total, at most 1.0.
            on: Errors that count as bad: a type, a tuple of types, or a predicate.
            classify: Judge of outcomes, for every policy without one of its own.

        Raises:
            ConfigError: A part is of the wrong kind, or the parts contradict each other.

        Example:
            >>> inventory = Pipeline.standard("inventory", total_timeout=2.0, attempt_timeout=0.5)
            >>> [policy.kind for policy in inventory.policies]
            ['timeout', 'retry', 'circuit_breaker', 'timeout']

        """
        problems = inherited_problems(name, on, classify)
        if name is None:
            problems.append(Problem("name", name, "must be a non-empty string"))
        total = _timeout("total_timeout", total_timeout, problems)
        parts: list[tuple[str, type[Policy], object]] = [
            ("total_timeout", Timeout, total),
            ("retry", Retry, Retry() if retry is DEFAULT else retry),
            (
                "circuit_breaker",
                CircuitBreaker,
                CircuitBreaker() if circuit_breaker is DEFAULT else circuit_breaker,
            ),
            ("attempt_timeout", Timeout, _attempt_timeout(attempt_timeout, total, problems)),
        ]
        problems += [
            Problem(setting, part, f"must be a {kind.__name__} or None")
            for setting, kind, part in parts
            if part is not None and not isinstance(part, kind)
        ]
        if problems:
            raise ConfigError(f"Pipeline.standard {shown(name)}", problems)
        policies = [part for _, _, part in parts if isinstance(part, Policy)]
        return cls(name, *policies, on=on, classify=classify)


def _timeout(setting: str, given: Seconds | Timeout | None, problems: list[Problem]) -> Timeout | None:
    """Return *given* as a timeout; what is wrong with it joins *problems*, under the name of *setting*."""
    if given is None or isinstance(given, Timeout):
        return given
    try:
        return Timeout(given)
    except ConfigError as error:
        problems += [Problem(setting, problem.value, problem.rule) for problem in error.problems]
        return None


def _attempt_timeout(
    given: Seconds | Timeout | _Default | None, total: Timeout | None, problems: list[Problem]
) -> Timeout | None:
    if given is not DEFAULT:
        return _timeout("attempt_timeout", given, problems)
    bound = total.traits.bound if isinstance(total, Timeout) else None
    return Timeout(ATTEMPT_TIMEOUT if bound is None else min(ATTEMPT_TIMEOUT, bound / ATTEMPTS_IN_TOTAL))


def _default_budget(name: str) -> RetryBudget:
    return RetryBudget(name=name)


budgets.make = _default_budget
