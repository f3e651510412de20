"""The steps of a layer, carried out on a thread or in a task."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from resilience._runtime import drive
from resilience._runtime.flow import Sleep

T = TypeVar("T")


class Ask(NamedTuple):
    """Have a store do an operation. The reply is its answer."""

    store: Any
    operation: str
    values: tuple[Any, ...]


Steps: TypeAlias = Generator[Ask | Sleep, Any, T]


def run(steps: Steps[T]) -> T:
    """Run *steps* to their end, blocking this thread for every one."""
    reply: Any = None
    resume: Callable[[Any], Ask | Sleep] = steps.send
    while True:
        try:
            command = resume(reply)
        except StopIteration as stop:
            return cast("T", stop.value)
        finally:
            reply = None  # no cycle through this frame: an error refers to it
        try:
            if isinstance(command, Ask):
                reply = getattr(command.store, command.operation)(*command.values)
            else:
                reply = drive.result(_one(command))
            resume = steps.send
        except BaseException as error:  # noqa: BLE001  # thrown into the steps, which let it pass
            reply = error
            resume = steps.throw


async def arun(steps: Steps[T]) -> T:
    """Run *steps* to their end. What a store has begun ends, also in a task that is cancelled."""
    from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async function

    reply: Any = None
    resume: Callable[[Any], Ask | Sleep] = steps.send
    while True:
        try:
            command = resume(reply)
        except StopIteration as stop:
            return cast("T", stop.value)
        finally:
            reply = None  # no cycle through this frame: an error refers to it
        try:
            if isinstance(command, Ask):
                work = _Kept(getattr(command.store, "a" + command.operation), command.values)
                await adrive.backend().finish(work.run())
                reply = work.result()
            else:
                reply = await adrive.result(_one(command))
            resume = steps.send
        except BaseException as error:  # noqa: BLE001  # thrown into the steps, which let it pass
            reply = error
            resume = steps.throw


def _one(command: Sleep) -> Generator[Sleep, Any, None]:
    yield command


class _Kept:
    """An awaited call whose answer is kept."""

    __slots__ = ("_answer", "_error", "_fn", "_values")

    def __init__(self, fn: Callable[..., Any], values: tuple[Any, ...]) -> None:
        self._fn = fn
        self._values = values
        self._answer: Any = None
        self._error: Exception | None = None

    async def run(self) -> None:
        try:
            self._answer = await self._fn(*self._values)
        except Exception as error:  # noqa: BLE001  # raised by `result`
            self._error = error

    def result(self) -> Any:
        if self._error is None:
            return self._answer
        try:
            raise self._error
        finally:
            self._error = None  # no cycle: error -> traceback -> frame -> self -> error
