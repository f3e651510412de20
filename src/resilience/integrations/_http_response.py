"""The body of a response: read to its end, given up, or thrown away."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

from resilience import _clock
from resilience.deadline import remaining
from resilience.errors import DeadlineExceededError
from resilience.integrations._http_verdict import kinds
from resilience.outcome import Outcome
from resilience.streaming import Streamed
from resilience.typing import Seconds

EARLY: Final[Seconds] = 0.01
"""How much earlier than asked for a socket's timeout may strike."""

TIMEOUTS: Final = ("connect", "read", "write", "pool")


class Waits:
    """
    How long one attempt may wait for each step, in the mapping that the library reads.

    Attributes:
        mapping: ``extensions["timeout"]`` of the attempt, and of no other.
        until: Instant at which time is up, or None.

    """

    __slots__ = ("_own", "mapping", "until")

    def __init__(self, own: dict[str, Seconds | None], until: Seconds | None) -> None:
        self._own = own
        self.mapping = dict(own)
        self.shorten(until)

    def shorten(self, until: Seconds | None) -> None:
        """Let no wait that begins from now on outlast the instant *until*, nor the library's own timeouts."""
        self.until = until
        self.mapping.update(self._own)
        if until is None:
            return
        left = until - _clock.monotonic()
        if left <= 0:
            raise DeadlineExceededError(started=True)
        for step in TIMEOUTS:
            given = self._own.get(step)
            self.mapping[step] = left if given is None else min(left, given)

    def ended(self, error: Exception) -> bool:
        """Whether *error* is a timeout of the library because the time was up."""
        # The other timeouts prove that nothing was sent, which is worth more.
        if self.until is None or not kinds(error) & {"ReadTimeout", "WriteTimeout"}:
            return False
        return _clock.monotonic() >= self.until - EARLY


class Drain:
    """
    How much of a response that nobody will read is read, so that its connection can be used again.

    Attributes:
        size: Bytes.
        seconds: Seconds.

    """

    __slots__ = ("seconds", "size")

    def __init__(self, size: int, seconds: Seconds) -> None:
        self.size = size
        self.seconds = seconds


class Incoming:
    """What both colours of a response's body share."""

    def __init__(self, response: Any, waits: Waits, drain: Drain, *, is_empty: bool) -> None:
        self._response = response
        self._is_empty = is_empty
        self._inner = response.stream
        self._waits = waits
        self._drain = drain
        self._held: Streamed[Any] | None = None
        self._is_begun = False
        self._is_closed = False

    def hand_over(self, held: Streamed[Any], until: Seconds | None) -> None:
        """Give it to the caller, who reads it within the deadline *until*, his own."""
        self._held = held
        self._waits.until = until

    def _begin(self) -> None:
        self._is_begun = True
        self._waits.shorten(self._waits.until)

    def _check_time(self) -> None:
        until = self._waits.until
        if until is not None and until <= _clock.monotonic():
            raise DeadlineExceededError(started=True)

    def _settle(self, outcome: Outcome[Any] | None) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.end(outcome)

    def _seconds_to_drain(self) -> Seconds:
        """Return how long to read what nobody wants, 0.0 for not at all."""
        if self._held is not None or self._is_begun or self._response.status_code < 200:
            return 0.0  # the caller's own affair, or no HTTP any more
        length = self._response.headers.get("content-length", "0")
        if not self._is_empty and (not length.isdecimal() or int(length) > self._drain.size):
            return 0.0
        left = remaining()
        return self._drain.seconds if left is None else min(left, self._drain.seconds)


class SyncIncoming(Incoming):
    """The body of a response, for a thread. Mixed with the library's base class."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._begin()
            for chunk in self._inner:
                yield chunk
                self._check_time()
        except Exception as error:
            self._settle(Outcome(error=error))
            if self._waits.ended(error):
                raise DeadlineExceededError(started=True) from error
            raise
        except BaseException:
            self._settle(None)
            raise
        self._settle(Outcome(self._response))

    def close(self) -> None:
        """Close it; if it was never handed over, use it up first."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if (seconds := self._seconds_to_drain()) > 0:
                with suppress(Exception):  # what is thrown away may be broken
                    self._use_up(seconds)
        finally:
            try:
                self._inner.close()
            finally:
                self._settle(None)

    def _use_up(self, seconds: Seconds) -> None:
        end, size = _clock.monotonic() + seconds, 0
        self._waits.shorten(end)
        for chunk in self._inner:
            size += len(chunk)
            if size > self._drain.size or _clock.monotonic() >= end:
                return


class AsyncIncoming(Incoming):
    """The body of a response, for a task. Mixed with the library's base class."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = None
        try:
            self._begin()
            chunks = self._inner.__aiter__()
            async for chunk in chunks:
                yield chunk
                self._check_time()
        except Exception as error:
            self._settle(Outcome(error=error))
            if isinstance(error, DeadlineExceededError) and chunks is not None:
                await _unwind(chunks)
            if self._waits.ended(error):
                raise DeadlineExceededError(started=True) from error
            raise
        except BaseException:
            self._settle(None)
            raise
        finally:
            # A generator that is left suspended would be closed by whoever collects garbage, in no task.
            aclose = getattr(chunks, "aclose", None)
            if aclose is not None:
                await aclose()
        self._settle(Outcome(self._response))

    async def aclose(self) -> None:
        """Close it; if it was never handed over, use it up first."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if (seconds := self._seconds_to_drain()) > 0:
                with suppress(Exception):  # what is thrown away may be broken
                    await self._use_up(seconds)
        finally:
            try:
                await self._inner.aclose()
            finally:
                self._settle(None)

    async def _use_up(self, seconds: Seconds) -> None:
        import anyio  # noqa: PLC0415  # async clients alone need it

        size = 0
        with anyio.move_on_after(seconds) as scope:
            async for chunk in self._inner:
                size += len(chunk)
                if size > self._drain.size:
                    scope.cancel()  # the next read ends there, and with it all that is between it and here


async def _unwind(chunks: AsyncIterator[bytes]) -> None:
    """End a stream, and those inside it, in this task: closing it would leave the inner ones behind."""
    import anyio  # noqa: PLC0415  # async clients alone need it

    with anyio.CancelScope() as scope:
        scope.cancel()  # the next read ends there
        with suppress(Exception):
            async for _ in chunks:
                pass
