"""Whatever happens in a race: every permit, every payment and every result is accounted for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import Closeable, Slots, nap
from tests.runtimes import AsyncioRuntime, SyncRuntime, TrioRuntime

from resilience._runtime.attempt import current_attempt
from resilience._runtime.pipeline import Pipeline
from resilience.deadline import deadline
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.hedge import Hedge
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.testing import FakeClock

STEPS = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
"""Multiples of one another, so that much happens at one instant."""


@dataclass
class Turn:
    """What one attempt does."""

    seconds: float
    ending: Any


@dataclass
class Ledger:
    """A budget that pays for some attempts, and counts."""

    answers: list[bool]
    deposits: int = 0
    granted: int = 0
    released: int = 0
    finished: int = 0
    asked: list[Verdict] = field(default_factory=list)
    failed: list[Verdict] = field(default_factory=list)

    def deposit(self) -> None:
        self.deposits += 1

    def try_withdraw(self, verdict: Verdict = Verdict.BAD) -> int:
        self.asked.append(verdict)
        granted = self.answers.pop(0) if self.answers else True
        self.granted += granted
        return int(granted)

    def fail(self, verdict: Verdict = Verdict.BAD) -> None:
        self.failed.append(verdict)

    def release(self) -> None:
        self.released += 1

    def finish(self, *, good: bool, charges: int = 0) -> None:
        self.finished += 1


def judge(outcome: Outcome[Any], context: CallContext) -> Verdict:
    if isinstance(outcome.error, RejectedError):
        return Verdict.IGNORED
    return Verdict.BAD if outcome.error is not None else Verdict(outcome.value.name)


endings = st.sampled_from([*Verdict, ConnectionError, "stubborn"])
turns = st.lists(st.builds(Turn, st.sampled_from(STEPS), endings), min_size=4, max_size=4)


@pytest.mark.parametrize("kind", [SyncRuntime, AsyncioRuntime, TrioRuntime], ids=lambda kind: kind.name)
@given(
    turns=turns,
    after=st.sampled_from([None, 0, 0.1, 0.2, 5.0]),
    extra=st.integers(1, 3),
    limit=st.integers(1, 4),
    waits=st.sampled_from([0.0, 0.3]),
    answers=st.lists(st.booleans(), max_size=3),
    give_up=st.sampled_from([None, *STEPS[1:]]),
    cancel=st.sampled_from([None, *STEPS]),
)
def test_everything_is_accounted_for(
    kind: Callable[[], Any],
    turns: list[Turn],
    after: float | None,
    extra: int,
    limit: int,
    waits: float,
    answers: list[bool],
    give_up: float | None,
    cancel: float | None,
) -> None:
    runtime = kind()
    slots, ledger = Slots(limit, max_wait=waits), Ledger(answers)
    policy = Hedge("stock", after=after, idempotent=True, max_extra=extra, budget=ledger, classify=judge)
    made: list[Closeable] = []

    async def fetch() -> Closeable:
        turn = turns[current_attempt().attempt - 1]
        stubborn = turn.ending == "stubborn"
        try:
            await nap(runtime, turn.seconds)
        except BaseException:
            if not (stubborn and runtime.cancels):
                raise
        if turn.ending is ConnectionError:
            raise ConnectionError
        made.append(Closeable("good" if stubborn else turn.ending.value))
        return made[-1]

    async def body() -> None:
        async def call() -> Any:
            with deadline(give_up):
                return await runtime.call(Pipeline(policy, slots), fetch)

        if runtime.cancels:
            job = runtime.spawn(call)
            if cancel is not None:
                await nap(runtime, cancel)
                job.cancel()
            await job.join()
            value, error = job.value, job.error
            await nap(runtime, 5.0)
            await runtime.until(lambda: policy.abandoned == 0)
            for _ in range(3):
                await runtime.checkpoint()
        else:
            value = error = None
            try:
                value = await call()
            except (ConnectionError, RejectedError, DeadlineExceededError) as caught:
                error = caught
            await runtime.until(lambda: clock.advance(5.0) or policy.abandoned == 0)
        if error is not None and cancel is None:
            assert isinstance(error, (ConnectionError, RejectedError, DeadlineExceededError))
        for result in made:
            assert result.closed == (result is not value)

    with FakeClock() as clock:
        runtime.run(body)
    assert slots.used == 0
    assert slots.most <= min(limit, extra + 1)
    assert ledger.granted == ledger.released == policy.hedges <= extra
    assert policy.denied == len(ledger.asked) - ledger.granted
    assert ledger.deposits == ledger.finished == policy.calls <= 1
    reported = [*ledger.failed, *(verdict for verdict in ledger.asked if verdict is not Verdict.IGNORED)]
    assert len(reported) <= policy.hedges + 1
