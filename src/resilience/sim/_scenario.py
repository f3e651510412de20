"""What a simulated world is made of: servers, users, and what goes wrong."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from resilience.typing import Ratio, Seconds

Service: TypeAlias = Literal["exp", "logn", "tail"]
FaultKind: TypeAlias = Literal["capacity", "load", "extra", "errors", "hang"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    Something that goes wrong for a while.

    Attributes:
        kind: ``capacity`` (share of workers gone), ``load`` (factor of the rate), ``extra`` (median
            seconds added to each answer), ``errors`` (probability of a fast failure), ``hang``
            (number of replicas that never answer).
        value: How much of it.
        start: When it starts, in seconds.
        end: When it ends.
        tier: Number of the tier it happens to; -1 is the last.

    """

    kind: FaultKind
    value: float
    start: Seconds
    end: Seconds
    tier: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """
    Replicas of one server.

    Attributes:
        replicas: How many.
        workers: Requests each can work on at once.
        queue: Requests each can hold beside them; None for no bound.
        service: Distribution of service times.
        mean: Their mean, in seconds.
        releases: Whether a worker is free while its request waits for the next tier.

    """

    replicas: int = 4
    workers: int = 5
    queue: int | None = 150
    service: Service = "exp"
    mean: Seconds = 0.05
    releases: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    A world to put a policy into.

    Attributes:
        name: Its name.
        tiers: Servers, the ones that users' clients call first.
        rate: Users' requests per second.
        horizon: Seconds after which no more arrive.
        faults: What goes wrong.
        clients: Client processes, each with policies of its own.
        errors: Probability of a background error per attempt.
        patience: Seconds a user waits.
        attempt_timeout: Seconds a client waits for one attempt.
        unavoidable: Requests that no policy could save, or 0.

    """

    name: str
    tiers: tuple[Tier, ...] = (Tier(),)
    rate: float = 300.0
    horizon: Seconds = 120.0
    faults: tuple[Fault, ...] = ()
    clients: int = 20
    errors: Ratio = 0.0005
    patience: Seconds = 3.0
    attempt_timeout: Seconds = 1.0
    unavoidable: float = 0.0
