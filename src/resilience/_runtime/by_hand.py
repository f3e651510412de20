"""
`Policy.call` and `acall`: one generated function for all that is called by hand under a policy.

The policy owns the function, which must therefore not know the policy: that is handed over at each call.
Nothing is kept of the functions that are called.
"""

from collections.abc import Callable
from dataclasses import replace
from inspect import isawaitable
from types import FunctionType
from typing import Any, Final

from resilience._runtime import compile as compiling
from resilience._runtime import templates, wrap
from resilience._runtime.flow import Call, Flow
from resilience._runtime.generated import has_fake_timers, is_visible, names, written_out
from resilience._runtime.hot import Hot
from resilience._runtime.locked import INDENT
from resilience._runtime.plan import Plan
from resilience._runtime.policy import Binding, Policy
from resilience._runtime.signature import ByHand
from resilience._runtime.wrap import NotAwaitable, cannot_be_awaited

_SYNC: Final = ByHand(is_async=False)
_ASYNC: Final = ByHand(is_async=True)


def generated(policy: Policy, name: str, *, is_async: bool) -> Callable[..., Any]:
    """Return the function that makes calls under *policy* in this epoch; *name* is what it goes by."""
    slow = wrap.drive_acall if is_async else wrap.drive_call
    hots = policy.hots(Binding(name)) if compiling.is_on() else None
    if hots is None or has_fake_timers(hots, is_async=is_async):
        return slow
    if any(hot.classify is not None or hot.step is not None for _, hot in hots):  # flows judge, and step
        return slow
    namespace = {
        **names(is_async=is_async),
        "__name__": __name__,
        "awaitable": _awaitable,
        "plan": _planning(hots, policy, name, slow),
        "slow": slow,
    }
    signature = _ASYNC if is_async else _SYNC
    source, objects = written_out(signature, hots, namespace, looks=not is_async)
    own = sorted(name for name, value in objects.items() if value is policy)
    head, _, body = source.partition("\n")
    source = "\n".join([head, *(f"{INDENT}{each} = policy" for each in own), body])
    held = {name: value for name, value in objects.items() if is_visible(value)}
    namespace |= {name: value for name, value in held.items() if value is not policy}
    objects = {name: value for name, value in objects.items() if name not in held}
    code = templates.template(source, frozenset(objects)).filled(objects, f"<resilience {name}>")
    return FunctionType(code, namespace)


def _planning(
    hots: list[tuple[Policy, Hot]], policy: Policy, name: str, slow: Callable[..., Any]
) -> Callable[[Policy, Callable[..., Any]], Plan]:
    """Return what makes the plan of a call that is not plain success, from that policy and the function."""
    # Nothing that leads back to the policy.
    known = [
        (None, replace(hot, names={}, limit=None)) if part is policy else (part, hot) for part, hot in hots
    ]

    def plan(policy: Policy, fn: Callable[..., Any]) -> Plan:
        def slowly(*args: Any, **kwargs: Any) -> Any:
            return slow(policy, fn, args, kwargs)

        def flow(call: Call) -> Flow:
            return policy.flow_for(name)(call)

        return Plan([(policy if part is None else part, hot) for part, hot in known], flow, fn, slowly)

    return plan


def _awaitable(fn: Callable[..., Any], value: Any) -> Any:
    if isawaitable(value):
        return value
    raise NotAwaitable(cannot_be_awaited(fn, value))
