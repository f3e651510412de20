"""What may be set on a hedge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from resilience._core.check import Check
from resilience._core.inherited import INHERITED, Inherited
from resilience.outcome import CallContext
from resilience.typing import Budget, Ratio, Seconds

MOST_EXTRA: Final = 10
MOST_SAMPLES: Final = 10_000
MAX_ABANDONED: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """A delay that is learnt: a quantile of how long first attempts take."""

    q: Ratio = 0.95
    """
    Share of first attempts that end within the delay, 0 < q <= 1. Default 0.95: about 5 % of the calls are
    hedged (Dean and Barroso, "The Tail at Scale").
    """

    min_samples: int = 20
    """
    First attempts that must have ended before the delay is known, >= 1. Default 20, as failsafe-go's warm-up:
    one of them lies beyond the quantile. Until then only a failure starts a further attempt.
    """

    samples: int = 200
    """
    How many of the latest ones are looked at, min_samples <= samples <= 10 000. Default 200: ten of them lie
    beyond the quantile, so that ten slow calls in a row move it.
    """

    def __post_init__(self) -> None:
        check = Check("quantile")
        check.ratio("q", self.q)
        counts = check.whole("min_samples", self.min_samples)
        if check.whole("samples", self.samples):
            check.number("samples", self.samples, at_most=MOST_SAMPLES)
            if counts:
                fits = self.samples >= self.min_samples
                check.that(fits, "samples", self.samples, f"must be >= min_samples, {self.min_samples}")
        check.done()


def quantile(q: Ratio = 0.95, *, min_samples: int = 20, samples: int = 200) -> Quantile:
    """
    Learn the delay of a `Hedge` from how long its first attempts take.

    Args:
        q: Share of first attempts that end within the delay, 0 < q <= 1. Default 0.95.
        min_samples: First attempts needed before the delay is known, >= 1. Default 20.
        samples: How many of the latest ones are looked at, at most 10 000. Default 200.

    Raises:
        ConfigError: A value is outside its range; see `Quantile`.

    Example:
        >>> quantile(0.99, min_samples=100)
        Quantile(q=0.99, min_samples=100, samples=200)

    """
    return Quantile(q=q, min_samples=min_samples, samples=samples)


DelayOf: TypeAlias = Callable[[CallContext], Seconds | None]
"""Says how long to wait for the attempts under way before the one whose context it is given starts."""

Idempotent: TypeAlias = bool | Literal["context"] | Callable[[CallContext], bool] | None
"""Which calls may be made more than once."""

_MUST_BE_SAID: Final = (
    "must be said, since a hedge makes a call again while the first is under way: True if doing it twice has"
    " the effect of doing it once, 'context' to ask the CallContext of each call, or a predicate of it"
)
_NEVER: Final = "must be True, 'context' or a predicate: what must not be done twice must not be hedged"


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeSettings:
    """When a call is made a second time beside the first, and which calls may be."""

    after: Seconds | Quantile | DelayOf | None = 0.2
    """
    Seconds to wait for an attempt before the next one starts, >= 0: 0 starts all at once, None starts one
    only after a failure. Or `quantile`, which learns them. Or a callable that takes the `CallContext` of the
    attempt to start, with its number, and returns seconds or None. Default 0.2, our own guess: a delay that a
    person hardly notices; Polly waits 2 s. Where calls are frequent, prefer `quantile`.
    """

    idempotent: Idempotent = None
    """
    Which calls may be made more than once; it must be said. True: all, except those whose context says that
    they are not idempotent. ``"context"``: those whose `CallContext` says ``idempotent=True`` or has an
    idempotency key. Or a predicate of the context. Other calls are made once, in the caller's own thread or
    task.
    """

    max_extra: int = 1
    """Attempts beside the first, 1 <= n <= 10. Default 1, as in Polly and failsafe-go."""

    budget: Budget | Inherited | None = INHERITED
    """
    What further attempts are paid from; None for no budget, which a pipeline does not accept. Default: the
    budget of the pipeline's name. When it does not pay, there is no further attempt, and the others go on.
    """

    max_abandoned: int | None = MAX_ABANDONED
    """
    How many attempts that lost may be at work before calls are no longer hedged, >= 1, or None for any
    number. Default 40, AnyIO's bound on worker threads. It matters for plain functions: threads cannot be
    stopped.
    """

    def __post_init__(self) -> None:
        check = Check("Hedge")
        if not isinstance(self.after, Quantile) and not callable(self.after):
            check.seconds("after", self.after, zero=True, optional=True)
        said = self.idempotent
        if check.that(said is not None, "idempotent", said, _MUST_BE_SAID):
            check.that(said is True or said == "context" or callable(said), "idempotent", said, _NEVER)
        if check.whole("max_extra", self.max_extra):
            check.number("max_extra", self.max_extra, at_most=MOST_EXTRA)
        is_budget = self.budget is None or isinstance(self.budget, (Inherited, Budget))
        check.that(is_budget, "budget", self.budget, "must be a RetryBudget or None")
        check.whole("max_abandoned", self.max_abandoned, optional=True)
        check.done()

    def may_repeat(self, context: CallContext) -> bool:
        """Whether a call with this context may be made more than once."""
        safe = context.idempotent is True or context.idempotency_key is not None
        if self.idempotent is True:
            return safe or context.idempotent is None
        if self.idempotent == "context":
            return safe
        return callable(self.idempotent) and bool(self.idempotent(context))

    def checked(self, delay: Seconds | None) -> Seconds | None:
        """Return what a callable *after* answered, if it is a delay."""
        check = Check("Hedge")
        check.seconds("after()", delay, zero=True, optional=True)
        check.done()
        return delay
