"""
What generated code goes by when a call is not plain success.

Before anything was taken, the call is simply made the slow way, as flows. After the function failed, or a
policy refused, it is a `Replay`: policies take their part of what happened as far as that is plain. One that
calls again does so around code for what is inside it; else the flow of the others finds the tokens of what
they gave out, and the outcome.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from resilience._runtime import drive, wrap
from resilience._runtime.attempt import attempt_scope, current_attempt, innermost
from resilience._runtime.epoch import epoch
from resilience._runtime.flow import PLAIN, Call, Inner
from resilience._runtime.hot import Again, Hot, Progress, Visible
from resilience._runtime.inside import MakeInside, value_or_ended
from resilience._runtime.policy import Policy
from resilience._runtime.replay import Ended, Replay
from resilience.deadline import current_deadline
from resilience.outcome import Outcome


class Plan(Visible):
    """
    What one generation of a function's code knows of its policies.

    Args:
        hots: The policies, the first the outermost, and their statements.
        flow: The flow of a call.
        fn: The function.
        slow: Makes a call the slow way.
        made_in: The epoch in which the statements were asked for.
        make_inside: Makes what is inside the policy that calls again; None if that is nobody here.
        step: The policy inside them that has no statements, or None.

    Attributes:
        policies: The policies, the first the outermost.
        hots: Their statements.
        is_inner: Whether its code makes the further attempts of a policy around them.
        step: The policy inside them that has no statements, and in whose flow is all else; or None.
        code: Its code, weakly, if that looks it up.

    """

    is_inner: ClassVar[bool] = False

    __slots__ = (
        "_again", "_driven", "_ended", "_flow", "_fn", "_inner", "_made_in", "_make_inside", "_place",
        "_slow", "code", "hots", "policies", "step",
    )  # fmt: skip

    def __init__(
        self,
        hots: list[tuple[Policy, Hot]],
        flow: Inner,
        fn: Callable[..., Any],
        slow: Callable[..., Any],
        made_in: int = -1,
        make_inside: MakeInside | None = None,
        step: Policy | None = None,
    ) -> None:
        self.policies = tuple(policy for policy, _ in hots)
        self.hots = tuple(hot for _, hot in hots)
        self._flow, self._fn, self._slow = flow, fn, slow
        # No method of its own, whose frame would know the error that passes through.
        self._ended: Callable[[Outcome[Any]], Any] = value_or_ended if self.is_inner else drive.unwrap
        self._made_in, self._make_inside = made_in, make_inside
        self.step = step
        self.code: object = None
        self._place = -1  # that of the policy whose further attempts need no flow, once that is known
        self._again: Again
        self._inner: Callable[..., Any]
        self._driven: Callable[..., Any]

    def replayed(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go on with a call whose first attempt has failed."""
        place = replay.place
        # A flow knows what a deadline leaves time for; and a good value is a matter for its policies.
        if (
            replay.deadline is not None
            or replay.error is None
            or (place != self._place and not self._knows_inside(place))
        ):
            return self._ended(drive.run(self._flow(self._request(replay, args, kwargs))))
        progress, value = self._again(replay.tokens, place, replay.outcome, replay.began), None
        try:
            while (delay := progress.delay) is not None:
                if delay > 0:
                    drive.sleep(delay)
                context = progress.begin()
                if context is None:
                    break
                outer = innermost.get()
                try:
                    innermost.set(context)
                    # Code of a former epoch is out of date; a flow follows what has changed.
                    run = self._inner if self._made_in == epoch.n else self._driven
                    value = run(*args, **kwargs)
                    innermost.set(outer)
                except BaseException:
                    # Interrupted on the way out, too: later calls are no attempts of this one.
                    innermost.set(outer)
                    raise
                if type(value) is not Ended:
                    progress.ended_well()
                    if place == 0:  # nobody stands around it
                        replay.tokens = None
                        return value
                    replay.tokens[place] = None
                    break
                progress.ended(value.outcome)
            is_over = self._is_settled(replay, progress, value)
        finally:
            del progress, value  # no cycle: error -> traceback -> frame that knows the error
        if is_over:
            return self._ended(replay.over())
        return self._ended(drive.run(self._flow(self._request(replay, args, kwargs))))

    async def areplayed(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do as `replayed` does, in this task."""
        from resilience._runtime import adrive  # noqa: PLC0415  # imported with the first async function

        place = replay.place
        if (
            replay.deadline is not None
            or replay.error is None
            or (place != self._place and not self._knows_inside(place))
        ):
            return self._ended(await adrive.run(self._flow(self._request(replay, args, kwargs))))
        progress, value = self._again(replay.tokens, place, replay.outcome, replay.began), None
        try:
            while (delay := progress.delay) is not None:
                # The first time at once, if that is what was asked for. Later it waits even then, so that a
                # function which always fails at once leaves an event loop time for others.
                if delay > 0 or not progress.is_first:
                    await adrive.sleep(delay)
                context = progress.begin()
                if context is None:
                    break
                scope = attempt_scope(context)
                try:
                    with scope:
                        run = self._inner if self._made_in == epoch.n else self._driven
                        value = await run(*args, **kwargs)
                except BaseException:
                    scope.__exit__(None, None, None)
                    raise
                if type(value) is not Ended:
                    progress.ended_well()
                    if place == 0:
                        replay.tokens = None
                        return value
                    replay.tokens[place] = None
                    break
                progress.ended(value.outcome)
            is_over = self._is_settled(replay, progress, value)
        finally:
            del progress, value
        if is_over:
            return self._ended(replay.over())
        return self._ended(await adrive.run(self._flow(self._request(replay, args, kwargs))))

    def _knows_inside(self, place: int) -> bool:
        """
        Whether the policy at *place* calls again without a flow: see what is inside it, the first time.

        Not if it does not stand alone, or within a policy that bounds the time of all attempts together; nor
        if somebody judges values, or a policy inside has no statements, or once the code is out of date.
        """
        again, make, hots = self.hots[place].again, self._make_inside, self.hots
        if again is None or make is None or self.step is not None or self._made_in != epoch.n:
            return False
        if sum(hot.again is not None for hot in hots) > 1 or any(hot.limit for hot in hots[:place]):
            return False
        if any(hot.classify is not None for hot in hots):
            return False
        rest = list(zip(self.policies, hots, strict=True))[place + 1 :]
        inside = make(self.policies[place], rest, self._made_in)
        if inside is None:
            return False
        self._again, (self._inner, self._driven) = again, inside
        self._place = place  # last: another thread may come here meanwhile
        return True

    def _is_settled(self, replay: Replay, progress: Progress, value: Any) -> bool:
        """Let those around the policy that called again know what came of it; return whether all is over."""
        if progress.delay is None:
            progress.end()
            replay.tokens[self._place] = None
            outcome = progress.outcome
        else:
            outcome = Outcome(value)
        replay.go_on(outcome, self.policies[self._place])
        return outcome.error is not None and replay.settle()

    def _request(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        until = replay.deadline
        call = Call(self._fn, args, kwargs, PLAIN if until is None else replace(PLAIN, deadline=until))
        call.replay = replay
        return call

    def refused(self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Raise what a call raises that the policy at *place* refuses, or make it the slow way."""
        refuse = self.hots[place].refuse
        error = None if refuse is None else refuse()
        if error is None:
            return self._slow(*args, **kwargs)
        replay = None
        try:
            if place == 0 and not self.is_inner:  # nobody stands around it
                raise error
            replay = self._refused(place, tokens, error)
            if replay.settle():
                return self._ended(replay.over())
            return self.replayed(replay, args, kwargs)
        finally:
            if replay is not None:
                replay.close()
            del error, replay  # no cycle: frame -> error -> traceback -> frame

    async def arefused(
        self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do as `refused` does, in this task."""
        refuse = self.hots[place].refuse
        error = None if refuse is None else refuse()
        if error is None:
            return await self._slow(*args, **kwargs)
        replay = None
        try:
            if place == 0 and not self.is_inner:
                raise error
            replay = self._refused(place, tokens, error)
            if replay.settle():
                return self._ended(replay.over())
            if replay.deadline is None or self.is_inner:
                return await self.areplayed(replay, args, kwargs)
            request = self._request(replay, args, kwargs)
            return self._ended(await wrap.arun(self._flow(request), request))
        finally:
            if replay is not None:
                replay.close()
            del error, replay

    def _refused(self, place: int, tokens: list[Any], error: Exception) -> Replay:
        return Replay(self, [*tokens, None], error, None, self.policies[place], current_deadline())


class InnerPlan(Plan):
    """What code goes by that is inside a policy without statements. Who calls it keeps a deadline."""

    is_inner: ClassVar[bool] = True

    __slots__ = ()


class AttemptPlan(InnerPlan):
    """What code goes by that makes further attempts, inside the policy that calls again."""

    __slots__ = ()

    def _request(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = Call(self._fn, args, kwargs, current_attempt())
        call.replay = replay
        return call
