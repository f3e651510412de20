"""
What a limit that learns costs per call, beside a fixed one.

Run it with ``python -m pytest benchmarks/test_limiters.py -s``. Figures are ratios of rounds that lie next to
each other, so that a busy machine slows both.

In generated code a fixed limit reads no clock. One that learns from how calls end reads it once, to see
whether its window is over, and keeps the same bound as where calls are driven step by step. One that learns
from how long they take has to read it twice: that ratio is printed, not bounded.
"""

import gc
from itertools import repeat
from statistics import median
from time import perf_counter
from unittest.mock import patch

import pytest

from resilience import ConcurrencyLimiter
from resilience._runtime import compile as compiling
from resilience.limits import Aimd, Gradient2, Vegas

MOST = 1.5
"""A limit that learns may cost so many times what a fixed one does."""

ATTEMPTS = 5
CALLS = 500
ROUNDS = 200

LIMITS = {
    "Aimd": Aimd,
    "Vegas": Vegas,
    "Gradient2": Gradient2,
    "Vegas with a quantile": lambda: Vegas(quantile=0.9),
    "Aimd with a thousand samples per second": lambda: Aimd(window=0.001),
}


def answer():
    return 42


def guarded(limit, *, is_generated=True):
    with patch.object(compiling, "is_on", lambda: is_generated):
        return ConcurrencyLimiter("bench", limit=limit)(answer)


def seconds_of(fn):
    start = perf_counter()
    for _ in repeat(None, CALLS):
        fn()
    return perf_counter() - start


def ratio_of(limit, *, is_generated=False):
    """The median over short rounds, each of both in turn."""
    fixed, learning = (guarded(each, is_generated=is_generated) for each in (10, limit))
    seconds_of(fixed), seconds_of(learning)
    gc.collect()
    gc.disable()
    try:
        ratios = []
        for number in range(ROUNDS):
            if number % 2:
                base = seconds_of(fixed)
                ratios.append(seconds_of(learning) / base)
            else:
                took = seconds_of(learning)
                ratios.append(took / seconds_of(fixed))
    finally:
        gc.enable()
    return median(ratios)


def best_ratio_of(name, *, is_generated):
    """The least of some attempts, of no more than are needed to keep the bound."""
    best = ratio_of(LIMITS[name](), is_generated=is_generated)
    for _ in range(ATTEMPTS - 1):
        if best <= MOST:
            break
        best = min(best, ratio_of(LIMITS[name](), is_generated=is_generated))
    return best


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_learns_costs_at_most_half_as_much_again(name):
    ratio = best_ratio_of(name, is_generated=False)
    print(f"\n{name}: {ratio:.2f} times a fixed limit, of at most {MOST}")
    assert ratio <= MOST


@pytest.mark.parametrize("name", [name for name in LIMITS if "Aimd" in name])
def test_in_generated_code_a_limit_that_needs_no_times_does_so_too(name):
    ratio = best_ratio_of(name, is_generated=True)
    print(f"\n{name}, generated: {ratio:.2f} times a fixed limit, of at most {MOST}")
    assert ratio <= MOST


@pytest.mark.parametrize("name", [name for name in LIMITS if "Aimd" not in name])
def test_a_limit_that_needs_times_is_generated_too(name):
    limit = LIMITS[name]()
    ratio = ratio_of(limit, is_generated=True)
    print(f"\n{name}, generated: {ratio:.2f} times a fixed limit")
    assert compiling.source_of(guarded(limit)) is not None


@pytest.mark.parametrize("limit", ["fixed", "Aimd"])
def test_a_guarded_call(benchmark, limit):
    benchmark(guarded(10 if limit == "fixed" else Aimd()))
