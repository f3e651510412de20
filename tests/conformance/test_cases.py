"""Every conformance case has a test that names it, or a reason why not; and the tests of those that have no better place."""

import ast
import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.dependency import Dependency

from resilience.concurrency_limiter import ConcurrencyLimiter
from resilience.errors import ConcurrencyLimitedError, RateLimitedError
from resilience.rate_limiter import RateLimiter

TESTS = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("cases.md")
CASES = {
    "breaker": 16,
    "retry": 10,
    "budget": 3,
    "limiter": 6,
    "bulkhead": 2,
    "timeout": 3,
    "hedge": 3,
    "composition": 7,
}
EVERY_ID = [f"{topic}-{number}" for topic, most in CASES.items() for number in range(1, most + 1)]
CASE = re.compile(rf"\b({'|'.join(CASES)})-(\d+)\b")
WITHOUT_A_TEST = ("**planned**: ", "**not applicable**: ")


@dataclass(frozen=True)
class Row:
    """One case of the page."""

    id: str
    case: str
    where: str
    here: str

    @property
    def tests(self) -> list[str]:
        return re.findall(r"`([\w/]+\.py::\w+)`", self.where)

    @property
    def reason(self) -> str | None:
        """Why there is no test, if that is what the row says."""
        for start in WITHOUT_A_TEST:
            if self.where.startswith(start):
                return self.where.removeprefix(start)
        return None


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return [Row(*row) for row in cells if row[0] != "id"]


ROWS = rows()


@functools.cache
def functions(path: Path) -> dict[str, str]:
    """The tests of a file, with what their names and docstrings say."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: f"{node.name}\n{ast.get_docstring(node) or ''}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_case_stands_once_and_in_order():
    assert [row.id for row in ROWS] == EVERY_ID


def test_every_case_is_restated():
    assert [row.id for row in ROWS if len(row.case.split()) < 5] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_case_has_a_test_that_names_it_or_a_reason(row):
    if row.reason is not None:
        assert len(row.reason.split()) >= 4, "why is there no test?"
        return
    assert row.tests, "a test, planned, or not applicable?"
    for test in row.tests:
        file, name = test.split("::")
        said = functions(TESTS / file).get(name)
        assert said is not None, f"there is no {test}"
        words = re.compile(rf"\b{row.id}\b|_{row.id.replace('-', '_')}_")
        assert words.search(said), f"{test} does not name {row.id}"


def test_no_test_names_a_case_that_does_not_exist():
    named = Counter(
        (f"{topic}-{number}", path.name, name)
        for path in TESTS.rglob("test_*.py")
        for name, said in functions(path).items()
        for topic, number in CASE.findall(said)
    )
    assert [case for case in named if case[0] not in EVERY_ID] == []


# --- cases that have no better place -----------------------------------------------------------------------------


def test_a_reservation_waits_for_every_interval_before_it(fake_clock):
    """limiter-1 (Failsafe): one permit per 500 ms, and one per 200 ms."""
    limiter = RateLimiter("stock", rate=1, per=0.5, burst=1)
    assert [limiter.reserve().wait for _ in range(7)][-1] == pytest.approx(3.0)
    fake_clock.advance(0.8)
    assert [limiter.reserve().wait for _ in range(3)][-1] == pytest.approx(3.7)
    fake_clock.advance(10.2)
    assert limiter.reserve().wait == 0.0
    other = RateLimiter("stock", rate=1, per=0.2, burst=1)
    assert [other.reserve().wait for _ in range(3)] == pytest.approx([0.0, 0.2, 0.4])


def test_a_refusal_carries_the_time_and_takes_nothing(runtime, fake_clock, recorded_events):
    """limiter-2 (Polly): retry after 123 s. There is no event here: refusals are counted."""
    limiter = RateLimiter("stock", rate=1, per=123.0, burst=1)

    async def body():
        guarded = runtime.wrap(limiter, lambda: "here")
        assert await guarded() == "here"
        for _ in range(3):
            with pytest.raises(RateLimitedError) as caught:
                await guarded()
            assert caught.value.retry_after == pytest.approx(123.0)
        fake_clock.advance(123.0)
        assert await guarded() == "here"

    runtime.run(body)
    assert limiter.counts.rejected == 3
    assert recorded_events == []


def test_two_calls_run_two_wait_in_order_and_the_fifth_is_refused(runtime):
    """bulkhead-1 (cockatiel): limit 2, queue 2; free places read 2/2, 0/0, 2/2."""
    bulkhead = ConcurrencyLimiter("stock", limit=2, max_queue=2, max_wait=20.0)
    order = []

    def free():
        settings = bulkhead.settings
        return settings.limit - bulkhead.inflight, settings.max_queue - bulkhead.queued

    async def body():
        dependency = Dependency(runtime)

        async def numbered(number):
            order.append(number)
            return await dependency.ask()

        guarded = runtime.wrap(bulkhead, numbered)
        assert free() == (2, 2)
        jobs = []
        for number in range(4):
            jobs.append(runtime.spawn(guarded, number))
            await runtime.until(lambda: bulkhead.inflight + bulkhead.queued == len(jobs))
        assert free() == (0, 0)
        with pytest.raises(ConcurrencyLimitedError):
            await guarded(4)
        for calls in range(1, 5):
            (await dependency.called(calls)).answer()
        for job in jobs:
            assert await job == "answer"
        assert free() == (2, 2)

    runtime.run(body)
    assert sorted(order[:2]) == [0, 1]
    assert order[2:] == [2, 3]


def test_a_queued_call_that_is_cancelled_lets_the_next_one_run(async_runtime):
    """bulkhead-2 (cockatiel)."""
    bulkhead = ConcurrencyLimiter("stock", limit=1, max_queue=2, max_wait=20.0)

    async def body():
        dependency = Dependency(async_runtime)
        guarded = async_runtime.wrap(bulkhead, dependency.ask)
        jobs = []
        for _ in range(3):
            jobs.append(async_runtime.spawn(guarded))
            await async_runtime.until(lambda: bulkhead.inflight + bulkhead.queued == len(jobs))
        first, aborted, last = jobs
        async_runtime.cancel(aborted)
        await aborted.join()
        assert isinstance(aborted.error, async_runtime.cancelled)
        assert bulkhead.queued == 1
        for calls in (1, 2):
            (await dependency.called(calls)).answer()
        assert await first == await last == "answer"
        assert len(dependency.requests) == 2

    async_runtime.run(body)
