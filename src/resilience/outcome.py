"""How a call ended, what that means, and what is known about the call."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeAlias, TypeVar, cast

from resilience._core.check import is_finite
from resilience.errors import DeadlineExceededError, RejectedError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Verdict(enum.Enum):
    """What an outcome says about the dependency."""

    GOOD = "good"
    """The dependency did its work. A "not found" is good: somebody was there to say so."""
    BAD = "bad"
    """The dependency failed, and said so."""
    TIMED_OUT = "timed_out"
    """No answer in time: the work may still be going on."""
    THROTTLED = "throttled"
    """The dependency refused the work because it is overloaded; it may have said when to return."""
    IGNORED = "ignored"
    """Nothing is learnt about the dependency: a cancelled call, a refusal by an inner policy."""

    __hash__ = object.__hash__  # that of an enum is a function in Python, and failures are counted by verdict


_BAD: Final = Verdict.BAD  # a name of its own, for what most failures are: enums look their members up slowly


class Outcome(Generic[T_co]):
    """
    How one call ended: with a value or with an error.

    Attributes:
        value: What the function returned; None if it raised.
        error: What it raised; None if it returned.
        retry_after: Seconds the dependency asked us to stay away, or None. Taken from the
            error's own ``retry_after`` when it has one, a number or the text of one; a classifier
            that finds it elsewhere, as in a response header, stores it here.
        unsent: Whether the dependency surely never saw the request, so that even what must not
            be done twice may be tried again. A classifier that knows says so here.

    Example:
        >>> Outcome(value=7).is_error
        False

    """

    __slots__ = ("error", "retry_after", "unsent", "value")

    value: T_co
    error: Exception | None
    retry_after: float | None
    unsent: bool

    def __init__(
        self,
        value: T_co = None,  # type: ignore[assignment]  # None stands for "no value" beside an error
        error: Exception | None = None,
    ) -> None:
        self.value = value
        self.error = error
        if error is None:
            self.retry_after = None
            self.unsent = False
        else:
            given = getattr(error, "retry_after", None)
            self.retry_after = None if given is None else hint(given)
            self.unsent = isinstance(error, RejectedError)

    @property
    def is_error(self) -> bool:
        """Whether the function raised."""
        return self.error is not None

    def __repr__(self) -> str:
        ending = f"value={self.value!r}" if self.error is None else f"error={self.error!r}"
        return f"Outcome({ending})"


def hint(given: object) -> float | None:
    """
    Read a ``retry_after``: seconds as a number, or as the text of a header; None if it is neither.

    It comes from outside, so nothing that it may be breaks the call.
    """
    if type(given) is float:  # what we say ourselves
        return given if 0.0 <= given < math.inf else None
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError:
            return None
    return float(given) if is_finite(given) and given >= 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """
    What is known about a call, for classifiers and for settings that may be callables.

    Attributes:
        operation: What is done, as a template with few values ("GET /stock"), or None.
        idempotent: Whether doing it twice has the effect of doing it once; None if not known.
        idempotency_key: The key that makes repetitions of it one, or None.
        priority: A `resilience.Priority`: how important it is, and with it the calls that it makes; or None
            for that of the block it is made in.
        attempt: Number of the attempt, from 1. Hedges count like retries.
        deadline: Instant on the monotonic clock at which the caller stops waiting, or None.

    """

    operation: str | None = None
    idempotent: bool | None = None
    idempotency_key: str | None = None
    priority: object | None = None
    attempt: int = 1
    deadline: float | None = None


_PLAIN: Final = CallContext()
"""What is known about a call of which nothing is known."""

_PLAIN_ATTEMPTS: Final = (_PLAIN, *(CallContext(attempt=number) for number in range(2, 11)))


def _attempt_of(context: CallContext, number: int) -> CallContext:  # pyright: ignore[reportUnusedFunction]  # see retry
    """Return what is known about attempt *number* of the call with *context*."""
    if context.attempt == number:
        return context
    if context is _PLAIN and number <= len(_PLAIN_ATTEMPTS):
        return _PLAIN_ATTEMPTS[number - 1]
    return replace(context, attempt=number)


Classifier: TypeAlias = Callable[[Outcome[object], CallContext], Verdict]
"""Judge how a call ended. Called for values and ``Exception``s, never for cancellation."""

ErrorMatch: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which errors count as bad: a type, a tuple of types, or a predicate."""


def any_error_is_bad(outcome: Outcome[object], context: CallContext) -> Verdict:  # noqa: ARG001  # the signature of every classifier
    """
    Judge by the error alone: the classifier in force unless another is given.

    A ``TimeoutError`` is TIMED_OUT, an error with a ``retry_after`` is THROTTLED, any other error
    is BAD, and a value is GOOD. An inner policy's refusal, and a deadline that passed before the
    function was called, are IGNORED: the dependency never heard of the call.
    """
    error = outcome.error
    if error is None:
        return Verdict.GOOD
    if isinstance(error, RejectedError):
        return Verdict.IGNORED
    if isinstance(error, TimeoutError):
        is_late = isinstance(error, DeadlineExceededError) and not error.started
        return Verdict.IGNORED if is_late else Verdict.TIMED_OUT
    return _BAD if outcome.retry_after is None else Verdict.THROTTLED


def errors_in(on: ErrorMatch) -> Classifier:
    """
    Make the classifier behind ``on=``: matching errors are bad, other errors are good.

    Matching errors are told apart as `any_error_is_bad` does (timed out, throttled, bad). An
    error that does not match is GOOD, as in Polly and Resilience4j: the dependency answered. A
    refusal by an inner policy counts only if its type, or a subclass of `RejectedError` above
    it, is named; a predicate is not asked about refusals.
    """
    return ErrorsIn(on)


class ErrorsIn:
    """The classifier behind ``on=``. It finds every value good: there is no need to ask it about one."""

    __slots__ = ("_listed", "_on", "_refusals")

    def __init__(self, on: ErrorMatch) -> None:
        self._on = on
        self._listed: tuple[type[Exception], ...] = ()
        if isinstance(on, (tuple, type)):
            self._listed = cast("tuple[type[Exception], ...]", on if isinstance(on, tuple) else (on,))
        self._refusals = tuple(kind for kind in self._listed if issubclass(kind, RejectedError))

    def __call__(self, outcome: Outcome[object], context: CallContext) -> Verdict:
        """Judge how a call ended."""
        error = outcome.error
        if isinstance(error, RejectedError):
            return Verdict.BAD if isinstance(error, self._refusals) else Verdict.IGNORED
        if error is None or not self._matches(error):
            return Verdict.GOOD
        return any_error_is_bad(outcome, context)

    def _matches(self, error: Exception) -> bool:
        if self._listed:
            return isinstance(error, self._listed)
        return bool(cast("Callable[[Exception], bool]", self._on)(error))


def bad_results(is_bad: Callable[[T], bool], on: ErrorMatch = Exception) -> Classifier:
    """
    Make a classifier that also judges results: those for which *is_bad* answers true are bad.

    Args:
        is_bad: Predicate over what the function returned.
        on: Errors that count as bad, as for ``on=``. Default: every error.

    Example:
        >>> classify = bad_results(lambda rows: not rows)
        >>> classify(Outcome([]), CallContext())
        <Verdict.BAD: 'bad'>

    """
    return BadResults(is_bad, on)


class BadResults:
    """
    The classifier behind `bad_results`.

    Attributes:
        is_bad: The predicate over what the function returned, for whoever has no `Outcome` at hand.

    """

    __slots__ = ("_judge_error", "is_bad")

    def __init__(self, is_bad: Callable[[T], bool], on: ErrorMatch) -> None:
        self.is_bad = cast("Callable[[object], bool]", is_bad)
        self._judge_error = errors_in(on)

    def __call__(self, outcome: Outcome[object], context: CallContext) -> Verdict:
        """Judge how a call ended."""
        if outcome.error is not None:
            return self._judge_error(outcome, context)
        return Verdict.BAD if self.is_bad(outcome.value) else Verdict.GOOD
