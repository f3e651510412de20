"""What policies take besides time per call: memory, decoration, what is left behind, import."""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import Any

from benchmarks.finding import Finding
from benchmarks.measuring import answer
from benchmarks.rows import (
    ROWS,
    SYNC,
    breaker_and_limiter,
    failing,
    flaky,
    full,
    opened,
    retry_and_breaker,
    whole,
)

from resilience import CircuitBreaker, ConcurrencyLimiter, RateLimiter, Retry, RetryBudget, Timeout

ABSENT = ("asyncio", "anyio", "tenacity", "opentelemetry.sdk", "trio")


# Memory


def memory(keys: int) -> Iterator[Finding]:
    """Count the bytes of a policy, and of a key."""
    makers: dict[str, Callable[[], Any]] = {
        "circuit breaker": CircuitBreaker,
        "rate limiter": RateLimiter,
        "concurrency limiter": ConcurrencyLimiter,
        "retry": lambda: Retry(budget=None),
        "retry budget": RetryBudget,
        "timeout": lambda: Timeout(1.0),
    }
    for name, make in makers.items():
        yield Finding(f"a {name}", _bytes_of(make, 500), "bytes")
    yield Finding(
        f"a key of {keys:,} in a rate limiter, without the key itself", _bytes_per_key(keys), "bytes"
    )


def _bytes_of(make: Callable[[], Any], many: int) -> float:
    keep = [make() for _ in range(10)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        keep = [make() for _ in range(many)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return round((after - before) / len(keep))


def _bytes_per_key(keys: int) -> float:
    names = [f"tenant-{number}" for number in range(keys)]
    limiter = RateLimiter("bench", rate=1, per=3600.0, key=lambda name: name, max_keys=keys)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for name in names:
            limiter.try_acquire(key=name)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return round((after - before) / keys)


# Decoration


def decoration() -> Iterator[Finding]:
    """Decorate functions whose parameters nobody has seen yet, and functions like one seen before."""
    pipeline = whole()
    new = [_decorated(pipeline, f"parameter_of_{number}th") for number in range(30)]
    known = [_decorated(pipeline, "x") for _ in range(300)]
    yield Finding("decoration with a whole pipeline: a new signature", _middle(new, 0) / 1e6, "ms", 1.0)
    yield Finding("its first call, which makes its code", _middle(new, 1) / 1e6, "ms")
    yield Finding(
        "decoration with a whole pipeline: a signature seen before", _middle(known, 0) / 1e3, "µs", 20.0
    )
    yield Finding("its first call", _middle(known, 1) / 1e3, "µs")


def _middle(times: list[tuple[int, int]], which: int) -> float:
    return median(each[which] for each in times)


def _decorated(pipeline: Any, parameter: str) -> tuple[int, int]:
    """Return the nanoseconds of decorating a function, and of its first call, which makes its code."""
    fn = _function(parameter)
    start = perf_counter_ns()
    guarded = pipeline(fn)
    made = perf_counter_ns()
    guarded(1)
    return made - start, perf_counter_ns() - made


def _function(parameter: str) -> Any:
    found: dict[str, Any] = {}
    exec(f"def fn({parameter}): return {parameter}", found)
    return found["fn"]


# Allocations


def allocations() -> Iterator[Finding]:
    """Look for what calls leave behind, and for what the garbage collector would have to do."""
    rows = [
        row
        for row in ROWS
        if row.scope is None and row.sync is not None and row.ending is None and row.statement is None
    ]
    grown = {row.name: _growth(row.subject(SYNC).f) for row in rows}
    tracked = {row.name: _tracked(row) for row in rows}
    circular = _cycles()
    worst, held, most = (max(found, key=found.__getitem__) for found in (grown, tracked, circular))
    yield Finding("memory blocks left by 20,000 calls", grown[worst], "", 20, detail=worst)
    name = "objects of the garbage collector held by a call"
    yield Finding(name, tracked[held], "", 0, detail=held)
    name = "objects in reference cycles after 1,000 calls"
    yield Finding(name, circular[most], "", 0, detail=most)


def _growth(fn: Callable[[int], object]) -> int:
    for _ in range(2000):
        fn(1)
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(20_000):
            fn(1)
        return max(0, sys.getallocatedblocks() - before)
    finally:
        gc.enable()


def _tracked(row: Any) -> int:
    """Return how many objects more the collector sees inside the guarded function than inside a bare one."""
    seen = 0

    def look(x: int) -> int:
        nonlocal seen
        seen = gc.get_count()[0]
        return x

    def inside(fn: Callable[[int], object]) -> int:
        for _ in range(200):
            fn(1)
        gc.disable()
        try:
            before = gc.get_count()[0]
            fn(1)
            return seen - before
        finally:
            gc.enable()

    gc.collect()
    return inside(row.make()(look)) - inside(look)


def _cycles() -> dict[str, int]:
    """Return how many objects the collector finds after 1,000 calls, for each way in which calls end."""
    kinds = {
        "good calls": whole()(answer),
        "refusals of an open breaker": opened()(answer),
        "refusals of a full limiter": full()(answer),
        "failures": breaker_and_limiter()(failing(SYNC)),
        "a failure, then success": retry_and_breaker()(flaky(SYNC)),
    }
    found = {}
    for name, fn in kinds.items():
        for _ in range(10):
            _quietly(fn)
        gc.collect()
        gc.disable()
        try:
            for _ in range(1000):
                _quietly(fn)
            found[name] = gc.collect()
        finally:
            gc.enable()
    return found


def _quietly(fn: Callable[[int], object]) -> None:
    try:
        fn(1)
    except Exception:
        pass


# Import

IMPORT = """
import time
start = time.perf_counter()
import resilience
took = time.perf_counter() - start
import json, sys
print(json.dumps([took * 1000, [name for name in {absent!r} if name in sys.modules]]))
"""


def importing(times: int) -> Iterator[Finding]:
    """Import the package in fresh processes."""
    took: list[float] = []
    brought: set[str] = set()
    shares: list[float] = []
    with TemporaryDirectory() as cache:  # of bytecode, whatever this environment says about writing it
        for _ in range(times + 1):
            ms, names = json.loads(_fresh(cache, "-c", IMPORT.format(absent=ABSENT)).stdout)
            took.append(ms)
            brought.update(names)
        for _ in range(3):
            shares.append(_share(cache))
    ms = median(took[1:])  # the first one compiles
    yield Finding("`import resilience`, over a bare interpreter", ms, "ms", 45.0)
    yield Finding("of which modules of the standard library, by `-X importtime`", median(shares) * ms, "ms")
    name = f"modules that it must not bring ({', '.join(ABSENT)})"
    yield Finding(name, len(brought), "", 0)


def _fresh(cache: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def _share(cache: str) -> float:
    """Return the share of the standard library in the time that `import resilience` takes."""
    bare, whole = (
        dict(_imported(_fresh(cache, "-X", "importtime", "-c", program).stderr))
        for program in ("import time", "import resilience")
    )
    new = {module: took for module, took in whole.items() if module not in bare}
    standard = sum(took for name, took in new.items() if name.partition(".")[0] in sys.stdlib_module_names)
    return standard / sum(new.values())


def _imported(lines: str) -> Iterator[tuple[str, int]]:
    for line in lines.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if own.strip().isdigit():
            yield rest.rpartition("|")[2].strip(), int(own)
