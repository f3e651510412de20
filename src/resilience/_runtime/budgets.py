"""Retry budgets by name: whoever retries under one name spends from one budget."""

from collections.abc import Callable

from resilience.typing import Budget

_by_name: dict[str, Budget] = {}

make: Callable[[str], Budget] | None = None
"""Makes the default budget of a name. The composition root sets it."""


def named(name: str) -> Budget:
    """
    Return the budget of *name*, making it when it is first asked for.

    It stays for the life of the process, also when nobody uses it: a pipeline made anew for every
    request would otherwise bring a fresh budget each time, and so none at all.
    """
    budget = _by_name.get(name)
    if budget is None:
        if make is None:  # pragma: no cover  # `import resilience` sets it
            msg = "no default budget: import resilience first"
            raise RuntimeError(msg)
        budget = _by_name.setdefault(name, make(name))
    return budget
