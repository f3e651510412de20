"""The demo itself: two sides at once, act after act."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from resilience.cli._demo._crew import Crew, Member
from resilience.cli._demo._measure import Sample, Take
from resilience.cli._demo._plan import (
    ERROR_SHARE,
    PATIENCE,
    RATE,
    SIDES,
    WORKERS,
    WORKERS_IN_DIP,
    Act,
    Plan,
    Side,
    arrivals,
)
from resilience.cli._exits import CannotRunError
from resilience.typing import Seconds

SOON: Final[Seconds] = 0.3
"""From a command to the first request of an act, so that both sides begin at the same time."""

SETTLE: Final[Seconds] = 0.7
"""Between two acts: longer than nearly any request that is at work when the dependency is restarted."""


ANSWER: Final[Seconds] = PATIENCE + 15.0
"""How long a process may take to say that it is done: more than a busy machine needs."""


@dataclass(slots=True)
class SideState:
    """
    One side while it runs.

    Attributes:
        takes: What is known of each act so far.
        now: The latest reports, all together.
        exposition: Its metrics at the end, as Prometheus reads them.
        ports: Where its processes listen.
        pids: The ids of its processes.

    """

    takes: list[Take] = field(default_factory=list[Take])
    now: dict[str, Any] = field(default_factory=dict[str, Any])
    exposition: str = ""
    ports: dict[str, int] = field(default_factory=dict[str, int])
    pids: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Stage:
    """
    What whoever watches the demo may look at.

    Attributes:
        plan: What is played.
        sides: The two sides.
        act: The act that is on; None before the first and after the last.
        phase: What is going on, in words.
        begun: When the act began, on the monotonic clock.
        dues: When the requests of the act are due on either side, in seconds since it began.

    """

    plan: Plan
    sides: dict[Side, SideState] = field(default_factory=lambda: {side: SideState() for side in SIDES})
    act: Act | None = None
    phase: str = "starting six processes"
    begun: Seconds = 0.0
    dues: list[Seconds] = field(default_factory=list[Seconds])

    def elapsed(self) -> Seconds:
        """Return the seconds since the act began."""
        return time.monotonic() - self.begun


async def play(stage: Stage, told: Callable[[], None]) -> None:
    """
    Play all acts, and fill the *stage*; call *told* when another phase begins.

    Raises:
        CannotRunError: A process could not be started, or ended too early.

    """
    async with Crew() as crew:
        ended: dict[Side, asyncio.Event] = {side: asyncio.Event() for side in SIDES}
        exposed: dict[Side, asyncio.Event] = {side: asyncio.Event() for side in SIDES}
        starting = [
            _start(crew, stage, side, ended[side], exposed[side], number) for number, side in enumerate(SIDES)
        ]
        members = dict(zip(SIDES, await asyncio.gather(*starting), strict=True))
        stage.phase = "all processes are ready"
        told()
        for number, act in enumerate(stage.plan.acts):
            if number:
                stage.phase = "restarting the dependencies"
                told()
                for those in members.values():
                    those["dependency"].tell(do="restart")
                await asyncio.sleep(SETTLE)
            for side in SIDES:
                stage.sides[side].takes.append(Take())
                ended[side].clear()
            stage.begun = time.monotonic() + SOON
            stage.act = act
            seed = f"{stage.plan.seed}/{act.key}"
            stage.dues = list(arrivals(seed, act.seconds, RATE))
            for those in members.values():
                those["users"].tell(do="act", begin=stage.begun, seconds=act.seconds, rate=RATE, seed=seed)
            await _act(stage, act, members, told)
            await _soon(ended, "users")
        stage.act = None
        stage.phase = "collecting metrics"
        told()
        for those in members.values():
            those["service"].tell(do="expose")
        await _soon(exposed, "service")


async def _soon(events: Mapping[Side, asyncio.Event], role: str) -> None:
    """
    Wait until both sides said so.

    Raises:
        CannotRunError: One does not.

    """
    for side, event in events.items():
        try:
            async with asyncio.timeout(ANSWER):
                await event.wait()
        except TimeoutError:
            raise CannotRunError(f"the {side} side's {role} did not answer for {ANSWER:.0f} s") from None


async def _act(
    stage: Stage, act: Act, members: Mapping[Side, Mapping[str, Member]], told: Callable[[], None]
) -> None:
    """Let the fault begin and end when it should, and the act run to its end."""
    faults: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
        "capacity": (
            {"do": "workers", "count": WORKERS_IN_DIP},
            {"do": "workers", "count": WORKERS},
            f"{WORKERS - WORKERS_IN_DIP} of {WORKERS} workers are gone",
        ),
        "errors": (
            {"do": "errors", "share": ERROR_SHARE},
            {"do": "errors", "share": 0},
            f"{ERROR_SHARE:.0%} of the answers are errors",
        ),
    }
    stage.phase = "all is well"
    told()
    if act.kind != "none":
        breaks, mends, words = faults[act.kind]
        for at, command, phase in (
            (act.fault_from, breaks, words),
            (act.fault_to, mends, "the fault is over"),
        ):
            await asyncio.sleep(max(0.0, stage.begun + at - time.monotonic()))
            for those in members.values():
                those["dependency"].tell(**command)
            stage.phase = phase
            told()
    await asyncio.sleep(max(0.0, stage.begun + act.seconds - time.monotonic()))
    stage.phase = f"waiting for the last answers, {PATIENCE:.0f} s at most"
    told()


async def _start(
    crew: Crew, stage: Stage, side: Side, ended: asyncio.Event, exposed: asyncio.Event, number: int
) -> dict[str, Member]:
    """Start one side's three processes, each when it knows where the one behind it listens."""
    state = stage.sides[side]
    seen = {"arrived": 0, "done": 0}

    def dependency_said(report: Mapping[str, Any]) -> None:
        state.now.update(report)
        if state.takes and stage.act is not None:
            take = state.takes[-1]
            take.attempts += report["arrived"] - seen["arrived"]
            take.done += report["done"] - seen["done"]
            take.samples.append(_sample(stage.elapsed(), take, state.now))
        seen.update(arrived=report["arrived"], done=report["done"])

    def service_said(report: Mapping[str, Any]) -> None:
        if "exposition" in report:
            state.exposition = report["exposition"]
            exposed.set()
        else:
            state.now.update(report)

    def users_said(report: Mapping[str, Any]) -> None:
        take = state.takes[-1]
        take.records += [(due, bool(good), took) for due, good, took in report["records"]]
        take.lags += report["lags"]
        if "ended" in report:
            ended.set()

    dependency = await crew.start(
        f"{side} side's dependency", "dependency", dependency_said, seed=str(stage.plan.seed)
    )
    state.ports["dependency"] = await dependency.port()
    service = await crew.start(
        f"{side} service",
        "service",
        service_said,
        side=side,
        dependency=state.ports["dependency"],
        port=stage.plan.port + number if stage.plan.port else 0,
    )
    state.ports["service"] = await service.port()
    users = await crew.start(f"{side} side's users", "load", users_said, service=state.ports["service"])
    await users.port()
    those = {"dependency": dependency, "service": service, "users": users}
    state.pids = {role: member.pid for role, member in those.items()}
    return those


def _sample(at: Seconds, take: Take, now: Mapping[str, Any]) -> Sample:
    return Sample(
        at=round(at, 2),
        attempts=take.attempts,
        done=take.done,
        waiting=now["waiting"],
        workers=now["workers"],
        breaker=now.get("breaker"),
        limit=now.get("limit"),
        inflight=now.get("inflight"),
        burn=now.get("burn"),
    )
