"""A retry and a hedge that spend from one budget: the budget hears of each call once."""

import pytest

from resilience import Hedge, Pipeline, Retry, RetryBudget, Timeout, backoff
from resilience.errors import ConfigWarning
from resilience.retry_budget import RatioSettings


def make(budget: RetryBudget, *, outer: str) -> Pipeline:
    retry = Retry(attempts=2, backoff=backoff.constant(0.0), budget=budget)
    hedge = Hedge(after=5.0, idempotent=True, budget=budget)
    if outer == "retry":
        return Pipeline("p", retry, hedge)
    with pytest.warns(ConfigWarning, match="retry inside a hedge"):
        return Pipeline("p", hedge, retry)


@pytest.mark.parametrize("outer", ["retry", "hedge"])
def test_ten_good_calls_are_ten_calls(outer: str):
    budget = RetryBudget(RatioSettings(ratio=0.1))
    pipeline = make(budget, outer=outer)
    for _ in range(10):
        pipeline.call(int)
    assert (budget.calls, budget.good) == (10, 10)


def test_a_failed_call_is_one_call_too():
    budget = RetryBudget.ratio(1.0)
    pipeline = make(budget, outer="retry")
    with pytest.raises(ValueError, match="invalid"):
        pipeline.call(int, "x")
    assert (budget.calls, budget.good) == (1, 0)


def test_policies_with_budgets_of_their_own_report_to_their_own():
    first, second = RetryBudget.ratio(), RetryBudget.ratio()
    pipeline = Pipeline(Retry(budget=first), Timeout(5.0), Hedge(after=5.0, idempotent=True, budget=second))
    pipeline.call(int)
    assert (first.calls, second.calls) == (1, 1)


def test_what_the_inner_policy_was_charged_comes_back_with_the_outer_ones():
    budget = RetryBudget.refund(capacity=100, initial=100, cost=10, refill_per_second=0.0)
    answers = iter([ConnectionError, None])

    def ask() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "here"

    hedge = Hedge(after=None, idempotent=True, budget=budget)
    assert Pipeline("p", Retry(budget=budget), hedge).call(ask) == "here"
    assert (budget.granted, budget.refunded, budget.level) == (1, 10, 10)
