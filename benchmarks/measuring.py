"""
How the benchmarks measure: each figure is the median ratio of two loops that run one after the other.

Every candidate has a loop compiled for itself, so that the interpreter specialises each alone. A round
goes through all candidates, each next to its reference, so that a busy moment hits both.
"""

import asyncio
import gc
import platform
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from random import shuffle
from statistics import median
from textwrap import indent
from time import perf_counter_ns
from typing import Any

from resilience._runtime.locked import needs_locks

ROUNDS = 101
BLOCK_NS = 400_000
"""How long one loop should run: long beside the clock, short beside what else the machine does."""

LOOP = """
{head} loop(it, f, fn, clock):
    start = clock()
    for _ in it:
{body}
    return clock() - start
"""

CALL = "{wait}f(1)"
CATCH = "try: {wait}f(1)\nexcept Exception: pass"
TWICE = "try: {wait}f(1)\nexcept Exception: {wait}f(1)"
BY_HAND = "{wait}f(fn, 1)"
BLOCK = "{a}with f(): {wait}fn(1)"


@dataclass(frozen=True)
class Subject:
    """
    What one figure is about.

    Attributes:
        name: Name in the table.
        f: What is called.
        fn: The plain function in it.
        statement: What the loop runs.
        reference: Empty closure that the figure is a ratio to.
        reference_statement: What its loop runs.

    """

    name: str
    f: Callable[..., Any]
    fn: Callable[..., Any]
    reference: Callable[..., Any]
    statement: str = CALL
    reference_statement: str = CALL


@dataclass(frozen=True)
class Figure:
    """A median ratio, and the nanoseconds per call of the quickest round, of it and of its reference."""

    ratio: float
    ns: float
    reference_ns: float


def middle(figures: Sequence[Figure]) -> Figure:
    """Return the median ratio of several figures for one thing, and their shortest times."""
    return Figure(
        ratio=median(each.ratio for each in figures),
        ns=min(each.ns for each in figures),
        reference_ns=min(each.reference_ns for each in figures),
    )


def answer(x):
    return x


async def aanswer(x):
    return x


def empty(fn):
    """Return the closure that every figure is a ratio to."""

    def w(*a, **k):
        return fn(*a, **k)

    return w


def aempty(fn):
    async def w(*a, **k):
        return await fn(*a, **k)

    return w


class _Timed:
    """A loop of its own around one statement, and how many times it goes round."""

    def __init__(self, statement: str, f: Any, fn: Any, *, is_async: bool) -> None:
        body = statement.format(a="async " if is_async else "", wait="await " if is_async else "")
        head = "async def" if is_async else "def"
        found: dict[str, Any] = {}
        exec(LOOP.format(head=head, body=indent(body, " " * 8)), found)
        self._loop, self._f, self._fn = found["loop"], f, fn
        self.times = 16

    def once(self) -> Any:
        return self._loop(repeat(None, self.times), self._f, self._fn, perf_counter_ns)

    def settle_on(self, ns: int) -> bool:
        """Take note that one loop took *ns*; whether it was long enough."""
        if ns >= BLOCK_NS / 2:
            return True
        self.times = min(self.times * 4, int(self.times * BLOCK_NS / max(ns, 1)) + 1)
        return False


def _pairs(subjects: Sequence[Subject], *, is_async: bool) -> list[tuple[_Timed, _Timed]]:
    return [
        (
            _Timed(each.statement, each.f, each.fn, is_async=is_async),
            _Timed(each.reference_statement, each.reference, each.fn, is_async=is_async),
        )
        for each in subjects
    ]


def shuffled(pairs: Sequence[Any], times: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return both together, in another order each time, so that nothing regular hits the same one."""
    together = list(zip(pairs, times, strict=True))
    shuffle(together)
    return together


def measure(subjects: Sequence[Subject], *, rounds: int = ROUNDS) -> dict[str, Figure]:
    """Measure plain functions, interleaved."""
    pairs = _pairs(subjects, is_async=False)
    for pair in pairs:
        for timed in pair:
            timed.once()  # what a first call makes is not part of the others
            while not timed.settle_on(timed.once()):
                pass
    times: list[list[tuple[float, float]]] = [[] for _ in pairs]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for (guarded, bare), found in shuffled(pairs, times):
                if number % 2:
                    base = bare.once()
                    took = guarded.once()
                else:
                    took = guarded.once()
                    base = bare.once()
                found.append((took / guarded.times, base / bare.times))
    finally:
        gc.enable()
    return _figures(subjects, times)


def ameasure(subjects: Sequence[Subject], *, rounds: int = ROUNDS) -> dict[str, Figure]:
    """Measure coroutine functions, interleaved, in one task of one running event loop."""
    return asyncio.run(_ameasure(subjects, rounds))


async def _ameasure(subjects: Sequence[Subject], rounds: int) -> dict[str, Figure]:
    pairs = _pairs(subjects, is_async=True)
    for pair in pairs:
        for timed in pair:
            await timed.once()
            while not timed.settle_on(await timed.once()):
                pass
    times: list[list[tuple[float, float]]] = [[] for _ in pairs]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for (guarded, bare), found in shuffled(pairs, times):
                if number % 2:
                    base = await bare.once()
                    took = await guarded.once()
                else:
                    took = await guarded.once()
                    base = await bare.once()
                found.append((took / guarded.times, base / bare.times))
            await asyncio.sleep(0)  # timers of the candidates get their turn, outside the measured blocks
    finally:
        gc.enable()
    return _figures(subjects, times)


def _figures(subjects: Sequence[Subject], times: list[list[tuple[float, float]]]) -> dict[str, Figure]:
    return {
        each.name: Figure(
            ratio=median(took / base for took, base in found),
            ns=min(took for took, _ in found),
            reference_ns=min(base for _, base in found),
        )
        for each, found in zip(subjects, times, strict=True)
    }


def build() -> str:
    """Name the interpreter: version, and how it was built."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    pgo = "PGO" if "--enable-optimizations" in options else "no PGO"
    lto = "LTO" if "--with-lto" in options else "no LTO"
    shared = "shared library" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "static"
    name = platform.python_implementation()
    locks = ", with locks" if needs_locks() else ""
    return f"{name} {platform.python_version()}, {pgo}, {lto}, {shared}{locks}"
