"""The composition root: the golden path."""

import enum
from typing import Final, Self

from resilience._runtime import pipeline as _pipeline
from resilience._runtime.policy import Policy, inherited_problems
from resilience.circuit_breaker import CircuitBreaker
from resilience.concurrency_limiter import ConcurrencyLimiter
from resilience.errors import ConfigError, Problem, shown
from resilience.limits import Aimd
from resilience.outcome import Classifier, ErrorMatch
from resilience.retry import Retry
from resilience.timeout import Timeout
from resilience.typing import Ratio, Seconds

TOTAL_TIMEOUT: Seconds = 3.0
"""Default time for a call with all its attempts: what a person waits before trying again."""

ATTEMPT_TIMEOUT: Seconds = 1.0
"""Longest default time for one attempt."""

ATTEMPTS_IN_TOTAL = 3
"""Attempts that the total time has room for by default, each of full length: as many as `Retry` makes."""

MAX_WAIT: Seconds = 1.0
"""Longest default time in line for a place: where an answer takes less than that, a burst of calls is served
in turn instead of refused, while the limit is still finding itself."""

MAX_QUEUE = 100
"""Default for how many calls may stand in that line."""

FAILURE_RATIO: Ratio = 0.9
"""Share of failures that opens its circuit by default: where nearly nothing works. Below that, the limit and
the budget bound the load, and in the simulator a circuit that opens as well only loses calls."""

BREAK_DURATION: Seconds = 1.0
"""Default break of its circuit, always the same: in the simulator one probe a second finds out early enough
that a dependency is back, where a break of five seconds, doubled, costs more calls than it saves."""


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
        concurrency_limiter: ConcurrencyLimiter | _Default | None = DEFAULT,
        attempt_timeout: Seconds | Timeout | _Default | None = DEFAULT,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> Self:
        """
        Return the golden path, from the outside in.

        A total timeout; retries, paid from a budget; a circuit breaker; a concurrency limit that finds
        itself; a timeout for each attempt. Every part can be replaced by one of its kind, or left out with
        None.

        Args:
            name: Name for telemetry, errors and the retry budget.
            total_timeout: Seconds for a call with all its attempts, > 0, or a `Timeout`.
            retry: Default ``Retry()``: three attempts, full jitter, paid from the budget of *name*.
            circuit_breaker: Default
                ``CircuitBreaker(failure_ratio=0.9, break_duration=1.0, break_factor=1.0)``.
            concurrency_limiter: Default `resilience.limits.Aimd`, with up to 100 calls in line for at most
                1.0 s, or for a third of the total if that is less.
            attempt_timeout: Seconds for one attempt, > 0 and less than the total, or a `Timeout`.
                Default: a third of the total, at most 1.0.
            on: Errors that count as bad: a type, a tuple of types, or a predicate.
            classify: Judge of outcomes, for every policy without one of its own.

        Raises:
            ConfigError: A part is of the wrong kind, or the parts contradict each other.

        Example:
            >>> inventory = Pipeline.standard("inventory", total_timeout=2.0, attempt_timeout=0.5)
            >>> [policy.kind for policy in inventory.policies]
            ['timeout', 'retry', 'circuit_breaker', 'concurrency_limiter', 'timeout']

        """
        problems = inherited_problems(name, on, classify)
        if name is None:
            problems.append(Problem("name", name, "must be a non-empty string"))
        total = _timeout("total_timeout", total_timeout, problems)
        parts: list[tuple[str, type[Policy], object]] = [
            ("total_timeout", Timeout, total),
            ("retry", Retry, Retry() if retry is DEFAULT else retry),
            ("circuit_breaker", CircuitBreaker, _circuit_breaker(circuit_breaker)),
            ("concurrency_limiter", ConcurrencyLimiter, _concurrency_limiter(concurrency_limiter, total)),
            ("attempt_timeout", Timeout, _attempt_timeout(attempt_timeout, total, problems)),
        ]
        problems += [
            Problem(setting, part, f"must be a {kind.__name__} or None")
            for setting, kind, part in parts
            if part is not None and not isinstance(part, kind)
        ]
        subject = f"Pipeline.standard {shown(name)}"
        if problems:
            raise ConfigError(subject, problems)
        policies = [part for _, _, part in parts if isinstance(part, Policy)]
        try:
            return cls(name, *policies, on=on, classify=classify)
        except ConfigError as error:
            raise ConfigError(subject, [_as_written(each, total) for each in error.problems]) from None


def _timeout(setting: str, given: Seconds | Timeout | None, problems: list[Problem]) -> Timeout | None:
    """Return *given* as a timeout; what is wrong with it joins *problems*, under the name of *setting*."""
    if given is None or isinstance(given, Timeout):
        return given
    try:
        return Timeout(given)
    except ConfigError as error:
        problems += [Problem(setting, problem.value, problem.rule) for problem in error.problems]
        return None


def _as_written(problem: Problem, total: Timeout | None) -> Problem:
    """Return *problem* in the words of `Pipeline.standard`, where timeouts have names of their own."""
    if problem.setting != "duration" or total is None:
        return problem
    rule = f"must be > 0 and less than the total_timeout of {total.traits.bound:g} s"
    return Problem("attempt_timeout", problem.value, rule)


def _circuit_breaker(given: object) -> object:
    if given is not DEFAULT:
        return given
    return CircuitBreaker(failure_ratio=FAILURE_RATIO, break_duration=BREAK_DURATION, break_factor=1.0)


def _concurrency_limiter(given: object, total: Timeout | None) -> object:
    if given is not DEFAULT:
        return given
    return ConcurrencyLimiter(limit=Aimd(), max_queue=MAX_QUEUE, max_wait=_share(total, MAX_WAIT))


def _attempt_timeout(
    given: Seconds | Timeout | _Default | None, total: Timeout | None, problems: list[Problem]
) -> Timeout | None:
    if given is not DEFAULT:
        return _timeout("attempt_timeout", given, problems)
    return Timeout(_share(total, ATTEMPT_TIMEOUT))


def _share(total: Timeout | None, most: Seconds) -> Seconds:
    """Return a third of the total, and *most* at most."""
    bound = None if total is None else total.traits.bound
    return most if bound is None else min(most, bound / ATTEMPTS_IN_TOTAL)
