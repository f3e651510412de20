"""
Guarded calls under pytest-benchmark, which keeps a history: compare with ``--benchmark-autosave`` and
``--benchmark-compare``. The verdict is `benchmarks.gates`'s, which measures ratios.
"""

import asyncio

import pytest
from benchmarks.measuring import aanswer, aempty, answer, empty
from benchmarks.rows import ASYNCIO, ROWS, SYNC

PLAIN = [row for row in ROWS if row.scope is None and row.statement is None and row.ending is None]
CALLS = 100


@pytest.mark.benchmark(group="sync")
def test_the_empty_closure(benchmark):
    assert benchmark(empty(answer), 1) == 1


@pytest.mark.benchmark(group="sync")
@pytest.mark.parametrize("row", [row for row in PLAIN if SYNC in row.colours], ids=lambda row: row.name)
def test_a_guarded_call(benchmark, row):
    assert benchmark(row.subject(SYNC).f, 1) == 1


async def some(fn):
    for _ in range(CALLS):
        found = await fn(1)
    return found


@pytest.mark.benchmark(group=f"asyncio, {CALLS} calls in a running loop")
def test_the_empty_coroutine(benchmark):
    with asyncio.Runner() as runner:
        assert benchmark(lambda: runner.run(some(aempty(aanswer)))) == 1


@pytest.mark.benchmark(group=f"asyncio, {CALLS} calls in a running loop")
@pytest.mark.parametrize("row", [row for row in PLAIN if ASYNCIO in row.colours], ids=lambda row: row.name)
def test_a_guarded_coroutine(benchmark, row):
    guarded = row.subject(ASYNCIO).f
    with asyncio.Runner() as runner:
        assert benchmark(lambda: runner.run(some(guarded))) == 1
