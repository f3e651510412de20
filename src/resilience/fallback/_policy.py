"""Put something else in the place of a result that is not good."""

import sys
import threading
from collections.abc import Callable, Iterator
from inspect import isawaitable
from typing import Any, ParamSpec, TypeVar

from resilience._runtime import fork, wrap
from resilience._runtime.census import Reading
from resilience._runtime.flow import PLAIN, Call, Dispose, Flow, Inner
from resilience._runtime.hot import Hot
from resilience._runtime.policy import Binding, Judge, Policy, Step, Traits, all_right
from resilience.errors import ConfigError, Problem
from resilience.fallback._settings import NOT_GIVEN, FallbackSettings, Handler
from resilience.outcome import CallContext, Classifier, ErrorMatch, ErrorsIn, Outcome, Verdict
from resilience.typing import Seconds

P = ParamSpec("P")
R = TypeVar("R")


class Fallback(Policy):
    """
    Put *value*, or what *handler* makes, in the place of whatever is not judged good.

    That is every error, refusals such as `CircuitOpenError` and a `DeadlineExceededError` among
    them, and every result that a classifier finds not good. An error that a classifier calls good
    comes out as it is. With *on*, exactly the errors that it names are replaced.

    A cancellation passes through. An error of the handler is raised in place of the original one,
    which becomes its ``__cause__``. Generators cannot be guarded: what was read cannot be replaced.

    Args:
        name: Name for telemetry. Default: that of the pipeline or function.
        value: The replacement: any object, None included. Every caller gets this one object.
        handler: Instead: a callable that takes the `Outcome` and returns the replacement. For
            async functions it may be async.
        on: Errors to replace: a type, a tuple of types, or a predicate. A predicate is asked
            about refusals as well. Default: what the pipeline does not judge good, else every error.
        classify: Judge of outcomes, in place of *on*.

    Raises:
        ConfigError: Neither or both of *value* and *handler* are given, or a setting is wrong.

    Example:
        >>> @Fallback(value="no recommendations")
        ... def recommend() -> str:
        ...     raise ConnectionError("down")
        >>> recommend()
        'no recommendations'

    """

    __slots__ = ("_lock", "_settings", "replaced")

    kind = "fallback"
    streams = False

    def __init__(
        self,
        name: str | None = None,
        *,
        value: object = NOT_GIVEN,
        handler: Handler | None = None,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        if value is NOT_GIVEN and handler is None and callable(name):
            rule = "must be a non-empty string or None (write @Fallback(value=...), with parentheses)"
            raise ConfigError("Fallback", [Problem("name", name, rule)])
        settings = all_right(
            name, lambda: FallbackSettings(value=value, handler=handler), on=on, classify=classify
        )
        super().__init__(name, on=on, classify=classify)
        if on is not None:
            self._classify = _Exactly(on)
        self._settings = settings
        self._lock = threading.RLock()
        self.replaced = 0
        """How many outcomes were replaced. Counts this process alone."""
        fork.register(self)

    @property
    def settings(self) -> FallbackSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """It turns failures into results."""
        return Traits(replaces=True)

    def reconfigure(self, **changes: Any) -> None:
        """
        Change settings at run time. A new value takes the place of a handler, and the reverse.

        Raises:
            ConfigError: A setting is unknown or wrong. Nothing has changed then.

        """
        if "handler" in changes:
            changes.setdefault("value", NOT_GIVEN)
        elif "value" in changes:
            changes["handler"] = None
        super().reconfigure(**changes)

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """
        Guard *fn*, as every policy does.

        Raises:
            TypeError: *fn* cannot be guarded, such as a class.
            ConfigError: *fn* is a generator function, or a plain function where the handler is async.

        """
        guarded = super().__call__(fn)
        plain: Callable[..., Any] = getattr(guarded, "__func__", guarded)  # of a classmethod, a staticmethod
        handler = self._settings.handler
        if handler is not None and wrap.is_async(handler) and not wrap.is_async(plain):
            rule = f"must not be a coroutine function: {wrap.name_of(plain)} is a plain function"
            raise ConfigError("Fallback", [Problem("handler", handler, rule)])
        return guarded

    def step_for(self, binding: Binding) -> Step:
        """Return the step that calls, judges and replaces."""
        judge = self.judge(binding)

        def step(call: Call, inner: Inner) -> Flow:
            return self._around(judge, call, inner)

        return step

    def hot(self, binding: Binding) -> Hot:
        """Return what a call runs that ends well: nothing."""
        judge = self.judge(binding)

        def fail(tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None) -> None:  # noqa: ARG001  # see Fail
            if judge(outcome, PLAIN) is Verdict.GOOD:
                tokens[place] = None

        return Hot(token="True", fail=fail)  # noqa: S106  # no secret

    def _configure(self, settings: FallbackSettings) -> None:
        self._settings = settings

    def _around(self, judge: Judge, call: Call, inner: Inner) -> Flow:
        outcome = yield from inner(call)
        if judge(outcome, call.context) is Verdict.GOOD:
            return outcome
        settings = self._settings
        if settings.handler is not None:
            return (yield from self._handle(settings.handler, outcome, call))
        if outcome.error is None:
            yield Dispose(outcome.value)
        with self._lock:
            self.replaced += 1
        return Outcome(settings.value)

    def _handle(self, handler: Handler, outcome: Outcome[Any], call: Call) -> Flow:
        instead_of = _Original(outcome.error)
        replacement: Any
        try:
            replacement = handler(outcome)
        except Exception as error:  # noqa: BLE001  # an outcome, like an error of the function
            return instead_of.failed(error)
        if isawaitable(replacement):
            # The driver awaits it, or refuses a coroutine where nobody can await it.
            awaited: Callable[[], Any] = lambda: replacement
            awaited.__qualname__ = f"the fallback's handler {wrap.name_of(handler)}"
            reply: Outcome[Any] = yield Call(awaited, (), {}, call.context)
            if reply.error is not None:
                return instead_of.failed(reply.error)
            replacement = reply.value
        with self._lock:
            self.replaced += 1
        return Outcome(replacement)

    def readings(self) -> Iterator[Reading]:
        """Return how many outcomes it replaced."""
        yield Reading("resilience.fallback.replacements", self.replaced)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self.replaced = 0


class _Exactly(ErrorsIn):
    """The classifier behind ``on=``: what is named is replaced, refusals like any error."""

    __slots__ = ()

    def __call__(self, outcome: Outcome[object], context: CallContext) -> Verdict:  # noqa: ARG002  # every classifier's signature
        """Judge how a call ended."""
        error = outcome.error
        return Verdict.BAD if error is not None and self._matches(error) else Verdict.GOOD


class _Original:
    """The error that is being replaced, for an error of the handler to tell of."""

    __slots__ = ("_around", "_error", "_trace")

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self._trace = None if error is None else error.__traceback__
        self._around = sys.exception()

    def failed(self, error: Exception) -> Outcome[Any]:
        """Return the outcome of a handler that raised *error*."""
        original = self._error
        if error is original:
            # As if there were no handler: its frame refers to the outcome, and so to the error itself.
            return Outcome(error=error.with_traceback(self._trace))
        # The cause, not the context, which is lost where the caller is handling an error of its own.
        context = error.__context__
        has_own = error.__suppress_context__ or not (context is None or context is self._around)
        if original is not None and not has_own and not _leads_to(original, error):
            error.__cause__ = original
        return Outcome(error=error)


def _leads_to(start: Exception, error: Exception) -> bool:
    """Whether *error* is among the causes and contexts of *start*: linking them would make a ring."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [start]
    while queue:
        link = queue.pop()
        if link is error:
            return True
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            queue += [link.__cause__, link.__context__]
    return False
