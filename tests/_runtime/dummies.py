"""Policies with next to no rule of their own, to test what is the same for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime.flow import Bound, Call, Dispose, Flow, Inner, Nursery, Park, Sleep, Spawn, Waiter
from resilience._runtime.gate import Gate
from resilience._runtime.policy import Binding, Policy, Step, Traits
from resilience.errors import LoadShedError
from resilience.outcome import Outcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnstileSettings:
    limit: int = 1
    max_wait: float = 0.0
    max_queue: int | None = None


class Turnstile(Gate):
    """
    Let *limit* calls in at a time, and write down how each of them ended.

    Tokens come and go in one line, as the gate asks of every primitive.
    """

    kind = "turnstile"
    error = LoadShedError
    settling_frees = True

    def __init__(
        self, name=None, *, limit=1, max_wait=0.0, max_queue=None, traits=None, on=None, classify=None
    ) -> None:
        super().__init__(name, on=on, classify=classify)
        self._settings = TurnstileSettings(limit=limit, max_wait=max_wait, max_queue=max_queue)
        self._traits = traits or Traits(rank=1, waits=max_wait)
        self.free = list(range(limit))
        self.ended: list[Verdict | str] = []
        self.retry_after: list[float | None] = []
        self.changes = 0

    @property
    def inside(self) -> int:
        return self._settings.limit - len(self.free)

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def settings(self) -> TurnstileSettings:
        return self._settings

    @property
    def traits(self) -> Traits:
        return self._traits

    @property
    def _max_wait(self) -> float:
        return self._settings.max_wait

    @property
    def _max_queue(self) -> int | None:
        return self._settings.max_queue

    def _configure(self, settings: TurnstileSettings) -> None:
        self._settings = settings

    def _admit(self, now: float, permits: int) -> Any:
        return self.free.pop() if len(self.free) >= permits else Refusal(None)

    def _settle(self, token, verdict, now, started, retry_after) -> None:
        self.ended.append(verdict)
        self.retry_after.append(retry_after)
        self.free.append(token)

    def _release(self, token, now, *, cancelled) -> None:
        self.ended.append("cancelled" if cancelled else "released")
        self.free.append(token)

    def _changed(self) -> None:
        self.changes += 1

    def _after_fork(self) -> None:
        super()._after_fork()
        self.free = list(range(self._settings.limit))


class Tap(Gate):
    """Let one call pass every *every* seconds; it knows how long that takes."""

    kind = "tap"
    error = LoadShedError

    def __init__(self, name=None, *, every=1.0, max_wait=0.0) -> None:
        super().__init__(name)
        self.every = every
        self.max_wait = max_wait
        self.next = _clock.monotonic()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def settings(self) -> TurnstileSettings:
        return TurnstileSettings()

    @property
    def _max_wait(self) -> float:
        return self.max_wait

    def _configure(self, settings) -> None: ...

    def _admit(self, now: float, permits: int) -> Any:
        if now < self.next:
            return Refusal(self.next - now)
        self.next = now + permits * self.every
        return now

    def _settle(self, token, verdict, now, started, retry_after) -> None: ...

    def _release(self, token, now, *, cancelled) -> None:
        self.next = min(self.next, now)

    def _wait_for(self, now: float, permits: int, ahead: int) -> float:
        return max(0.0, self.next - now) + ahead * self.every


class Around(Policy):
    """A policy that is one flow: ``Around(flow)``, where ``flow(call, inner)`` is a generator function."""

    kind = "around"

    def __init__(
        self, flow: Callable[[Call, Inner], Flow], name=None, *, traits=None, on=None, classify=None
    ) -> None:
        super().__init__(name, on=on, classify=classify)
        self.flow = flow
        self._traits = traits or Traits()
        self.bindings: list[Binding] = []

    @property
    def settings(self) -> TurnstileSettings:
        return TurnstileSettings()

    @property
    def traits(self) -> Traits:
        return self._traits

    def _configure(self, settings) -> None: ...

    def step_for(self, binding: Binding) -> Step:
        self.bindings.append(binding)
        return self.flow


class NoStream(Around):
    streams = False


def through(call: Call, inner: Inner) -> Flow:
    """Change nothing."""
    return (yield from inner(call))


def again(call: Call, inner: Inner) -> Flow:
    """Try once more after an error, a second later."""
    outcome = yield from inner(call)
    if outcome.is_error:
        del outcome
        yield Sleep(1.0)
        attempt = call.again(call.context)
        outcome = yield from inner(attempt)
        call.adopt(attempt)
    return outcome


def nap(seconds: float) -> Callable[[Call, Inner], Flow]:
    """Sleep before the call."""

    def flow(call: Call, inner: Inner) -> Flow:
        yield Sleep(seconds)
        return (yield from inner(call))

    return flow


def within(seconds: float, *, thread: bool = False) -> Callable[[Call, Inner], Flow]:
    """Bound the call."""

    def flow(call: Call, inner: Inner) -> Flow:
        outcome = yield Bound(inner(call), _clock.monotonic() + seconds, thread=thread)
        return Outcome(error=TimeoutError(f"longer than {seconds:g} s")) if outcome is None else outcome

    return flow


class Race:
    """Call *n* times, one every *after* seconds; the first to end wins and the others are told to stop."""

    def __init__(self, n: int = 2, after: float = 0.0) -> None:
        self.n = n
        self.after = after
        self.escaped: list[BaseException] = []

    def __call__(self, call: Call, inner: Inner) -> Flow:
        return (yield Nursery(self.race(call, inner)))

    def race(self, call: Call, inner: Inner) -> Flow:
        waiter = Waiter()
        ended: list[Outcome[Any]] = []
        children = []

        def failed(error: BaseException) -> None:
            self.escaped.append(error)
            waiter.wake()

        def attempt() -> Flow:
            outcome = yield from inner(call.again(call.context))
            ended.append(outcome)
            waiter.wake()
            return outcome

        for _ in range(self.n):
            children.append((yield Spawn(attempt(), failed)))
            if not ended and not self.escaped:
                yield Park(waiter, self.after)
        while not ended and not self.escaped:
            waiter.woken = False
            if not ended:
                yield Park(waiter, None)
        for child in children:
            child.cancel()
        for loser in ended[1:]:
            yield Dispose(loser.value)
        if not ended:
            raise self.escaped[0]
        return ended[0]
