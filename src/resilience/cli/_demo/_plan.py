"""What happens in the demo, and when: three acts, and the figures that make the second one a trap."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from resilience.typing import Ratio, Seconds

Side = Literal["naive", "resilient"]
SIDES: Final[tuple[Side, Side]] = ("naive", "resilient")

FaultKind = Literal["none", "capacity", "errors"]

HOST: Final = "127.0.0.1"
"""Where everything listens: nobody else can reach it."""

SHORTEST: Final[Seconds] = 12.0
"""Below it, the time after the dip is too short to see who recovers."""

LONGEST: Final[Seconds] = 600.0

USUAL: Final[Seconds] = 60.0

RATE: Final = 60.0
"""Requests per second of each side, Poisson: three quarters of what the dependency can do."""

WORKERS: Final = 8
"""What the dependency does at once. A worker sleeps; it burns no CPU."""

WORK: Final[Seconds] = 0.1
"""Mean time of a worker for one request, lognormal: so 80 requests per second."""

SPREAD: Final = 0.5
"""Sigma of that time."""

QUEUE: Final = 300
"""Requests that wait for a worker before one more is refused: 3.75 s of work; many servers take more."""

WORKERS_IN_DIP: Final = 3
"""Workers left in the dip: half of the offered load can be served."""

ERROR_SHARE: Final[Ratio] = 0.2
"""Share of the requests that a broken instance takes in the last act, and answers 500 at once."""

ATTEMPTS: Final = 3
"""Attempts of the naive client; those of `Retry`, too."""

PAUSE: Final[Seconds] = 0.05
"""Fixed pause of the naive client between two attempts."""

ATTEMPT_TIMEOUT: Final[Seconds] = 0.5
"""Of both clients."""

TOTAL_TIMEOUT: Final[Seconds] = 1.5
"""Of the resilient client, a third of which is its attempt timeout; the naive one stops after 1.6 s."""

PATIENCE: Final[Seconds] = 2.0
"""After which a user leaves, and the service stops working for one."""

OBJECTIVE: Final[Ratio] = 0.99
"""Share of the checkouts that is to be answered in time."""


def arrivals(seed: str, seconds: Seconds, rate: float) -> Iterator[Seconds]:
    """Yield when requests are due, in seconds since the beginning: *rate* of them a second, by chance."""
    chance = Random(seed)  # noqa: S311  # chance in a demonstration, not in a lock
    due = 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        yield due


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """
    One act; times are seconds since its beginning.

    Attributes:
        key: Name in JSON.
        title: Name for readers.
        says: What happens, in a sentence.
        kind: What is wrong between *fault_from* and *fault_to*.
        seconds: How long requests are sent.

    """

    key: str
    title: str
    says: str
    seconds: Seconds
    kind: FaultKind = "none"
    fault_from: Seconds = 0.0
    fault_to: Seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    The whole demo.

    Attributes:
        seconds: How long requests are sent, all acts together.
        seed: Where the chance of arrivals, work and errors comes from.
        port: Port of the naive service, the resilient one's is the next; 0: free ones.

    """

    seconds: Seconds = USUAL
    seed: int = 1
    port: int = 0

    @property
    def acts(self) -> tuple[Act, ...]:
        """The acts, in their order; they share the time."""
        well, dip, partial = (share * self.seconds for share in (0.15, 0.6, 0.25))
        return (
            Act(key="healthy", title="Healthy", says="Nothing is wrong.", seconds=well),
            Act(
                key="dip",
                title="Capacity dip",
                says=f"{WORKERS - WORKERS_IN_DIP} of the dependency's {WORKERS} workers go, and come back.",
                seconds=dip,
                kind="capacity",
                fault_from=0.15 * dip,
                fault_to=0.5 * dip,
            ),
            Act(
                key="partial",
                title="Partial outage",
                says=f"{ERROR_SHARE:.0%} of the requests meet a broken instance, which answers 500 at once.",
                seconds=partial,
                kind="errors",
                fault_from=0.2 * partial,
                fault_to=0.7 * partial,
            ),
        )
