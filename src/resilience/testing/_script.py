"""Functions that fail, return and dawdle to order."""

import itertools
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, cast

from resilience._core.check import Check
from resilience._runtime import drive
from resilience._runtime.flow import Command, Park, Waiter
from resilience.typing import Seconds

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Delayed:
    """
    An outcome that takes its time; `delayed` makes one.

    Attributes:
        seconds: How long it takes on the package's clock, so that a `FakeClock` need not wait.
        outcome: What happens then: a value, or an exception to raise.

    """

    seconds: Seconds
    outcome: object = None


class Script:
    """
    A function that plays scripted outcomes, one a call; the last one repeats.

    It takes any arguments. Called, it is a plain function; its `acall` is the same as a coroutine
    function, and both share one count of calls. Policies without a name take that of the function
    they guard, so each script has a name of its own, and with it budgets that no other test used.

    Attributes:
        calls: How often it was called.

    """

    def __init__(self, outcomes: tuple[object, ...]) -> None:
        self.__module__ = "resilience.testing"
        self.__name__ = self.__qualname__ = f"script{next(_numbers)}"
        self.calls = 0
        self._outcomes = outcomes

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ARG002  # it takes whatever there is
        """Play the next outcome."""
        return _deliver(drive.result(self._play()))

    @property
    def acall(self) -> Callable[..., Coroutine[Any, Any, Any]]:
        """The same as a coroutine function."""

        async def acall(*args: object, **kwargs: object) -> Any:  # noqa: ARG001  # as above
            from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async use

            return _deliver(await adrive.result(self._play()))

        acall.__module__ = self.__module__
        acall.__name__ = acall.__qualname__ = self.__name__
        return acall

    def _play(self) -> Generator[Command, Any, Any]:
        number, self.calls = self.calls, self.calls + 1
        outcome: object = self._outcomes[min(number, len(self._outcomes) - 1)]
        while isinstance(outcome, Delayed):
            yield Park(Waiter(), outcome.seconds)
            outcome = outcome.outcome
        return outcome


def _deliver(outcome: object) -> Any:
    # Not in the generator, where a StopIteration would become a RuntimeError.
    if isinstance(outcome, type) and issubclass(outcome, BaseException):
        raise outcome
    if isinstance(outcome, BaseException):
        raise outcome.with_traceback(None)  # it may be raised many times: its traceback must not grow
    return cast("Any", outcome)


def script(*outcomes: object) -> Script:
    """
    Make a function that plays *outcomes*, one a call; the last one repeats.

    Args:
        outcomes: For each call what happens: an exception (a type or an object) is raised,
            `delayed` takes its time first, and anything else is returned.

    Raises:
        ConfigError: There is no outcome.

    Example:
        >>> ask = script(ConnectionError, delayed(0.5, "late"), "at once")
        >>> try:
        ...     ask()
        ... except ConnectionError:
        ...     ask(), ask(), ask.calls
        ('late', 'at once', 3)

    """
    check = Check("script")
    check.that(outcomes, "outcomes", outcomes, "must be at least one")
    check.done()
    return Script(outcomes)


def fail_times(n: int, error: BaseException | type[BaseException], then: object = None) -> Script:
    """
    Make a function that fails *n* times and works from then on.

    Args:
        n: How often it fails, >= 0.
        error: What it raises then: an exception type or object.
        then: What it returns afterwards; an outcome as for `script`.

    Raises:
        ConfigError: *n* is not a whole number >= 0, or *error* is no exception.

    Example:
        >>> from resilience import Retry
        >>> from resilience.testing import FakeClock
        >>> ask = fail_times(2, ConnectionError, then="here")
        >>> with FakeClock():
        ...     Retry(attempts=3).call(ask)
        'here'
        >>> ask.calls
        3

    """
    check = Check("fail_times")
    check.whole("n", n, at_least=0)
    is_error = isinstance(error, BaseException) or (
        isinstance(error, type) and issubclass(error, BaseException)
    )
    check.that(is_error, "error", error, "must be an exception, or a type of exceptions")
    check.done()
    return Script((error,) * n + (then,))


def delayed(seconds: Seconds, outcome: object = None) -> Delayed:
    """
    Make an outcome for `script` that takes *seconds* on the package's clock.

    Args:
        seconds: How long it takes, a finite number >= 0.
        outcome: What happens then, as for `script`.

    Raises:
        ConfigError: *seconds* is not such a number.

    """
    check = Check("delayed")
    check.seconds("seconds", seconds, zero=True)
    check.done()
    return Delayed(seconds, outcome)
