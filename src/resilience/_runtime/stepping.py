"""
A policy that does not write its success path out takes part in generated code all the same, by its step.

The code of the policies around it calls a function, made here, which runs the step as a flow. When that asks
for what is inside it, the code of the policies inside makes the call. Whatever else the step wants, to wait
or to call again, a driver does as for any flow.
"""

from collections.abc import Callable
from typing import Any

from resilience._runtime import drive
from resilience._runtime.epoch import epoch
from resilience._runtime.flow import PLAIN, Call, Flow, Generated, Inner
from resilience._runtime.hot import Hot
from resilience._runtime.inside import value_or_ended
from resilience._runtime.policy import Policy, Step
from resilience._runtime.replay import outcome_of
from resilience.deadline import Block, until_of
from resilience.deadline import _innermost as block
from resilience.outcome import CallContext, Outcome

Hots = list[tuple[Policy, Hot]]


def parted(hots: Hots) -> tuple[Hots, Policy | None, Hots]:
    """Return the policies around the first that has no statements, that one, and those inside it."""
    for place, (policy, hot) in enumerate(hots):
        if hot.step is not None:
            return hots[:place], policy, hots[place + 1 :]
    return hots, None, []


def context_here() -> CallContext:
    """Return what is known of a call that is made here: the deadline in force."""
    around = block.get()
    return PLAIN if around is None else CallContext(deadline=until_of(around))


class Begun(Call):
    """
    A call at a step, begun by generated code.

    Attributes:
        around: The block in which it has begun.
        known: What was known of it then.
        is_new: Whether the step has not asked for what is inside it.
        is_driven: Whether a driver runs its flow.

    """

    __slots__ = ("around", "is_driven", "is_new", "known")

    around: Block | None
    known: CallContext
    is_new: bool
    is_driven: bool


def _begun(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Begun:
    around = block.get()
    known = PLAIN if around is None else CallContext(deadline=until_of(around))
    call = Begun(fn, args, kwargs, known)
    call.around, call.known = around, known
    call.is_new, call.is_driven = True, False
    return call


def run_of(
    step: Step,
    fn: Callable[..., Any],
    run: Callable[..., Any],
    inner: Inner,
    made_in: int,
    *,
    is_async: bool,
) -> Callable[..., Any]:
    """
    Return what makes a call through *step*: an inner function, which returns `Ended` where that has failed.

    Args:
        step: Runs the policy.
        fn: The user's function.
        run: Generated from what is inside the policy; an inner function.
        inner: The same as a flow.
        made_in: The epoch of *run*.
        is_async: Whether *fn* is a coroutine function.

    """

    def inside(call: Call) -> Flow:
        # A further attempt, or what the step has changed, is no matter for code; nor is what is out of date.
        if (
            type(call) is not Begun
            or not call.is_new
            or call.context is not call.known
            or call.fn is not fn
            or block.get() is not call.around
            or made_in != epoch.n
        ):
            outcome: Outcome[Any] = yield from inner(call)
            return outcome
        call.is_new = False
        outcome = yield Generated(call, run) if call.is_driven else call
        return outcome

    def stepped(*args: Any, **kwargs: Any) -> Any:
        call = _begun(fn, args, kwargs)
        flow, reply = step(call, inside), None
        try:
            try:
                command = flow.send(None)
            except StopIteration as stop:
                reply = stop.value
            else:
                call.is_driven = True
                resume: Callable[[Any], Any] = flow.send
                try:
                    if command is call and not call.is_new:  # else it is the call of the function
                        reply = outcome_of(run(*call.args, **call.kwargs))
                    else:
                        reply = drive.perform(command)
                except BaseException as error:  # noqa: BLE001  # thrown into the flow, which lets it pass
                    reply, resume = error, flow.throw
                reply = drive.result(flow, reply, resume)
            return _ended(reply)
        except BaseException:
            _close(flow)
            raise
        finally:
            del reply  # no cycle: frame -> error -> traceback -> frame

    if not is_async:
        return stepped

    from resilience._runtime import adrive  # noqa: PLC0415  # imported with the first async function

    async def astepped(*args: Any, **kwargs: Any) -> Any:
        call = _begun(fn, args, kwargs)
        flow, reply = step(call, inside), None
        try:
            try:
                command = flow.send(None)
            except StopIteration as stop:
                reply = stop.value
            else:
                call.is_driven = True
                resume: Callable[[Any], Any] = flow.send
                try:
                    if command is call and not call.is_new:  # else it is the call of the function
                        reply = outcome_of(await run(*call.args, **call.kwargs))
                    else:
                        reply = await adrive.perform(command)
                except BaseException as error:  # noqa: BLE001  # thrown into the flow, which lets it pass
                    reply, resume = error, flow.throw
                reply = await adrive.result(flow, None, reply, resume)
            return _ended(reply)
        except BaseException:
            _close(flow)
            raise
        finally:
            del reply

    return astepped


def _close(flow: Flow) -> None:
    """Let *flow*, interrupted between two steps, give back what it still holds."""
    if not hasattr(flow, "close"):
        msg = f"a step must be a generator function, and not return {flow!r} at once"
        raise TypeError(msg) from None
    flow.close()


def _ended(outcome: Outcome[Any]) -> Any:
    """Return what an inner function returns whose call had that *outcome*, which a user's step may not be."""
    if not isinstance(outcome, Outcome):
        msg = f"a step must return an Outcome, got {outcome!r}"
        raise TypeError(msg)
    return value_or_ended(outcome)
