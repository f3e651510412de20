"""Retry budgets by name: whoever retries under one name spends from one budget."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.typing import Budget

_by_name: "dict[str, Budget]" = {}

make: "Callable[[str], Budget] | None" = None
"""Makes the default budget of a name. The composition root sets it."""


def named(name: str) -> "Budget":
    """
    Return the budget of *name*, making it when it is first asked for.

    It stays for the life of the process, also when nobody uses it: a pipeline made anew for every
    request would otherwise bring a fresh budget each time, and so none at all.
    """
    registry = _by_name  # one and the same, also when another one is put in charge meanwhile
    budget = registry.get(name)
    if budget is None:
        if make is None:  # pragma: no cover  # `import resilience` sets it
            msg = "no default budget: import resilience first"
            raise RuntimeError(msg)
        budget = registry.setdefault(name, make(name))
    return budget


def replace(registry: "dict[str, Budget]") -> "dict[str, Budget]":
    """
    Put *registry* in charge and return the former one, for tests that must not share budgets.

    Calls that are under way keep the budget that they began with.
    """
    from resilience._runtime.epoch import epoch  # noqa: PLC0415  # so that the front door needs this file alone

    global _by_name
    former, _by_name = _by_name, registry
    epoch.end()
    return former
