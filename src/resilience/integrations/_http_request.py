"""What of a request may be sent more than once."""

import enum
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from resilience.errors import RejectedError

IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
"""Methods that have the effect of one request, however often they are sent: RFC 9110, 9.2.2, and QUERY."""


class Replay(enum.Enum):
    """How often a body may be sent."""

    ALWAYS = "always"
    """It is bytes: as often as one likes, also at once."""
    IN_TURN = "in turn"
    """It is read from a file that can be wound back: again, but never twice at once."""
    ONCE = "once"
    """It is gone when it has been read."""


class BodyGoneError(RejectedError):
    """A further attempt was not made, because the body of the request cannot be sent again, or not yet."""

    _says = "cannot send the body of the request again"


class Body:
    """
    The body of one request, over all its attempts.

    Attributes:
        replay: How often it may be sent.
        stream: What the wrapped transport is given.

    """

    __slots__ = ("_is_busy", "_lock", "_name", "_rewind", "_sent", "replay", "stream")

    def __init__(self, stream: Any, library: Any, watched: Callable[[Any], "Watched"], name: str) -> None:
        self.replay, self._rewind = _replay_of(stream, library)
        self.stream = watched(stream) if self.replay is Replay.ONCE else stream
        self._name = name
        self._lock = threading.Lock()
        self._is_busy = False
        self._sent = 0

    @property
    def is_gone(self) -> bool:
        """Whether it has been read, or begun to be, and cannot be read again."""
        return self.replay is Replay.ONCE and bool(self.stream.has_begun)

    def begin(self) -> None:
        """
        Make it ready for one attempt.

        Raises:
            BodyGoneError: It cannot be sent again, or another attempt is sending it just now.

        """
        if self.replay is Replay.ALWAYS:
            return
        with self._lock:
            if self._is_busy or self.is_gone:
                raise BodyGoneError(self._name)
            self._is_busy = True
            if self._sent and self._rewind is not None:
                self._rewind()
            self._sent += 1

    def end(self) -> None:
        """Note that the attempt no longer reads it."""
        self._is_busy = False


class Watched:
    """A stream that knows whether somebody has begun to read it. Mixed with the library's base classes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.has_begun = False

    # No generators of their own, which would be one more thing that may be left suspended.

    def __iter__(self) -> Iterator[bytes]:
        self.has_begun = True
        return iter(self._stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.has_begun = True
        chunks: AsyncIterator[bytes] = aiter(self._stream)
        return chunks

    def close(self) -> None:
        """Close the stream itself."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close the stream itself."""
        await self._stream.aclose()


def _replay_of(  # noqa: PLR0911  # one return a kind of body
    stream: Any, library: Any
) -> tuple[Replay, Callable[[], object] | None]:
    if isinstance(stream, library.ByteStream) or getattr(stream, "replayable", False) is True:
        return Replay.ALWAYS, None
    if type(stream).__module__.partition(".")[0] != library.__name__:
        return Replay.ONCE, None
    # What follows are the libraries' own streams. Should their insides change, a body is sent once.
    kind, fields, source = (
        type(stream).__name__,
        getattr(stream, "fields", None),
        getattr(stream, "_stream", None),
    )
    if kind == "MultipartStream" and fields is not None:
        files = [field.file for field in fields if hasattr(field, "file")]
        if all(isinstance(file, (str, bytes)) for file in files):
            return Replay.ALWAYS, None
        # Rendering winds each file back by itself, the first time too.
        if all(isinstance(file, (str, bytes)) or _is_seekable(file) for file in files):
            return Replay.IN_TURN, None
    elif kind == "IteratorByteStream":
        if isinstance(source, (list, tuple)):
            return Replay.ALWAYS, None
        if hasattr(source, "read") and _is_seekable(source):
            return Replay.IN_TURN, _rewinder(source)
    return Replay.ONCE, None


def _is_seekable(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except (AttributeError, OSError, ValueError):  # no such method, or closed
        return False


def _rewinder(file: Any) -> Callable[[], object]:
    start = file.tell()
    return lambda: file.seek(start)
