"""What else a policy costs: threads, tasks, memory, decoration, import. Each figure is one `Finding`."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.finding import Finding
from benchmarks.footprint import allocations, decoration, importing, memory
from benchmarks.measuring import aempty, answer, empty
from benchmarks.report import NONE, VERSION, Table
from benchmarks.rows import PLENTY, whole

from resilience import CircuitBreaker, ConcurrencyLimiter, Pipeline, RateLimiter, Retry

THREADS = 8
TASKS = 1000
CALLS_PER_TASK = 20


def found(*, is_short: bool = False, margin: float = 0.0) -> list[Finding]:
    """Return every finding."""
    findings = [
        *threads(20_000 if is_short else 100_000, rounds=3 if is_short else 7),
        *tasks(rounds=3 if is_short else 11),
        *memory(100_000 if is_short else 1_000_000),
        *decoration(),
        *allocations(),
        *importing(10 if is_short else 20),
    ]
    return [replace(each, margin=margin) for each in findings]


def table(findings: Sequence[Finding]) -> Table:
    """Return the findings as one table."""
    rows = [
        (_named(each), NONE if each.at_most is None else f"{each.at_most:g}", _shown(each), each.verdict)
        for each in findings
    ]
    return Table(f"others {VERSION}", ("what", "at most", "measured", "verdict"), rows)


def _named(finding: Finding) -> str:
    """Return its name; where a number of several places is 0, none of them is to be named."""
    return f"{finding.name}, most: {finding.detail}" if finding.detail and finding.value else finding.name


def _shown(finding: Finding) -> str:
    number = f"{finding.value:,.0f}" if float(finding.value).is_integer() else f"{finding.value:,.2f}"
    return f"{number} {finding.unit}".strip()


# Many at once


def threads(calls: int, rounds: int) -> Iterator[Finding]:
    """Let eight threads call through one policy, and through one empty closure, by turns."""
    pipeline = whole()
    guarded, bare = pipeline(answer), empty(answer)
    ratios = []
    _together(guarded, calls // 10)
    before = _counts(pipeline)
    for _ in range(rounds):
        base = _together(bare, calls)
        ratios.append(_together(guarded, calls) / base)
    name = f"{THREADS} threads, whole pipeline"
    yield Finding(f"{name}: time, as a ratio to the empty closure", median(ratios), "")
    wrong = sum(
        abs(after - early - rounds * THREADS * calls)
        for early, after in zip(before, _counts(pipeline), strict=True)
    )
    yield Finding(f"{name}: calls lost or counted twice", wrong, "", 0)


def _counts(pipeline: Pipeline) -> list[int]:
    retry, breaker, *limiters = pipeline.policies
    admitted = [limiter.counts.acquired for limiter in limiters]
    return [retry.calls, retry.stops["success"], breaker._circuit.good, *admitted]


def _together(fn: Callable[[int], object], calls: int) -> float:
    barrier = threading.Barrier(THREADS + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(calls):
            fn(1)

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = perf_counter()
    for worker in workers:
        worker.join()
    return perf_counter() - start


def tasks(rounds: int) -> Iterator[Finding]:
    """Let a thousand tasks call through one policy, and through one empty closure, by turns."""

    async def body(x: int) -> int:
        await asyncio.sleep(0)
        return x

    async def worker(fn: Any) -> None:
        for _ in range(CALLS_PER_TASK):
            await fn(1)

    async def all_of(fn: Any) -> float:
        start = perf_counter()
        await asyncio.gather(*(worker(fn) for _ in range(TASKS)))
        return perf_counter() - start

    async def by_turns() -> float:
        pipeline = Pipeline(
            "bench", Retry(), CircuitBreaker(), RateLimiter(rate=PLENTY), ConcurrencyLimiter(limit=PLENTY)
        )
        guarded, bare = pipeline(body), aempty(body)
        await all_of(guarded)
        ratios = []
        for _ in range(rounds):
            base = await all_of(bare)
            ratios.append(await all_of(guarded) / base)
        return median(ratios)

    name = f"{TASKS:,} tasks, whole pipeline: time, as a ratio to the empty closure"
    yield Finding(name, asyncio.run(by_turns()), "")
