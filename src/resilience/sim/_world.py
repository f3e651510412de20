"""Servers with queues, faults, users and clients: what the package's policies meet in simulation."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

from resilience._runtime.flow import Call, Inner
from resilience._runtime.policy import Policy
from resilience.errors import RejectedError
from resilience.events import Event, listen
from resilience.outcome import CallContext, Outcome
from resilience.sim._kernel import Kernel, Task
from resilience.sim._metrics import Recorder
from resilience.sim._scenario import Fault, FaultKind, Scenario, Tier
from resilience.typing import Seconds

FAST: Seconds = 0.001
"""Time in which a refusal or an injected error reaches the caller."""

SIGMA = 0.5
"""Spread of lognormal times."""

DRAIN: Seconds = 30.0
"""How long outstanding work runs on after the last arrival."""


class RefusedError(ConnectionError):
    """The server's queue is full."""


class FailedError(ConnectionError):
    """An injected error."""


Make: TypeAlias = Callable[[Scenario, Random], Policy]
"""Makes the policy of one client, with its chance."""


class _Work:
    """One attempt at one server. *answer* is None once its caller has left."""

    __slots__ = ("answer", "deadline", "request")

    def __init__(
        self, request: "_Request", deadline: Seconds, answer: Callable[[Outcome[Any]], None]
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.answer: Callable[[Outcome[Any]], None] | None = answer


class _Request:
    """One logical call to one tier, with the endpoint of its last attempt."""

    __slots__ = ("executed", "last", "tier")

    def __init__(self, tier: int) -> None:
        self.tier = tier
        self.last = -1
        self.executed = 0


class _Replica:
    """Workers and a queue, first in, first out."""

    __slots__ = ("busy", "client", "queue", "workers")

    def __init__(self, workers: int, client: "_Client | None") -> None:
        self.workers = workers
        self.busy = 0
        self.queue: deque[_Work] = deque()
        self.client = client


class _Client:
    """A process that calls one tier under a policy of its own."""

    __slots__ = ("flow",)

    def __init__(self, policy: Policy, number: int) -> None:
        self.flow: Inner = policy.flow_for(f"client-{number}")


@dataclass(slots=True)
class World:
    """A scenario with a policy, under one seed. `run` it once."""

    scenario: Scenario
    make: Make
    seed: int = 1
    propagate: bool = True
    kernel: Kernel = field(default_factory=Kernel)
    recorder: Recorder = field(init=False)
    _arrivals: Random = field(init=False)
    _service: Random = field(init=False)
    _choice: Random = field(init=False)
    _mishap: Random = field(init=False)
    _tiers: list[list[_Replica]] = field(init=False)
    _clients: list[_Client] = field(init=False)

    def run(self) -> Recorder:
        """Let it happen, and return what was seen."""
        scenario = self.scenario
        # A stream for each purpose: two policies under one seed meet the same arrivals.
        self._arrivals, self._service, self._choice, self._mishap, policies = (
            Random(f"{self.seed}/{purpose}")  # noqa: S311  # chance in a game, not in a lock
            for purpose in ("arrivals", "service", "choice", "mishap", "policy")
        )
        self.recorder = Recorder(scenario)
        with self.kernel.in_charge():
            self._tiers = []
            for number, tier in reversed(list(enumerate(scenario.tiers))):
                last = number == len(scenario.tiers) - 1
                self._tiers.insert(
                    0, [self._replica(tier, policies, last=last) for _ in range(tier.replicas)]
                )
            self._clients = [
                _Client(self.make(scenario, policies), number) for number in range(scenario.clients)
            ]
            for fault in scenario.faults:
                if fault.kind == "capacity":
                    self.kernel.at(fault.start, self._cut, fault)
                    self.kernel.at(fault.end, self._mend, fault)
            self._next_arrival(None)
            stop = listen(self._note)
            try:
                self.kernel.run(scenario.horizon + DRAIN)
            finally:
                stop()
        return self.recorder

    def _note(self, event: Event) -> None:
        if event.attributes.get("resilience.circuit_breaker.state") == "open":
            self.recorder.opens += 1

    def _replica(self, tier: Tier, policies: Random, *, last: bool) -> _Replica:
        return _Replica(tier.workers, None if last else _Client(self.make(self.scenario, policies), 0))

    # Faults

    def _active(self, kind: FaultKind, tier: int) -> Fault | None:
        now, last = self.kernel.now, len(self.scenario.tiers) - 1
        for fault in self.scenario.faults:
            at = last if fault.tier == -1 else fault.tier
            if fault.kind == kind and fault.start <= now < fault.end and at == tier:
                return fault
        return None

    def _cut(self, fault: Fault) -> None:
        for replica in self._tiers[fault.tier]:
            replica.workers = round(replica.workers * (1 - fault.value))

    def _mend(self, fault: Fault) -> None:
        workers = self.scenario.tiers[fault.tier].workers
        for replica in self._tiers[fault.tier]:
            replica.workers = workers
            self._start_more(fault.tier % len(self._tiers), replica)

    # Users

    def _next_arrival(self, _: Any) -> None:
        rate, now = self.scenario.rate, self.kernel.now
        load = next((f for f in self.scenario.faults if f.kind == "load" and f.start <= now < f.end), None)
        if load is not None:
            rate *= load.value
        gap = self._arrivals.expovariate(rate)
        if now + gap < self.scenario.horizon:
            self.kernel.after(gap, self._arrive)

    def _arrive(self, _: Any) -> None:
        self._next_arrival(None)
        now = self.kernel.now
        client = self._arrivals.randrange(len(self._clients))
        number = self.recorder.arrived(now, client)

        def ended(outcome: Outcome[Any] | None) -> None:
            good = outcome is not None and outcome.error is None
            self.recorder.ended(number, self.kernel.now, good=good)
            if outcome is not None and isinstance(outcome.error, RejectedError):
                self.recorder.refused(now)

        self._call(self._clients[client], 0, now + self.scenario.patience, ended)

    def _call(
        self, client: _Client, tier: int, deadline: Seconds, done: Callable[[Outcome[Any] | None], None]
    ) -> Task:
        request = _Request(tier)
        known = CallContext(deadline=deadline if self.propagate else None, idempotent=True)
        call = Call(_in_the_world, (), {}, known)

        def attempt(call: Call, answer: Callable[[Outcome[Any]], None]) -> Callable[[Any], None]:
            return self._attempt(request, call.context, deadline, answer)

        return Task(self.kernel, client.flow(call), attempt, done)

    # Servers

    def _attempt(
        self,
        request: _Request,
        context: CallContext,
        deadline: Seconds,
        answer: Callable[[Outcome[Any]], None],
    ) -> Callable[[Any], None]:
        kernel, tier = self.kernel, request.tier
        until = math.inf
        if self.propagate:
            until = min(deadline, kernel.now + self.scenario.attempt_timeout)
            if context.deadline is not None:
                until = min(until, context.deadline)
        work = _Work(request, until, answer)
        self.recorder.attempted(kernel.now, tier)
        replicas = self._tiers[tier]
        index = self._choose(len(replicas), request.last)
        request.last = index
        hang = self._active("hang", tier)
        if hang is not None and index < hang.value:
            return _leave(work)
        errors = self._active("errors", tier)
        chance = self.scenario.errors if errors is None else errors.value
        if chance > 0 and self._mishap.random() < chance:
            kernel.after(FAST, _fail, work)
            return _leave(work)
        replica, bound = replicas[index], self.scenario.tiers[tier].queue
        if replica.busy < replica.workers:
            self._start(tier, replica, work)
        elif bound is None or len(replica.queue) < bound:
            replica.queue.append(work)
        else:
            kernel.after(FAST, _refuse, work)
        return _leave(work)

    def _choose(self, replicas: int, last: int) -> int:
        if last < 0 or replicas == 1:
            return self._choice.randrange(replicas)
        index = self._choice.randrange(replicas - 1)
        return index + (index >= last)

    def _start(self, tier: int, replica: _Replica, work: _Work) -> None:
        replica.busy += 1
        seconds = self._service_time(self.scenario.tiers[tier])
        self.recorder.executed(tier, seconds, work.request.executed)
        work.request.executed += 1
        self.kernel.after(seconds, self._served, (tier, replica, work, seconds))

    def _served(self, event: tuple[int, _Replica, _Work, Seconds]) -> None:
        tier, replica, work, seconds = event
        if work.answer is None:
            self.recorder.wasted(seconds)
        if tier + 1 < len(self.scenario.tiers) and replica.client is not None:
            self._next_tier(tier, replica, work)
            return
        replica.busy -= 1
        self._reply(tier, work, Outcome(None))
        self._start_more(tier, replica)

    def _next_tier(self, tier: int, replica: _Replica, work: _Work) -> None:
        releases = self.scenario.tiers[tier].releases
        if releases:
            replica.busy -= 1
            self._start_more(tier, replica)

        def ended(outcome: Outcome[Any] | None) -> None:
            if not releases:
                replica.busy -= 1
            failed = outcome is None or outcome.error is not None
            self._reply(tier, work, Outcome(error=FailedError()) if failed else Outcome(None))
            if not releases:
                self._start_more(tier, replica)

        if replica.client is not None:
            self._call(replica.client, tier + 1, work.deadline, ended)

    def _start_more(self, tier: int, replica: _Replica) -> None:
        now = self.kernel.now
        while replica.busy < replica.workers and replica.queue:
            work = replica.queue.popleft()
            if work.deadline > now:  # expired work is dropped before it starts
                self._start(tier, replica, work)

    def _reply(self, tier: int, work: _Work, outcome: Outcome[Any]) -> None:
        extra = self._active("extra", tier)
        if extra is None:
            _tell(work, outcome)
        else:
            late = extra.value * math.exp(SIGMA * self._service.gauss(0.0, 1.0))
            self.kernel.after(late, lambda _: _tell(work, outcome))

    def _service_time(self, tier: Tier) -> Seconds:
        draw = self._service
        if tier.service == "exp":
            return draw.expovariate(1.0 / tier.mean)
        seconds = tier.mean * math.exp(SIGMA * draw.gauss(0.0, 1.0) - SIGMA**2 / 2)
        if tier.service == "tail" and draw.random() < 0.01:
            seconds *= 20
        return seconds


def _in_the_world() -> None:
    """Stand for the function that is called; the world answers in its stead."""


def _leave(work: _Work) -> Callable[[Any], None]:
    def leave(_: Any) -> None:
        work.answer = None

    return leave


def _tell(work: _Work, outcome: Outcome[Any]) -> None:
    answer, work.answer = work.answer, None
    if answer is not None:
        answer(outcome)


def _fail(work: _Work) -> None:
    _tell(work, Outcome(error=FailedError()))


def _refuse(work: _Work) -> None:
    _tell(work, Outcome(error=RefusedError()))
