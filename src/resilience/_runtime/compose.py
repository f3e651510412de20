"""Which policies make sense together, and in which order they are asked."""

from collections.abc import Iterator, Sequence

from resilience._runtime.policy import Policy
from resilience.errors import Problem
from resilience.typing import Seconds

WINDOWS_PER_TIMEOUT = 2
"""A window must hold this many timeouts, as in Microsoft's standard handler."""


def in_order_of_admission(policies: Sequence[Policy]) -> list[Policy]:
    """
    Return *policies* in the order in which they are asked.

    Neighbouring gates that never wait are asked by what they hold: a throttle and a breaker hold
    nothing, a rate limiter spends a permit, a concurrency slot comes last. Nothing moves across a
    policy that may wait or that is not a gate.
    """
    ordered: list[Policy] = []
    run: list[Policy] = []
    for policy in policies:
        if policy.traits.rank is not None and policy.traits.waits == 0:
            run.append(policy)
            continue
        ordered += sorted(run, key=_rank)
        ordered.append(policy)
        run = []
    return ordered + sorted(run, key=_rank)


def _rank(policy: Policy) -> int:
    return policy.traits.rank or 0


def problems(policies: Sequence[Policy]) -> list[Problem]:
    """Return what cannot work in a pipeline of *policies*, the first of them outermost."""
    return [*_repeated(policies), *_multiplied(policies), *_unpaid(policies), *_timing(policies)]


def _repeated(policies: Sequence[Policy]) -> Iterator[Problem]:
    seen: set[int] = set()
    for policy in policies:
        if id(policy) in seen:
            yield Problem("policies", policy, "must not be in one pipeline twice")
        seen.add(id(policy))


def _multiplied(policies: Sequence[Policy]) -> Iterator[Problem]:
    retries = [policy for policy in policies if policy.traits.repeats]
    for inner in retries[1:]:
        yield Problem("policies", inner, "must not be a retry inside a retry: their attempts multiply")
    hedges = [policy for policy in policies if policy.traits.races]
    for inner in hedges[1:]:
        yield Problem("policies", inner, "must not be a hedge inside a hedge: their attempts multiply")


def _unpaid(policies: Sequence[Policy]) -> Iterator[Problem]:
    for policy in policies:
        if policy.traits.races and not policy.traits.budgeted:
            yield Problem("budget", policy, "must not be None: a hedge in a pipeline needs a budget")


def _timing(policies: Sequence[Policy]) -> Iterator[Problem]:
    total: Seconds | None = None
    for number, policy in enumerate(policies):
        traits = policy.traits
        if traits.bound is not None:
            if total is not None and traits.bound >= total:
                yield Problem("duration", traits.bound, f"must be shorter than the {total:g} s around it")
            total = traits.bound if total is None else min(total, traits.bound)
        if total is not None and traits.waits >= total:
            yield Problem("max_wait", traits.waits, f"must be shorter than the {total:g} s around it")
        inner = [each.traits.bound for each in policies[number + 1 :] if each.traits.bound is not None]
        if traits.window is not None and inner:
            least = WINDOWS_PER_TIMEOUT * min(inner)
            if traits.window < least:
                yield Problem(
                    "sampling_duration",
                    traits.window,
                    f"must be at least {least:g} s, twice the timeout inside it",
                )


def unwise(policies: Sequence[Policy]) -> Iterator[str]:
    """Yield what works, but rarely as its author hopes."""
    for number, policy in enumerate(policies):
        outside = policies[:number]
        traits = policy.traits
        if traits.repeats and any(outer.traits.races for outer in outside):
            yield "a retry inside a hedge: every hedge may retry, and the attempts multiply"
        if traits.replaces and any(_learns(outer) for outer in outside):
            yield f"a {policy.kind} inside another policy hides failures from it; put it first"


def _learns(policy: Policy) -> bool:
    return policy.traits.repeats or policy.traits.races or policy.traits.rank is not None
