"""The name ``refund``: on the class it makes a budget, on a budget it gives tokens back."""

from typing import TYPE_CHECKING, Protocol, overload

if TYPE_CHECKING:
    from resilience.retry_budget._policy import RetryBudget


class MakeRefund(Protocol):
    """``RetryBudget.refund(...)``, on the class."""

    def __call__(
        self,
        capacity: int = 500,
        *,
        initial: int | None = None,
        reward: float = 1.0,
        refill_per_second: float = 1.0,
        cost: int = 14,
        timeout_cost: int = 14,
        throttle_cost: int = 5,
        name: str | None = None,
    ) -> "RetryBudget": ...


class GiveBack(Protocol):
    """``budget.refund(...)``, on a budget."""

    def __call__(self, charges: int = 1) -> None: ...


class Refund:
    """
    ``RetryBudget.refund(...)`` makes a budget that refunds; ``budget.refund(...)`` gives tokens back.

    On the class: make a budget whose tokens are taken by further attempts and given back when they helped.
    The arguments are those of `RefundSettings`, and ``name``.

    On a budget: give back *charges*, the sum of what `RetryBudget.try_withdraw` returned.
    `RetryBudget.finish` does it for calls that ended well. The gRPC and in-flight families take nothing that
    could be given back.

    Raises:
        TypeError: On a budget: *charges* is no whole number.
        ValueError: On a budget: it is negative. Nothing has changed in either case.

    """

    @overload
    def __get__(self, budget: None, owner: "type[RetryBudget]") -> MakeRefund: ...
    @overload
    def __get__(self, budget: "RetryBudget", owner: "type[RetryBudget]") -> GiveBack: ...

    def __get__(self, budget: "RetryBudget | None", owner: "type[RetryBudget]") -> MakeRefund | GiveBack:
        return owner._with_refund if budget is None else budget._give_back
