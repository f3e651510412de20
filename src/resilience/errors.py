"""
Every exception of the package.

    ValueError
    └── ConfigError                     settings that cannot work; lists every problem
    Exception
    └── RejectedError                   the function did not run
        ├── CircuitOpenError            the circuit breaker is open, isolated or out of probes
        ├── RateLimitedError            no rate permit within the wait allowed
        ├── ConcurrencyLimitedError     no concurrency slot within the wait allowed
        ├── LoadShedError               shed to protect the dependency
        └── IdempotencyError            the idempotency key decided against this call
            ├── IdempotencyInProgressError     the first call with the key has not ended
            ├── IdempotencyMismatchError       the key belongs to a different request
            ├── IdempotencyNotReplayableError  done already, but the result was not kept
            ├── IdempotencyKeyError            there is no usable key
            └── IdempotencyStoreError          the store failed, and must not be gone without
    UserWarning
    └── ConfigWarning                   settings that work, but unwisely
    TimeoutError                        (the builtin) an attempt or a call took too long
    └── DeadlineExceededError           the caller's own time is used up

Errors are attributes first and words second: a program reads the attributes, a person the message.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LONGEST_REPR: Final = 200
"""Characters of a value that an error message shows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing that is wrong with a set of settings.

    Attributes:
        setting: Name of the setting, as the user wrote it.
        value: What it was set to.
        rule: What must hold instead, for example ``must be > 0``.

    """

    setting: str
    value: object
    rule: str

    def __str__(self) -> str:
        return f"{self.setting} {self.rule}, got {shown(self.value)}"


def shown(value: object) -> str:
    """Return the repr of *value*, cut to a readable length; whatever it is, this does not raise."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a number of too many digits, or an object that cannot show itself
        return f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= LONGEST_REPR else f"{text[:LONGEST_REPR]}..."


class ConfigError(ValueError):
    """
    Settings that cannot work. One error lists every problem found.

    Attributes:
        subject: What was being built, for example ``CircuitBreaker``.
        problems: Every problem, in the order of the settings.

    Example:
        >>> from resilience import Timeout
        >>> try:
        ...     Timeout(-1)
        ... except ConfigError as error:
        ...     print(error.problems[0].setting)
        duration

    """

    def __init__(self, subject: str, problems: Iterable[Problem]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        super().__init__(subject, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.subject}: {self.problems[0]}"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{self.subject}: {len(self.problems)} problems{lines}"


class ConfigWarning(UserWarning):
    """Settings that work, but rarely as their author hopes."""


class RejectedError(Exception):
    """
    A policy refused the call: the function did not run.

    Attributes:
        policy: Name of the policy that refused.
        retry_after: Seconds until a further call may be admitted; a lower bound. None when the
            policy cannot know, as when somebody isolated a circuit by hand.

    """

    _says = "refused"

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        self.policy = policy
        self.retry_after = retry_after
        if self.args != (policy, retry_after):  # else they are known already, and refusals are to be cheap
            super().__init__(policy, retry_after)

    def __str__(self) -> str:
        hint = "" if self.retry_after is None else f"; retry after {self.retry_after:.3g} s"
        return f"{self.policy!r} {self._says}{hint}"


class CircuitOpenError(RejectedError):
    """
    The circuit breaker does not admit calls now.

    Its ``__cause__`` is never set: an exception kept by the breaker would keep the frames of a
    failed call alive for as long as the circuit is open.
    """

    _says = "is not admitting calls: the circuit is open"


class RateLimitedError(RejectedError):
    """No rate permit was free within the wait allowed."""

    _says = "is over its rate"


class ConcurrencyLimitedError(RejectedError):
    """No concurrency slot was free within the wait allowed."""

    _says = "is at its concurrency limit"


class LoadShedError(RejectedError):
    """The call was shed to protect a dependency that is refusing work."""

    _says = "is shedding load"


class IdempotencyError(RejectedError):
    """The idempotency key decided against this call: this time the function did not run."""

    _says = "refused the key"


class IdempotencyInProgressError(IdempotencyError):
    """
    The first call with the key has not ended, as far as the store knows, or its key is held.

    ``retry_after`` is the rest of the lease: until then nobody takes the key over, unless an operator
    expires it with `resilience.idempotency.expire_key`. With ``on_lease_expiry="takeover"`` that is so as
    well for a key that is held since its call failed.

    Attributes:
        unknown_outcome: Whether the key is held since that call failed, or since its lease ran out without
            an end: waiting does not help then, an operator must look.

    """

    _says = "has a call with this key in progress"

    def __init__(
        self, policy: str, retry_after: float | None = None, *, unknown_outcome: bool = False
    ) -> None:
        super().__init__(policy, retry_after)
        self.unknown_outcome = unknown_outcome

    def __str__(self) -> str:
        if not self.unknown_outcome:
            return super().__str__()
        return (
            f"{self.policy!r} holds this key since the first call with it failed, or was not heard of again; "
            "an operator may expire it"
        )


class IdempotencyMismatchError(IdempotencyError):
    """The key was used before, for a different request. To repeat the call with it never helps."""

    _says = "has seen this key with a different request"


class IdempotencyNotReplayableError(IdempotencyError):
    """The work is done and must not be done again, but its result was not kept: too large, say."""

    _says = "has done this already, and has not kept the result"


class IdempotencyKeyError(IdempotencyError, ValueError):
    """
    There is no key where one is needed, or what was given is none.

    Attributes:
        problem: What is wrong with it, or None.

    """

    _says = "needs an idempotency key"

    def __init__(self, policy: str, retry_after: float | None = None, *, problem: str | None = None) -> None:
        super().__init__(policy, retry_after)
        self.problem = problem

    def __str__(self) -> str:
        return super().__str__() + ("" if self.problem is None else f": {self.problem}")


class IdempotencyStoreError(IdempotencyError):
    """The store of keys failed, so nobody knows whether the work is done; its own error is the cause."""

    _says = "cannot reach its store of keys"


class DeadlineExceededError(TimeoutError):
    """
    The caller's own time is used up. Never retried.

    Attributes:
        started: Whether the function had been called when the time ran out. False means that
            it did not run.

    """

    def __init__(self, message: str = "deadline exceeded", *, started: bool = False) -> None:
        self.started = started
        super().__init__(message)
