"""
The gates that defaults must pass, and the policies that were compared to choose them.

Run it to see them all, with 95 % intervals over the seeds::

    python -m tests.sim.gates --seeds 20
    python -m tests.sim.gates --seeds 5 --clients 400
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from resilience import (
    AdaptiveThrottle,
    CallContext,
    CircuitBreaker,
    ConcurrencyLimiter,
    Outcome,
    Pipeline,
    Policy,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    any_error_is_bad,
    limits,
)
from resilience.sim import RefusedError, Row, Scenario, World, scenarios


@dataclass(frozen=True)
class Gate:
    """One figure of one scenario, and what its mean over the seeds must be."""

    name: str
    scenario: Scenario
    figure: str
    at_most: float = float("inf")
    at_least: float = float("-inf")

    def holds(self, mean: float) -> bool:
        return self.at_least <= mean <= self.at_most

    def __str__(self) -> str:
        bound = f"<= {self.at_most:g}" if self.at_most < float("inf") else f">= {self.at_least:g}"
        return f"{self.name} {self.scenario.name}: {self.figure} {bound}"


GATES = (
    Gate("P1", scenarios.HEALTHY_1PCT, "lost_pct", at_most=0.03),
    Gate("P1", scenarios.HEALTHY_1PCT, "opens", at_most=0),
    Gate("P1", scenarios.HEALTHY_1PCT, "false_deny", at_most=500),
    Gate("P1", scenarios.HEALTHY_1PCT, "att", at_most=1.02),
    Gate("P2", scenarios.METASTABLE_DIP, "mttr", at_most=2),
    Gate("P2", scenarios.METASTABLE_DIP, "lost_x", at_most=1.25),
    Gate("P2", scenarios.METASTABLE_DIP, "amp_peak", at_most=1.4),
    Gate("P3", scenarios.FLASH_CROWD, "mttr", at_most=2),
    Gate("P3", scenarios.FLASH_CROWD, "lost_x", at_most=1.20),
    Gate("P4", scenarios.LATENCY_SPIKE, "mttr", at_most=2),
    Gate("P4", scenarios.LATENCY_SPIKE, "succ_fault", at_least=25),
    Gate("P5", scenarios.BLACKOUT, "mttr", at_most=2),
    Gate("P5", scenarios.BLACKOUT, "lost_x", at_most=1.05),
    Gate("P5", scenarios.BLACKOUT, "amp_peak", at_most=2.5),
    Gate("P6", scenarios.PARTIAL_HANG, "succ_fault", at_least=99.0),
    Gate("P6", scenarios.PARTIAL_HANG, "att", at_most=1.06),
    Gate("P7", scenarios.ERROR_BURST, "succ_fault", at_least=95),
    Gate("P8", scenarios.CHAIN3_REFUSE, "amp_peak", at_most=8),
    Gate("P8", scenarios.CHAIN3_REFUSE, "lost_x", at_most=1.10),
)

Make = Callable[[Scenario, Random], Policy]


def refusals_are_throttled(outcome: Outcome[Any], context: CallContext) -> Verdict:
    """Judge as the integrations do: a server that refuses, as with a 503, has too much to do."""
    if isinstance(outcome.error, RefusedError):
        return Verdict.THROTTLED
    return any_error_is_bad(outcome, context)


def standard(scenario: Scenario, rng: Random, **instead: object) -> Policy:
    """Make `Pipeline.standard` as it is, but for the seed, and for a budget of its own for each client."""
    breaker = Pipeline.standard("default").policies[2].settings
    chances = {field: getattr(breaker, field) for field in breaker.__dataclass_fields__}
    parts: dict[str, Any] = {
        "attempt_timeout": scenario.attempt_timeout,
        "retry": Retry(budget=RetryBudget(), rng=rng),
        "circuit_breaker": CircuitBreaker(**chances, rng=rng),
        **instead,
    }
    return Pipeline.standard("client", classify=refusals_are_throttled, **parts)


def limited(limit: Callable[[], object], *, max_queue: int = 100, max_wait: float = 1.0) -> Make:
    """Make the golden path with another limit."""

    def make(scenario: Scenario, rng: Random) -> Policy:
        limiter = ConcurrencyLimiter(limit=limit(), max_queue=max_queue, max_wait=max_wait)
        return standard(scenario, rng, concurrency_limiter=limiter)

    return make


def with_breaker(**settings: Any) -> Make:
    """Make the golden path with another circuit breaker."""
    return lambda scenario, rng: standard(scenario, rng, circuit_breaker=CircuitBreaker(**settings, rng=rng))


def throttled(scenario: Scenario, rng: Random) -> Policy:
    """Make the golden path with an adaptive throttle in place of the limit."""
    return Pipeline(
        "client",
        Timeout(3.0),
        Retry(budget=RetryBudget(), rng=rng),
        AdaptiveThrottle(rng=rng),
        Timeout(scenario.attempt_timeout),
        classify=refusals_are_throttled,
    )


POLICIES: dict[str, Make] = {
    "standard": standard,
    "no retries, no limit": lambda scenario, rng: Pipeline(Timeout(scenario.attempt_timeout)),
    "without the limit": lambda scenario, rng: standard(scenario, rng, concurrency_limiter=None),
    "limit of 20": limited(lambda: 20),
    "Vegas": limited(limits.Vegas),
    "Gradient2": limited(limits.Gradient2),
    "Aimd, one cut per drop": limited(
        lambda: limits.Aimd(initial=20, window=0, backoff=0.9, tolerance=0.0, patience=None, min_limit=1)
    ),
    "Aimd, cuts for ever": limited(lambda: limits.Aimd(patience=None)),
    "Aimd, any drop cuts": limited(lambda: limits.Aimd(tolerance=0.0)),
    "Aimd, starts at 20": limited(lambda: limits.Aimd(initial=20)),
    "Aimd, never below 1": limited(lambda: limits.Aimd(min_limit=1)),
    "no line": limited(limits.Aimd, max_queue=0, max_wait=0.0),
    "adaptive throttle": throttled,
    "breaker of 0.5 and 5 s": with_breaker(),
    "breaker of 0.5 and 1 s": with_breaker(break_duration=1.0, break_factor=1.0),
    "budget of half": lambda scenario, rng: standard(
        scenario, rng, retry=Retry(budget=RetryBudget.ratio(0.5), rng=rng)
    ),
}


def rows(make: str, scenario: Scenario, seeds: Iterable[int], clients: int = 20) -> list[Row]:
    """Run one policy in one scenario, once for each seed."""
    world = replace(scenario, clients=clients)
    return [World(world, POLICIES[make], seed).run().row() for seed in seeds]


def mean(found: list[Row], figure: str) -> float:
    """Return the mean of one figure."""
    return statistics.fmean(getattr(row, figure) for row in found)


def interval(values: list[float]) -> float:
    """Return half the width of the 95 % interval of the mean of *values*."""
    if len(values) < 2 or statistics.stdev(values) == 0:
        return 0.0
    student = {5: 2.776, 10: 2.262, 20: 2.093}.get(len(values), 2.0)
    return student * statistics.stdev(values) / len(values) ** 0.5


def _job(job: tuple[str, Scenario, int, int]) -> list[Row]:
    make, scenario, seed, clients = job
    return rows(make, scenario, [seed], clients)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the gates and print what was measured, as Markdown.")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to N (default: 5)")
    parser.add_argument("--clients", type=int, default=20, help="client processes (default: 20)")
    parser.add_argument(
        "--policies", nargs="*", default=["standard"], help=f"any of {', '.join(POLICIES)}; all"
    )
    asked = parser.parse_args()
    names = list(POLICIES) if asked.policies == ["all"] else asked.policies
    print(f"| policy, {asked.clients} clients, {asked.seeds} seeds | " + " | ".join(map(str, GATES)) + " |")
    print("|---|" + "---|" * len(GATES))
    failed = False
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            found: dict[str, list[Row]] = {}
            for scenario in scenarios.ALL:
                jobs = [(name, scenario, seed, asked.clients) for seed in range(1, asked.seeds + 1)]
                found[scenario.name] = [row for part in pool.map(_job, jobs) for row in part]
            cells = []
            for gate in GATES:
                values = [float(asdict(row)[gate.figure]) for row in found[gate.scenario.name]]
                average = statistics.fmean(values)
                spread = interval(values) if average < float("inf") else 0.0
                mark = "" if gate.holds(average) else " **no**"
                failed |= bool(mark) and name == "standard"
                cells.append(f"{average:.3g} ± {spread:.2g}{mark}" if spread else f"{average:.3g}{mark}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if failed:
        raise SystemExit("the defaults do not pass")


if __name__ == "__main__":
    main()
