"""Small policies and functions that tests put inside others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from resilience import _clock
from resilience._core.permit import NEVER
from resilience._runtime.flow import Call, Flow, Inner, Sleep
from resilience._runtime.gate import Gate
from resilience._runtime.policy import Binding, Policy, Step
from resilience.errors import ConcurrencyLimitedError, DeadlineExceededError
from resilience.outcome import Outcome, Verdict
from resilience.testing import delayed, script
from resilience.typing import Seconds


class Slots(Gate):
    """
    A gate with *limit* slots, and a count of what came back to it.

    Attributes:
        used: Slots that are taken now.
        most: Slots that were taken at once at most.
        verdicts: What settled calls ended with.
        released: Calls that taught nothing.

    """

    kind = "slots"
    error = ConcurrencyLimitedError
    settling_frees = True

    def __init__(self, limit: int = 1_000, *, max_wait: Seconds = 0.0, name: str | None = None) -> None:
        super().__init__(name)
        self.limit = limit
        self.max_wait = max_wait
        self.used = self.most = self.released = 0
        self.verdicts: list[Verdict] = []

    @property
    def settings(self) -> None:
        return None

    @property
    def _max_wait(self) -> Seconds:
        return self.max_wait

    def _configure(self, settings: Any) -> None:
        raise NotImplementedError

    def _admit(self, now: Seconds, ask: Any) -> Any:
        if self.used >= self.limit:
            return NEVER
        self.used += 1
        self.most = max(self.most, self.used)
        return object()

    def _settle(self, token: Any, verdict: Verdict, now: Seconds, started: Seconds, retry_after: Any) -> None:
        self.used -= 1
        self.verdicts.append(verdict)

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:
        self.used -= 1
        self.released += 1


class Again(Policy):
    """Call *attempts* times until there is no error, with naps in between: a retry without judgement."""

    kind = "again"

    def __init__(self, attempts: int, nap: Seconds = 0.0) -> None:
        super().__init__(None)
        self.attempts = attempts
        self.nap = nap

    @property
    def settings(self) -> None:
        return None

    def _configure(self, settings: Any) -> None:
        raise NotImplementedError

    def step_for(self, binding: Binding) -> Step:
        def step(call: Call, inner: Inner) -> Flow:
            outcome: Outcome[Any] = yield from inner(call)
            for _ in range(self.attempts - 1):
                if outcome.error is None or isinstance(outcome.error, DeadlineExceededError):
                    break
                yield Sleep(self.nap)
                attempt = call.again(call.context)
                outcome = yield from inner(attempt)
                call.adopt(attempt)
            return outcome

        return step


class Dawdle(Again):
    """Take a nap after the call."""

    kind = "dawdle"

    def __init__(self, nap: Seconds) -> None:
        super().__init__(1, nap)

    def step_for(self, binding: Binding) -> Step:
        def step(call: Call, inner: Inner) -> Flow:
            outcome: Outcome[Any] = yield from inner(call)
            yield Sleep(self.nap)
            return outcome

        return step


class Closeable:
    """A result that must be closed if nobody takes it."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


async def nap(runtime: Any, seconds: Seconds) -> None:
    """Let time pass on the package's clock, in any runtime."""
    asleep = script(delayed(seconds))
    if runtime.name == "sync":
        asleep()
    else:
        await asleep.acall()


def raising(error: BaseException) -> Callable[[], Any]:
    """A function that raises."""

    def fail() -> Any:
        raise error

    return fail


@contextmanager
def clock_replaced(clock: Callable[[], Seconds]) -> Iterator[None]:
    """Let the package read *clock* inside the block."""
    before = _clock.monotonic
    _clock.replace(clock)
    try:
        yield
    finally:
        _clock.replace(before)
