"""What tests of policies call: a dependency whose answers the test gives, when it wants to."""

from typing import Any


class Request:
    """One call that is under way, until the test answers it."""

    def __init__(self, runtime: Any) -> None:
        self._told = runtime.event()
        self._value: Any = None
        self._error: BaseException | None = None

    def answer(self, value: Any = "answer") -> None:
        """Let the call return *value*."""
        self._value = value
        self._told.set()

    def fail(self, error: BaseException | type[BaseException] = ConnectionError) -> None:
        """Let the call raise *error*."""
        self._error = error() if isinstance(error, type) else error
        self._told.set()

    async def wait(self) -> Any:
        await self._told.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Dependency:
    """
    Keeps every call waiting until the test answers it.

    Attributes:
        requests: All calls so far, oldest first, those that were answered or cancelled included.

    """

    def __init__(self, runtime: Any) -> None:
        self.requests: list[Request] = []
        self._runtime = runtime

    async def ask(self) -> Any:
        request = Request(self._runtime)
        self.requests.append(request)
        return await request.wait()

    async def called(self, times: int) -> Request:
        """Wait until it was called so often; return the latest call."""
        await self._runtime.until(lambda: len(self.requests) >= times)
        return self.requests[times - 1]


class Draws:
    """Chance that was drawn before; the last draw repeats."""

    def __init__(self, *draws: float) -> None:
        self._draws = list(draws)

    def random(self) -> float:
        return self._draws.pop(0) if len(self._draws) > 1 else self._draws[0]
