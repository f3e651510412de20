"""Calls that are not over when they return, for those whose results are read later."""

from _thread import start_new_thread
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from resilience._runtime import drive, wrap
from resilience._runtime.flow import PLAIN, Call
from resilience._runtime.policy import Policy
from resilience.errors import ConfigError, Problem
from resilience.outcome import CallContext, Classifier, Outcome

T = TypeVar("T")


class Streamed(Generic[T]):
    """
    What a call returned, while its policies still hold what they admitted it with.

    One that is collected as garbage before its end was given up: what is held comes back soon after.

    Attributes:
        value: What the function returned.

    """

    __slots__ = ("_call", "value")

    def __init__(self, value: T, call: Call) -> None:
        self.value = value
        self._call: Call | None = call

    def end(self, outcome: Outcome[Any] | None) -> None:
        """
        Settle the call by how reading its result ended; None if it was given up, which teaches nothing.

        Only the first end counts.
        """
        call, self._call = self._call, None
        if call is None:
            return
        try:
            call.let_go(outcome)
        except BaseException:
            call.let_go(None)  # interrupted between two entries
            raise

    def __del__(self, start: Callable[..., object] = start_new_thread) -> None:
        call = getattr(self, "_call", None)  # none, too, if its making was interrupted
        if call is None or not call.held:
            return
        try:
            # Elsewhere: whoever collects garbage may be in the midst of a decision of one of these policies.
            # By the bare function, since a thread of `threading` takes a lock that it may hold as well.
            start(_give_up, (call,))
        except Exception:  # noqa: BLE001, S110  # no more threads, as at the interpreter's end: nothing to tell
            pass


def _give_up(call: Call) -> None:
    with suppress(Exception):  # nobody is there to be told
        call.let_go(None)


class StreamedCalls:
    """
    Make calls under a policy whose results are streams: the body of an HTTP response, a cursor.

    A good result keeps the permits that it was admitted with until `Streamed.end` says how reading it ended.
    A result that is judged bad by itself settles at once, but for the places of a concurrency limiter, which
    it keeps as long. Results that nobody will see, of attempts that were repeated or lost, are closed.

    Args:
        policy: The policy, or pipeline.
        name: Name for those that have none.
        classify: Judge of outcomes, for policies without one of their own.

    Raises:
        ConfigError: A part of *policy* replaces or keeps results, which a stream does not bear.

    Example:
        >>> from resilience import ConcurrencyLimiter, Outcome
        >>> calls = StreamedCalls(ConcurrencyLimiter(limit=1), "files")
        >>> opened = calls.call(iter, "abc")
        >>> list(opened.value)
        ['a', 'b', 'c']
        >>> opened.end(Outcome("read"))

    """

    __slots__ = ("_flow",)

    def __init__(self, policy: Policy, name: str, *, classify: Classifier | None = None) -> None:
        # A race hands over one of its streams; whoever replaces or keeps a result does not close it.
        rule = (
            "must not hold a {}, which cannot be around a result that is read later: put it around the reader"
        )
        unable = [type(part).__name__ for part in policy.parts if not (part.streams or part.traits.races)]
        if unable:
            raise ConfigError(
                type(policy).__name__, [Problem("policy", policy, rule.format(each)) for each in unable]
            )
        # Not the pipeline's own, which lets *classify* come before the classifier of the pipeline.
        self._flow = Policy.flow_for(policy, name, classify)

    def call(self, fn: Callable[..., T], /, *args: object, context: CallContext = PLAIN) -> Streamed[T]:
        """Call *fn*, a plain function, about which *context* is known."""
        made: list[T] = []

        def noted(*args: object) -> T:
            value = fn(*args)
            made.append(value)
            return value

        request = _request(fn, args, context)
        request.fn = noted
        is_handed_over = False
        try:
            value: T = drive.unwrap(drive.run(self._flow(request)))
            is_handed_over = True
            return Streamed(value, request)
        finally:
            if not is_handed_over:
                request.let_go(None)
                _dispose_all(made)

    async def acall(
        self, fn: Callable[..., Awaitable[T]], /, *args: object, context: CallContext = PLAIN
    ) -> Streamed[T]:
        """Await ``fn(*args)``, about which *context* is known."""
        made: list[T] = []

        async def noted(*args: object) -> T:
            value = await fn(*args)
            made.append(value)
            return value

        request = _request(fn, args, context)
        request.fn = noted
        is_handed_over = False
        try:
            value: T = drive.unwrap(await wrap.arun(self._flow(request), request))
            is_handed_over = True
            return Streamed(value, request)
        finally:
            if not is_handed_over:
                request.let_go(None)
                await _adispose_all(made)


# Cut short at one of them, they go on to the others.


def _dispose_all(made: list[Any]) -> None:
    while made:
        try:
            drive.dispose(made.pop())
        except BaseException:
            _dispose_all(made)
            raise


async def _adispose_all(made: list[Any]) -> None:
    from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async use

    while made:
        try:
            await adrive.dispose(made.pop())
        except BaseException:
            await _adispose_all(made)
            raise


def _request(fn: Callable[..., Any], args: tuple[object, ...], context: CallContext) -> Call:
    request = wrap._call(fn, args, {}, lambda *_: context)
    request.held = []
    return request
