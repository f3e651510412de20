"""The fake clock sets default budgets apart, so that what one test spends another one does not miss."""

import pytest

from resilience import Pipeline, Retry
from resilience._runtime import budgets
from resilience.backoff import constant
from resilience.hedge import Hedge
from resilience.testing import FakeClock, fail_times, script

NAME = "tests of budgets set apart"


def attempts(policy: Retry) -> int:
    ask = script(ConnectionError)
    with pytest.raises(ConnectionError):
        Pipeline(NAME, policy).call(ask)
    return ask.calls


def retry() -> Retry:
    return Retry(attempts=3, backoff=constant(0.0))


def test_each_clock_begins_without_budgets_and_puts_the_former_ones_back() -> None:
    outside = budgets.named(NAME)
    with FakeClock():
        inside = budgets.named(NAME)
        assert inside is not outside
        assert budgets.named(NAME) is inside
        with FakeClock():
            assert budgets.named(NAME) not in (inside, outside)
        assert budgets.named(NAME) is inside
    assert budgets.named(NAME) is outside


def test_the_former_budgets_return_also_after_an_error() -> None:
    outside = budgets.named(NAME)
    with pytest.raises(KeyError), FakeClock():
        budgets.named(NAME)
        raise KeyError
    assert budgets.named(NAME) is outside


def test_a_clock_that_is_refused_a_second_time_leaves_the_budgets_alone() -> None:
    outside = budgets.named(NAME)
    clock = FakeClock()
    with clock:
        inside = budgets.named(NAME)
        with pytest.raises(RuntimeError):
            clock.__enter__()
        assert budgets.named(NAME) is inside
    assert budgets.named(NAME) is outside


def test_what_one_test_spends_another_one_does_not_miss() -> None:
    def spent() -> int:
        """Spend under one name until nothing is left; say how many attempts that was."""
        total = 0
        while (made := attempts(retry())) > 1:
            total += made
        return total

    with FakeClock():
        first = spent()
    with FakeClock():
        assert attempts(retry()) == 3
        assert spent() + 3 == first


def test_a_policy_made_before_spends_from_a_budget_of_the_block_and_afterwards_from_its_former_one() -> None:
    policy, race = retry(), Hedge(after=0.2, idempotent=True)
    pipeline = Pipeline(NAME, policy)
    pipeline.call(fail_times(0, KeyError))
    before = budgets.named(NAME)
    with FakeClock():
        while attempts(policy) > 1:
            pass
        assert Pipeline(NAME, race).call(script("here")) == "here"
        assert attempts(policy) == 1
    assert budgets.named(NAME) is before
    assert attempts(policy) == 3


def test_a_budget_that_was_passed_is_the_same_in_the_block_and_after_it() -> None:
    class Empty:
        def __init__(self) -> None:
            self.asked = 0

        def deposit(self) -> None: ...

        def try_withdraw(self, verdict: object = None) -> int:
            self.asked += 1
            return 0

        def fail(self, verdict: object = None) -> None: ...

        def release(self) -> None: ...

        def finish(self, *, good: bool, charges: int = 0) -> None: ...

    mine = Empty()
    policy = Retry(attempts=3, backoff=constant(0.0), budget=mine)
    with FakeClock():
        assert attempts(policy) == 1
    assert attempts(policy) == 1
    assert mine.asked == 2
